package channel

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// repodata is a repodata.json (CEP 36) in pieces. The pieces are slices of the bytes that were read; they are never
// changed, so that a repodata may be shared.
type repodata struct {
	packages []member // of .tar.bz2, sorted
	conda    []member // of .conda, sorted
	others   []member // the other top-level members, sorted
	removed  map[string]bool
	size     int // bytes, about
}

// newRepodata is what a channel's subdir begins with.
func newRepodata(subdir string) *repodata {
	info, _ := encodeJSON(map[string]string{"subdir": subdir})
	return &repodata{others: []member{
		jsonMember("info", info),
		jsonMember("removed", []byte("[]")),
		jsonMember("repodata_version", []byte("1")),
	}}
}

func jsonMember(key string, raw []byte) member {
	return member{key: key, rawKey: quote(key), raw: raw}
}

// parseRepodata takes a repodata.json apart. Empty bytes stand for an empty object (CEP 36).
func parseRepodata(b []byte) (*repodata, error) {
	d := &repodata{size: len(b)}
	if len(bytes.TrimSpace(b)) == 0 {
		return d, nil
	}
	if !json.Valid(b) {
		return nil, errors.New("it is not JSON")
	}
	top, err := splitObject(b)
	if err != nil {
		return nil, err
	}
	if err := sortMembers(top); err != nil {
		return nil, err
	}
	for _, m := range top {
		switch m.key {
		case "packages":
			d.packages, err = parseRecords(m.raw)
		case "packages.conda":
			d.conda, err = parseRecords(m.raw)
		default:
			if m.key == "removed" {
				d.removed, err = parseRemoved(m.raw)
			}
			d.others = append(d.others, m)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.key, err)
		}
	}
	return d, nil
}

func parseRecords(raw []byte) ([]member, error) {
	if string(raw) == "null" {
		return nil, nil
	}
	ms, err := splitObject(raw)
	if err != nil {
		return nil, err
	}
	for _, m := range ms {
		if m.raw[0] != '{' {
			return nil, fmt.Errorf("the record of %.80q is not an object", m.key)
		}
	}
	return ms, sortMembers(ms)
}

func parseRemoved(raw []byte) (map[string]bool, error) {
	var names []string
	if err := json.Unmarshal(raw, &names); err != nil {
		return nil, errors.New("it is not a list of file names")
	}
	set := make(map[string]bool, len(names))
	for _, n := range names {
		set[n] = true
	}
	return set, nil
}

// encode gives the document: one record a line, keys sorted, the bytes of what was read as they were. The same pieces
// always give the same bytes.
func (d *repodata) encode() []byte {
	var b bytes.Buffer
	b.Grow(d.size + 1024)
	sep := byte('{')
	top := overlay(d.others, []member{jsonMember("packages", nil), jsonMember("packages.conda", nil)})
	for _, m := range top {
		b.WriteByte(sep)
		if sep == ',' {
			b.WriteByte('\n')
		}
		sep = ','
		b.Write(m.rawKey)
		b.WriteByte(':')
		switch m.key {
		case "packages":
			encodeRecords(&b, d.packages)
		case "packages.conda":
			encodeRecords(&b, d.conda)
		default:
			b.Write(m.raw)
		}
	}
	b.WriteString("}\n")
	return b.Bytes()
}

func encodeRecords(b *bytes.Buffer, records []member) {
	b.WriteByte('{')
	for i, m := range records {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('\n')
		b.Write(m.rawKey)
		b.WriteByte(':')
		b.Write(m.raw)
	}
	if len(records) > 0 {
		b.WriteByte('\n')
	}
	b.WriteByte('}')
}

func isConda(filename string) bool { return strings.HasSuffix(filename, ".conda") }

// record gives a file's record as it stands in the document.
func (d *repodata) record(filename string) ([]byte, bool) {
	list := d.packages
	if isConda(filename) {
		list = d.conda
	}
	i, ok := seek(list, filename)
	if !ok {
		return nil, false
	}
	return list[i].raw, true
}

// merge returns the document with the changes in it, and which of them changed it. Those that cannot be done get their
// err. Existing records keep every byte but those of attestations_sha256.
func (d *repodata) merge(subdir string, changes []*change, now int64) (next *repodata, changed []*change) {
	var packages, conda []member
	seen := map[string]*change{}
	for _, c := range changes {
		if c.err != nil {
			continue
		}
		if first := seen[c.Filename]; first != nil { // twice in one batch
			if first.sha256 != c.sha256 {
				c.err = &Conflict{Subdir: subdir, Filename: c.Filename, Where: "package", Have: first.sha256, Want: c.sha256}
			}
			continue
		}
		seen[c.Filename] = c
		var raw []byte
		if old, ok := d.record(c.Filename); ok {
			if raw = c.amendJSON(subdir, old); raw == nil {
				continue
			}
		} else if d.removed[c.Filename] {
			c.err = &Removed{Subdir: subdir, Filename: c.Filename}
			continue
		} else if raw = c.newJSON(subdir, now); raw == nil {
			continue
		}
		changed = append(changed, c)
		m := jsonMember(c.Filename, raw)
		if isConda(c.Filename) {
			conda = append(conda, m)
		} else {
			packages = append(packages, m)
		}
	}
	slices.SortFunc(packages, byKey)
	slices.SortFunc(conda, byKey)
	n := *d
	n.packages, n.conda = overlay(d.packages, packages), overlay(d.conda, conda)
	return &n, changed
}

// amendJSON gives an existing record with the current sidecar in it, or nil if it has that already or is another
// package's (err is set then).
func (c *change) amendJSON(subdir string, old []byte) []byte {
	fields, err := splitObject(old)
	if err != nil {
		c.err = &Malformed{Key: subdir + "/" + repodataName, Err: fmt.Errorf("the record of %s: %w", c.Filename, err)}
		return nil
	}
	have := strings.ToLower(jsonString(fields, "sha256"))
	if !c.same(have, strings.ToLower(jsonString(fields, "md5"))) {
		c.err = &Conflict{Subdir: subdir, Filename: c.Filename, Where: repodataName, Have: have, Want: c.sha256}
		return nil
	}
	if c.sidecar == "" || jsonString(fields, attestations) == c.sidecar {
		return nil
	}
	return setJSON(old, fields, attestations, c.sidecar)
}

// newJSON gives the record of a package that is new to the channel.
func (c *change) newJSON(subdir string, now int64) []byte {
	fields := make(map[string]any, len(c.fields)+2)
	for k, v := range c.fields {
		fields[k] = v
	}
	fields["indexed_timestamp"] = json.Number(strconv.FormatInt(now, 10))
	if c.sidecar != "" {
		fields[attestations] = c.sidecar
	}
	b, err := encodeJSON(fields)
	if err != nil {
		c.err = &Invalid{Subdir: subdir, Filename: c.Filename, Err: fmt.Errorf("encoding its record: %w", err)}
		return nil
	}
	return b
}
