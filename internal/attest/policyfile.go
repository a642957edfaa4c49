package attest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// PolicyVersion is the version of policy files that is read and written.
const PolicyVersion = 1

const (
	maxFaults  = 20  // of one file that are told
	maxSigners = 500 // in one list
)

// Fault is one thing that is wrong with a policy file.
type Fault struct {
	File         string // the name that ParsePolicy was given
	Line, Column int    // from 1; a Column of 0 is unknown
	Path         string // the key, as in signers[0].issuer; "" is the file itself
	Message      string
}

// Error gives file:line:column: path: message.
func (f *Fault) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d:", f.File, f.Line)
	if f.Column > 0 {
		fmt.Fprintf(&b, "%d:", f.Column)
	}
	if f.Path != "" {
		fmt.Fprintf(&b, " %s:", f.Path)
	}
	return b.String() + " " + f.Message
}

// ParsePolicy reads a policy file (docs/policy.md): YAML, or JSON, which is YAML. Name is what the file is called in
// messages. What it gives has passed Policy.Check, and cannot have IdentityRegexp or IssuerRegexp: patterns in a file are
// for the whole text.
//
// It is strict, because what is overlooked in a policy lets somebody in: unknown and repeated keys, other types than the
// expected, empty texts, explicit tags, anchors and aliases, a second document, tabs as indentation and more than MaxPolicy
// bytes are refused. The error is an *Error with CodePolicyEmpty (nothing in it, or no signers) or CodePolicyInvalid; it
// wraps a *Fault with line and column for each of the first 20 things that are wrong. The arguments are not changed, and
// it is safe for concurrent use.
func ParsePolicy(name string, data []byte) (Policy, error) {
	r := &policyReader{file: name}
	var p Policy
	if root := r.document(data); root != nil {
		p = r.policy(root)
	}
	if err := r.err(); err != nil {
		return Policy{}, err
	}
	// What is left to be found is what the parts do not show each by itself.
	if err := p.Check(); err != nil {
		return Policy{}, refuse(CodeOf(err), fmt.Errorf("%s: %w", name, errors.Unwrap(err)), "")
	}
	return p, nil
}

// policyReader collects what is wrong, so that it can be told all at once.
type policyReader struct {
	file    string
	faults  []*Fault
	empties int // of the faults: something is empty
}

func (r *policyReader) err() error {
	if len(r.faults) == 0 {
		return nil
	}
	slices.SortStableFunc(r.faults, func(a, b *Fault) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Path, b.Path))
	})
	var list []error
	for _, f := range r.faults[:min(len(r.faults), maxFaults)] {
		list = append(list, f)
	}
	if more := len(r.faults) - maxFaults; more > 0 {
		list = append(list, fmt.Errorf("%s: and %d more", r.file, more))
	}
	code, hint := CodePolicyInvalid, ""
	if r.empties == len(r.faults) {
		code, hint = CodePolicyEmpty, "an empty policy denies everybody: name who may sign, below signers"
	}
	return refuse(code, errors.Join(list...), hint)
}

func (r *policyReader) faultAt(line, column int, path, format string, args ...any) {
	r.faults = append(r.faults, &Fault{File: r.file, Line: line, Column: column, Path: path, Message: fmt.Sprintf(format, args...)})
}

func (r *policyReader) fault(n *yaml.Node, path, format string, args ...any) {
	r.faultAt(n.Line, n.Column, path, format, args...)
}

// empty is a fault for which the whole policy counts as empty, unless something else is wrong as well.
func (r *policyReader) empty(line, column int, path, message string) {
	r.empties++
	r.faultAt(line, column, path, "%s", message)
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// document gives the one document's mapping, or nil after a fault. No alias is expanded: nodes are as they are written.
func (r *policyReader) document(data []byte) *yaml.Node {
	if !r.text(data) {
		return nil
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	switch err := d.Decode(&doc); {
	case errors.Is(err, io.EOF):
		r.empty(1, 1, "", "the policy is empty")
		return nil
	case err != nil:
		r.syntax(err)
		return nil
	}
	switch err := d.Decode(&second); {
	case err == nil:
		r.faultAt(second.Line, second.Column, "", "a second YAML document: a policy is one")
		return nil
	case !errors.Is(err, io.EOF):
		r.syntax(err)
		return nil
	}
	root := doc.Content[0]
	if root.ShortTag() == "!!null" && root.Anchor == "" {
		r.empty(root.Line, root.Column, "", "the policy is empty")
		return nil
	}
	return root
}

// text refuses what the YAML reader would not give a place for.
func (r *policyReader) text(data []byte) bool {
	if len(data) > MaxPolicy {
		r.faultAt(1, 0, "", "the policy has %d bytes, more than %d", len(data), MaxPolicy)
		return false
	}
	for i, line := range bytes.Split(data, []byte("\n")) {
		indent := line[:len(line)-len(bytes.TrimLeft(line, " \t"))]
		if at := bytes.IndexByte(indent, '\t'); at >= 0 && len(indent) < len(bytes.TrimSuffix(line, []byte("\r"))) {
			r.faultAt(i+1, at+1, "", "a tab: YAML is indented with blanks")
			return false
		}
		column := 1
		for rest := line; len(rest) > 0; column++ {
			c, size := utf8.DecodeRune(rest)
			if c == utf8.RuneError && size <= 1 {
				r.faultAt(i+1, column, "", "this is not UTF-8")
				return false
			}
			if unicode.IsControl(c) && c != '\t' && c != '\r' {
				r.faultAt(i+1, column, "", "a control character, %U", c)
				return false
			}
			rest = rest[size:]
		}
	}
	return true
}

func (r *policyReader) syntax(err error) {
	line := 1
	where := yamlLine.FindStringSubmatch(err.Error())
	if where != nil && where[1] != "" {
		line, _ = strconv.Atoi(where[1])
	}
	message := err.Error()
	if where != nil {
		message = message[len(where[0]):]
	}
	if strings.HasPrefix(message, "unknown anchor") { // it has no line
		r.faultAt(line, 0, "", "an alias without an anchor; neither is allowed in a policy")
		return
	}
	r.faultAt(line, 0, "", "not YAML, here or in the next line: %s", message)
}

// plain refuses what a reader could take for something else than what stands there.
func (r *policyReader) plain(n *yaml.Node, path string) bool {
	switch {
	case n.Kind == yaml.AliasNode:
		r.fault(n, path, "an alias: write it out")
	case n.Anchor != "":
		r.fault(n, path, "an anchor: write it out where it is used")
	case n.Style&yaml.TaggedStyle != 0:
		r.fault(n, path, "an explicit tag, %.40s: leave it out", n.Tag)
	default:
		return true
	}
	return false
}

// mapping gives a mapping's values by key. Of a repeated key it is the first.
func (r *policyReader) mapping(n *yaml.Node, path string, known ...string) map[string]*yaml.Node {
	if !r.plain(n, path) {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		r.fault(n, path, "%s, where a mapping with some of %s should be", kindOf(n), strings.Join(known, ", "))
		return nil
	}
	values := map[string]*yaml.Node{}
	lines := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch {
		case !r.plain(key, path):
		case key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str":
			r.fault(key, path, "a key that is %s, not a text%s", kindOf(key), hintMerge(key))
		case lines[key.Value] > 0:
			r.fault(key, join(path, key.Value), "the key is in line %d already", lines[key.Value])
		case !slices.Contains(known, key.Value):
			r.fault(key, join(path, fmt.Sprintf("%.100s", key.Value)), "unknown key%s; there are %s", hintKey(key.Value), strings.Join(known, ", "))
		default:
			values[key.Value] = value
		}
		if key.Kind == yaml.ScalarNode && lines[key.Value] == 0 {
			lines[key.Value] = key.Line
		}
	}
	return values
}

func hintMerge(key *yaml.Node) string {
	if key.Value == "<<" {
		return "; nothing is merged into a policy"
	}
	return ""
}

// hintKey helps with what people are known to write.
func hintKey(key string) string {
	switch key {
	case "github", "gitlab":
		return fmt.Sprintf(" (a shorthand has no blank behind the colon: %s:owner/repo)", key)
	case "repository":
		return " (the claim is called " + claimRepository + ")"
	case "ref":
		return " (the claim is called " + claimRef + ")"
	case "owner":
		return " (the claim is called sourceRepositoryOwner)"
	case "workflow":
		return " (the workflow is the claim buildConfigURI; who signs, if that is a reusable one, is buildSignerURI)"
	case "identityRegexp", "issuerRegexp":
		return " (in a file it is called " + strings.Replace(key, "Regexp", "Pattern", 1) + ", and is for the whole text)"
	}
	return ""
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// list gives a sequence's items; none is a fault.
func (r *policyReader) list(n *yaml.Node, path, of string) []*yaml.Node {
	switch {
	case !r.plain(n, path):
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null":
		r.empty(n.Line, n.Column, path, "no "+of)
	case n.Kind != yaml.SequenceNode:
		r.fault(n, path, "%s, where a list of %s should be", kindOf(n), of)
	case len(n.Content) == 0:
		r.empty(n.Line, n.Column, path, "an empty list of "+of)
	case len(n.Content) > maxSigners:
		r.fault(n, path, "%d %s, more than %d", len(n.Content), of, maxSigners)
	default:
		return n.Content
	}
	return nil
}

// string gives a text that is not empty; "" follows a fault.
func (r *policyReader) string(n *yaml.Node, path string) string {
	switch {
	case !r.plain(n, path):
	case n.Kind != yaml.ScalarNode:
		r.fault(n, path, "%s, where a text should be", kindOf(n))
	case n.ShortTag() == "!!null":
		r.fault(n, path, "nothing, where a text should be")
	case n.ShortTag() != "!!str":
		r.fault(n, path, "%s, where a text should be: put it in quotes", kindOf(n))
	case n.Value == "":
		r.fault(n, path, "an empty text")
	case strings.TrimSpace(n.Value) != n.Value || strings.ContainsFunc(n.Value, unicode.IsControl):
		r.fault(n, path, "a text with blanks around it, or with line breaks: nothing would ever be the same")
	default:
		return n.Value
	}
	return ""
}

func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	switch n.ShortTag() {
	case "!!str":
		return "a text"
	case "!!int", "!!float":
		return "a number"
	case "!!bool":
		return "a boolean"
	case "!!timestamp":
		return "a date"
	case "!!null":
		return "nothing"
	case "!!merge":
		return "a merge key"
	}
	return "a " + n.ShortTag()
}
