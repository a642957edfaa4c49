package pipeline

import (
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// startStep starts the goroutines of step i. They end when in is closed and drained; then out is closed.
func (x *run) startStep(i int, in <-chan *flight, out chan<- *flight) {
	s, count := x.Steps[i], &x.tally.stages[i]
	b := newBreaker(x.Retry.withDefault(), count.pause)
	var wg sync.WaitGroup
	for range s.Concurrency {
		wg.Go(func() {
			for f := range in {
				count.ready.Add(-1)
				if x.isDraining() && !f.committed {
					x.land(f, 0)
					continue
				}
				if x.do(s, count, b, f) {
					if i+1 < len(x.Steps) {
						x.tally.stages[i+1].ready.Add(1)
					}
					out <- f // always drained: by the next step or by Run
				}
			}
		})
	}
	go func() { // ends with the step's goroutines; Run waits for it through out
		wg.Wait()
		close(out)
	}()
}

// do runs one step on one item, with retries. It reports whether the item goes on; if not, it has been landed or its
// outcome is on the way.
func (x *run) do(s Step, count *stageCount, b *breaker, f *flight) bool {
	retry := x.Retry.withDefault()
	for attempt := 1; ; attempt++ {
		stop := x.draining
		if f.committed {
			stop = nil // carry on until the work ends
		}
		probe, ok := b.enter(func(until time.Time) { count.waits(f, until) }, stop, x.work.Done())
		count.tried(f)
		if !ok {
			x.land(f, 0)
			return false
		}
		err := x.attempt(s, count, f)
		x.judge(s, b, probe, err)
		if err == nil {
			f.committed = f.committed || s.Commits
			if s.Completes != "" {
				f.events = append(f.events, s.Completes)
			}
			return true
		}
		switch err.Kind {
		case KindSkip:
			x.end(f, OutcomeSkipped, s, err)
			return false
		case KindPermanent:
			x.end(f, OutcomeFailed, s, err)
			return false
		case KindFatal:
			x.log.ErrorContext(f.ctx, "cannot go on", "stage", s.String(), "cause", err.Cause, "error", err.Err)
			x.drain(err)
			x.land(f, 0)
			return false
		}
		delay := retry.delay(attempt) // an upstream's own wish is the breaker's business: it holds for all
		if err.Alone {
			delay = max(delay, min(err.RetryAfter, pauseMax))
		}
		// An item that nothing binds to this worker gives its place to others after a few attempts. One that has left a
		// log entry behind stays: starting over would leave a second one.
		if attempt >= retry.Attempts && !f.committed {
			x.land(f, retry.delay(attempt+f.d.Attempt))
			return false
		}
		if x.Observer != nil {
			x.Observer.Retrying(f.ctx, s.String(), f.d.Item, err, delay)
		}
		level := slog.LevelInfo
		if f.begins {
			level = slog.LevelWarn // the others in the same trouble would say the same
		}
		x.log.Log(f.ctx, level, "trying again", "stage", s.String(), "package", f.d.Item.Filename, "cause", err.Cause,
			"error", err.Err, "attempt", attempt, "next_try_in", delay)
		count.waits(f, time.Now().Add(delay))
		t := time.NewTimer(delay)
		select {
		case <-t.C:
			count.tried(f)
			continue
		case <-stop:
		case <-x.work.Done():
		}
		t.Stop()
		count.tried(f)
		x.land(f, 0)
		return false
	}
}

// judge lets the stage's breaker know how an attempt ended.
func (x *run) judge(s Step, b *breaker, probe bool, err *Error) {
	opened, closed := b.report(probe, err)
	switch {
	case opened:
		x.log.Warn("a stage is paused: what it depends on is out", "stage", s.String(), "cause", err.Cause, "error", err.Err)
	case closed:
		x.log.Info("a stage goes on", "stage", s.String())
	}
}

// attempt runs the step once, in a span of its own, and turns a panic into a permanent error: it would come again.
func (x *run) attempt(s Step, count *stageCount, f *flight) (e *Error) {
	ctx, span := tracer().Start(f.ctx, s.String(), trace.WithAttributes(attribute.String("hallmark.package", f.d.Item.Filename)))
	count.running.Add(1)
	start := time.Now()
	defer func() {
		if p := recover(); p != nil {
			x.log.ErrorContext(ctx, "a stage panicked", "stage", s.String(), "package", f.d.Item.Filename,
				"panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			e = &Error{Kind: KindPermanent, Cause: "internal.panic", Err: fmt.Errorf("stage %s panicked: %v", s, p),
				Hint: "this is a defect in Hallmark: please report it with the log"}
		}
		if e != nil {
			span.SetAttributes(attribute.String("error.type", e.Cause))
			if e.Kind != KindSkip {
				span.SetStatus(codes.Error, e.Cause)
			}
		}
		span.End()
		end := time.Now()
		f.begins = count.attempted(f.d.Item, e, end)
		if x.Observer != nil {
			x.Observer.StageDone(ctx, s.String(), f.d.Item, end.Sub(start), e)
		}
	}()
	return Classify(s.Run(ctx, f.d.Item))
}

// finish hands on an item that is through all steps.
func (x *run) finish(f *flight) {
	if x.Next != "" {
		x.settle <- x.outcome(f, OutcomeCrossed)
		return
	}
	x.settle <- x.outcome(f, OutcomePublished)
}

// end hands on an item that a step ended early.
func (x *run) end(f *flight, kind OutcomeKind, s Step, err *Error) {
	o := x.outcome(f, kind)
	o.Failure = x.failure(f, s.String(), err)
	x.settle <- o
}

// failure is an error in the ledger's words.
func (x *run) failure(f *flight, stage string, err *Error) *Failure {
	out := &Failure{Stage: stage, Cause: err.Cause, Message: err.Error(), Hint: err.Hint, Attempts: f.d.Attempt, At: time.Now().UTC()}
	if sc := f.span.SpanContext(); sc.HasTraceID() {
		out.TraceID = sc.TraceID().String()
	}
	return out
}

func (x *run) outcome(f *flight, kind OutcomeKind) Outcome {
	return Outcome{Delivery: f.d, Kind: kind, Events: f.events, Next: x.Next, flight: f}
}
