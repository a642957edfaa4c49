package attest

import (
	"fmt"
	"net/url"
	"strings"

	"go.yaml.in/yaml/v3"
)

// policy reads the file's mapping. Every function here goes on after a fault, to find the others.
func (r *policyReader) policy(n *yaml.Node) (p Policy) {
	m := r.mapping(n, "", "version", "signers", "claims", "predicates", "channel")
	if m == nil {
		return p
	}
	if v := m["version"]; v != nil && r.plain(v, "version") && (v.Kind != yaml.ScalarNode || v.ShortTag() != "!!int" || v.Value != fmt.Sprint(PolicyVersion)) {
		r.fault(v, "version", "%.20q is not a version that is known here; %d is", v.Value, PolicyVersion)
	}
	if s := m["signers"]; s != nil {
		p.Signers = r.signers(s, "signers")
	} else {
		r.empty(n.Line, n.Column, "signers", "no signers: nobody would be allowed")
	}
	if c := m["claims"]; c != nil {
		p.Claims = r.claims(c, "claims")
	}
	if pr := m["predicates"]; pr != nil {
		p.Predicates = r.predicates(pr)
	}
	if c := m["channel"]; c != nil {
		p.TargetChannel, p.Channel = r.channel(c)
	}
	return p
}

func (r *policyReader) signers(n *yaml.Node, path string) (list []Signer) {
	for i, item := range r.list(n, path, "signers") {
		list = append(list, r.signer(item, fmt.Sprintf("%s[%d]", path, i)))
	}
	return list
}

func (r *policyReader) signer(n *yaml.Node, path string) (s Signer) {
	if n.Kind == yaml.ScalarNode {
		if s.Repository = r.string(n, path); s.Repository != "" {
			r.repository(n, path, s.Repository)
		}
		return s
	}
	m := r.mapping(n, path, "repository", "identity", "identityPrefix", "identityPattern", "issuer", "issuerPattern", "claims")
	if m == nil {
		return s
	}
	text := func(key string, check func(string) error) string {
		v := m[key]
		if v == nil {
			return ""
		}
		at := join(path, key)
		t := r.string(v, at)
		if t != "" && check != nil {
			if err := check(t); err != nil {
				r.fault(v, at, "%v", err)
			}
		}
		return t
	}
	pattern := func(t string) error { _, err := wholly(t); return err }
	s.Repository = text("repository", func(t string) error { _, _, _, _, err := parseRepository(t); return err })
	s.Identity = text("identity", nil)
	s.IdentityPrefix = text("identityPrefix", checkIdentityPrefix)
	s.IdentityPattern = text("identityPattern", pattern)
	s.Issuer = text("issuer", checkIssuer)
	s.IssuerPattern = text("issuerPattern", pattern)
	if c := m["claims"]; c != nil {
		s.Claims = r.claims(c, join(path, "claims"))
	}
	given := func(keys ...string) (list []string) {
		for _, k := range keys {
			if m[k] != nil {
				list = append(list, k)
			}
		}
		return list
	}
	ids, issuers := given("identity", "identityPrefix", "identityPattern"), given("issuer", "issuerPattern")
	switch {
	case m["repository"] != nil:
		if both := append(ids, issuers...); len(both) > 0 {
			r.fault(m[both[0]], join(path, both[0]), "a repository stands for identity and issuer; leave this out, or the repository")
		}
	case len(ids) == 0:
		r.fault(n, path, "no identity: give one of identity, identityPrefix, identityPattern, or a repository")
	case len(ids) > 1:
		r.fault(m[ids[1]], join(path, ids[1]), "there is %s already: one of them", ids[0])
	case len(issuers) == 0:
		r.fault(n, path, "no issuer: an identity is worth as much as who vouches for it")
	case len(issuers) > 1:
		r.fault(m[issuers[1]], join(path, issuers[1]), "there is %s already: one of them", issuers[0])
	}
	return s
}

func (r *policyReader) repository(n *yaml.Node, path, shorthand string) {
	if _, _, _, _, err := parseRepository(shorthand); err != nil {
		r.fault(n, path, "%v; who is no repository is a mapping of identity and issuer", err)
	}
}

// checkIdentityPrefix refuses a prefix that is below no name at all.
func checkIdentityPrefix(prefix string) error {
	rest := prefix
	if _, after, ok := strings.Cut(prefix, ":"); ok {
		rest = after
	}
	if strings.Trim(rest, "/@") == "" {
		return fmt.Errorf("%.200q is the beginning of every identity", prefix)
	}
	return nil
}

// checkIssuer catches the host name that stands for an issuer in other tools: an issuer is compared as a whole.
func checkIssuer(issuer string) error {
	u, err := url.Parse(issuer)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return fmt.Errorf("%.200q is not the URL of an issuer: write it with https://, as the certificates have it", issuer)
	}
	return nil
}

func (r *policyReader) claims(n *yaml.Node, path string) Claims {
	m := r.mapping(n, path, claimNames()...)
	if m == nil {
		return nil
	}
	if len(m) == 0 && len(n.Content) == 0 {
		r.fault(n, path, "no claims: leave the key out")
	}
	claims := Claims{}
	for name, v := range m { // faults are sorted by place in the end
		claims[name] = r.match(v, join(path, name))
	}
	return claims
}

func (r *policyReader) match(n *yaml.Node, path string) (m Match) {
	if n.Kind != yaml.MappingNode {
		m.Exact = r.string(n, path)
		return m
	}
	values := r.mapping(n, path, "pattern")
	p := values["pattern"]
	if p == nil {
		if len(n.Content) == 0 {
			r.fault(n, path, "neither a text nor a pattern")
		}
		return m
	}
	at := join(path, "pattern")
	if m.Pattern = r.string(p, at); m.Pattern != "" {
		if _, err := wholly(m.Pattern); err != nil {
			r.fault(p, at, "%v", err)
		}
	}
	return m
}

func (r *policyReader) predicates(n *yaml.Node) (list []Predicate) {
	const path = "predicates"
	m := r.mapping(n, path, "required", "extra")
	if m == nil {
		return nil
	}
	if v := m["required"]; v != nil {
		for i, item := range r.list(v, path+".required", "predicate types") {
			list = r.predicate(list, item, fmt.Sprintf("%s.required[%d]", path, i), false)
		}
	} else {
		list = append(list, Predicate{Type: PredicateType})
	}
	if v := m["extra"]; v != nil {
		for i, item := range r.list(v, path+".extra", "predicate types") {
			list = r.predicate(list, item, fmt.Sprintf("%s.extra[%d]", path, i), true)
		}
	}
	if len(n.Content) == 0 {
		r.fault(n, path, "neither required nor extra predicate types: leave the key out")
	}
	return list
}

func (r *policyReader) predicate(list []Predicate, n *yaml.Node, path string, extra bool) []Predicate {
	pr := Predicate{Extra: extra}
	at, typePath := n, path
	if n.Kind == yaml.ScalarNode {
		pr.Type = r.string(n, path)
		if pr.Type != "" && extra {
			r.fault(n, path, "an extra predicate type has signers of its own: write type and signers")
		}
	} else {
		m := r.mapping(n, path, "type", "signers", "claims")
		if m == nil {
			return list
		}
		if v := m["type"]; v != nil {
			at, typePath = v, join(path, "type")
			pr.Type = r.string(v, typePath)
		} else {
			r.fault(n, path, "no type")
		}
		if v := m["signers"]; v != nil {
			pr.Signers = r.signers(v, join(path, "signers"))
		} else if extra {
			r.empty(n.Line, n.Column, path, "no signers: an extra predicate type has its own")
		} else if c := m["claims"]; c != nil {
			r.fault(c, join(path, "claims"), "claims without signers: the policy's own hold for this type, or it has both")
		}
		if v := m["claims"]; v != nil {
			pr.Claims = r.claims(v, join(path, "claims"))
		}
	}
	if pr.Type == "" {
		return list
	}
	if err := checkPredicateType(pr.Type); err != nil {
		r.fault(at, typePath, "%v", err)
	}
	for _, before := range list {
		if before.Type == pr.Type {
			r.fault(at, typePath, "%.200q is required or extra already%s", pr.Type, hintTwice(pr.Type))
			return list
		}
	}
	return append(list, pr)
}

// hintTwice explains the type that is there without being written.
func hintTwice(predicateType string) string {
	if predicateType == PredicateType {
		return " (the publish attestation is required unless the required types are listed)"
	}
	return ""
}

func (r *policyReader) channel(n *yaml.Node) (target string, mode ChannelMode) {
	m := r.mapping(n, "channel", "check", "url")
	if m == nil {
		return "", ""
	}
	if len(n.Content) == 0 {
		r.fault(n, "channel", "neither check nor url: leave the key out")
	}
	mode = ChannelRequire
	if v := m["check"]; v != nil {
		switch t := ChannelMode(r.string(v, "channel.check")); t {
		case "", ChannelRequire, ChannelWarn, ChannelIgnore:
			mode = t
		default:
			r.fault(v, "channel.check", "%.40q is not require, warn or ignore", t)
		}
	}
	if v := m["url"]; v != nil {
		if target = r.string(v, "channel.url"); target != "" {
			if err := CheckTargetChannel(target); err != nil {
				r.fault(v, "channel.url", "%v", err)
			}
		}
	}
	return target, mode
}
