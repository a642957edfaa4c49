package attest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// The canonical form has the keys of a policy file, so that it is one.
type (
	canonicalPolicy struct {
		Version    int                 `json:"version"`
		Signers    []canonicalSigner   `json:"signers"`
		Claims     Claims              `json:"claims,omitempty"`
		Predicates canonicalPredicates `json:"predicates"`
		Channel    *canonicalMode      `json:"channel,omitempty"`
	}
	canonicalSigner struct {
		Repository      string `json:"repository,omitempty"`
		Identity        string `json:"identity,omitempty"`
		IdentityPrefix  string `json:"identityPrefix,omitempty"`
		IdentityPattern string `json:"identityPattern,omitempty"`
		Issuer          string `json:"issuer,omitempty"`
		IssuerPattern   string `json:"issuerPattern,omitempty"`
		Claims          Claims `json:"claims,omitempty"`
	}
	canonicalPredicates struct {
		Required []canonicalPredicate `json:"required,omitempty"`
		Extra    []canonicalPredicate `json:"extra,omitempty"`
	}
	canonicalPredicate struct {
		Type    string            `json:"type"`
		Signers []canonicalSigner `json:"signers,omitempty"`
		Claims  Claims            `json:"claims,omitempty"`
	}
	canonicalMode struct {
		Check ChannelMode `json:"check"`
		URL   string      `json:"url,omitempty"`
	}
)

// MarshalJSON implements json.Marshaler: a text, or {"pattern": …}.
func (m Match) MarshalJSON() ([]byte, error) {
	if m.Pattern == "" {
		return unescaped(m.Exact)
	}
	return unescaped(struct {
		Exact   string `json:"exact,omitempty"` // beside a pattern it is an error, and stays one
		Pattern string `json:"pattern"`
	}{m.Exact, m.Pattern})
}

// Canonical gives the policy as compact JSON, the same bytes for policies that say the same in another order, with
// repetitions, or by leaving out what is the default. It is a policy file: ParsePolicy reads it, and what it gives then
// decides as this policy does. IdentityRegexp and IssuerRegexp are written as the patterns that mean the same. It is for
// policies that pass Check.
func (p Policy) Canonical() []byte {
	c := canonicalPolicy{Version: PolicyVersion, Signers: canonicalSigners(p.Signers), Claims: p.Claims}
	for _, pr := range p.predicates() {
		cp := canonicalPredicate{Type: pr.Type, Claims: pr.Claims}
		if len(pr.Signers) > 0 {
			cp.Signers = canonicalSigners(pr.Signers)
		}
		if pr.Extra {
			c.Predicates.Extra = append(c.Predicates.Extra, cp)
		} else {
			c.Predicates.Required = append(c.Predicates.Required, cp)
		}
	}
	for _, list := range [][]canonicalPredicate{c.Predicates.Required, c.Predicates.Extra} {
		slices.SortFunc(list, func(a, b canonicalPredicate) int { return cmp.Compare(a.Type, b.Type) })
	}
	// Without a channel, the zero mode asks for none, and the others do.
	if p.Channel != "" || p.TargetChannel != "" {
		c.Channel = &canonicalMode{Check: cmp.Or(p.Channel, ChannelRequire), URL: p.TargetChannel}
	}
	return mustUnescaped(c)
}

// Digest is the SHA-256 of Canonical, lower-case hex: what a campaign freezes.
func (p Policy) Digest() string { return hexSHA256(p.Canonical()) }

func canonicalSigners(signers []Signer) []canonicalSigner {
	keyed := make(map[string]canonicalSigner, len(signers))
	for _, s := range signers {
		c := canonicalSigner{
			Repository: canonicalRepository(s.Repository), Identity: s.Identity, IdentityPrefix: s.IdentityPrefix,
			IdentityPattern: cmp.Or(s.IdentityPattern, patternOf(s.IdentityRegexp)),
			Issuer:          s.Issuer, IssuerPattern: cmp.Or(s.IssuerPattern, patternOf(s.IssuerRegexp)), Claims: s.Claims,
		}
		keyed[string(mustUnescaped(c))] = c
	}
	list := make([]canonicalSigner, 0, len(keyed))
	for _, key := range slices.Sorted(maps.Keys(keyed)) {
		list = append(list, keyed[key])
	}
	return list
}

// canonicalRepository writes owner and repository in lower case, for they are compared so.
func canonicalRepository(shorthand string) string {
	name, ref, ok := strings.Cut(shorthand, "@")
	if ok {
		ref = "@" + ref
	}
	return LowerASCII(name) + ref
}

// patternOf gives the pattern for the whole text that means the same as expr found anywhere in it.
func patternOf(expr string) string {
	if expr == "" {
		return ""
	}
	const around = `(?s:.*)`
	pattern := around + "(?:" + expr + ")" + around
	if _, err := regexp.Compile(pattern); err != nil {
		pattern = around + "(?:" + expr + `\E)` + around // expr has a \Q that is open
	}
	return pattern
}

func mustUnescaped(v any) []byte {
	data, err := unescaped(v)
	if err != nil {
		panic(err) // texts and numbers, which always encode
	}
	return data
}

// unescaped encodes without HTML's escapes, which are of no use here.
func unescaped(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}
