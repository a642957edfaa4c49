package queue

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hallmark-attest/hallmark/pipeline"
)

// update changes a stream behind the pipeline's back.
func (i *instance) update(t *testing.T, stream string, set func(*jetstream.StreamConfig)) {
	t.Helper()
	s, err := i.js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	set(&cfg)
	if _, err := i.js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
}

func (r *Report) asset(t *testing.T, kind, name string) Asset {
	t.Helper()
	for _, a := range r.Assets {
		if a.Kind == kind && a.Name == name {
			return a
		}
	}
	t.Fatalf("no %s %s in the report", kind, name)
	return Asset{}
}

func settings(fs []Finding) []string {
	var out []string
	for _, f := range fs {
		out = append(out, f.Difference.String())
	}
	return out
}

func (i *instance) migrate(t *testing.T, o Options) *Report {
	t.Helper()
	o.Log = quiet
	r, err := Migrate(t.Context(), i.nc, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestCheckFindsNothingInWhatOpenMade(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{JobsMaxBytes: 1 << 20})
	c := campaign("nothing")
	i.create(t, c)
	i.source(t, c, "hash", SourceOptions{MaxAckPending: 7})
	r, err := Check(t.Context(), i.nc, Options{Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if r.Findings() != 0 {
		t.Errorf("%+v", r)
	}
	var names []string
	for _, a := range r.Assets {
		names = append(names, a.Kind+" "+a.Name)
	}
	want := []string{"stream JOBS", "stream EVENTS", "stream QUARANTINE", "bucket campaigns", "bucket suspects", "bucket budgets", "consumer hash@nothing"}
	if d := cmp.Diff(want, names); d != "" {
		t.Error(d)
	}
}

func TestMigrateChangesWhatItCanAndLosesNothing(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	c := campaign("migrate")
	i.create(t, c)
	i.enqueue(t, c, items(40), EnqueueResult{Queued: 40})
	s := i.source(t, c, "hash", SourceOptions{})
	var os []pipeline.Outcome
	for _, d := range take(t, s, 10) {
		os = append(os, outcome(d, pipeline.OutcomePublished))
	}
	if err := i.Ledger(c, encoder{}).Settle(t.Context(), os); err != nil {
		t.Fatal(err)
	}
	i.update(t, StreamJobs, func(s *jetstream.StreamConfig) {
		s.AllowDirect, s.AllowAtomicPublish, s.MaxMsgs, s.MaxMsgSize, s.MaxConsumers = false, false, 1000, 1<<16, 50
		s.DiscardNewPerSubject, s.Discard, s.MaxAge = false, jetstream.DiscardOld, time.Hour
		s.Subjects = []string{"job.>", "jobs.>"}
	})
	i.update(t, StreamEvents, func(s *jetstream.StreamConfig) {
		s.Duplicates, s.Compression, s.MaxAge = time.Minute, jetstream.S2Compression, 24*time.Hour // the age is the operator's
	})
	i.update(t, "KV_"+BucketCampaigns, func(s *jetstream.StreamConfig) { s.MaxMsgsPerSubject, s.MaxAge = 2, time.Hour })
	if err := i.js.DeleteStream(t.Context(), "KV_"+BucketSuspects); err != nil {
		t.Fatal(err)
	}
	cons, err := i.js.Consumer(t.Context(), StreamJobs, "hash@migrate")
	if err != nil {
		t.Fatal(err)
	}
	cfg := cons.CachedInfo().Config
	cfg.MaxDeliver, cfg.AckWait, cfg.InactiveThreshold = 9, 90*time.Second, time.Hour
	if _, err := i.js.UpdateConsumer(t.Context(), StreamJobs, cfg); err != nil {
		t.Fatal(err)
	}

	if _, err := Open(t.Context(), i.nc, Options{Log: quiet}); err == nil || !strings.Contains(err.Error(), "producer queue migrate") {
		t.Errorf("opening: %v", err)
	}
	r, err := Check(t.Context(), i.nc, Options{Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	jobs := []string{"subjects is [job.> jobs.>], want [job.>]", "discard is DiscardOld, want DiscardNew",
		"discard_new_per_subject is false, want true", "allow_direct is false, want true", "allow_atomic is false, want true",
		"max_age is 1h0m0s, want unlimited", "max_msgs is 1000, want unlimited", "max_msg_size is 65536, want unlimited", "max_consumers is 50, want unlimited"}
	if d := cmp.Diff(jobs, settings(r.asset(t, AssetStream, StreamJobs).Findings)); d != "" {
		t.Error(d)
	}
	if !r.asset(t, AssetBucket, BucketSuspects).Missing {
		t.Error("a missing bucket is not found")
	}
	again, err := Check(t.Context(), i.nc, Options{Log: quiet})
	if err != nil || cmp.Diff(r, again) != "" {
		t.Errorf("checking changed something: %v\n%s", err, cmp.Diff(r, again))
	}

	m := i.migrate(t, Options{})
	if m.Findings() != 0 {
		t.Errorf("left: %+v", m)
	}
	for name, want := range map[[2]string][]string{
		{AssetStream, StreamJobs}:       jobs,
		{AssetStream, StreamEvents}:     {"compression is S2, want None", "duplicate_window is 1m0s, want 1h0m0s"},
		{AssetBucket, BucketCampaigns}:  {"max_msgs_per_subject is 2, want 8", "max_age is 1h0m0s, want unlimited"},
		{AssetConsumer, "hash@migrate"}: {"ack_wait is 1m30s, want 1m0s", "max_deliver is 9, want unlimited", "inactive_threshold is 1h0m0s, want none"},
		{AssetStream, StreamQuarantine}: nil,
		{AssetBucket, BucketBudgets}:    nil,
	} {
		if d := cmp.Diff(want, settings(m.asset(t, name[0], name[1]).Changed)); d != "" {
			t.Errorf("%v: %s", name, d)
		}
	}
	if !m.asset(t, AssetBucket, BucketSuspects).Created {
		t.Error("the missing bucket is not created")
	}
	// Again: nothing is left to do.
	for _, a := range i.migrate(t, Options{}).Assets {
		if len(a.Changed)+len(a.Findings) > 0 || a.Created {
			t.Errorf("the second time: %+v", a)
		}
	}
	q, err := Open(t.Context(), i.nc, Options{Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	i.Queue = q
	n := i.quietCounts(t, c, oneSegment, func(n Counts) bool { return n.Published == 10 })
	if n.Enqueued != 40 || n.Waiting() != 30 {
		t.Errorf("counts %+v", n)
	}
	i.enqueue(t, c, items(41), EnqueueResult{Queued: 1, Already: 40})
	take(t, i.source(t, c, "hash", SourceOptions{}), 31)
	if s, err := i.js.Stream(t.Context(), StreamEvents); err != nil || s.CachedInfo().Config.MaxAge != 24*time.Hour {
		t.Errorf("the age of events was changed: %v", err)
	}
}

func TestMigrateLeavesAloneWhatNeedsAPerson(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	ctx := t.Context()
	c := campaign("manual")
	i.create(t, c)
	i.enqueue(t, c, items(3), EnqueueResult{Queued: 3})
	// A work queue on disk, of memory, that may not be purged; and several messages of one subject.
	for _, name := range []string{StreamQuarantine, StreamEvents} {
		if err := i.js.DeleteStream(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := i.js.CreateStream(ctx, jetstream.StreamConfig{Name: StreamQuarantine, Subjects: []string{"quarantine.>"}, Storage: jetstream.MemoryStorage,
		Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardOld, AllowDirect: true, DenyPurge: true, DenyDelete: true}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := i.js.Publish(ctx, "quarantine.manual.x", []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	events := streams(Options{Replicas: 1})[1]
	events.PersistMode, events.AllowAtomicPublish = jetstream.AsyncPersistMode, false
	if _, err := i.js.CreateStream(ctx, events); err != nil {
		t.Fatal(err)
	}
	if err := i.js.DeleteConsumer(ctx, StreamJobs, "hash@manual"); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		t.Fatal(err)
	}
	if _, err := i.js.CreateConsumer(ctx, StreamJobs, jetstream.ConsumerConfig{Durable: "hash@manual", FilterSubject: "job.hash.manual.id000001",
		AckPolicy: jetstream.AckAllPolicy, DeliverPolicy: jetstream.DeliverNewPolicy, MemoryStorage: true, AckWait: time.Minute, MaxDeliver: -1}); err != nil {
		t.Fatal(err)
	}

	for range 2 { // the second time is like the first
		r := i.migrate(t, Options{Replicas: 3})
		q := r.asset(t, AssetStream, StreamQuarantine)
		want := []string{"retention is WorkQueue, want Limits", "storage is Memory, want File", "max_msgs_per_subject is unlimited, want 1",
			"deny_delete is true, want false", "deny_purge is true, want false", "num_replicas is 1, want 3"}
		if d := cmp.Diff(want, settings(q.Findings)); d != "" {
			t.Error(d)
		}
		for _, f := range q.Findings {
			if (f.Manual == "") == (f.Error == "") {
				t.Errorf("%+v says not what to do", f)
			}
			if f.Setting == "max_msgs_per_subject" && !strings.Contains(f.Manual, "would remove messages") {
				t.Error(f.Manual)
			}
			if f.Setting == "num_replicas" && f.Error == "" {
				t.Error("a single server made three replicas")
			}
		}
		if q.Messages != 2 {
			t.Errorf("%d messages are left of 2", q.Messages)
		}
		e := r.asset(t, AssetStream, StreamEvents)
		if got := settings(e.Findings); got[0] != "persist_mode is Async, want Default" || e.Findings[0].Manual == "" {
			t.Errorf("%+v", e.Findings)
		}
		k := r.asset(t, AssetConsumer, "hash@manual")
		want = []string{"filter_subject is job.hash.manual.id000001, want job.hash.manual.>", "deliver_policy is new, want all",
			"ack_policy is AckAll, want AckExplicit", "mem_storage is true, want false"}
		if d := cmp.Diff(want, settings(k.Findings)); d != "" {
			t.Error(d)
		}
		for _, f := range k.Findings {
			if f.Manual == "" {
				t.Errorf("%+v says not what to do", f)
			}
		}
	}
	_, err := i.Source(ctx, c.Name, "hash", SourceOptions{})
	if e, ok := errors.AsType[*StreamMismatchError](err); !ok || e.Consumer != "hash@manual" {
		t.Errorf("a consumer that would pass over items is used: %v", err)
	}
}

// What an operator has shortened stays longer as long as it would cost messages.
func TestMigrateRemovesNoMessages(t *testing.T) {
	t.Parallel()
	now := time.Now()
	old := jetstream.StreamState{Msgs: 3, NumSubjects: 3, Bytes: 5000, FirstTime: now.Add(-time.Hour)}
	have := streams(Options{})[2]
	for name, test := range map[string]struct {
		want   func(*jetstream.StreamConfig)
		state  jetstream.StreamState
		manual bool
	}{
		"bytes":              {func(s *jetstream.StreamConfig) { s.MaxBytes = 4000 }, old, true},
		"bytes, enough":      {func(s *jetstream.StreamConfig) { s.MaxBytes = 6000 }, old, false},
		"bytes, discard new": {func(s *jetstream.StreamConfig) { s.MaxBytes, s.Discard = 4000, jetstream.DiscardNew }, old, false},
		"age":                {func(s *jetstream.StreamConfig) { s.MaxAge = time.Minute }, old, true},
		"age, enough":        {func(s *jetstream.StreamConfig) { s.MaxAge = 2 * time.Hour }, old, false},
		"age, nothing there": {func(s *jetstream.StreamConfig) { s.MaxAge = time.Minute }, jetstream.StreamState{}, false},
		"age of suspects":    {func(s *jetstream.StreamConfig) { s.MaxAge, s.Name = time.Minute, "KV_suspects" }, old, false},
	} {
		want := have
		test.want(&want)
		cs := changes(have, want)
		spare(cs, have, want, test.state)
		if len(cs) == 0 {
			t.Errorf("%s: no difference", name)
			continue
		}
		c := cs[len(cs)-1]
		if (c.manual != "") != test.manual || (c.set == nil) != test.manual {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

func TestMigrateEndsWithItsContext(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Migrate(ctx, i.nc, Options{Log: quiet}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
