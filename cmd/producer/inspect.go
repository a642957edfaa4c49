package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/command"
)

// inspectCmd shows what bundles claim.
type inspectCmd struct {
	Files []string `arg:"" name:"file" help:"Packages (their sidecar <package>.sigs is read), sidecars or bundles."`
}

// attestation is what a bundle says, as verify and inspect show it.
type attestation struct {
	Verified      bool              `json:"verified"`
	Identity      string            `json:"identity"`
	Issuer        string            `json:"issuer"`
	Claims        map[string]string `json:"claims,omitempty"`
	Package       string            `json:"package"`
	SHA256        string            `json:"sha256"`
	TargetChannel *string           `json:"targetChannel"`
	SignedAt      *time.Time        `json:"signedAt,omitempty"`
	SignedAtBy    string            `json:"signedAtBy,omitempty"`
	CertSHA256    string            `json:"certificateSha256"`
	NotBefore     time.Time         `json:"certificateNotBefore"`
	NotAfter      time.Time         `json:"certificateNotAfter"`
	BundleSHA256  string            `json:"bundleSha256"`
	MediaType     string            `json:"mediaType"`
	Log           []logEntry        `json:"log"`
	Warnings      []string          `json:"warnings,omitempty"`
}

type logEntry struct {
	Origin string `json:"origin,omitempty"`
	LogID  string `json:"logId"`
	Index  int64  `json:"index"`
	Kind   string `json:"kind"`
}

func attestationOf(r *attest.Result) *attestation {
	a := &attestation{Verified: r.Verified, Identity: r.Identity, Issuer: r.Issuer, Claims: r.Claims, Package: r.Subject.Filename,
		SHA256: r.Subject.SHA256, TargetChannel: r.TargetChannel, SignedAtBy: r.SignedAtBy, CertSHA256: r.CertSHA256, NotBefore: r.NotBefore.UTC(),
		NotAfter: r.NotAfter.UTC(), BundleSHA256: r.BundleSHA256, MediaType: r.MediaType, Log: []logEntry{}, Warnings: r.Warnings}
	if !r.SignedAt.IsZero() {
		t := r.SignedAt.UTC()
		a.SignedAt = &t
	}
	for _, e := range r.Log {
		a.Log = append(a.Log, logEntry(e))
	}
	return a
}

type inspection struct {
	File         string         `json:"file"`
	Attestations []*attestation `json:"attestations"`
}

// Run inspects.
func (c *inspectCmd) Run(_ context.Context, env *command.Env) error {
	var all []inspection
	for _, file := range c.Files {
		path := file
		if strings.HasSuffix(file, ".conda") || strings.HasSuffix(file, ".tar.bz2") {
			path += ".sigs"
		}
		b, err := readMaterial(path)
		if err != nil {
			return &command.Error{Code: command.ExitFailed, Item: file, Err: err}
		}
		bundles := []json.RawMessage{b}
		if attest.IsSidecar(b) {
			if bundles, err = attest.Split(b); err != nil {
				return &command.Error{Code: command.ExitFailed, Item: file, Err: err}
			}
		}
		in := inspection{File: path}
		for i, raw := range bundles {
			r, err := attest.Inspect(raw)
			if err != nil {
				return &command.Error{Code: command.ExitFailed, Item: fmt.Sprintf("%s, bundle %d", path, i), Err: err}
			}
			in.Attestations = append(in.Attestations, attestationOf(r))
		}
		all = append(all, in)
	}
	return env.Result(struct {
		Schema string       `json:"schema"`
		Files  []inspection `json:"files"`
	}{"hallmark.inspection/1", all}, func(w io.Writer) {
		for _, in := range all {
			for i, a := range in.Attestations {
				fmt.Fprintf(w, "%s, bundle %d of %d (claims, not verified)\n", in.File, i+1, len(in.Attestations))
				a.text(w)
			}
		}
	})
}

func (a *attestation) text(w io.Writer) {
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "  %-36s %s\n", name, value)
		}
	}
	row("package", a.Package)
	row("sha256", a.SHA256)
	if a.TargetChannel != nil {
		row("target channel", *a.TargetChannel)
	} else {
		row("target channel", "none attested")
	}
	row("signed by", a.Identity)
	row("issuer", a.Issuer)
	for _, k := range slices.Sorted(maps.Keys(a.Claims)) {
		row(k, a.Claims[k])
	}
	row("certificate", a.NotBefore.Format(time.RFC3339)+" to "+a.NotAfter.Format(time.RFC3339))
	if a.SignedAt != nil {
		row("signed at", a.SignedAt.Format(time.RFC3339)+" ("+a.SignedAtBy+")")
	}
	for _, e := range a.Log {
		row("log entry", fmt.Sprintf("%s index %d (%s)", cmp.Or(e.Origin, e.LogID), e.Index, e.Kind))
	}
	row("bundle sha256", a.BundleSHA256)
	for _, s := range a.Warnings {
		row("warning", s)
	}
}
