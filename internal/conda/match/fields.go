package match

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// fields is what stands in a dependency's brackets, as far as it matters here.
type fields struct {
	version, build, number, Channel string
	seen                            []string
}

func (f *fields) has(key string) bool { return slices.Contains(f.seen, key) }

// cutBrackets splits "rest[key=value, …]". A value is bare, in quotes, or a list in brackets; brackets inside of quotes or
// of a list are its own.
func cutBrackets(text string) (f fields, rest, reason string) {
	start := strings.IndexByte(text, '[')
	// Not in a comment, and not in a regular expression.
	if hash := strings.IndexByte(text, '#'); start < 0 || hash >= 0 && hash < start {
		return f, text, ""
	}
	if i := strings.IndexByte(text, '^'); i >= 0 && i < start {
		if end := strings.LastIndexByte(text, '$'); end > start {
			return f, text, ""
		}
	}
	rest = text[:start]
	s := text[start+1:]
	for {
		s = strings.TrimLeft(s, ", ")
		if s == "" {
			return f, rest, "brackets that are not closed"
		}
		if s[0] == ']' {
			break
		}
		var key, value string
		if key, value, s, reason = cutField(s); reason != "" {
			return f, rest, reason
		}
		if f.has(key) {
			return f, rest, "the field " + strconv.Quote(key) + " stands twice"
		}
		f.seen = append(f.seen, key)
		switch key {
		case "version":
			f.version = value
		case "build":
			f.build = value
		case "build_number":
			f.number = value
		case "channel":
			f.Channel = value
		case "subdir":
			f.Channel = cmp.Or(f.Channel, "*/"+value)
		case "when", "extras", "flags", "optional":
		default:
			return f, rest, "the field " + strconv.Quote(key) + " cannot be matched"
		}
		if len(f.seen) > 16 {
			return f, rest, "too many fields"
		}
	}
	s, _, _ = strings.Cut(strings.TrimSpace(s[1:]), "#")
	// "[…] if …" is a condition, as without brackets.
	if s = strings.TrimSpace(s); s != "" && !strings.HasPrefix(s, "if ") {
		return f, rest, "text after the brackets"
	}
	return f, rest, ""
}

// cutField splits "key=value" from the beginning of s.
func cutField(s string) (key, value, rest, reason string) {
	key, s, found := strings.Cut(s, "=")
	if key = strings.TrimSpace(key); !found || key == "" || strings.ContainsAny(key, "[]\"', ") {
		return "", "", "", `a field that is no "key=value"`
	}
	s = strings.TrimLeft(s, " ")
	if s == "" {
		return "", "", "", "a field without a value"
	}
	switch c := s[0]; c {
	case '"', '\'':
		end := strings.IndexByte(s[1:], c)
		if end < 0 {
			return "", "", "", "a quote that is not closed"
		}
		value, rest = s[1:1+end], s[2+end:]
		if rest != "" && strings.IndexByte(", ]", rest[0]) < 0 {
			return "", "", "", "text right after a quote"
		}
	case '[':
		end := closing(s)
		if end < 0 {
			return "", "", "", "a list that is not closed"
		}
		value, rest = s[:end+1], s[end+1:]
	default:
		end := strings.IndexAny(s, ", ]")
		if end < 0 {
			return "", "", "", "brackets that are not closed"
		}
		value, rest = s[:end], s[end:]
	}
	if value == "" {
		return "", "", "", "a field without a value"
	}
	return key, value, rest, ""
}

// closing is the index of the bracket that closes the one s starts with, -1 if none does. Those in quotes do not count.
func closing(s string) int {
	depth, quote := 0, byte(0)
	for i := range len(s) {
		switch c := s[i]; {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '[':
			depth++
		case c == ']':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// numberTest compares build numbers.
type numberTest struct {
	test   test
	number int64
}

// newNumberTest reads the field build_number: a number, one with an operator before it, or "*".
func newNumberTest(s string) (*numberTest, string) {
	s = strings.TrimSpace(s)
	t := &numberTest{test: equal}
	if s == "*" {
		t.test = always
		return t, ""
	}
	for _, o := range []struct {
		text string
		test test
	}{{"==", equal}, {"!=", notEqual}, {"<=", lessEqual}, {">=", greaterEqual}, {"<", less}, {">", greater}, {"=", equal}} {
		if rest, ok := strings.CutPrefix(s, o.text); ok {
			s, t.test = rest, o.test
			break
		}
	}
	var err error
	if t.number, err = strconv.ParseInt(s, 10, 64); err != nil || s[0] == '+' || s[0] == '-' {
		return nil, "the build number is no number"
	}
	return t, ""
}

func (t *numberTest) match(n int64) bool {
	c := cmp.Compare(n, t.number)
	switch t.test {
	case equal:
		return c == 0
	case notEqual:
		return c != 0
	case less:
		return c < 0
	case lessEqual:
		return c <= 0
	case greater:
		return c > 0
	case greaterEqual:
		return c >= 0
	}
	return true
}
