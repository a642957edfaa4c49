package conda

import (
	"encoding/json"
	"fmt"

	"github.com/hallmark-attest/hallmark/internal/strictjson"
)

// runExportKinds are CEP 12's keys; all others ("schema_version" among them) are no part of a channel's run exports.
var runExportKinds = [...]string{"noarch", "strong", "strong_constrains", "weak", "weak_constrains"}

// RunExports turns info/run_exports.json (CEP 34: a list of specs, or a map from kind to list of specs) into the CEP 12
// object: a list becomes {"weak": list}, only the known kinds stay, keys are sorted. No bytes (the file is not there) give
// "{}". An error is an *Error with CodeRunExportsInvalid.
func RunExports(raw []byte) (json.RawMessage, error) {
	if len(raw) == 0 {
		return json.RawMessage("{}"), nil
	}
	out := map[string]any{}
	v, err := strictjson.Decode(raw)
	if err == nil {
		switch v := v.(type) {
		case []any:
			out["weak"] = v
		case map[string]any:
			for _, k := range runExportKinds {
				if specs, ok := v[k]; ok && specs != nil {
					out[k] = specs
				}
			}
		default:
			err = fmt.Errorf("neither a list nor an object")
		}
	}
	for k, specs := range out {
		if !isStrings(specs) {
			err = fmt.Errorf("%q is not a list of strings", k)
		}
	}
	if err != nil {
		return nil, refuse(CodeRunExportsInvalid, "info/run_exports.json: %w", err)
	}
	return encode(out)
}

func isStrings(v any) bool {
	a, ok := v.([]any)
	for _, s := range a {
		if _, isString := s.(string); !isString {
			return false
		}
	}
	return ok
}
