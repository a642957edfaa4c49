package match

import (
	"cmp"
	"strings"
	"unicode/utf8"
)

// maxVersion is the longest version that is read, in bytes. CEP 26 allows 64 characters.
const maxVersion = 1024

const badCharacter = "a character that no version has"

// Version is a version in conda's order. It is immutable and may be copied. The zero Version is no version; it compares as
// "0" does.
type Version struct {
	text        string
	main, local []token
}

// token is a run of digits or of other characters. A version is a list of components, a component a list of tokens; the
// lists are kept flat, so that a comparison follows no pointers.
type token struct {
	// text is, for a number, its digits without leading zeros (numbers have no greatest value), so zero is empty;
	// for a word the lower-case letters, or "DEV".
	text string
	kind kind
	// last ends a component.
	last bool
}

type kind uint8

// The order of the kinds is conda's: words sort before numbers, "post" after them.
const (
	word kind = iota
	number
	post
)

// fill stands for a token that the other version does not have: 1.1 equals 1.1.0.
var fill = token{kind: number, last: true}

// ParseVersion reads a version as conda's VersionOrder does:
//
//   - blanks around it are dropped, case is ignored;
//   - digits before "!" are the epoch, default 0; what follows "+" is the local version, which decides only between equals;
//   - "." and "_" separate components, but an underscore at the end of the main part belongs to the last one (1.1_ is before 1.1a);
//   - "-" is "_", unless there is a "_" too, which is an error;
//   - components are cut into numbers and words, and one that starts with a word gets a 0 before it;
//   - words are before numbers, "dev" is before every word but "*", "post" is after every number, a missing token is 0.
//
// Besides letters, digits and the separators only "*" is allowed, since version expressions use it. An error is an *Error.
func ParseVersion(text string) (Version, error) {
	v, reason := parseVersion(text)
	if reason != "" {
		return Version{}, bad(text, "%s", reason)
	}
	return v, nil
}

func parseVersion(text string) (v Version, reason string) {
	if len(text) > maxVersion {
		return v, "longer than 1024 bytes"
	}
	s := strings.TrimSpace(text)
	for i := range len(s) {
		// Before the case is changed: there are letters outside of ASCII whose lower case is in it.
		if s[i] >= utf8.RuneSelf {
			return v, badCharacter
		}
	}
	s = strings.ToLower(s)
	if s == "" {
		return v, "an empty version"
	}
	if strings.Contains(s, "-") {
		if strings.Contains(s, "_") {
			return v, `both "-" and "_" in one version`
		}
		s = strings.ReplaceAll(s, "-", "_")
	}
	for i := range len(s) {
		if c := s[i]; !isDigit(c) && (c < 'a' || c > 'z') && !strings.ContainsRune("*.+!_", rune(c)) {
			return v, badCharacter
		}
	}
	epoch, rest, found := strings.Cut(s, "!")
	switch {
	case !found:
		epoch, rest = "0", s
	case strings.Contains(rest, "!"):
		return v, `more than one "!"`
	case epoch == "" || strings.TrimLeft(epoch, "0123456789") != "":
		return v, "the epoch is no number"
	}
	main, local, hasLocal := strings.Cut(rest, "+")
	switch {
	case main == "":
		return v, `nothing before "+" or after "!"`
	case strings.Contains(local, "+"):
		return v, `more than one "+"`
	}
	const empty = "an empty component"
	tokens := make([]token, 0, 1+2*(1+strings.Count(rest, ".")+strings.Count(rest, "_")))
	tokens = append(tokens, token{text: strings.TrimLeft(epoch, "0"), kind: number, last: true})
	ok := true
	if tokens, ok = appendComponents(tokens, main, main[len(main)-1] == '_'); !ok {
		return v, empty
	}
	n := len(tokens)
	if hasLocal {
		if tokens, ok = appendComponents(tokens, local, false); !ok {
			return v, empty
		}
	}
	return Version{text: text, main: tokens[:n:n], local: tokens[n:]}, ""
}

// appendComponents cuts s into components and these into tokens. keep says that an underscore at the end separates nothing.
func appendComponents(tokens []token, s string, keep bool) (_ []token, ok bool) {
	for {
		end := strings.IndexAny(s, "._")
		if end == len(s)-1 && keep {
			end = -1
		}
		part := s
		if end >= 0 {
			part = s[:end]
		}
		if part == "" {
			return tokens, false
		}
		if !isDigit(part[0]) {
			tokens = append(tokens, token{kind: number})
		}
		for part != "" {
			run := 1
			for run < len(part) && class(part[run]) == class(part[0]) {
				run++
			}
			tokens = append(tokens, newToken(part[:run]))
			part = part[run:]
		}
		tokens[len(tokens)-1].last = true
		if end < 0 {
			return tokens, true
		}
		s = s[end+1:]
	}
}

func newToken(s string) token {
	switch {
	case isDigit(s[0]):
		return token{text: strings.TrimLeft(s, "0"), kind: number}
	case s == "post":
		return token{kind: post}
	case s == "dev":
		// In upper case it is after "*" and before "_" and all letters, as in conda.
		return token{text: "DEV"}
	}
	return token{text: s}
}

// class tells the three sorts of characters apart of which runs are made.
func class(c byte) int {
	switch {
	case isDigit(c):
		return 0
	case c == '*':
		return 1
	}
	return 2
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// String is the text that was parsed.
func (v Version) String() string { return v.text }

// IsZero reports whether v is the zero Version, which ParseVersion never returns without an error.
func (v Version) IsZero() bool { return v.main == nil }

// Compare returns -1, 0 or 1: v is before, equal to or after w. Different texts may be equal: 1.1, 1.1.0 and 1.1_0.
// It does not allocate.
func (v Version) Compare(w Version) int {
	if c := compareTokens(v.main, w.main); c != 0 {
		return c
	}
	return compareTokens(v.local, w.local)
}

func compareTokens(a, b []token) int {
	for len(a) > 0 || len(b) > 0 {
		inA, inB := len(a) > 0, len(b) > 0
		for inA || inB {
			x, y := fill, fill
			if inA {
				x, a = a[0], a[1:]
				inA = !x.last
			}
			if inB {
				y, b = b[0], b[1:]
				inB = !y.last
			}
			if c := x.compare(y); c != 0 {
				return c
			}
		}
	}
	return 0
}

func (t token) compare(u token) int {
	if t.kind != u.kind {
		return cmp.Compare(t.kind, u.kind)
	}
	if t.kind == number && len(t.text) != len(u.text) {
		return cmp.Compare(len(t.text), len(u.text))
	}
	return strings.Compare(t.text, u.text)
}

// HasPrefix reports whether v starts with p, which is what p.* and =p mean. Whole numbers have to agree, and the last word
// of p may be the beginning of v's: 1.2.3, 1.2rc1 and 1.2+cpu start with 1.2, and 1.20 does not. It does not allocate.
func (v Version) HasPrefix(p Version) bool {
	if len(p.local) == 0 {
		return hasPrefix(v.main, p.main)
	}
	return compareTokens(v.main, p.main) == 0 && hasPrefix(v.local, p.local)
}

func hasPrefix(a, p []token) bool {
	for len(p) > 0 {
		inA, inP := len(a) > 0, true
		for inA || inP {
			x, y := fill, fill
			if inA {
				x, a = a[0], a[1:]
				inA = !x.last
			}
			if inP {
				y, p = p[0], p[1:]
				inP = !y.last
				if len(p) == 0 {
					if y.kind == word {
						return x.kind == word && strings.HasPrefix(x.text, y.text)
					}
					return x.compare(y) == 0
				}
			}
			if x.compare(y) != 0 {
				return false
			}
		}
	}
	return true
}
