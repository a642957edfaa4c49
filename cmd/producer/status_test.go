package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hallmark-attest/hallmark/internal/command"
	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/pipeline/queue"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s (-want +got):\n%s", name, d)
	}
}

// noon is when the golden status is looked at.
var noon = time.Date(2026, 11, 23, 12, 4, 0, 0, time.UTC)

// TestStatusGolden: a campaign in three segments; the first goes well, the second is in trouble, nobody serves the third.
func TestStatusGolden(t *testing.T) {
	t.Parallel()
	ago := func(d time.Duration) time.Time { return noon.Add(-d) }
	sign := func(running, retrying int64, done, at, since, next time.Duration, message string) []queue.StageStatus {
		s := queue.StageStatus{Name: "sign", Running: running, Retrying: retrying, LastDone: ago(done)}
		if message != "" {
			s.Trouble = &queue.Trouble{Cause: "upstream.unavailable", Message: message, At: ago(at), Since: ago(since), NextTry: noon.Add(next), Paused: retrying > 1}
		}
		return []queue.StageStatus{s}
	}
	c := &pipeline.Campaign{Name: "rebuild", State: pipeline.StateOpen, Cuts: []string{"sign", "upload"}}
	s := &summary{Schema: "hallmark.campaign/1", Campaign: "rebuild", State: "open", Created: ago(time.Hour), To: "s3://b/x", ChannelURL: "https://c.example/x",
		Identity: "https://ci.example/w", Issuer: "https://i.example", Enqueued: 1000, Signed: 40, Published: 40, Skipped: 2, Waiting: 958,
		Sources:  &sourceSummary{Mode: "report", PolicySHA256: "c0ffee", Verified: 7, Refused: 1, Unverified: 2, Unattested: 30},
		Segments: []segment{{Name: "hash", Pending: 600, InFlight: 20}, {Name: "sign", Pending: 10, InFlight: 320, Redelivered: 31}, {Name: "upload", Pending: 8}}}
	a := queue.Answers{Unread: 1, Workers: []queue.WorkerStatus{
		{ID: "h-1-aaaaaa", Segment: "hash", InFlight: 20, Stages: []queue.StageStatus{{Name: "hash", Ready: 16, Running: 4, LastDone: ago(time.Second)}}},
		{ID: "s-1-bbbbbb", Segment: "sign", InFlight: 142, Stages: sign(112, 30, 52*time.Second, 5*time.Second, 50*time.Second, 8*time.Second, "Rekor answers 503")},
		{ID: "s-2-cccccc", Segment: "sign", InFlight: 100, Stages: sign(100, 0, 55*time.Second, 0, 0, 0, "")},
		{ID: "s-3-dddddd", Segment: "sign", InFlight: 1, Stages: sign(0, 1, time.Hour, 20*time.Second, 40*time.Second, 20*time.Second, "Rekor answers 502")},
		{ID: "x-1-eeeeee", Segment: "other", Stages: []queue.StageStatus{{Name: "other"}}},
	}}
	if err := s.workers(c, a); err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	s.status(&text, noon)
	golden(t, "status.text", text.Bytes())
	j, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "status.json", append(j, '\n'))
}

func TestSumStage(t *testing.T) {
	t.Parallel()
	at := func(sec int) time.Time { return noon.Add(time.Duration(sec) * time.Second) }
	zero := time.Time{}
	worker := func(s queue.StageStatus) queue.WorkerStatus {
		s.Name = "sign"
		return queue.WorkerStatus{Segment: "sign", Stages: []queue.StageStatus{s, {Name: "upload", Running: 1000}}}
	}
	trouble := func(message string, when, since, next time.Time) *queue.Trouble {
		return &queue.Trouble{Cause: "c", Message: message, At: when, Since: since, NextTry: next}
	}
	for _, tt := range []struct {
		name    string
		workers []queue.WorkerStatus
		want    queue.StageStatus
	}{
		{"nobody", nil, queue.StageStatus{}},
		{"the earliest of what lasts, the newest of what is said", []queue.WorkerStatus{
			worker(queue.StageStatus{Running: 1, Retrying: 2, LastDone: at(-60), Trouble: trouble("old", at(-9), at(-50), at(9))}),
			worker(queue.StageStatus{Ready: 4, Retrying: 8, LastDone: at(-70), Trouble: trouble("new", at(-5), at(-40), at(12))}),
		}, queue.StageStatus{Ready: 4, Running: 1, Retrying: 10, LastDone: at(-60), Trouble: trouble("new", at(-5), at(-50), at(9))}},
		{"another worker's success ends it, but for what waits", []queue.WorkerStatus{
			worker(queue.StageStatus{Retrying: 2, LastDone: at(-60), Trouble: trouble("old", at(-9), at(-50), at(9))}),
			worker(queue.StageStatus{Running: 4, LastDone: at(-3)}),
		}, queue.StageStatus{Running: 4, Retrying: 2, LastDone: at(-3), Trouble: trouble("old", at(-9), zero, at(9))}},
		{"another worker's success ends it", []queue.WorkerStatus{
			worker(queue.StageStatus{LastDone: at(-60), Trouble: trouble("old", at(-9), at(-50), zero)}),
			worker(queue.StageStatus{Running: 4, LastDone: at(-3)}),
		}, queue.StageStatus{Running: 4, LastDone: at(-3)}},
	} {
		tt.want.Name = "sign"
		if d := cmp.Diff(tt.want, sumStage("sign", tt.workers)); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, d)
		}
	}
}

func TestStageLine(t *testing.T) {
	t.Parallel()
	for want, s := range map[string]queue.StageStatus{
		"0 running":                        {},
		"3 running, 5 waiting for a place": {Running: 3, Ready: 5},
		"1 running, 2 waiting to try again: m (c), next try in 2m0s":                           {Running: 1, Retrying: 2, Trouble: &queue.Trouble{Cause: "c", Message: "m", NextTry: noon.Add(120 * time.Second)}},
		"0 running, 2 waiting to try again: m (c) since 12:03:10Z, next try now":               {Retrying: 2, Trouble: &queue.Trouble{Cause: "c", Message: "m", Since: noon.Add(-50 * time.Second), NextTry: noon.Add(-time.Second)}},
		"0 running, 2 waiting to try again: m (c) since 2026-11-22T12:04:00Z, next try in 1 s": {Retrying: 2, Trouble: &queue.Trouble{Cause: "c", Message: "m", Since: noon.Add(-24 * time.Hour), NextTry: noon.Add(time.Millisecond)}},
		"0 running, trouble: no message (no cause) since 12:03:59Z":                            {Trouble: &queue.Trouble{Since: noon.Add(-time.Second)}},
	} {
		if got := stageLine(s, noon); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// embedded is a queue with one open campaign in two segments, and one item.
func embedded(t *testing.T) (*queue.Queue, *pipeline.Campaign) {
	t.Helper()
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	srv, err := queue.Embed(t.TempDir(), queue.EmbedOptions{Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	nc, err := srv.Connect(queue.ConnectOptions{Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	q, err := queue.Open(t.Context(), nc, queue.Options{Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	c := &pipeline.Campaign{Name: "rebuild", State: pipeline.StateOpen, To: "/srv/x", ChannelURL: "https://c.example/x", Cuts: []string{"upload"}, Created: noon}
	if err := q.Campaigns().Create(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	it := &pipeline.Item{ID: "i", Campaign: c.Name, Filename: "x-1-0.conda", Source: "/src/x-1-0.conda"}
	if _, err := q.Enqueue(t.Context(), c, "hash", queue.Items(it)); err != nil {
		t.Fatal(err)
	}
	return q, c
}

// blocked is a stage whose upstream is away.
type blocked struct {
	name string
	met  chan struct{}
}

func (b blocked) String() string { return b.name }
func (b blocked) Run(context.Context, *pipeline.Item) error {
	defer func() { b.met <- struct{}{} }()
	return pipeline.Transient("upstream.unavailable", time.Hour, errors.New("Rekor answers 503 to https://u:secret@r.example"))
}

type passes string

func (p passes) String() string                            { return string(p) }
func (p passes) Run(context.Context, *pipeline.Item) error { return nil }

// TestStatusTellsWhatWaitsForWhat: a real runner whose signing is in an outage, on a real queue, seen by status; and the
// segment that nobody serves.
func TestStatusTellsWhatWaitsForWhat(t *testing.T) {
	t.Parallel()
	q, c := embedded(t)
	s, err := stand(t.Context(), q, c)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	s.status(&text, time.Now())
	for _, want := range []string{"no worker serves segment hash", "no worker serves segment upload"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("status does not say %q:\n%s", want, text.String())
		}
	}

	met := make(chan struct{}, 100)
	steps := []pipeline.Step{{Stage: passes("hash"), Concurrency: 1}, {Stage: blocked{"sign", met}, Concurrency: 1}}
	r := &pipeline.Runner{Steps: steps, Ledger: q.Ledger(c, nil), Next: "upload", Tally: pipeline.NewTally(steps), Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	if r.Source, err = q.Source(t.Context(), c.Name, "hash", queue.SourceOptions{}); err != nil {
		t.Fatal(err)
	}
	leave, err := q.Present(queue.Presence{Worker: "w", Campaign: c, Segment: "hash", Tally: r.Tally})
	if err != nil {
		t.Fatal(err)
	}
	defer leave()
	ctx, drain := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	<-met
	for r.Tally.Stages()[1].Retrying == 0 { // a moment between the attempt and the wait for the next one
		<-time.After(time.Millisecond)
	}
	if s, err = stand(t.Context(), q, c); err != nil {
		t.Fatal(err)
	}
	text.Reset()
	s.status(&text, time.Now())
	for _, want := range []string{"1 in flight, 0 handed out more than once; 1 worker holds 1\n", "    hash  0 running\n",
		"    sign  paused, 0 running, 1 waiting to try again: Rekor answers 503 to https://r.example (upstream.unavailable) since ", ", next try in 1",
		"no worker serves segment upload"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("status does not say %q:\n%s", want, text.String())
		}
	}
	if strings.Contains(text.String(), "segment hash") || strings.Contains(text.String(), "secret") {
		t.Errorf("status says too much:\n%s", text.String())
	}
	drain()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A campaign that is closed has no workers to ask, and one that waits for nothing needs none.
func TestStatusOfWhatNeedsNoWorker(t *testing.T) {
	t.Parallel()
	q, c := embedded(t)
	closed := *c
	closed.State = pipeline.StateClosed
	s, err := stand(t.Context(), q, &closed)
	if err != nil {
		t.Fatal(err)
	}
	if s.Segments[0].Workers != nil {
		t.Errorf("%+v", s.Segments[0])
	}
	idle := &summary{Segments: []segment{{Name: "hash"}}}
	if err := idle.workers(&pipeline.Campaign{}, queue.Answers{}); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*summary{s, idle, {Segments: []segment{{Name: "hash", Pending: 1}}, WorkersError: "no worker answered in time"}} {
		var text strings.Builder
		s.status(&text, noon)
		if strings.Contains(text.String(), "no worker serves") || (s.WorkersError != "") != strings.Contains(text.String(), "not known: no worker answered in time") {
			t.Errorf("status says:\n%s", text.String())
		}
	}
}

// TestStatusCommand: several campaigns at once, in the order in which they were created.
func TestStatusCommand(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	env := &command.Env{Globals: &command.Globals{JSON: true}, Log: quiet}
	cmd := &statusCmd{QueueFlags: command.QueueFlags{State: state}}
	q, closeQueue, err := cmd.Open(t.Context(), env, "")
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"c", "a", "b"} {
		if err := q.Campaigns().Create(t.Context(), &pipeline.Campaign{Name: name, State: pipeline.StateOpen, To: "/srv/x", ChannelURL: "https://c.example/x",
			Created: noon.Add(time.Duration(i) * time.Second)}); err != nil {
			t.Fatal(err)
		}
	}
	closeQueue()
	var out bytes.Buffer
	env.Stdout = &out
	if err := cmd.Run(t.Context(), env); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Schema    string
		Campaigns []struct {
			Campaign string
			Segments []struct {
				Name    string
				Workers []any
				Stages  []struct{ Name string }
			}
		}
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range got.Campaigns {
		names = append(names, c.Campaign)
		if g := c.Segments[0]; g.Workers == nil || len(g.Stages) != 4 || g.Stages[1].Name != "sign" {
			t.Errorf("%s: %+v", c.Campaign, g)
		}
	}
	if d := cmp.Diff([]string{"c", "a", "b"}, names); got.Schema != "hallmark.status/1" || d != "" {
		t.Errorf("%s %s", got.Schema, d)
	}
}
