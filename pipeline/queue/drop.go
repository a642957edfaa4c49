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
)

// CauseDropped is the cause with which an item is aborted that was dropped from quarantine.
const CauseDropped = "quarantine.dropped"

// Drop gives up items of the quarantine, malformed ones too: their outcome becomes aborted, with an event that says why they
// had been set aside, and they leave quarantine. segment is the campaign's first. It returns how many. The state of the
// campaign does not matter.
//
// Each item is claimed first, by the job that a retry of it would have: of a retry and a drop at the same time only one
// comes through. The event follows, then the entry and the claim go. A crash in between loses nothing: dropping again completes it,
// and a claim that is left is completed by the worker that takes it. The first error ends it.
func (q *Queue) Drop(ctx context.Context, c *pipeline.Campaign, segment string, enc Encoder, entries iter.Seq2[Entry, error]) (int, error) {
	d := dropper{l: &ledger{q: q, c: c, enc: enc}, segment: segment}
	err := checkSegment(segment)
	for e, eerr := range entries {
		if err == nil {
			err = eerr
		}
		if err == nil {
			err = d.add(ctx, e)
		}
		if err != nil {
			break
		}
	}
	if err = errors.Join(err, d.flush(ctx)); err != nil {
		return d.done, fmt.Errorf("dropping items of campaign %s: %w", c.Name, err)
	}
	return d.done, nil
}

type dropper struct {
	l       *ledger
	segment string
	all     []*dropped
	done    int
}

// dropped is an entry on its way out of quarantine.
type dropped struct {
	*entry
	sequence uint64    // of the entry
	claim    *nats.Msg // nil for what cannot be retried either
	lost     bool      // somebody has retried it
}

func (d *dropper) add(ctx context.Context, e Entry) error {
	if e.Item == nil || e.Sequence == 0 {
		return errors.New("an entry that did not come from the quarantine")
	}
	f := e.Failure
	f.Message = "given up after " + f.Cause
	if e.Failure.Message != "" {
		f.Message += ": " + e.Failure.Message
	}
	f.Cause, f.Hint = CauseDropped, ""
	n := &dropped{sequence: e.Sequence, entry: d.l.prepare(pipeline.Outcome{Kind: OutcomeAborted, Failure: &f,
		Delivery: pipeline.Delivery{Item: e.Item, Attempt: f.Attempts, Context: e.Context}})}
	if n.err != nil {
		return fmt.Errorf("item %s: %w", e.Item.ID, n.err)
	}
	n.careful = true
	if !e.Malformed() {
		it := *e.Item
		it.Retry++
		it.Drop = &f
		data, err := json.Marshal(&it)
		if err != nil {
			return fmt.Errorf("writing item %s: %w", it.ID, err)
		}
		n.claim = nats.NewMsg(jobSubject(d.segment, d.l.c.Name, it.ID, it.Retry))
		n.claim.Data = data
	}
	if d.all = append(d.all, n); len(d.all) == enqueueBatch {
		return d.flush(ctx)
	}
	return nil
}

func (d *dropper) flush(ctx context.Context) error {
	all := d.all
	d.all = nil
	d.claim(ctx, all)
	var entries []*entry
	for _, n := range all {
		if !n.lost {
			entries = append(entries, n.entry)
		}
	}
	d.l.publishCarefully(ctx, entries)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(removals)
	var errs []error
	done := 0
	for _, n := range all {
		switch {
		case n.err != nil:
			errs = append(errs, fmt.Errorf("item %s: %w", n.id(), n.err))
			continue
		case n.lost:
			continue
		}
		done++
		g.Go(func() error { return d.remove(gctx, n) })
	}
	if err := g.Wait(); err != nil {
		return errors.Join(append(errs, err)...)
	}
	d.done += done
	return errors.Join(errs...)
}

// claim claims the items.
func (d *dropper) claim(ctx context.Context, all []*dropped) {
	var msgs []*nats.Msg
	var of []*dropped
	for _, n := range all {
		if n.claim != nil {
			msgs, of = append(msgs, n.claim), append(of, n)
		}
	}
	for i, err := range d.l.q.publish(ctx, msgs) {
		if errors.Is(err, errAlready) {
			// A retry, or a drop that was interrupted.
			var m *stored
			var it pipeline.Item
			if m, err = d.l.q.last(ctx, StreamJobs, of[i].claim.Subject); err == nil && m != nil {
				of[i].lost = json.Unmarshal(m.Data, &it) != nil || it.Drop == nil
			}
		}
		if err != nil {
			of[i].err = fmt.Errorf("claiming it: %w", err)
		}
	}
}

// remove removes the entry and then the claim.
func (d *dropper) remove(ctx context.Context, n *dropped) error {
	if err := d.l.q.remove(ctx, StreamQuarantine, n.sequence); err != nil || n.claim == nil {
		return err
	}
	m, err := d.l.q.last(ctx, StreamJobs, n.claim.Subject)
	if err != nil || m == nil {
		return err
	}
	return d.l.q.remove(ctx, StreamJobs, m.Sequence)
}
