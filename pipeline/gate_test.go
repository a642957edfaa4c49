package pipeline

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// tap is a source that hands out one item at a time, after a while, and gives none when its context ends first.
type tap struct{ given, cut atomic.Int64 }

func (s *tap) Next(ctx context.Context, _ int) ([]Delivery, error) {
	select {
	case <-time.After(time.Second):
		s.given.Add(1)
		return make([]Delivery, 1), nil
	case <-ctx.Done():
		s.cut.Add(1)
		return nil, ctx.Err()
	}
}

func TestGateLetsNothingThroughWhileItIsShut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &tap{}
		g := NewGate(StatePaused)
		src := g.Source(s)
		ctx, cancel := context.WithCancel(t.Context())
		var got atomic.Int64
		ended := make(chan error)
		go func() {
			for {
				ds, err := src.Next(ctx, 1)
				if err != nil {
					ended <- err
					return
				}
				got.Add(int64(len(ds)))
			}
		}()
		step := func(what string, s State, d time.Duration, want int64) {
			t.Helper()
			g.Become(s)
			time.Sleep(d)
			synctest.Wait()
			if n := got.Swap(0); n != want {
				t.Errorf("%s: %d items, want %d", what, n, want)
			}
		}
		step("paused from the beginning", StatePaused, time.Hour, 0)
		step("open", StateOpen, 3500*time.Millisecond, 3)
		step("paused in the middle of a wait", StatePaused, time.Hour, 0)
		if s.cut.Load() != 1 {
			t.Error("the source is still being asked")
		}
		step("open again", StateOpen, 2*time.Second+time.Millisecond, 2)
		step("aborting", StateAborting, time.Hour, 0)
		step("a state of another version", "resting", time.Hour, 0)
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestGateEndsTheWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			name     string
			state    State
			inFlight func(since time.Duration) int64
			after    time.Duration // at most; 0: never
		}{
			{"paused", StatePaused, func(time.Duration) int64 { return 0 }, 0},
			{"nothing in flight", StateAborting, func(time.Duration) int64 { return 0 }, 50 * time.Millisecond},
			{"until it has landed", StateAborting, func(d time.Duration) int64 { return int64((20*time.Second - d) / time.Second) }, 20 * time.Second},
			{"out of patience", StateAborting, func(time.Duration) int64 { return 1 }, time.Minute},
			{"closed", StateClosed, func(time.Duration) int64 { return 0 }, 50 * time.Millisecond},
		} {
			g := NewGate(StateOpen)
			var start time.Time
			ctx, stop := g.Context(t.Context(), func() int64 { return tt.inFlight(time.Since(start)) }, time.Minute)
			time.Sleep(time.Hour)
			if ctx.Err() != nil {
				t.Errorf("%s: ended while it was open", tt.name)
			}
			start = time.Now()
			g.Become(tt.state)
			select {
			case <-ctx.Done():
				if d := time.Since(start); tt.after == 0 || d > tt.after || d < tt.after-2*time.Second {
					t.Errorf("%s: ended after %v, want %v", tt.name, d, tt.after)
				}
			case <-time.After(time.Hour):
				if tt.after != 0 {
					t.Errorf("%s: did not end", tt.name)
				}
			}
			stop()
		}
	})
}

func TestGateWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(StatePaused)
		go func() { time.Sleep(time.Second); g.Become(StateOpen) }()
		if s := g.Wait(t.Context(), StatePaused); s != StateOpen {
			t.Error(s)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if s := g.Wait(ctx, StateOpen); s != StateOpen {
			t.Error(s)
		}
	})
}
