package pipeline

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// counts are the numbers of a tally's stages: ready, running, retrying.
func counts(t *Tally) map[string][3]int64 {
	out := map[string][3]int64{}
	for _, s := range t.Stages() {
		out[s.Stage] = [3]int64{s.Ready, s.Running, s.Retrying}
	}
	return out
}

func TestTallyKnowsWhereEveryItemIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemory(60)
		gate := make(chan struct{})
		closed := func(context.Context, *Item) error { <-gate; return nil }
		steps := []Step{step("hash", 2, ok), step("sign", 5, closed), step("upload", 3, ok)}
		tally := NewTally(steps)
		res, drain := start(t, &Runner{Source: q, Ledger: q, Steps: steps, MaxInFlight: 20, Tally: tally})
		synctest.Wait()
		// 5 in the stage, 5 before it, 2 that hash is done with and cannot hand on: ready for sign too. The rest has not begun.
		want := map[string][3]int64{"hash": {8, 0, 0}, "sign": {7, 5, 0}, "upload": {}}
		if d := cmp.Diff(want, counts(tally)); d != "" {
			t.Error(d)
		}
		if n := tally.InFlight(); n != 20 {
			t.Errorf("%d in flight, want 20", n)
		}
		close(gate)
		time.Sleep(time.Minute)
		if d := cmp.Diff(map[string][3]int64{"hash": {}, "sign": {}, "upload": {}}, counts(tally)); d != "" {
			t.Error(d)
		}
		drain()
		if err := <-res; err != nil {
			t.Fatal(err)
		}
		if n := tally.InFlight(); n != 0 {
			t.Errorf("%d in flight after the end", n)
		}
	})
}

func TestTallyTellsTroubleWhileItLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemory(200)
		var up atomic.Bool
		up.Store(true)
		sign := func(context.Context, *Item) error {
			time.Sleep(time.Second)
			if up.Load() {
				return nil
			}
			return Transient("upstream.unavailable", 10*time.Second, errors.New("Rekor answers 503"))
		}
		commits := step("hash", 1, ok)
		commits.Commits = true // so that nothing goes back to the queue
		steps := []Step{commits, step("sign", 4, sign)}
		tally := NewTally(steps)
		res, drain := start(t, &Runner{Source: q, Ledger: q, Steps: steps, MaxInFlight: 20, Tally: tally})
		began := time.Now()
		at := func(d time.Duration) StageTally {
			t.Helper()
			time.Sleep(time.Until(began.Add(d)))
			return tally.Stages()[1]
		}
		if s := at(2500 * time.Millisecond); s.Trouble != nil || s.Running != 4 || !s.LastDone.Equal(began.Add(2*time.Second)) {
			t.Errorf("while all is well: %+v", s)
		}
		up.Store(false)
		// All four attempts end with an error at 3 s. From 13 s on one at a time tries again.
		s := at(5 * time.Second)
		if s.Running != 0 || s.Retrying != 4 || s.Trouble == nil {
			t.Fatalf("in an outage: %+v", s)
		}
		if tr := s.Trouble; tr.Err.Cause != "upstream.unavailable" || tr.Err.Error() != "Rekor answers 503" ||
			!tr.At.Equal(began.Add(3*time.Second)) || !tr.Since.Equal(tr.At) || !tr.Paused ||
			tr.NextTry.Before(began.Add(13*time.Second)) || tr.NextTry.After(began.Add(14100*time.Millisecond)) {
			t.Errorf("in an outage: %+v", tr)
		}
		// While one is tried again the trouble is not over.
		first := s.Trouble.NextTry.Sub(began)
		if s := at(first + 500*time.Millisecond); s.Running != 1 || s.Retrying != 3 || s.Trouble == nil || !s.Trouble.Since.Equal(began.Add(3*time.Second)) || !s.Trouble.Paused {
			t.Errorf("at the second attempt: %+v %+v", s, s.Trouble)
		}
		s = at(first + 2*time.Second)
		if s.Retrying != 4 || s.Running != 0 || !s.Trouble.At.Equal(began.Add(first+time.Second)) || !s.Trouble.Since.Equal(began.Add(3*time.Second)) {
			t.Errorf("after the second attempt: %+v %+v", s, s.Trouble)
		}
		up.Store(true)
		next := s.Trouble.NextTry.Sub(began)
		if s := at(next + 3*time.Second); s.Trouble != nil || s.Running+s.Retrying == 0 || s.LastDone.Before(began.Add(next)) {
			t.Errorf("after the outage: %+v %+v", s, s.Trouble)
		}
		drain()
		<-res
	})
}

// One item in trouble among others that go well: there is no "since", and the item shows all the same.
func TestTallyOfAStageThatFailsInPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemory(100)
		sign := func(_ context.Context, it *Item) error {
			time.Sleep(time.Second)
			if it.ID == "i0003" {
				return Transient("upstream.refused", 0, errors.New("no"))
			}
			return nil
		}
		steps := []Step{step("sign", 4, sign)}
		tally := NewTally(steps)
		res, drain := start(t, &Runner{Source: q, Ledger: q, Steps: steps, Tally: tally, Retry: Retry{Attempts: 9, Base: time.Hour, Max: time.Hour}})
		time.Sleep(10500 * time.Millisecond)
		s := tally.Stages()[0]
		if s.Running != 3 || s.Retrying != 1 || s.Trouble == nil || s.Trouble.Err.Cause != "upstream.refused" || !s.Trouble.Since.IsZero() || s.Trouble.NextTry.IsZero() {
			t.Errorf("%+v %+v", s, s.Trouble)
		}
		drain() // gives the item back, though it would wait for an hour
		if err := <-res; err != nil {
			t.Fatal(err)
		}
		if s := tally.Stages()[0]; s.Retrying != 0 || s.Running != 0 || s.Ready != 0 || tally.InFlight() != 0 {
			t.Errorf("after the drain: %+v", s)
		}
	})
}

// An item that goes back to the queue waits no more here; that its stage is in trouble stays known.
func TestTallyOfItemsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemory(1)
		down := func(context.Context, *Item) error { return errors.New("connection refused") }
		steps := []Step{step("upload", 1, down)}
		tally := NewTally(steps)
		res, drain := start(t, &Runner{Source: q, Ledger: q, Steps: steps, Tally: tally})
		began := time.Now()
		time.Sleep(time.Hour)
		s := tally.Stages()[0]
		if s.Retrying != 0 || tally.InFlight() != 0 || s.Trouble == nil || !s.Trouble.Since.Equal(began) || !s.Trouble.NextTry.IsZero() || !s.LastDone.IsZero() {
			t.Errorf("%+v %+v", s, s.Trouble)
		}
		drain()
		<-res
	})
}

// A package that can never pass says nothing of the upstream, and neither ends trouble nor begins it; a skip ends it.
func TestTallyTakesEachKindOfError(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name    string
		err     error
		trouble bool
	}{
		{"done", nil, false},
		{"skip", Skip("published", "there already"), false},
		{"permanent", Permanent("package.truncated", "", errors.New("short")), true},
		{"transient", errors.New("reset"), true},
	} {
		c := stageCount{name: "sign"}
		c.attempted(&Item{Source: "/a/b.conda"}, Classify(errors.New("503")), at)
		c.attempted(&Item{}, Classify(tt.err), at.Add(time.Second))
		s := c.read()
		if (s.Trouble != nil) != tt.trouble {
			t.Errorf("%s: trouble %+v", tt.name, s.Trouble)
		}
		if s.Trouble != nil && !s.Trouble.Since.Equal(at) {
			t.Errorf("%s: since %v", tt.name, s.Trouble.Since)
		}
	}
}

// Each outage has a beginning of its own, and of what waits the first to be tried counts.
func TestTallyOfASecondOutage(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	at := func(sec int) time.Time { return began.Add(time.Duration(sec) * time.Second) }
	c := stageCount{name: "sign"}
	down := Classify(errors.New("503"))
	for sec, err := range []*Error{down, down, nil, down, down} {
		c.attempted(&Item{}, err, at(sec))
	}
	var fs [20]flight
	for i := range fs {
		c.waits(&fs[i], at(100+(i+10)%20))
	}
	tr := c.read().Trouble
	if tr == nil || !tr.Since.Equal(at(3)) || !tr.At.Equal(at(4)) || !tr.NextTry.Equal(at(100)) {
		t.Errorf("%+v", tr)
	}
}

func TestRunnerRefusesAnothersTally(t *testing.T) {
	t.Parallel()
	q := newMemory(0)
	for _, steps := range [][]Step{{step("a", 1, ok)}, {step("a", 1, ok), step("c", 1, ok)}} {
		r := &Runner{Source: q, Ledger: q, Steps: []Step{step("a", 1, ok), step("b", 1, ok)}, Tally: NewTally(steps)}
		if err := r.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "tally") {
			t.Errorf("%v", err)
		}
	}
}

// The queue hears of every item that it handed out, also of those that have no place in the first stage's channel yet.
func TestRunnerExtendsItemsBeforeTheFirstStage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemory(30)
		jobs := q.waiting
		gate := make(chan struct{})
		steps := []Step{step("hash", 2, func(context.Context, *Item) error { <-gate; return nil })}
		tally := NewTally(steps)
		res, drain := start(t, &Runner{Source: q, Ledger: q, Steps: steps, MaxInFlight: 30, Tally: tally})
		time.Sleep(time.Minute)
		for i, j := range jobs {
			if n := j.extended.Load(); n < 2 {
				t.Errorf("item %d: extended %d times in a minute", i, n)
			}
		}
		drain()
		synctest.Wait()
		close(gate)
		if err := <-res; err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(map[string][3]int64{"hash": {}}, counts(tally)); d != "" || tally.InFlight() != 0 {
			t.Errorf("after the drain: %s, %d in flight", d, tally.InFlight())
		}
		for i, j := range jobs {
			if j.acked.Load()+int64(len(j.released)) != 1 {
				t.Errorf("item %d: acknowledged %d times, released %v", i, j.acked.Load(), j.released)
			}
		}
	})
}

// Not in a bubble, for the race detector: reading while items run, fail and are tried again.
func TestTallyIsReadWhileItCounts(t *testing.T) {
	t.Parallel()
	c := stageCount{name: "sign"}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			f := &flight{}
			for i := range 500 {
				c.running.Add(1)
				var err error
				if i%3 == 0 {
					err = errors.New("503")
				}
				c.attempted(&Item{}, Classify(err), time.Now())
				if err != nil {
					c.waits(f, time.Now())
					c.tried(f)
				}
			}
		})
	}
	for range 500 {
		if s := c.read(); s.Retrying > 8 || s.Running > 8 {
			t.Errorf("%+v", s)
		}
	}
	wg.Wait()
	if s := c.read(); s.Running != 0 || s.Retrying != 0 {
		t.Errorf("%+v", s)
	}
}

// BenchmarkTally is what counting costs an item in each stage.
func BenchmarkTally(b *testing.B) {
	c := stageCount{name: "sign"}
	it := &Item{}
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			c.ready.Add(1)
			c.ready.Add(-1)
			c.running.Add(1)
			c.attempted(it, nil, time.Now())
		}
	})
}
