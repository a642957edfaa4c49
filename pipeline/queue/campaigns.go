package queue

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/nats-io/nats.go/jetstream"
)

// What the campaigns bucket answers.
var (
	ErrExists   = errors.New("campaign exists already")
	ErrNotFound = errors.New("no such campaign")
	ErrClosed   = errors.New("campaign is closed")
	// ErrEnding: the campaign is being aborted. ErrPaused: it hands nothing out. ErrFrozen: it was closed and reopened, and takes
	// back items of its own, but no new ones.
	ErrEnding   = errors.New("campaign takes no more items")
	ErrPaused   = errors.New("campaign is paused")
	ErrFrozen   = errors.New("campaign was closed once and takes no new items")
	ErrConflict = errors.New("campaign was changed by somebody else")
)

// WaitingError says that a campaign cannot be closed, as items still wait or are worked on.
type WaitingError struct {
	Campaign string
	Items    uint64
}

func (e *WaitingError) Error() string {
	return fmt.Sprintf("campaign %s has %d items that are not done", e.Campaign, e.Items)
}

// Campaigns is the bucket of campaigns. It is safe for concurrent use.
type Campaigns struct{ q *Queue }

// Campaigns returns the bucket.
func (q *Queue) Campaigns() Campaigns { return Campaigns{q} }

// Create adds a campaign, which MUST be valid. ErrExists if there is one of this name. After another error it may be there all
// the same, where the server's answer was lost.
func (b Campaigns) Create(ctx context.Context, c *pipeline.Campaign) error {
	ctx, cancel := b.q.within(ctx)
	defer cancel()
	data, err := encodeCampaign(c)
	if err == nil {
		_, err = b.q.kv.Create(ctx, c.Name, data)
		if errors.Is(err, jetstream.ErrKeyExists) {
			err = ErrExists
		}
	}
	if err != nil {
		return fmt.Errorf("creating campaign %s: %w", c.Name, err)
	}
	return nil
}

// Get returns a campaign and the revision that Update wants. ErrNotFound if there is none.
func (b Campaigns) Get(ctx context.Context, name string) (*pipeline.Campaign, uint64, error) {
	// A replica that is behind would not know a campaign that was just created.
	var m *stored
	var err error
	if name != "" && Token(name) == name { // else no campaign can have it
		m, err = b.q.key(ctx, BucketCampaigns, name)
	}
	if err == nil && m == nil {
		err = ErrNotFound
	}
	if err != nil {
		return nil, 0, fmt.Errorf("reading campaign %q: %w", name, err)
	}
	c, err := decodeCampaign(name, m.Data)
	if err != nil {
		return nil, 0, err
	}
	return c, m.Sequence, nil
}

// List returns all campaigns, the oldest first.
func (b Campaigns) List(ctx context.Context) ([]*pipeline.Campaign, error) {
	w, err := b.q.kv.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("listing campaigns: %w", err)
	}
	defer w.Stop()
	var out []*pipeline.Campaign
	for {
		select {
		case e, ok := <-w.Updates():
			if !ok {
				return nil, fmt.Errorf("listing campaigns: %w", cmp.Or(ctx.Err(), errors.New("connection closed")))
			}
			if e == nil { // all are read
				slices.SortFunc(out, func(x, y *pipeline.Campaign) int {
					return cmp.Or(x.Created.Compare(y.Created), strings.Compare(x.Name, y.Name))
				})
				return out, nil
			}
			c, err := decodeCampaign(e.Key(), e.Value())
			if err != nil {
				return nil, err
			}
			out = append(out, c)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Update replaces a campaign that has the revision, and returns the new one. ErrConflict if it has another by now.
func (b Campaigns) Update(ctx context.Context, c *pipeline.Campaign, revision uint64) (uint64, error) {
	ctx, cancel := b.q.within(ctx)
	defer cancel()
	data, err := encodeCampaign(c)
	var rev uint64
	if err == nil {
		rev, err = b.q.kv.Update(ctx, c.Name, data, revision)
		if errors.Is(err, jetstream.ErrKeyExists) || errors.Is(verdict(err), errOverruled) {
			err = ErrConflict
		}
	}
	if err != nil {
		return 0, fmt.Errorf("changing campaign %s: %w", c.Name, err)
	}
	return rev, nil
}

// segments are the segments of the campaign that have a consumer.
func (q *Queue) segments(ctx context.Context, campaign string) ([]string, error) {
	s, err := q.js.Stream(ctx, StreamJobs)
	if err != nil {
		return nil, fmt.Errorf("listing consumers: %w", err)
	}
	var out []string
	l := s.ConsumerNames(ctx)
	for name := range l.Name() {
		if seg, ok := strings.CutSuffix(name, "@"+campaign); ok {
			out = append(out, seg)
		}
	}
	if err := l.Err(); err != nil {
		return nil, fmt.Errorf("listing consumers: %w", err)
	}
	slices.Sort(out)
	return out, nil
}

// waiting is how many jobs of the campaign are not acknowledged, in all segments, whether they have a consumer or not.
func (q *Queue) waiting(ctx context.Context, campaign string) (uint64, error) {
	total, err := q.count(ctx, StreamJobs, "job.*."+Token(campaign)+".>")
	if err != nil {
		return 0, err
	}
	segments, err := q.segments(ctx, campaign)
	if err != nil {
		return 0, err
	}
	for _, s := range segments {
		n, err := q.segment(ctx, campaign, s)
		if err != nil {
			return 0, err
		}
		total -= n.jobs - n.Pending - n.InFlight
	}
	return total, nil
}

func encodeCampaign(c *pipeline.Campaign) ([]byte, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return json.Marshal(c)
}

func decodeCampaign(key string, value []byte) (*pipeline.Campaign, error) {
	var c pipeline.Campaign
	err := json.Unmarshal(value, &c)
	if err == nil && c.Name != key {
		err = fmt.Errorf("it is called %q", c.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("campaign %s cannot be read: %w", key, err)
	}
	return &c, nil
}
