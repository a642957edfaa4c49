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

// Counts are a campaign's items by where they are, as the server has them.
//
// They come from several requests, but in an order in which no item can be missed: first how many were enqueued, then who
// waits, segment by segment, and the outcomes last. An item moves in that order, and is recorded in its new place before it
// leaves the old one. So one that moves while it is counted, or whose worker or server died between the two, is counted in
// both places, never in none: Done + Waiting is at least Enqueued, at every moment, and what it is more, Between, are items
// that have an outcome already and whose job is not acknowledged yet. When nothing moves, Between is 0.
type Counts struct {
	// Enqueued is the number of items ever enqueued.
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

// Waiting is the number of jobs that are not acknowledged: as long as there is one, there is work to do.
func (c Counts) Waiting() uint64 {
	var n uint64
	for _, s := range c.Segments {
		n += s.Pending + s.InFlight
	}
	return n
}

// Done is the number of items that have an outcome.
func (c Counts) Done() uint64 { return c.Published + c.Skipped + c.Aborted + c.Failed }

// Between is the number of items that were counted in two places, as they were between them.
func (c Counts) Between() uint64 {
	return c.Done() + c.Waiting() - min(c.Enqueued, c.Done()+c.Waiting())
}

// Open is the number of items that have no outcome: Waiting without those that are only to be acknowledged. With it the
// ledger adds up at every moment: Enqueued = Published + Skipped + Failed + Aborted + Open. (After a kill of the server,
// entries that had left quarantine may be back there beside the item's outcome, until Sweep; then Open has nothing to take
// them from, and the outcomes are more than Enqueued.)
func (c Counts) Open() uint64 { return c.Waiting() - min(c.Between(), c.Waiting()) }

// Balanced reports whether every item is in exactly one place.
func (c Counts) Balanced() bool { return c.Enqueued == c.Done()+c.Waiting() }

// missing reports whether there is an item that was counted nowhere.
func (c Counts) missing() bool { return c.Enqueued > c.Done()+c.Waiting() }

// countPasses is how often items are counted that seem to be missing.
const countPasses = 5

// Counts asks the server for a campaign's counts. segments are the names of all its segments in order, the first being
// the one that items are enqueued for. Nothing is scanned: events, jobs and quarantine entries are counted by the server
// from its index of subjects, the rest is consumer info.
//
// Only a retry moves an item against the order, from quarantine to the queue. Quarantine is therefore counted before as well
// and the larger number taken; if an item is missing even so, since others came and went meanwhile, all is counted again.
func (q *Queue) Counts(ctx context.Context, c *pipeline.Campaign, segments []string) (Counts, error) {
	if len(segments) == 0 {
		return Counts{}, errors.New("counting: no segments")
	}
	var out Counts
	for range countPasses {
		// As it is now: what is counted depends on whether it was ever closed.
		now, rev, err := q.Campaigns().Get(ctx, c.Name)
		var again uint64
		if err == nil {
			out, err = q.countOnce(ctx, now, segments)
		}
		if err == nil {
			_, again, err = q.Campaigns().Get(ctx, c.Name)
		}
		if err != nil {
			return Counts{}, fmt.Errorf("counting campaign %s: %w", c.Name, err)
		}
		if !out.missing() && rev == again {
			break
		}
	}
	if out.missing() && q.replicated.Load() {
		// Any replica answers, and one of them is behind: it does not know of items yet that another has. What is enqueued and was
		// seen nowhere else waits, and must not look as if all were done.
		out.Segments[0].Pending += out.Enqueued - out.Done() - out.Waiting()
	}
	return out, nil
}

// number is one to be asked for.
type number struct {
	n              *uint64
	stream, filter string
	from           uint64 // only from this place on
}

func (q *Queue) numbers(ctx context.Context, all ...number) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, f := range all {
		g.Go(func() (err error) {
			*f.n, err = q.countFrom(ctx, f.stream, f.filter, max(f.from, 1))
			return err
		})
	}
	return g.Wait()
}

func (q *Queue) countOnce(ctx context.Context, c *pipeline.Campaign, segments []string) (Counts, error) {
	out := Counts{Segments: make([]SegmentCounts, len(segments))}
	var before uint64
	if err := q.numbers(ctx, number{n: &before, stream: StreamQuarantine, filter: quarantineFilter(c.Name)}); err != nil {
		return out, err
	}
	var err error
	if out.Enqueued, err = q.enqueued(ctx, c, segments[0]); err != nil {
		return out, err
	}
	for i, s := range segments { // in their order: an item goes from one to the next
		if out.Segments[i], err = q.segment(ctx, c.Name, s); err != nil {
			return out, err
		}
	}
	if err := q.numbers(ctx, out.outcomes(c.Name)...); err != nil {
		return out, err
	}
	if out.missing() {
		out.Failed = max(out.Failed, before)
	}
	if c.State == pipeline.StateClosed && c.Frozen == 0 && out.Enqueued == 0 {
		out.Enqueued = out.Done() // closed by a version that did not note it
	}
	return out, nil
}

// outcomes are the numbers to ask for of the items that are done.
func (c *Counts) outcomes(campaign string) []number {
	out := []number{{n: &c.Failed, stream: StreamQuarantine, filter: quarantineFilter(campaign)}}
	for name, n := range map[string]*uint64{string(pipeline.OutcomePublished): &c.Published, event.Signed: &c.Signed,
		string(pipeline.OutcomeSkipped): &c.Skipped, string(OutcomeAborted): &c.Aborted} {
		out = append(out, number{n: n, stream: StreamEvents, filter: eventFilter(name, campaign)})
	}
	return out
}

// enqueued is how many items were ever enqueued in the campaign: what was noted when it was closed, and its first segment's
// jobs, without those that came back from quarantine.
func (q *Queue) enqueued(ctx context.Context, c *pipeline.Campaign, first string) (uint64, error) {
	var all, before, after uint64
	for range countPasses {
		// One after the other: a retry between them must not look like an item that was enqueued, or like one less.
		for _, t := range []number{{&before, StreamJobs, retryFilter(first, c.Name), c.FrozenAt + 1},
			{&all, StreamJobs, jobFilter(first, c.Name), c.FrozenAt + 1}, {&after, StreamJobs, retryFilter(first, c.Name), c.FrozenAt + 1}} {
			if err := q.numbers(ctx, t); err != nil {
				return 0, err
			}
		}
		if before == after {
			break
		}
	}
	return c.Frozen + all - min(after, all), nil
}

// segment counts one segment of a campaign. Where no worker has asked for items yet there is no consumer, and all of them
// are pending.
//
// What is pending is counted in the stream, behind what was handed out last. The consumer's own number follows the stream a
// moment later: an item that was enqueued just now would be in neither.
func (q *Queue) segment(ctx context.Context, campaign, segment string) (SegmentCounts, error) {
	s := SegmentCounts{Name: segment}
	filter := jobFilter(segment, campaign)
	var err error
	if s.jobs, err = q.count(ctx, StreamJobs, filter); err != nil {
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
	if s.Pending, err = q.countFrom(ctx, StreamJobs, filter, info.Delivered.Stream+1); err != nil {
		return s, err
	}
	s.jobs = max(s.jobs, s.Pending) // of those that came meanwhile, it has no more than are pending
	s.InFlight = uint64(max(info.NumAckPending, 0))
	s.Redelivered = uint64(max(info.NumRedelivered, 0))
	return s, nil
}
