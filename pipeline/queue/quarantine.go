package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Entry is an item in quarantine.
type Entry struct {
	// Item is the item as it was. Of a malformed message it has no more than the id and the campaign.
	Item    *pipeline.Item   `json:"item"`
	Failure pipeline.Failure `json:"failure"`
	// Raw is a malformed message's data, at most its first 256 KiB (the entry must fit into a message itself); nil otherwise.
	Raw []byte `json:"raw,omitempty"`
}

const maxRaw = 256 << 10

func quarantineMessage(campaign string, o pipeline.Outcome, raw []byte) (*nats.Msg, error) {
	data, err := json.Marshal(Entry{Item: o.Delivery.Item, Failure: *o.Failure, Raw: raw[:min(len(raw), maxRaw)]})
	if err != nil {
		return nil, fmt.Errorf("writing the quarantine entry: %w", err)
	}
	m := nats.NewMsg(quarantineSubject(campaign, o.Delivery.Item.ID))
	m.Data = data
	if o.Delivery.Context != nil {
		inject(o.Delivery.Context, m.Header)
	}
	return m, nil
}

// Quarantined yields the items that are in the campaign's quarantine now, in the order in which they came. An entry that
// cannot be read is yielded as an error and does not end the sequence; an error with a zero Entry does.
func (q *Queue) Quarantined(ctx context.Context, campaign string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		fail := func(err error) { yield(Entry{}, fmt.Errorf("reading quarantine of campaign %s: %w", campaign, err)) }
		n, err := q.count(ctx, StreamQuarantine, quarantineFilter(campaign))
		if err != nil {
			fail(err)
			return
		}
		if n == 0 {
			return
		}
		cons, err := q.js.OrderedConsumer(ctx, StreamQuarantine, jetstream.OrderedConsumerConfig{
			FilterSubjects: []string{quarantineFilter(campaign)}, InactiveThreshold: 30 * time.Second,
		})
		if err != nil {
			fail(err)
			return
		}
		it, err := cons.Messages()
		if err != nil {
			fail(err)
			return
		}
		defer it.Stop()
		for {
			m, err := it.Next(jetstream.NextContext(ctx))
			if err != nil {
				fail(err)
				return
			}
			md, err := m.Metadata()
			if err != nil {
				fail(err)
				return
			}
			e, err := readEntry(campaign, m)
			if !yield(e, err) || md.NumPending == 0 {
				return
			}
		}
	}
}

// readEntry reads an entry. With an error it has what the subject tells.
func readEntry(campaign string, m jetstream.Msg) (Entry, error) {
	token := strings.TrimPrefix(m.Subject(), strings.TrimSuffix(quarantineFilter(campaign), ">"))
	id, err := Untoken(token)
	var e Entry
	if err == nil {
		err = json.Unmarshal(m.Data(), &e)
	}
	if err == nil && (e.Item == nil || e.Item.ID != id) {
		err = errors.New("it is not of this item")
	}
	if err != nil {
		return Entry{Item: &pipeline.Item{ID: id, Campaign: campaign}, Raw: m.Data()},
			fmt.Errorf("quarantine entry %s cannot be read: %w", m.Subject(), err)
	}
	return e, nil
}

// Requeue gives an item of the quarantine another chance, from the given segment on, which should be the campaign's first:
// every stage finds what is there already. The entry is removed. A malformed message cannot be requeued.
//
// A crash in between loses nothing: the entry goes last, and requeueing again completes it.
func (q *Queue) Requeue(ctx context.Context, c *pipeline.Campaign, segment string, e Entry) error {
	if err := checkSegment(segment); err != nil {
		return err
	}
	if e.Item == nil || e.Raw != nil || e.Item.Campaign != c.Name {
		return fmt.Errorf("requeueing in campaign %s: entry holds no item of it", c.Name)
	}
	id := e.Item.ID
	// The item's subjects are taken in every segment that it has been through; a job published there would be refused, and
	// taken for one that has crossed already.
	if err := q.purge(ctx, StreamJobs, "job.*."+Token(c.Name)+"."+Token(id)); err != nil {
		return fmt.Errorf("requeueing item %s: %w", id, err)
	}
	if _, err := q.Enqueue(ctx, c, segment, Items(e.Item)); err != nil {
		return fmt.Errorf("requeueing item %s: %w", id, err)
	}
	if err := q.purge(ctx, StreamQuarantine, quarantineSubject(c.Name, id)); err != nil {
		return fmt.Errorf("requeueing item %s: %w", id, err)
	}
	return nil
}
