// Package sign is the stage that attests: a package's name and digest flow in, with the attestations that were brought along;
// a verified Sigstore bundle with a publish attestation (CEP 27) and what it says flow out, with the verified attestations
// that ride along. An item that comes with a publish attestation, brought by its submitter, found in its channel or made
// before a segment cut, is signed no second time.
//
// Nothing leaves the stage unverified: what was just signed goes through the same verification, against the trust root
// and the campaign's policy, that any consumer would do. Nothing that was brought is dropped: what does not hold, or is
// of a kind that the policy does not name, sets the item aside.
package sign

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
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
	// Claims returns what else its certificate says, by the names of attest.Result.Claims.
	Claims(ctx context.Context) (map[string]string, error)
}

// Verifier verifies bundles: an *attest.Verifier.
type Verifier interface {
	VerifyLive(ctx context.Context, bundle []byte, s attest.Subject, p attest.Policy) (*attest.Result, error)
	VerifyAnyLive(ctx context.Context, bundle []byte, s attest.Subject, p attest.Policy) (*attest.Result, error)
}

// Options are the campaign's.
type Options struct {
	// ChannelURL is the channel's public URL, the attestation's targetChannel; "" leaves the predicate null.
	ChannelURL string
	// Identity and Issuer are the campaign's signer: the certificate's SAN and its OIDC issuer, exactly. Both are required
	// where there is no Policy; beside one, what is signed here is by this signer and accepted by the policy. Both "": by
	// whomever the policy accepts.
	Identity, Issuer string
	// Policy says whose attestations count, of those that items come with and of those that are made here. Nil stands for
	// Identity and Issuer, for the channel, and publish attestations alone.
	Policy *attest.Policy
	// NoSign means that nothing is signed: an item without a publish attestation is set aside.
	NoSign bool
	// Alone means that the channel takes one attestation for a package: an item to which others belong is set aside.
	Alone bool
	// Log gets what a policy lets pass with a warning. Default slog.Default().
	Log *slog.Logger
}

// Stage signs. It is safe for concurrent use.
type Stage struct {
	signer   Signer
	verifier Verifier
	options  Options
	policy   attest.Policy
	admitted atomic.Bool // the policy accepts what the signer's certificate says
}

// New makes the stage. The signer may be nil with Options.NoSign.
func New(s Signer, v Verifier, o Options) *Stage {
	st := &Stage{signer: s, verifier: v, options: o}
	if o.Policy != nil {
		st.policy = *o.Policy
	} else {
		st.policy = Policy(o.ChannelURL, o.Identity, o.Issuer)
	}
	if o.Log == nil {
		st.options.Log = slog.Default()
	}
	return st
}

// Policy is what an attestation must satisfy to be the own of a campaign without a policy file: a publish attestation made
// by its signer, exactly, and for its channel (any, if channelURL is "").
func Policy(channelURL, identity, issuer string) attest.Policy {
	return attest.Policy{Signers: []attest.Signer{{Identity: identity, Issuer: issuer}}, TargetChannel: channelURL}
}

// String implements pipeline.Stage.
func (*Stage) String() string { return "sign" }

// Run implements pipeline.Stage. It needs the item's Filename and Package.SHA256, and sets Bundle, Signature and Riders; what
// was Brought is one of them then. Everything that the item came with is verified before anything is signed: a log entry
// cannot be taken back. An item that is refused stays as it was.
func (s *Stage) Run(ctx context.Context, it *pipeline.Item) error {
	subject := attest.Subject{Filename: it.Filename, SHA256: it.Package.SHA256}
	got, err := s.accept(ctx, it, subject)
	if err != nil {
		return err
	}
	if err := s.complete(got); err != nil {
		return err
	}
	if got.publish == nil {
		if s.options.NoSign {
			return pipeline.Permanent(CauseMissing, "bring its bundle along, or run a campaign that signs",
				fmt.Errorf("nothing is signed in this campaign, and nobody brought a publish attestation of %s", it.Filename))
		}
		if got.publish, err = s.sign(ctx, it, subject); err != nil {
			return err
		}
	}
	for _, w := range got.warnings() {
		s.options.Log.WarnContext(ctx, "the policy lets an attestation pass", "file", it.Filename, "warning", w)
	}
	it.Bundle, it.Signature, it.Brought = got.publish.bundle, Signature(got.publish.result), nil
	it.Signature.Found = got.publish.found
	it.Riders = nil
	for _, r := range got.riders {
		it.Riders = append(it.Riders, pipeline.Rider{PredicateType: r.result.PredicateType, Identity: r.result.Identity, Issuer: r.result.Issuer,
			SHA256: r.result.BundleSHA256, Bundle: r.bundle})
	}
	return nil
}

// sign makes the publish attestation.
func (s *Stage) sign(ctx context.Context, it *pipeline.Item, subject attest.Subject) (*attestation, error) {
	// Asked before anything is logged. The answer is known after the first time.
	if err := s.admit(ctx); err != nil {
		return nil, err
	}
	statement, err := attest.Statement(it.Filename, it.Package.SHA256, s.options.ChannelURL)
	if err != nil {
		return nil, refusedStatement(err)
	}
	bundle, err := s.signer.Sign(ctx, statement)
	if err != nil {
		return nil, classify(err)
	}
	result, err := s.verifier.VerifyLive(ctx, bundle, subject, s.policy)
	if err != nil {
		return nil, s.unverified(bundle, err)
	}
	if !s.ours(result.Identity, result.Issuer) {
		return nil, s.mismatch(result.Identity, result.Issuer)
	}
	return &attestation{bundle: bundle, result: result}, nil
}

// admit says whether what the signer makes will be accepted.
func (s *Stage) admit(ctx context.Context) error {
	id, issuer, err := s.signer.Identity(ctx)
	if err != nil {
		return classify(err)
	}
	if !s.ours(id, issuer) {
		return s.mismatch(id, issuer)
	}
	if s.options.Policy == nil || s.admitted.Load() {
		return nil
	}
	claims, err := s.signer.Claims(ctx)
	if err != nil {
		return classify(err)
	}
	if err := s.policy.CheckSigner(id, issuer, claims); err != nil {
		return refusedSigner(err)
	}
	s.admitted.Store(true)
	return nil
}

// ours says whether this may sign here. With a policy and no signer of the campaign's, that is the policy's to say.
func (s *Stage) ours(identity, issuer string) bool {
	if s.options.Policy != nil && s.options.Identity == "" && s.options.Issuer == "" {
		return true
	}
	return identity == s.options.Identity && issuer == s.options.Issuer
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
	case attest.CodeIdentityMismatch, attest.CodeIssuerMismatch, attest.CodeClaimMissing, attest.CodeClaimMismatch, attest.CodePolicyChannel,
		attest.CodePolicyEmpty, attest.CodePolicyInvalid, attest.CodePredicateNotAllowed, attest.CodeStatementTargetChannel:
		return refusedSigner(err)
	case attest.CodeCertificate:
		if made, inspectErr := attest.Inspect(bundle); inspectErr == nil && time.Now().After(made.NotAfter) {
			return pipeline.Alone("signature.expired", 0, err)
		}
	}
	return pipeline.Fatal("signature.unverifiable", hintTrust, err)
}

// refusedSigner says what it means that the policy refuses what this worker makes: it is so for each package.
func refusedSigner(err error) error {
	switch attest.CodeOf(err) {
	case attest.CodeIdentityMismatch, attest.CodeIssuerMismatch:
		return pipeline.Fatal("identity.mismatch", "run with the campaign's identity, or start a campaign for this one", err)
	case attest.CodePolicyEmpty, attest.CodePolicyInvalid:
		return pipeline.Fatal("policy.invalid", "a campaign needs a signer: an identity and an issuer", err)
	}
	return pipeline.Fatal("policy.refused", "the campaign's policy does not accept what this signer makes", err)
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
