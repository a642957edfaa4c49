package queue

import (
	"testing"
	"time"
)

// A worker that stood still for longer than the queue waits for a sign of life leaves the job to whoever has it now.
func TestALapsedHoldIsNotAcknowledged(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	c := campaign("lapsed")
	i.create(t, c)
	i.enqueue(t, c, items(2), EnqueueResult{Queued: 2})
	s := i.source(t, c, "hash", SourceOptions{AckWait: time.Second, Wait: time.Second})
	ds := take(t, s, 2)
	slow, quick := ds[0].Job.(job), ds[1].Job.(job)
	slow.hold.last = time.Now().Add(-2 * time.Second) // as after a stop
	if err := slow.Extend(); err != nil {             // a sign of life that comes too late
		t.Fatal(err)
	}
	for _, j := range []job{slow, quick} {
		if err := j.ackAndWait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	again := take(t, s, 1)
	if again[0].Item.ID != ds[0].Item.ID || again[0].Attempt != 2 {
		t.Errorf("%s comes again, attempt %d", again[0].Item.ID, again[0].Attempt)
	}
	if err := again[0].Job.(job).ackAndWait(t.Context()); err != nil {
		t.Fatal(err)
	}
	i.quietSegment(t, c.Name)
}

// quietSegment waits until no job of the campaign is out.
func (i *instance) quietSegment(t *testing.T, campaign string) {
	t.Helper()
	for range 1000 {
		n, err := i.segment(t.Context(), campaign, "hash")
		if err != nil {
			t.Fatal(err)
		}
		if n.Pending+n.InFlight == 0 {
			return
		}
		<-time.After(5 * time.Millisecond)
	}
	t.Error("a job is still out")
}
