package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/command"
)

// broughtFlags say where attestations are that somebody else made: they are verified like our own, and used instead of
// signing.
type broughtFlags struct {
	AttestationDir     string `xor:"brought" placeholder:"DIR" help:"Folder with attestations for some or all packages: FILE.sigstore.json, FILE.attestation.json, STEM.attestation.json or FILE.sigs. They are verified and used instead of signing."`
	AttestationsBeside bool   `xor:"brought" help:"Look for them beside each package."`
}

// maxBrought is how much of attestations an item carries through the queue; a usual bundle has 10 kB.
const maxBrought = 256 << 10

// bring gives the attestation for a package, a bundle or an array of them; nil if there is none. What it says is looked at
// by the stage sign alone.
func (f *broughtFlags) bring(path string) (json.RawMessage, error) {
	dir := f.AttestationDir
	if f.AttestationsBeside {
		dir = filepath.Dir(path)
	}
	if dir == "" {
		return nil, nil
	}
	name := filepath.Base(path)
	stem := strings.TrimSuffix(strings.TrimSuffix(name, ".conda"), ".tar.bz2")
	for _, candidate := range []string{name + ".sigstore.json", name + ".attestation.json", stem + ".attestation.json", name + ".sigs"} {
		file := filepath.Join(dir, candidate)
		b, err := readAttestation(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && strings.HasSuffix(candidate, ".sigs") {
			b, err = ofPackage(b, name)
		}
		if err != nil {
			return nil, command.Usage("take the file away, or put the right one in its place", fmt.Errorf("%s: %w", file, err))
		}
		return b, nil
	}
	return nil, nil
}

func readAttestation(file string) (json.RawMessage, error) {
	b, err := readMaterial(file)
	switch {
	case err != nil:
		return nil, err
	case !json.Valid(b):
		return nil, errors.New("it is not JSON")
	case !strings.HasSuffix(file, ".sigs") && len(b) > maxBrought:
		return nil, fmt.Errorf("a bundle of more than %d bytes is not taken along", maxBrought)
	}
	return b, nil
}

// ofPackage leaves those elements of a sidecar that claim to be publish attestations of the package: only they can be used,
// and a sidecar may be large.
func ofPackage(sidecar []byte, name string) (json.RawMessage, error) {
	elements, err := attest.Split(sidecar)
	if err != nil {
		return nil, err
	}
	var own []json.RawMessage
	size := 0
	for _, e := range elements {
		if r, err := attest.Inspect(e); err == nil && r.Subject.Filename == name {
			own = append(own, e)
			size += len(e)
		}
	}
	if len(own) == 0 {
		return nil, fmt.Errorf("none of its %d attestations is of %s", len(elements), name)
	}
	if size > maxBrought {
		return nil, fmt.Errorf("its attestations of %s have %d bytes, more than %d", name, size, maxBrought)
	}
	return json.Marshal(own)
}
