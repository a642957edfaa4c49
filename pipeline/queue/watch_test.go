package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
)

// kvEntry is an entry of a bucket.
type kvEntry struct {
	jetstream.KeyValueEntry
	key string
	rev uint64
	op  jetstream.KeyValueOp
	at  time.Time
	bad bool
}

func (e kvEntry) Key() string                     { return e.key }
func (e kvEntry) Revision() uint64                { return e.rev }
func (e kvEntry) Operation() jetstream.KeyValueOp { return e.op }
func (e kvEntry) Created() time.Time              { return e.at }
func (e kvEntry) Value() []byte {
	if e.bad {
		return []byte("{")
	}
	data, err := json.Marshal(campaign(e.key))
	if err != nil {
		panic(err)
	}
	return data
}

// scriptedKV hands out one watcher after the other. Each tells its entries; then it is closed, or goes silent.
type scriptedKV struct {
	watchers []watcherScript
	opened   []time.Duration // since began
	began    time.Time
}

type watcherScript struct {
	err     error
	entries []kvEntry
	closes  bool
}

type scriptedWatcher struct {
	jetstream.KeyWatcher
	updates chan jetstream.KeyValueEntry
}

func (w scriptedWatcher) Updates() <-chan jetstream.KeyValueEntry { return w.updates }
func (w scriptedWatcher) Stop() error                             { return nil }

func (s *scriptedKV) WatchAll(context.Context, ...jetstream.WatchOpt) (jetstream.KeyWatcher, error) {
	s.opened = append(s.opened, time.Since(s.began))
	w := watcherScript{}
	if len(s.watchers) > 0 {
		w, s.watchers = s.watchers[0], s.watchers[1:]
	}
	if w.err != nil {
		return nil, w.err
	}
	ch := make(chan jetstream.KeyValueEntry, len(w.entries)+1)
	for _, e := range w.entries {
		ch <- e
	}
	ch <- nil
	if w.closes {
		close(ch)
	}
	return scriptedWatcher{updates: ch}, nil
}

// watched runs a watch on the script for a time and returns what it yields.
func watched(t *testing.T, kv *scriptedKV, last func() (uint64, error), d time.Duration) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	kv.began = time.Now()
	var got []string
	for ch, err := range watchWith(ctx, campaignTempo, kv, func(context.Context) (uint64, error) { return last() }, quiet) {
		if err != nil {
			got = append(got, "unreadable")
			continue
		}
		got = append(got, fmt.Sprintf("%s@%d", ch.Campaign.Name, ch.Revision))
	}
	if ctx.Err() == nil {
		t.Error("the watch ended before its context")
	}
	return got
}

func put(key string, rev uint64) kvEntry {
	return kvEntry{key: key, rev: rev, op: jetstream.KeyValuePut, at: time.Unix(int64(rev), 0)}
}

func TestWatchBeginsAgainAndTellsEachStateOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kv := &scriptedKV{watchers: []watcherScript{
			{err: errors.New("no leader")},
			{entries: []kvEntry{put("a", 1), put("b", 2)}, closes: true},
			{entries: []kvEntry{put("a", 1)}, closes: true}, // told by a replica that is behind
			{entries: []kvEntry{put("a", 3), put("b", 2), {key: "c", rev: 4, op: jetstream.KeyValueDelete}}, closes: true},
			{entries: []kvEntry{{key: "d", rev: 5, op: jetstream.KeyValuePut, bad: true}, put("e", 6)}},
		}}
		got := watched(t, kv, func() (uint64, error) { return 6, nil }, time.Hour)
		if d := cmp.Diff([]string{"a@1", "b@2", "a@3", "unreadable", "e@6"}, got); d != "" {
			t.Error(d)
		}
		if len(kv.opened) != 5 { // the last one has told all there is, so it is kept
			t.Errorf("watchers were opened at %v", kv.opened)
		}
	})
}

func TestWatchNoticesThatItIsBlind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kv := &scriptedKV{watchers: []watcherScript{
			{entries: []kvEntry{put("a", 1)}}, // and never again a word
			{entries: []kvEntry{put("a", 1), put("b", 2)}},
		}}
		got := watched(t, kv, func() (uint64, error) { return 2, nil }, 10*time.Minute)
		if d := cmp.Diff([]string{"a@1", "b@2"}, got); d != "" {
			t.Error(d)
		}
		if want := 2*campaignTempo.ask + campaignTempo.again; len(kv.opened) != 2 || kv.opened[1] != want {
			t.Errorf("watchers were opened at %v, want the second at %v", kv.opened, want)
		}
	})
}

func TestWatchBelievesABucketThatBeginsAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		later := put("a", 2)
		later.at = time.Unix(1000, 0)
		kv := &scriptedKV{watchers: []watcherScript{{entries: []kvEntry{put("a", 9)}, closes: true}, {entries: []kvEntry{later}}}}
		got := watched(t, kv, func() (uint64, error) { return 2, nil }, time.Hour)
		if d := cmp.Diff([]string{"a@9", "a@2"}, got); d != "" {
			t.Error(d)
		}
	})
}

// While the server is away the watch tries ever less often, and never gives up.
func TestWatchIsPatient(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kv := &scriptedKV{}
		for range 100 {
			kv.watchers = append(kv.watchers, watcherScript{err: errors.New("no responders")})
		}
		kv.watchers = append(kv.watchers, watcherScript{entries: []kvEntry{put("a", 1)}})
		if got := watched(t, kv, func() (uint64, error) { return 0, errors.New("away") }, time.Hour); len(got) != 1 {
			t.Errorf("got %v", got)
		}
		for n := 10; n < len(kv.opened); n++ {
			if gap := kv.opened[n] - kv.opened[n-1]; gap != campaignTempo.most {
				t.Errorf("gap %d is %v", n, gap)
			}
		}
	})
}

func TestWatchEndsWhenItsLoopIsLeft(t *testing.T) {
	t.Parallel()
	kv := &scriptedKV{watchers: []watcherScript{{entries: []kvEntry{put("a", 1), put("b", 2)}}}}
	n := 0
	for range watchWith(t.Context(), campaignTempo, kv, nil, quiet) {
		n++
		break
	}
	if n != 1 || len(kv.opened) != 1 {
		t.Errorf("%d changes, %d watchers", n, len(kv.opened))
	}
}
