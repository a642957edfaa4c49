package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/command"
	"github.com/hallmark-attest/hallmark/pipeline"
)

// broughtFlags say where attestations are that somebody else made: they are verified like our own. A publish attestation is
// used instead of signing; others ride along where the policy names them.
type broughtFlags struct {
	AttestationDir     string `xor:"brought" placeholder:"DIR" help:"Folder with attestations for some or all packages: FILE.sigstore.json, FILE.KIND.sigstore.json, FILE.attestation.json, STEM.attestation.json, FILE.intoto.jsonl or FILE.sigs (docs/policy.md). They are verified; a publish attestation is used instead of signing."`
	AttestationsBeside bool   `xor:"brought" help:"Look for them beside each package."`
}

// The names of files with attestations, behind the name of the package. KIND in .KIND.sigstore.json is any text.
const (
	endBundle      = ".sigstore.json"
	endAttestation = ".attestation.json"
	endLines       = ".intoto.jsonl"
	endSidecar     = ".sigs"
)

// bringer gives what finds the attestations of a package by its path: nil for a package that has none. What they say is
// looked at by the stage sign alone. It is safe for concurrent use, and reads each folder once, however many packages
// there are.
func (f *broughtFlags) bringer() (func(path string) ([]pipeline.Bundle, error), error) {
	folders := &folders{read: map[string]func() (folder, error){}}
	switch {
	case f.AttestationDir != "":
		// Told at once, and not as if no package had an attestation.
		if _, err := folders.get(f.AttestationDir); err != nil {
			return nil, command.Usage("name the folder that has them", fmt.Errorf("--attestation-dir: %w", err))
		}
		return func(path string) ([]pipeline.Bundle, error) {
			return folders.bring(f.AttestationDir, filepath.Base(path))
		}, nil
	case f.AttestationsBeside:
		return func(path string) ([]pipeline.Bundle, error) {
			return folders.bring(filepath.Dir(path), filepath.Base(path))
		}, nil
	}
	return func(string) ([]pipeline.Bundle, error) { return nil, nil }, nil
}

// folder is the names of a folder's attestations, by the package's file name that they begin with; STEM.attestation.json by
// the stem.
type folder map[string][]string

// folders reads folders, each once.
type folders struct {
	mu   sync.Mutex
	read map[string]func() (folder, error)
}

func (f *folders) get(dir string) (folder, error) {
	f.mu.Lock()
	once := f.read[dir]
	if once == nil {
		once = sync.OnceValues(func() (folder, error) { return readFolder(dir) })
		f.read[dir] = once
	}
	f.mu.Unlock()
	return once()
}

// readFolder notes each attestation by the package that its name says it is of. A name may say two: of a.conda.b-1-0.conda,
// too, a.conda is a beginning; the stage sign will find out.
func readFolder(dir string) (folder, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	found := folder{}
	for _, e := range entries {
		name := e.Name()
		if !slices.ContainsFunc([]string{endBundle, endAttestation, endLines, endSidecar}, func(end string) bool { return strings.HasSuffix(name, end) }) {
			continue
		}
		isOfFile := false
		for _, ext := range []string{".conda", ".tar.bz2"} {
			for at := strings.Index(name, ext+"."); at >= 0; {
				file, rest := name[:at+len(ext)], name[at+len(ext):]
				if rest == endAttestation || rest == endLines || rest == endSidecar || strings.HasSuffix(rest, endBundle) {
					found[file] = append(found[file], name)
					isOfFile = true
				}
				next := strings.Index(name[at+1:], ext+".")
				if next < 0 {
					break
				}
				at += 1 + next
			}
		}
		if stem, ok := strings.CutSuffix(name, endAttestation); ok && !isOfFile {
			found[stem] = append(found[stem], name)
		}
	}
	return found, nil
}

// bring reads the attestations of a package: of all files that bear its name, in the order of their names, the publish
// attestation's usual ones first. STEM.attestation.json, which may be another package's of the same stem, is taken if
// none of those is there.
func (f *folders) bring(dir, name string) ([]pipeline.Bundle, error) {
	in, err := f.get(dir)
	if err != nil {
		return nil, command.Usage("", fmt.Errorf("looking for attestations: %w", err))
	}
	usual := []string{name + endBundle, name + endAttestation, name + endSidecar}
	files := slices.Clone(in[name])
	if !slices.ContainsFunc(files, func(file string) bool { return slices.Contains(usual, file) }) {
		stem := strings.TrimSuffix(strings.TrimSuffix(name, ".conda"), ".tar.bz2")
		if own := in[stem]; stem != name && slices.Contains(own, stem+endAttestation) {
			files = append(files, stem+endAttestation)
			usual = append(usual, stem+endAttestation)
		}
	}
	slices.SortFunc(files, func(a, b string) int {
		if ua, ub := slices.Contains(usual, a), slices.Contains(usual, b); ua != ub {
			if ua {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	var all []pipeline.Bundle
	size := 0
	for _, file := range files {
		path := filepath.Join(dir, file)
		bundles, err := readBrought(path)
		if err != nil {
			return nil, command.Usage("take the file away, or put the right one in its place", fmt.Errorf("%s: %w", path, err))
		}
		for _, b := range bundles {
			if slices.ContainsFunc(all, func(have pipeline.Bundle) bool { return bytes.Equal(have, b) }) {
				continue
			}
			all = append(all, b)
			size += len(b)
		}
	}
	switch {
	case size > pipeline.MaxAttestations:
		err = fmt.Errorf("the attestations of %s have %d bytes, more than the %d that are taken along", name, size, pipeline.MaxAttestations)
	case len(all) > pipeline.MaxRiders+1:
		err = fmt.Errorf("%s has %d attestations, more than the %d that are taken along", name, len(all), pipeline.MaxRiders+1)
	}
	if err != nil {
		return nil, command.Usage("leave out what need not travel with the package", err)
	}
	return all, nil
}

// readBrought reads a file with attestations.
func readBrought(file string) ([]pipeline.Bundle, error) {
	b, err := readMaterial(file)
	if err != nil {
		return nil, err
	}
	return parseBrought(file, b)
}

// parseBrought takes one bundle, an array of them, or one on each line, as the file's name says; bundles are JSON objects,
// and what they say is not looked at.
func parseBrought(file string, b []byte) ([]pipeline.Bundle, error) {
	var bundles []pipeline.Bundle
	if strings.HasSuffix(file, endLines) {
		for i, line := range bytes.Split(b, []byte("\n")) {
			if line = bytes.TrimSpace(line); len(line) == 0 {
				continue
			}
			if line[0] != '{' || !json.Valid(line) {
				return nil, fmt.Errorf("line %d is not a JSON object", i+1)
			}
			bundles = append(bundles, line)
		}
		if bundles == nil {
			return nil, errors.New("it is empty")
		}
		return bundles, nil
	}
	if attest.IsSidecar(b) {
		elements, err := attest.Split(b)
		if err != nil {
			return nil, err
		}
		for _, e := range elements {
			bundles = append(bundles, pipeline.Bundle(e))
		}
		if bundles == nil {
			return nil, errors.New("it has no attestation")
		}
		return bundles, nil
	}
	b = bytes.TrimSpace(b)
	switch {
	case len(b) == 0 || b[0] != '{' || !json.Valid(b):
		return nil, errors.New("it is not a JSON object")
	case strings.HasSuffix(file, endSidecar):
		return nil, errors.New("a sidecar is an array of bundles, and this is one bundle")
	}
	return []pipeline.Bundle{b}, nil
}
