// Package attest is the material of attestations. In flow a package's file name, digest and channel, a Sigstore bundle's
// bytes, a trust root and a policy; out flow a CEP 27 statement to sign, or what a verified bundle says: who signed,
// when, where it is logged, and what for. Sidecars (CEP 50) flow in and out as bytes.
//
// The package signs nothing and, apart from PublicGood, opens no connection. Everything it reads that somebody else
// wrote is bounded in size and refused with an *Error that has a stable code.
package attest

import "errors"

// PredicateType is the predicate type of a publish attestation (CEP 27).
const PredicateType = "https://schemas.conda.org/attestations-publish-1.schema.json"

// StatementType is the _type of an in-toto statement.
const StatementType = "https://in-toto.io/Statement/v1"

// PayloadType is the DSSE payload type of an in-toto statement.
const PayloadType = "application/vnd.in-toto+json"

// BundleMediaType is the media type of the bundles that the project writes. Verification reads the older ones too.
const BundleMediaType = "application/vnd.dev.sigstore.bundle.v0.3+json"

// The greatest sizes, in bytes, that are read.
const (
	// MaxBundle bounds one bundle; a usual one has about 10 kB.
	MaxBundle = 1 << 20
	// MaxSidecar bounds a sidecar: rattler reads no more than this.
	MaxSidecar = 4 << 20
	// MaxPolicy bounds a policy file; one with a hundred signers has about 10 kB.
	MaxPolicy = 64 << 10
	// MaxTrustFile bounds a trusted root and a signing config; public-good's have 7 kB and 1 kB.
	MaxTrustFile = 1 << 20
)

// Code is the stable name of a reason for refusal: callers, logs and reports may rely on it.
type Code string

// The codes, in the order in which Verify checks.
const (
	CodeFilename Code = "input.filename" // the file name is not one that a channel can hold
	CodeDigest   Code = "input.digest"   // the digest is not 64 lower-case hex digits

	CodePolicyEmpty   Code = "policy.empty"   // no signer is allowed: an empty policy denies
	CodePolicyInvalid Code = "policy.invalid" // the policy itself is wrong
	CodePolicyChannel Code = "policy.channel" // it needs to know the channel and does not, or is another channel's

	CodeBundleTooLarge  Code = "bundle.too-large"
	CodeBundleMalformed Code = "bundle.malformed"
	CodeNoCertificate   Code = "bundle.no-certificate" // signed with a key, so it has no identity

	CodeEnvelopeMissing        Code = "envelope.missing" // a message signature, not an attestation
	CodeEnvelopePayloadType    Code = "envelope.payload-type"
	CodeEnvelopeSignatureCount Code = "envelope.signature-count"

	CodeLog                  Code = "log.not-verified"
	CodeTimestamp            Code = "timestamp.not-verified"
	CodeCertificate          Code = "certificate.not-trusted"
	CodeCertificateSCT       Code = "certificate.sct"
	CodeCertificateMalformed Code = "certificate.malformed"
	CodeSignature            Code = "signature.invalid"

	CodeIdentityMismatch Code = "policy.identity-mismatch"
	CodeIssuerMismatch   Code = "policy.issuer-mismatch"
	CodeClaimMissing     Code = "policy.claim-missing" // the certificate does not have what the policy asks for
	CodeClaimMismatch    Code = "policy.claim-mismatch"

	CodePredicateNotAllowed Code = "policy.predicate-type" // the policy does not name the attestation's type

	CodeStatementMalformed      Code = "statement.malformed"
	CodeStatementType           Code = "statement.type"
	CodeStatementPredicateType  Code = "statement.predicate-type"
	CodeStatementSubjectCount   Code = "statement.subject-count"
	CodeStatementSubjectName    Code = "statement.subject-name"
	CodeStatementDigestSet      Code = "statement.digest-set"
	CodeStatementDigestMismatch Code = "statement.digest-mismatch"
	CodeStatementPredicate      Code = "statement.predicate"
	CodeStatementTargetChannel  Code = "statement.target-channel"

	CodeChannel            Code = "channel.malformed"
	CodeChannelScheme      Code = "channel.scheme"
	CodeChannelCredentials Code = "channel.credentials"
	CodeChannelToken       Code = "channel.token"
	CodeChannelSubdir      Code = "channel.subdir"

	CodeTrustTooLarge  Code = "trust.too-large"
	CodeTrustMalformed Code = "trust.malformed"
	CodeTrustMediaType Code = "trust.media-type"
	CodeTrustUnusable  Code = "trust.unusable" // well formed, but nothing could be verified with it

	CodeSidecarTooLarge  Code = "sidecar.too-large"
	CodeSidecarMalformed Code = "sidecar.malformed"
	CodeSidecarDigest    Code = "sidecar.digest"      // attestations_sha256 is none, or other bytes came
	CodeSidecarNoMatch   Code = "sidecar.no-match"    // no bundle in it verifies
	CodeSidecarAbsent    Code = "sidecar.unavailable" // it is advertised, and is not there
	CodeSidecarMissing   Code = "sidecar.missing"     // it has no bundle of a predicate type that is required
)

// Error is a refusal: what was wrong (Code, Err) and what helps against it (Hint, which may be empty). It never
// contains a credential.
type Error struct {
	Code Code
	Err  error
	Hint string
}

// Error gives code and cause; the hint is for the caller to show.
func (e *Error) Error() string { return string(e.Code) + ": " + e.Err.Error() }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// CodeOf gives the code of the first *Error in err's tree, and "" if there is none.
func CodeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ""
}

func refuse(code Code, err error, hint string) *Error {
	return &Error{Code: code, Err: err, Hint: hint}
}
