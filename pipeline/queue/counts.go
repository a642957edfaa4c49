package queue

import (
	"context"
	"errors"
	"fmt"

	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/pipeline/event"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// Counts are a campaign's items by where they are. They come from several requests, so while items move their sum may be
// off by those that moved in between; when nothing moves, Balanced holds exactly.
type Counts struct {
	// Enqueued is the number of items ever enqueued. Once the campaign is closed its jobs are gone, and it is the sum of
	// the outcomes.
	Enqueued uint64
	// Outcomes. Failed is what is in quarantine now.
	Published, Skipped, Aborted, Failed uint64
	// Signed is how many items have a complete attestation: verified and stored. It is no outcome; items go on from there.
	Signed uint64
	// Segments are in the order that was asked for.
	Segments []SegmentCounts
}

// SegmentCounts are the items of one segment that are not done with it.
type SegmentCounts struct {
	Name string
	// Pending wait to be handed out for the first time; InFlight are with a worker, or wait to be handed out again.
	Pending, InFlight uint64
	// Redelivered of those in flight were handed out more than once.
	Redelivered uint64

	jobs uint64
}

// Waiting is the number of items that have no outcome yet.
func (c Counts) Waiting() uint64 {
	var n uint64
	for _, s := range c.Segments {
		n += s.Pending + s.InFlight
	}
	return n
}

// Done is the number of items that have an outcome.
func (c Counts) Done() uint64 { return c.Published + c.Skipped + c.Aborted + c.Failed }

// Balanced reports whether every item is in exactly one place.
func (c Counts) Balanced() bool { return c.Enqueued == c.Done()+c.Waiting() }

// Counts asks the server for a campaign's counts. segments are the names of all its segments in order, the first being
// the one that items are enqueued for. Nothing is scanned: events, jobs and quarantine entries are counted by the server
// from its index of subjects, the rest is consumer info.
func (q *Queue) Counts(ctx context.Context, c *pipeline.Campaign, segments []string) (Counts, error) {
	if len(segments) == 0 {
		return Counts{}, errors.New("counting: no segments")
	}
	out := Counts{Segments: make([]SegmentCounts, len(segments))}
	g, ctx := errgroup.WithContext(ctx)
	for i, s := range segments {
		g.Go(func() (err error) {
			out.Segments[i], err = q.segment(ctx, c.Name, s)
			return err
		})
	}
	for _, f := range []struct {
		n              *uint64
		stream, filter string
	}{
		{&out.Published, StreamEvents, eventFilter(string(pipeline.OutcomePublished), c.Name)},
		{&out.Signed, StreamEvents, eventFilter(event.Signed, c.Name)},
		{&out.Skipped, StreamEvents, eventFilter(string(pipeline.OutcomeSkipped), c.Name)},
		{&out.Aborted, StreamEvents, eventFilter(string(OutcomeAborted), c.Name)},
		{&out.Failed, StreamQuarantine, quarantineFilter(c.Name)},
	} {
		g.Go(func() (err error) {
			*f.n, err = q.count(ctx, f.stream, f.filter)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return Counts{}, fmt.Errorf("counting campaign %s: %w", c.Name, err)
	}
	out.Enqueued = out.Segments[0].jobs
	if c.State == pipeline.StateClosed {
		out.Enqueued = out.Done()
	}
	return out, nil
}

// segment counts one segment of a campaign. Where no worker has asked for items yet there is no consumer, and all of them
// are pending.
func (q *Queue) segment(ctx context.Context, campaign, segment string) (SegmentCounts, error) {
	s := SegmentCounts{Name: segment}
	var err error
	if s.jobs, err = q.count(ctx, StreamJobs, jobFilter(segment, campaign)); err != nil {
		return s, err
	}
	cons, err := q.js.Consumer(ctx, StreamJobs, ConsumerName(campaign, segment)) // asks for its info
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		s.Pending = s.jobs
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("asking for consumer %s: %w", ConsumerName(campaign, segment), err)
	}
	info := cons.CachedInfo()
	s.Pending = info.NumPending
	s.InFlight = uint64(max(info.NumAckPending, 0))
	s.Redelivered = uint64(max(info.NumRedelivered, 0))
	return s, nil
}
