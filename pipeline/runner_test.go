package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// memory is a queue and a ledger in memory, for the engine's own tests. The real ones are tested in pipeline/queue.
type memory struct {
	mu       sync.Mutex
	waiting  []*memoryJob
	handed   []*memoryJob
	outcomes map[string]Outcome
	settles  int
	fail     error // what Settle answers
}

type memoryJob struct {
	q        *memory
	item     *Item
	attempts int
	extended atomic.Int64
	acked    atomic.Int64
	released []time.Duration
}

func (j *memoryJob) Extend() error { j.extended.Add(1); return nil }
func (j *memoryJob) Ack() error    { j.acked.Add(1); return nil }
func (j *memoryJob) Release(d time.Duration) error {
	j.q.mu.Lock()
	defer j.q.mu.Unlock()
	j.released = append(j.released, d)
	return nil
}

func newMemory(n int) *memory {
	q := &memory{outcomes: map[string]Outcome{}}
	for i := range n {
		q.waiting = append(q.waiting, &memoryJob{q: q, item: &Item{ID: fmt.Sprintf("i%04d", i), Campaign: "c", Filename: "f"}})
	}
	return q
}

func (q *memory) Next(ctx context.Context, limit int) ([]Delivery, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		q.mu.Unlock()
		ok := sleep(ctx, time.Second)
		q.mu.Lock()
		if !ok {
			return nil, ctx.Err()
		}
	}
	var out []Delivery
	for range min(limit, len(q.waiting)) {
		j := q.waiting[0]
		q.waiting = q.waiting[1:]
		j.attempts++
		q.handed = append(q.handed, j)
		out = append(out, Delivery{Item: j.item, Attempt: j.attempts, Job: j})
	}
	return out, nil
}

func (q *memory) Settle(_ context.Context, os []Outcome) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.settles++
	if q.fail != nil {
		return q.fail
	}
	for _, o := range os {
		q.outcomes[o.Delivery.Item.ID] = o
		_ = o.Delivery.Job.Ack()
	}
	return nil
}

func (q *memory) settled() map[string]Outcome {
	q.mu.Lock()
	defer q.mu.Unlock()
	return maps.Clone(q.outcomes)
}

func (q *memory) kinds() map[OutcomeKind]int {
	q.mu.Lock()
	defer q.mu.Unlock()
	m := map[OutcomeKind]int{}
	for _, o := range q.outcomes {
		m[o.Kind]++
	}
	return m
}

type stageFunc struct {
	name string
	run  func(context.Context, *Item) error
}

func (s stageFunc) String() string                          { return s.name }
func (s stageFunc) Run(ctx context.Context, it *Item) error { return s.run(ctx, it) }

func step(name string, n int, run func(context.Context, *Item) error) Step {
	return Step{Stage: stageFunc{name, run}, Concurrency: n}
}

func ok(context.Context, *Item) error { return nil }

// start runs r in the bubble and returns its result's channel and the drain.
func start(t *testing.T, r *Runner) (result chan error, drain context.CancelFunc) {
	t.Helper()
	r.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	ctx, cancel := context.WithCancel(t.Context())
	result = make(chan error, 1)
	go func() { result <- r.Run(ctx) }()
	return result, cancel
}

func TestRunnerTakesEveryItemThroughEveryStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemory(1000)
		var mu sync.Mutex
		trail := map[string]string{}
		mark := func(s string) func(context.Context, *Item) error {
			return func(_ context.Context, it *Item) error {
				time.Sleep(time.Millisecond)
				mu.Lock()
				defer mu.Unlock()
				trail[it.ID] += s
				return nil
			}
		}
		sign, upload, publish := step("b", 50, mark("b")), step("c", 7, mark("c")), step("d", 100, mark("d"))
		upload.Completes, publish.Completes = "signed", "published"
		res, drain := start(t, &Runner{Source: q, Ledger: q, Steps: []Step{step("a", 3, mark("a")), sign, upload, publish}})
		time.Sleep(time.Minute)
		drain()
		if err := <-res; err != nil {
			t.Fatal(err)
		}
		if got := q.kinds(); got[OutcomePublished] != 1000 {
			t.Fatalf("outcomes %v", got)
		}
		for id, o := range q.outcomes {
			if trail[id] != "abcd" {
				t.Fatalf("item %s went %q", id, trail[id])
			}
			if d := cmp.Diff([]string{"signed", "published"}, o.Events); d != "" {
				t.Fatal(d)
			}
			if n := o.Delivery.Job.(*memoryJob).acked.Load(); n != 1 {
				t.Fatalf("item %s acknowledged %d times", id, n)
			}
		}
		if q.settles >= 1000 {
			t.Errorf("%d settles for 1000 items: outcomes are not batched", q.settles)
		}
	})
}

func TestRunnerBoundsConcurrencyAndFlights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemory(300)
		var now, most atomic.Int64
		slow := func(context.Context, *Item) error {
			n := now.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(time.Second)
			now.Add(-1)
			return nil
		}
		res, drain := start(t, &Runner{Source: q, Ledger: q, MaxInFlight: 40, Steps: []Step{step("a", 5, ok), step("b", 9, slow)}})
		time.Sleep(1500 * time.Millisecond)
		q.mu.Lock()
		taken := 300 - len(q.waiting)
		q.mu.Unlock()
		if taken > 40+9+9 { // those that are done have given their permit back
			t.Errorf("%d items taken from the queue with 40 permits", taken)
		}
		time.Sleep(5 * time.Minute)
		drain()
		if err := <-res; err != nil {
			t.Fatal(err)
		}
		if most.Load() != 9 {
			t.Errorf("at most %d items at once in a step of 9", most.Load())
		}
		if q.kinds()[OutcomePublished] != 300 {
			t.Error(q.kinds())
		}
	})
}

func TestRunnerMeetsEachKindOfError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemory(5)
		var tries sync.Map
		b := func(_ context.Context, it *Item) error {
			n, _ := tries.LoadOrStore(it.ID, new(atomic.Int64))
			k := n.(*atomic.Int64).Add(1)
			switch it.ID {
			case "i0000":
				return Permanent("package.truncated", "build it again", errors.New("no directory"))
			case "i0001":
				return Skip("published", "there already")
			case "i0002":
				if k < 4 {
					return errors.New("connection reset")
				}
			case "i0003":
				panic("a nil map")
			}
			return nil
		}
		a := step("a", 2, ok)
		a.Completes = "signed"
		res, drain := start(t, &Runner{Source: q, Ledger: q, Steps: []Step{a, step("b", 2, b)}})
		time.Sleep(time.Hour)
		drain()
		if err := <-res; err != nil {
			t.Fatal(err)
		}
		type row struct {
			Kind                 OutcomeKind
			Stage, Cause, Hint   string
			Events               []string
			MessageHas, Attempts bool
		}
		got := map[string]row{}
		for id, o := range q.outcomes {
			r := row{Kind: o.Kind, Events: o.Events}
			if o.Failure != nil {
				r.Stage, r.Cause, r.Hint = o.Failure.Stage, o.Failure.Cause, o.Failure.Hint
				r.MessageHas = o.Failure.Message != ""
				r.Attempts = o.Failure.Attempts == 1
			}
			got[id] = r
		}
		ev := []string{"signed"}
		want := map[string]row{
			"i0000": {OutcomeFailed, "b", "package.truncated", "build it again", ev, true, true},
			"i0001": {OutcomeSkipped, "b", "published", "", ev, true, true},
			"i0002": {OutcomePublished, "", "", "", ev, false, false},
			"i0003": {OutcomeFailed, "b", "internal.panic", "this is a defect in Hallmark: please report it with the log", ev, true, true},
			"i0004": {OutcomePublished, "", "", "", ev, false, false},
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
		if n, _ := tries.Load("i0002"); n.(*atomic.Int64).Load() != 4 {
			t.Error("a transient error was not retried to success")
		}
	})
}

func TestRunnerGivesStubbornItemsBackAndKeepsCommittedOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, commits := range []bool{false, true} {
			q := newMemory(1)
			job := q.waiting[0]
			var tries atomic.Int64
			a := step("a", 1, ok)
			a.Commits = commits
			down := func(context.Context, *Item) error {
				tries.Add(1)
				return Transient("rekor.unavailable", 0, errors.New("503"))
			}
			res, drain := start(t, &Runner{Source: q, Ledger: q, Steps: []Step{a, step("b", 1, down)}})
			time.Sleep(time.Hour)
			q.mu.Lock()
			released := slices.Clone(job.released)
			q.mu.Unlock()
			if commits {
				if len(released) != 0 || tries.Load() < 60 {
					t.Errorf("committed: released %v after %d tries; want it kept and tried on", released, tries.Load())
				}
			} else if len(released) != 1 || released[0] < time.Second || tries.Load() != int64(DefaultRetry.Attempts) {
				t.Errorf("uncommitted: released %v after %d tries", released, tries.Load())
			}
			if len(q.outcomes) != 0 {
				t.Error("an outage set an item aside")
			}
			drain()
			if err := <-res; err != nil {
				t.Error(err)
			}
			if job.acked.Load() != 0 {
				t.Error("acknowledged without an outcome")
			}
		}
	})
}

func TestRunnerHonoursRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemory(1)
		var first, second time.Time
		b := func(context.Context, *Item) error {
			if first.IsZero() {
				first = time.Now()
				return Transient("rekor.unavailable", 5*time.Minute, errors.New("429"))
			}
			second = time.Now()
			return nil
		}
		res, drain := start(t, &Runner{Source: q, Ledger: q, Steps: []Step{step("b", 1, b)}})
		time.Sleep(time.Hour)
		drain()
		<-res
		if d := second.Sub(first); d < 5*time.Minute {
			t.Errorf("tried again after %v", d)
		}
	})
}

func TestRunnerDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemory(20)
		jobs := slices.Clone(q.waiting)
		slow := func(ctx context.Context, _ *Item) error {
			if !sleep(ctx, 10*time.Second) {
				return ctx.Err()
			}
			return nil
		}
		sign := step("sign", 5, slow)
		sign.Commits = true
		res, drain := start(t, &Runner{Source: q, Ledger: q, Steps: []Step{step("hash", 5, ok), sign, step("upload", 1, slow)}})
		time.Sleep(time.Second) // five are being signed
		drain()
		began := time.Now()
		if err := <-res; err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d < 50*time.Second || d > 61*time.Second {
			t.Errorf("drained in %v; five uploads of 10 s follow the signatures", d)
		}
		if got := q.kinds(); got[OutcomePublished] != 5 || len(got) != 1 {
			t.Errorf("outcomes %v, want the five that were being signed", got)
		}
		for _, j := range jobs {
			if j.attempts > 0 && j.acked.Load()+int64(len(j.released)) != 1 {
				t.Errorf("item %s: acked %d, released %v; want exactly one", j.item.ID, j.acked.Load(), j.released)
			}
		}
	})
}

func TestRunnerDrainTimeoutEndsEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemory(3)
		hang := func(ctx context.Context, _ *Item) error { <-ctx.Done(); return ctx.Err() }
		sign := step("sign", 5, ok)
		sign.Commits = true
		res, drain := start(t, &Runner{Source: q, Ledger: q, DrainTimeout: 7 * time.Second, Steps: []Step{sign, step("upload", 5, hang)}})
		time.Sleep(time.Second)
		drain()
		began := time.Now()
		if err := <-res; err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d != 7*time.Second {
			t.Errorf("ended after %v", d)
		}
	})
}

func TestRunnerFatalErrorEndsTheRunAndSetsNothingAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemory(100)
		jobs := slices.Clone(q.waiting)
		res, _ := start(t, &Runner{Source: q, Ledger: q, Steps: []Step{step("sign", 5, func(context.Context, *Item) error {
			return Fatal("identity.mismatch", "start it as the campaign's signer", errors.New("a is not b"))
		})}})
		err := <-res
		e, isErr := errors.AsType[*Error](err)
		if !isErr || e.Cause != "identity.mismatch" || !strings.Contains(err.Error(), "a is not b") {
			t.Errorf("got %v", err)
		}
		if len(q.outcomes) != 0 {
			t.Errorf("outcomes %v", q.kinds())
		}
		for _, j := range jobs {
			if j.attempts > 0 && len(j.released) != 1 {
				t.Errorf("item %s released %v", j.item.ID, j.released)
			}
		}
	})
}

func TestRunnerHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemory(1)
		job := q.waiting[0]
		res, drain := start(t, &Runner{Source: q, Ledger: q, Steps: []Step{step("sign", 1, func(ctx context.Context, _ *Item) error {
			sleep(ctx, 5*time.Minute)
			return nil
		})}})
		time.Sleep(10 * time.Minute)
		drain()
		<-res
		if n := job.extended.Load(); n < 14 || n > 15 {
			t.Errorf("extended %d times in 5 minutes at 20 s", n)
		}
	})
}

func TestRunnerReportsWhatIsNotRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemory(3)
		q.fail = errors.New("stream unavailable")
		var settled counter
		res, drain := start(t, &Runner{Source: q, Ledger: q, Observer: &settled, Steps: []Step{step("a", 1, ok)}})
		time.Sleep(time.Minute)
		drain()
		if err := <-res; err != nil {
			t.Fatal(err)
		}
		if n := settled.n.Load(); n != 0 {
			t.Errorf("%d items reported as settled though nothing was recorded", n)
		}
	})
}

type counter struct{ n atomic.Int64 }

func (*counter) StageDone(context.Context, string, *Item, time.Duration, *Error) {}
func (*counter) Retrying(context.Context, string, *Item, *Error, time.Duration)  {}
func (c *counter) Settled(Outcome)                                               { c.n.Add(1) }

func TestRunnerCrosses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemory(4)
		res, drain := start(t, &Runner{Source: q, Ledger: q, Next: "sign", Steps: []Step{step("hash", 1, ok)}})
		time.Sleep(time.Minute)
		drain()
		<-res
		for _, o := range q.outcomes {
			if o.Kind != OutcomeCrossed || o.Next != "sign" {
				t.Errorf("outcome %s to %q", o.Kind, o.Next)
			}
		}
		if len(q.outcomes) != 4 {
			t.Error(len(q.outcomes))
		}
	})
}
