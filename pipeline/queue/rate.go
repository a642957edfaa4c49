package queue

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/hallmark-attest/hallmark/pipeline"
)

// DoneSince is how many items of the campaign got an outcome since the time, by the server's clock: for a rate. It asks
// the server by short-lived consumers that start there, and scans nothing.
func (q *Queue) DoneSince(ctx context.Context, campaign string, since time.Time) (uint64, error) {
	filters := []struct{ stream, filter string }{
		{StreamEvents, eventFilter(string(pipeline.OutcomePublished), campaign)},
		{StreamEvents, eventFilter(string(pipeline.OutcomeSkipped), campaign)},
		{StreamEvents, eventFilter(string(OutcomeAborted), campaign)},
		{StreamQuarantine, quarantineFilter(campaign)},
	}
	n := make([]uint64, len(filters))
	g, ctx := errgroup.WithContext(ctx)
	for i, f := range filters {
		g.Go(func() error {
			c, cancel := q.within(ctx)
			defer cancel()
			cons, err := q.js.CreateConsumer(c, f.stream, jetstream.ConsumerConfig{
				FilterSubject: f.filter, AckPolicy: jetstream.AckNonePolicy, HeadersOnly: true, MemoryStorage: true, Replicas: 1,
				DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &since, InactiveThreshold: 5 * time.Second,
			})
			if err != nil {
				return fmt.Errorf("counting what is done since %s: %w", since.Format(time.TimeOnly), err)
			}
			n[i] = cons.CachedInfo().NumPending
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	var sum uint64
	for _, v := range n {
		sum += v
	}
	return sum, nil
}

// JetStream is the queue's JetStream context, for subscribers to its events.
func (q *Queue) JetStream() jetstream.JetStream { return q.js }
