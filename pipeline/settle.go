package pipeline

import (
	"cmp"
	"errors"
	"fmt"
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

// record has the outcomes recorded. As long as they cannot be, as in an outage of the queue, it tries again for as long as
// work goes on: what has been done, and signed, need not be done again. An outcome that can never be recorded sets its
// item aside.
func (x *run) record(batch []Outcome) {
	retry := x.Retry.withDefault()
	retry.Max = min(retry.Max, probeMax)
	for attempt := 1; len(batch) > 0; attempt++ {
		err := x.Ledger.Settle(x.work, batch)
		unsettled, known := errors.AsType[*UnsettledError](err)
		if err != nil && !known {
			unsettled = &UnsettledError{Outcomes: batch, Err: err}
		}
		if err == nil {
			unsettled = &UnsettledError{}
		}
		left := map[*flight]bool{}
		for _, o := range unsettled.Outcomes {
			left[o.flight] = true
		}
		for _, r := range unsettled.Refused {
			left[r.Outcome.flight] = true
		}
		for _, o := range batch {
			if !left[o.flight] {
				x.settled(o)
			}
		}
		batch = unsettled.Outcomes
		for _, r := range unsettled.Refused {
			o := r.Outcome
			x.log.ErrorContext(o.flight.ctx, "an outcome cannot be recorded, now or later", "item", o.Delivery.Item.ID, "package", o.Delivery.Item.Filename, "outcome", o.Kind, "error", r.Err)
			if o.Kind == OutcomeFailed {
				x.land(o.flight, unsettledDelay) // it is kept in the queue, and in the log
				continue
			}
			batch = append(batch, Outcome{Delivery: o.Delivery, Kind: OutcomeFailed, flight: o.flight,
				Failure: x.failure(o.flight, "ledger", &Error{Cause: CauseRefused, Err: fmt.Errorf("recording that the item is %s: %w", o.Kind, r.Err),
					Hint: "this is a defect in Hallmark: please report it with the log"})})
		}
		if len(unsettled.Outcomes) == 0 {
			continue
		}
		delay := retry.delay(attempt)
		x.log.Warn("cannot record outcomes; trying again", "items", len(unsettled.Outcomes), "error", err, "next_try_in", delay)
		if !sleep(x.work, delay) {
			for _, o := range batch {
				x.land(o.flight, unsettledDelay)
			}
			return
		}
	}
}

// CauseRefused is the cause of an item whose outcome the ledger can never take.
const CauseRefused = "ledger.refused"

// unsettledDelay is how long an item waits in the queue whose outcome could not be recorded.
const unsettledDelay = 2 * time.Second

// settled ends the flight of an item whose outcome is recorded.
func (x *run) settled(o Outcome) {
	f := o.flight
	f.span.SetAttributes(attribute.String("hallmark.outcome", string(o.Kind)))
	if o.Kind == OutcomeFailed {
		f.span.SetStatus(codes.Error, o.Failure.Cause)
	}
	if x.Observer != nil {
		x.Observer.Settled(o)
	}
	x.ended(f)
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
