package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hallmark-attest/hallmark/pipeline"
)

// CauseAborted is the cause of every item that was aborted with its campaign.
const CauseAborted = "campaign.aborted"

// abortBatch is how many items are recorded as aborted at once.
const abortBatch = 500

// Abort ends a campaign before it is done: it takes no more items from now on, what a worker holds finishes, and whatever
// waits to be handed out, in all the given segments, gets an aborted event. When nothing waits any more the campaign is
// closed. Abort returns how many items it has aborted.
//
// The campaign's state says that it is being aborted before anything is, so that whoever calls Abort again, after a crash or
// at the same time, completes it. Items whose worker died come once their acknowledgement wait is over.
func (q *Queue) Abort(ctx context.Context, c *pipeline.Campaign, segments []string, enc Encoder) (int, error) {
	total := 0
	fail := func(err error) (int, error) {
		return total, fmt.Errorf("aborting campaign %s: %w", c.Name, err)
	}
	if _, err := q.Campaigns().Aborting(ctx, c.Name, ""); err != nil && !errors.Is(err, ErrClosed) {
		return fail(err)
	}
	for {
		for i := range segments {
			n, err := q.abortSegment(ctx, c, segments, i, enc)
			total += n
			if err != nil && q.closed(ctx, c.Name) { // by somebody who does the same
				return total, nil
			}
			if err != nil {
				return fail(err)
			}
		}
		err := q.Campaigns().Close(ctx, c.Name)
		if _, waiting := errors.AsType[*WaitingError](err); !waiting {
			if err != nil && !q.closed(ctx, c.Name) {
				return fail(err)
			}
			return total, nil
		}
	}
}

func (q *Queue) closed(ctx context.Context, campaign string) bool {
	c, _, err := q.Campaigns().Get(ctx, campaign)
	return err == nil && c.State == pipeline.StateClosed
}

// abortSegment aborts the items of a segment that can be had now. If there are none it waits a little for one.
func (q *Queue) abortSegment(ctx context.Context, c *pipeline.Campaign, segments []string, i int, enc Encoder) (int, error) {
	n, err := q.segment(ctx, c.Name, segments[i])
	if err != nil || n.Pending+n.InFlight == 0 {
		return 0, err
	}
	s, err := q.source(ctx, c.Name, segments[i], SourceOptions{Encoder: enc, Wait: time.Second}, pipeline.StateAborting)
	if err != nil {
		return 0, err
	}
	l := q.Ledger(c, enc)
	total := 0
	for {
		ds, err := s.Next(ctx, abortBatch)
		if err != nil || len(ds) == 0 {
			return total, err
		}
		os := make([]pipeline.Outcome, len(ds))
		for k, d := range ds {
			os[k] = pipeline.Outcome{Delivery: d, Kind: OutcomeAborted, Failure: &pipeline.Failure{
				Stage: segments[i], Cause: CauseAborted, Message: "the campaign was ended before this item was done",
				Attempts: d.Attempt, At: time.Now().UTC()}}
			if i+1 < len(segments) {
				os[k].Next = segments[i+1]
			}
		}
		if err := l.Settle(ctx, os); err != nil {
			if e, ok := errors.AsType[*pipeline.UnsettledError](err); ok {
				for _, o := range e.Outcomes {
					_ = o.Delivery.Job.Release(0) // if it is lost, the item comes back a little later
				}
			}
			return total, err
		}
		total += len(ds)
	}
}
