package attest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/hallmark-attest/hallmark/internal/strictjson"
)

// maxElements bounds a sidecar's elements: 4 MiB hold about 380 bundles.
const maxElements = 4096

const jsonSpace = " \t\r\n"

// Split gives the bundles of a sidecar (CEP 50, "Response Format") as they stand: each element is a slice of sidecar, not
// a copy. It asks for one JSON array of objects and nothing after it, and does not look into the objects.
//
// Errors are CodeSidecarTooLarge or CodeSidecarMalformed.
func Split(sidecar []byte) ([]json.RawMessage, error) {
	elements, _, err := split(sidecar)
	return elements, err
}

// split gives, too, the offset at which a further element has to be put in.
func split(sidecar []byte) ([]json.RawMessage, int, error) {
	if len(sidecar) > MaxSidecar {
		return nil, 0, refuse(CodeSidecarTooLarge, fmt.Errorf("the sidecar has %d bytes, more than %d", len(sidecar), MaxSidecar), "")
	}
	// From here on it is known to be one JSON text, so brackets and strings are all there is to look at.
	if !json.Valid(sidecar) {
		return nil, 0, malformedSidecar(errors.New("it is not one JSON text"))
	}
	at := skipSpace(sidecar, 0)
	if sidecar[at] != '[' {
		return nil, 0, malformedSidecar(errors.New("it is not an array"))
	}
	var elements []json.RawMessage
	at++
	end := at
	for at = skipSpace(sidecar, at); sidecar[at] != ']'; at = skipSpace(sidecar, at) {
		if sidecar[at] == ',' {
			at = skipSpace(sidecar, at+1)
		}
		if sidecar[at] != '{' {
			return nil, 0, malformedSidecar(fmt.Errorf("its element %d is not an object", len(elements)))
		}
		if len(elements) == maxElements {
			return nil, 0, malformedSidecar(fmt.Errorf("it has more than %d elements", maxElements))
		}
		end = objectEnd(sidecar, at)
		elements = append(elements, json.RawMessage(sidecar[at:end:end]))
		at = end
	}
	return elements, end, nil
}

func malformedSidecar(err error) *Error {
	return refuse(CodeSidecarMalformed, fmt.Errorf("the sidecar: %w", err), "a sidecar is a JSON array of bundles")
}

func skipSpace(data []byte, at int) int {
	for at < len(data) && bytes.IndexByte([]byte(jsonSpace), data[at]) >= 0 {
		at++
	}
	return at
}

// objectEnd gives the offset after the object that begins at at, in valid JSON.
func objectEnd(data []byte, at int) int {
	depth := 0
	for inString := false; ; at++ {
		switch c := data[at]; {
		case inString && c == '\\':
			at++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{', c == '[':
			depth++
		case c == '}', c == ']':
			if depth--; depth == 0 {
				return at + 1
			}
		}
	}
}

// Append puts a bundle behind the ones that a sidecar has. Every byte that is there stays, in its order (CEP 50,
// "Response Format"); the bundle goes in as it is, without surrounding white space. An empty sidecar becomes [bundle]. If
// the sidecar has the same bytes as an element already, added is false and next is sidecar itself.
//
// One element that is no bundle makes the whole sidecar unreadable for some clients: the caller MUST have verified the
// bundle. Append refuses what is not a single JSON object with unique names (CodeBundleMalformed), a sidecar that Split
// refuses, and a result of more than MaxSidecar bytes (CodeSidecarTooLarge). The arguments are not changed.
func Append(sidecar, bundle []byte) (next []byte, added bool, err error) {
	bundle = bytes.Trim(bundle, jsonSpace)
	if len(bundle) > MaxBundle {
		return nil, false, refuse(CodeBundleTooLarge, fmt.Errorf("the bundle has %d bytes, more than %d", len(bundle), MaxBundle), "")
	}
	if _, err := strictjson.DecodeObject(bundle); err != nil {
		return nil, false, refuse(CodeBundleMalformed, fmt.Errorf("the bundle %w", err), "")
	}
	if len(sidecar) == 0 {
		return slices.Concat([]byte("["), bundle, []byte("]")), true, nil
	}
	elements, end, err := split(sidecar)
	if err != nil {
		return nil, false, err
	}
	for _, el := range elements {
		if bytes.Equal(el, bundle) {
			return sidecar, false, nil
		}
	}
	var comma []byte
	if len(elements) > 0 {
		comma = []byte(",")
	}
	next = slices.Concat(sidecar[:end], comma, bundle, sidecar[end:])
	if len(next) > MaxSidecar {
		return nil, false, refuse(CodeSidecarTooLarge, fmt.Errorf("with the new bundle the sidecar would have %d bytes; clients read at most %d", len(next), MaxSidecar),
			"nobody can read a larger one; this package has as many attestations as it can have")
	}
	if len(elements) == maxElements {
		return nil, false, malformedSidecar(fmt.Errorf("it has %d elements already", maxElements))
	}
	return next, true, nil
}

// IsSidecar tells a sidecar from a bundle: by the first byte that is not white space.
func IsSidecar(material []byte) bool {
	b := bytes.TrimLeft(material, jsonSpace)
	return len(b) > 0 && b[0] == '['
}

// Find gives the first bundle of a sidecar that verifies (see Verifier.Verify), as its bytes stand in the sidecar. The
// bundles before it that do not verify are in Result.Refused. If none verifies, the error is CodeSidecarNoMatch and wraps
// the reason of each; an empty sidecar has none.
func Find(sidecar []byte, v *Verifier, s Subject, p Policy) (bundle []byte, r *Result, err error) {
	if err := p.Check(); err != nil {
		return nil, nil, err
	}
	if err := s.check(); err != nil {
		return nil, nil, err
	}
	var elements []json.RawMessage
	if len(sidecar) > 0 {
		if elements, err = Split(sidecar); err != nil {
			return nil, nil, err
		}
	}
	var refused []Refused
	for i, el := range elements {
		r, err := v.Verify(el, s, p)
		if err == nil {
			r.Refused = refused
			return el, r, nil
		}
		refused = append(refused, Refused{Index: i, Err: err})
	}
	if len(refused) == 0 {
		return nil, nil, refuse(CodeSidecarNoMatch, errors.New("the sidecar has no bundle"), "")
	}
	reasons := make([]error, len(refused))
	for i, e := range refused {
		reasons[i] = fmt.Errorf("bundle %d: %w", e.Index, e.Err)
	}
	return nil, nil, refuse(CodeSidecarNoMatch, fmt.Errorf("no bundle in the sidecar verifies: %w", errors.Join(reasons...)), "")
}
