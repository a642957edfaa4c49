package attest

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
)

// Where Result.SignedAt comes from.
const (
	SignedAtRFC3161    = "rfc3161"    // a timestamp authority
	SignedAtIntegrated = "integrated" // a log's signed entry timestamp (Rekor v1)
)

// Result is what a bundle says. From Verify and Find everything in it is verified; from Inspect nothing is.
type Result struct {
	// Verified is true if the bundle was verified. Where it is false, the fields are claims of whoever made the bytes.
	Verified bool

	MediaType string            // the bundle's
	Identity  string            // the certificate's subject alternative name
	Issuer    string            // the OIDC issuer
	Claims    map[string]string // the certificate's further Fulcio extensions by short name; absent ones are left out

	CertSHA256          string // of the signing certificate, lower-case hex
	NotBefore, NotAfter time.Time

	SignedAt   time.Time // the earliest verified time; from Inspect the earliest claimed
	SignedAtBy string    // SignedAtRFC3161 or SignedAtIntegrated

	DSSESig           string // the envelope's signature, base64
	BundleSHA256      string // of the bundle's bytes without surrounding white space, lower-case hex
	StatementSHA256   string // lower-case hex
	TrustedRootSHA256 string // TrustRoot.SHA256; "" from Inspect

	Log []LogEntry // the verified entries; from Inspect all of them

	Statement     []byte  // the in-toto statement's bytes
	PredicateType string  // the statement's
	Subject       Subject // the package that the statement names; of another predicate type its subject with this digest
	TargetChannel *string // nil if the statement has none

	// Warnings are reasons for doubt that the policy lets pass.
	Warnings []string
	// Refused are the sidecar's earlier bundles that did not verify (Find only).
	Refused []Refused
}

// LogEntry is one entry in a transparency log.
type LogEntry struct {
	Origin string // the first line of the checkpoint; "" if there is none
	LogID  string // lower-case hex
	Index  int64
	Kind   string // "hashedrekord 0.0.2", "dsse 0.0.1", "intoto 0.0.2"
}

// Refused is a bundle of a sidecar that did not verify.
type Refused struct {
	Index int // its place in the sidecar, from 0
	Err   error
}

// setCertificate fills in what the certificate says.
func (r *Result) setCertificate(cert *x509.Certificate) error {
	sum, err := certificate.SummarizeCertificate(cert)
	if err != nil {
		return refuse(CodeCertificateMalformed, fmt.Errorf("the signing certificate: %w", err), "")
	}
	// Fulcio puts exactly one name in. Of several, one reader could take this and another that.
	if n := len(cert.URIs) + len(cert.EmailAddresses) + len(cert.DNSNames) + len(cert.IPAddresses); n > 1 {
		return refuse(CodeCertificateMalformed, fmt.Errorf("the signing certificate has %d subject alternative names, not one", n), "")
	}
	r.Identity, r.Issuer = sum.SubjectAlternativeName, sum.Issuer
	r.Claims = claims(sum.Extensions)
	r.CertSHA256 = hexSHA256(cert.Raw)
	r.NotBefore, r.NotAfter = cert.NotBefore.UTC(), cert.NotAfter.UTC()
	return nil
}

// Certified gives what a signing certificate says of its holder, as Result has it: for asking a policy before anything is
// signed. Nothing is verified. The error is CodeCertificateMalformed.
func Certified(cert *x509.Certificate) (identity, issuer string, claims map[string]string, err error) {
	var r Result
	if err := r.setCertificate(cert); err != nil {
		return "", "", nil, err
	}
	return r.Identity, r.Issuer, r.Claims, nil
}

// everyClaim names the Fulcio extensions 1.3.6.1.4.1.57264.1.9 to .22. The ones before are deprecated copies.
func everyClaim(e certificate.Extensions) map[string]string {
	return map[string]string{
		"buildSignerURI":                      e.BuildSignerURI,
		"buildSignerDigest":                   e.BuildSignerDigest,
		"runnerEnvironment":                   e.RunnerEnvironment,
		"sourceRepository":                    e.SourceRepositoryURI,
		"sourceRepositoryDigest":              e.SourceRepositoryDigest,
		"sourceRepositoryRef":                 e.SourceRepositoryRef,
		"sourceRepositoryIdentifier":          e.SourceRepositoryIdentifier,
		"sourceRepositoryOwner":               e.SourceRepositoryOwnerURI,
		"sourceRepositoryOwnerIdentifier":     e.SourceRepositoryOwnerIdentifier,
		"buildConfigURI":                      e.BuildConfigURI,
		"buildConfigDigest":                   e.BuildConfigDigest,
		"buildTrigger":                        e.BuildTrigger,
		"runInvocationURI":                    e.RunInvocationURI,
		"sourceRepositoryVisibilityAtSigning": e.SourceRepositoryVisibilityAtSigning,
	}
}

// claimNames are the names that Result.Claims may have, sorted.
func claimNames() []string {
	return slices.Sorted(maps.Keys(everyClaim(certificate.Extensions{})))
}

func claims(e certificate.Extensions) map[string]string {
	all := everyClaim(e)
	for name, value := range all {
		if value == "" {
			delete(all, name)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

func hexSHA256(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
