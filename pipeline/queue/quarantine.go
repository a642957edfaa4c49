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

	// Sequence is the entry's place in the stream, Stored when it came there, and Context carries the trace of the item's last
	// way through the pipeline. They are what the stream says, not what the entry does.
	Sequence uint64          `json:"-"`
	Stored   time.Time       `json:"-"`
	Context  context.Context `json:"-"`
}

// Malformed reports whether the entry holds no item: neither can it be retried.
func (e Entry) Malformed() bool { return e.Raw != nil || e.Item == nil || e.Item.Filename == "" }

const maxRaw = 256 << 10

func quarantineMessage(campaign string, o pipeline.Outcome, raw []byte) (*nats.Msg, error) {
	f := *o.Failure
	f.Attempts += o.Delivery.Item.Tried
	data, err := json.Marshal(Entry{Item: o.Delivery.Item, Failure: f, Raw: raw[:min(len(raw), maxRaw)]})
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

// Quarantined yields the items that are in the campaign's quarantine now, in the order in which they came; what comes
// while it is read is left out. An entry that cannot be read is yielded as an error and does not end the sequence; an error
// with a zero Entry does.
func (q *Queue) Quarantined(ctx context.Context, campaign string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for m, err := range q.replay(ctx, StreamQuarantine, quarantineFilter(campaign), true) {
			if err != nil {
				yield(Entry{}, fmt.Errorf("reading quarantine of campaign %s: %w", campaign, err))
				return
			}
			e, err := readEntry(campaign, m.msg)
			e.Sequence, e.Stored, e.Context = m.Sequence.Stream, m.Timestamp.UTC(), extract(m.msg.Headers())
			if !yield(e, err) {
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
	} else {
		id = token
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
