// Package strictjson reads JSON that somebody else wrote and that several readers must understand alike: bytes flow in,
// values or a refusal flow out. encoding/json would match names without regard to case and take the last of several, so that
// another reader could see another document.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// MaxDepth is how deep arrays and objects may nest. A bundle nests 8 deep, a package's metadata 5.
const MaxDepth = 64

// Object is an object as this package gives it: its names are unique and compared exactly.
type Object = map[string]any

// DecodeObject is Decode for a text that has to be an object.
func DecodeObject(raw []byte) (Object, error) {
	v, err := Decode(raw)
	if err != nil {
		return nil, err
	}
	m, ok := v.(Object)
	if !ok {
		return nil, fmt.Errorf("is %s, not a JSON object", KindOf(v))
	}
	return m, nil
}

// Decode decodes raw as one JSON text and nothing after it. It gives Object, []any, string, json.Number (as it is
// written), bool or nil. It refuses what parsers disagree on: a name twice in an object, at any depth; invalid UTF-8; lone
// surrogates; NaN and Infinity; a byte order mark; and nesting beyond MaxDepth. Safe for concurrent use.
func Decode(raw []byte) (any, error) {
	if !utf8.Valid(raw) {
		return nil, errors.New("not UTF-8")
	}
	// encoding/json puts U+FFFD in place of a lone surrogate, so two different keys could become one.
	if loneSurrogate(raw) {
		return nil, errors.New(`a \u escape is half of a surrogate pair`)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	v, err := decodeValue(d, 0)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one JSON value")
	}
	return v, nil
}

func decodeValue(d *json.Decoder, depth int) (any, error) {
	if depth > MaxDepth {
		return nil, fmt.Errorf("nested deeper than %d", MaxDepth)
	}
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t {
	case json.Delim('{'):
		m := Object{}
		for d.More() {
			k, err := d.Token()
			if err != nil {
				return nil, err
			}
			key, ok := k.(string)
			if !ok {
				return nil, errors.New("a key is not a string")
			}
			if _, ok := m[key]; ok {
				return nil, fmt.Errorf("the name %.64q occurs twice in an object", key)
			}
			if m[key], err = decodeValue(d, depth+1); err != nil {
				return nil, err
			}
		}
		_, err = d.Token()
		return m, err
	case json.Delim('['):
		a := []any{}
		for d.More() {
			v, err := decodeValue(d, depth+1)
			if err != nil {
				return nil, err
			}
			a = append(a, v)
		}
		_, err = d.Token()
		return a, err
	default:
		return t, nil
	}
}

// loneSurrogate reports a \uD800–\uDFFF escape that is not a pair. A backslash occurs in JSON inside strings alone.
func loneSurrogate(raw []byte) bool {
	for {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 || i+1 >= len(raw) {
			return false
		}
		raw = raw[i:]
		if raw[1] != 'u' {
			raw = raw[2:]
			continue
		}
		r := hex4(raw)
		switch {
		case 0xd800 <= r && r < 0xdc00:
			if low := hex4(raw[6:]); low < 0xdc00 || low > 0xdfff {
				return true
			}
			raw = raw[12:]
		case 0xdc00 <= r && r <= 0xdfff:
			return true
		default:
			raw = raw[2:]
		}
	}
}

// hex4 returns the code unit of the \uXXXX that b starts with, or -1.
func hex4(b []byte) int {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return -1
	}
	n := 0
	for _, c := range b[2:6] {
		switch {
		case '0' <= c && c <= '9':
			n = n<<4 | int(c-'0')
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			n = n<<4 | int(c|0x20-'a'+10)
		default:
			return -1
		}
	}
	return n
}

// KindOf names the kind of a decoded value, for messages.
func KindOf(v any) string {
	switch v.(type) {
	case Object:
		return "an object"
	case []any:
		return "an array"
	case string:
		return "a string"
	case json.Number:
		return "a number"
	case bool:
		return "a boolean"
	}
	return "null"
}
