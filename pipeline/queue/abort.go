package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hallmark-attest/hallmark/pipeline"
)

// CauseAborted is the cause of every aborted item.
const CauseAborted = "campaign.aborted"

// Abort ends the items of the campaign that wait to be handed out, in all the given segments, with an aborted event, and
// returns how many. Items that a worker holds are left to it: stop the workers first, and call Abort again until Counts has
// none waiting. Then the campaign can be closed.
func (q *Queue) Abort(ctx context.Context, c *pipeline.Campaign, segments []string, enc Encoder) (int, error) {
	l := q.Ledger(c, enc)
	total := 0
	for i, segment := range segments {
		s, err := q.Source(ctx, c.Name, segment, SourceOptions{Encoder: enc, Wait: time.Second})
		if err != nil {
			return total, fmt.Errorf("aborting campaign %s: %w", c.Name, err)
		}
		for {
			ds, err := s.Next(ctx, 500)
			if err != nil {
				return total, fmt.Errorf("aborting campaign %s: %w", c.Name, err)
			}
			if len(ds) == 0 {
				n, err := q.segment(ctx, c.Name, segment)
				if err != nil {
					return total, fmt.Errorf("aborting campaign %s: %w", c.Name, err)
				}
				if n.Pending == 0 {
					break
				}
				continue // the server was slow to hand them out
			}
			os := make([]pipeline.Outcome, len(ds))
			for k, d := range ds {
				os[k] = pipeline.Outcome{Delivery: d, Kind: OutcomeAborted, Failure: &pipeline.Failure{
					Stage: segment, Cause: CauseAborted, Message: "the campaign was ended before this item was done",
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
				return total, errors.Join(fmt.Errorf("aborting campaign %s", c.Name), err)
			}
			total += len(ds)
		}
	}
	return total, nil
}
