package provenance

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/strictjson"
)

// Verifier verifies bundles against one trust root, whoever signed them and whatever they are about; that is compared
// afterwards. What a bundle gave is kept, since many packages come from few sources.
type Verifier struct {
	logged *attest.Verifier
	trust  *attest.TrustRoot

	mu   sync.Mutex
	memo map[string]verified // by digest and form
}

const maxMemo = 4096

// evidence is what a bundle says, verified.
type evidence struct {
	identity, issuer string
	predicateType    string
	digests          []string // SHA-256 of the statement's subjects
	repository       string   // the certificate's source repository; "" if it has none
	logged           bool     // the log entry and the time were verified
}

type verified struct {
	e   evidence
	err error
}

// NewVerifier builds a verifier. The error is attest.NewVerifier's.
func NewVerifier(trust *attest.TrustRoot) (*Verifier, error) {
	v, err := attest.NewVerifier(trust)
	if err != nil {
		return nil, err
	}
	return &Verifier{logged: v, trust: trust, memo: map[string]verified{}}, nil
}

// anybody lets the cryptography decide alone. It never leaves this file: who it was is compared by Publisher.
func anybody(predicateType string) attest.Policy {
	return attest.Policy{
		Signers:    []attest.Signer{{IdentityRegexp: `.`, IssuerRegexp: `.`}},
		Predicates: []attest.Predicate{{Type: predicateType}},
	}
}

// verify verifies one bundle (draft CEP, "Minimum Verification" 3). The error is an *attest.Error.
func (v *Verifier) verify(b Bundle) (evidence, error) {
	key := fmt.Sprint(b.digest(), b.Unlogged)
	v.mu.Lock()
	m, ok := v.memo[key]
	v.mu.Unlock()
	if ok {
		return m.e, m.err
	}
	m.e, m.err = v.compute(b)
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.memo) >= maxMemo {
		clear(v.memo)
	}
	v.memo[key] = m
	return m.e, m.err
}

func (v *Verifier) compute(b Bundle) (e evidence, err error) {
	defer func() { // foreign parsers of foreign bytes: see attest.Verifier
		if cause := recover(); cause != nil {
			e, err = evidence{}, &attest.Error{Code: attest.CodeBundleMalformed, Err: fmt.Errorf("verifying the bundle panicked: %v", cause)}
		}
	}()
	claimed, err := attest.Inspect(b.Raw)
	if err != nil {
		return e, err
	}
	st, err := readStatement(claimed.Statement)
	if err != nil {
		return e, err
	}
	r := claimed
	if b.Unlogged {
		if err := v.verifyUnlogged(b.Raw); err != nil {
			return e, err
		}
	} else {
		// The subject is whatever the statement has first: whether it is this source is not the question yet.
		r, err = v.logged.VerifyAny(b.Raw, st.first, anybody(st.predicateType))
		// Nothing but the comparison with the subject comes after the cryptography: without a SHA-256 there is nothing to
		// compare, and the bundle is sound and about something else.
		if attest.CodeOf(err) == attest.CodeStatementDigestMismatch && len(st.digests) == 0 {
			r, err = claimed, nil
		}
		if err != nil {
			return e, err
		}
	}
	return evidence{
		identity: r.Identity, issuer: r.Issuer, repository: r.Claims["sourceRepository"],
		predicateType: st.predicateType, digests: st.digests, logged: !b.Unlogged,
	}, nil
}

// verifyUnlogged verifies all of a bundle but the log, and the time that only the log could prove: the certificate is
// checked as of its own beginning. That the key was used within the certificate's life is not proven so.
func (v *Verifier) verifyUnlogged(raw []byte) error {
	b := new(bundle.Bundle)
	if err := b.UnmarshalJSON(raw); err != nil {
		return &attest.Error{Code: attest.CodeBundleMalformed, Err: fmt.Errorf("reading the bundle: %w", err)}
	}
	content, err := b.VerificationContent()
	if err != nil {
		return &attest.Error{Code: attest.CodeCertificateMalformed, Err: err}
	}
	cert := content.Certificate()
	if cert == nil {
		return &attest.Error{Code: attest.CodeNoCertificate, Err: errors.New("the bundle has no certificate")}
	}
	chains, err := verify.VerifyLeafCertificate(cert.NotBefore, cert, v.trust.Material)
	if err != nil {
		return &attest.Error{Code: attest.CodeCertificate, Err: err, Hint: "was it signed with another Sigstore than this trust root's?"}
	}
	if len(v.trust.Material.CTLogs()) > 0 {
		if err := verify.VerifySignedCertificateTimestamp(chains, 1, v.trust.Material); err != nil {
			return &attest.Error{Code: attest.CodeCertificateSCT, Err: err}
		}
	}
	sig, err := b.SignatureContent()
	if err != nil {
		return &attest.Error{Code: attest.CodeBundleMalformed, Err: err}
	}
	if err := verify.VerifySignature(sig, content, v.trust.Material); err != nil {
		return &attest.Error{Code: attest.CodeSignature, Err: err}
	}
	return nil
}

// statement is what matters here of an in-toto statement.
type statement struct {
	predicateType string
	digests       []string
	first         attest.Subject
}

// placeholder is a subject for statements that have none with a SHA-256; the name has to have a package's form.
var placeholder = attest.Subject{Filename: "source-0-0.conda", SHA256: strings.Repeat("0", 64)}

func readStatement(data []byte) (st statement, err error) {
	malformed := func(format string, args ...any) (statement, error) {
		return statement{}, &attest.Error{Code: attest.CodeStatementMalformed, Err: fmt.Errorf(format, args...)}
	}
	o, err := strictjson.DecodeObject(data)
	if err != nil {
		return malformed("the statement: %w", err)
	}
	st.predicateType, _ = o["predicateType"].(string)
	if st.predicateType == "" {
		return statement{}, &attest.Error{Code: attest.CodeStatementPredicateType, Err: errors.New("the statement has no predicateType")}
	}
	subjects, _ := o["subject"].([]any)
	st.first = placeholder
	for i, s := range subjects {
		so, _ := s.(strictjson.Object)
		digest, ok := so["digest"].(strictjson.Object)
		if !ok {
			return malformed("subject %d of the statement has no digest", i+1)
		}
		hex, _ := digest["sha256"].(string)
		if !hexSHA256.MatchString(hex) {
			continue
		}
		if len(st.digests) == 0 {
			st.first.SHA256 = hex
			if name, _ := so["name"].(string); st.predicateType == attest.PredicateType {
				st.first.Filename = name // the only type whose subject's name package attest compares
			}
		}
		if !slices.Contains(st.digests, hex) {
			st.digests = append(st.digests, hex)
		}
	}
	return st, nil
}
