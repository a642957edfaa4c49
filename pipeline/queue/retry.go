package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"

	"golang.org/x/sync/errgroup"

	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// removals is how many entries of the quarantine are removed at once.
const removals = 64

// Retry gives items of the quarantine another chance, from the given segment on, which should be the campaign's first:
// every stage finds what is there already. It returns how many. A malformed entry cannot be retried and is an error. The
// campaign MUST take items; unlike for Enqueue, it may have been reopened.
//
// The new jobs are stored first and the entries removed then, each by its own place in the stream: a crash in between loses
// nothing, and retrying again completes it. The first error ends it; the result counts what is done by then.
func (q *Queue) Retry(ctx context.Context, c *pipeline.Campaign, segment string, entries iter.Seq2[Entry, error]) (int, error) {
	fail := func(n int, err error) (int, error) {
		return n, fmt.Errorf("retrying items of campaign %s: %w", c.Name, err)
	}
	if err := checkSegment(segment); err != nil {
		return 0, err
	}
	if _, err := q.takesItems(ctx, c.Name); err != nil {
		return fail(0, err)
	}
	r := retrier{q: q, campaign: c.Name, segment: segment, tracer: tracer()}
	for e, err := range entries {
		if err == nil {
			err = r.add(ctx, e)
		}
		if err != nil {
			err = errors.Join(err, r.flush(ctx))
			return fail(r.done, err)
		}
	}
	if err := r.flush(ctx); err != nil {
		return fail(r.done, err)
	}
	// Closed meanwhile, it would leave them waiting with nobody to take them.
	if _, err := q.takesItems(ctx, c.Name); err != nil {
		return fail(r.done, err)
	}
	return r.done, nil
}

// takesItems returns the campaign as it is now, or why it takes no items.
func (q *Queue) takesItems(ctx context.Context, campaign string) (*pipeline.Campaign, error) {
	c, _, err := q.Campaigns().Get(ctx, campaign)
	switch {
	case err != nil:
		return nil, err
	case c.State == pipeline.StateClosed:
		return nil, ErrClosed
	case !c.State.TakesItems():
		return nil, fmt.Errorf("%w: it is %s", ErrEnding, c.State)
	}
	return c, nil
}

type retrier struct {
	q                 *Queue
	campaign, segment string
	tracer            trace.Tracer
	msgs              []*nats.Msg
	spans             []trace.Span
	sequences         []uint64
	done              int
}

func (r *retrier) add(ctx context.Context, e Entry) error {
	if e.Malformed() || e.Item.Campaign != r.campaign {
		return fmt.Errorf("entry %d of the quarantine holds no item of campaign %s", e.Sequence, r.campaign)
	}
	it := *e.Item
	it.Retry++
	it.Tried = e.Failure.Attempts
	data, err := json.Marshal(&it)
	if err != nil {
		return fmt.Errorf("writing item %s: %w", it.ID, err)
	}
	m := nats.NewMsg(jobSubject(r.segment, r.campaign, it.ID, it.Retry))
	m.Data = data
	// The new trace is linked to the one that ended in quarantine.
	if e.Context != nil {
		ctx = trace.ContextWithRemoteSpanContext(ctx, trace.SpanContextFromContext(e.Context))
	}
	sctx, span := startSend(ctx, r.tracer, r.campaign, it.ID)
	inject(sctx, m.Header)
	r.msgs, r.spans, r.sequences = append(r.msgs, m), append(r.spans, span), append(r.sequences, e.Sequence)
	if len(r.msgs) == enqueueBatch {
		return r.flush(ctx)
	}
	return nil
}

func (r *retrier) flush(ctx context.Context) error {
	if len(r.msgs) == 0 {
		return nil
	}
	var errs []error
	var left []uint64
	for i, err := range r.q.publish(ctx, r.msgs) {
		if err == nil || errors.Is(err, errAlready) { // already: a retry that was interrupted
			left = append(left, r.sequences[i])
		} else {
			r.spans[i].SetStatus(codes.Error, "not stored")
			errs = append(errs, fmt.Errorf("storing %s: %w", r.msgs[i].Subject, err))
		}
		r.spans[i].End()
	}
	r.msgs, r.spans, r.sequences = r.msgs[:0], r.spans[:0], r.sequences[:0]
	if err := r.q.removeEntries(ctx, left); err != nil {
		return errors.Join(append(errs, err)...)
	}
	r.done += len(left)
	return errors.Join(errs...)
}

// removeEntries removes entries of the quarantine, many at once.
func (q *Queue) removeEntries(ctx context.Context, sequences []uint64) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(removals)
	for _, n := range sequences {
		g.Go(func() error { return q.remove(ctx, StreamQuarantine, n) })
	}
	return g.Wait()
}

// Requeue is Retry for one entry.
func (q *Queue) Requeue(ctx context.Context, c *pipeline.Campaign, segment string, e Entry) error {
	_, err := q.Retry(ctx, c, segment, func(yield func(Entry, error) bool) { yield(e, nil) })
	return err
}
