package queue

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/pipeline/event"
)

// finish takes n items of the segment and gives each the outcome that of returns for its place.
func (i *instance) finish(t *testing.T, c *pipeline.Campaign, n int, of func(k int) pipeline.OutcomeKind) {
	t.Helper()
	src := i.source(t, c, "hash", SourceOptions{})
	var os []pipeline.Outcome
	for k, d := range take(t, src, n) {
		os = append(os, outcome(d, of(k)))
	}
	settle(t, i.Ledger(c, encoder{}), os...)
}

func all(kind pipeline.OutcomeKind) func(int) pipeline.OutcomeKind {
	return func(int) pipeline.OutcomeKind { return kind }
}

func (i *instance) quarantined(t *testing.T, c *pipeline.Campaign) []Entry {
	t.Helper()
	var out []Entry
	for e, err := range i.Quarantined(t.Context(), c.Name) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

func entriesOf(es ...Entry) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for _, e := range es {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (i *instance) state(t *testing.T, name string) pipeline.State {
	t.Helper()
	c, _, err := i.Campaigns().Get(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return c.State
}

// A pause is a state and a paused consumer; both outlive the server, and each alone stops items.
func TestPauseOutlivesTheServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	i := open(t, dir, Options{})
	c := campaign("pause")
	i.create(t, c)
	i.enqueue(t, c, items(10), EnqueueResult{Queued: 10})
	old := i.source(t, c, "hash", SourceOptions{Wait: time.Second})
	held := take(t, old, 2)
	p, err := i.Campaigns().Pause(t.Context(), c.Name, "maintenance")
	if err != nil || p.State != pipeline.StatePaused || p.Reason != "maintenance" || p.Changed.IsZero() {
		t.Fatal(p, err)
	}
	// One that does not look at the state gets nothing; what it holds finishes.
	if ds, err := old.Next(t.Context(), 10); err != nil || len(ds) > 0 {
		t.Errorf("%d items came from a paused campaign, %v", len(ds), err)
	}
	settle(t, i.Ledger(c, encoder{}), outcome(held[0], "published"))
	if _, err := i.Source(t.Context(), c.Name, "hash", SourceOptions{}); !errors.Is(err, ErrPaused) {
		t.Errorf("a new source: %v", err)
	}
	// Items may be added.
	more := items(12)
	i.enqueue(t, c, more, EnqueueResult{Queued: 2, Already: 10})
	i.close()

	i = open(t, dir, Options{})
	if s := i.state(t, c.Name); s != pipeline.StatePaused {
		t.Errorf("after a restart it is %s", s)
	}
	cons, err := i.js.Consumer(t.Context(), StreamJobs, ConsumerName(c.Name, "hash"))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := cons.FetchNoWait(10); err != nil {
		t.Error(err)
	} else {
		for range b.Messages() {
			t.Error("an item came from a paused consumer after a restart")
		}
	}
	if r, err := i.Campaigns().Resume(t.Context(), c.Name); err != nil || r.State != pipeline.StateOpen || r.Reason != "" {
		t.Error(r, err)
	}
	// One that was held when the server stopped comes once its acknowledgement wait is over.
	i.finish(t, c, 10, all("published"))
	if n := i.counts(t, c, oneSegment); n.Published != 11 || n.Waiting() != 1 {
		t.Errorf("counts %+v", n)
	}
}

// A resume that was interrupted between the state and the consumers is completed by the next source.
func TestInterruptedResumeIsCompleted(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	c := campaign("half")
	i.create(t, c)
	i.enqueue(t, c, items(1), EnqueueResult{Queued: 1})
	i.source(t, c, "hash", SourceOptions{})
	if _, err := i.Campaigns().Pause(t.Context(), c.Name, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := i.Campaigns().Revise(t.Context(), c.Name, func(c *pipeline.Campaign) error { c.State = pipeline.StateOpen; return nil }); err != nil {
		t.Fatal(err)
	}
	take(t, i.source(t, c, "hash", SourceOptions{}), 1)
}

func TestReviseMeetsOthers(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	c := campaign("busy")
	i.create(t, c)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := i.Campaigns().Revise(t.Context(), c.Name, func(c *pipeline.Campaign) error { c.Reason += "x"; return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got, rev, err := i.Campaigns().Get(t.Context(), c.Name)
	if err != nil || got.Reason != "xxxxxxxx" {
		t.Errorf("a change got lost: %q, %v", got.Reason, err)
	}
	if _, err := i.Campaigns().Revise(t.Context(), c.Name, func(*pipeline.Campaign) error { return nil }); err != nil {
		t.Error(err)
	}
	if _, again, _ := i.Campaigns().Get(t.Context(), c.Name); again != rev {
		t.Error("nothing was changed, and written all the same")
	}
	no := errors.New("no")
	if _, err := i.Campaigns().Revise(t.Context(), c.Name, func(*pipeline.Campaign) error { return no }); !errors.Is(err, no) {
		t.Error(err)
	}
}

func TestStatesThatCannotFollow(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	c := campaign("order")
	i.create(t, c)
	b := i.Campaigns()
	if _, err := b.Aborting(t.Context(), c.Name, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Pause(t.Context(), c.Name, ""); !errors.Is(err, ErrEnding) {
		t.Errorf("pausing what is aborted: %v", err)
	}
	if _, err := b.Resume(t.Context(), c.Name); !errors.Is(err, ErrEnding) {
		t.Errorf("resuming what is aborted: %v", err)
	}
	if _, err := i.Enqueue(t.Context(), c, "hash", Items(items(1)...)); !errors.Is(err, ErrEnding) {
		t.Errorf("enqueueing in what is aborted: %v", err)
	}
	if _, err := i.Source(t.Context(), c.Name, "hash", SourceOptions{}); !errors.Is(err, ErrEnding) {
		t.Errorf("taking from what is aborted: %v", err)
	}
	if n, err := i.Abort(t.Context(), c, oneSegment, encoder{}); n != 0 || err != nil {
		t.Error(n, err)
	}
	for name, err := range map[string]error{
		"pause":  func() error { _, err := b.Pause(t.Context(), c.Name, ""); return err }(),
		"resume": func() error { _, err := b.Resume(t.Context(), c.Name); return err }(),
		"abort":  func() error { _, err := b.Aborting(t.Context(), c.Name, ""); return err }(),
		"retry":  func() error { _, err := i.Retry(t.Context(), c, "hash", entriesOf()); return err }(),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s of a closed campaign: %v", name, err)
		}
	}
	if _, err := b.Pause(t.Context(), "nobody", ""); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

// An abort while the campaign is paused, with one item with a worker and one whose worker died; interrupted in the middle, then
// run by two at once.
func TestAbortIsCompletedByWhoeverComes(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	c := campaign("abort-2")
	i.create(t, c)
	i.enqueue(t, c, items(1200), EnqueueResult{Queued: 1200})
	held := take(t, i.source(t, c, "hash", SourceOptions{AckWait: 2 * time.Second}), 2)
	if _, err := i.Campaigns().Pause(t.Context(), c.Name, ""); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	once := 0
	_, err := i.Abort(ctx, c, oneSegment, cancelling{cancel, &once})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted, it ends with %v", err)
	}
	if s := i.state(t, c.Name); s != pipeline.StateAborting {
		t.Errorf("interrupted, it is %s", s)
	}
	settle(t, i.Ledger(c, encoder{}), outcome(held[0], "published"))
	parallel(2, func(int) {
		if _, err := i.Abort(t.Context(), c, oneSegment, encoder{}); err != nil {
			t.Error(err)
		}
	})
	n := i.counts(t, c, oneSegment)
	if n.Enqueued != 1200 || n.Published != 1 || n.Aborted != 1199 || !n.Balanced() {
		t.Errorf("counts %+v", n)
	}
	if s := i.state(t, c.Name); s != pipeline.StateClosed {
		t.Errorf("it is %s", s)
	}
}

// cancelling is an encoder that interrupts whoever uses it after the first batch.
type cancelling struct {
	cancel func()
	n      *int
}

func (e cancelling) Encode(c *pipeline.Campaign, o pipeline.Outcome) ([]event.Message, error) {
	if *e.n++; *e.n > abortBatch {
		e.cancel()
	}
	return encoder{}.Encode(c, o)
}

// What is retried waits again, with its attempts; what fails again is back. A crash between the new job and the entry's removal
// leaves both, and then the entry goes: by the next retry, or by Sweep.
func TestRetry(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	c := campaign("retry")
	i.create(t, c)
	i.enqueue(t, c, items(5), EnqueueResult{Queued: 5})
	i.finish(t, c, 5, func(k int) pipeline.OutcomeKind { return []pipeline.OutcomeKind{"failed", "published"}[min(k/4, 1)] })
	es := i.quarantined(t, c)
	if len(es) != 4 || es[0].Failure.Attempts != 1 {
		t.Fatalf("entries %+v", es)
	}
	check := func(what string, failed, waiting uint64) {
		t.Helper()
		n := i.counts(t, c, oneSegment)
		if n.Enqueued != 5 || n.Published != 1 || n.Failed != failed || n.Waiting() != waiting {
			t.Errorf("%s: counts %+v", what, n)
		}
	}
	if n, err := i.Retry(t.Context(), c, "hash", entriesOf(es[0], es[1])); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	check("two retried", 2, 2)
	// They fail again. Whoever still has the first entries at hand and retries by them does no harm to the new ones.
	i.finish(t, c, 2, all("failed"))
	check("both are back", 4, 0)
	if _, err := i.Retry(t.Context(), c, "hash", entriesOf(es[0], es[1])); err != nil {
		t.Fatal(err)
	}
	check("stale entries", 4, 0)
	again := i.quarantined(t, c)
	for _, e := range again {
		if want := 1 + e.Item.Retry; e.Failure.Attempts != want {
			t.Errorf("item %s has %d attempts after %d retries", e.Item.ID, e.Failure.Attempts, e.Item.Retry)
		}
	}

	// The crash: the jobs are there, and the entries too.
	last := again[len(again)-2:]
	r := retrier{q: i.Queue, campaign: c.Name, segment: "hash", tracer: tracer()}
	for _, e := range last {
		if err := r.add(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range i.publish(t.Context(), r.msgs) {
		if err != nil {
			t.Fatal(err)
		}
	}
	n := i.counts(t, c, oneSegment)
	if n.Enqueued != 5 || n.Done()+n.Open() != 5 || n.Between() != 2 {
		t.Errorf("between: counts %+v", n)
	}
	if n, err := i.Retry(t.Context(), c, "hash", entriesOf(last[0])); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	check("one was retried anew", 3, 2)
	if n, err := i.Sweep(t.Context(), c.Name); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	check("the other was swept", 2, 2)
	i.finish(t, c, 2, all("published"))
	if n := i.counts(t, c, oneSegment); n.Enqueued != 5 || n.Published != 3 || n.Failed != 2 || !n.Balanced() {
		t.Errorf("counts %+v", n)
	}
	if _, err := i.Retry(t.Context(), c, "hash", entriesOf(Entry{Item: &pipeline.Item{ID: "x", Campaign: c.Name}, Raw: []byte("x")})); err == nil {
		t.Error("a malformed entry was retried")
	}
}

// Sweep has two ways, for few and for many, that find the same.
func TestSweepBothWays(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	c := campaign("sweep")
	i.create(t, c)
	i.enqueue(t, c, items(6), EnqueueResult{Queued: 6})
	i.finish(t, c, 6, all("failed"))
	es := i.quarantined(t, c)
	l := &ledger{q: i.Queue, c: c, enc: encoder{}}
	var want []uint64
	for k, kind := range []pipeline.OutcomeKind{"published", "skipped", OutcomeAborted} {
		e := l.prepare(outcome(pipeline.Delivery{Item: es[k].Item}, kind))
		l.publishEvents(t.Context(), []*entry{e})
		if e.err != nil {
			t.Fatal(e.err)
		}
		want = append(want, es[k].Sequence)
	}
	r := retrier{q: i.Queue, campaign: c.Name, segment: "hash", tracer: tracer()}
	if err := r.add(t.Context(), es[3]); err != nil {
		t.Fatal(err)
	}
	i.publish(t.Context(), r.msgs)
	want = append(want, es[3].Sequence)
	var in []inQuarantine
	for _, e := range es {
		in = append(in, inQuarantine{e.Item.ID, e.Item.Retry, e.Sequence})
	}
	for name, find := range map[string]func(context.Context, string, []inQuarantine) ([]uint64, error){"one by one": i.strayOneByOne, "in one pass": i.strayInOnePass} {
		got, err := find(t.Context(), c.Name, in)
		slices.Sort(got)
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("%s: %v %s", name, err, d)
		}
	}
}

// Dropped items are aborted, once, and malformed ones can be dropped too. A crash between event and removal is completed.
func TestDrop(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	c := campaign("drop")
	i.create(t, c)
	i.enqueue(t, c, items(3), EnqueueResult{Queued: 3})
	if _, err := i.js.Publish(t.Context(), "job.hash.drop.bad", []byte("{")); err != nil {
		t.Fatal(err)
	}
	src := i.source(t, c, "hash", SourceOptions{Encoder: encoder{}, Wait: time.Second})
	var os []pipeline.Outcome
	for _, d := range take(t, src, 3) {
		os = append(os, outcome(d, "failed"))
	}
	settle(t, i.Ledger(c, encoder{}), os...)
	if ds, err := src.Next(t.Context(), 1); err != nil || len(ds) > 0 {
		t.Fatal(ds, err)
	}
	i.quietCounts(t, c, oneSegment, func(n Counts) bool { return n.Failed == 4 && n.Waiting() == 0 })
	es := i.quarantined(t, c)
	d := dropper{l: &ledger{q: i.Queue, c: c, enc: encoder{}}, segment: "hash"}
	for _, e := range es[:2] {
		if err := d.add(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	d.claim(t.Context(), d.all)
	d.l.publishCarefully(t.Context(), []*entry{d.all[0].entry}) // and then it is killed
	if n, err := i.Drop(t.Context(), c, "hash", encoder{}, i.Quarantined(t.Context(), c.Name)); n != 4 || err != nil {
		t.Fatal(n, err)
	}
	if n := i.counts(t, c, oneSegment); n.Enqueued != 4 || n.Aborted != 4 || !n.Balanced() {
		t.Errorf("counts %+v", n)
	}
}

// Two who give an item different outcomes at the same moment: the server takes one of them, whoever it is.
func TestCarefulOutcomesExcludeEachOther(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	c := campaign("careful")
	i.create(t, c)
	l := &ledger{q: i.Queue, c: c, enc: encoder{}}
	kinds := []pipeline.OutcomeKind{"published", "skipped", OutcomeAborted}
	for k := range 60 {
		es := make([]*entry, 2)
		for x := range es {
			it := *items(k + 1)[k]
			o := outcome(pipeline.Delivery{Item: &it}, kinds[(k+x)%3])
			if o.Kind != pipeline.OutcomePublished && k%2 == 0 {
				o = early(o)
			}
			es[x] = l.prepare(o)
			es[x].careful = true
		}
		parallel(2, func(x int) { l.publishCarefully(t.Context(), es[x:x+1]) })
		if es[0].err != nil || es[1].err != nil || es[0].stands == es[1].stands {
			t.Errorf("%s and %s: %v, %v; stands %v, %v", es[0].o.Kind, es[1].o.Kind, es[0].err, es[1].err, es[0].stands, es[1].stands)
		}
	}
	n := i.counts(t, c, oneSegment)
	if n.Done() != 60 {
		t.Errorf("60 items, and the counts are %+v", n)
	}
}

// Of a retry and a drop of the same entry, only one comes through. A claim that nobody completed is completed by whoever
// takes it.
func TestRetryAndDropAtOnce(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	c := campaign("rivals")
	i.create(t, c)
	i.enqueue(t, c, items(3), EnqueueResult{Queued: 3})
	i.finish(t, c, 3, all("failed"))
	es := i.quarantined(t, c)
	if n, err := i.Retry(t.Context(), c, "hash", entriesOf(es[0])); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if n, err := i.Drop(t.Context(), c, "hash", encoder{}, entriesOf(es[0])); n != 0 || err != nil {
		t.Errorf("dropped %d, %v", n, err)
	}
	if n, err := i.Drop(t.Context(), c, "hash", encoder{}, entriesOf(es[1])); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	d := dropper{l: &ledger{q: i.Queue, c: c, enc: encoder{}}, segment: "hash"}
	if err := d.add(t.Context(), es[2]); err != nil {
		t.Fatal(err)
	}
	d.claim(t.Context(), d.all) // and then it is killed
	if n, err := i.Retry(t.Context(), c, "hash", entriesOf(es[2])); err != nil {
		t.Fatal(n, err)
	}
	src := i.source(t, c, "hash", SourceOptions{Encoder: encoder{}, Wait: time.Second})
	settle(t, i.Ledger(c, encoder{}), outcome(take(t, src, 1)[0], "published"))
	if ds, err := src.Next(t.Context(), 1); err != nil || len(ds) > 0 {
		t.Errorf("a dropped item was handed out: %v, %v", ds, err)
	}
	n := i.quietCounts(t, c, oneSegment, func(n Counts) bool { return n.Waiting() == 0 })
	if n.Enqueued != 3 || n.Published != 1 || n.Aborted != 2 || n.Failed != 0 {
		t.Errorf("counts %+v", n)
	}
}

// A closed campaign that is reopened for its quarantine keeps its ledger, takes nothing new, and can be closed again.
func TestReopen(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	c := campaign("reopen")
	i.create(t, c)
	i.enqueue(t, c, items(10), EnqueueResult{Queued: 10})
	i.finish(t, c, 10, func(k int) pipeline.OutcomeKind { return []pipeline.OutcomeKind{"published", "failed"}[k%2] })
	check := func(what string, want Counts) {
		t.Helper()
		n := i.quietCounts(t, c, oneSegment, func(n Counts) bool { return n.Waiting() == want.Segments[0].Pending })
		n.Signed, n.Segments = 0, nil
		want.Enqueued, want.Segments = 10, nil
		if d := cmp.Diff(want, n); d != "" {
			t.Errorf("%s (-want +got):\n%s", what, d)
		}
	}
	waiting := func(n uint64) []SegmentCounts { return []SegmentCounts{{Pending: n}} }
	if err := i.Campaigns().Close(t.Context(), c.Name); err != nil {
		t.Fatal(err)
	}
	check("closed", Counts{Published: 5, Failed: 5, Segments: waiting(0)})
	for range 2 {
		if r, err := i.Campaigns().Reopen(t.Context(), c.Name); err != nil || r.State != pipeline.StateOpen || r.Frozen != 10 {
			t.Fatal(r, err)
		}
	}
	check("reopened", Counts{Published: 5, Failed: 5, Segments: waiting(0)})
	if _, err := i.Enqueue(t.Context(), c, "hash", Items(items(11)...)); !errors.Is(err, ErrFrozen) {
		t.Errorf("new items: %v", err)
	}
	if n, err := i.Retry(t.Context(), c, "hash", i.Quarantined(t.Context(), c.Name)); n != 5 || err != nil {
		t.Fatal(n, err)
	}
	check("retried", Counts{Published: 5, Segments: waiting(5)})
	if _, ok := errors.AsType[*WaitingError](i.Campaigns().Close(t.Context(), c.Name)); !ok {
		t.Error("closed while items wait")
	}
	i.finish(t, c, 5, func(k int) pipeline.OutcomeKind { return []pipeline.OutcomeKind{"published", "failed"}[k%2] })
	check("done again", Counts{Published: 8, Failed: 2, Segments: waiting(0)})
	if err := i.Campaigns().Close(t.Context(), c.Name); err != nil {
		t.Fatal(err)
	}
	check("closed again", Counts{Published: 8, Failed: 2, Segments: waiting(0)})
	if n, err := i.Drop(t.Context(), c, "hash", encoder{}, i.Quarantined(t.Context(), c.Name)); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	check("dropped", Counts{Published: 8, Aborted: 2, Segments: waiting(0)})
}

// Close loses nothing that somebody enqueues at the same moment: either it is refused, or whoever enqueued is told.
func TestCloseAndEnqueueAtOnce(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	for k := range 30 {
		c := campaign(fmt.Sprintf("race-%d", k))
		i.create(t, c)
		i.enqueue(t, c, items(1), EnqueueResult{Queued: 1})
		i.finish(t, c, 1, all("published"))
		var wg sync.WaitGroup
		var closed, enqueued error
		wg.Go(func() { closed = i.Campaigns().Close(t.Context(), c.Name) })
		wg.Go(func() { _, enqueued = i.Enqueue(t.Context(), c, "hash", Items(items(2)...)) })
		wg.Wait()
		n := i.counts(t, c, oneSegment)
		if closed == nil && enqueued == nil {
			t.Errorf("closed and enqueued: %+v", n)
		}
		if enqueued == nil && (n.Waiting() != 1 || i.state(t, c.Name) == pipeline.StateClosed) {
			t.Errorf("enqueued, and then %+v in a campaign that is %s", n, i.state(t, c.Name))
		}
		if n.missing() {
			t.Errorf("counts %+v", n)
		}
	}
}

// An item that is lost is not hidden by closing the campaign.
func TestCloseRefusesAnIncompleteLedger(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	c := campaign("incomplete")
	i.create(t, c)
	i.enqueue(t, c, items(2), EnqueueResult{Queued: 2})
	ds := take(t, i.source(t, c, "hash", SourceOptions{}), 2)
	settle(t, i.Ledger(c, encoder{}), outcome(ds[0], "published"))
	if err := ds[1].Job.(job).ackAndWait(t.Context()); err != nil { // what must never happen
		t.Fatal(err)
	}
	e, ok := errors.AsType[*LedgerError](i.Campaigns().Close(t.Context(), c.Name))
	if !ok || e.Enqueued != 2 || e.Done != 1 {
		t.Errorf("closed with %v", e)
	}
	if n := i.counts(t, c, oneSegment); !n.missing() || i.state(t, c.Name) != pipeline.StateOpen {
		t.Errorf("counts %+v", n)
	}
}

// The quarantine may be emptied by others while it is read.
func TestReplayOfWhatIsRemovedMeanwhile(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	c := campaign("removed")
	i.create(t, c)
	i.enqueue(t, c, items(2000), EnqueueResult{Queued: 2000})
	i.finish(t, c, 2000, all("failed"))
	n := 0
	for _, err := range i.Quarantined(t.Context(), c.Name) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 1 {
			if err := i.purge(t.Context(), StreamQuarantine, quarantineFilter(c.Name), 1<<40); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n == 0 || n == 2000 {
		t.Errorf("%d entries read", n)
	}
}

// Every item stands somewhere, once.
func TestStandings(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	c := campaign("standings")
	i.create(t, c)
	i.enqueue(t, c, items(40), EnqueueResult{Queued: 40})
	kinds := []pipeline.OutcomeKind{"published", "skipped", "failed"}
	i.finish(t, c, 30, func(k int) pipeline.OutcomeKind { return kinds[k%3] })
	es := i.quarantined(t, c)
	if _, err := i.Drop(t.Context(), c, "hash", encoder{}, entriesOf(es[:3]...)); err != nil {
		t.Fatal(err)
	}
	if _, err := i.Retry(t.Context(), c, "hash", entriesOf(es[3:5]...)); err != nil {
		t.Fatal(err)
	}
	want := map[pipeline.OutcomeKind]int{"published": 10, "skipped": 10, "aborted": 3, "failed": 5, "waiting": 12}
	standings := func() map[pipeline.OutcomeKind]int {
		got, seen := map[pipeline.OutcomeKind]int{}, map[string]bool{}
		for s, err := range i.Standings(t.Context(), c, "hash") {
			if err != nil {
				t.Fatal(err)
			}
			if seen[s.ID] || s.At.IsZero() {
				t.Errorf("%+v", s)
			}
			seen[s.ID] = true
			got[s.Outcome]++
		}
		return got
	}
	if d := cmp.Diff(want, standings()); d != "" {
		t.Error(d)
	}
	i.finish(t, c, 12, all("published"))
	want["published"], want["waiting"] = 22, 0
	delete(want, "waiting")
	if d := cmp.Diff(want, standings()); d != "" {
		t.Error(d)
	}
	if err := i.Campaigns().Close(t.Context(), c.Name); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, standings()); d != "" {
		t.Error(d)
	}
}

func TestRemovingWhatIsNotThere(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	ack, err := i.js.Publish(t.Context(), "quarantine.c.x", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []uint64{ack.Sequence, ack.Sequence, ack.Sequence + 100} {
		if err := i.remove(t.Context(), StreamQuarantine, n); err != nil {
			t.Error(err)
		}
	}
	if ack, err = i.js.Publish(t.Context(), "attest.v1.x", nil); err != nil {
		t.Fatal(err)
	}
	if err := i.remove(t.Context(), StreamEvents, ack.Sequence); err == nil {
		t.Error("an event was removed")
	}
}

// Whoever closes a campaign while somebody else does leaves it closed, and is told so.
func TestCloseByManyAtOnce(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	for k := range 12 {
		c := campaign(fmt.Sprintf("many-%d", k))
		i.create(t, c)
		i.enqueue(t, c, items(30), EnqueueResult{Queued: 30})
		i.finish(t, c, 30, all("published"))
		i.quietCounts(t, c, oneSegment, func(n Counts) bool { return n.Waiting() == 0 })
		parallel(6, func(int) {
			if err := i.Campaigns().Close(t.Context(), c.Name); err != nil {
				if now, _, gerr := i.Campaigns().Get(t.Context(), c.Name); gerr != nil || now.State != pipeline.StateClosed {
					t.Errorf("%v, and it is %v (%v)", err, now, gerr)
				}
			}
		})
		if s := i.state(t, c.Name); s != pipeline.StateClosed {
			t.Errorf("closed by six at once, it is %s", s)
		}
		if n := i.counts(t, c, oneSegment); n.Enqueued != 30 || !n.Balanced() {
			t.Errorf("%+v", n)
		}
	}
}
