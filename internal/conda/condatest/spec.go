// Package condatest makes packages: specs flow in, the bytes of true .conda and .tar.bz2 packages flow out, always the same for the
// same spec. It makes bad ones too. Tests and demonstrations use it; nothing that publishes does.
package condatest

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hallmark-attest/hallmark/internal/conda"
)

// Spec says what package to make. The zero value of every field but Name, Version and Build is fine.
type Spec struct {
	Name, Version, Build string
	BuildNumber          int
	Subdir               string       // noarch if empty
	Noarch               string       // "generic", "python" or none
	Format               conda.Format // conda.Conda if 0
	Depends, Constrains  []string
	License              string
	Timestamp            int64           // Unix time in ms, or none
	RunExports           json.RawMessage // info/run_exports.json as it stands, or none
	// Files are the files outside info/, by path.
	Files map[string][]byte
	// Payload adds a file of so many random bytes, for packages of a size.
	Payload int
	// Info are files of info/, by their path below it, that are added or stand in for what would be made.
	Info map[string][]byte
	// Index overrides fields of info/index.json; a nil value removes the field.
	Index map[string]any
}

// Filename is the package's CEP 26 file name.
func (s Spec) Filename() string { return s.name().String() }

func (s Spec) name() conda.Name {
	return conda.Name{Name: s.Name, Version: s.Version, Build: s.Build, Format: cmp.Or(s.Format, conda.Conda)}
}

// Bytes makes the package.
func (s Spec) Bytes() ([]byte, error) {
	info, err := s.info()
	if err != nil {
		return nil, err
	}
	if s.name().Format == conda.TarBz2 {
		t, err := tarball(append(info, s.pkg()...))
		if err != nil {
			return nil, err
		}
		return bzip2Stream(t), nil
	}
	members, err := condaMembers(s.name().Stem(), info, s.pkg())
	if err != nil {
		return nil, err
	}
	return zipped(members, "")
}

// Write makes the package in the folder dir, which it makes too, and returns its path.
func Write(dir string, s Spec) (string, error) {
	b, err := s.Bytes()
	if err != nil {
		return "", fmt.Errorf("making %s: %w", s.Filename(), err)
	}
	return writeFile(dir, s.Filename(), b)
}

func writeFile(dir, name string, b []byte) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("making a package's folder: %w", err)
	}
	p := filepath.Join(dir, name)
	if err := os.WriteFile(p, b, 0o644); err != nil {
		return "", fmt.Errorf("writing a package: %w", err)
	}
	return p, nil
}

var metadata = []byte(`{"conda_pkg_format_version": 2}`)

func condaMembers(stem string, info, pkg []file) ([]member, error) {
	var packed [2][]byte
	for i, files := range [][]file{pkg, info} {
		t, err := tarball(files)
		if err != nil {
			return nil, err
		}
		if packed[i], err = zstandard(t); err != nil {
			return nil, err
		}
	}
	return []member{
		{name: "metadata.json", body: metadata},
		{name: "pkg-" + stem + ".tar.zst", body: packed[0]},
		{name: "info-" + stem + ".tar.zst", body: packed[1]},
	}, nil
}

// pkg is what the package holds outside info/.
func (s Spec) pkg() []file {
	var files []file
	for _, p := range slices.Sorted(maps.Keys(s.Files)) {
		files = append(files, file{name: p, body: s.Files[p]})
	}
	if s.Payload > 0 {
		b := make([]byte, s.Payload)
		var seed [32]byte
		copy(seed[:], s.Filename())
		_, _ = rand.NewChaCha8(seed).Read(b)
		files = append(files, file{name: "share/" + s.Name + "/payload.bin", body: b})
	}
	return files
}

func (s Spec) info() ([]file, error) {
	type pathEntry struct {
		Path   string `json:"_path"`
		Type   string `json:"path_type"`
		SHA256 string `json:"sha256"`
		Size   int    `json:"size_in_bytes"`
	}
	paths := []pathEntry{}
	var list strings.Builder
	for _, f := range s.pkg() {
		h := sha256.Sum256(f.body)
		paths = append(paths, pathEntry{f.name, "hardlink", hex.EncodeToString(h[:]), len(f.body)})
		list.WriteString(f.name + "\n")
	}
	out := []file{{name: "info/files", body: []byte(list.String())}}
	for _, d := range []struct {
		name string
		v    any
	}{
		{"info/hash_input.json", map[string]string{"target_platform": cmp.Or(s.Subdir, "noarch")}},
		{"info/index.json", s.index()},
		{"info/paths.json", map[string]any{"paths": paths, "paths_version": 1}},
		{"info/about.json", map[string]any{"license": s.License, "summary": "A package for tests: " + s.Name}},
	} {
		b, err := json.MarshalIndent(d.v, "", "  ")
		if err != nil {
			return nil, fmt.Errorf("writing %s: %w", d.name, err)
		}
		out = append(out, file{name: d.name, body: b})
	}
	if s.RunExports != nil {
		out = append(out, file{name: "info/run_exports.json", body: s.RunExports})
	}
	out = slices.DeleteFunc(out, func(f file) bool { return s.Info[strings.TrimPrefix(f.name, "info/")] != nil })
	for _, p := range slices.Sorted(maps.Keys(s.Info)) {
		out = append(out, file{name: "info/" + p, body: s.Info[p]})
	}
	return out, nil
}

func (s Spec) index() map[string]any {
	m := map[string]any{
		"name": s.Name, "version": s.Version, "build": s.Build, "build_number": s.BuildNumber,
		"subdir": cmp.Or(s.Subdir, "noarch"), "depends": append([]string{}, s.Depends...),
	}
	if len(s.Constrains) > 0 {
		m["constrains"] = s.Constrains
	}
	if s.License != "" {
		m["license"] = s.License
	}
	if s.Noarch != "" {
		m["noarch"] = s.Noarch
	}
	if s.Timestamp != 0 {
		m["timestamp"] = s.Timestamp
	}
	for k, v := range s.Index {
		if v == nil {
			delete(m, k)
		} else {
			m[k] = v
		}
	}
	return m
}
