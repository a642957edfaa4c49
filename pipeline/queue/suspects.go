package queue

import (
	"context"
	"encoding/hex"
	"fmt"
	"strconv"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Suspects are the notes about a campaign's items that came again and again (see pipeline.Suspects). They are kept in a
// bucket, one key for each such item that is being worked on, and go away by themselves after a week.
//
// It is safe for concurrent use.
type Suspects struct {
	q        *Queue
	campaign string
}

// Suspects returns the campaign's notes.
func (q *Queue) Suspects(campaign string) *Suspects { return &Suspects{q, campaign} }

func (s *Suspects) key(id string) string { return s.campaign + "." + hex.EncodeToString([]byte(id)) }

// Deaths implements pipeline.Suspects.
func (s *Suspects) Deaths(ctx context.Context, ids []string) (map[string]int, error) {
	ctx, cancel := s.q.within(ctx)
	defer cancel()
	out := map[string]int{}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(lookups)
	for _, id := range ids {
		g.Go(func() error {
			m, err := s.q.key(ctx, BucketSuspects, s.key(id))
			if err != nil {
				return fmt.Errorf("reading the note about item %s: %w", id, err)
			}
			if m == nil {
				return nil
			}
			n, err := strconv.Atoi(string(m.Data))
			if err != nil || n < 0 {
				n = 0 // not ours: no evidence
			}
			mu.Lock()
			defer mu.Unlock()
			out[id] = n
			return nil
		})
	}
	return out, g.Wait()
}

// Note implements pipeline.Suspects.
func (s *Suspects) Note(ctx context.Context, id string, deaths int) error {
	ctx, cancel := s.q.within(ctx)
	defer cancel()
	if _, err := s.q.suspects.Put(ctx, s.key(id), []byte(strconv.Itoa(deaths))); err != nil {
		return fmt.Errorf("noting item %s: %w", id, err)
	}
	return nil
}

// Clear implements pipeline.Suspects.
func (s *Suspects) Clear(ctx context.Context, id string) error {
	ctx, cancel := s.q.within(ctx)
	defer cancel()
	if err := s.q.suspects.Purge(ctx, s.key(id)); err != nil {
		return fmt.Errorf("removing the note about item %s: %w", id, err)
	}
	return nil
}
