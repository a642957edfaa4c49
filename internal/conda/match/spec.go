package match

import (
	"regexp"
	"strings"
)

// maxSpec is the longest dependency that is read, in bytes.
const maxSpec = 8192

// Spec is a dependency as it stands in a record's depends or constrains. It is immutable and may be copied; the zero Spec
// matches every version and names nothing.
type Spec struct {
	// Name is the package's name, in lower case.
	Name string
	// Channel is what stands before "::" or in the fields channel and subdir, "" if nothing does. Match does not look at it.
	Channel string

	text    string
	version *expression
	build   *buildTest
	number  *numberTest
}

// ParseSpec reads a dependency as conda's MatchSpec does, in any of its forms:
//
//	name
//	name version-expression          name>=1.2,<2  too
//	name version-expression build    name=1.2=build  too
//	name[version="…", build="…", build_number=…]
//
// A version expression is made of the operators >=, <=, >, <, ==, !=, ~= and =, of versions, of versions that end in "*" or
// hold one, of regular expressions from "^" to "$", all joined by "," (and), "|" (or) and parentheses. =1.2 and 1.2.* mean
// what starts with 1.2, but "name =1.2 build" with a build means 1.2 itself. A build is exact, a glob with "*", or a regular expression.
// A field in brackets replaces what stands before them. What follows "#" or " if " is dropped.
//
// The fields when, extras and flags (CEP 43, 44, 45) and optional are read over: they do not say which record matches. Other
// fields (md5, license, …) are refused, since Match could not keep them. An error is an *Error.
func ParseSpec(text string) (Spec, error) {
	s, reason := parseSpec(text)
	if reason != "" {
		return Spec{}, bad(text, "%s", reason)
	}
	s.text = text
	return s, nil
}

// String is the text that was parsed.
func (s Spec) String() string { return s.text }

// Match reports whether a record of the name s.Name, with this version, build and build number, satisfies s.
func (s Spec) Match(version Version, build string, buildNumber int64) bool {
	return (s.version == nil || s.version.match(version)) &&
		(s.build == nil || s.build.match(build)) &&
		(s.number == nil || s.number.match(buildNumber))
}

func parseSpec(text string) (s Spec, reason string) {
	switch {
	case len(text) > maxSpec:
		return s, "longer than 8192 bytes"
	case strings.ContainsAny(text, "\n\r\x00"):
		return s, "a control character"
	}
	fields, text, reason := cutBrackets(text)
	if reason != "" {
		return s, reason
	}
	text, _, _ = strings.Cut(text, "#")
	text, _, _ = strings.Cut(text, " if ")
	if strings.HasSuffix(text, ".conda") || strings.HasSuffix(text, ".tar.bz2") || strings.HasSuffix(text, "@") {
		return s, "a file or a feature, no package name"
	}
	// The last colon but one ends the channel; what is between them is a namespace, which no record has.
	if i := strings.LastIndexByte(text, ':'); i >= 0 {
		s.Channel, text = strings.TrimSuffix(text[:i], ":"), text[i+1:]
	}
	end := strings.IndexAny(text, " =<>!~")
	if end < 0 {
		end = len(text)
	}
	s.Name = strings.ToLower(text[:end])
	switch {
	case s.Name == "":
		return s, "no package name"
	case strings.ContainsAny(s.Name, "*^$[](),|\"'"):
		return s, "the package name is a pattern"
	}
	rest := ""
	// An operator with nothing behind it says nothing ("name="), as in conda.
	if len(text) > end+1 {
		rest = strings.TrimSpace(text[end:])
	}
	version, build := cutBuild(rest)
	if fields.has("version") {
		version = fields.version
	}
	if fields.has("build") {
		build = fields.build
	}
	if fields.Channel != "" {
		s.Channel = fields.Channel
	}
	if version != "" {
		e, reason := parseExpression(version)
		if reason != "" {
			return s, reason
		}
		if e.test != always {
			s.version = &e
		}
	}
	if build != "" {
		if s.build, reason = newBuildTest(build); reason != "" {
			return s, reason
		}
	}
	if fields.has("build_number") {
		s.number, reason = newNumberTest(fields.number)
	}
	return s, reason
}

// cutBuild splits "version build" and "version=build", and says = in the way of expressions. A build begins at the first
// blank or "=" that follows no operator and has none, nor a comma, bar or hyphen, behind it.
func cutBuild(s string) (version, build string) {
	version = s
	for i := 1; i < len(s)-1; i++ {
		if (s[i] == ' ' || s[i] == '=') && !strings.ContainsRune("=!|,<>~", rune(s[i-1])) && !strings.ContainsAny(s[i+1:], "-=,|<>~") {
			version, build = s[:i], strings.TrimSpace(s[i+1:])
			break
		}
	}
	version = strings.ReplaceAll(version, " ", "")
	bare := strings.TrimLeft(version, "=")
	switch {
	case bare == version || bare == "":
	case strings.HasPrefix(version, "==") && build == "":
		return bare, build
	case !strings.ContainsAny(bare, "=,|"):
		if build == "" && !strings.HasSuffix(bare, "*") {
			bare += "*"
		}
		return bare, build
	}
	return version, build
}

// buildTest is an exact build, a glob, or a regular expression. Case matters.
type buildTest struct {
	text  string
	glob  bool
	regex *regexp.Regexp
}

func newBuildTest(s string) (*buildTest, string) {
	if len(s) > 1 && s[0] == '^' && s[len(s)-1] == '$' {
		re, reason := compile(s)
		return &buildTest{regex: re}, reason
	}
	return &buildTest{text: s, glob: strings.Contains(s, "*")}, ""
}

func (t *buildTest) match(build string) bool {
	switch {
	case t.regex != nil:
		return t.regex.MatchString(build)
	case t.glob:
		return globMatch(t.text, build)
	}
	return t.text == build
}
