package queue

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hallmark-attest/hallmark/pipeline"
)

// What the child process is told: the folder of the queue, and how many items there are.
const (
	steeredEnv      = "HALLMARK_QUEUE_TEST_STEERED"
	steeredItemsEnv = "HALLMARK_QUEUE_TEST_STEERED_ITEMS"
)

// steered works on a campaign in both segments while somebody retries and drops at random what was set aside, or aborts the
// campaign, if that is its state; and all the time the ledger is looked at. It goes on until it is killed or nothing is left.
func steered(dir string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var total uint64
	if _, err := fmt.Sscan(os.Getenv(steeredItemsEnv), &total); err != nil {
		return err
	}
	i, err := openInstance(ctx, dir, Options{})
	if err != nil {
		return err
	}
	defer i.close()
	c := campaign("exact")
	if _, err := i.Sweep(ctx, c.Name); err != nil {
		return err
	}
	now, _, err := i.Campaigns().Get(ctx, c.Name)
	if err != nil {
		return err
	}
	work := i.settleAtRandom
	switch now.State {
	case pipeline.StateAborting:
		work = i.abortAtRandom
	case pipeline.StateClosed: // by an abort that was killed before it could say so, or in the middle of closing
		work = func(ctx context.Context, c *pipeline.Campaign) error { return i.Campaigns().Close(ctx, c.Name) }
	}
	fmt.Println("ready")
	var wg sync.WaitGroup
	errs := make(chan error, 3)
	always := func(what string, do func(context.Context, *pipeline.Campaign) error) {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := do(ctx, c); err != nil && ctx.Err() == nil {
					errs <- fmt.Errorf("%s: %w", what, err)
					return
				}
			}
		})
	}
	always("looking at the ledger", func(ctx context.Context, c *pipeline.Campaign) error { return i.exact(ctx, c, total) })
	if now.State == pipeline.StateOpen {
		always("retrying", i.retryAtRandom)
		always("dropping", i.dropAtRandom)
	}
	err = work(ctx, c)
	cancel()
	wg.Wait()
	select {
	case e := <-errs:
		err = errors.Join(err, e)
	default:
	}
	if err == nil {
		fmt.Println("done")
	}
	return err
}

// exact fails if an item is missing from the counts, or if it is not known how many there are.
func (i *instance) exact(ctx context.Context, c *pipeline.Campaign, total uint64) error {
	n, err := i.Counts(ctx, c, killSegments)
	if err != nil {
		return err
	}
	if n.Enqueued != total || n.missing() || n.Done() <= total && n.Done()+n.Open() != total {
		return fmt.Errorf("of %d items the counts are %+v", total, n)
	}
	time.Sleep(rand.N(3 * time.Millisecond))
	return nil
}

// some yields about one in so many of the entries.
func some(all iter.Seq2[Entry, error], in int) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for e, err := range all {
			if (err != nil || rand.N(in) == 0) && !yield(e, err) {
				return
			}
		}
	}
}

func (i *instance) retryAtRandom(ctx context.Context, c *pipeline.Campaign) error {
	time.Sleep(rand.N(20 * time.Millisecond))
	_, err := i.Retry(ctx, c, killSegments[0], some(i.Quarantined(ctx, c.Name), 3))
	return err
}

func (i *instance) dropAtRandom(ctx context.Context, c *pipeline.Campaign) error {
	time.Sleep(rand.N(50 * time.Millisecond))
	_, err := i.Drop(ctx, c, killSegments[0], encoder{}, some(i.Quarantined(ctx, c.Name), 40))
	return err
}

// settleAtRandom ends items, each somehow, until nothing waits.
func (i *instance) settleAtRandom(ctx context.Context, c *pipeline.Campaign) error {
	l := i.Ledger(c, encoder{})
	var sources []pipeline.Source
	for _, seg := range killSegments {
		s, err := i.Source(ctx, c.Name, seg, SourceOptions{AckWait: time.Second, Wait: time.Second, Encoder: encoder{}})
		if err != nil {
			return err
		}
		sources = append(sources, s)
	}
	for {
		for k, s := range sources {
			ds, err := s.Next(ctx, 1+rand.N(80))
			if err != nil {
				return err
			}
			var os []pipeline.Outcome
			for _, d := range ds {
				kind := pipeline.OutcomePublished
				switch n := rand.N(100); {
				case n < 30:
					kind = pipeline.OutcomeFailed
				case n < 40:
					kind = pipeline.OutcomeSkipped
				case k == 0:
					kind = pipeline.OutcomeCrossed
				}
				o := outcome(d, kind)
				if k == 0 {
					o.Next = killSegments[1]
				}
				if kind != pipeline.OutcomePublished && rand.N(4) == 0 {
					o = early(o)
				}
				os = append(os, o)
			}
			if err := l.Settle(ctx, os); err != nil {
				return err
			}
		}
		n, err := i.Counts(ctx, c, killSegments)
		if err != nil || n.Waiting() == 0 {
			return err
		}
	}
}

func (i *instance) abortAtRandom(ctx context.Context, c *pipeline.Campaign) error {
	_, err := i.Abort(ctx, c, killSegments, encoder{})
	return err
}

// TestExactLedger: a dozen times the server is killed, and with it a worker, somebody who retries and somebody who drops what
// was set aside; then the campaign is aborted, by commands that are killed too. Whenever anybody looks, no item is missing; in
// the end each has one outcome.
func TestExactLedger(t *testing.T) {
	if testing.Short() {
		t.Skip("kills a dozen processes")
	}
	t.Parallel()
	const total = 1500
	dir := t.TempDir()
	c := campaign("exact")
	// look opens the queue while nobody works on it. Nothing moves: it adds up once what the kill brought back is swept.
	look := func(when string) Counts {
		i := open(t, dir, Options{})
		defer i.close()
		n := i.counts(t, c, killSegments)
		if n.Enqueued != total || n.missing() {
			t.Errorf("%s the counts are %+v", when, n)
		}
		swept, err := i.Sweep(t.Context(), c.Name)
		if err != nil {
			t.Fatal(err)
		}
		n = i.counts(t, c, killSegments)
		if n.Enqueued != total || n.missing() || n.Done()+n.Open() != total {
			t.Errorf("%s, %d being swept, the counts are %+v", when, swept, n)
		}
		stands := map[string]bool{}
		for s, err := range i.Standings(t.Context(), c, killSegments[0]) {
			if err != nil {
				t.Fatal(err)
			}
			stands[s.ID] = true
		}
		if len(stands) != total {
			t.Errorf("%s %d items stand somewhere", when, len(stands))
		}
		return n
	}
	i := open(t, dir, Options{})
	i.create(t, c)
	i.enqueue(t, c, items(total), EnqueueResult{Queued: total})
	i.close()
	run := func(after time.Duration) (done bool) {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), steeredEnv+"="+dir, fmt.Sprintf("%s=%d", steeredItemsEnv, total))
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewScanner(out); lines.Scan(); {
			switch line := lines.Text(); {
			case line == "ready" && after > 0:
				timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
				defer timer.Stop()
			case line == "done":
				done = true
			case strings.HasPrefix(line, "error:"):
				t.Error(line)
			}
		}
		_ = cmd.Wait()
		return done
	}
	kills := 0
	for range 12 {
		if run(50*time.Millisecond + rand.N(600*time.Millisecond)) {
			break
		}
		kills++
		look(fmt.Sprintf("after %d kills", kills))
	}
	i = open(t, dir, Options{})
	if _, err := i.Campaigns().Aborting(t.Context(), c.Name, ""); err != nil {
		t.Fatal(err)
	}
	i.close()
	for k := range 3 {
		if run(10*time.Millisecond + rand.N(100*time.Millisecond)) {
			break
		}
		look(fmt.Sprintf("after %d kills of the abort", k+1))
	}
	if !run(0) {
		run(0) // closed by then
	}
	look("in the end")
	i = open(t, dir, Options{})
	n := i.counts(t, c, killSegments)
	if !n.Balanced() || n.Waiting() != 0 || i.state(t, c.Name) != pipeline.StateClosed {
		t.Errorf("in the end it is %s, and the counts are %+v", i.state(t, c.Name), n)
	}
	t.Logf("%d kills, %+v", kills, n)

	// Item by item: one outcome each.
	ends := map[string][]string{}
	for _, kind := range terminal {
		for _, id := range i.ids(t, StreamEvents, eventFilter(string(kind), c.Name)) {
			ends[id] = append(ends[id], string(kind))
		}
	}
	for _, id := range i.ids(t, StreamQuarantine, quarantineFilter(c.Name)) {
		ends[id] = append(ends[id], "in quarantine")
	}
	if len(ends) != total {
		t.Errorf("%d of %d items have an outcome", len(ends), total)
	}
	for id, k := range ends {
		if len(k) != 1 {
			t.Errorf("item %s has the outcomes %q", id, k)
		}
	}
}
