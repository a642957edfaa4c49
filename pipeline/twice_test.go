package pipeline

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// twice hands each item out, and all of them again a while later, as a server does whose clock jumps forwards.
type twice struct {
	*memory
	again atomic.Bool
}

func (q *twice) Next(ctx context.Context, limit int) ([]Delivery, error) {
	if q.again.CompareAndSwap(true, false) {
		q.mu.Lock()
		for _, j := range q.handed {
			q.waiting = append(q.waiting, &memoryJob{q: q.memory, item: j.item, attempts: j.attempts})
		}
		q.mu.Unlock()
	}
	return q.memory.Next(ctx, limit)
}

// TestHandedOutTwice: what is worked on is not begun again, what was given back is.
func TestHandedOutTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &twice{memory: newMemory(10)}
		var runs atomic.Int64
		signs := step("sign", 40, func(context.Context, *Item) error {
			runs.Add(1)
			time.Sleep(10 * time.Second)
			return nil
		})
		signs.Commits = true
		res, drain := start(t, &Runner{Source: q, Ledger: q, MaxInFlight: 40, Steps: []Step{signs}})
		time.Sleep(2 * time.Second) // all are in the stage
		q.again.Store(true)
		time.Sleep(5 * time.Second)
		if n := runs.Load(); n != 10 {
			t.Errorf("%d runs of 10 items while they were worked on", n)
		}
		time.Sleep(time.Minute)
		if got := q.kinds(); got[OutcomePublished] != 10 {
			t.Errorf("outcomes %v", got)
		}
		// An item that is handed out when it has ended is another attempt, as after a lost acknowledgement; every place is free for it.
		q.again.Store(true)
		time.Sleep(time.Minute)
		if n := runs.Load(); n <= 10 {
			t.Error("an item that had ended is not taken again")
		}
		drain()
		if err := <-res; err != nil {
			t.Fatal(err)
		}
	})
}

// TestGivenBackComesAgain: an item that the run gave back to the queue is taken when it comes again, however soon.
func TestGivenBackComesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &twice{memory: newMemory(3)}
		var runs atomic.Int64
		fails := step("hash", 3, func(context.Context, *Item) error {
			if runs.Add(1) <= 3 {
				return Alone("source.io", 0, context.DeadlineExceeded)
			}
			return nil
		})
		res, drain := start(t, &Runner{Source: q, Ledger: q, Retry: Retry{Attempts: 1}, Steps: []Step{fails}})
		time.Sleep(time.Second)
		q.again.Store(true)
		time.Sleep(time.Minute)
		drain()
		if err := <-res; err != nil {
			t.Fatal(err)
		}
		if got := q.kinds(); got[OutcomePublished] != 3 {
			t.Errorf("outcomes %v after %d runs", got, runs.Load())
		}
	})
}
