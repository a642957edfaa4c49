package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// EnqueueResult says what became of the items: Queued now, or Already there from an earlier time.
type EnqueueResult struct {
	Queued, Already int
}

// patience is how long enqueueing waits for a server that does not answer; enqueueWait is how often it asks again.
const (
	patience    = time.Minute
	enqueueWait = 2 * time.Second
)

// enqueueBatch is how many items are stored with one fsync.
const enqueueBatch = 500

// Items makes a sequence for Enqueue of items that are there already.
func Items(items ...*pipeline.Item) iter.Seq2[*pipeline.Item, error] {
	return func(yield func(*pipeline.Item, error) bool) {
		for _, it := range items {
			if !yield(it, nil) {
				return
			}
		}
	}
}

// Enqueue puts the items in the queue for the segment. An item that is there already, done or not, stays as it is. The
// first error, of the sequence or of the queue, ends it; the result counts what is stored by then, and enqueueing the
// same again completes it. Where the queue has no room, or an embedded server is Stuck, it waits until ctx ends, and
// the log says so; while the server does not answer it waits for patience. The campaign MUST exist and be open or paused, from the beginning to the end
// (ErrNotFound, ErrClosed, ErrEnding; ErrFrozen if it was reopened). An item's Campaign may be empty; it is filled in.
//
// Each item begins a trace of its own, which travels with it.
func (q *Queue) Enqueue(ctx context.Context, c *pipeline.Campaign, segment string, items iter.Seq2[*pipeline.Item, error]) (EnqueueResult, error) {
	var res EnqueueResult
	if err := checkSegment(segment); err != nil {
		return res, err
	}
	open := func() error {
		now, err := q.takesItems(ctx, c.Name)
		if err == nil && now.Frozen > 0 {
			err = ErrFrozen
		}
		if err != nil {
			return fmt.Errorf("enqueueing in campaign %s: %w", c.Name, err)
		}
		return nil
	}
	err := open()
	for began := time.Now(); mayPassLater(err) && ctx.Err() == nil && time.Since(began) < patience; err = open() {
		select {
		case <-time.After(enqueueWait):
		case <-ctx.Done():
		}
	}
	if err != nil {
		return res, err
	}
	e := enqueuer{q: q, tracer: tracer(), res: &res}
	for it, err := range items {
		if err == nil {
			err = e.add(ctx, c.Name, segment, it)
		}
		if err != nil {
			return res, errors.Join(fmt.Errorf("enqueueing in campaign %s: %w", c.Name, err), e.flush(ctx))
		}
	}
	if err := e.flush(ctx); err != nil {
		return res, fmt.Errorf("enqueueing in campaign %s: %w", c.Name, err)
	}
	return res, open() // whoever ended it meanwhile may not have seen the last of these
}

type enqueuer struct {
	q      *Queue
	tracer trace.Tracer
	res    *EnqueueResult
	msgs   []*nats.Msg
	spans  []trace.Span
	// known: the last batch held nothing new. The next one probably does not either (a campaign that is submitted
	// again), so it is not tried as a batch first, which the server would refuse.
	known bool
}

func (e *enqueuer) add(ctx context.Context, campaign, segment string, it *pipeline.Item) error {
	if it.ID == "" {
		return fmt.Errorf("item %s has no id", it.Filename)
	}
	if it.Campaign == "" {
		it.Campaign = campaign
	}
	if it.Campaign != campaign {
		return fmt.Errorf("item %s is of campaign %s", it.ID, it.Campaign)
	}
	data, err := json.Marshal(it)
	if err != nil {
		return fmt.Errorf("writing item %s: %w", it.ID, err)
	}
	m := nats.NewMsg(jobSubject(segment, campaign, it.ID, it.Retry))
	m.Data = data
	sctx, span := startSend(ctx, e.tracer, campaign, it.ID)
	inject(sctx, m.Header)
	e.msgs, e.spans = append(e.msgs, m), append(e.spans, span)
	if len(e.msgs) == enqueueBatch {
		return e.flush(ctx)
	}
	return nil
}

func (e *enqueuer) flush(ctx context.Context) error {
	if len(e.msgs) == 0 {
		return nil
	}
	publish := e.q.publish
	if e.known {
		publish = e.q.publishEach
	}
	var first error
	already := 0
	left := make([]int, len(e.msgs)) // of e.msgs, those that are not stored yet
	for i := range left {
		left[i] = i
	}
	for began := time.Now(); len(left) > 0; {
		msgs := make([]*nats.Msg, len(left))
		for k, i := range left {
			msgs[k] = e.msgs[i]
		}
		var again []int
		var why error
		for k, err := range publish(ctx, msgs) {
			i := left[k]
			switch {
			case err == nil:
				e.res.Queued++
			case errors.Is(err, errAlready):
				already++
			case ctx.Err() == nil && (errors.Is(err, errFull) || mayPassLater(err) && (time.Since(began) < patience || e.q.stuck())):
				again, why = append(again, i), err
				continue
			default:
				e.spans[i].SetStatus(codes.Error, "not stored")
				if first == nil {
					first = fmt.Errorf("storing %s: %w", e.msgs[i].Subject, err)
				}
			}
			e.spans[i].End()
		}
		if left = again; len(left) > 0 {
			e.q.log.WarnContext(ctx, "the queue takes nothing more for now; waiting", "items", len(left), "error", why)
			if e.q.stuck() {
				began = time.Now() // its patience begins when it works again
			}
			select {
			case <-time.After(enqueueWait):
			case <-ctx.Done():
			}
		}
	}
	e.res.Already += already
	e.known = already == len(e.msgs)
	e.msgs, e.spans = e.msgs[:0], e.spans[:0]
	return first
}

// mayPassLater reports whether the server was out of reach, or busy, and no verdict about the message came.
func mayPassLater(err error) bool {
	if e, ok := errors.AsType[*jetstream.APIError](err); ok && e.ErrorCode == codeNotAvailable {
		return true // a cluster that has no leader yet
	}
	return errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse) ||
		errors.Is(err, nats.ErrDisconnected) || errors.Is(err, nats.ErrReconnectBufExceeded) || errors.Is(err, jetstream.ErrAsyncPublishTimeout) ||
		errors.Is(err, jetstream.ErrTooManyStalledMsgs) || errors.Is(err, nats.ErrConnectionReconnecting)
}
