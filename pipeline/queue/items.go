package queue

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/pipeline/event"
)

// OutcomeWaiting is what an item has that has no outcome yet.
const OutcomeWaiting pipeline.OutcomeKind = "waiting"

// Standing is where one item of a campaign is: in one place exactly.
type Standing struct {
	ID string
	// Outcome is published, skipped, aborted, failed (in quarantine now) or waiting.
	Outcome pipeline.OutcomeKind
	// At is when it got there: the event's time, the failure's, or, of one that waits, when it was enqueued.
	At time.Time
	// Event is the outcome's event; nil for failed and waiting, and if the event cannot be read.
	Event *event.Event
	// Entry is the quarantine's; nil unless it is there.
	Entry *Entry
	// Item is the item as it was enqueued; nil unless it waits and can be read.
	Item *pipeline.Item
	// Err is why something of the item cannot be read; its outcome is certain even so.
	Err error
}

// Standings yields every item of the campaign, once: those that are published, skipped and aborted, each in the order in which
// that was recorded, then what is in quarantine, then what waits. segment is the first of the campaign's segments.
//
// Items may move meanwhile. They are read in the order of the ledger's strength, an outcome before the quarantine before the
// queue, and the jobs of all items are in the queue until the campaign is closed, so none is missed and none comes twice: one
// that moves is yielded where it was. Of each item 16 bytes are held in memory, and a map's share; nothing else.
//
// The error ends the sequence.
func (q *Queue) Standings(ctx context.Context, c *pipeline.Campaign, segment string) iter.Seq2[Standing, error] {
	return func(yield func(Standing, error) bool) {
		seen := map[[16]byte]struct{}{}
		first := func(id string) bool {
			h := sha256.Sum256([]byte(id))
			k := [16]byte(h[:16])
			_, had := seen[k]
			seen[k] = struct{}{}
			return !had
		}
		fail := func(err error) {
			yield(Standing{}, fmt.Errorf("reading the items of campaign %s: %w", c.Name, err))
		}
		for _, kind := range terminal {
			for m, err := range q.replay(ctx, StreamEvents, eventFilter(string(kind), c.Name), true) {
				if err != nil {
					fail(err)
					return
				}
				s := outcomeStanding(kind, m)
				if first(s.ID) && !yield(s, nil) {
					return
				}
			}
		}
		for e, err := range q.Quarantined(ctx, c.Name) {
			if err != nil && e.Item == nil {
				fail(err)
				return
			}
			s := Standing{ID: e.Item.ID, Outcome: pipeline.OutcomeFailed, At: e.Failure.At, Entry: &e, Err: err}
			if s.At.IsZero() {
				s.At = e.Stored
			}
			if first(s.ID) && !yield(s, nil) {
				return
			}
		}
		for m, err := range q.replay(ctx, StreamJobs, jobFilter(segment, c.Name), true) {
			if err != nil {
				fail(err)
				return
			}
			tail := strings.TrimPrefix(m.msg.Subject(), strings.TrimSuffix(jobFilter(segment, c.Name), ">"))
			s := Standing{Outcome: OutcomeWaiting, At: m.Timestamp.UTC()}
			if s.ID, _, s.Err = parseJob(tail); s.Err != nil {
				s.ID = tail
			} else {
				s.Err = json.Unmarshal(m.msg.Data(), &s.Item)
			}
			if first(s.ID) && !yield(s, nil) {
				return
			}
		}
	}
}

func outcomeStanding(kind pipeline.OutcomeKind, m replayed) Standing {
	subject := m.msg.Subject()
	s := Standing{Outcome: kind, At: m.Timestamp.UTC()}
	s.Event, s.Err = event.Decode(subject, m.msg.Headers(), m.msg.Data())
	if s.Err == nil {
		s.ID, s.At = s.Event.Tokens.ID, s.Event.Time
		return s
	}
	s.Event = nil
	token := subject[strings.LastIndexByte(subject, '.')+1:]
	var err error
	if s.ID, err = Untoken(token); err != nil {
		s.ID = token
	}
	return s
}
