package match

import (
	"regexp"
	"strings"
)

// expression is a version expression: a test, or several joined by "," (and) or "|" (or).
type expression struct {
	test    test
	version Version
	// prefix is what ~= demands besides: y without its last component.
	prefix  Version
	pattern string
	regex   *regexp.Regexp
	parts   []expression
}

type test uint8

const (
	always test = iota
	equal
	notEqual
	less
	lessEqual
	greater
	greaterEqual
	startsWith
	notStartsWith
	compatible
	glob
	regex
	all
	some
)

func (e *expression) match(v Version) bool {
	switch e.test {
	case always:
		return true
	case equal:
		return v.Compare(e.version) == 0
	case notEqual:
		return v.Compare(e.version) != 0
	case less:
		return v.Compare(e.version) < 0
	case lessEqual:
		return v.Compare(e.version) <= 0
	case greater:
		return v.Compare(e.version) > 0
	case greaterEqual:
		return v.Compare(e.version) >= 0
	case startsWith:
		return v.HasPrefix(e.version)
	case notStartsWith:
		return !v.HasPrefix(e.version)
	case compatible:
		return v.Compare(e.version) >= 0 && v.HasPrefix(e.prefix)
	case glob:
		return globMatch(e.pattern, v.text)
	case regex:
		return e.regex.MatchString(v.text)
	case all:
		for i := range e.parts {
			if !e.parts[i].match(v) {
				return false
			}
		}
		return true
	default:
		for i := range e.parts {
			if e.parts[i].match(v) {
				return true
			}
		}
		return false
	}
}

// parseExpression reads a version expression as conda's VersionSpec does. "," binds stronger than "|", parentheses group.
// reason is empty if it could be read.
func parseExpression(text string) (e expression, reason string) {
	if !strings.ContainsAny(text, "()|,^$") {
		return parseTest(strings.TrimSpace(text))
	}
	// Two stacks: of what is done, and of what is open.
	var done []expression
	open := []byte{'('}
	// join applies the open operators down to one of the bytes in stop.
	join := func(stop string) bool {
		for len(open) > 0 && strings.IndexByte(stop, open[len(open)-1]) < 0 {
			if len(done) < 2 {
				return false
			}
			kind := all
			if open[len(open)-1] == '|' {
				kind = some
			}
			open = open[:len(open)-1]
			right := done[len(done)-1]
			left := &done[len(done)-2]
			done = done[:len(done)-1]
			if left.test == kind {
				left.parts = append(left.parts, right)
			} else {
				*left = expression{test: kind, parts: []expression{*left, right}}
			}
		}
		return true
	}
	const lone = "an operator without two sides"
	operand := true // whether an operand has to follow
	rest := text
	for {
		rest = strings.TrimSpace(rest)
		if rest == "" {
			break
		}
		n := 1
		switch c := rest[0]; c {
		case '|', ',':
			stop := "("
			if c == ',' {
				stop = "|("
			}
			if operand || !join(stop) {
				return e, lone
			}
			open, operand = append(open, c), true
		case '(':
			if !operand {
				return e, "an operator is missing before a parenthesis"
			}
			open = append(open, '(')
		case ')':
			if operand || !join("(") {
				return e, lone
			}
			if len(open) < 2 {
				return e, "a parenthesis is closed that was not opened"
			}
			open = open[:len(open)-1]
		default:
			if !operand {
				return e, "an operator is missing after a parenthesis"
			}
			if c == '^' {
				// A regular expression may hold any of the separators.
				if end := strings.IndexByte(rest, '$'); end > 0 {
					n = end + 1
				}
			}
			if n == 1 {
				if n = strings.IndexAny(rest, "()|,"); n < 0 {
					n = len(rest)
				}
			}
			one, reason := parseTest(strings.TrimSpace(rest[:n]))
			if reason != "" {
				return e, reason
			}
			done, operand = append(done, one), false
		}
		rest = rest[n:]
	}
	switch {
	case operand || !join("("):
		return e, lone
	case len(open) != 1:
		return e, "a parenthesis is not closed"
	}
	return done[0], ""
}

// parseTest reads one comparison, prefix, glob or regular expression.
func parseTest(s string) (e expression, reason string) {
	if s == "" {
		return e, "an empty version expression"
	}
	switch first := s[0]; {
	case first == '^' || s[len(s)-1] == '$':
		if first != '^' || s[len(s)-1] != '$' {
			return e, `a regular expression starts with "^" and ends with "$"`
		}
		e.test = regex
		e.regex, reason = compile(s)
		return e, reason
	case strings.IndexByte("=<>!~", first) >= 0:
		return parseComparison(s)
	case s == "*":
		return expression{}, ""
	case strings.Contains(strings.TrimRight(s, "*"), "*"):
		return expression{test: glob, pattern: s}, ""
	case s[len(s)-1] == '*':
		// 1.2* means 1.2.*, so that 1.20 is no match.
		if !strings.HasSuffix(s, ".*") {
			s = s[:len(s)-1] + ".*"
		}
		e.test = startsWith
		e.version, reason = parseVersion(strings.TrimRight(strings.TrimRight(s, "*"), "."))
		return e, reason
	}
	e.test = equal
	e.version, reason = parseVersion(s)
	return e, reason
}

func parseComparison(s string) (e expression, reason string) {
	n := 1
	if len(s) > 1 && strings.IndexByte("=<>!~", s[1]) >= 0 {
		n = 2
	}
	operator, operand := s[:n], s[n:]
	switch operator {
	case "=":
		e.test = startsWith
	case "==":
		e.test = equal
	case "!=":
		e.test = notEqual
	case "<":
		e.test = less
	case "<=":
		e.test = lessEqual
	case ">":
		e.test = greater
	case ">=":
		e.test = greaterEqual
	case "~=":
		e.test = compatible
	default:
		return e, "an operator that is not known"
	}
	if operand == "" || strings.IndexByte("=<>!~", operand[0]) >= 0 || strings.ContainsAny(operand, " \t\r\n\v\f") {
		return e, "an operator without its version"
	}
	// A ".*" after an ordering says nothing and is dropped; after = it is what = means already.
	if base, ok := strings.CutSuffix(operand, ".*"); ok {
		switch e.test {
		case compatible:
			return e, `"~=" with ".*"`
		case notEqual:
			e.test = notStartsWith
		}
		operand = base
	}
	if e.version, reason = parseVersion(operand); reason != "" {
		return e, reason
	}
	if e.test == compatible {
		end := strings.LastIndexByte(operand, '.')
		if end < 0 {
			return e, `"~=" wants a version of two components or more`
		}
		e.prefix, reason = parseVersion(operand[:end])
	}
	return e, reason
}

// compile makes a regular expression that is tried at the beginning of a text, as Python's re.match.
func compile(pattern string) (*regexp.Regexp, string) {
	re, err := regexp.Compile(`\A(?:` + pattern + `)`)
	if err != nil {
		return nil, "the regular expression: " + err.Error()
	}
	return re, ""
}

// globMatch reports whether the whole of s matches pattern, in which "*" stands for any text. It does not allocate and
// takes at most len(pattern)*len(s) steps.
func globMatch(pattern, s string) bool {
	star, mark := -1, 0
	p, i := 0, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && pattern[p] == s[i]:
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
