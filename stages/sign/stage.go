// Package sign is the stage that attests: a package's name and digest flow in, a verified Sigstore bundle with a publish
// attestation (CEP 27) and what it says flow out. An item that comes with a bundle, found in its channel or made before a
// segment cut, is verified and signed no second time.
//
// Nothing leaves the stage unverified: what was just signed goes through the same verification, against the trust root
// and the campaign's identity, that any consumer would do.
package sign

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/identity"
	"github.com/hallmark-attest/hallmark/pipeline"
)

// Concurrency is how many items are signed at once, where nothing else is said. It is far above the number of cores
// since a signature is mostly a wait for a log's next checkpoint.
const Concurrency = 256

// Signer makes bundles of statements: a *KeylessSigner. Safe for concurrent use.
type Signer interface {
	// Sign returns a bundle (v0.3 JSON) with the statement, signed and logged.
	Sign(ctx context.Context, statement []byte) (bundle []byte, err error)
	// Identity returns whom it signs as, the certificate's SAN and OIDC issuer: always the same.
	Identity(ctx context.Context) (identity, issuer string, err error)
}

// Verifier verifies bundles: an *attest.Verifier.
type Verifier interface {
	Verify(bundle []byte, s attest.Subject, p attest.Policy) (*attest.Result, error)
}

// Options are the campaign's.
type Options struct {
	// ChannelURL is the channel's public URL, the attestation's targetChannel; "" leaves the predicate null.
	ChannelURL string
	// Identity and Issuer are the campaign's signer: the certificate's SAN and its OIDC issuer, exactly. Both are required.
	Identity, Issuer string
}

// Stage signs. It is safe for concurrent use.
type Stage struct {
	signer   Signer
	verifier Verifier
	options  Options
	policy   attest.Policy
}

// New makes the stage.
func New(s Signer, v Verifier, o Options) *Stage {
	return &Stage{signer: s, verifier: v, options: o, policy: Policy(o.ChannelURL, o.Identity, o.Issuer)}
}

// Policy is what an attestation must satisfy to be a campaign's own: made by its signer, exactly, and for its channel (any,
// if channelURL is "").
func Policy(channelURL, identity, issuer string) attest.Policy {
	return attest.Policy{Signers: []attest.Signer{{Identity: identity, Issuer: issuer}}, TargetChannel: channelURL}
}

// String implements pipeline.Stage.
func (*Stage) String() string { return "sign" }

// Run implements pipeline.Stage. It needs the item's Filename and Package.SHA256, and sets Bundle and Signature.
func (s *Stage) Run(ctx context.Context, it *pipeline.Item) error {
	subject := attest.Subject{Filename: it.Filename, SHA256: it.Package.SHA256}
	if len(it.Bundle) > 0 {
		return s.accept(it, subject)
	}
	// Asked before anything is logged: a log entry cannot be taken back. The answer is known after the first time.
	id, issuer, err := s.signer.Identity(ctx)
	if err != nil {
		return classify(err)
	}
	if id != s.options.Identity || issuer != s.options.Issuer {
		return s.mismatch(id, issuer)
	}
	statement, err := attest.Statement(it.Filename, it.Package.SHA256, s.options.ChannelURL)
	if err != nil {
		return refusedStatement(err)
	}
	bundle, err := s.signer.Sign(ctx, statement)
	if err != nil {
		return classify(err)
	}
	result, err := s.verifier.Verify(bundle, subject, s.policy)
	if err != nil {
		return s.unverified(bundle, err)
	}
	it.Bundle = bundle
	it.Signature = Signature(result)
	return nil
}

// accept verifies the bundle that an item came with: from the segment before, from the channel, or from whoever submitted it.
// Of an array, the first that holds is taken.
func (s *Stage) accept(it *pipeline.Item, subject attest.Subject) error {
	bundles := []json.RawMessage{it.Bundle}
	if attest.IsSidecar(it.Bundle) {
		all, err := attest.Split(it.Bundle)
		if err != nil {
			return refused(err)
		}
		bundles = all
	}
	var result *attest.Result
	var reasons []error
	for _, b := range bundles {
		r, err := s.verifier.Verify(b, subject, s.policy)
		if err == nil {
			result, it.Bundle = r, b
			break
		}
		reasons = append(reasons, err)
	}
	if result == nil {
		return refused(errors.Join(reasons...))
	}
	// Made by this pipeline before a cut, if it is the one that was described then; else somebody found it in the channel.
	found := it.Signature.Found || it.Signature.BundleSHA256 != result.BundleSHA256
	it.Signature = Signature(result)
	it.Signature.Found = found
	return nil
}

func refused(err error) error {
	return pipeline.Permanent("bundle.refused", "the item came with an attestation that does not hold; submit it again without",
		fmt.Errorf("verifying the attestation that came with the item: %w", err))
}

// Signature is what a verified bundle says, in the item's words.
func Signature(r *attest.Result) pipeline.Signature {
	s := pipeline.Signature{
		Identity: r.Identity, Issuer: r.Issuer, Claims: r.Claims,
		CertSHA256: r.CertSHA256, NotAfter: r.NotAfter,
		SignedAt: r.SignedAt, SignedAtBy: r.SignedAtBy,
		DSSESig: r.DSSESig, BundleSHA256: r.BundleSHA256, StatementSHA: r.StatementSHA256,
		TrustedRootSHA256: r.TrustedRootSHA256,
	}
	for _, e := range r.Log {
		s.Log = append(s.Log, pipeline.LogEntry{Origin: e.Origin, LogID: e.LogID, Index: e.Index, Kind: e.Kind})
	}
	return s
}

func (s *Stage) mismatch(id, issuer string) error {
	return pipeline.Fatal("identity.mismatch", "run with the campaign's identity, or start a campaign for this one",
		fmt.Errorf("this worker signs as %q (issuer %q), and the campaign's signer is %q (issuer %q)",
			id, issuer, s.options.Identity, s.options.Issuer))
}

// unverified says what it means that a bundle does not verify which was just made. Most reasons hold for every other
// package as well, and each try leaves a log entry behind: so the worker stops.
func (s *Stage) unverified(bundle []byte, err error) error {
	err = fmt.Errorf("verifying what was just signed: %w", err)
	switch attest.CodeOf(err) {
	case attest.CodeIdentityMismatch, attest.CodeIssuerMismatch:
		return pipeline.Fatal("identity.mismatch", "run with the campaign's identity, or start a campaign for this one", err)
	case attest.CodeClaimMissing, attest.CodeClaimMismatch, attest.CodePolicyChannel:
		return pipeline.Fatal("policy.refused", "the campaign's policy does not accept what this signer makes", err)
	case attest.CodePolicyEmpty, attest.CodePolicyInvalid:
		return pipeline.Fatal("policy.invalid", "a campaign needs a signer: an identity and an issuer", err)
	case attest.CodeCertificate:
		if made, inspectErr := attest.Inspect(bundle); inspectErr == nil && time.Now().After(made.NotAfter) {
			return pipeline.Alone("signature.expired", 0, err)
		}
	}
	return pipeline.Fatal("signature.unverifiable", hintTrust, err)
}

const hintTrust = "do the signing config and the trusted root belong to the same Sigstore?"

func refusedStatement(err error) error {
	hint := ""
	if e, ok := errors.AsType[*attest.Error](err); ok {
		hint = e.Hint
	}
	switch attest.CodeOf(err) {
	case attest.CodeFilename, attest.CodeDigest:
		return pipeline.Permanent("statement.refused", hint, fmt.Errorf("writing the statement: %w", err))
	}
	return pipeline.Fatal("channel.invalid", hint, fmt.Errorf("writing the statement: %w", err)) // the campaign's channel URL
}

// classify says what the engine does about a signer's error.
func classify(err error) error {
	switch {
	case errors.Is(err, ErrIdentityChanged):
		return pipeline.Fatal("identity.mismatch", "a campaign has one signer: run with its identity", err)
	case errors.Is(err, ErrUntrusted):
		return pipeline.Fatal("signature.unverifiable", hintTrust, err)
	case errors.Is(err, identity.ErrNoIdentity):
		return pipeline.Fatal("identity.missing", "give an identity token, or run where there is one", err)
	case errors.Is(err, identity.ErrExpired):
		return pipeline.Fatal("identity.expired", "give a new token; a token file is read anew for every certificate", err)
	case errors.Is(err, identity.ErrMalformed):
		return pipeline.Fatal("identity.malformed", "the token must be a JSON Web Token", err)
	case errors.Is(err, identity.ErrRefused):
		return pipeline.Fatal("identity.refused", "the identity provider gives this job no token", err)
	case errors.Is(err, errOutlived):
		return pipeline.Alone("identity.outlived", 0, err)
	case errors.Is(err, identity.ErrUnavailable):
		return pipeline.Transient("identity.unavailable", 0, err)
	case errors.Is(err, ErrOutsideValidity):
		return pipeline.Alone("signature.expired", 0, err)
	}
	e, ok := errors.AsType[*UpstreamError](err)
	switch {
	case !ok:
		return err // the context's or the budget's; an unforeseen one counts as transient too
	case e.Temporary():
		return pipeline.Transient(e.Service+".unavailable", e.RetryAfter, err)
	case e.Status == http.StatusConflict:
		return pipeline.Alone(e.Service+".conflict", 0, err)
	case e.Service == serviceFulcio && (e.Status == http.StatusBadRequest || e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden):
		return pipeline.Fatal("identity.refused", "the certificate authority does not take this token: are its issuer and audience right, and is it fresh?", err)
	}
	return pipeline.Fatal(e.Service+".refused", "is the signing config right?", err)
}
