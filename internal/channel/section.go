package channel

import (
	"encoding/json"
	"fmt"
	"strings"
)

// section is a group of records of a document: "packages" and "packages.conda" (CEP 36), or one of those below "v3"
// (CEP 48), written "v3/conda", "v3/tar.bz2" and so on.
type section string

const (
	inPackages section = "packages"
	inConda    section = "packages.conda"
)

// v3 is the top-level key whose members are sections by the kind of file.
const v3 = "v3"

func inV3(kind string) section { return section(v3 + "/" + kind) }

// v3 gives the kind of file of a section below "v3".
func (s section) v3() (kind string, ok bool) { return strings.CutPrefix(string(s), v3+"/") }

// placed is where a record is: keys of CEP 36 are file names, those of CEP 48 lack the extension.
type placed struct {
	section section
	key     string
}

func (p placed) filename() string {
	if kind, ok := p.section.v3(); ok {
		return p.key + "." + kind
	}
	return p.key
}

// placesOf gives the places at which a file's record may be.
func placesOf(filename string) [2]placed {
	old, kind := inPackages, "tar.bz2"
	if strings.HasSuffix(filename, ".conda") {
		old, kind = inConda, "conda"
	}
	return [2]placed{{old, filename}, {inV3(kind), strings.TrimSuffix(filename, "."+kind)}}
}

// place says where the record of a new file goes: below "v3" if clients that do not know of it would misread the record.
func place(filename string, fields map[string]any) placed {
	p := placesOf(filename)
	if needsV3(fields) {
		return p[1]
	}
	return p[0]
}

// needsV3 tells whether a record says what only CEP 43 (conditional dependencies), 44 (optional ones) or 45 (flags) give
// a meaning to: a client from before them would ignore it, or fail at it.
func needsV3(fields map[string]any) bool {
	if m, ok := fields["extra_depends"].(map[string]any); ok && len(m) > 0 {
		return true
	}
	if l, ok := fields["flags"].([]any); ok && len(l) > 0 {
		return true
	}
	for _, key := range []string{"depends", "constrains"} {
		list, _ := fields[key].([]any)
		for _, e := range list {
			spec, _ := e.(string)
			_, brackets, ok := strings.Cut(spec, "[")
			if !ok {
				continue
			}
			for _, field := range strings.FieldsFunc(brackets, func(r rune) bool { return r == ',' || r == ' ' || r == '[' }) {
				switch name, _, _ := strings.Cut(field, "="); name {
				case "when", "extras", "flags":
					return true
				}
			}
		}
	}
	return false
}

// announceV3 has info name the revision v3 (CEP 48). Counts that others put there are dropped: they would be wrong now.
func announceV3(key string, raw []byte) ([]byte, error) {
	if key != "info" {
		return raw, nil
	}
	info, err := splitObject(raw)
	if err != nil {
		return nil, err
	}
	revisions, _ := lookup(info, "repodata_revisions")
	all := map[string]map[string]json.RawMessage{}
	if revisions.raw != nil {
		if err := json.Unmarshal(revisions.raw, &all); err != nil {
			return nil, fmt.Errorf("repodata_revisions: %w", err)
		}
	}
	if all[v3] == nil {
		all[v3] = map[string]json.RawMessage{}
	}
	for _, count := range []string{"n_packages", "newest", "oldest"} {
		delete(all[v3], count)
	}
	value, err := encodeJSON(all)
	if err != nil {
		return nil, err
	}
	return setJSON(raw, info, "repodata_revisions", value), nil
}
