package conda

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/hallmark-attest/hallmark/internal/strictjson"
)

// About is what a channel's channeldata.json (CEP 38) says of a package, as far as one package can say it. Encoded as JSON it has CEP 38's fields, without
// those that are empty and optional.
type About struct {
	DevURL    string `json:"dev_url,omitempty"`
	DocURL    string `json:"doc_url,omitempty"`
	Home      string `json:"home,omitempty"`
	License   string `json:"license,omitempty"`
	SourceURL URLs   `json:"source_url,omitempty"`
	Summary   string `json:"summary,omitempty"`
	// Timestamp is Unix time in seconds, 0 if the package has none.
	Timestamp int64 `json:"timestamp"`

	ActivateD    bool `json:"activate.d"`
	DeactivateD  bool `json:"deactivate.d"`
	BinaryPrefix bool `json:"binary_prefix"`
	TextPrefix   bool `json:"text_prefix"`
	PostLink     bool `json:"post_link"`
	PreLink      bool `json:"pre_link"`
	PreUnlink    bool `json:"pre_unlink"`

	// RunExports is the CEP 12 object of this package's version, "{}" if it has none.
	RunExports json.RawMessage `json:"run_exports"`
}

// URLs is CEP 38's "str | list[str]": as JSON, one is a string and several are a list.
type URLs []string

// MarshalJSON implements json.Marshaler.
func (u URLs) MarshalJSON() ([]byte, error) {
	if len(u) == 1 {
		return encode(u[0])
	}
	return encode([]string(u))
}

// AboutFiles are the files that Describe looks at, for ReadInfo.
func AboutFiles() []string {
	return append([]string{fileIndex, fileAbout, filePaths, fileRunExports}, recipes[:]...)
}

// recipes are where the sources are named, best first: rattler-build's rendered recipe, then conda-build's of various times.
var recipes = [...]string{"recipe/rendered_recipe.yaml", "recipe/meta.yaml.rendered", "recipe/meta.yaml", "meta.yaml"}

// maxRecipe is how large a recipe may be in bytes; what YAML makes of it takes a hundred times that.
const maxRecipe = 1 << 20

// maxSeconds is the end of the year 9999 in seconds: a timestamp above it is in milliseconds, as CEP 34 says they all are.
const maxSeconds = 253402300799

// Describe makes an About of a package's files. index.json is needed, for the name; other files may be missing, and say nothing then.
//
//   - dev_url, doc_url, home and summary are about.json's; of a list, as rattler-build writes, the first. A summary is put on one line.
//   - license is index.json's, else about.json's.
//   - source_url is every URL that the rendered recipe fetched its sources from. A recipe that is no YAML, a template, or larger than 1 MiB says nothing.
//   - the scripts are files of paths.json with the places and names that CEP 34 gives them.
//   - binary_prefix and text_prefix: a file of paths.json has a prefix placeholder and that mode, text being the default.
//
// An error is made of *Errors, one for each file that is not what CEP 34 says; the About has what the others say. It is safe for a channel to take it then: what is missing
// in a channeldata.json misleads nobody, and the record does not depend on it.
func Describe(files Files) (About, error) {
	a := About{RunExports: json.RawMessage("{}")}
	var errs []error
	index, err := object(files, fileIndex, CodeIndexInvalid)
	name, _ := index["name"].(string)
	if err == nil && name == "" {
		err = refuse(CodeIndexInvalid, "info/index.json has no name")
	}
	errs = append(errs, err)
	if ts, ok := natural(index["timestamp"]); ok {
		if ts > maxSeconds {
			ts /= 1000
		}
		a.Timestamp = ts
	}

	about, err := object(files, fileAbout, CodeInfoInvalid)
	errs = append(errs, err)
	a.DevURL, a.DocURL, a.Home = text(about["dev_url"]), text(about["doc_url"]), text(about["home"])
	a.License = text(index["license"])
	if a.License == "" {
		a.License = text(about["license"])
	}
	a.Summary = oneLine(about["summary"])
	a.SourceURL = sourceURLs(files)
	if len(a.SourceURL) == 0 {
		a.SourceURL = urls(about["source_url"])
	}

	errs = append(errs, a.paths(files[filePaths], name))
	if runExports, err := RunExports(files[fileRunExports]); err == nil {
		a.RunExports = runExports
	} else {
		errs = append(errs, err)
	}
	return a, errors.Join(errs...)
}

// object decodes a file that is a JSON object. A file that is not there is an empty one.
func object(files Files, file, code string) (map[string]any, error) {
	raw, ok := files[file]
	if !ok {
		return nil, nil
	}
	m, err := strictjson.DecodeObject(raw)
	if err != nil {
		return nil, refuse(code, "info/%s: %w", file, err)
	}
	return m, nil
}

// text is a string, or the first string of a list of them.
func text(v any) string {
	switch v := v.(type) {
	case string:
		return strings.TrimSpace(v)
	case []any:
		for _, e := range v {
			if s, ok := e.(string); ok && s != "" {
				return strings.TrimSpace(s)
			}
		}
	}
	return ""
}

func oneLine(v any) string {
	if list, ok := v.([]any); ok { // conda-build takes them, and joins them
		var b strings.Builder
		for _, e := range list {
			s, _ := e.(string)
			b.WriteString(s)
		}
		v = b.String()
	}
	s, _ := v.(string)
	return strings.ReplaceAll(strings.TrimSpace(s), "\n", " ")
}

func urls(v any) (out URLs) {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	for _, e := range list {
		if s, _ := e.(string); isURL(s) {
			out = append(out, s)
		}
	}
	return out
}

// isURL keeps out what a template has not been filled in, and what is a path.
func isURL(s string) bool {
	return strings.Contains(s, "://") && !strings.ContainsAny(s, " \t\r\n") && !strings.Contains(s, "{{")
}

// sourceURLs are those of the best recipe that names any.
func sourceURLs(files Files) URLs {
	for _, r := range recipes {
		if len(files[r]) > maxRecipe {
			continue
		}
		var doc yaml.Node
		if err := yaml.Unmarshal(files[r], &doc); err != nil || len(doc.Content) == 0 {
			continue
		}
		root := doc.Content[0]
		sources := field(root, "finalized_sources") // rattler-build
		if sources == nil {
			sources = field(root, "source")
		}
		var out URLs
		for _, source := range items(sources) {
			for _, u := range items(field(source, "url")) {
				if u.Kind == yaml.ScalarNode && isURL(u.Value) {
					out = append(out, u.Value)
				}
			}
		}
		if len(out) > 0 {
			return out
		}
	}
	return nil
}

// field is the value of a mapping's key, or nil. Nodes are looked at as they are written, so that no alias is ever expanded.
func field(n *yaml.Node, key string) *yaml.Node {
	if n = resolved(n); n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// items are a list's, or the one that is none.
func items(n *yaml.Node) []*yaml.Node {
	if n = resolved(n); n == nil {
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		return []*yaml.Node{n}
	}
	out := make([]*yaml.Node, 0, len(n.Content))
	for _, c := range n.Content {
		if c = resolved(c); c != nil {
			out = append(out, c)
		}
	}
	return out
}

func resolved(n *yaml.Node) *yaml.Node {
	if n != nil && n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// pathEntry is what matters here of an entry of paths.json.
type pathEntry struct {
	Path        string  `json:"_path"`
	Placeholder *string `json:"prefix_placeholder"`
	Mode        *string `json:"file_mode"`
}

// paths reads paths.json entry by entry, for it can have hundreds of thousands.
func (a *About) paths(raw []byte, name string) error {
	if raw == nil {
		return nil
	}
	err := eachPath(raw, func(e pathEntry) {
		if e.Placeholder != nil && *e.Placeholder != "" {
			binary := e.Mode != nil && *e.Mode == "binary"
			a.BinaryPrefix = a.BinaryPrefix || binary
			a.TextPrefix = a.TextPrefix || !binary
		}
		a.ActivateD = a.ActivateD || strings.HasPrefix(e.Path, "etc/conda/activate.d/")
		a.DeactivateD = a.DeactivateD || strings.HasPrefix(e.Path, "etc/conda/deactivate.d/")
		switch action(e.Path, name) {
		case "post-link":
			a.PostLink = true
		case "pre-link":
			a.PreLink = true
		case "pre-unlink":
			a.PreUnlink = true
		}
	})
	if err != nil {
		return refuse(CodeInfoInvalid, "info/paths.json: %w", err)
	}
	return nil
}

// action is what a link script of the package is for (CEP 34), or "".
func action(p, name string) string {
	script, ok := strings.CutPrefix(p, "bin/."+name+"-")
	end := ".sh"
	if !ok {
		script, ok = strings.CutPrefix(p, "Scripts/."+name+"-")
		end = ".bat"
	}
	script, isScript := strings.CutSuffix(script, end)
	if !ok || !isScript {
		return ""
	}
	return script
}

// eachPath calls f for each entry of the list "paths".
func eachPath(raw []byte, f func(pathEntry)) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	if err := delimiter(d, '{'); err != nil {
		return err
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		if key != "paths" {
			var skipped json.RawMessage
			if err := d.Decode(&skipped); err != nil {
				return err
			}
			continue
		}
		if err := delimiter(d, '['); err != nil {
			return err
		}
		for d.More() {
			var e pathEntry
			if err := d.Decode(&e); err != nil {
				return err
			}
			f(e)
		}
		if err := delimiter(d, ']'); err != nil {
			return err
		}
	}
	if err := delimiter(d, '}'); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one JSON value")
	}
	return nil
}

func delimiter(d *json.Decoder, want json.Delim) error {
	t, err := d.Token()
	if err == nil && t != want {
		err = fmt.Errorf("%v is where %v should be", t, want)
	}
	return err
}
