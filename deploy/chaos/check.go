package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// check looks from outside whether what must never happen has happened.
func (h *house) check(ctx context.Context, j *job, s status) error {
	n := len(j.packages)
	if s.Published+s.Skipped != n || s.Failed+s.Aborted+s.Waiting != 0 {
		h.fail("%s: %d packages, and the ledger says %+v", j.name, n, s)
	}
	if _, said, err := output(ctx, h.direct, h.bin["producer"], "channel", "merge", "--to", j.to); err != nil {
		h.fail("%s: channel merge: %v: %s", j.name, err, said)
	}
	// Records, packages, sidecars and digests agree, and every signature is the campaign's signer's.
	out, said, err := output(ctx, h.direct, h.bin["producer"], "channel", "check", "--to", j.to, "--trusted-root", h.trustedRoot,
		"--certificate-identity", h.identity, "--certificate-oidc-issuer", h.issuer, "--target-channel", j.url)
	if err != nil {
		h.fail("%s: channel check: exit %d: %s %s", j.name, exitCode(err), tail(out), said)
	}
	if h.bin["channelcheck"] != "" {
		subdirs, err := subdirsOf(j.folder)
		if err != nil {
			return err
		}
		args := append([]string{"-require-signed", "-expect", fmt.Sprint(n), j.folder}, subdirs...)
		if out, said, err := output(ctx, nil, h.bin["channelcheck"], args...); err != nil {
			h.fail("%s: the independent checker: %s %s", j.name, tail(out), said)
		}
	}
	where := map[string]string{} // file name → path in the channel
	for _, p := range j.packages {
		found, err := filepath.Glob(filepath.Join(j.folder, "*", filepath.Base(p)))
		if err != nil {
			return err
		}
		if len(found) != 1 {
			h.fail("%s: %s is in the channel %d times", j.name, filepath.Base(p), len(found))
			continue
		}
		where[filepath.Base(p)] = found[0]
		want, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		if got, err := os.ReadFile(found[0]); err != nil || !bytes.Equal(got, want) {
			h.fail("%s: %s has other bytes than those submitted (%v)", j.name, found[0], err)
		}
	}
	if err := h.checkEvents(ctx, j, where, s.Published); err != nil {
		return err
	}
	if err := h.checkCosign(ctx, j, where); err != nil {
		return err
	}
	if err := h.checkLog(j, n); err != nil {
		return err
	}
	h.checkWorkers()
	h.checkReport(ctx, j)
	h.totals.packages += s.Published
	return nil
}

// checkEvents: each package has one event of each kind, and the bundle that the event names is in its sidecar.
func (h *house) checkEvents(ctx context.Context, j *job, where map[string]string, published int) error {
	for _, kind := range []string{"signed", "published"} {
		es, err := h.events(ctx, j, kind, published)
		if err != nil {
			h.fail("%s: %v", j.name, err)
			continue
		}
		seen := map[string]int{}
		for _, e := range es {
			d := e.Data.CustomData
			if seen[d.Package.Filename]++; seen[d.Package.Filename] > 1 {
				h.fail("%s: %s has several %s events", j.name, d.Package.Filename, kind)
			}
			path, ok := where[d.Package.Filename]
			if !ok {
				h.fail("%s: a %s event of %s, which is not in the channel", j.name, kind, d.Package.Filename)
				continue
			}
			sidecar, err := os.ReadFile(path + ".sigs")
			if err != nil {
				h.fail("%s: %v", j.name, err)
				continue
			}
			var bundles []json.RawMessage
			if err := json.Unmarshal(sidecar, &bundles); err != nil {
				h.fail("%s: %s.sigs: %v", j.name, path, err)
			}
			found := false
			for _, b := range bundles {
				sum := sha256.Sum256(b)
				found = found || hex.EncodeToString(sum[:]) == d.Attestation.Bundle.SHA256
			}
			if !found {
				h.fail("%s: the attestation that the %s event of %s names is not in its sidecar", j.name, kind, d.Package.Filename)
			}
		}
	}
	return nil
}

// checkCosign has cosign verify a sample, and refuse each for another package.
func (h *house) checkCosign(ctx context.Context, j *job, where map[string]string) error {
	var g errgroup.Group
	g.SetLimit(4)
	step := max(len(j.packages)/max(h.cosigned, 1), 1)
	verify := func(bundle, file string) error {
		_, said, err := output(ctx, nil, h.bin["cosign"], "verify-blob-attestation", "--bundle", bundle, "--trusted-root", h.trustedRoot,
			"--type", "https://schemas.conda.org/attestations-publish-1.schema.json",
			"--certificate-identity", h.identity, "--certificate-oidc-issuer", h.issuer, file)
		if err != nil {
			return fmt.Errorf("%w: %s", err, said)
		}
		return nil
	}
	for i := 0; i < len(j.packages); i += step {
		name, other := filepath.Base(j.packages[i]), j.packages[(i+1)%len(j.packages)]
		g.Go(func() error {
			b, err := os.ReadFile(where[name] + ".sigs")
			if err != nil {
				return err
			}
			var bundles []json.RawMessage
			if err := json.Unmarshal(b, &bundles); err != nil || len(bundles) == 0 {
				return fmt.Errorf("%s.sigs has no bundle: %w", where[name], err)
			}
			file := h.path("packages", name+".sigstore.json")
			if err := os.WriteFile(file, bundles[0], 0o644); err != nil {
				return err
			}
			if err := verify(file, where[name]); err != nil {
				return fmt.Errorf("cosign refuses %s: %w", name, err)
			}
			if verify(file, other) == nil {
				return fmt.Errorf("cosign takes the attestation of %s for %s", name, other)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		h.fail("%s: %v", j.name, err)
	}
	return nil
}

// checkLog: an entry too many is explained by an answer that did not arrive, or by a worker that was killed or stopped
// between the entry and the upload.
func (h *house) checkLog(j *job, n int) error {
	size, err := h.logSize()
	if err != nil {
		return err
	}
	entries := size - j.entries
	double := entries - n
	const held = signing + uploading + signing // signing, waiting for upload, and in it, in one worker
	explained := int(h.rekor.lost.Load()-j.lost) + int(h.kills.Load()-j.kills+(h.stops.Load()-j.stops)*int64(len(h.workers)))*held
	fmt.Printf("  %d log entries, %d double (%d could be explained by lost answers and deaths)\n", entries, double, explained)
	if double < 0 || double > explained {
		h.fail("%s: %d log entries for %d packages; lost answers and deaths explain %d of them", j.name, entries, n, explained)
	}
	h.totals.entries += entries
	h.totals.duplicates += max(double, 0)
	return nil
}

// logSize is how many entries the log has: the second line of its checkpoint.
func (h *house) logSize() (int, error) {
	b, err := os.ReadFile(filepath.Join(h.stackDir, "rekor", "checkpoint"))
	if os.IsNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var n int
	if _, err := fmt.Sscanf(string(b), "%s\n%d\n", new(string), &n); err != nil {
		return 0, fmt.Errorf("reading the log's checkpoint: %w", err)
	}
	return n, nil
}

// checkReport closes the campaign, which is refused if the ledger does not add up, and has each package's outcome told.
func (h *house) checkReport(ctx context.Context, j *job) {
	// An acknowledgement that a dying server forgot is made up for when the item is handed out again, a minute later.
	if err := until(ctx, 3*time.Minute, func(ctx context.Context) error {
		_, said, err := output(ctx, h.env, h.bin["producer"], "campaign", "close", "--nats", h.natsURL, j.name)
		if err != nil {
			return fmt.Errorf("exit %d: %s", exitCode(err), said)
		}
		return nil
	}); err != nil {
		h.fail("%s: campaign close: %v", j.name, err)
	}
	out, said, err := output(ctx, h.env, h.bin["producer"], "report", "--json", "--nats", h.natsURL, j.name)
	if err != nil {
		h.fail("%s: report: exit %d: %s", j.name, exitCode(err), said)
		return
	}
	var r struct {
		Items  []struct{ Filename, Outcome string }
		Counts map[string]int
	}
	if err := json.Unmarshal(out, &r); err != nil {
		h.fail("%s: report: %v", j.name, err)
		return
	}
	seen := map[string]int{}
	for _, it := range r.Items {
		if it.Outcome != "published" && it.Outcome != "skipped" {
			h.fail("%s: the report says that %s is %s", j.name, it.Filename, it.Outcome)
		}
		seen[it.Filename]++
	}
	for _, p := range j.packages {
		if n := seen[filepath.Base(p)]; n != 1 {
			h.fail("%s: the report tells of %s %d times", j.name, filepath.Base(p), n)
		}
	}
	if r.Counts["enqueued"] != len(j.packages) {
		h.fail("%s: the report counts %v", j.name, r.Counts)
	}
}

var crash = regexp.MustCompile(`(?m)^(panic: |fatal error: |WARNING: DATA RACE).*$|internal\.panic.*$`)

// checkWorkers: none has crashed by itself.
func (h *house) checkWorkers() {
	for _, w := range h.workers {
		b, err := os.ReadFile(w.log)
		if err != nil {
			h.fail("%v", err)
			continue
		}
		if m := crash.Find(b); m != nil {
			h.fail("%s: %s; its log is %s", w.name, m, w.log)
		}
	}
}

func subdirsOf(folder string) ([]string, error) {
	found, err := filepath.Glob(filepath.Join(folder, "*", "repodata.json"))
	var out []string
	for _, f := range found {
		out = append(out, filepath.Base(filepath.Dir(f)))
	}
	return out, err
}

func writeLines(path string, lines []string) error {
	return os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o644)
}

func tail(b []byte) string {
	if len(b) > 4000 {
		b = b[len(b)-4000:]
	}
	return string(b)
}
