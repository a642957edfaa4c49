package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hallmark-attest/hallmark/pipeline"
)

// LedgerError says that a campaign cannot be closed, as its items and their outcomes are not the same number.
type LedgerError struct {
	Campaign       string
	Enqueued, Done uint64
}

func (e *LedgerError) Error() string {
	return fmt.Sprintf("campaign %s has %d items and %d outcomes", e.Campaign, e.Enqueued, e.Done)
}

// revisions is how often Revise begins again after somebody else's change.
const revisions = 20

// Revise changes a campaign: change is called with the campaign as it is, and again if somebody else was faster. If it
// leaves the campaign as it is, nothing is written. Its error ends it.
func (b Campaigns) Revise(ctx context.Context, name string, change func(*pipeline.Campaign) error) (*pipeline.Campaign, error) {
	for range revisions {
		c, rev, err := b.Get(ctx, name)
		if err != nil {
			return nil, err
		}
		before, err := encodeCampaign(c)
		if err != nil {
			return nil, fmt.Errorf("changing campaign %s: %w", name, err)
		}
		if err := change(c); err != nil {
			return nil, fmt.Errorf("changing campaign %s: %w", name, err)
		}
		if after, err := encodeCampaign(c); err == nil && string(after) == string(before) {
			return c, nil
		}
		if _, err = b.Update(ctx, c, rev); err == nil {
			return c, nil
		} else if !errors.Is(err, ErrConflict) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("changing campaign %s, %d times: %w", name, revisions, ErrConflict)
}

// become changes the state, if may allows the change from the state that the campaign has.
func (b Campaigns) become(ctx context.Context, name string, to pipeline.State, reason string, may func(*pipeline.Campaign) error) (*pipeline.Campaign, error) {
	return b.Revise(ctx, name, func(c *pipeline.Campaign) error {
		if err := may(c); err != nil {
			return err
		}
		if c.State == to && (reason == "" || reason == c.Reason) {
			return nil
		}
		c.State, c.Reason, c.Changed = to, reason, time.Now().UTC().Truncate(time.Second)
		return nil
	})
}

func notEnding(c *pipeline.Campaign) error {
	switch {
	case c.State == pipeline.StateClosed:
		return ErrClosed
	case !c.State.TakesItems():
		return fmt.Errorf("%w: it is %s", ErrEnding, c.State)
	}
	return nil
}

// Pause makes a campaign hand out nothing any more: its state tells its workers, and its consumers are paused on the
// server, so that nobody gets anything who does not look at the state. What is in flight finishes. It lasts until Resume,
// whatever is restarted meanwhile. Pausing again completes a pause that was interrupted. ErrClosed and ErrEnding say that it
// is too late.
func (b Campaigns) Pause(ctx context.Context, name, reason string) (*pipeline.Campaign, error) {
	c, err := b.become(ctx, name, pipeline.StatePaused, reason, notEnding)
	if err != nil {
		return nil, err
	}
	return c, b.q.halt(ctx, name, true)
}

// Resume takes Pause back. Of a campaign that is open it sees to it that its consumers are not paused.
func (b Campaigns) Resume(ctx context.Context, name string) (*pipeline.Campaign, error) {
	c, err := b.become(ctx, name, pipeline.StateOpen, "", notEnding)
	if err != nil {
		return nil, err
	}
	return c, b.q.halt(ctx, name, false)
}

// Reopen makes a closed campaign open again, for items of its quarantine: its ledger goes on, and new items are refused with
// ErrFrozen. A campaign that is not closed stays as it is.
func (b Campaigns) Reopen(ctx context.Context, name string) (*pipeline.Campaign, error) {
	c, _, err := b.Get(ctx, name)
	if err != nil || c.State != pipeline.StateClosed {
		return c, err
	}
	if err := b.Close(ctx, name); err != nil { // it may have been interrupted
		return nil, err
	}
	return b.become(ctx, name, pipeline.StateOpen, "", func(c *pipeline.Campaign) error {
		if c.State == pipeline.StateClosed && c.Frozen == 0 {
			return errors.New("it has no items")
		}
		return nil
	})
}

// Aborting makes the campaign one that is being aborted: its workers finish what they hold and take nothing more. Abort
// does the rest. ErrClosed says that there is nothing to abort.
func (b Campaigns) Aborting(ctx context.Context, name, reason string) (*pipeline.Campaign, error) {
	return b.become(ctx, name, pipeline.StateAborting, reason, func(c *pipeline.Campaign) error {
		if c.State == pipeline.StateClosed {
			return ErrClosed
		}
		return nil
	})
}

// forEver is how long a consumer is paused: the server wants a time.
const forEver = 100 * 365 * 24 * time.Hour

// halt pauses the campaign's consumers, or lets them go on.
func (q *Queue) halt(ctx context.Context, campaign string, pause bool) error {
	segments, err := q.segments(ctx, campaign)
	if err != nil {
		return err
	}
	for _, s := range segments {
		if err := q.haltConsumer(ctx, ConsumerName(campaign, s), pause); err != nil {
			return err
		}
	}
	return nil
}

func (q *Queue) haltConsumer(ctx context.Context, name string, pause bool) error {
	until := time.Time{}
	what := "letting consumer %s go on: %w"
	if pause {
		until = time.Now().Add(forEver)
		what = "pausing consumer %s: %w"
	}
	_, err := q.js.PauseConsumer(ctx, StreamJobs, name, until)
	if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf(what, name, err)
	}
	return nil
}

// Close ends a campaign: its state becomes closed, the number of its items is noted, its jobs are purged and its consumers
// deleted; its events and what is in quarantine stay. While items wait it is refused with a *WaitingError: they would be lost
// (see Abort). If there are fewer or more outcomes than items it is refused with a *LedgerError. Closing again completes a close
// that was interrupted.
func (b Campaigns) Close(ctx context.Context, name string) error {
	wrap := func(err error) error {
		if err != nil {
			err = fmt.Errorf("closing campaign %s: %w", name, err)
		}
		return err
	}
	c, _, err := b.Get(ctx, name)
	if err != nil {
		return err
	}
	state, frozenAt := c.State, c.FrozenAt
	if _, err := b.q.Sweep(ctx, name); err != nil {
		return wrap(err)
	}
	if _, _, err = b.q.finished(ctx, c); err != nil {
		return wrap(err)
	}
	if c, err = b.become(ctx, name, pipeline.StateClosed, c.Reason, func(*pipeline.Campaign) error { return nil }); err != nil {
		return err
	}
	// Again: whoever enqueued meanwhile may have found the campaign open. What comes from now on is told that it is closed, and
	// stays beyond what is purged.
	items, last, err := b.q.finished(ctx, c)
	if err != nil {
		// Somebody who closes it at the same moment may have purged the jobs while they were looked at; the ledger was whole then.
		_, rerr := b.Revise(ctx, name, func(now *pipeline.Campaign) error {
			if now.FrozenAt != frozenAt {
				return errClosedMeanwhile
			}
			if state != pipeline.StateClosed { // else it was not this call that closed it
				now.State, now.Changed = state, time.Now().UTC().Truncate(time.Second)
			}
			return nil
		})
		if errors.Is(rerr, errClosedMeanwhile) {
			return nil
		}
		return wrap(errors.Join(err, rerr))
	}
	if _, err := b.Revise(ctx, name, func(c *pipeline.Campaign) error {
		c.State, c.Frozen, c.FrozenAt = pipeline.StateClosed, items, max(c.FrozenAt, last)
		return nil
	}); err != nil {
		return err
	}
	segments, err := b.q.segments(ctx, name)
	if err != nil {
		return wrap(err)
	}
	if err := b.q.purge(ctx, StreamJobs, "job.*."+Token(name)+".>", last+1); err != nil {
		return wrap(err)
	}
	for _, s := range segments {
		err := b.q.js.DeleteConsumer(ctx, StreamJobs, ConsumerName(name, s))
		if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			return wrap(fmt.Errorf("deleting consumer of %s: %w", s, err))
		}
	}
	return nil
}

var errClosedMeanwhile = errors.New("somebody else has closed it meanwhile")

// finished returns how many items the campaign has, all with an outcome, and the last of its jobs' sequence numbers. It is a
// *WaitingError if some are not done, and a *LedgerError if the ledger does not add up.
func (q *Queue) finished(ctx context.Context, c *pipeline.Campaign) (items, last uint64, err error) {
	m, err := q.last(ctx, StreamJobs, "job.*."+Token(c.Name)+".>")
	if err != nil {
		return 0, 0, err
	}
	if m != nil {
		last = m.Sequence
	}
	n, err := q.waiting(ctx, c.Name)
	if err != nil {
		return 0, 0, err
	}
	if n > 0 {
		return 0, 0, &WaitingError{c.Name, n}
	}
	segments, err := q.segments(ctx, c.Name)
	if err != nil {
		return 0, 0, err
	}
	// The first segment is the one with the most: all items went through it. Without a consumer nothing was ever worked on.
	for _, s := range segments {
		n, err := q.enqueued(ctx, c, s)
		if err != nil {
			return 0, 0, err
		}
		items = max(items, n)
	}
	var done Counts
	if err := q.numbers(ctx, done.outcomes(c.Name)...); err != nil {
		return 0, 0, err
	}
	if last == 0 { // purged already
		items = c.Frozen
		if items == 0 && c.State == pipeline.StateClosed {
			items = done.Done() // by a version that did not note it
		}
	}
	if items != done.Done() {
		return 0, 0, &LedgerError{c.Name, items, done.Done()}
	}
	return items, last, nil
}
