package attest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Policy says whose attestations count, what their certificates have to say, and for which channel. ParsePolicy reads one
// from a file, flags make one by hand. The zero Policy denies everything. A Policy is a value that is not changed once it
// is in use, and then safe for concurrent use.
type Policy struct {
	// Signers are the allowed signers: one of them has to match. None allowed means that nothing verifies.
	Signers []Signer
	// Claims is what the certificate of each of Signers has to say, beside what that signer asks for itself.
	Claims Claims
	// Predicates are the predicate types that count. Empty means the publish attestation alone, and that it is required.
	Predicates []Predicate
	// TargetChannel is the channel that a publish attestation has to name; "" asks for none, unless Channel says otherwise.
	TargetChannel string
	// Channel is what happens if the statement does not name TargetChannel. The zero value requires it. ChannelRequire and
	// ChannelWarn without a TargetChannel are refused by Verify (CodePolicyChannel): see For.
	Channel ChannelMode
}

// Predicate is a predicate type that a policy knows: one that has to be there, or one that may.
type Predicate struct {
	// Type is the in-toto predicate type, exactly.
	Type string
	// Extra means that an attestation of this type may ride along in the sidecar; otherwise the sidecar has to have one.
	Extra bool
	// Signers and Claims are as the policy's. An extra one MUST have signers of its own; for a required one that has none,
	// the policy's signers and claims hold, and it then has no claims of its own.
	Signers []Signer
	Claims  Claims
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

// Signer matches a signing certificate. Either Repository is set, or exactly one of the identity fields and exactly one
// of the issuer fields.
type Signer struct {
	// Repository is a shorthand: github:owner/repo or gitlab:group/project, with @ref behind it or not, for what runs in a
	// repository of github.com or gitlab.com. Identity and source repository of the certificate both have to be that
	// repository, in whatever case; the ref (refs/heads/main), if given, has to be the certificate's, exactly.
	Repository string
	// Identity is the certificate's subject alternative name, exactly (cosign's --certificate-identity).
	Identity string
	// IdentityPrefix matches the identity itself and what continues it with "/" or "@":
	// https://github.com/org/repo matches .../org/repo/.github/workflows/a.yml@refs/heads/main, and not .../org/repo2.
	IdentityPrefix string
	// IdentityPattern is a regular expression (RE2) that the whole identity has to match: it needs no anchors.
	IdentityPattern string
	// IdentityRegexp is a Go regular expression that is found anywhere in the identity, as with cosign's
	// --certificate-identity-regexp: it is not anchored, so write ^ and $. Policy.Warnings names the ones without.
	IdentityRegexp string
	// Issuer is the OIDC issuer, exactly (cosign's --certificate-oidc-issuer).
	Issuer string
	// IssuerPattern is as IdentityPattern: for many issuers alike, as clusters have.
	IssuerPattern string
	// IssuerRegexp is as IdentityRegexp (cosign's --certificate-oidc-issuer-regexp).
	IssuerRegexp string
	// Claims is what the certificate has to say besides.
	Claims Claims
}

// Claims are requirements of a certificate's Fulcio extensions 1.3.6.1.4.1.57264.1.9 to .22, by the names that
// Result.Claims has. All have to hold; a claim that the certificate does not have never holds.
type Claims map[string]Match

// Match is what a text has to be: exactly one of the fields is set.
type Match struct {
	Exact   string
	Pattern string // RE2, for the whole text
}

func (m Match) String() string {
	if m.Pattern != "" {
		return "all of /" + m.Pattern + "/"
	}
	return fmt.Sprintf("%q", m.Exact)
}

// String says whom the signer allows, for messages.
func (s Signer) String() string {
	var text string
	if s.Repository != "" {
		text = s.Repository
	} else {
		var id, iss string
		switch {
		case s.Identity != "":
			id = fmt.Sprintf("%q", s.Identity)
		case s.IdentityPrefix != "":
			id = fmt.Sprintf("below %q", s.IdentityPrefix)
		case s.IdentityPattern != "":
			id = Match{Pattern: s.IdentityPattern}.String()
		default:
			id = fmt.Sprintf("matching /%s/", s.IdentityRegexp)
		}
		switch {
		case s.Issuer != "":
			iss = fmt.Sprintf("%q", s.Issuer)
		case s.IssuerPattern != "":
			iss = Match{Pattern: s.IssuerPattern}.String()
		default:
			iss = fmt.Sprintf("matching /%s/", s.IssuerRegexp)
		}
		text = id + " by issuer " + iss
	}
	for _, name := range slices.Sorted(maps.Keys(s.Claims)) {
		text += fmt.Sprintf(" with %s %s", name, s.Claims[name])
	}
	return text
}

// Check says whether the policy can be used: CodePolicyEmpty, CodePolicyInvalid, or nil. It does not ask for the target
// channel, which may be named later (For).
func (p Policy) Check() error {
	_, err := p.compile()
	return err
}

// For gives the policy with the channel that it is applied to, which matters if it names none itself. If it names another
// one and does not ignore it, that is refused with CodePolicyChannel. With channelURL "" it gives the policy as it is.
func (p Policy) For(channelURL string) (Policy, error) {
	switch {
	case channelURL == "" || p.Channel == ChannelIgnore:
	case p.TargetChannel == "":
		p.TargetChannel = channelURL
	case !sameChannel(p.TargetChannel, channelURL) && p.Channel != ChannelWarn:
		return p, refuse(CodePolicyChannel, fmt.Errorf("the policy is for the channel %q, and this is %q", p.TargetChannel, channelURL),
			"use the channel's own policy, or leave the URL out of this one")
	}
	return p, nil
}

// PredicateTypes are the required predicate types and the extra ones, in the policy's order.
func (p Policy) PredicateTypes() (required, extra []string) {
	for _, pr := range p.predicates() {
		if pr.Extra {
			extra = append(extra, pr.Type)
		} else {
			required = append(required, pr.Type)
		}
	}
	return required, extra
}

func (p Policy) predicates() []Predicate {
	if len(p.Predicates) == 0 {
		return []Predicate{{Type: PredicateType}}
	}
	return p.Predicates
}

// Warnings names what is allowed but probably not meant: regular expressions without anchors, and signers that are
// anybody at all.
func (p Policy) Warnings() []string {
	var list []string
	warn := func(s Signer) {
		for _, expr := range []string{s.IdentityRegexp, s.IssuerRegexp} {
			if expr != "" && (!strings.HasPrefix(expr, "^") || !strings.HasSuffix(expr, "$")) {
				list = append(list, fmt.Sprintf("the regular expression %q is not anchored with ^ and $: it matches anywhere in the text", expr))
			}
		}
		if len(s.Claims) > 0 {
			return // they say who it is
		}
		if _, path, ok := strings.Cut(strings.TrimSuffix(s.IdentityPrefix, "/"), "://"); ok && !strings.ContainsAny(path, "/@") {
			list = append(list, fmt.Sprintf("the identity prefix %q is a whole host: everybody there may sign", s.IdentityPrefix))
		}
		for _, expr := range []string{s.IdentityPattern, s.IssuerPattern} {
			if m, err := wholly(expr); expr != "" && err == nil && m("https://anybody.invalid/at/all@whatever") {
				list = append(list, fmt.Sprintf("the pattern %q matches anything", expr))
			}
		}
	}
	for _, s := range p.Signers {
		warn(s)
	}
	for _, pr := range p.Predicates {
		for _, s := range pr.Signers {
			warn(s)
		}
	}
	return list
}

// CheckSigner says whether the policy's signers and claims allow a certificate that says this; claims are by the names of
// Result.Claims. It is Verify's own check, for asking before anything is signed. Errors are *Error: those of Check,
// CodeIdentityMismatch, CodeIssuerMismatch, CodeClaimMissing or CodeClaimMismatch.
func (p Policy) CheckSigner(identity, issuer string, claims map[string]string) error {
	c, err := p.compile()
	if err != nil {
		return err
	}
	r, ok := c.rule(PredicateType)
	if !ok {
		return errNotPublish()
	}
	return r.check(identity, issuer, claims)
}

func errNotPublish() *Error {
	return refuse(CodePredicateNotAllowed, errors.New("the policy does not name the publish attestation's predicate type, so none counts"),
		"add "+PredicateType+" to the policy's required predicate types")
}
