package channel

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
)

// attestations is the record's field for the sidecar (CEP 50).
const attestations = "attestations_sha256"

// Entry is what an index is to show of one package.
type Entry struct {
	Filename string
	// Record is the repodata record (CEP 36): at least name, version, build, subdir and sha256. What only an indexer may say
	// (indexed_timestamp, attestations_sha256, run_exports) is taken out of it.
	Record json.RawMessage
	// RunExports is the CEP 12 object for the shard (CEP 21); empty if nothing is known, {} if there are none.
	RunExports json.RawMessage
	// AttestationsSHA256 is the sidecar that AddBundle returned, lower-case hex. The index shows the sidecar that is current
	// when it is written: this one, or one that continues it. "" for a package that may be unsigned.
	AttestationsSHA256 string
}

// change is an entry on its way into the index.
type change struct {
	Entry
	name   string
	sha256 string
	fields map[string]any // of Record
	// sidecar is the package's current sidecar: see Channel.currentSidecar.
	sidecar string
	err     error
	done    bool // it has changed something
}

// fresh gives the shard's record of a package that is new to the channel.
func (c *change) fresh(subdir string, now int64) []byte {
	fields := maps.Clone(c.fields)
	fields["indexed_timestamp"] = json.Number(strconv.FormatInt(now, 10))
	if c.sidecar != "" {
		fields[attestations] = c.sidecar
	}
	if len(c.RunExports) > 0 {
		if v, err := decodeObject(c.RunExports); err == nil { // newChange has seen that it is
			fields["run_exports"] = v
		}
	}
	raw, err := packRecord(fields)
	if err != nil {
		c.err = &Invalid{Subdir: subdir, Filename: c.Filename, Err: fmt.Errorf("encoding its record: %w", err)}
		return nil
	}
	return raw
}

// newChange reads an entry. What is wrong with it is in err.
func newChange(subdir string, e Entry) *change {
	c := &change{Entry: e}
	if err := c.read(subdir); err != nil {
		c.err = &Invalid{Subdir: subdir, Filename: e.Filename, Err: err}
	}
	return c
}

func (c *change) read(subdir string) (err error) {
	if c.name, err = packageName(c.Filename); err != nil {
		return err
	}
	if c.fields, err = decodeObject(c.Record); err != nil {
		return fmt.Errorf("its record: %w", err)
	}
	text := func(key string) string { s, _ := c.fields[key].(string); return s }
	if c.sha256 = text("sha256"); !isDigest(c.sha256) {
		return fmt.Errorf("its record: sha256 %.80q: want 64 lower-case hex digits", c.sha256)
	}
	if s := text("subdir"); s != subdir {
		return fmt.Errorf("its record: subdir %.80q, want %q", s, subdir)
	}
	stem := strings.TrimSuffix(strings.TrimSuffix(c.Filename, ".conda"), ".tar.bz2")
	if s := text("name") + "-" + text("version") + "-" + text("build"); s != stem {
		return fmt.Errorf("its record: name, version and build give %.200q", s)
	}
	for _, key := range []string{"indexed_timestamp", attestations, "run_exports"} {
		delete(c.fields, key)
	}
	if _, err := packRecord(c.fields); err != nil {
		return fmt.Errorf("its record: %w", err)
	}
	if len(c.RunExports) > 0 {
		r, err := decodeObject(c.RunExports)
		if err == nil {
			_, err = appendValue(nil, r, 1)
		}
		if err != nil {
			return fmt.Errorf("its run_exports: %w", err)
		}
	}
	if c.AttestationsSHA256 != "" && !isDigest(c.AttestationsSHA256) {
		return fmt.Errorf("attestations_sha256 %.80q: want 64 lower-case hex digits", c.AttestationsSHA256)
	}
	return nil
}

// same tells whether a record with these digests is of the change's package. Old records may have an MD5 alone; that is
// enough here, since what the package's bytes are has been settled by PutPackage.
func (c *change) same(sha256hex, md5hex string) bool {
	if sha256hex != "" {
		return sha256hex == c.sha256
	}
	own, _ := c.fields["md5"].(string)
	return md5hex != "" && md5hex == own
}

// rawDigests are the fields that are hex text in JSON and bytes in shards: sha256 and md5 by CEP 16, attestations_sha256
// because rattler-index writes it so.
var rawDigests = []string{"sha256", "md5", attestations}

// packRecord gives a record's shard form. fields is what decodeObject reads.
func packRecord(fields map[string]any) ([]byte, error) {
	packed := make(map[string]any, len(fields))
	for k, v := range fields {
		packed[k] = v
	}
	for _, key := range rawDigests {
		if s, ok := packed[key].(string); ok {
			b, err := hex.DecodeString(s)
			if err != nil {
				return nil, fmt.Errorf("%s is not hex", key)
			}
			packed[key] = b
		}
	}
	return appendValue(nil, packed, 1)
}

// unpackRecord gives the JSON form of a shard's record, and apart from it the entry of run_exports.json, which repodata.json
// has not (CEP 12, CEP 21); nil if the record does not say.
func unpackRecord(raw []byte) (record, runExports []byte, err error) {
	v, err := decodeValue(raw)
	if err != nil {
		return nil, nil, err
	}
	fields, ok := v.(map[string]any)
	if !ok {
		return nil, nil, errors.New("it is not a map")
	}
	if exports, ok := fields["run_exports"].(map[string]any); ok {
		if runExports, err = encodeJSON(map[string]any{"run_exports": exports}); err != nil {
			return nil, nil, err
		}
	}
	delete(fields, "run_exports")
	for _, key := range rawDigests {
		if d, err := packedDigest(fields[key]); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", key, err)
		} else if d != "" {
			fields[key] = d
		}
	}
	record, err = encodeJSON(fields)
	return record, runExports, err
}

// packedDigest reads a digest as writers of shards have put it: bytes, hex text, or a list of numbers. It gives lower-case
// hex, and "" for nil.
func packedDigest(v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", nil
	case []byte:
		if (len(v) == 64 || len(v) == 32) && isHex(v) { // text that was packed as bytes
			return strings.ToLower(string(v)), nil
		}
		return hex.EncodeToString(v), nil
	case string:
		if !isHex([]byte(v)) { // bytes that were packed as text
			return hex.EncodeToString([]byte(v)), nil
		}
		return strings.ToLower(v), nil
	case []any:
		b := make([]byte, 0, len(v))
		for _, e := range v {
			n, ok := e.(json.Number)
			i, err := n.Int64()
			if !ok || err != nil || i < 0 || i > 255 {
				return "", errors.New("it is not a digest")
			}
			b = append(b, byte(i))
		}
		return hex.EncodeToString(b), nil
	}
	return "", errors.New("it is not a digest")
}

func isHex(b []byte) bool {
	return strings.Trim(string(b), "0123456789abcdefABCDEF") == ""
}

// digestField reads one field of a packed record as a digest; "" if it is missing or none.
func digestField(fields []member, key string) string {
	m, ok := lookup(fields, key)
	if !ok {
		return ""
	}
	v, err := decodeValue(m.raw)
	if err != nil {
		return ""
	}
	d, err := packedDigest(v)
	if err != nil {
		return ""
	}
	return d
}
