package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/hallmark-attest/hallmark/internal/conda/condatest"
)

// job is one campaign: its packages, and where they go.
type job struct {
	name, to, url string
	packages      []string
	folder        string // the channel, behind the S3 server's back
	entries       int    // of the log, before it
	lost          int64  // Rekor's answers that did not arrive, before it
	kills, stops  int64  // before it
}

// status is what producer status says of a campaign.
type status struct {
	State     string
	Enqueued  int
	Published int
	Skipped   int
	Failed    int
	Aborted   int
	Waiting   int
	Causes    []struct {
		Stage, Cause string
		Count        int
	}
}

func (s status) sum() int { return s.Published + s.Skipped + s.Failed + s.Aborted + s.Waiting }

// campaign runs one campaign under fire, lets everything come to rest and looks at what there is.
func (h *house) campaign(ctx context.Context, n int) error {
	name := fmt.Sprintf("chaos-%d", n)
	j := &job{name: name, to: "s3://channel/" + name, url: "https://conda.example.org/" + name, folder: filepath.Join(h.bucket, name),
		lost: h.rekor.lost.Load(), kills: h.kills.Load(), stops: h.stops.Load()}
	for _, spec := range condatest.Samples(h.packages, h.seed+uint64(n)) {
		p, err := condatest.Write(h.path("packages", name), spec)
		if err != nil {
			return err
		}
		j.packages = append(j.packages, p)
	}
	var err error
	if j.entries, err = h.logSize(); err != nil {
		return err
	}
	fmt.Printf("campaign %s: %d packages\n", name, len(j.packages))

	fire, cease := context.WithCancel(ctx)
	defer cease()
	peace := make(chan error, 1)
	go func() { peace <- h.mischief(fire) }()
	began := time.Now()
	if err := h.submit(ctx, j); err != nil {
		cease()
		return errors.Join(err, <-peace)
	}
	_, err = h.follow(ctx, j, false)
	cease()
	if err := errors.Join(err, <-peace); err != nil {
		return err
	}
	for _, w := range h.workers {
		if !w.running() {
			h.fail("%s has ended by itself (%v); its log is %s", w.name, w.how(), w.log)
		}
	}
	rest, cancel := context.WithTimeout(ctx, h.settle)
	defer cancel()
	last, err := h.follow(rest, j, true)
	if err != nil && ctx.Err() != nil {
		return err
	}
	if err != nil {
		h.fail("%s: not at rest %v after the last fault: %+v", name, h.settle, last)
		return nil
	}
	fmt.Printf("  done after %s\n", time.Since(began).Round(time.Second))
	if err := h.check(ctx, j, last); err != nil {
		return err
	}
	h.totals.campaigns++
	return nil
}

// submit submits until it is told that all is enqueued.
func (h *house) submit(ctx context.Context, j *job) error {
	list := h.path("packages", j.name+".txt")
	if err := writeLines(list, j.packages); err != nil {
		return err
	}
	args := []string{"submit", "--json", "--nats", h.natsURL, "--replicas", "3", "--campaign", j.name, "--to", j.to, "--channel-url", j.url,
		"--certificate-identity", h.identity, "--certificate-oidc-issuer", h.issuer, "--files-from", list}
	return until(ctx, 10*time.Minute, func(ctx context.Context) error {
		out, said, err := output(ctx, h.env, h.bin["producer"], args...)
		if err != nil {
			return fmt.Errorf("submitting: %w: %s", err, said)
		}
		var s struct{ Queued, Already int }
		if err := json.Unmarshal(out, &s); err != nil {
			return fmt.Errorf("submitting: %w: %s", err, out)
		}
		if s.Queued+s.Already != len(j.packages) {
			h.fail("%s: submit says %+v for %d packages", j.name, s, len(j.packages))
		}
		return nil
	})
}

// follow asks for the status until nothing waits. While there are faults a question may have no answer.
func (h *house) follow(ctx context.Context, j *job, quiet bool) (status, error) {
	var s status
	shown := time.Now()
	for {
		now, err := h.status(ctx, j)
		if err == nil {
			s = now
			if s.Enqueued == len(j.packages) && s.sum() < s.Enqueued {
				h.fail("%s: the ledger has lost an item: %+v", j.name, s)
			}
			if s.Waiting == 0 && s.Enqueued == len(j.packages) && s.sum() >= s.Enqueued {
				return s, nil
			}
			if !quiet && time.Since(shown) > 15*time.Second {
				shown = time.Now()
				fmt.Printf("  %d of %d published, %d waiting, %d set aside; %d kills, %d faults\n", s.Published, s.Enqueued, s.Waiting, s.Failed, h.kills.Load(), h.faults())
			}
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return s, errors.Join(err, ctx.Err())
		}
	}
}

func (h *house) status(ctx context.Context, j *job) (status, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	out, said, err := output(ctx, h.env, h.bin["producer"], "status", "--json", "--nats", h.natsURL, j.name)
	if err != nil {
		return status{}, fmt.Errorf("%w: %s", err, said)
	}
	var s struct{ Campaigns []status }
	if err := json.Unmarshal(out, &s); err != nil || len(s.Campaigns) != 1 {
		return status{}, fmt.Errorf("status says %q: %w", out, err)
	}
	return s.Campaigns[0], nil
}

// faults is how many requests have met a fault.
func (h *house) faults() int {
	n := 0
	for _, p := range h.proxies {
		p.mu.Lock()
		for _, c := range p.counts {
			n += c
		}
		p.mu.Unlock()
	}
	return n
}

// event is what the checks need of an event.
type event struct {
	Type string
	Data struct {
		CustomData struct {
			Package     struct{ Filename, Subdir, SHA256 string }
			Attestation struct {
				Bundle struct{ SHA256 string }
			}
		}
	}
}

// events reads the campaign's events of one kind, as a subscriber does that comes late.
func (h *house) events(ctx context.Context, j *job, kind string, n int) ([]event, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	out, said, err := output(ctx, h.env, h.bin["producer"], "watch", "--json", "--nats", h.natsURL, "--campaign", j.name, "--events", kind, "--replay", "--count", fmt.Sprint(n))
	if err != nil {
		return nil, fmt.Errorf("reading the %s events: %w: %s", kind, err, said)
	}
	var es []event
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var e event
		if err := d.Decode(&e); err != nil {
			if len(es) == n {
				return es, nil
			}
			return nil, fmt.Errorf("reading the %s events: %d of %d, then %w", kind, len(es), n, err)
		}
		es = append(es, e)
	}
}
