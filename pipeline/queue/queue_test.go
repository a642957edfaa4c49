package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Not parallel, and first: it looks at every goroutine of the process.
func TestCloseLeavesNothingBehind(t *testing.T) {
	i, err := openInstance(t.Context(), t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := campaign("leak")
	i.create(t, c)
	i.enqueue(t, c, items(30), EnqueueResult{Queued: 30})
	s := i.source(t, c, "hash", SourceOptions{Wait: time.Second})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for range i.Campaigns().Watch(ctx) {
		}
	})
	var os []pipeline.Outcome
	for k, d := range take(t, s, 30) {
		os = append(os, outcome(d, []pipeline.OutcomeKind{"published", "failed", "skipped"}[k%3]))
	}
	if err := i.Ledger(c, encoder{}).Settle(ctx, os); err != nil {
		t.Fatal(err)
	}
	for _, err := range i.Quarantined(ctx, c.Name) {
		if err != nil {
			t.Fatal(err)
		}
	}
	wg.Go(func() { _, _ = s.Next(ctx, 10) })
	cancel()
	wg.Wait()
	i.close()
	if g := leaked(); g != "" {
		t.Errorf("goroutines are left:\n%s", g)
	}
}

func TestEnqueueOnceAcrossRestarts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	i := open(t, dir, Options{})
	c := campaign("once")
	i.create(t, c)
	all := items(1203)
	i.enqueue(t, c, all[:700], EnqueueResult{Queued: 700})
	// One duplicate makes the server refuse a batch; the rest of it must not get lost.
	i.enqueue(t, c, all[650:800], EnqueueResult{Queued: 100, Already: 50})
	// Done items stay known too.
	s := i.source(t, c, "hash", SourceOptions{})
	var os []pipeline.Outcome
	for _, d := range take(t, s, 100) {
		os = append(os, outcome(d, pipeline.OutcomePublished))
	}
	if err := i.Ledger(c, encoder{}).Settle(t.Context(), os); err != nil {
		t.Fatal(err)
	}
	i.close()

	i = open(t, dir, Options{})
	i.enqueue(t, c, all, EnqueueResult{Queued: 403, Already: 800})
	i.enqueue(t, c, all, EnqueueResult{Already: 1203})
	i.enqueue(t, c, append(items(3), items(3)...), EnqueueResult{Already: 6})
	n := i.quietCounts(t, c, oneSegment, func(n Counts) bool { return n.Published == 100 })
	if n.Enqueued != 1203 || n.Waiting() != 1103 {
		t.Errorf("counts %+v", n)
	}
}

func TestEnqueueTwiceInOneBatch(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	c := campaign("twice")
	i.create(t, c)
	i.enqueue(t, c, append(items(5), items(5)...), EnqueueResult{Queued: 5, Already: 5})
}

func TestEnqueueRefuses(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	c := campaign("refuses")
	if _, err := i.Enqueue(t.Context(), c, "hash", Items()); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown campaign: %v", err)
	}
	i.create(t, c)
	if _, err := i.Enqueue(t.Context(), c, "a.b", Items()); err == nil {
		t.Error("segment a.b is taken")
	}
	other := items(1)
	other[0].Campaign = "other"
	if _, err := i.Enqueue(t.Context(), c, "hash", Items(other...)); err == nil {
		t.Error("an item of another campaign is taken")
	}
	boom := errors.New("boom")
	res, err := i.Enqueue(t.Context(), c, "hash", func(yield func(*pipeline.Item, error) bool) {
		_ = yield(items(1)[0], nil) && yield(nil, boom)
	})
	if !errors.Is(err, boom) || res.Queued != 1 {
		t.Errorf("%+v, %v", res, err)
	}
}

// A full store answers with the same code as a duplicate. Taking it for one would lose the item. Whoever enqueues waits for
// room instead, and goes on where it stopped.
func TestEnqueueWaitsWhileTheQueueIsFull(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{JobsMaxBytes: 90_000})
	old, c := campaign("old"), campaign("full")
	i.create(t, old)
	i.create(t, c)
	i.enqueue(t, old, items(200), EnqueueResult{Queued: 200})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	log := func(heard func()) {
		i.log = slog.New(hears{slog.DiscardHandler, "the queue takes nothing more", sync.OnceFunc(heard)})
	}
	log(cancel)
	res, err := i.Enqueue(ctx, c, "hash", Items(items(400)...))
	if err == nil || res.Already != 0 || res.Queued == 0 || res.Queued == 400 {
		t.Fatalf("%+v, %v", res, err)
	}
	if n := i.counts(t, c, oneSegment); n.Enqueued != uint64(res.Queued) {
		t.Fatalf("%d stored, %d reported", n.Enqueued, res.Queued)
	}
	waits := make(chan struct{})
	log(func() { close(waits) })
	done := make(chan error, 1)
	var again EnqueueResult
	go func() {
		var err error
		again, err = i.Enqueue(t.Context(), c, "hash", Items(items(400)...))
		done <- err
	}()
	<-waits
	if err := i.purge(t.Context(), StreamJobs, "job.*.old.>", 1<<40); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil || again.Already != res.Queued || again.Queued != 400-res.Queued {
		t.Errorf("%+v, %v", again, err)
	}
	if n := i.counts(t, c, oneSegment); n.Enqueued != 400 {
		t.Errorf("%+v", n)
	}
}

// hears calls heard for a log record that begins like this.
type hears struct {
	slog.Handler
	text  string
	heard func()
}

func (h hears) Enabled(context.Context, slog.Level) bool { return true }
func (h hears) Handle(_ context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, h.text) {
		h.heard()
	}
	return nil
}

func TestConcurrentConsumersSettleEveryItemOnce(t *testing.T) {
	t.Parallel()
	const total = 5000
	i := open(t, t.TempDir(), Options{})
	c := campaign("many")
	i.create(t, c)
	i.enqueue(t, c, items(total), EnqueueResult{Queued: total})
	n := i.counts(t, c, oneSegment)
	if !n.Balanced() || n.Waiting() != total {
		t.Fatalf("counts %+v", n)
	}
	var mu sync.Mutex
	seen := map[string]int{}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	parallel(3, func(int) {
		s, err := i.Source(ctx, c.Name, "hash", SourceOptions{Wait: time.Second})
		if err != nil {
			t.Error(err)
			return
		}
		l := i.Ledger(c, encoder{})
		for {
			ds, err := s.Next(ctx, 200)
			if err != nil {
				t.Error(err)
				return
			}
			if len(ds) > 200 {
				t.Errorf("%d items handed out, 200 asked for", len(ds))
			}
			if len(ds) == 0 {
				return
			}
			var os []pipeline.Outcome
			mu.Lock()
			for _, d := range ds {
				seen[d.Item.ID]++
				kind := pipeline.OutcomePublished
				switch k := len(seen) % 10; k {
				case 0:
					kind = pipeline.OutcomeFailed
				case 1:
					kind = pipeline.OutcomeSkipped
				}
				os = append(os, outcome(d, kind))
			}
			mu.Unlock()
			if err := l.Settle(ctx, os); err != nil {
				t.Error(err)
			}
		}
	})
	if len(seen) != total {
		t.Errorf("%d of %d items handed out", len(seen), total)
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("%s handed out %d times", id, n)
		}
	}
	n = i.quietCounts(t, c, oneSegment, func(n Counts) bool { return n.Waiting() == 0 })
	want := Counts{Enqueued: total, Signed: 4000, Published: 4000, Skipped: 500, Failed: 500, Segments: []SegmentCounts{{Name: "hash", jobs: total}}}
	if d := cmp.Diff(want, n, cmp.AllowUnexported(SegmentCounts{})); d != "" {
		t.Error(d)
	}
	if got, err := i.DoneSince(ctx, c.Name, time.Now().Add(-time.Hour)); err != nil || got != total {
		t.Errorf("%d done within the hour (%v), want %d", got, err, total)
	}
	if got, err := i.DoneSince(ctx, c.Name, time.Now().Add(time.Hour)); err != nil || got != 0 {
		t.Errorf("%d done from now on (%v)", got, err)
	}
}

func TestRestartInTheMiddleResumes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	i := open(t, dir, Options{})
	c := campaign("restart")
	i.create(t, c)
	i.enqueue(t, c, items(300), EnqueueResult{Queued: 300})
	// The wait for a sign of life runs on over the restart, so it has to be short here.
	o := SourceOptions{AckWait: time.Second, Wait: time.Second}
	ds := take(t, i.source(t, c, "hash", o), 200)
	var os []pipeline.Outcome
	for _, d := range ds[:120] { // 80 are held by a worker that is gone
		os = append(os, outcome(d, pipeline.OutcomePublished))
	}
	if err := i.Ledger(c, encoder{}).Settle(t.Context(), os); err != nil {
		t.Fatal(err)
	}
	n := i.quietCounts(t, c, oneSegment, func(n Counts) bool { return n.Published == 120 })
	if n.Segments[0].Pending != 100 || n.Segments[0].InFlight != 80 {
		t.Errorf("counts %+v", n)
	}
	i.close()

	i = open(t, dir, Options{})
	s := i.source(t, c, "hash", o)
	os = nil
	redelivered := 0
	for _, d := range take(t, s, 180) {
		if d.Attempt > 1 {
			redelivered++
		}
		os = append(os, outcome(d, pipeline.OutcomePublished))
	}
	if redelivered != 80 {
		t.Errorf("%d items come for a second time, want 80", redelivered)
	}
	if err := i.Ledger(c, encoder{}).Settle(t.Context(), os); err != nil {
		t.Fatal(err)
	}
	i.quietCounts(t, c, oneSegment, func(n Counts) bool { return n.Published == 300 && n.Waiting() == 0 })
}

func TestReleasedItemComesAgain(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	c := campaign("release")
	i.create(t, c)
	i.enqueue(t, c, items(1), EnqueueResult{Queued: 1})
	s := i.source(t, c, "hash", SourceOptions{})
	d := take(t, s, 1)[0]
	if err := d.Job.Extend(); err != nil {
		t.Error(err)
	}
	began := time.Now()
	if err := d.Job.Release(300 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	d = take(t, s, 1)[0]
	if took := time.Since(began); took < 250*time.Millisecond || took > 5*time.Second {
		t.Errorf("came again after %v", took)
	}
	if d.Attempt != 2 {
		t.Errorf("attempt %d", d.Attempt)
	}
}

func TestNextEndsWithItsContext(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	c := campaign("next")
	i.create(t, c)
	s := i.source(t, c, "hash", SourceOptions{Wait: time.Minute})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if ds, err := s.Next(ctx, 5); !errors.Is(err, context.DeadlineExceeded) || len(ds) != 0 {
		t.Errorf("%v, %v", ds, err)
	}
	// An empty queue is no error, and an item that comes while Next waits ends the wait.
	s = i.source(t, c, "hash", SourceOptions{Wait: time.Second})
	if ds, err := s.Next(t.Context(), 5); err != nil || len(ds) != 0 {
		t.Errorf("%v, %v", ds, err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { i.enqueue(t, c, items(3), EnqueueResult{Queued: 3}) })
	take(t, s, 3)
	wg.Wait()
}

func TestMalformedMessages(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	c := campaign("malformed")
	i.create(t, c)
	bad := map[string]string{
		"x1":     `{"id":`,
		"x2":     `{"id":"other","campaign":"malformed","filename":"f"}`,
		"x3":     `{"id":"x3","campaign":"wrong","filename":"f"}`,
		"x4":     "",
		"x5":     strings.Repeat("A", 700_000),
		"x6.y":   `{}`,
		"x7%":    `{}`,
		"x8%2a":  `{}`,
		"x9%2E1": `{"id":"x9.1","campaign":"malformed"}`,
	}
	for id, data := range bad {
		if _, err := i.js.Publish(t.Context(), "job.hash.malformed."+id, []byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	i.enqueue(t, c, items(1), EnqueueResult{Queued: 1})
	var told sync.Map
	s := i.source(t, c, "hash", SourceOptions{Encoder: encoder{}, Malformed: func(s string, err error) { told.Store(s, err) }})
	ds := take(t, s, 1)
	if ds[0].Item.ID != "id000000" {
		t.Errorf("handed out %+v", ds[0].Item)
	}
	if err := i.Ledger(c, encoder{}).Settle(t.Context(), []pipeline.Outcome{outcome(ds[0], "published")}); err != nil {
		t.Fatal(err)
	}
	n := i.quietCounts(t, c, oneSegment, func(n Counts) bool { return n.Waiting() == 0 })
	if n.Failed != uint64(len(bad)) || n.Published != 1 {
		t.Errorf("counts %+v", n)
	}
	if got, _ := i.count(t.Context(), StreamEvents, eventFilter("failed", c.Name)); got != uint64(len(bad)) {
		t.Errorf("%d failed events", got)
	}
	got := 0
	for e, err := range i.Quarantined(t.Context(), c.Name) {
		if err != nil {
			t.Error(err)
			continue
		}
		got++
		if e.Failure.Cause != CauseMalformed || e.Item.ID == "" {
			t.Errorf("entry %+v", e)
		}
		if data, ok := bad[e.Item.ID]; ok && string(e.Raw) != data[:min(len(data), maxRaw)] {
			t.Errorf("entry %s has lost its message", e.Item.ID)
		}
	}
	if got != len(bad) {
		t.Errorf("%d entries", got)
	}
	for id := range bad {
		if _, ok := told.Load("job.hash.malformed." + id); !ok {
			t.Errorf("nobody was told of %s", id)
		}
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"": "%", "plain": "plain", "a.b": "a%2Eb", "*": "%2A", ">": "%3E", "50%": "50%25", "a b\tc": "a%20b%09c", "é!+": "é!+",
	} {
		if got := Token(s); got != want {
			t.Errorf("Token(%q) = %q, want %q", s, got, want)
		}
	}
}

func FuzzToken(f *testing.F) {
	f.Add("a.b%2E *>\x00\xff")
	f.Add("%")
	f.Fuzz(func(t *testing.T, s string) {
		tok := Token(s)
		if strings.ContainsAny(tok, ".*> \t\r\n") || tok == "" {
			t.Errorf("%q is no token", tok)
		}
		if back, err := Untoken(tok); err != nil || back != s {
			t.Errorf("%q came back as %q, %v", s, back, err)
		}
		if v, err := Untoken(s); err == nil && Token(v) != s {
			t.Errorf("%q is read as %q", s, v)
		}
	})
}

func TestStreamMismatch(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	if _, err := Open(t.Context(), i.nc, Options{Log: quiet}); err != nil {
		t.Errorf("opening again: %v", err)
	}
	_, err := Open(t.Context(), i.nc, Options{Log: quiet, EventsMaxAge: time.Hour, Replicas: 3})
	e, ok := errors.AsType[*StreamMismatchError](err)
	if !ok || e.Stream != StreamJobs || len(e.Differences) != 1 || e.Differences[0].Setting != "num_replicas" {
		t.Errorf("got %v", err)
	}
	s, err := i.js.Stream(t.Context(), StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	for _, w := range []bool{cfg.DenyDelete, cfg.DenyPurge, cfg.AllowDirect, cfg.AllowAtomicPublish, cfg.DiscardNewPerSubject,
		cfg.MaxMsgsPerSubject == 1, cfg.MaxAge == 0, cfg.Duplicates == time.Hour, cfg.Discard == jetstream.DiscardNew} {
		if !w {
			t.Errorf("EVENTS is %+v", cfg)
		}
	}
	cfg.Duplicates = time.Minute
	cfg.AllowDirect = false
	if _, err := i.js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), i.nc, Options{Log: quiet})
	e, ok = errors.AsType[*StreamMismatchError](err)
	want := &StreamMismatchError{Stream: StreamEvents, Differences: []Difference{
		{"allow_direct", "false", "true"}, {"duplicate_window", "1m0s", "1h0m0s"}}}
	if !ok {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, e); d != "" {
		t.Error(d)
	}
	if !strings.Contains(err.Error(), "allow_direct is false, want true") {
		t.Error(err)
	}
	if err := i.purge(t.Context(), StreamEvents, "attest.>", 1<<40); err == nil {
		t.Error("events can be purged")
	}
}

func TestEmbedOneProcessPerDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	i := open(t, dir, Options{})
	_, err := Embed(dir, EmbedOptions{Log: quiet})
	e, ok := errors.AsType[*InUseError](err)
	if !ok || !errors.Is(err, ErrInUse) || e.PID == 0 || e.Dir != dir {
		t.Errorf("got %v", err)
	}
	i.close()
	open(t, dir, Options{})
}

func TestEmbedListens(t *testing.T) {
	t.Parallel()
	if _, err := Embed(t.TempDir(), EmbedOptions{Log: quiet, Listen: "0.0.0.0:0"}); err == nil || !strings.Contains(err.Error(), "loopback") {
		t.Errorf("got %v", err)
	}
	s, err := Embed(t.TempDir(), EmbedOptions{Log: quiet, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	nc, err := Connect(t.Context(), s.URL(), ConnectOptions{Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := Open(t.Context(), nc, Options{Log: quiet}); err != nil {
		t.Error(err)
	}
}

func TestConnectFailsClearly(t *testing.T) {
	t.Parallel()
	for _, u := range []string{
		"nats://user:hunter2@127.0.0.1:1", "nats://hunter2@127.0.0.1:1", "nats://user:hunter2@127.0.0.1:1%zz",
		"nats://a:hunter2@127.0.0.1:1,nats://b:hunter2@127.0.0.1:2", "nats://u:hunter2@127.0.0.1:port",
	} {
		began := time.Now()
		_, err := Connect(t.Context(), u, ConnectOptions{Timeout: 300 * time.Millisecond, Log: quiet})
		if err == nil || strings.Contains(err.Error(), "hunter2") || time.Since(began) > 5*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	}
	if _, err := Connect(t.Context(), nats.DefaultURL, ConnectOptions{CertFile: "x"}); err == nil {
		t.Error("a certificate without a key is taken")
	}
	if got := hideUser("nats://u:p@h:1, tls://t@g:2,x:3"); got != "nats://h:1,tls://g:2,x:3" {
		t.Error(got)
	}
}

func TestCampaigns(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	b := i.Campaigns()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	a, z := campaign("a"), campaign("z")
	z.Created = z.Created.Add(-time.Hour)
	i.create(t, a)
	if err := b.Create(ctx, a); !errors.Is(err, ErrExists) {
		t.Error(err)
	}
	if err := b.Create(ctx, campaign("No.Name")); err == nil {
		t.Error("a bad name is taken")
	}
	for _, name := range []string{"b", "", "a.b", "*"} {
		if _, _, err := b.Get(ctx, name); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v", name, err)
		}
	}
	i.create(t, z)
	list, err := b.List(ctx)
	if err != nil || len(list) != 2 || list[0].Name != "z" {
		t.Errorf("%v, %v", list, err)
	}
	c, rev, err := b.Get(ctx, "a")
	if err != nil || cmp.Diff(a, c) != "" {
		t.Errorf("%v, %v", c, err)
	}
	c.Cuts = []string{"sign"}
	if _, err := b.Update(ctx, c, rev); err != nil {
		t.Error(err)
	}
	if _, err := b.Update(ctx, c, rev); !errors.Is(err, ErrConflict) {
		t.Error(err)
	}
	var got []string
	for ch, err := range b.Watch(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(ch.Campaign.Name, ch.Campaign.Cuts, ch.Campaign.State))
		if len(got) == 2 {
			if err := b.Close(ctx, "z"); err != nil {
				t.Fatal(err)
			}
		}
		if len(got) == 3 {
			break
		}
	}
	if d := cmp.Diff([]string{"z[]open", "a[sign]open", "z[]closed"}, got); d != "" {
		t.Error(d)
	}
}

func TestCloseCampaign(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	c, other := campaign("close"), campaign("close-2")
	for _, c := range []*pipeline.Campaign{c, other} {
		i.create(t, c)
		i.enqueue(t, c, items(10), EnqueueResult{Queued: 10})
	}
	wait := func(want uint64) {
		t.Helper()
		e, ok := errors.AsType[*WaitingError](i.Campaigns().Close(t.Context(), c.Name))
		if !ok || e.Items != want {
			t.Errorf("closing with items waiting: %v", e)
		}
	}
	wait(10) // no consumer yet
	i.source(t, other, "hash", SourceOptions{})
	s := i.source(t, c, "hash", SourceOptions{})
	wait(10)
	var os []pipeline.Outcome
	for _, d := range take(t, s, 10) {
		os = append(os, outcome(d, pipeline.OutcomePublished))
	}
	if err := i.Ledger(c, encoder{}).Settle(t.Context(), os); err != nil {
		t.Fatal(err)
	}
	i.quietCounts(t, c, oneSegment, func(n Counts) bool { return n.Waiting() == 0 })
	for range 2 {
		if err := i.Campaigns().Close(t.Context(), c.Name); err != nil {
			t.Fatal(err)
		}
	}
	c, _, err := i.Campaigns().Get(t.Context(), c.Name)
	if err != nil || c.State != pipeline.StateClosed {
		t.Fatal(c, err)
	}
	if n := i.counts(t, c, oneSegment); !n.Balanced() || n.Published != 10 || n.Segments[0].jobs != 0 {
		t.Errorf("counts %+v", n)
	}
	if segs, err := i.segments(t.Context(), c.Name); err != nil || len(segs) != 0 {
		t.Errorf("consumers of %v, %v", segs, err)
	}
	if _, err := i.Enqueue(t.Context(), c, "hash", Items(items(1)...)); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, err := i.Source(t.Context(), c.Name, "hash", SourceOptions{}); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, err := s.Next(t.Context(), 1); err == nil {
		t.Error("a source of a closed campaign says nothing")
	}
	if n := i.counts(t, other, oneSegment); n.Waiting() != 10 {
		t.Errorf("the other campaign has %+v", n)
	}
}

// A ledger of an earlier version was compressed, which a kill of the server can make unreadable.
func TestCompressionIsTurnedOff(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	s, err := i.js.Stream(t.Context(), StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	cfg.Compression = jetstream.S2Compression
	if _, err := i.js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), i.nc, Options{Log: quiet}); err != nil {
		t.Fatal(err)
	}
	if s, err = i.js.Stream(t.Context(), StreamEvents); err != nil || s.CachedInfo().Config.Compression != jetstream.NoCompression {
		t.Errorf("%v, %+v", err, s.CachedInfo().Config)
	}
}
