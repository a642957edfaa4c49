package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/hallmark-attest/hallmark/pipeline"
)

// findQuarantined finds outcomes of items that are in quarantine all the same: their worker or the server died between
// their failure and its acknowledgement. Somebody may be about to drop them.
//
// It MUST come before findStanding: an item that was dropped meanwhile has left quarantine, and has its event by then.
func (l *ledger) findQuarantined(ctx context.Context, entries []*entry) {
	var todo []*entry
	for _, e := range entries {
		if e.err == nil && (e.o.Kind == pipeline.OutcomePublished || e.o.Kind == pipeline.OutcomeSkipped) {
			todo = append(todo, e)
		}
	}
	if len(todo) == 0 {
		return
	}
	some, err := l.q.exists(ctx, StreamQuarantine, quarantineFilter(l.c.Name))
	if err == nil && !some {
		return
	}
	var g errgroup.Group
	g.SetLimit(lookups)
	for _, e := range todo {
		if err != nil {
			e.err = err
			continue
		}
		g.Go(func() error {
			e.careful, e.err = l.q.exists(ctx, StreamQuarantine, quarantineSubject(l.c.Name, e.id()))
			return nil
		})
	}
	_ = g.Wait()
}

// publishCarefully stores the events of outcomes that somebody else may contradict at the same moment, who does the same: of
// the two, the server takes only one. It costs several requests for each.
func (l *ledger) publishCarefully(ctx context.Context, entries []*entry) {
	var g errgroup.Group
	g.SetLimit(lookups)
	for _, e := range entries {
		if e.careful && e.err == nil && !e.stands && e.terminal != "" {
			g.Go(func() error {
				if e.stands, e.err = l.carefully(ctx, e); e.stands {
					e.leaves = true
				}
				return nil
			})
		}
	}
	_ = g.Wait()
}

// carefulTries is how often an item's events may change while its outcome is being recorded.
const carefulTries = 10

// carefully stores one outcome's events, the terminal one on the condition that the item has got no other event since its
// outcomes were looked for. It reports whether another outcome stands.
func (l *ledger) carefully(ctx context.Context, e *entry) (stands bool, err error) {
	id := e.terminal[strings.LastIndexByte(e.terminal, '.')+1:]
	of := func(event string) string { return eventPrefix + event + "." + Token(l.c.Name) + ".*.*.*." + id }
	var terminalEvent *nats.Msg
	for _, m := range e.events {
		if m.Subject == e.terminal {
			terminalEvent = m
			continue
		}
		if err := l.q.publishEach(ctx, []*nats.Msg{m})[0]; err != nil && !errors.Is(err, errAlready) {
			return false, fmt.Errorf("storing event %s: %w", m.Subject, err)
		}
	}
	for range carefulTries {
		newest, err := l.q.last(ctx, StreamEvents, of("*"))
		if err != nil {
			return false, err
		}
		var after uint64
		if newest != nil {
			after = newest.Sequence
		}
		for _, kind := range terminal {
			if found, err := l.q.exists(ctx, StreamEvents, of(string(kind))); err != nil || found {
				return found, err
			}
		}
		terminalEvent.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(after, 10))
		terminalEvent.Header.Set(headerExpectSubject, of("*"))
		err = l.q.publishEach(ctx, []*nats.Msg{terminalEvent})[0]
		switch {
		case err == nil || errors.Is(err, errAlready):
			return false, nil
		case !errors.Is(err, errOverruled):
			return false, fmt.Errorf("storing event %s: %w", e.terminal, err)
		}
	}
	return false, fmt.Errorf("the item got another event each of %d times that its outcome was to be recorded", carefulTries)
}
