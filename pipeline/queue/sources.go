package queue

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/hallmark-attest/hallmark/pipeline/event"
)

// SourceCounts are a campaign's signed packages by what was found about their sources. Those whose sources nobody asks about
// are the rest of the signed ones. An item that a crash sent through its stages twice, while an upstream changed its mind in
// between, is counted under both.
type SourceCounts struct{ Verified, Refused, Unverified uint64 }

// SourceCounts asks the server, which counts from its index of subjects.
func (q *Queue) SourceCounts(ctx context.Context, campaign string) (SourceCounts, error) {
	var out SourceCounts
	g, ctx := errgroup.WithContext(ctx)
	for name, n := range map[string]*uint64{event.SourcesVerified: &out.Verified, event.SourcesRefused: &out.Refused, event.SourcesUnverified: &out.Unverified} {
		g.Go(func() (err error) {
			*n, err = q.count(ctx, StreamEvents, eventFilter(name, campaign))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return SourceCounts{}, fmt.Errorf("counting the sources of campaign %s: %w", campaign, err)
	}
	return out, nil
}
