package stages

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/channel"
	"github.com/hallmark-attest/hallmark/internal/store"
	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/stages/server"
	"github.com/hallmark-attest/hallmark/stages/sign"
)

// prior finds what the channel has of a package already, so that nothing is signed, uploaded or published twice.
type prior struct {
	channel  *channel.Channel
	verifier *attest.Verifier
	campaign *pipeline.Campaign
}

// Find looks for the item's package in the channel. It returns
//   - nil, with nothing set, if the package is not there or carries no attestation of the campaign's signer;
//   - nil, with Bundle and Signature set, if it does but is not, or may not be, published and announced yet;
//   - a skip if it is published with these bytes, signed before the campaign began;
//   - a permanent error if the channel has other bytes under the name.
//
// What tells "done before" from "done by this campaign, in a run that was cut off before it could say so" is when it was
// signed: a campaign begins on a whole second, and signs nothing before (see pipeline.Campaign.Created).
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
	sidecar, ok, err := p.channel.Sidecar(ctx, pkg.Subdir, it.Filename)
	if err != nil {
		return upstream(fmt.Errorf("reading the sidecar of %s/%s: %w", pkg.Subdir, it.Filename, err))
	}
	if !ok {
		return nil
	}
	if !accepted(p.verifier, p.campaign, sidecar, it) {
		return nil // nothing of ours in it: sign, and add
	}
	sig := &it.Signature
	digest := sha256.Sum256(sidecar)
	if found.Record.SHA256 == pkg.SHA256 && found.Record.AttestationsSHA256 == hex.EncodeToString(digest[:]) &&
		sig.SignedAt.Before(p.campaign.Created) {
		return pipeline.Skip("channel.published", "already published with these bytes, signed by %s at %s",
			sig.Identity, sig.SignedAt.UTC().Format(time.RFC3339))
	}
	return nil
}

// accepted looks into a sidecar for an attestation of the item by the campaign's signer, and gives it to the item.
func accepted(v *attest.Verifier, c *pipeline.Campaign, sidecar []byte, it *pipeline.Item) bool {
	bundle, res, err := attest.Find(sidecar, v, attest.Subject{Filename: it.Filename, SHA256: it.Package.SHA256}, sign.Policy(c.ChannelURL, c.Identity, c.Issuer))
	if err != nil || res == nil {
		return false
	}
	it.Bundle = bundle
	it.Signature = sign.Signature(res)
	it.Signature.Found = true
	return true
}

// accept is accepted, for a channel's server.
func accept(p Parts) server.Accept {
	return func(sidecar []byte, it *pipeline.Item) bool { return accepted(p.Verifier, p.Campaign, sidecar, it) }
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
