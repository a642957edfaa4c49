package queue

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"time"

	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/nats-io/nats.go/jetstream"
)

// Change is a campaign as it is since a revision.
type Change struct {
	Campaign *pipeline.Campaign
	Revision uint64
}

// watchTempo is how a watch is kept alive: how long it waits before it begins anew, and how often it asks the server
// whether it has missed anything.
type watchTempo struct{ again, most, ask time.Duration }

var campaignTempo = watchTempo{again: 250 * time.Millisecond, most: 10 * time.Second, ask: 20 * time.Second}

// Watch yields every campaign as it is now, and then every change, until ctx ends or the loop is left; nothing else ends it.
// Of changes that come in quick succession some may be left out, never the last one. A campaign that cannot be read is
// yielded as an error, and watching goes on.
//
// While the server is out of reach nothing is yielded, and afterwards what changed meanwhile.
func (b Campaigns) Watch(ctx context.Context) iter.Seq2[Change, error] {
	return watchWith(ctx, campaignTempo, b.q.kv, b.q.lastRevision, b.q.log)
}

// watchedBucket is what a watch needs of a bucket.
type watchedBucket interface {
	WatchAll(context.Context, ...jetstream.WatchOpt) (jetstream.KeyWatcher, error)
}

// The client's watcher is an ephemeral consumer on one server. The client makes a new one when it hears nothing any more,
// but gives up, and closes the watcher, on any answer that it does not know: and a cluster has many such answers while it
// has no leader. A worker whose watch has ended is blind for campaigns that open or close, for good.
func watchWith(ctx context.Context, t watchTempo, kv watchedBucket, last func(context.Context) (uint64, error), log *slog.Logger) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		f := follower{kv: kv, last: last, seen: map[string]stamp{}, yield: yield}
		failures := 0
		for {
			began := time.Now()
			err := f.follow(ctx, t)
			if f.left || ctx.Err() != nil {
				return
			}
			if time.Since(began) > t.most {
				failures = 0
			}
			delay := min(t.again<<min(failures, 10), t.most)
			failures++
			log.WarnContext(ctx, "the watch for campaigns was interrupted; beginning it again", "error", err, "next_try_in", delay)
			select {
			case <-time.After(delay):
			case <-ctx.Done():
				return
			}
		}
	}
}

// lastRevision is the revision of the last change that the bucket still has, as its leader knows it.
func (q *Queue) lastRevision(ctx context.Context) (uint64, error) {
	m, err := q.last(ctx, "KV_"+BucketCampaigns, "$KV."+BucketCampaigns+".>")
	if err != nil || m == nil {
		return 0, err
	}
	return m.Sequence, nil
}

// stamp is which state of a campaign was yielded.
type stamp struct {
	revision uint64
	stored   time.Time
}

// follower is one call of Watch.
type follower struct {
	kv    watchedBucket
	last  func(context.Context) (uint64, error)
	seen  map[string]stamp
	yield func(Change, error) bool
	left  bool // the loop was left
}

var (
	errWatcherClosed = errors.New("the watcher was closed")
	errWatcherBlind  = errors.New("the watcher has missed a change")
)

// follow yields what a fresh watcher tells and was not yielded before, until the watcher ends or has missed something.
func (f *follower) follow(ctx context.Context, t watchTempo) error {
	w, err := f.kv.WatchAll(ctx) // deletions too: they are revisions like any other
	if err != nil {
		return fmt.Errorf("watching campaigns: %w", err)
	}
	defer w.Stop()
	ask := time.NewTicker(t.ask)
	defer ask.Stop()
	var heard, expected uint64 // revisions
	for {
		select {
		case e, ok := <-w.Updates():
			if !ok {
				return errWatcherClosed
			}
			if e == nil {
				continue
			}
			heard = max(heard, e.Revision())
			if e.Operation() != jetstream.KeyValuePut || !f.fresh(e) {
				continue
			}
			c, err := decodeCampaign(e.Key(), e.Value())
			if !f.yield(Change{c, e.Revision()}, err) {
				f.left = true
				return nil
			}
		case <-ask.C:
			// What the server has had since the last time, the watcher must have told by now.
			if heard < expected {
				return errWatcherBlind
			}
			if n, err := f.last(ctx); err == nil {
				expected = n
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// fresh reports whether an entry is newer than what was yielded of its campaign. A fresh watcher may be told by a replica
// that is behind. A bucket that was restored or made anew may count from lower revisions on, so these alone do not say.
func (f *follower) fresh(e jetstream.KeyValueEntry) bool {
	s, ok := f.seen[e.Key()]
	if ok && e.Revision() <= s.revision && !e.Created().After(s.stored) {
		return false
	}
	f.seen[e.Key()] = stamp{e.Revision(), e.Created()}
	return true
}
