package queue

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hallmark-attest/hallmark/pipeline"
)

// work is a stage without effects. It takes a moment, as all that is worth running does.
type work struct{ name string }

func (w work) String() string { return w.name }

func (w work) Run(ctx context.Context, it *pipeline.Item) error {
	select {
	case <-time.After(rand.N(20 * time.Millisecond)):
	case <-ctx.Done():
		return ctx.Err()
	}
	h := fnv.New32a()
	fmt.Fprint(h, it.ID)
	switch n := h.Sum32() % 100; {
	case w.name == "hash" && n < 4:
		return &pipeline.Error{Kind: pipeline.KindPermanent, Cause: "test.failed", Err: errors.New("so it is")}
	case w.name == "hash" && n < 8:
		return &pipeline.Error{Kind: pipeline.KindSkip, Cause: "test.skipped", Err: errors.New("nothing to do")}
	case w.name == "publish" && n > 97:
		return &pipeline.Error{Kind: pipeline.KindPermanent, Cause: "test.late", Err: errors.New("too late")}
	}
	it.Package.Subdir, it.Package.Name = "noarch", "n"
	return nil
}

// settlements counts what a runner has recorded.
type settlements struct {
	pipeline.Observer
	n atomic.Int64
}

func (*settlements) StageDone(context.Context, string, *pipeline.Item, time.Duration, *pipeline.Error) {
}
func (*settlements) Retrying(context.Context, string, *pipeline.Item, *pipeline.Error, time.Duration) {
}
func (s *settlements) Settled(pipeline.Outcome) { s.n.Add(1) }

// TestClusterLosesNothing runs a campaign in two segments with two workers on a cluster of three servers, while leaders are
// moved, nodes are killed and come back, two of three are away, and one stays away in the end. HALLMARK_CLUSTER_ROUNDS=n
// does more of that, n times in one campaign.
func TestClusterLosesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("kills servers for half a minute")
	}
	t.Parallel()
	rounds, long := 1, false
	if s := os.Getenv("HALLMARK_CLUSTER_ROUNDS"); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
		long = true
	}
	cl := newCluster(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	look := cl.open(cl.connect(cl.urls()), Options{Replicas: 3}) // the test's own connection
	c := campaign("cluster")
	if err := look.Campaigns().Create(ctx, c); err != nil {
		t.Fatal(err)
	}
	segments := []string{"hash", "publish"}

	// Two workers, each with a connection of its own and a runner for each segment.
	var workers sync.WaitGroup
	var settled settlements
	var queues []*Queue
	for w := range 2 {
		q := cl.open(cl.connect(cl.nodes[w].url+","+cl.urls()), Options{})
		queues = append(queues, q)
		for k, seg := range segments {
			steps := []pipeline.Step{{Stage: work{seg}, Concurrency: 48}}
			r := &pipeline.Runner{Steps: steps, Ledger: q.Ledger(c, encoder{}), Observer: &settled, Tally: pipeline.NewTally(steps),
				Suspects: q.Suspects(c.Name), Log: quiet, Heartbeat: time.Second, Retry: pipeline.Retry{Max: 500 * time.Millisecond}}
			if k == 0 {
				r.Next = segments[1]
			} else {
				r.Steps[0].Completes = "published"
			}
			var err error
			if r.Source, err = q.Source(ctx, c.Name, seg, SourceOptions{AckWait: 4 * time.Second, Wait: time.Second}); err != nil {
				t.Fatal(err)
			}
			leave, err := q.Present(Presence{Worker: WorkerID(), Campaign: c, Segment: seg, Tally: r.Tally})
			if err != nil {
				t.Fatal(err)
			}
			workers.Go(func() {
				defer leave()
				if err := r.Run(ctx); err != nil {
					t.Errorf("worker %d: %v", w, err)
				}
			})
		}
	}
	defer workers.Wait()
	defer cancel()

	// A watch, as each worker has one.
	var watched sync.Map
	queues[0].log = slog.New(hears{slog.DiscardHandler, "the watch for campaigns was interrupted", func() { t.Log("the watch was interrupted, and begun again") }})
	workers.Go(func() {
		for ch, err := range queues[0].Campaigns().Watch(ctx) {
			if err != nil {
				t.Errorf("watching: %v", err)
				continue
			}
			watched.Store(ch.Campaign.Name, nil)
		}
	})

	// A producer, which does not stop before the disturbances do.
	var enqueued, enough atomic.Int64
	produced := make(chan struct{})
	go func() {
		defer close(produced)
		q := queues[1]
		for at := 0; enough.Load() == 0; at += 50 {
			batch := make([]*pipeline.Item, 50)
			for i := range batch {
				batch[i] = &pipeline.Item{ID: fmt.Sprintf("id%06d", at+i), Filename: "p-1.0-0.conda", Source: "/src"}
			}
			for {
				res, err := q.Enqueue(ctx, c, "hash", Items(batch...))
				if err == nil {
					if n := res.Queued + res.Already; n != len(batch) {
						t.Errorf("enqueued %+v of %d", res, len(batch))
					}
					break
				}
				if ctx.Err() != nil {
					return
				}
				t.Logf("enqueueing, again: %v", err)
			}
			enqueued.Add(int64(len(batch)))
			select { // about the workers' rate, so that there is always something under way
			case <-time.After(60 * time.Millisecond):
			case <-ctx.Done():
				return
			}
		}
	}()

	// Whoever waits for the end must never see that nothing waits while an item has no outcome.
	audit := auditWaiting(t, ctx, look, c, segments, &enqueued)
	workers.Go(audit)

	progress := func() {
		t.Helper()
		from := settled.n.Load()
		cl.soon("going on", func(context.Context) error {
			if n := settled.n.Load() - from; n < 150 {
				return fmt.Errorf("%d outcomes since then", n)
			}
			return nil
		})
	}
	b := queues[0].Budgets("w")
	defer b.Close()
	cl.soon("setting a budget", func(ctx context.Context) error { return look.SetRate(ctx, "", "rekor", 6000) })
	made, began := 0, time.Now()
	// during checks, in the middle of a disturbance that leaves a quorum, that the rest of the queue serves as well.
	during := func(what string) {
		t.Helper()
		made++
		name := fmt.Sprintf("during-%d", made)
		cl.soon(what+": creating a campaign", func(ctx context.Context) error {
			err := look.Campaigns().Create(ctx, campaign(name))
			if errors.Is(err, ErrExists) { // the answer to the first try was lost
				return nil
			}
			return err
		})
		// Once it is there, it is there for everybody, whichever replica a reader is near to.
		for k, q := range queues {
			cl.soon(what+": reading the campaign", func(ctx context.Context) error {
				_, _, err := q.Campaigns().Get(ctx, name)
				if errors.Is(err, ErrNotFound) {
					t.Errorf("%s: worker %d does not see a campaign that exists", what, k)
					return nil
				}
				return err
			})
		}
		cl.soon(what+": seeing the campaign in the watch", func(context.Context) error {
			if _, ok := watched.Load(name); !ok {
				return errors.New("not seen")
			}
			return nil
		})
		cl.soon(what+": noting a suspect", func(ctx context.Context) error {
			return queues[0].Suspects(c.Name).Note(ctx, name, made)
		})
		cl.soon(what+": reading the note", func(ctx context.Context) error {
			n, err := queues[1].Suspects(c.Name).Deaths(ctx, []string{name})
			if err == nil && n[name] != made {
				t.Errorf("%s: the note says %d deaths, not %d", what, n[name], made)
			}
			return err
		})
		tctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
		defer cancel()
		if err := b.Campaign(c.Name).Wait(tctx, "rekor"); err != nil {
			t.Errorf("%s: taking a token: %v", what, err)
		}
		progress()
		t.Logf("%5.1f s: %s, %d outcomes", time.Since(began).Seconds(), what, settled.n.Load())
	}

	progress()
	for range rounds {
		for _, s := range []string{StreamJobs, StreamEvents, StreamQuarantine, "KV_" + BucketCampaigns} {
			cl.stepDown(look, s, "")
		}
		for _, s := range segments {
			cl.stepDown(look, StreamJobs, ConsumerName(c.Name, s))
		}
		during("leaders moved")

		if long {
			n := cl.leader(look, StreamEvents)
			cl.kill(n)
			during("the leader of EVENTS killed")
			cl.start(n)
			cl.whole(look)
			during("it is back")
		}

		n := cl.home(queues[0].nc)
		cl.kill(n)
		during("a worker's own server killed")
		cl.start(n)
		cl.whole(look)

		// No quorum. Work that was begun is kept, and goes on afterwards.
		away := cl.others(cl.leader(look, StreamJobs))
		for _, n := range away {
			cl.kill(n)
		}
		gone, end := context.WithTimeout(ctx, 3*time.Second)
		if err := look.Suspects(c.Name).Note(gone, "nobody", 1); err == nil {
			t.Error("one server of three takes writes")
		}
		end()
		for _, n := range away {
			cl.start(n)
		}
		cl.whole(look)
		during("two of three were away")
	}
	cl.kill(cl.leader(look, StreamJobs)) // for good
	during("one is gone for good")

	enough.Store(1)
	<-produced
	total := uint64(enqueued.Load())
	var n Counts
	cl.soon("finishing", func(ctx context.Context) (err error) {
		if n, err = look.Counts(ctx, c, segments); err == nil && (n.Done() != total || !n.Balanced()) {
			err = fmt.Errorf("%d enqueued, %+v", total, n)
		}
		return err
	})
	t.Logf("%5.1f s: %d items: %+v", time.Since(began).Seconds(), total, n)

	// A few items at a time: now there are moments at which everything is done, and moments shortly before.
	for k := range 20 * rounds {
		var few []*pipeline.Item
		for i := range 1 + rand.N(4) {
			few = append(few, &pipeline.Item{ID: fmt.Sprintf("few%04d-%d", k, i), Filename: "p-1.0-0.conda", Source: "/src"})
		}
		cl.soon("enqueueing a few", func(ctx context.Context) error {
			_, err := look.Enqueue(ctx, c, "hash", Items(few...))
			return err
		})
		total = uint64(enqueued.Add(int64(len(few))))
		cl.soon("finishing a few", func(ctx context.Context) error {
			if done, err := outcomesOf(ctx, look, c, few); err != nil || done < len(few) {
				return fmt.Errorf("%d of %d are done: %w", done, len(few), err)
			}
			return nil
		})
	}
	t.Logf("%5.1f s: %d items", time.Since(began).Seconds(), total)

	answers, err := look.Workers(ctx, c.Name, 2*time.Second)
	if err != nil || len(answers.Workers) != 4 {
		t.Errorf("of 4 runners %d answer: %v", len(answers.Workers), err)
	}
	cancel()
	workers.Wait()
	(&instance{Queue: look}).oneOutcomeEach(t, c, int(total))
}

// auditWaiting asks for the counts as fast as it can, until ctx ends, and tells of each time when none waited while items
// had no outcome. Answers with an error, of which there are many without a quorum, say nothing.
func auditWaiting(t *testing.T, ctx context.Context, q *Queue, c *pipeline.Campaign, segments []string, enqueued *atomic.Int64) func() {
	return func() {
		asked, failed, early, off := 0, 0, 0, 0
		defer func() {
			t.Logf("counts: %d answers, %d errors; %d times none waited too early, %d times unbalanced", asked, failed, early, off)
		}()
		for ctx.Err() == nil {
			known := uint64(enqueued.Load()) // before the counts, so those are enqueued for certain
			n, err := q.Counts(ctx, c, segments)
			if err != nil {
				failed++
				continue
			}
			asked++
			if !n.Balanced() {
				off++
			}
			if n.Waiting() > 0 || known == 0 {
				continue
			}
			// What has an outcome now, by the leader's word, is at least what had one then.
			done, err := outcomes(ctx, q, c)
			if err == nil && done < known {
				early++
				t.Errorf("none waits, but %d of %d items have no outcome yet: %+v", known-done, known, n)
			}
		}
	}
}

// outcomes is how many items have one, by the leaders' word.
func outcomes(ctx context.Context, q *Queue, c *pipeline.Campaign) (uint64, error) {
	ids := map[string]bool{}
	for _, f := range []struct{ stream, filter string }{
		{StreamEvents, eventFilter("published", c.Name)}, {StreamEvents, eventFilter("skipped", c.Name)}, {StreamQuarantine, quarantineFilter(c.Name)},
	} {
		s, err := q.js.Stream(ctx, f.stream)
		if err != nil {
			return 0, err
		}
		info, err := s.Info(ctx, jetstream.WithSubjectFilter(f.filter))
		if err != nil {
			return 0, err
		}
		for subject := range info.State.Subjects {
			ids[lastToken(subject)] = true
		}
	}
	return uint64(len(ids)), nil
}

// outcomesOf is how many of the items have an outcome.
func outcomesOf(ctx context.Context, q *Queue, c *pipeline.Campaign, items []*pipeline.Item) (int, error) {
	done := 0
	for _, it := range items {
		found, err := q.exists(ctx, StreamQuarantine, quarantineSubject(c.Name, it.ID))
		for _, kind := range []string{"published", "skipped"} {
			if err == nil && !found {
				found, err = q.exists(ctx, StreamEvents, eventPrefix+kind+"."+c.Name+".*.*.*."+it.ID)
			}
		}
		if err != nil {
			return 0, err
		}
		if found {
			done++
		}
	}
	return done, nil
}

// oneOutcomeEach checks item by item that each has exactly one of published, skipped and being in quarantine.
func (i *instance) oneOutcomeEach(t *testing.T, c *pipeline.Campaign, total int) {
	t.Helper()
	ends := map[string][]string{}
	for _, kind := range []string{"published", "skipped"} {
		for _, id := range i.ids(t, StreamEvents, eventFilter(kind, c.Name)) {
			ends[id] = append(ends[id], kind)
		}
	}
	for _, id := range i.ids(t, StreamQuarantine, quarantineFilter(c.Name)) {
		ends[id] = append(ends[id], "in quarantine")
	}
	failed := i.ids(t, StreamEvents, eventFilter("failed", c.Name))
	if len(ends) != total {
		t.Errorf("%d of %d items have an outcome", len(ends), total)
	}
	for id, k := range ends {
		if len(k) != 1 {
			t.Errorf("item %s has the outcomes %q", id, k)
		}
		if k[0] == "in quarantine" && !slices.Contains(failed, id) {
			t.Errorf("item %s is in quarantine without an event", id)
		}
	}
}
