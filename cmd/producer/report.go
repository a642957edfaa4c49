package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/command"
	"github.com/hallmark-attest/hallmark/pipeline"
)

// reportCmd writes what became of every item of a campaign.
type reportCmd struct {
	Campaign string `arg:"" help:"Campaign to report."`
	Out      string `placeholder:"FILE" help:"Write the report to FILE as JSON, and to stdout only its sums. Without, the whole report goes to stdout: as a table, or with --json as JSON."`
	Table    string `placeholder:"FILE" help:"Write the table of all items to FILE as well."`
	Sign     bool   `help:"Sign the report that --out writes, as packages are signed, and write the bundle to FILE.sigstore.json."`
	whereFlags
	command.SignFlags
}

// Run reports. It ends with exit code 3 if the campaign has items in quarantine.
func (r *reportCmd) Run(ctx context.Context, env *command.Env) error {
	if r.Sign && r.Out == "" {
		return command.Usage("give --out FILE", errors.New("--sign signs a file"))
	}
	var signer *signing
	if r.Sign { // what is wrong with the configuration is found before anything is written
		s, v, err := r.Signer(ctx, env)
		if err != nil {
			return err
		}
		signer = &signing{signer: s, verifier: v}
		if signer.identity, signer.issuer, err = s.Identity(ctx); err != nil {
			return err
		}
	}
	q, closeQueue, err := r.open(ctx, env)
	if err != nil {
		return err
	}
	defer closeQueue()
	c, _, err := q.Campaigns().Get(ctx, r.Campaign)
	if err != nil {
		return stateError(r.Campaign, err)
	}

	rep := newReport(c)
	var files []*draft
	defer func() {
		for _, f := range files {
			f.discard()
		}
	}()
	sink := func(path string, to func(io.Writer)) error {
		f, err := newDraft(path)
		if err != nil {
			return command.Usage("", err)
		}
		files = append(files, f)
		to(f)
		return nil
	}
	if r.Out != "" {
		err = sink(r.Out, rep.asJSON)
	}
	if r.Table != "" && err == nil {
		err = sink(r.Table, rep.asTable)
	}
	switch {
	case err != nil:
		return err
	case r.Out != "":
	case env.JSON:
		rep.asJSON(env.Stdout)
	case r.Table == "":
		rep.asTable(env.Stdout)
	}
	if err := rep.write(ctx, q, c); err != nil {
		return err
	}

	w := written{Schema: "hallmark.report-written/1", Campaign: c.Name, State: rep.Campaign.State, Counts: rep.Counts, Causes: rep.Causes}
	if r.Out != "" {
		if w.SHA256, err = files[0].finish(); err != nil {
			return err
		}
		w.Report = r.Out
		if signer != nil {
			w.Bundle = r.Out + ".sigstore.json"
			if err := signer.sign(ctx, r.Out, w, rep); err != nil {
				return err
			}
		}
	}
	// The bundle is there before the report is: nobody finds one that should be signed and is not.
	for _, f := range files {
		if err := f.place(); err != nil {
			return err
		}
	}
	if r.Out != "" || r.Table != "" && !env.JSON {
		w.Table = r.Table
		if err := env.Result(w, func(out io.Writer) {
			rep.head(out)
			rep.sums(out)
			for _, line := range [][2]string{{"report", w.Report}, {"bundle", w.Bundle}, {"table", w.Table}} {
				if line[1] != "" {
					fmt.Fprintf(out, "%s  %s\n", line[0], line[1])
				}
			}
		}); err != nil {
			return err
		}
	}
	if n := rep.Counts.Quarantined; n > 0 {
		return &command.Error{Code: command.ExitQuarantined, Item: c.Name, Err: fmt.Errorf("%d of %d items are in quarantine", n, rep.Counts.Enqueued),
			Hint: "see producer quarantine list " + c.Name}
	}
	return nil
}

// written is the result of a report that went to a file.
type written struct {
	Schema   string         `json:"schema"`
	Campaign string         `json:"campaign"`
	State    pipeline.State `json:"state"`
	Report   string         `json:"report,omitempty"`
	SHA256   string         `json:"sha256,omitempty"`
	Bundle   string         `json:"bundle,omitempty"`
	Table    string         `json:"table,omitempty"`
	Counts   reportCounts   `json:"counts"`
	Causes   []cause        `json:"causes,omitempty"`
}

// signing is what signs a report.
type signing struct {
	signer interface {
		Sign(ctx context.Context, statement []byte) ([]byte, error)
	}
	verifier         *attest.Verifier
	identity, issuer string
}

// sign writes the bundle of the report, verified.
func (s *signing) sign(ctx context.Context, path string, w written, rep *report) error {
	statement, err := attest.ReportStatement(filepath.Base(path), w.SHA256, struct {
		Schema   string         `json:"schema"`
		Campaign string         `json:"campaign"`
		State    pipeline.State `json:"state"`
		Counts   reportCounts   `json:"counts"`
	}{rep.Schema, w.Campaign, w.State, w.Counts})
	if err != nil {
		return err
	}
	bundle, err := s.signer.Sign(ctx, statement)
	if err != nil {
		return fmt.Errorf("signing the report: %w", err)
	}
	if _, err := s.verifier.VerifyReport(bundle, w.SHA256, attest.Signer{Identity: s.identity, Issuer: s.issuer}); err != nil {
		return &command.Error{Code: command.ExitFailed, Item: path, Err: fmt.Errorf("the report's own signature does not verify: %w", err),
			Hint: "check that the trusted root and the signing configuration belong to the same Sigstore instance"}
	}
	f, err := newDraft(w.Bundle)
	if err != nil {
		return err
	}
	defer f.discard()
	if _, err := f.Write(append(bundle, '\n')); err != nil {
		return err
	}
	if _, err := f.finish(); err != nil {
		return err
	}
	return f.place()
}

// draft is a file that appears under its name when it is whole.
type draft struct {
	path   string
	f      *os.File
	digest interface {
		io.Writer
		Sum([]byte) []byte
	}
	err    error
	placed bool
}

func newDraft(path string) (*draft, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return nil, err
	}
	return &draft{path: path, f: f, digest: sha256.New()}, nil
}

// Write keeps its first error for finish.
func (d *draft) Write(b []byte) (int, error) {
	n, err := d.f.Write(b)
	d.digest.Write(b[:n])
	d.err = cmp.Or(d.err, err)
	return n, err
}

// finish makes the contents durable and returns their SHA-256. It may be called again.
func (d *draft) finish() (string, error) {
	err := d.err
	if err == nil {
		err = d.f.Sync()
	}
	if err != nil {
		return "", fmt.Errorf("writing %s: %w", d.path, err)
	}
	return hex.EncodeToString(d.digest.Sum(nil)), nil
}

// place gives the file its name, readable for whoever may read others.
func (d *draft) place() error {
	if _, err := d.finish(); err != nil {
		return err
	}
	err := d.f.Chmod(0o644)
	if err == nil {
		err = d.f.Close()
	}
	if err == nil {
		err = os.Rename(d.f.Name(), d.path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", d.path, err)
	}
	d.placed = true
	return nil
}

// discard removes what has not been placed.
func (d *draft) discard() {
	if !d.placed {
		_ = d.f.Close() // closed already if placing failed
		_ = os.Remove(d.f.Name())
	}
}
