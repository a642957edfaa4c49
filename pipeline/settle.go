package pipeline

import (
	"cmp"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
)

// settlers is how many batches of outcomes are recorded at once: enough to keep the disk busy while a batch fills.
// linger is how long a batch waits for company: one fsync for many items is worth far more than it costs in latency.
const (
	settlers = 2
	linger   = 10 * time.Millisecond
)

// startSettlers starts what records outcomes in batches. They end when settle is closed.
func (x *run) startSettlers() *sync.WaitGroup {
	var wg sync.WaitGroup
	size := cmp.Or(x.SettleBatch, 250)
	for range settlers {
		wg.Go(func() {
			for first := range x.settle {
				batch := append(make([]Outcome, 0, size), first)
				full := time.NewTimer(linger)
			fill:
				for len(batch) < size {
					select {
					case o, ok := <-x.settle:
						if !ok {
							break fill
						}
						batch = append(batch, o)
					case <-full.C:
						break fill
					}
				}
				full.Stop()
				x.record(batch)
			}
		})
	}
	return &wg
}

func (x *run) record(batch []Outcome) {
	err := x.Ledger.Settle(x.work, batch)
	if err != nil {
		// The ledger has released what it could not record; the effects are idempotent and the items come again.
		x.log.Warn("cannot record outcomes; the items will be handed out again", "items", len(batch), "error", err)
	}
	for _, o := range batch {
		f := o.flight
		f.span.SetAttributes(attribute.String("hallmark.outcome", string(o.Kind)))
		if o.Kind == OutcomeFailed {
			f.span.SetStatus(codes.Error, o.Failure.Cause)
		}
		if err == nil && x.Observer != nil {
			x.Observer.Settled(o)
		}
		x.ended(f)
	}
}

// heartbeat tells the queue that the items in flight are being worked on.
func (x *run) heartbeat(done <-chan struct{}) {
	t := time.NewTicker(cmp.Or(x.Heartbeat, 20*time.Second))
	defer t.Stop()
	for {
		select {
		case <-done:
			return
		case <-t.C:
		}
		x.inAir.Range(func(k, _ any) bool {
			if err := k.(*flight).d.Job.Extend(); err != nil {
				x.log.Debug("extending an item", "error", err)
			}
			return true
		})
	}
}
