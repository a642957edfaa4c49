package queue

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/hallmark-attest/hallmark/pipeline"
)

// sweepSingly is how many entries are looked up one by one; for more, the outcomes are read through once.
const sweepSingly = 1000

// Sweep takes items out of the campaign's quarantine that have another outcome or have been retried, and returns how many.
// Call it before work on a campaign begins.
//
// An item leaves quarantine when it is retried, or ends otherwise later on. But the server acknowledges that removal before it
// is on the disk: if it is killed right then, the entry is back when it starts again, beside an outcome that was recorded for
// good or a job that waits.
func (q *Queue) Sweep(ctx context.Context, campaign string) (int, error) {
	fail := func(n int, err error) (int, error) {
		return n, fmt.Errorf("sweeping the quarantine of campaign %s: %w", campaign, err)
	}
	var entries []inQuarantine
	for e, err := range q.Quarantined(ctx, campaign) {
		if err != nil {
			if e.Item == nil {
				return fail(0, err)
			}
			continue // it cannot be read: it stays for a person to look at
		}
		entries = append(entries, inQuarantine{e.Item.ID, e.Item.Retry, e.Sequence})
	}
	find := q.strayOneByOne
	if len(entries) > sweepSingly {
		find = q.strayInOnePass
	}
	stray, err := find(ctx, campaign, entries)
	if err != nil {
		return fail(0, err)
	}
	if err := q.removeEntries(ctx, stray); err != nil {
		return fail(0, err)
	}
	return len(stray), nil
}

// inQuarantine is an entry of the quarantine, as far as Sweep keeps it in memory.
type inQuarantine struct {
	id       string
	retry    int
	sequence uint64
}

// terminal are the events of which an item has one at most.
var terminal = [...]pipeline.OutcomeKind{pipeline.OutcomePublished, pipeline.OutcomeSkipped, OutcomeAborted}

// strayOneByOne returns the places of the entries that should not be there. It asks for each.
func (q *Queue) strayOneByOne(ctx context.Context, campaign string, entries []inQuarantine) ([]uint64, error) {
	var mu sync.Mutex
	var stray []uint64
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(lookups)
	for _, e := range entries {
		places := []place{{StreamJobs, anySegment(jobSubject("", campaign, e.id, e.retry+1))}}
		for _, kind := range terminal {
			places = append(places, place{StreamEvents, eventPrefix + string(kind) + "." + Token(campaign) + ".*.*.*." + Token(e.id)})
		}
		g.Go(func() error {
			for _, p := range places {
				found, err := q.exists(ctx, p.stream, p.subject)
				if err != nil {
					return err
				}
				if found {
					mu.Lock()
					defer mu.Unlock()
					stray = append(stray, e.sequence)
					return nil
				}
			}
			return nil
		})
	}
	return stray, g.Wait()
}

// strayInOnePass is strayOneByOne for many entries: it reads all outcomes' subjects.
func (q *Queue) strayInOnePass(ctx context.Context, campaign string, entries []inQuarantine) ([]uint64, error) {
	byToken := make(map[string]inQuarantine, len(entries))
	for _, e := range entries {
		byToken[Token(e.id)] = e
	}
	var stray []uint64
	take := func(token string, gone func(inQuarantine) bool) {
		if e, ok := byToken[token]; ok && gone(e) {
			stray = append(stray, e.sequence)
			delete(byToken, token)
		}
	}
	for _, kind := range terminal {
		for m, err := range q.replay(ctx, StreamEvents, eventFilter(string(kind), campaign), false) {
			if err != nil {
				return nil, err
			}
			s := m.msg.Subject()
			take(s[strings.LastIndexByte(s, '.')+1:], func(inQuarantine) bool { return true })
		}
	}
	for m, err := range q.replay(ctx, StreamJobs, "job.*."+Token(campaign)+".*."+retryToken+".*", false) {
		if err != nil {
			return nil, err
		}
		tail := strings.SplitN(m.msg.Subject(), ".", 4)[3]
		if id, retry, err := parseJob(tail); err == nil {
			take(Token(id), func(e inQuarantine) bool { return retry > e.retry })
		}
	}
	return stray, nil
}
