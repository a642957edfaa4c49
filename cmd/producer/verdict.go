package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/hallmark-attest/hallmark/internal/command"
)

// What became of a package.
const (
	statusVerified    = "verified"
	statusRefused     = "refused"     // it does not verify
	statusUnreachable = "unreachable" // what has to be read to tell could not be
)

// Where a digest is from.
const (
	digestOfFile     = "file"
	digestOfDownload = "download"
	digestOfIndex    = "index" // the package was not read
)

// Which sidecar a package was verified with.
const (
	sidecarFile       = "file"       // a local one
	sidecarAdvertised = "advertised" // the immutable one that the record names (CEP 50)
	sidecarMutable    = "mutable"    // .sigs, by its URL
	sidecarImmutable  = "immutable"  // .sigs.<sha256>, by its URL
	sidecarV0         = "v0"         // .v0.sigs, as prefix.dev has it
)

// verification is the result of verify.
type verification struct {
	Schema      string    `json:"schema"`
	Verified    int       `json:"verified"`
	Refused     int       `json:"refused"`
	Unreachable int       `json:"unreachable"`
	Packages    []verdict `json:"packages"`
}

type verdict struct {
	Input      string         `json:"input"`
	Package    string         `json:"package"`
	Status     string         `json:"status"`
	Verified   bool           `json:"verified"`
	SHA256     string         `json:"sha256,omitempty"`
	DigestFrom string         `json:"digestFrom,omitempty"`
	Sidecar    *sidecarUsed   `json:"sidecar,omitempty"`
	Index      string         `json:"index,omitempty"` // the document that the record is in
	Code       string         `json:"code,omitempty"`
	Message    string         `json:"message,omitempty"`
	Hint       string         `json:"hint,omitempty"`
	Warnings   []string       `json:"warnings,omitempty"`
	Attest     *attestation   `json:"attestation,omitempty"`
	Unverified []refusedEntry `json:"refused,omitempty"`
}

type sidecarUsed struct {
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	SHA256 string `json:"sha256,omitempty"`
}

type refusedEntry struct {
	Index   int    `json:"index"`
	Message string `json:"message"`
}

// describe says what the verdict is on.
func (d *verdict) describe(c candidate) {
	d.Input, d.Package, d.Index, d.SHA256 = c.input, c.input, c.document, c.target.sha256
	if c.target.sha256 != "" {
		d.DigestFrom = digestOfFile
	}
	if c.path == "" && c.subdir != "" && c.filename != "" {
		d.Package = c.place.name + "/" + c.subdir + "/" + c.filename
	}
}

// refuse says why the package does not verify, or why that could not be told.
func (d *verdict) refuse(c candidate, err error) {
	code, hint, open := causeOf(err)
	if _, local := errors.AsType[*fs.PathError](err); code == "" && !local && c.place != nil && c.place.web && c.target.err == nil {
		code, open = causeUnusable, true
	}
	d.Status, d.Code, d.Hint, d.Message = statusRefused, code, hint, err.Error()
	if open {
		d.Status = statusUnreachable
	}
}

func (d *verdict) text(w io.Writer) {
	if d.Status != statusVerified {
		word := "REFUSED  "
		if d.Status == statusUnreachable {
			word = "UNREACHED"
		}
		fmt.Fprintf(w, "%s %s\n  cause: %s\n", word, d.Package, d.Message)
		if d.Hint != "" {
			fmt.Fprintf(w, "  hint:  %s\n", d.Hint)
		}
		return
	}
	fmt.Fprintf(w, "verified  %s  signed by %s at %s\n", d.Package, d.Attest.Identity, d.Attest.SignedAt.Format(time.RFC3339))
	switch kind := d.Sidecar.Kind; {
	case kind == sidecarV0 && d.Index != "":
		fmt.Fprintf(w, "  sidecar:  %s, which no record advertises\n", d.Sidecar.Name)
	case kind == sidecarV0, kind == sidecarMutable, kind == sidecarImmutable:
		fmt.Fprintf(w, "  sidecar:  %s, as given: no record was asked for it\n", d.Sidecar.Name)
	}
	if d.DigestFrom == digestOfIndex {
		fmt.Fprintf(w, "  digest:   as the index has it: the package was not downloaded\n")
	}
	for _, s := range d.Warnings {
		fmt.Fprintf(w, "  warning:  %s\n", s)
	}
}

// matchesText says how many packages each name or match spec means.
func matchesText(w io.Writer, targets []*target, all []candidate) {
	for _, t := range targets {
		if !t.isSpec {
			continue
		}
		n := 0
		for _, c := range all {
			if c.target == t && c.record != nil {
				n++
			}
		}
		noun := "packages"
		if n == 1 {
			noun = "package"
		}
		fmt.Fprintf(w, "%s: %d %s in %s\n", t.input, n, noun, t.place.name)
	}
}

// error is nil if all packages verify.
func (r *verification) error() error {
	all := len(r.Packages)
	switch {
	case r.Refused > 0 && r.Unreachable > 0:
		return &command.Error{Code: command.ExitFailed, Err: fmt.Errorf("%d of %d packages do not verify, and of %d it could not be told", r.Refused, all, r.Unreachable)}
	case r.Refused > 0:
		return &command.Error{Code: command.ExitFailed, Err: fmt.Errorf("%d of %d packages do not verify", r.Refused, all)}
	case r.Unreachable > 0:
		return &command.Error{Code: command.ExitUpstream, Err: fmt.Errorf("of %d of %d packages it could not be told if they verify", r.Unreachable, all),
			Hint: "each has its cause; run the same command again once that is gone"}
	case r.Verified < all || all == 0:
		return errors.New("not all packages were looked at") // a defect: nothing passes by not being looked at
	}
	return nil
}
