package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/hallmark-attest/hallmark/pipeline"
)

// TestClusterMigrate makes three replicas of one while a worker runs, and then does without the server that had them all.
func TestClusterMigrate(t *testing.T) {
	if testing.Short() {
		t.Skip("starts three servers and kills one")
	}
	t.Parallel()
	cl := newCluster(t)
	nc := cl.connect(cl.urls())
	q := cl.open(nc, Options{}) // one replica each, somewhere
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := campaign("migrate")
	if err := q.Campaigns().Create(ctx, c); err != nil {
		t.Fatal(err)
	}
	const total = 1500
	if _, err := q.Enqueue(ctx, c, "hash", Items(items(total)...)); err != nil {
		t.Fatal(err)
	}
	src, err := q.Source(ctx, c.Name, "hash", SourceOptions{Wait: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	var settled settlements
	r := &pipeline.Runner{Steps: []pipeline.Step{{Stage: work{"publish"}, Concurrency: 4, Completes: "published"}}, Source: src,
		Ledger: q.Ledger(c, encoder{}), Observer: &settled, Log: quiet, Heartbeat: time.Second}
	var worker sync.WaitGroup
	worker.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer worker.Wait()
	defer cancel()
	cl.soon("beginning", func(context.Context) error {
		if settled.n.Load() == 0 {
			return errors.New("no outcome yet")
		}
		return nil
	})

	o := Options{Replicas: 3, Log: quiet}
	if _, err := Open(ctx, nc, o); !errorsIsMismatch(err) {
		t.Errorf("opening with three replicas what has one: %v", err)
	}
	found, err := Check(ctx, nc, o)
	if err != nil || found.Findings() != 6 {
		t.Errorf("%d differences: %v", found.Findings(), err)
	}
	m, err := Migrate(ctx, nc, o)
	if err != nil {
		t.Fatal(err)
	}
	if settled.n.Load() == total {
		t.Error("the campaign was over before the migration was: this proves nothing")
	}
	for _, a := range m.Assets {
		if a.Replicas != 3 || len(a.Findings) > 0 { // Behind: a moment, while the worker goes on
			t.Errorf("after the migration: %+v", a)
		}
		if changed := fmt.Sprint(settings(a.Changed)); a.Kind != AssetConsumer && changed != "[num_replicas is 1, want 3]" {
			t.Errorf("%s was changed: %s", a.Name, changed)
		}
	}
	if m, err = Migrate(ctx, nc, Options{Log: quiet}); err != nil || m.Findings() > 0 {
		t.Errorf("again: %+v, %v", m, err)
	}

	// A bucket that a new version brings gets as many replicas as the rest.
	if err := q.js.DeleteStream(ctx, "KV_"+BucketBudgets); err != nil {
		t.Fatal(err)
	}
	cl.open(nc, Options{})
	s, err := q.js.Stream(ctx, "KV_"+BucketBudgets)
	if err != nil || s.CachedInfo().Config.Replicas != 3 {
		t.Errorf("a missing bucket was made with %d replicas: %v", s.CachedInfo().Config.Replicas, err)
	}

	// What is in flight then is handed out again soon, and not only after a minute.
	if _, err := q.Source(ctx, c.Name, "hash", SourceOptions{AckWait: 4 * time.Second}); err != nil {
		t.Fatal(err)
	}
	// The proof that there are three: any of them may go.
	cl.kill(cl.leader(q, StreamJobs))
	cl.soon("finishing", func(ctx context.Context) error {
		n, err := q.Counts(ctx, c, oneSegment)
		if err == nil && (n.Done() != total || !n.Balanced()) {
			err = fmt.Errorf("%+v", n)
		}
		return err
	})
	cancel()
	worker.Wait()
	(&instance{Queue: q}).oneOutcomeEach(t, c, total)
}

func errorsIsMismatch(err error) bool {
	_, ok := errors.AsType[*StreamMismatchError](err)
	return ok
}
