package attest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// maxDepth bounds the nesting of JSON that is read; a bundle nests 8 deep.
const maxDepth = 64

// object is a JSON object whose names are unique and compared exactly. encoding/json's structs would match names
// without regard to case and take the last of several: another reader could then see another statement.
type object map[string]any

// parseStrict parses exactly one JSON text: valid UTF-8, no name twice in an object, nesting bounded. It gives object,
// []any, string, json.Number, bool or nil.
func parseStrict(data []byte) (any, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("not valid UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	v, err := parseValue(dec, 0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one JSON value")
	}
	return v, nil
}

// parseStrictObject is parseStrict for a text that has to be an object.
func parseStrictObject(data []byte) (object, error) {
	v, err := parseStrict(data)
	if err != nil {
		return nil, err
	}
	o, ok := v.(object)
	if !ok {
		return nil, fmt.Errorf("is %s, not a JSON object", kindOf(v))
	}
	return o, nil
}

func parseValue(dec *json.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("JSON nested deeper than %d", maxDepth)
	}
	tok, err := dec.Token()
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	delim, ok := tok.(json.Delim)
	if !ok {
		return tok, nil
	}
	switch delim {
	case '{':
		return parseObject(dec, depth)
	case '[':
		list := []any{}
		for dec.More() {
			v, err := parseValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, parseEnd(dec)
	}
	return nil, fmt.Errorf("not JSON: unexpected %v", delim)
}

func parseObject(dec *json.Decoder, depth int) (any, error) {
	o := object{}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("not JSON: %w", err)
		}
		name, ok := tok.(string)
		if !ok {
			return nil, fmt.Errorf("not JSON: %v in place of a name", tok)
		}
		if _, dup := o[name]; dup {
			return nil, fmt.Errorf("the name %.64q occurs twice in an object", name)
		}
		if o[name], err = parseValue(dec, depth+1); err != nil {
			return nil, err
		}
	}
	return o, parseEnd(dec)
}

// parseEnd takes the closing bracket.
func parseEnd(dec *json.Decoder) error {
	if _, err := dec.Token(); err != nil {
		return fmt.Errorf("not JSON: %w", err)
	}
	return nil
}

func kindOf(v any) string {
	switch v.(type) {
	case object:
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
