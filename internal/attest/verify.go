package attest

import (
	"errors"
	"fmt"
	"slices"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"github.com/sigstore/sigstore-go/pkg/verify"
)

// Verifier verifies bundles against one trust root, or each bundle against the one that a LiveTrust has at the time. It is
// safe for concurrent use; build it once.
type Verifier struct {
	live *LiveTrust // if there is one, the other fields are those of its current verifier

	trust    *TrustRoot
	sigstore *verify.Verifier
	scts     bool // whether certificates need a signed certificate timestamp
}

// NewVerifier builds a verifier. It asks of every bundle at least one verified log entry and at least one verified time
// (RFC 3161, or the log's integrated time), and of its certificate a signed certificate timestamp if the trust root has
// certificate transparency logs. A trust root that could never verify anything is refused with CodeTrustUnusable.
func NewVerifier(trust *TrustRoot) (*Verifier, error) {
	if trust == nil || trust.Material == nil {
		return nil, refuse(CodeTrustUnusable, errors.New("there is no trust root"), "")
	}
	m := trust.Material
	switch {
	case len(m.FulcioCertificateAuthorities()) == 0:
		return nil, refuse(CodeTrustUnusable, errors.New("the trust root has no certificate authority"), "")
	case len(m.RekorLogs()) == 0:
		return nil, refuse(CodeTrustUnusable, errors.New("the trust root has no transparency log"), "")
	}
	v := &Verifier{trust: trust, scts: len(m.CTLogs()) > 0}
	options := []verify.VerifierOption{
		verify.WithTransparencyLog(1),
		verify.WithObserverTimestamps(1),
		// The statement is read here, strictly; what sigstore-go makes of it is not used.
		verify.WithoutStatementPredicate(),
	}
	if v.scts {
		options = append(options, verify.WithSignedCertificateTimestamps(1))
	}
	var err error
	if v.sigstore, err = verify.NewVerifier(m, options...); err != nil {
		return nil, fmt.Errorf("building the Sigstore verifier: %w", err)
	}
	return v, nil
}

// Verify checks that bundle is a publish attestation (CEP 27, "Verifying") of the package s by a signer that the policy
// allows, in this order: policy and arguments, form of the bundle, log, time, certificate, signature, signer, claims,
// statement, target channel. It is the first of them that fails which gives the code of the *Error that is returned.
//
// Bundles of all versions up to v0.3 are read. A further timestamp or log entry that the trust root cannot verify does no
// harm as long as one can.
func (v *Verifier) Verify(bundle []byte, s Subject, p Policy) (r *Result, err error) {
	defer recovered(&r, &err)
	return v.now().verify(bundle, s, p)
}

// VerifyAny is Verify for an attestation of whichever predicate type the policy names, required or extra, by that type's
// own signers: for what came with a package. Result.PredicateType says which it is. Since a type has its own signers, the
// form of the statement and its type come before the signer here; a type that the policy does not name is refused with
// CodePredicateNotAllowed.
//
// A publish attestation is verified as Verify does it. Of other types the in-toto statement is: one of its subjects has the
// package's SHA-256, whatever that subject's name is. What such a predicate says is not looked at.
func (v *Verifier) VerifyAny(bundle []byte, s Subject, p Policy) (r *Result, err error) {
	defer recovered(&r, &err)
	return v.now().verifyAny(bundle, s, p)
}

// recovered turns a panic into a refusal. The parsers here are foreign and read foreign bytes. They have not been seen to
// panic, but one bundle must never take down a worker with all its items.
func recovered(r **Result, err *error) {
	if cause := recover(); cause != nil {
		*r, *err = nil, refuse(CodeBundleMalformed, fmt.Errorf("verifying the bundle panicked: %v", cause), "please report this, with the bundle")
	}
}

func (v *Verifier) verify(bundle []byte, s Subject, p Policy) (*Result, error) {
	c, err := p.ready(s)
	if err != nil {
		return nil, err
	}
	if _, ok := c.rule(PredicateType); !ok {
		return nil, errNotPublish()
	}
	e, err := parseBundle(bundle)
	if err != nil {
		return nil, err
	}
	return v.verifyPublish(e, s, p, c)
}

func (v *Verifier) verifyAny(bundle []byte, s Subject, p Policy) (*Result, error) {
	c, err := p.ready(s)
	if err != nil {
		return nil, err
	}
	e, err := parseBundle(bundle)
	if err != nil {
		return nil, err
	}
	return v.verifyEntity(e, s, p, c)
}

// ready compiles the policy and checks all that can be known to be wrong before there is a bundle.
func (p Policy) ready(s Subject) (compiled, error) {
	c, err := p.compile()
	if err != nil {
		return nil, err
	}
	if p.TargetChannel == "" && (p.Channel == ChannelRequire || p.Channel == ChannelWarn) {
		return nil, refuse(CodePolicyChannel, errors.New("the policy compares the target channel, and nobody says which channel this is"),
			"name the channel, in the policy or beside it; or let the policy ignore it")
	}
	return c, s.check()
}

// verifyEntity verifies a bundle by the rule for the predicate type that it claims to have. That it really has that one is
// part of the verification: the type is in what is signed.
func (v *Verifier) verifyEntity(e *entity, s Subject, p Policy, c compiled) (*Result, error) {
	st, err := parseInToto(e.statement)
	if err != nil {
		return nil, err
	}
	rule, ok := c.rule(st.predicateType)
	if !ok {
		return nil, refuse(CodePredicateNotAllowed, fmt.Errorf("the policy does not name the predicate type %.200q", st.predicateType),
			"add it to the policy's extra predicate types, with its signers, if it is welcome")
	}
	if st.predicateType == PredicateType {
		return v.verifyPublish(e, s, p, c)
	}
	r, err := v.verifySigstore(e)
	if err != nil {
		return nil, err
	}
	if err := rule.check(r.Identity, r.Issuer, r.Claims); err != nil {
		return nil, err
	}
	name, err := st.match(s.SHA256)
	if err != nil {
		return nil, err
	}
	r.PredicateType, r.Subject = st.predicateType, Subject{Filename: name, SHA256: s.SHA256}
	r.Verified = true
	return r, nil
}

func (v *Verifier) verifyPublish(e *entity, s Subject, p Policy, c compiled) (*Result, error) {
	rule, _ := c.rule(PredicateType)
	r, err := v.verifySigstore(e)
	if err != nil {
		return nil, err
	}
	if err := rule.check(r.Identity, r.Issuer, r.Claims); err != nil {
		return nil, err
	}
	if err := r.checkStatement(s, p); err != nil {
		return nil, err
	}
	r.Verified = true
	return r, nil
}

// verifySigstore does what Sigstore alone can decide: that this statement was signed by the holder of this certificate at
// a time when it was valid, and that this is logged. Whether that is the right signer and statement is not its concern.
func (v *Verifier) verifySigstore(e *entity) (*Result, error) {
	policy := verify.NewPolicy(verify.WithoutArtifactUnsafe(), verify.WithoutIdentitiesUnsafe())
	verified, err := v.sigstore.Verify(e.bundle, policy)
	if err != nil {
		return nil, v.diagnose(e, err)
	}
	r := &Result{TrustedRootSHA256: v.trust.SHA256}
	if err := e.fill(r); err != nil {
		return nil, err
	}
	for _, ts := range verified.VerifiedTimestamps {
		by := SignedAtRFC3161
		if ts.Type == "Tlog" {
			by = SignedAtIntegrated
		}
		if r.SignedAtBy == "" || ts.Timestamp.Before(r.SignedAt) {
			r.SignedAt, r.SignedAtBy = ts.Timestamp.UTC(), by
		}
	}
	if r.SignedAtBy == "" {
		return nil, refuse(CodeTimestamp, errors.New("no verified time"), "")
	}
	if r.Log, err = v.verifiedLog(e); err != nil {
		return nil, refuse(CodeLog, err, "")
	}
	return r, nil
}

// verifiedLog gives the bundle's verified log entries. sigstore-go says only that there are enough of them: if there is
// one entry, it is that one; of several, each is verified by itself.
func (v *Verifier) verifiedLog(e *entity) ([]LogEntry, error) {
	entries, err := e.bundle.TlogEntries()
	if err != nil {
		return nil, err
	}
	var list []LogEntry
	for _, entry := range entries {
		if len(entries) > 1 {
			if _, err := verify.VerifyTlogEntry(oneEntry{e.bundle, entry}, v.trust.Material, 1, true); err != nil {
				continue
			}
		}
		le, err := logEntry(entry)
		if err != nil {
			return nil, err
		}
		if err := e.checkBodyV2(entry); err != nil {
			return nil, err
		}
		if err := checkProofV2(entry); err != nil {
			return nil, err
		}
		list = append(list, le)
	}
	if len(list) == 0 {
		return nil, errors.New("no verified log entry")
	}
	return list, nil
}

// oneEntry is a bundle with a single one of its log entries.
type oneEntry struct {
	verify.SignedEntity
	entry *tlog.Entry
}

func (o oneEntry) TlogEntries() ([]*tlog.Entry, error) { return []*tlog.Entry{o.entry}, nil }

// diagnose finds out which of sigstore-go's checks failed, by doing them singly in sigstore-go's order. It only names
// the failure: nothing it finds can turn the refusal into an acceptance.
func (v *Verifier) diagnose(e *entity, failure error) *Error {
	m := v.trust.Material
	times, err := verify.VerifyTlogEntry(e.bundle, m, 1, true)
	if err != nil {
		return refuse(CodeLog, err, "the trust root has to know the log that the bundle names; older verifiers cannot read newer logs' entries")
	}
	stamps, failures, err := verify.VerifySignedTimestamp(e.bundle, m)
	if err != nil {
		return refuse(CodeTimestamp, err, "")
	}
	for _, ts := range stamps {
		times = append(times, *ts)
	}
	if len(times) == 0 {
		return refuse(CodeTimestamp, errors.Join(append([]error{failure}, failures...)...), "bundles from Rekor v2 need a timestamp of an authority in the trust root")
	}
	content, err := e.bundle.VerificationContent()
	if err != nil {
		return refuse(CodeCertificateMalformed, err, "")
	}
	cert := content.Certificate()
	if err, ok := errors.AsType[*Error](new(Result).setCertificate(cert)); ok {
		return err
	}
	if slices.ContainsFunc(times, func(ts root.Timestamp) bool {
		_, err := verify.VerifyLeafCertificate(ts.Time, cert, m)
		return err != nil
	}) {
		return refuse(CodeCertificate, fmt.Errorf("the certificate of %s to %s was not issued by an authority of the trust root, or had expired when it was used: %w",
			cert.NotBefore.UTC().Format("2006-01-02T15:04:05Z"), cert.NotAfter.UTC().Format("15:04:05Z"), failure), "was it signed with another Sigstore than this trust root's?")
	}
	if v.scts {
		chains, _ := verify.VerifyLeafCertificate(times[0].Time, cert, m)
		if err := verify.VerifySignedCertificateTimestamp(chains, 1, m); err != nil {
			return refuse(CodeCertificateSCT, err, "")
		}
	}
	sig, err := e.bundle.SignatureContent()
	if err != nil {
		return refuse(CodeBundleMalformed, err, "")
	}
	if err := verify.VerifySignature(sig, content, m); err != nil {
		return refuse(CodeSignature, err, "")
	}
	// What is left is that sigstore-go could not read the statement.
	return refuse(CodeStatementMalformed, failure, "")
}

// checkStatement compares the statement with the package and the policy (CEP 27, "Verifying").
func (r *Result) checkStatement(s Subject, p Policy) error {
	c, err := parseStatement(r.Statement)
	if err != nil {
		return err
	}
	r.PredicateType, r.Subject, r.TargetChannel = PredicateType, c.Subject, c.TargetChannel
	if c.Filename != s.Filename {
		return refuse(CodeStatementSubjectName, fmt.Errorf("the statement is about %.300q, not %q", c.Filename, s.Filename), "the bundle belongs to another package")
	}
	if c.SHA256 != s.SHA256 {
		return refuse(CodeStatementDigestMismatch, fmt.Errorf("the statement is about a %s with sha256 %s, and this one has %s", s.Filename, c.SHA256, s.SHA256),
			"the package was built anew or changed after it was signed")
	}
	return r.checkTargetChannel(p)
}

func (r *Result) checkTargetChannel(p Policy) error {
	if p.TargetChannel == "" || p.Channel == ChannelIgnore {
		return nil
	}
	var mismatch error
	switch {
	case r.TargetChannel == nil:
		mismatch = fmt.Errorf("the statement names no channel, and %q is asked for", p.TargetChannel)
	case !sameChannel(*r.TargetChannel, p.TargetChannel):
		mismatch = fmt.Errorf("the statement is for the channel %.300q, and %q is asked for", *r.TargetChannel, p.TargetChannel)
	default:
		return nil
	}
	if p.Channel == ChannelWarn {
		r.Warnings = append(r.Warnings, mismatch.Error())
		return nil
	}
	return refuse(CodeStatementTargetChannel, mismatch, "a package that comes from a mirror, or was copied, names its first channel: then ignore the channel")
}
