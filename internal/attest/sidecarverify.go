package attest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Verdict is what became of one element of a sidecar.
type Verdict string

const (
	// VerdictAccepted: it verifies, and the policy names its predicate type.
	VerdictAccepted Verdict = "accepted"
	// VerdictRefused: it does not verify, by Err. It is as if it were not there.
	VerdictRefused Verdict = "refused"
	// VerdictIgnored: the policy does not name its predicate type, so it was not verified (CEP 50, "Attestation
	// Requirements": clients MAY ignore it). Err says so.
	VerdictIgnored Verdict = "ignored"
	// VerdictMalformed: it is no Sigstore bundle, which makes the whole sidecar unusable.
	VerdictMalformed Verdict = "malformed"
	// VerdictUnused: nothing was made of it, because another element is malformed.
	VerdictUnused Verdict = "unused"
)

// Element is one bundle of a sidecar. Its place means nothing (CEP 50, "Response Format").
type Element struct {
	Index   int             // from 0
	Bundle  json.RawMessage // its bytes as they stand in the sidecar
	Verdict Verdict
	// PredicateType is the statement's; it is verified if the verdict is VerdictAccepted, else what the statement claims,
	// and "" if there is none to read.
	PredicateType string
	// Extra is true if the policy lets this type ride along, rather than to require it.
	Extra  bool
	Result *Result // of an accepted one
	Err    error   // of any other; an *Error
}

// SidecarResult is what VerifySidecar found.
type SidecarResult struct {
	Elements []Element
	// Missing are the required predicate types of which no element was accepted, in the policy's order.
	Missing []string
}

// Accepted gives the first accepted element of a predicate type.
func (r SidecarResult) Accepted(predicateType string) (Element, bool) {
	i := slices.IndexFunc(r.Elements, func(e Element) bool { return e.Verdict == VerdictAccepted && e.PredicateType == predicateType })
	if i < 0 {
		return Element{}, false
	}
	return r.Elements[i], true
}

// VerifySidecar applies the policy to each bundle of a sidecar, by the rules for clients of CEP 50. The error is nil only
// if of each predicate type that the policy requires there is an element that verifies (see Verifier.VerifyAny); elements
// beside these that are refused or ignored change nothing, since anybody's attestation may be in a sidecar.
//
// A sidecar that is no array of one or more Sigstore bundles MUST NOT be used at all (CEP 50, "Client Requirements" 4): one
// element that is no bundle, or none of a version that is known here, or larger than MaxBundle, and the error is CodeSidecarMalformed, whatever
// the others are. A bundle that is no attestation (a signature over a file, or one without a certificate) is a bundle, and
// is only refused.
//
// Other errors are CodeSidecarTooLarge, those of the policy and of the subject, CodeSidecarMissing if there is no bundle
// at all of a required type, and CodeSidecarNoMatch, with the reason of each, if there are some and none verifies. The result has
// the elements wherever the sidecar could be split.
//
// Whoever fetched the sidecar MUST call CheckSidecar before.
func VerifySidecar(sidecar []byte, v *Verifier, s Subject, p Policy) (SidecarResult, error) {
	var r SidecarResult
	v = v.now()
	c, err := p.ready(s)
	if err != nil {
		return r, err
	}
	raw, err := Split(sidecar)
	if err != nil {
		return r, err
	}
	if len(raw) == 0 {
		return r, malformedSidecar(errors.New("it has no bundle, and a sidecar has one or more"))
	}
	entities, err := r.parse(raw)
	if err != nil {
		return r, err
	}
	for i := range r.Elements {
		v.judge(&r.Elements[i], entities[i], s, p, c)
	}
	return r, r.missing(c)
}

// parse fills in the elements, and gives the bundle of each that is an attestation.
func (r *SidecarResult) parse(raw []json.RawMessage) ([]*entity, error) {
	entities := make([]*entity, len(raw))
	var malformed []error
	for i, bytes := range raw {
		el := Element{Index: i, Bundle: bytes, Verdict: VerdictUnused}
		entities[i], el.Err = safely(parseBundle, bytes)
		switch code := CodeOf(el.Err); code {
		case "":
		case CodeBundleMalformed, CodeBundleTooLarge:
			el.Verdict = VerdictMalformed
			malformed = append(malformed, fmt.Errorf("element %d is no bundle: %w", i, el.Err))
		}
		r.Elements = append(r.Elements, el)
	}
	if malformed == nil {
		return entities, nil
	}
	err := malformedSidecar(errors.Join(malformed...))
	for i := range r.Elements {
		if el := &r.Elements[i]; el.Err == nil {
			el.Err = err
		}
	}
	return nil, err
}

// safely calls a parser of foreign bytes; see recovered.
func safely(parse func([]byte) (*entity, error), data []byte) (e *entity, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			e, err = nil, refuse(CodeBundleMalformed, fmt.Errorf("reading the bundle panicked: %v", cause), "please report this, with the bundle")
		}
	}()
	return parse(data)
}

func (v *Verifier) judge(el *Element, e *entity, s Subject, p Policy, c compiled) {
	el.Verdict = VerdictRefused
	if el.Err != nil {
		return
	}
	if st, err := parseInToto(e.statement); err == nil {
		el.PredicateType = st.predicateType
		rule, _ := c.rule(st.predicateType)
		el.Extra = rule.extra
	}
	func() {
		defer recovered(&el.Result, &el.Err)
		el.Result, el.Err = v.verifyEntity(e, s, p, c)
	}()
	switch CodeOf(el.Err) {
	case "":
		if el.Err == nil {
			el.Verdict = VerdictAccepted
		}
	case CodePredicateNotAllowed:
		el.Verdict = VerdictIgnored
	}
}

func (r *SidecarResult) missing(c compiled) error {
	var code Code
	var reasons []error
	for _, rule := range c {
		if rule.extra {
			continue
		}
		if _, ok := r.Accepted(rule.predicateType); ok {
			continue
		}
		r.Missing = append(r.Missing, rule.predicateType)
		why := CodeSidecarMissing
		reason := fmt.Errorf("the sidecar has no attestation of the type %s", rule.predicateType)
		// An element whose type cannot be read may have been meant to be this one.
		var refused []error
		for _, el := range r.Elements {
			if el.Verdict == VerdictRefused && (el.PredicateType == rule.predicateType || el.PredicateType == "") {
				refused = append(refused, fmt.Errorf("bundle %d: %w", el.Index, el.Err))
			}
		}
		if refused != nil {
			why = CodeSidecarNoMatch
			reason = fmt.Errorf("no attestation of the type %s in the sidecar verifies: %w", rule.predicateType, errors.Join(refused...))
		}
		if code == "" {
			code = why
		}
		reasons = append(reasons, reason)
	}
	if reasons == nil {
		return nil
	}
	return refuse(code, errors.Join(reasons...), "")
}

// CheckSidecar checks what was fetched against the attestations_sha256 of the package's record, before anything is parsed
// (CEP 50, "Client Requirements" 2 to 4): CodeSidecarDigest if the record's value is not 64 lower-case hex digits, or not
// the digest of these bytes; CodeSidecarTooLarge if there are more than MaxSidecar. Use CheckAttestationsSHA256 before the
// value becomes part of a URL.
func CheckSidecar(sidecar []byte, attestationsSHA256 string) error {
	if err := CheckAttestationsSHA256(attestationsSHA256); err != nil {
		return err
	}
	if len(sidecar) > MaxSidecar {
		return refuse(CodeSidecarTooLarge, fmt.Errorf("the sidecar has %d bytes, more than %d", len(sidecar), MaxSidecar), "")
	}
	if got := hexSHA256(sidecar); got != attestationsSHA256 {
		return refuse(CodeSidecarDigest, fmt.Errorf("the sidecar has sha256 %s, and the record advertises %s", got, attestationsSHA256),
			"the index and the sidecar do not belong together: read the index again")
	}
	return nil
}

// CheckAttestationsSHA256 refuses a record's attestations_sha256 that is not one, with CodeSidecarDigest.
func CheckAttestationsSHA256(value string) error {
	if !isSHA256(value) {
		return refuse(CodeSidecarDigest, fmt.Errorf("attestations_sha256 is %.80q, not 64 lower-case hex digits", value), "")
	}
	return nil
}
