package queue

import (
	"context"
	"fmt"

	"github.com/hallmark-attest/hallmark/pipeline"
)

// Sweep takes items out of the campaign's quarantine that have another outcome, and returns how many. Call it before work
// on a campaign begins.
//
// An item leaves quarantine when it ends otherwise later on. But the server acknowledges that removal before it is on the
// disk: if it is killed right then, the entry is back when it starts again, beside an outcome that was recorded for good.
func (q *Queue) Sweep(ctx context.Context, campaign string) (int, error) {
	n := 0
	for e, err := range q.Quarantined(ctx, campaign) {
		if err != nil {
			if e.Item == nil {
				return n, err
			}
			continue // it cannot be read: it stays for a person to look at
		}
		for _, kind := range []pipeline.OutcomeKind{pipeline.OutcomePublished, pipeline.OutcomeSkipped, OutcomeAborted} {
			found, err := q.exists(ctx, StreamEvents, eventPrefix+string(kind)+"."+Token(campaign)+".*.*.*."+Token(e.Item.ID))
			if err == nil && found {
				err = q.purge(ctx, StreamQuarantine, quarantineSubject(campaign, e.Item.ID))
				n++
			}
			if err != nil {
				return n, fmt.Errorf("sweeping the quarantine of campaign %s: %w", campaign, err)
			}
			if found {
				break
			}
		}
	}
	return n, nil
}
