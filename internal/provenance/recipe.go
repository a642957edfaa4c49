package provenance

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/conda"
)

// Where the files are, below info/.
const (
	renderedRecipe = "recipe/rendered_recipe.yaml"
	writtenRecipe  = "recipe/recipe.yaml"
	metaRecipe     = "recipe/meta.yaml"
	attestations   = "recipe/attestations/"
)

// Files are the files of info/ that Recipe and Checker.Check look at, for conda.ReadInfo.
func Files() []string { return []string{renderedRecipe, writtenRecipe, metaRecipe, attestations} }

// Recipe gives the URL sources that a package was built from, of the best account that it holds: the rendered recipe, else
// what conda-build left as meta.yaml, else the recipe as it was written. Blocks that the written recipe has and a renderer
// that does not know them dropped are found by the source's sha256.
//
// What is wrong with one block is that source's Err; the error, an *Error, is for a recipe that cannot be read at all. A
// meta.yaml that is a template has no sources to tell, which is no error: it cannot have attestation blocks.
func Recipe(files conda.Files) ([]Source, error) {
	rendered, ok := files[renderedRecipe]
	if !ok {
		if meta, ok := files[metaRecipe]; ok {
			if list, err := parseRecipe(meta); err == nil {
				return list, nil
			} else if _, written := files[writtenRecipe]; !written {
				if err.Code == CodeRecipeTooLarge {
					return nil, err
				}
				return nil, nil
			}
		}
		written, ok := files[writtenRecipe]
		if !ok {
			return nil, nil
		}
		return asSources(parseRecipe(written))
	}
	list, err := parseRecipe(rendered)
	if err != nil {
		return nil, err
	}
	written, err := parseRecipe(files[writtenRecipe])
	if err != nil {
		return list, nil // a template; the rendered one counts
	}
	for _, w := range written {
		if w.Attestation == nil && w.Err == nil {
			continue
		}
		for i, s := range list {
			if s.Attestation == nil && s.Err == nil && s.SHA256 != "" && s.SHA256 == w.SHA256 {
				list[i].Attestation, list[i].Err = w.Attestation, w.Err
			}
		}
	}
	return list, nil
}

// asSources keeps a nil *Error from becoming an error that is not nil.
func asSources(list []Source, err *Error) ([]Source, error) {
	if err != nil {
		return nil, err
	}
	return list, nil
}

// parseRecipe reads the sources of one file of YAML, wherever a recipe of either format may have them.
func parseRecipe(data []byte) ([]Source, *Error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, nil
	}
	if len(data) > maxRecipe {
		return nil, refuse(CodeRecipeTooLarge, "", "the recipe has %d bytes, more than %d", len(data), maxRecipe)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, refuse(CodeRecipeMalformed, "", "the recipe is not YAML: %s", clip(err.Error(), 200))
	}
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, refuse(CodeRecipeMalformed, "", "the recipe has more than one document")
	}
	r := recipeReader{}
	if len(doc.Content) > 0 {
		root := resolved(doc.Content[0])
		if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
			return nil, nil
		}
		if root.Kind != yaml.MappingNode {
			return nil, refuse(CodeRecipeMalformed, "", "the recipe is not a mapping")
		}
		r.walk(root, 0)
	}
	if r.err != nil {
		return nil, r.err
	}
	return r.list, nil
}

// recipeReader collects sources. Nodes are looked at as they are written, so that no alias is ever multiplied.
type recipeReader struct {
	list  []Source
	nodes int
	err   *Error
}

// containers hold recipes, or parts that have sources of their own.
var containers = []string{"recipe", "outputs", "cache", "staging", "staging_caches"}

func (r *recipeReader) walk(n *yaml.Node, depth int) {
	if r.nodes++; r.nodes > 10_000 || depth > 8 {
		r.fail(refuse(CodeRecipeTooLarge, "", "the recipe has too many parts"))
		return
	}
	n = resolved(n)
	switch n.Kind {
	case yaml.SequenceNode:
		for _, c := range n.Content {
			r.walk(c, depth+1)
		}
	case yaml.MappingNode:
		m, err := fields(n)
		if err != nil {
			r.fail(err)
			return
		}
		for _, key := range []string{"finalized_sources", "finalized_cache_sources", "source"} {
			if v, ok := m[key]; ok {
				r.sources(v, depth+1)
			}
		}
		for _, key := range append(containers, "then", "else") {
			if v, ok := m[key]; ok {
				r.walk(v, depth+1)
			}
		}
	}
}

func (r *recipeReader) fail(err *Error) {
	if r.err == nil {
		r.err = err
	}
}

// sources reads a source, a list of them, or one that depends on a condition. Which way that went is not known: both count.
func (r *recipeReader) sources(n *yaml.Node, depth int) {
	if r.nodes++; r.nodes > 10_000 || depth > 8 || len(r.list) > maxSources {
		r.fail(refuse(CodeRecipeTooLarge, "", "the recipe has too many sources"))
		return
	}
	n = resolved(n)
	if n.Kind == yaml.SequenceNode {
		for _, c := range n.Content {
			r.sources(c, depth+1)
		}
		return
	}
	if n.Kind != yaml.MappingNode {
		return
	}
	m, err := fields(n)
	if err != nil {
		r.fail(err)
		return
	}
	if _, conditional := m["if"]; conditional {
		for _, key := range []string{"then", "else"} {
			if v, ok := m[key]; ok {
				r.sources(v, depth+1)
			}
		}
		return
	}
	if s, ok := readSource(m); ok {
		r.add(s)
	}
}

// add puts a source in the list, or together with the one that is there already: a rendered recipe tells each twice.
func (r *recipeReader) add(s Source) {
	for i, have := range r.list {
		if have.SHA256 != s.SHA256 || !slices.ContainsFunc(have.URLs, func(u string) bool { return slices.Contains(s.URLs, u) }) {
			continue
		}
		switch {
		case s.Attestation == nil && s.Err == nil:
			return
		case have.Attestation == nil && have.Err == nil:
			r.list[i].Attestation, r.list[i].Err = s.Attestation, s.Err
			return
		case have.Attestation.same(s.Attestation) && (have.Err == nil) == (s.Err == nil):
			if have.Attestation != nil && len(have.Attestation.Verified) == 0 {
				r.list[i].Attestation = s.Attestation
			}
			return
		}
	}
	r.list = append(r.list, s) // two accounts that differ both have to hold
}

func (a *Attestation) same(b *Attestation) bool {
	if a == nil || b == nil {
		return a == b
	}
	return slices.Equal(a.Publishers, b.Publishers) && slices.Equal(a.BundleURLs, b.BundleURLs) && a.PredicateType == b.PredicateType
}

var (
	hexSHA256 = regexp.MustCompile(`^[0-9a-f]{64}$`)
	template  = regexp.MustCompile(`\{\{|\{%`)
)

func readSource(m map[string]*yaml.Node) (s Source, ok bool) {
	block := m["attestation"]
	if block != nil && isNull(block) {
		block = nil
	}
	s.URLs = texts(m["url"])
	if len(s.URLs) == 0 {
		if block == nil {
			return s, false // git, path, or nothing
		}
		s.URLs = append(texts(m["git"]), append(texts(m["git_url"]), texts(m["path"])...)...)
		s.Err = refuse(CodeRecipeNotURL, "", "an attestation block is on a source that has no url")
		return s, true
	}
	sha := texts(m["sha256"])
	if len(sha) == 1 {
		s.SHA256 = attest.LowerASCII(sha[0])
	}
	if block == nil {
		if slices.ContainsFunc(s.URLs, template.MatchString) {
			return s, false // asks for nothing, and says nothing that could be looked up
		}
		if !hexSHA256.MatchString(s.SHA256) {
			s.SHA256 = ""
		}
		return s, true
	}
	switch {
	case template.MatchString(s.SHA256):
		s.SHA256, s.Err = "", refuse(CodeRecipeTemplate, "the package holds no rendered recipe", "the sha256 of a source with an attestation block is a template")
	case s.SHA256 == "":
		s.Err = refuse(CodeRecipeNoSHA256, "declare the archive's sha256 beside the attestation block", "a source has an attestation block and no sha256")
	case !hexSHA256.MatchString(s.SHA256):
		s.SHA256, s.Err = "", refuse(CodeRecipeNoSHA256, "", "the sha256 of a source with an attestation block is none")
	default:
		s.Attestation, s.Err = readAttestation(block)
	}
	return s, true
}

func readAttestation(n *yaml.Node) (*Attestation, *Error) {
	m, err := fields(n)
	if err != nil {
		return nil, err
	}
	if resolved(n).Kind != yaml.MappingNode {
		return nil, refuse(CodeRecipeMalformed, "", "an attestation block is not a mapping")
	}
	a := new(Attestation)
	for key, v := range m {
		switch key {
		case "publishers", "verified":
		case "bundle_url", "predicate_type":
			list, ok := strictTexts(v)
			if !ok || len(list) > maxBundleURLs || key == "predicate_type" && (len(list) > 1 || resolved(v).Kind == yaml.SequenceNode) {
				return nil, refuse(CodeRecipeMalformed, "", "%s of an attestation block is not of its form", key)
			}
			if slices.ContainsFunc(list, template.MatchString) {
				return nil, refuse(CodeRecipeTemplate, "the package holds no rendered recipe", "%s of an attestation block is a template", key)
			}
			if key == "bundle_url" {
				a.BundleURLs = list
			} else if len(list) == 1 {
				a.PredicateType = list[0]
			}
		default:
			return nil, refuse(CodeRecipeField, "it may be a constraint, and so is not ignored", "an attestation block has the unknown key %q", clip(key, 100))
		}
	}
	if a.Publishers, err = readPublishers(m["publishers"]); err != nil {
		return nil, err
	}
	a.Verified = readEmbedded(m["verified"])
	return a, nil
}

func readPublishers(n *yaml.Node) ([]Publisher, *Error) {
	if n == nil || isNull(n) || len(resolved(n).Content) == 0 && resolved(n).Kind != yaml.ScalarNode {
		return nil, refuse(CodePublishersEmpty, "name who must have published the source", "an attestation block names no publishers, and so nobody is trusted")
	}
	n = resolved(n)
	if n.Kind != yaml.SequenceNode {
		return nil, refuse(CodeRecipeMalformed, "", "publishers of an attestation block is not a list")
	}
	if len(n.Content) > maxPublishers {
		return nil, refuse(CodeRecipeTooLarge, "", "an attestation block has more than %d publishers", maxPublishers)
	}
	var list []Publisher
	for _, c := range n.Content {
		p, err := readPublisher(resolved(c))
		if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}

func readPublisher(n *yaml.Node) (p Publisher, err *Error) {
	if n.Kind == yaml.ScalarNode {
		if template.MatchString(n.Value) {
			return p, refuse(CodeRecipeTemplate, "the package holds no rendered recipe", "a publisher is a template")
		}
		p, err := ParsePublisher(n.Value)
		if err != nil {
			return p, err.(*Error) // it gives no other
		}
		return p, nil
	}
	m, err := fields(n)
	if err != nil {
		return p, err
	}
	for key, v := range m {
		v = resolved(v)
		if v.Kind != yaml.ScalarNode || isNull(v) {
			return p, refuse(CodePublisher, "", "a publisher's %s is not a text", clip(key, 100))
		}
		switch key {
		case "identity":
			p.Identity = v.Value
		case "issuer":
			p.Issuer = v.Value
		default:
			return p, refuse(CodeRecipeField, "it may be a constraint, and so is not ignored", "a publisher has the unknown key %q", clip(key, 100))
		}
		if template.MatchString(v.Value) {
			return p, refuse(CodeRecipeTemplate, "the package holds no rendered recipe", "a publisher is a template")
		}
	}
	return p, p.check()
}

// readEmbedded reads the index of embedded bundles. It proves nothing, so what is not of its form is left out; the bundles
// are found by their names as well.
func readEmbedded(n *yaml.Node) (list []Embedded) {
	if n = resolved(n); n == nil || n.Kind != yaml.SequenceNode {
		return nil
	}
	for _, c := range n.Content[:min(len(n.Content), maxBundles)] {
		m, err := fields(c)
		if err != nil {
			continue
		}
		if p, sha := texts(m["path"]), texts(m["sha256"]); len(p) == 1 && len(sha) == 1 && strings.HasPrefix("recipe/"+p[0], attestations) {
			list = append(list, Embedded{Path: p[0], SHA256: attest.LowerASCII(sha[0])})
		}
	}
	return list
}
