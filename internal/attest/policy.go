package attest

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Policy says whose attestations count, and for which channel.
//
// The zero Policy denies everything.
type Policy struct {
	// Signers are the allowed signers: one of them has to match. None allowed means that nothing verifies.
	Signers []Signer
	// TargetChannel is the channel that the statement has to name; "" asks for none.
	TargetChannel string
	// Channel is what happens if the statement does not name TargetChannel. The zero value requires it.
	Channel ChannelMode
}

// ChannelMode is how strictly a statement's targetChannel is compared (CEP 27, "Verifying": SHOULD match).
type ChannelMode string

const (
	// ChannelRequire refuses a statement that names another channel, or none.
	ChannelRequire ChannelMode = "require"
	// ChannelWarn accepts it with a warning in Result.Warnings.
	ChannelWarn ChannelMode = "warn"
	// ChannelIgnore accepts it: for mirrors.
	ChannelIgnore ChannelMode = "ignore"
)

// Signer matches a signing certificate. Exactly one of the identity fields and exactly one of the issuer fields are set.
type Signer struct {
	// Identity is the certificate's subject alternative name, exactly (cosign's --certificate-identity).
	Identity string `json:"identity,omitempty"`
	// IdentityRegexp is a Go regular expression that is found anywhere in the identity, as with cosign's
	// --certificate-identity-regexp: it is not anchored, so write ^ and $. Policy.Warnings names the ones without.
	IdentityRegexp string `json:"identityRegexp,omitempty"`
	// IdentityPrefix matches the identity itself and what continues it with "/" or "@":
	// https://github.com/org/repo matches .../org/repo/.github/workflows/a.yml@refs/heads/main, and not .../org/repo2.
	IdentityPrefix string `json:"identityPrefix,omitempty"`
	// Issuer is the OIDC issuer, exactly (cosign's --certificate-oidc-issuer).
	Issuer string `json:"issuer,omitempty"`
	// IssuerRegexp is as IdentityRegexp (cosign's --certificate-oidc-issuer-regexp).
	IssuerRegexp string `json:"issuerRegexp,omitempty"`
}

// String says whom the signer allows, for messages.
func (s Signer) String() string {
	var id, iss string
	switch {
	case s.Identity != "":
		id = fmt.Sprintf("%q", s.Identity)
	case s.IdentityPrefix != "":
		id = fmt.Sprintf("below %q", s.IdentityPrefix)
	default:
		id = fmt.Sprintf("matching /%s/", s.IdentityRegexp)
	}
	if s.Issuer != "" {
		iss = fmt.Sprintf("%q", s.Issuer)
	} else {
		iss = fmt.Sprintf("matching /%s/", s.IssuerRegexp)
	}
	return id + " by issuer " + iss
}

// Check says whether the policy can be used: CodePolicyEmpty, CodePolicyInvalid, or nil.
func (p Policy) Check() error {
	_, err := p.compile()
	return err
}

// Warnings names what is allowed but probably not meant: regular expressions without anchors.
func (p Policy) Warnings() []string {
	var list []string
	for _, s := range p.Signers {
		for _, expr := range []string{s.IdentityRegexp, s.IssuerRegexp} {
			if expr != "" && (!strings.HasPrefix(expr, "^") || !strings.HasSuffix(expr, "$")) {
				list = append(list, fmt.Sprintf("the regular expression %q is not anchored with ^ and $: it matches anywhere in the text", expr))
			}
		}
	}
	return list
}

// matcher is a compiled Signer.
type matcher struct {
	signer           Signer
	identity, issuer *regexp.Regexp // nil unless the signer has expressions
}

func (p Policy) compile() ([]matcher, error) {
	if len(p.Signers) == 0 {
		return nil, refuse(CodePolicyEmpty, errors.New("the policy allows no signer"),
			"name who may sign: an identity and an issuer")
	}
	switch p.Channel {
	case "", ChannelRequire, ChannelWarn, ChannelIgnore:
	default:
		return nil, refuse(CodePolicyInvalid, fmt.Errorf("the channel mode %q is not require, warn or ignore", p.Channel), "")
	}
	list := make([]matcher, len(p.Signers))
	for i, s := range p.Signers {
		m, err := s.compile()
		if err != nil {
			return nil, refuse(CodePolicyInvalid, fmt.Errorf("signer %d of the policy: %w", i+1, err), "")
		}
		list[i] = m
	}
	return list, nil
}

func (s Signer) compile() (matcher, error) {
	m := matcher{signer: s}
	if n := count(s.Identity, s.IdentityRegexp, s.IdentityPrefix); n != 1 {
		return m, fmt.Errorf("%d of identity, identityRegexp and identityPrefix are given, not one", n)
	}
	if n := count(s.Issuer, s.IssuerRegexp); n != 1 {
		return m, fmt.Errorf("%d of issuer and issuerRegexp are given, not one", n)
	}
	var err error
	if s.IdentityRegexp != "" {
		if m.identity, err = regexp.Compile(s.IdentityRegexp); err != nil {
			return m, fmt.Errorf("identityRegexp: %w", err)
		}
	}
	if s.IssuerRegexp != "" {
		if m.issuer, err = regexp.Compile(s.IssuerRegexp); err != nil {
			return m, fmt.Errorf("issuerRegexp: %w", err)
		}
	}
	return m, nil
}

func count(values ...string) int {
	n := 0
	for _, v := range values {
		if v != "" {
			n++
		}
	}
	return n
}

func (m matcher) matchIdentity(san string) bool {
	switch s := m.signer; {
	case san == "":
		return false
	case s.Identity != "":
		return san == s.Identity
	case s.IdentityPrefix != "":
		return underPrefix(san, s.IdentityPrefix)
	case m.identity != nil:
		return m.identity.MatchString(san)
	}
	return false
}

func (m matcher) matchIssuer(issuer string) bool {
	switch s := m.signer; {
	case issuer == "":
		return false
	case s.Issuer != "":
		return issuer == s.Issuer
	case m.issuer != nil:
		return m.issuer.MatchString(issuer)
	}
	return false
}

// underPrefix is true if s is prefix, or continues it at a path boundary. A prefix that ends in a boundary itself needs
// no second one.
func underPrefix(s, prefix string) bool {
	rest, ok := strings.CutPrefix(s, prefix)
	if !ok {
		return false
	}
	return rest == "" || strings.ContainsAny(rest[:1], "/@") || strings.ContainsAny(prefix[len(prefix)-1:], "/@")
}

// checkSigner says whether one signer matches both. The error names who was found and who is allowed.
func checkSigner(signers []matcher, identity, issuer string) error {
	code := CodeIdentityMismatch
	allowed := make([]string, len(signers))
	for i, m := range signers {
		if m.matchIdentity(identity) {
			if m.matchIssuer(issuer) {
				return nil
			}
			code = CodeIssuerMismatch
		}
		allowed[i] = m.signer.String()
	}
	return refuse(code, fmt.Errorf("signed as %q by issuer %q; the policy allows %s", identity, issuer, strings.Join(allowed, ", or ")),
		"if this signer is to be trusted, add it to the policy")
}
