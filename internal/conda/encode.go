package conda

import (
	"bytes"
	"encoding/json"
)

// encode writes v deterministically: keys sorted by their bytes, compact, numbers as they were, no HTML escapes.
func encode(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
