package stages

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/channel"
	"github.com/hallmark-attest/hallmark/internal/prefix"
	"github.com/hallmark-attest/hallmark/internal/store"
	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/stages/server"
	"github.com/hallmark-attest/hallmark/stages/sign"
)

// prior finds what the channel has of a package already, so that nothing is signed, uploaded or published twice.
type prior struct {
	channel  *channel.Channel
	campaign *pipeline.Campaign
	counts   counting
}

// Find looks for the item's package in the channel. It returns
//   - nil, with nothing set, if the package is not there or carries no attestation that the campaign's policy accepts;
//   - nil, with Bundle and Signature set, if it carries a publish attestation that is, but is not, or may not be, published and
//     announced yet, or if an attestation that the item brings is not there;
//   - in either case with Riders: what is there of the other predicate types that the policy requires;
//   - a skip if it is published with these bytes and all that the policy requires, before the campaign began;
//   - a permanent error if the channel has other bytes under the name.
//
// What tells "done before" from "done by this campaign, in a run that was cut off before it could say so" is when it was
// signed: a campaign begins on a whole second, and signs nothing before (see pipeline.Campaign.Created). What was brought
// along was always signed before: then it is when the sidecar was last changed.
func (p *prior) Find(ctx context.Context, it *pipeline.Item) error {
	pkg := &it.Package
	found, err := p.channel.Find(ctx, pkg.Subdir, it.Filename)
	if err != nil {
		return upstream(fmt.Errorf("looking for %s/%s in the channel: %w", pkg.Subdir, it.Filename, err))
	}
	if !found.Exists {
		return nil
	}
	if found.ObjectSHA256 != pkg.SHA256 {
		return pipeline.Permanent("channel.conflict", "a published file is never overwritten: raise the build number and build again",
			fmt.Errorf("the channel has other bytes under %s/%s: sha256 %s, this package has %s", pkg.Subdir, it.Filename, found.ObjectSHA256, pkg.SHA256))
	}
	sidecar, modified, ok, err := p.channel.DatedSidecar(ctx, pkg.Subdir, it.Filename)
	if err != nil {
		return upstream(fmt.Errorf("reading the sidecar of %s/%s: %w", pkg.Subdir, it.Filename, err))
	}
	if !ok {
		return nil
	}
	elements, err := attest.Split(sidecar)
	if err != nil {
		return nil // the stage upload will say so
	}
	has := p.counts.look(elements, attest.Subject{Filename: it.Filename, SHA256: pkg.SHA256})
	brought := len(it.Brought)+len(it.Riders) > 0
	all := has.complete
	for _, b := range it.Brought {
		all = all && contains(elements, b)
	}
	for _, r := range it.Riders {
		all = all && contains(elements, r.Bundle)
	}
	if has.publish != nil { // else sign, and add
		it.Bundle = has.bundle
		it.Signature = sign.Signature(has.publish)
		it.Signature.Found = true
		before := has.publish.SignedAt.Before(p.campaign.Created)
		if brought {
			before = !modified.IsZero() && modified.Before(p.campaign.Created)
		}
		digest := sha256.Sum256(sidecar)
		if all && before && found.Record.SHA256 == pkg.SHA256 && found.Record.AttestationsSHA256 == hex.EncodeToString(digest[:]) {
			return pipeline.Skip("channel.published", "already published with these bytes, signed by %s at %s",
				has.publish.Identity, has.publish.SignedAt.UTC().Format(time.RFC3339))
		}
	}
	for _, r := range has.riders {
		if !it.Carries(r.Bundle) {
			it.Riders = append(it.Riders, r)
		}
	}
	if n := it.AttestationBytes(); n > pipeline.MaxAttestations {
		return pipeline.Permanent(sign.CauseTooMuch, "bring fewer attestations along",
			fmt.Errorf("with what the sidecar of %s/%s has, there are %d bytes of attestations, more than %d", pkg.Subdir, it.Filename, n, pipeline.MaxAttestations))
	}
	return nil
}

// counting says what of a sidecar counts: what the campaign's policy accepts (see Policy).
type counting struct {
	verifier *attest.Verifier
	policy   attest.Policy
}

// there is what a sidecar has that counts.
type there struct {
	bundle   pipeline.Bundle // with the publish attestation
	publish  *attest.Result  // nil: none
	riders   []pipeline.Rider
	complete bool // one of each predicate type that the policy requires
}

// look verifies elements of a sidecar until there is one of each predicate type that the policy requires, and a publish
// attestation. Elements that do not count are as if they were not there: anybody's attestation may be in a sidecar.
func (c counting) look(elements []json.RawMessage, s attest.Subject) (t there) {
	required, _ := c.policy.PredicateTypes()
	missing := map[string]bool{attest.PredicateType: true}
	for _, r := range required {
		missing[r] = true
	}
	for _, el := range elements {
		if len(missing) == 0 {
			break
		}
		r, err := c.verifier.VerifyAny(el, s, c.policy)
		if err != nil || !missing[r.PredicateType] {
			continue
		}
		delete(missing, r.PredicateType)
		if r.PredicateType == attest.PredicateType {
			t.bundle, t.publish = pipeline.Bundle(bytes.Clone(el)), r
			continue
		}
		t.riders = append(t.riders, pipeline.Rider{PredicateType: r.PredicateType, Identity: r.Identity, Issuer: r.Issuer,
			SHA256: r.BundleSHA256, Bundle: bytes.Clone(el)})
	}
	t.complete = len(missing) == 0
	return t
}

// accept is for the server of a channel: it gives the publish attestation that counts to the item. What was brought along
// must be there too: a server takes one attestation, together with the package, so that it cannot be added.
func (c counting) accept(sidecar []byte, it *pipeline.Item) bool {
	elements, err := attest.Split(sidecar)
	if err != nil {
		return false
	}
	has := c.look(elements, attest.Subject{Filename: it.Filename, SHA256: it.Package.SHA256})
	if has.publish == nil {
		return false
	}
	for _, b := range it.Brought {
		if held, _ := prefix.Held(sidecar, b); held == nil {
			return false
		}
	}
	it.Bundle = has.bundle
	it.Signature = sign.Signature(has.publish)
	it.Signature.Found = true
	return true
}

// acceptSigned is accept for an item whose bundle the server did not take since it has the package: another run of the
// campaign may have signed it. A bundle from before the campaign was brought along, and another one does not stand for it.
func (c counting) acceptSigned(created time.Time) server.Accept {
	return func(sidecar []byte, it *pipeline.Item) bool {
		if !it.Signature.Found && it.Signature.SignedAt.Before(created) {
			return false
		}
		return c.accept(sidecar, it)
	}
}

func contains(elements []json.RawMessage, b pipeline.Bundle) bool {
	b = bytes.TrimSpace(b)
	return slices.ContainsFunc(elements, func(el json.RawMessage) bool { return bytes.Equal(el, b) })
}

// upstream classifies what went wrong while the channel was read.
func upstream(err error) error {
	if errors.Is(err, store.ErrAuth) {
		return pipeline.Fatal("store.denied", "check the credentials for the channel's store and their rights", err)
	}
	if _, ok := errors.AsType[*channel.Malformed](err); ok {
		return pipeline.Permanent("channel.malformed", "an object of the channel cannot be read for what it has to be: look at it", err)
	}
	if _, ok := errors.AsType[*channel.Invalid](err); ok {
		return pipeline.Permanent("channel.invalid", "", err)
	}
	after, _ := store.Transient(err)
	return pipeline.Transient("store.unavailable", after, err)
}
