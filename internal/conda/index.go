package conda

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"

	"github.com/hallmark-attest/hallmark/internal/strictjson"
)

// channelFields are what a channel says about a package, never the package about itself. A package's index.json MUST NOT be
// able to set them: "fn" and "url" would send some clients to another file, "attestations_sha256" would advertise a sidecar that
// nobody verified, "run_exports" would contradict info/run_exports.json (CEP 21), "indexed_timestamp" is the indexer's (CEP 47).
// md5, sha256 and size are overwritten with the true ones.
var channelFields = [...]string{
	"attestations", "attestations_sha256", "channel", "fn", "indexed_timestamp", "md5", "run_exports", "sha256", "signatures", "size", "url",
}

// index is a checked info/index.json.
type index struct {
	fields map[string]any
	number int64
	subdir string
}

// readIndex checks that raw can stand in a channel's repodata: one record with a field of the wrong type makes typed clients
// fail on the whole file. Unknown fields pass. hint is the subdir if raw has none.
func readIndex(raw []byte, want Name, hint string) (*index, error) {
	m, err := strictjson.DecodeObject(raw)
	if err != nil {
		return nil, refuse(CodeIndexInvalid, "info/index.json: %w", err)
	}
	for _, f := range []struct{ key, want string }{{"name", want.Name}, {"version", want.Version}, {"build", want.Build}} {
		got, ok := m[f.key].(string)
		if !ok {
			return nil, refuse(CodeIndexInvalid, "info/index.json: %q is not a string", f.key)
		}
		if got != f.want {
			return nil, refuse(CodeIndexMismatch, "info/index.json says %s %q, the file name %q", f.key, clip(got), f.want)
		}
	}
	ix := &index{fields: m}
	var ok bool
	if ix.number, ok = natural(m["build_number"]); !ok {
		return nil, refuse(CodeIndexInvalid, "info/index.json: \"build_number\" is not a non-negative integer")
	}
	if err := checkTypes(m); err != nil {
		return nil, refuse(CodeIndexInvalid, "info/index.json: %w", err)
	}
	if ix.subdir, err = subdirOf(m, hint); err != nil {
		return nil, err
	}
	return ix, nil
}

// checkTypes checks the other fields that CEP 34 types, as leniently as the packages of 2012 and later need: null is as absent.
func checkTypes(m map[string]any) error {
	for _, k := range []string{"arch", "platform", "license", "license_family", "features", "preferred_env", "python_site_packages_path", "subdir"} {
		if _, ok := m[k].(string); !ok && m[k] != nil {
			return fmt.Errorf("%q is not a string", k)
		}
	}
	for _, k := range []string{"depends", "constrains"} {
		if m[k] != nil && !isStrings(m[k]) {
			return fmt.Errorf("%q is not a list of strings", k)
		}
	}
	for _, k := range []string{"timestamp", "schema_version"} {
		if _, ok := natural(m[k]); !ok && m[k] != nil {
			return fmt.Errorf("%q is not a non-negative integer", k)
		}
	}
	if _, ok := m["track_features"].(string); !ok && m["track_features"] != nil && !isStrings(m["track_features"]) {
		return fmt.Errorf(`"track_features" is neither a string nor a list of strings`)
	}
	switch m["noarch"] {
	case nil, "generic", "python", true, false: // booleans are of before 2017
	default:
		return fmt.Errorf(`"noarch" is neither "generic" nor "python"`)
	}
	return nil
}

func subdirOf(m map[string]any, hint string) (string, error) {
	if s, _ := m["subdir"].(string); s != "" {
		if err := CheckSubdir(s); err != nil {
			return "", refuse(CodeIndexInvalid, "info/index.json: %w", err)
		}
		return s, nil
	}
	if hint != "" {
		return hint, CheckSubdir(hint)
	}
	if n := m["noarch"]; n != nil && n != false {
		return "noarch", nil
	}
	return "", refuse(CodeNoSubdir, "info/index.json has no subdir, and nothing else says it")
}

// natural returns v if it is written as a non-negative integer (no fraction, no exponent) that fits 63 bits.
func natural(v any) (int64, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	u, err := strconv.ParseUint(n.String(), 10, 64)
	return int64(u), err == nil && u <= math.MaxInt64
}

// record is CEP 36's: the index's fields with what only the archive tells.
func (ix *index) record(sha256, md5 string, size int64) (json.RawMessage, error) {
	for _, k := range channelFields {
		delete(ix.fields, k)
	}
	for _, k := range [...]string{"depends", "constrains"} {
		if ix.fields[k] == nil {
			delete(ix.fields, k) // typed clients read an absent list, and fail on a null
		}
	}
	ix.fields["sha256"], ix.fields["md5"], ix.fields["size"], ix.fields["subdir"] = sha256, md5, size, ix.subdir
	return encode(ix.fields)
}
