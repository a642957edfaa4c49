package channel

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// member is one name and value of a JSON object or of a msgpack map, as their bytes stand in the source.
type member struct {
	key    string
	rawKey []byte
	raw    []byte
	at     int // JSON: where rawKey begins
	value  int // JSON: where raw begins
}

func jsonMember(key string, raw []byte) member {
	return member{key: key, rawKey: quote(key), raw: raw}
}

func byKey(a, b member) int                    { return strings.Compare(a.key, b.key) }
func toKey(m member, key string) int           { return strings.Compare(m.key, key) }
func seek(ms []member, key string) (int, bool) { return slices.BinarySearchFunc(ms, key, toKey) }

// lookup finds a member in any order.
func lookup(ms []member, key string) (member, bool) {
	for _, m := range ms {
		if m.key == key {
			return m, true
		}
	}
	return member{}, false
}

// sortMembers orders members by key. Two with the same key are an error: readers disagree on which of them counts.
func sortMembers(ms []member) error {
	if !slices.IsSortedFunc(ms, byKey) {
		slices.SortStableFunc(ms, byKey)
	}
	for i := 1; i < len(ms); i++ {
		if ms[i].key == ms[i-1].key {
			return fmt.Errorf("the key %.80q is there twice", ms[i].key)
		}
	}
	return nil
}

// overlay returns base with the members of changes in it, by key; both are sorted, and so is the result.
func overlay(base, changes []member) []member {
	if len(changes) == 0 {
		return base
	}
	out := make([]member, 0, len(base)+len(changes))
	for _, c := range changes {
		i, same := seek(base, c.key)
		out = append(out, base[:i]...)
		out = append(out, c)
		if same {
			i++
		}
		base = base[i:]
	}
	return append(out, base...)
}

var errNotObject = errors.New("it is not a JSON object")

// splitObject gives the members of a JSON object in their order. b MUST be valid JSON (json.Valid).
func splitObject(b []byte) (ms []member, err error) {
	err = scanObject(b, func(at, key, value, end int) error {
		m := member{at: at, rawKey: b[at:key:key], value: value, raw: b[value:end:end]}
		if raw := m.rawKey[1 : len(m.rawKey)-1]; bytes.IndexByte(raw, '\\') < 0 {
			m.key = string(raw)
		} else if err := json.Unmarshal(m.rawKey, &m.key); err != nil {
			return err
		}
		ms = append(ms, m)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return ms, nil
}

// scanObject calls f for each member of a JSON object: its key is b[at:key], with the quotes, and its value b[value:end]. b
// MUST be valid JSON (json.Valid), so that brackets and strings are all there is to look at.
func scanObject(b []byte, f func(at, key, value, end int) error) error {
	i := skipSpace(b, 0)
	if i == len(b) || b[i] != '{' {
		return errNotObject
	}
	for i = skipSpace(b, i+1); b[i] != '}'; i = skipSpace(b, i) {
		if b[i] == ',' {
			i = skipSpace(b, i+1)
		}
		at, key := i, valueEnd(b, i)
		value := skipSpace(b, skipSpace(b, key)+1) // behind the colon
		i = valueEnd(b, value)
		if err := f(at, key, value, i); err != nil {
			return err
		}
	}
	return nil
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// valueEnd gives the offset behind the value that begins at i, in valid JSON.
func valueEnd(b []byte, i int) int {
	switch b[i] {
	case '"':
		return stringEnd(b, i)
	case '{', '[':
		for depth := 0; ; {
			switch b[i] {
			case '"':
				i = stringEnd(b, i)
				continue
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
			i++
		}
	}
	for i < len(b) && bytes.IndexByte([]byte(" \t\r\n,:]}"), b[i]) < 0 {
		i++
	}
	return i
}

func stringEnd(b []byte, i int) int {
	for i++; ; i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
}

// jsonString gives the string that a member holds, "" if it is none.
func jsonString(ms []member, key string) string {
	m, ok := lookup(ms, key)
	if !ok || m.raw[0] != '"' {
		return ""
	}
	var s string
	if json.Unmarshal(m.raw, &s) != nil {
		return ""
	}
	return s
}

// setJSON puts a member into an object and leaves every other byte of it alone. A new member goes before the first one
// that sorts behind it.
func setJSON(object []byte, ms []member, key string, value []byte) []byte {
	if m, ok := lookup(ms, key); ok {
		return slices.Concat(object[:m.value], value, object[m.value+len(m.raw):])
	}
	field := slices.Concat(quote(key), []byte{':'}, value)
	for _, m := range ms {
		if m.key > key {
			return slices.Concat(object[:m.at], field, []byte{','}, object[m.at:])
		}
	}
	if len(ms) == 0 {
		return slices.Concat([]byte{'{'}, field, []byte{'}'})
	}
	last := ms[len(ms)-1]
	end := last.value + len(last.raw)
	return slices.Concat(object[:end], []byte{','}, field, object[end:])
}

func quote(s string) []byte {
	b, _ := encodeJSON(s) // a string always encodes
	return b
}

// encodeJSON gives compact JSON with sorted keys and without the escapes that are meant for HTML.
func encodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// decodeObject reads a JSON object with its numbers as they are written.
func decodeObject(b []byte) (map[string]any, error) {
	if !json.Valid(b) {
		return nil, errors.New("it is not JSON")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		return nil, errNotObject
	}
	if m == nil {
		return nil, errNotObject
	}
	return m, nil
}
