package provenance

import (
	"net/url"
	"slices"
	"strings"

	"github.com/hallmark-attest/hallmark/internal/attest"
)

// Publisher is who must have signed (draft CEP, "Publisher Identities"): a certificate's identity together with the issuer
// that vouched for it.
type Publisher struct {
	// Identity, if it starts with https://, matches a certificate's identity that is the same or continues it with "/" or
	// "@", in whatever case. Any other has to be the certificate's exactly.
	Identity string `json:"identity"`
	Issuer   string `json:"issuer"` // exactly
	text     string // as it was written, if it was a shorthand
}

// String is the publisher as it was written.
func (p Publisher) String() string {
	if p.text != "" {
		return p.text
	}
	return p.Identity + " by " + p.Issuer
}

// providers are what shorthands begin with ("Shorthand string form"). They are the hosted services alone.
var providers = map[string]struct{ host, issuer string }{
	"github": {"github.com", "https://token.actions.githubusercontent.com"},
	"gitlab": {"gitlab.com", "https://gitlab.com"},
}

// ParsePublisher reads a shorthand: github:owner/repo or gitlab:group/project, where the project may be in subgroups.
// A ref (@refs/tags/v1) is an error, as the draft asks: what it means is not settled, and to ignore it would be to drop a
// constraint. The error is an *Error with CodePublisher, CodePublisherRef or CodePublisherUnknown.
func ParsePublisher(s string) (Publisher, error) {
	// By the draft's order: the first colon, the first slash behind it, the first @ behind that.
	provider, rest, ok := strings.Cut(s, ":")
	if !ok || len(s) > maxURL {
		return Publisher{}, badPublisher(s)
	}
	known, ok := providers[provider]
	if !ok {
		return Publisher{}, refuse(CodePublisherUnknown, "for other issuers give identity and issuer",
			"publisher %q: the providers are github and gitlab", clip(s, 200))
	}
	owner, repo, ok := strings.Cut(rest, "/")
	if !ok {
		return Publisher{}, badPublisher(s)
	}
	repo, _, hasRef := strings.Cut(repo, "@")
	if hasRef {
		return Publisher{}, refuse(CodePublisherRef, "leave the ref out; its meaning is not defined yet",
			"publisher %q has a ref, which cannot be checked and must not be ignored", clip(s, 200))
	}
	parts := append([]string{owner}, strings.Split(repo, "/")...)
	if slices.ContainsFunc(parts, func(p string) bool { return !isName(p) }) {
		return Publisher{}, badPublisher(s)
	}
	return Publisher{Identity: "https://" + known.host + "/" + owner + "/" + repo, Issuer: known.issuer, text: s}, nil
}

func badPublisher(s string) *Error {
	return refuse(CodePublisher, "write github:owner/repo or gitlab:group/project, or give identity and issuer",
		"%q is not <provider>:<owner>/<repo>", clip(s, 200))
}

// isName says whether s can be an owner or a part of a repository's path. Dots alone would lead elsewhere.
func isName(s string) bool {
	if strings.Trim(s, ".") == "" {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.", r)
	})
}

// check refuses a publisher that lacks one of the two.
func (p Publisher) check() *Error {
	if p.Identity == "" || p.Issuer == "" || len(p.Identity) > maxURL || len(p.Issuer) > maxURL {
		return refuse(CodePublisher, "give both: an identity alone may be claimed at another issuer",
			"a publisher has no identity or no issuer")
	}
	return nil
}

// matchesIdentity applies the draft's "Repository-boundary prefix matching", so that pallets/flask is not
// pallets/flask-cors.
func (p Publisher) matchesIdentity(san string) bool {
	if !strings.HasPrefix(p.Identity, "https://") {
		return san == p.Identity
	}
	rest, ok := strings.CutPrefix(attest.LowerASCII(san), attest.LowerASCII(p.Identity))
	return ok && (rest == "" || rest[0] == '/' || rest[0] == '@')
}

// broad says whether a URL identity is wider than a repository.
func (p Publisher) broad() bool {
	u, err := url.Parse(p.Identity)
	return err == nil && u.Scheme == "https" && len(strings.FieldsFunc(u.Path, func(r rune) bool { return r == '/' })) < 2
}
