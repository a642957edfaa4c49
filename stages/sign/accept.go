package sign

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/pipeline"
)

// The causes for which what an item came with sets it aside.
const (
	CauseRefused   = "bundle.refused"           // an attestation does not verify, or the policy does not accept its signer
	CauseUnnamed   = "bundle.predicate-type"    // the policy does not name the attestation's predicate type
	CauseNoPlace   = "bundle.no-place"          // the channel takes one attestation for a package, and there are more
	CauseTooMuch   = "bundle.too-large"         // more than an item carries
	CauseMissing   = "attestation.missing"      // nothing is signed, and there is no publish attestation
	CauseRequiring = "policy.predicate-missing" // a predicate type that the policy requires is not there
)

// attestation is a verified bundle.
type attestation struct {
	bundle pipeline.Bundle
	result *attest.Result
	found  bool // it was in the channel already
}

// accepted is what an item came with and has been verified.
type accepted struct {
	publish *attestation // nil: to be signed
	riders  []attestation
}

// accept verifies what the item came with: the bundle that was found in the channel or made before a cut, the riders that
// were, and what the submitter brought. Of several publish attestations the first that was brought is the item's, and the
// others ride along.
func (s *Stage) accept(ctx context.Context, it *pipeline.Item, subject attest.Subject) (got accepted, err error) {
	if n := it.AttestationBytes(); n > pipeline.MaxAttestations {
		return got, tooMuch(fmt.Errorf("the item came with %d bytes of attestations, more than %d", n, pipeline.MaxAttestations))
	}
	if n := len(it.Brought) + len(it.Riders); n > pipeline.MaxRiders+1 {
		return got, tooMuch(fmt.Errorf("the item came with %d attestations, more than %d", n, pipeline.MaxRiders+1))
	}
	seen := map[string]bool{}
	verify := func(b pipeline.Bundle, what string) (*attest.Result, error) {
		r, err := s.verifier.VerifyAnyLive(ctx, b, subject, s.policy)
		if err != nil {
			return nil, refused(fmt.Errorf("verifying %s: %w", what, err))
		}
		return r, nil
	}
	var had *attestation // the bundle that the item has already
	if len(it.Bundle) > 0 {
		r, err := verify(it.Bundle, "the attestation that came with the item")
		if err != nil {
			return got, err
		}
		if r.PredicateType != attest.PredicateType {
			return got, refused(fmt.Errorf("the item's attestation is of the type %s", r.PredicateType))
		}
		// Made by this pipeline before a cut, if it is the one that was described then; else somebody found it in the channel.
		had = &attestation{it.Bundle, r, it.Signature.Found || it.Signature.BundleSHA256 != r.BundleSHA256}
	}
	for i, b := range it.Brought {
		r, err := verify(b, fmt.Sprintf("attestation %d of %d that was brought along", i+1, len(it.Brought)))
		if err != nil {
			return got, err
		}
		a := attestation{b, r, had != nil && had.found && had.result.BundleSHA256 == r.BundleSHA256}
		switch {
		case seen[r.BundleSHA256]: // the same one twice
		case r.PredicateType == attest.PredicateType && got.publish == nil:
			got.publish = &a
		default:
			got.riders = append(got.riders, a)
		}
		seen[r.BundleSHA256] = true
	}
	if got.publish == nil {
		got.publish = had
	}
	for i, rider := range it.Riders {
		r, err := verify(rider.Bundle, fmt.Sprintf("rider %d of %d", i+1, len(it.Riders)))
		if err != nil {
			return got, err
		}
		if !seen[r.BundleSHA256] {
			got.riders = append(got.riders, attestation{bundle: rider.Bundle, result: r})
		}
		seen[r.BundleSHA256] = true
	}
	if n := len(got.riders); n > 0 && s.options.Alone {
		return got, pipeline.Permanent(CauseNoPlace, "publish to a directory or a bucket, or leave the other attestations out",
			fmt.Errorf("a channel on a server takes one attestation for a package, and %d would ride along", n))
	} else if n > pipeline.MaxRiders {
		return got, tooMuch(fmt.Errorf("%d attestations would ride along, more than %d", n, pipeline.MaxRiders))
	}
	return got, nil
}

// complete asks for an attestation of each predicate type that the policy requires, but for the publish attestation, which
// is made where it is missing.
func (s *Stage) complete(got accepted) error {
	required, _ := s.policy.PredicateTypes()
	for _, t := range required {
		if t != attest.PredicateType && !slices.ContainsFunc(got.riders, func(a attestation) bool { return a.result.PredicateType == t }) {
			return pipeline.Permanent(CauseRequiring, "bring an attestation of this type along, by a signer whom the policy accepts for it",
				fmt.Errorf("the policy requires an attestation of the type %s, and there is none", t))
		}
	}
	return nil
}

// warnings are reasons for doubt that the policy lets pass.
func (a accepted) warnings() []string {
	list := slices.Clone(a.publish.result.Warnings)
	for _, r := range a.riders {
		list = append(list, r.result.Warnings...)
	}
	return list
}

func refused(err error) error {
	if attest.CodeOf(err) == attest.CodePredicateNotAllowed {
		return pipeline.Permanent(CauseUnnamed, "name the predicate type and its signers in the policy's predicates, or leave the attestation out", err)
	}
	hint := "the item came with an attestation that does not hold; submit it again without"
	if e, ok := errors.AsType[*attest.Error](err); ok && e.Hint != "" {
		hint += ". " + e.Hint
	}
	return pipeline.Permanent(CauseRefused, hint, err)
}

func tooMuch(err error) error {
	return pipeline.Permanent(CauseTooMuch, "leave out attestations that need not travel with the package", err)
}
