package provenance

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/hallmark-attest/hallmark/internal/attest"
)

// Mode is what is done about sources.
type Mode string

// The modes.
const (
	ModeOff     Mode = "off"     // nothing is looked at
	ModeReport  Mode = "report"  // what is found is told
	ModeRequire Mode = "require" // and a source whose attestation was asked for, by its recipe or the policy, has to have it
)

// Policy is what a campaign asks of sources, beside what recipes ask themselves. The zero Policy looks at nothing.
type Policy struct {
	Mode Mode `yaml:"mode"`
	// RequireLog refuses attestations of which the transparency log cannot be checked. The draft CEP lets those of an
	// index pass.
	RequireLog bool `yaml:"require_log"`
	// Hosts are for sources whose recipe has no attestation block. The first that matches counts.
	Hosts []HostRule `yaml:"hosts"`
}

// HostRule says who must have published the sources of a host.
type HostRule struct {
	// Host is the download URL's, exactly; pypi.org stands for all hosts of the Python package index.
	Host string `yaml:"host"`
	// Path is where the URL's path begins, up to a slash ("/facebook/zstd"); "" is everywhere.
	Path string `yaml:"path"`
	// Project is the project's name at the Python package index; "" is every one.
	Project string `yaml:"project"`
	// Publishers are those all of which must have signed. They MUST NOT be empty.
	Publishers HostPublishers `yaml:"publishers"`
	// Bundles are URLs of bundles. Beside {owner} and {repo} there are {url}, {filename} and {sha256}. If there are none,
	// the URL is derived, as for recipes.
	Bundles []string `yaml:"bundles"`
	// PredicateType restricts which attestations count; "" does not.
	PredicateType string `yaml:"predicate_type"`
}

// HostPublisher is a publisher as a policy has it: a shorthand, or an identity with its issuer, as in recipes. In a shorthand
// for GitHub's releases {owner} and {repo} are their repository's: github:{owner}/{repo}.
type HostPublisher struct {
	Shorthand string    // "" if Explicit is set
	Explicit  Publisher // the zero value if Shorthand is set
}

// HostPublishers are the publishers of a rule.
type HostPublishers []HostPublisher

// UnmarshalYAML implements yaml.Unmarshaler. The error is an *Error with a publisher's code. It reads the list itself, since
// the reader of YAML leaves out elements that are null, and with them what somebody meant to ask for.
func (p *HostPublishers) UnmarshalYAML(n *yaml.Node) error {
	n = resolved(n)
	if n.Kind != yaml.SequenceNode {
		return refuse(CodePolicy, "", "line %d: publishers is not a list", n.Line)
	}
	for _, c := range n.Content {
		c = resolved(c)
		if c.Kind == yaml.ScalarNode {
			*p = append(*p, HostPublisher{Shorthand: c.Value})
			continue
		}
		explicit, err := readPublisher(c)
		if err != nil {
			err.Err = fmt.Errorf("line %d: %w", c.Line, err.Err)
			return err
		}
		*p = append(*p, HostPublisher{Explicit: explicit})
	}
	return nil
}

// publisher is the one that is meant, once the placeholders are filled.
func (p HostPublisher) publisher(fill *strings.Replacer) (Publisher, *Error) {
	if p.Explicit != (Publisher{}) {
		return p.Explicit, p.Explicit.check()
	}
	pub, err := ParsePublisher(fill.Replace(p.Shorthand))
	if err != nil {
		return pub, err.(*Error) // it gives no other
	}
	return pub, nil
}

const maxPolicy = 64 << 10

// unknownKey is how the reader of YAML says it, with a type that means nothing to whoever wrote the file.
var unknownKey = regexp.MustCompile(`field (\S+) not found in type [^\n]*`)

// ParsePolicy reads a policy from YAML, strictly: an unknown or repeated key is an error with its line. The version key has
// to be 1. The error is an *Error with CodePolicy, CodePublishersEmpty or a publisher's code.
func ParsePolicy(data []byte) (Policy, error) {
	invalid := func(err error) (Policy, error) {
		return Policy{}, refuse(CodePolicy, "", "the policy for sources: %w", err)
	}
	if len(data) > maxPolicy {
		return invalid(fmt.Errorf("it has more than %d bytes", maxPolicy))
	}
	var f struct {
		Version int `yaml:"version"`
		Policy  `yaml:",inline"`
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&f); err != nil {
		if e, ok := errors.AsType[*Error](err); ok {
			e.Err = fmt.Errorf("the policy for sources: %w", e.Err)
			return Policy{}, e
		}
		return invalid(errors.New(unknownKey.ReplaceAllString(err.Error(), `there is no key "$1"`)))
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return invalid(errors.New("it has more than one document"))
	}
	if f.Version != 1 {
		return invalid(fmt.Errorf("version is %d, not 1", f.Version))
	}
	return f.Policy, f.Policy.Check()
}

// Check says whether the policy can be used. The error is as ParsePolicy's.
func (p Policy) Check() error {
	switch p.Mode {
	case "", ModeOff, ModeReport, ModeRequire:
	default:
		return refuse(CodePolicy, "", "the mode %q is not off, report or require", clip(string(p.Mode), 50))
	}
	for i, h := range p.Hosts {
		if err := h.check(); err != nil {
			err.Err = fmt.Errorf("rule %d, for %q: %w", i+1, clip(h.Host, 100), err.Err)
			return err
		}
	}
	return nil
}

func (h HostRule) check() *Error {
	if h.Host == "" || h.Host != attest.LowerASCII(h.Host) || strings.ContainsAny(h.Host, "/: *@") {
		return refuse(CodePolicy, "", "the host has to be a host name in lower case")
	}
	if h.Path != "" && h.Path[0] != '/' {
		return refuse(CodePolicy, "", "the path does not begin with a slash")
	}
	if h.Project != "" && !isPyPI(h.Host) {
		return refuse(CodePolicy, "", "only the Python package index has projects")
	}
	if len(h.Publishers) == 0 {
		return refuse(CodePublishersEmpty, "name who must have published the sources", "it names no publishers, and so nobody is trusted")
	}
	if len(h.Publishers) > maxPublishers || len(h.Bundles) > maxBundleURLs {
		return refuse(CodePolicy, "", "it has too many publishers or bundles")
	}
	example := strings.NewReplacer("{owner}", "o", "{repo}", "r", "{url}", "https://h/f", "{filename}", "f", "{sha256}", "0")
	for _, s := range h.Publishers {
		if strings.ContainsAny(s.Shorthand, "{}") && h.Host != "github.com" {
			return refuse(CodePolicy, "", "{owner} and {repo} are known of github.com alone")
		}
		if _, err := s.publisher(example); err != nil {
			return err
		}
	}
	for _, b := range h.Bundles {
		if err := checkBundleURL(example.Replace(b)); err != nil {
			return err
		}
	}
	if len(h.Bundles) == 0 && !isPyPI(h.Host) {
		return refuse(CodeNoBundleURL, "give bundles, as {url}.sigstore.json", "for this host no bundle URL can be derived")
	}
	return nil
}

// block is what the policy asks of a source, or nil if nothing.
func (p Policy) block(s Source) (*Attestation, *Error) {
	for _, h := range p.Hosts {
		for _, raw := range s.URLs {
			if fill, ok := h.match(raw, s.SHA256); ok {
				a := &Attestation{PredicateType: h.PredicateType}
				for _, hp := range h.Publishers {
					pub, err := hp.publisher(fill)
					if err != nil {
						return nil, err
					}
					a.Publishers = append(a.Publishers, pub)
				}
				for _, b := range h.Bundles {
					a.BundleURLs = append(a.BundleURLs, fill.Replace(b))
				}
				return a, nil
			}
		}
	}
	return nil, nil
}

// match says whether the rule is for a URL, and with what its placeholders are filled.
func (h HostRule) match(raw, sha256hex string) (*strings.Replacer, bool) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		return nil, false
	}
	if host := hostOf(u); host != h.Host && !(h.Host == defaultPyPI[len("https://"):] && isPyPI(host)) {
		return nil, false
	}
	if rest, ok := strings.CutPrefix(u.Path, strings.TrimSuffix(h.Path, "/")); !ok || rest != "" && rest[0] != '/' {
		return nil, false
	}
	name := filename(raw)
	if h.Project != "" {
		if project, _, ok := splitDistribution(name); !ok || project != NormalizeProject(h.Project) {
			return nil, false
		}
	}
	fill := []string{"{filename}", url.PathEscape(name), "{sha256}", sha256hex, "{url}", (&url.URL{Scheme: "https", Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String()}
	parts := strings.Split(u.EscapedPath(), "/") // "", owner, repo, releases, download, tag, file
	release := hostOf(u) == "github.com" && len(parts) == 7 && parts[3] == "releases" && parts[4] == "download"
	if release {
		fill = append(fill, "{owner}", parts[1], "{repo}", parts[2])
	} else if h.needsRelease() {
		return nil, false
	}
	return strings.NewReplacer(fill...), true
}

// needsRelease says whether the rule is of use for releases alone.
func (h HostRule) needsRelease() bool {
	texts := slices.Clone(h.Bundles)
	for _, p := range h.Publishers {
		texts = append(texts, p.Shorthand)
	}
	all := strings.Join(texts, " ")
	return strings.Contains(all, "{owner}") || strings.Contains(all, "{repo}")
}
