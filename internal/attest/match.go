package attest

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
)

// The issuers that the shorthands stand for (draft CEP "Source attestations", "Shorthand string form").
const (
	issuerGitHub = "https://token.actions.githubusercontent.com"
	issuerGitLab = "https://gitlab.com"
)

// The claims that the shorthands ask for.
const (
	claimRepository = "sourceRepository"
	claimRef        = "sourceRepositoryRef"
)

// maxPattern bounds a regular expression: a compiled one takes some hundred times its size.
const maxPattern = 2000

// compiled is a policy ready for use.
type compiled []rule

// rule is what is asked of attestations of one predicate type.
type rule struct {
	predicateType string
	extra         bool
	signers       []matcher
	claims        []claimMatcher
}

func (c compiled) rule(predicateType string) (rule, bool) {
	i := slices.IndexFunc(c, func(r rule) bool { return r.predicateType == predicateType })
	if i < 0 {
		return rule{}, false
	}
	return c[i], true
}

// matcher is a compiled Signer.
type matcher struct {
	signer           Signer
	identity, issuer func(string) bool
	claims           []claimMatcher
}

type claimMatcher struct {
	name, want string
	match      func(string) bool
}

func (p Policy) compile() (compiled, error) {
	if len(p.Signers) == 0 {
		return nil, refuse(CodePolicyEmpty, errors.New("the policy allows no signer"),
			"name who may sign: an identity and an issuer")
	}
	switch p.Channel {
	case "", ChannelRequire, ChannelWarn, ChannelIgnore:
	default:
		return nil, invalidPolicy(fmt.Errorf("the channel mode %q is not require, warn or ignore", p.Channel))
	}
	signers, err := compileSigners(p.Signers)
	if err != nil {
		return nil, invalidPolicy(err)
	}
	claims, err := p.Claims.compile()
	if err != nil {
		return nil, invalidPolicy(err)
	}
	var list compiled
	for _, pr := range p.predicates() {
		r := rule{predicateType: pr.Type, extra: pr.Extra, signers: signers, claims: claims}
		if err := checkPredicateType(pr.Type); err != nil {
			return nil, invalidPolicy(err)
		}
		if _, twice := list.rule(pr.Type); twice {
			return nil, invalidPolicy(fmt.Errorf("the predicate type %q is there twice", pr.Type))
		}
		switch {
		case len(pr.Signers) > 0:
			if r.signers, err = compileSigners(pr.Signers); err == nil {
				r.claims, err = pr.Claims.compile()
			}
			if err != nil {
				return nil, invalidPolicy(fmt.Errorf("predicate type %q: %w", pr.Type, err))
			}
		case pr.Extra:
			return nil, refuse(CodePolicyEmpty, fmt.Errorf("the policy allows no signer for the extra predicate type %q", pr.Type), "name who may sign it")
		case len(pr.Claims) > 0:
			return nil, invalidPolicy(fmt.Errorf("predicate type %q has claims and no signers of its own", pr.Type))
		}
		list = append(list, r)
	}
	if !slices.ContainsFunc(list, func(r rule) bool { return !r.extra }) {
		return nil, invalidPolicy(errors.New("no predicate type is required, so nothing would be"))
	}
	return list, nil
}

func invalidPolicy(err error) *Error { return refuse(CodePolicyInvalid, err, "") }

func compileSigners(signers []Signer) ([]matcher, error) {
	list := make([]matcher, len(signers))
	for i, s := range signers {
		m, err := s.compile()
		if err != nil {
			return nil, fmt.Errorf("signer %d: %w", i+1, err)
		}
		list[i] = m
	}
	return list, nil
}

func (s Signer) compile() (m matcher, err error) {
	m.signer = s
	if m.claims, err = s.Claims.compile(); err != nil {
		return m, err
	}
	if s.Repository != "" {
		if count(s.Identity, s.IdentityRegexp, s.IdentityPrefix, s.IdentityPattern, s.Issuer, s.IssuerRegexp, s.IssuerPattern) > 0 {
			return m, errors.New("a repository stands for identity and issuer, which must not be there beside it")
		}
		return m.repository()
	}
	if n := count(s.Identity, s.IdentityRegexp, s.IdentityPrefix, s.IdentityPattern); n != 1 {
		return m, fmt.Errorf("%d of identity, identityPrefix, identityPattern and identityRegexp are given, not one", n)
	}
	if n := count(s.Issuer, s.IssuerRegexp, s.IssuerPattern); n != 1 {
		return m, fmt.Errorf("%d of issuer, issuerPattern and issuerRegexp are given, not one", n)
	}
	switch {
	case s.Identity != "":
		m.identity = exactly(s.Identity)
	case s.IdentityPrefix != "":
		m.identity = func(san string) bool { return underPrefix(san, s.IdentityPrefix) }
	case s.IdentityPattern != "":
		m.identity, err = wholly(s.IdentityPattern)
	default:
		m.identity, err = anywhere(s.IdentityRegexp)
	}
	if err != nil {
		return m, fmt.Errorf("identity: %w", err)
	}
	switch {
	case s.Issuer != "":
		m.issuer = exactly(s.Issuer)
	case s.IssuerPattern != "":
		m.issuer, err = wholly(s.IssuerPattern)
	default:
		m.issuer, err = anywhere(s.IssuerRegexp)
	}
	if err != nil {
		return m, fmt.Errorf("issuer: %w", err)
	}
	return m, nil
}

// repository makes of the shorthand what it stands for. The identity alone is not enough: it is the workflow's, which
// another repository may have called; the source repository is the one that called it.
func (m matcher) repository() (matcher, error) {
	host, issuer, path, ref, err := parseRepository(m.signer.Repository)
	if err != nil {
		return m, err
	}
	repo := LowerASCII("https://" + host + "/" + path)
	m.identity = func(san string) bool { return underPrefix(LowerASCII(san), repo) }
	m.issuer = exactly(issuer)
	m.claims = append([]claimMatcher{{claimRepository, fmt.Sprintf("%q", repo), func(v string) bool { return LowerASCII(v) == repo }}}, m.claims...)
	if ref != "" {
		m.claims = append(m.claims, claimMatcher{claimRef, fmt.Sprintf("%q", ref), exactly(ref)})
	}
	return m, nil
}

var (
	repositoryPart = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)
	gitRef         = regexp.MustCompile(`^refs/(heads|tags|pull|merge-requests)/[^\s~^:?*\[\\\x00-\x1f\x7f]+$`)
)

// parseRepository takes a shorthand apart. A ref has to be a full one: main may be a branch and a tag.
func parseRepository(s string) (host, issuer, path, ref string, err error) {
	provider, rest, ok := strings.Cut(s, ":")
	path, ref, hasRef := strings.Cut(rest, "@")
	parts := strings.Split(path, "/")
	switch {
	case !ok:
		return "", "", "", "", fmt.Errorf("%.200q is not github:owner/repo or gitlab:group/project", s)
	case provider == "github":
		host, issuer = "github.com", issuerGitHub
		if len(parts) != 2 {
			return "", "", "", "", fmt.Errorf("%.200q is not github:owner/repo", s)
		}
	case provider == "gitlab":
		host, issuer = "gitlab.com", issuerGitLab
		if len(parts) < 2 {
			return "", "", "", "", fmt.Errorf("%.200q is not gitlab:group/project", s)
		}
	default:
		return "", "", "", "", fmt.Errorf("%.200q: there are github: and gitlab:, no %.50q", s, provider)
	}
	if slices.ContainsFunc(parts, func(p string) bool { return isDots(p) || !repositoryPart.MatchString(p) }) {
		return "", "", "", "", fmt.Errorf("%.200q names no repository", s)
	}
	if hasRef && !gitRef.MatchString(ref) {
		return "", "", "", "", fmt.Errorf("the ref in %.200q is not a full one: write refs/heads/… for a branch, refs/tags/… for a tag", s)
	}
	return host, issuer, path, ref, nil
}

func (c Claims) compile() ([]claimMatcher, error) {
	var list []claimMatcher
	known := everyClaim(certificate.Extensions{})
	for _, name := range slices.Sorted(maps.Keys(c)) {
		want := c[name]
		if _, ok := known[name]; !ok {
			return nil, fmt.Errorf("there is no claim %.100q", name)
		}
		if n := count(want.Exact, want.Pattern); n != 1 {
			return nil, fmt.Errorf("claim %s: %d of value and pattern are given, not one", name, n)
		}
		match := exactly(want.Exact)
		if want.Pattern != "" {
			var err error
			if match, err = wholly(want.Pattern); err != nil {
				return nil, fmt.Errorf("claim %s: %w", name, err)
			}
		}
		list = append(list, claimMatcher{name, want.String(), match})
	}
	return list, nil
}

func exactly(want string) func(string) bool { return func(s string) bool { return s == want } }

// wholly compiles a pattern for the whole text. Nothing is put around it, so that no bracket or quotation in it can reach
// beyond its end: the longest match from the left is the whole text if any match is.
func wholly(expr string) (func(string) bool, error) {
	re, err := compileExpr(expr, maxPattern)
	if err != nil {
		return nil, err
	}
	re.Longest()
	return func(s string) bool {
		loc := re.FindStringIndex(s)
		return loc != nil && loc[0] == 0 && loc[1] == len(s)
	}, nil
}

// anywhere leaves room for what patternOf puts around the expression.
func anywhere(expr string) (func(string) bool, error) {
	re, err := compileExpr(expr, maxPattern-len(patternOf("x")))
	if err != nil {
		return nil, err
	}
	return re.MatchString, nil
}

func compileExpr(expr string, limit int) (*regexp.Regexp, error) {
	if len(expr) > limit {
		return nil, fmt.Errorf("the pattern has %d bytes, more than %d", len(expr), limit)
	}
	return regexp.Compile(expr)
}

// checkPredicateType asks for an absolute URI (in-toto, "TypeURI").
func checkPredicateType(t string) error {
	u, err := url.Parse(t)
	if err != nil || u.Scheme == "" || u.Host == "" && u.Opaque == "" || len(t) > maxChannelURL || strings.ContainsAny(t, " \t\r\n") {
		return fmt.Errorf("the predicate type %.200q is not a URI", t)
	}
	return nil
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

// LowerASCII is for names of hosts that take letters of either case for the same. It leaves letters beyond ASCII alone: some
// fold into ASCII ones.
func LowerASCII(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
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

// check says whether one signer matches in all, and then the claims that are asked of each. The error names who was found
// and who is allowed; its code is that of the signer who came closest.
func (r rule) check(identity, issuer string, claims map[string]string) error {
	var closest *Error
	code := CodeIdentityMismatch
	allowed := make([]string, len(r.signers))
	for i, m := range r.signers {
		allowed[i] = m.signer.String()
		if identity == "" || !m.identity(identity) {
			continue
		}
		if issuer == "" || !m.issuer(issuer) {
			code = CodeIssuerMismatch
			continue
		}
		err := checkClaims(m.claims, claims)
		if err == nil {
			if err := checkClaims(r.claims, claims); err != nil {
				return err
			}
			return nil
		}
		if closest == nil {
			closest = refuse(err.Code, fmt.Errorf("signed as %q, and for %s: %w", identity, m.signer, err.Err), err.Hint)
		}
	}
	if closest != nil {
		return closest
	}
	return refuse(code, fmt.Errorf("signed as %q by issuer %q; the policy allows %s", identity, issuer, strings.Join(allowed, ", or ")),
		"if this signer is to be trusted, add it to the policy")
}

func checkClaims(want []claimMatcher, have map[string]string) *Error {
	for _, c := range want {
		value, ok := have[c.name]
		switch {
		case !ok || value == "":
			return refuse(CodeClaimMissing, fmt.Errorf("the certificate does not say %s, and the policy asks for %s", c.name, c.want),
				"certificates for people, and those of some issuers, have no such claims")
		case !c.match(value):
			return refuse(CodeClaimMismatch, fmt.Errorf("the certificate's %s is %.300q, and the policy asks for %s", c.name, value, c.want), "")
		}
	}
	return nil
}
