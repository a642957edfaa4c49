package pipeline

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// upstream is what a stage depends on: it is out at times, and remembers who asked when.
type upstream struct {
	mu    sync.Mutex
	began time.Time
	out   func(since time.Duration) error
	asked []time.Duration
}

func (u *upstream) ask() error {
	since := time.Since(u.began)
	u.mu.Lock()
	u.asked = append(u.asked, since)
	u.mu.Unlock()
	time.Sleep(20 * time.Millisecond)
	return u.out(since)
}

func (u *upstream) between(from, to time.Duration) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := 0
	for _, at := range u.asked {
		if at >= from && at < to {
			n++
		}
	}
	return n
}

// An outage of hours costs its upstream a request every few seconds, sets nothing aside, gives nothing back, and ends
// within seconds, without a stampede.
func TestAnOutageHoldsTheStageBack(t *testing.T) {
	for _, commits := range []bool{false, true} {
		t.Run(fmt.Sprintf("committed=%v", commits), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const from, to = 100 * time.Millisecond, time.Hour
				u := &upstream{began: time.Now(), out: func(d time.Duration) error {
					if d >= from && d < to {
						return Transient("rekor.unavailable", 0, errors.New("Rekor answers 503"))
					}
					return nil
				}}
				q := newMemory(5000)
				first := step("hash", 4, ok)
				first.Commits = commits
				res, drain := start(t, &Runner{Source: q, Ledger: q, Steps: []Step{first, step("sign", 256, func(context.Context, *Item) error { return u.ask() })}})
				time.Sleep(to)
				done := len(q.settled())
				if n := u.between(from+10*time.Second, to); n > int((to-from)/(2*time.Second)) {
					t.Errorf("%d requests in an outage of %v", n, to-from)
				}
				time.Sleep(200 * time.Millisecond)
				if n, steady := u.between(to, to+200*time.Millisecond), 256*10; n > steady/4 { // a request takes 20 ms
					t.Errorf("%d requests within 0.2 s of the upstream's return", n)
				}
				time.Sleep(15 * time.Second)
				if n := len(q.settled()); n == done {
					t.Error("nothing was done within 15 s of the upstream's return")
				}
				time.Sleep(time.Minute)
				drain()
				if err := <-res; err != nil {
					t.Fatal(err)
				}
				released := 0
				for _, o := range q.settled() {
					if o.Kind != OutcomePublished {
						t.Fatalf("an outage ended an item as %s", o.Kind)
					}
				}
				for _, j := range q.handed {
					released += len(j.released)
				}
				if n := len(q.settled()); n+released != 5000 {
					t.Errorf("%d done, %d given back, of 5000", n, released)
				}
				if commits && released > 0 {
					t.Errorf("%d committed items were given back", released)
				}
			})
		})
	}
}

// A time that an upstream names holds for everybody, though others get through at the same moment.
func TestRetryAfterHoldsForTheStage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var refused atomic.Bool
		u := &upstream{began: time.Now(), out: func(d time.Duration) error {
			if d > time.Second && refused.CompareAndSwap(false, true) {
				return Transient("rekor.limited", time.Minute, errors.New("429"))
			}
			return nil
		}}
		q := newMemory(30000)
		res, drain := start(t, &Runner{Source: q, Ledger: q, Steps: []Step{step("sign", 64, func(context.Context, *Item) error { return u.ask() })}})
		time.Sleep(2 * time.Minute)
		if n := u.between(1100*time.Millisecond, 61*time.Second); n > 0 {
			t.Errorf("%d requests in the minute that the upstream asked for", n)
		}
		if n := u.between(61*time.Second, 72*time.Second); n < 64 {
			t.Errorf("%d requests after it", n)
		}
		drain()
		<-res
	})
}

// What is wrong with single items holds nobody else back, however many they are.
func TestErrorsOfItemsAloneAreNoOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemory(1000)
		var good atomic.Int64
		tally := (*Tally)(nil)
		steps := []Step{step("upload", 40, func(_ context.Context, it *Item) error {
			time.Sleep(time.Millisecond)
			if it.ID < "i0030" {
				return Alone("store.contended", 0, errors.New("somebody was first"))
			}
			good.Add(1)
			return nil
		})}
		tally = NewTally(steps)
		res, drain := start(t, &Runner{Source: q, Ledger: q, Steps: steps, Tally: tally})
		time.Sleep(5 * time.Second)
		if good.Load() != 970 {
			t.Errorf("%d of 970 items done beside 30 that are contended", good.Load())
		}
		if s := tally.Stages()[0]; s.Trouble == nil || s.Trouble.Paused {
			t.Errorf("%+v", s.Trouble)
		}
		drain()
		<-res
	})
}

// A probe that decides without the upstream leaves the question open, and the next one goes at once.
func TestAProbeThatTellsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(DefaultRetry, func(bool, time.Time) {})
		enter := func() bool {
			probe, ok := b.enter(func(time.Time) {})
			if !ok {
				t.Fatal("no entry")
			}
			return probe
		}
		for range breakAfter {
			if enter() {
				t.Fatal("a probe while all is well")
			}
			b.report(false, Classify(errors.New("reset")))
		}
		began := time.Now()
		if !enter() || time.Since(began) < DefaultRetry.Base/2 {
			t.Fatalf("no probe, or one after %v", time.Since(began))
		}
		b.report(true, Classify(Permanent("package.truncated", "", errors.New("short"))))
		began = time.Now()
		if !enter() || time.Since(began) != 0 {
			t.Errorf("next probe after %v", time.Since(began))
		}
		if _, closed := b.report(true, nil); !closed {
			t.Error("a probe that went well did not close the breaker")
		}
		if enter() {
			t.Error("a probe while all is well again")
		}
	})
}
