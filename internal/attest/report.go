package attest

import (
	"errors"
	"fmt"
	"path/filepath"
)

// ReportPredicateType is the predicate type of the attestation of a campaign's report.
const ReportPredicateType = "https://github.com/hallmark-attest/hallmark/attestations/report/v1"

// ReportStatement gives the in-toto statement about a campaign's report: its one subject is the file filename, without a
// folder, with this SHA-256 (lower-case hex). The predicate sums the report up; it is what encodes to JSON.
func ReportStatement(filename, sha256hex string, predicate any) ([]byte, error) {
	if filename == "" || filename != filepath.Base(filename) {
		return nil, refuse(CodeFilename, fmt.Errorf("the report's name %q is no file name", filename), "")
	}
	if !isSHA256(sha256hex) {
		return nil, refuse(CodeDigest, errors.New("the digest is not 64 lower-case hex digits"), "")
	}
	st := struct {
		Type          string    `json:"_type"`
		Subject       []subject `json:"subject"`
		PredicateType string    `json:"predicateType"`
		Predicate     any       `json:"predicate"`
	}{StatementType, make([]subject, 1), ReportPredicateType, predicate}
	st.Subject[0].Name = filename
	st.Subject[0].Digest.SHA256 = sha256hex
	data, err := unescaped(st)
	if err != nil {
		return nil, fmt.Errorf("encoding the statement of %s: %w", filename, err)
	}
	return data, nil
}

// VerifyReport checks that bundle attests a campaign's report with this SHA-256 (lower-case hex), by this signer. What its
// predicate says is not looked at: the report itself is what is attested.
func (v *Verifier) VerifyReport(bundle []byte, sha256hex string, by Signer) (r *Result, err error) {
	defer recovered(&r, &err)
	p := Policy{Signers: []Signer{by}, Predicates: []Predicate{{Type: ReportPredicateType}}}
	c, err := p.compile()
	if err != nil {
		return nil, err
	}
	e, err := parseBundle(bundle)
	if err != nil {
		return nil, err
	}
	return v.now().verifyEntity(e, Subject{SHA256: sha256hex}, p, c)
}
