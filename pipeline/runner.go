package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// Runner takes the items of one campaign's segment from a Source through the segment's steps, joined by bounded
// channels, and hands their outcomes to a Ledger.
//
// The fields are set before Run and not changed afterwards.
type Runner struct {
	// Steps are the segment's steps, in order. At least one.
	Steps []Step
	// Next is the segment that finished items cross to; "" if this is the last one.
	Next   string
	Source Source
	Ledger Ledger
	// Observer hears what happens, for progress and metrics. May be nil.
	Observer Observer
	// Tally is kept up to date with where the items are. It is made with NewTally for the same steps and one call of Run.
	// May be nil.
	Tally *Tally
	// Suspects finds the items that kill workers. Nil: they are handed out for ever.
	Suspects Suspects
	// Suspicious says that every item may be one of them, since the queue died together with the last worker and may not
	// know how often it has handed an item out.
	Suspicious bool
	// Probation is how long the runner must have been at work before it tries suspects alone: a worker that dies sooner than
	// that has another reason. Default 10 s.
	Probation time.Duration
	// Log defaults to slog.Default().
	Log *slog.Logger

	// Share is the campaign's part of the worker's places. Nil: only MaxInFlight bounds it. The caller leaves the pool after Run.
	Share *Share
	// MaxInFlight bounds the items between the queue and the ledger. Defaults to the sum of the steps' concurrencies.
	MaxInFlight int
	// Heartbeat is how often the queue hears that the items in flight are still worked on. Defaults to 20 s; it MUST be
	// well below the queue's acknowledgement wait.
	Heartbeat time.Duration
	// DrainTimeout bounds how long items that are past the point of no return are carried on after Run's context ends.
	// Defaults to 60 s.
	DrainTimeout time.Duration
	// Retry is how transient errors are met. The zero value is DefaultRetry.
	Retry Retry
	// SettleBatch is how many outcomes are recorded at once at most. Defaults to 250.
	SettleBatch int
}

// pullBatch is how many items are asked for at once where the first step is narrow: a round trip for each would bound
// the rate. It is small, so that a worker does not hoard what others could be doing.
const pullBatch = 64

// flight is one item between the queue and the ledger.
type flight struct {
	d         Delivery
	ctx       context.Context // carries the item's span; ends with the runner's work
	span      trace.Span
	committed bool     // past a step that commits
	events    []string // events completed so far
	deaths    int      // of workers that had the item
	noted     bool     // among the suspects
	begins    bool     // the last attempt was the first in a trouble of the stage
}

// run is the state of one call of Run.
type run struct {
	*Runner
	log      *slog.Logger
	tally    *Tally
	began    time.Time
	work     context.Context // ends when nothing more may be done, after the drain
	draining <-chan struct{} // closed when the drain begins
	drain    func(error)     // begins it; the first error is Run's result

	permits chan struct{}
	left    chan struct{} // has an element when an item has left since somebody looked
	settle  chan Outcome
	inAir   sync.Map              // *flight → struct{}, for heartbeats
	held    sync.Map              // the id of each of their items → *flight
	fatal   atomic.Pointer[Error] // the first fatal error
}

// Flights is how many items are between the queue and the ledger at most.
func (r *Runner) Flights() int {
	n := r.MaxInFlight
	if n == 0 {
		for _, s := range r.Steps {
			n += s.Concurrency
		}
	}
	return n
}

// Run works until ctx ends or an error makes going on pointless. When ctx ends it drains: nothing more is taken from the
// queue, items that no step has committed go back to it, the others are carried to the end of the segment for at most
// DrainTimeout; then Run returns nil. It returns a fatal *Error if a stage raised one. It returns only after every
// goroutine that it started has ended.
func (r *Runner) Run(ctx context.Context) error {
	if len(r.Steps) == 0 {
		return errors.New("runner has no steps")
	}
	for _, s := range r.Steps {
		if s.Concurrency < 1 {
			return fmt.Errorf("step %s: concurrency %d, want at least 1", s, s.Concurrency)
		}
	}
	tally := r.Tally
	if tally == nil {
		tally = NewTally(r.Steps)
	}
	if err := tally.fits(r.Steps); err != nil {
		return err
	}
	maxInFlight := r.Flights()

	pull, stopPull := context.WithCancel(ctx)
	defer stopPull()
	work, stopWork := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stopWork(nil)
	x := &run{
		Runner:   r,
		began:    time.Now(),
		log:      r.Log,
		tally:    tally,
		work:     work,
		draining: pull.Done(),
		permits:  make(chan struct{}, maxInFlight),
		left:     make(chan struct{}, 1),
		settle:   make(chan Outcome, cmp.Or(r.SettleBatch, 250)),
	}
	if x.log == nil {
		x.log = slog.Default()
	}
	x.drain = func(err error) {
		if e := Classify(err); e != nil {
			x.fatal.CompareAndSwap(nil, e)
		}
		stopPull()
	}

	// The clock of the drain starts when pulling stops, whatever the reason.
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		select {
		case <-done:
			return
		case <-pull.Done():
		}
		t := time.NewTimer(cmp.Or(r.DrainTimeout, time.Minute))
		defer t.Stop()
		select {
		case <-done:
		case <-t.C:
			stopWork(errors.New("drain timeout"))
		}
	})
	wg.Go(func() { x.heartbeat(done) })

	in := make(chan *flight, r.Steps[0].Concurrency)
	var pullers sync.WaitGroup
	pullers.Go(func() { x.pull(pull, in) })
	head := in
	for i := range r.Steps {
		out := make(chan *flight)
		if i+1 < len(r.Steps) {
			out = make(chan *flight, r.Steps[i+1].Concurrency)
		}
		x.startStep(i, head, out)
		head = out
	}
	var enders sync.WaitGroup
	enders.Go(func() {
		for f := range head { // the last step's output
			x.finish(f)
		}
	})
	settled := x.startSettlers()

	pullers.Wait()
	enders.Wait() // every step has ended, each after its predecessor
	close(x.settle)
	settled.Wait()
	for _, step := range r.Steps {
		if c, ok := step.Stage.(io.Closer); ok {
			if err := c.Close(); err != nil {
				x.log.Warn("closing a stage", "stage", step.String(), "error", err)
			}
		}
	}
	close(done)
	wg.Wait()
	if e := x.fatal.Load(); e != nil {
		return e
	}
	return nil
}

// pull moves items from the queue into the first step, as many as there are permits.
func (x *run) pull(ctx context.Context, in chan<- *flight) {
	defer close(in)
	failures := 0
	most := 1
	for {
		// One permit is waited for; what else is free is taken along, unless nothing came the last time: places that wait
		// for items in vain are missing elsewhere.
		if !x.permit(ctx) {
			return
		}
		n := 1
		for n < most && x.tryPermit() {
			n++
		}
		got, err := x.Source.Next(ctx, n)
		for range n - len(got) {
			x.permitBack()
		}
		x.Share.wants(len(got) == n)
		most = 1
		if len(got) > 0 {
			most = max(x.Steps[0].Concurrency*2, pullBatch)
		}
		if err != nil {
			if ctx.Err() != nil {
				x.release(got)
				return
			}
			// The queue's own outage: wait and ask again, for as long as it takes.
			failures++
			delay := min(x.Retry.withDefault().delay(failures), probeMax)
			x.log.Warn("cannot take items from the queue", "error", err, "next_try_in", delay)
			if !sleep(ctx, delay) {
				return
			}
			continue
		}
		failures = 0
		// All are boarded before the first one goes on: the queue must hear of those that wait, or it hands them out again.
		fs := make([]*flight, 0, len(got))
		for _, d := range got {
			if f := x.board(d); f != nil {
				fs = append(fs, f)
			}
		}
		fs, suspects := x.sift(ctx, fs)
		ready := &x.tally.stages[0].ready
		ready.Add(int64(len(fs)))
		for i, f := range fs {
			select {
			case in <- f:
				continue
			case <-ctx.Done():
			}
			ready.Add(int64(i - len(fs)))
			for _, f := range slices.Concat(fs[i:], suspects) {
				x.land(f, 0)
			}
			return
		}
		if len(suspects) > 0 && !x.tryAlone(ctx, suspects, in) {
			return
		}
	}
}

// permit waits for a permit to have one more item in flight, and reports whether it has one.
func (x *run) permit(ctx context.Context) bool {
	select {
	case x.permits <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	if !x.Share.take(ctx) {
		<-x.permits
		return false
	}
	return true
}

// tryPermit takes a permit if there is one.
func (x *run) tryPermit() bool {
	select {
	case x.permits <- struct{}{}:
	default:
		return false
	}
	if !x.Share.try() {
		<-x.permits
		return false
	}
	return true
}

func (x *run) permitBack() {
	x.Share.give()
	<-x.permits
}

// release gives deliveries that never took off back to the queue.
func (x *run) release(ds []Delivery) {
	for _, d := range ds {
		_ = d.Job.Release(0) // a lost release only delays the redelivery
		x.permitBack()
	}
}

// board puts a delivery in flight and starts its span. It gives nil for an item that is in flight already: a queue whose
// clock jumps forwards takes all that it has handed out for lost. The first delivery's heartbeats and acknowledgement are
// for both; to work on the second would sign the package twice.
func (x *run) board(d Delivery) *flight {
	f := &flight{d: d}
	if _, twice := x.held.LoadOrStore(d.Item.ID, f); twice {
		x.log.Info("an item was handed out again while it is worked on", "item", d.Item.ID, "package", d.Item.Filename, "attempt", d.Attempt)
		x.permitBack()
		return nil
	}
	parent := x.work
	if d.Context != nil {
		parent = trace.ContextWithRemoteSpanContext(x.work, trace.SpanContextFromContext(d.Context))
	}
	ctx, span := tracer().Start(parent, "process "+x.Steps[0].String(), trace.WithSpanKind(trace.SpanKindConsumer),
		trace.WithAttributes(
			attribute.String("messaging.system", "nats"),
			attribute.String("messaging.operation.name", "process"),
			attribute.String("messaging.message.id", d.Item.ID),
			attribute.String("hallmark.campaign", d.Item.Campaign),
			attribute.String("hallmark.package", d.Item.Filename),
			attribute.Int("hallmark.attempt", d.Attempt)))
	d.Context = ctx
	f.d, f.ctx, f.span = d, ctx, span
	x.inAir.Store(f, struct{}{})
	x.tally.inFlight.Add(1)
	return f
}

// land gives an item back to the queue, to be handed out again after the delay.
func (x *run) land(f *flight, delay time.Duration) {
	x.clear(f) // before another worker can have it
	x.held.CompareAndDelete(f.d.Item.ID, f)
	if err := f.d.Job.Release(delay); err != nil {
		x.log.DebugContext(f.ctx, "releasing an item", "item", f.d.Item.ID, "error", err)
	}
	f.span.SetAttributes(attribute.String("hallmark.outcome", "released"))
	x.ended(f)
}

func (x *run) ended(f *flight) {
	x.clear(f)
	f.span.End()
	x.inAir.Delete(f)
	x.held.CompareAndDelete(f.d.Item.ID, f)
	x.tally.inFlight.Add(-1)
	select {
	case x.left <- struct{}{}:
	default:
	}
	x.permitBack()
}

func (x *run) isDraining() bool {
	select {
	case <-x.draining:
		return true
	default:
		return false
	}
}

func tracer() trace.Tracer { return otel.Tracer("github.com/hallmark-attest/hallmark/pipeline") }

// sleep waits for d and reports whether it did; false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
