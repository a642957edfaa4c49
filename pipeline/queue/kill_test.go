package queue

import (
	"bufio"
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/nats-io/nats.go/jetstream"
)

var killSegments = []string{"hash", "sign"}

// child consumes and settles in a loop, in both segments, until the process is killed or nothing is left. What an item
// ends with changes from run to run now and then, as it does when the world outside changes.
func child(dir string) int {
	ctx := context.Background()
	i, err := openInstance(ctx, dir, Options{})
	if err != nil {
		fmt.Println("error:", err)
		return 1
	}
	defer i.close()
	c := campaign("kill")
	l := i.Ledger(c, encoder{})
	var sources []pipeline.Source
	for _, seg := range killSegments {
		s, err := i.Source(ctx, c.Name, seg, SourceOptions{AckWait: time.Second, Wait: time.Second})
		if err != nil {
			fmt.Println("error:", err)
			return 1
		}
		sources = append(sources, s)
	}
	if n, err := i.Sweep(ctx, c.Name); err != nil {
		fmt.Println("error:", err)
		return 1
	} else if n > 0 {
		fmt.Printf("swept %d\n", n)
	}
	fmt.Println("ready")
	for {
		for k, s := range sources {
			ds, err := s.Next(ctx, 1+rand.N(120))
			if err != nil {
				fmt.Println("error:", err)
				return 1
			}
			var os []pipeline.Outcome
			for _, d := range ds {
				h := fnv.New32a()
				fmt.Fprint(h, d.Item.ID)
				n := h.Sum32() % 100
				if rand.N(10) == 0 {
					n = rand.Uint32N(100)
				}
				kind := pipeline.OutcomePublished
				switch {
				case n < 10:
					kind = pipeline.OutcomeFailed
				case n < 20:
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
				fmt.Println("error:", err)
				return 1
			}
		}
		n, err := i.Counts(ctx, c, killSegments)
		if err != nil {
			fmt.Println("error:", err)
			return 1
		}
		if n.Waiting() == 0 {
			fmt.Println("done")
			return 0
		}
	}
}

func TestKilledAtAnyPointEveryItemHasOneOutcome(t *testing.T) {
	if testing.Short() {
		t.Skip("kills a dozen processes")
	}
	t.Parallel()
	const total = 2500
	dir := t.TempDir()
	i := open(t, dir, Options{})
	c := campaign("kill")
	i.create(t, c)
	i.enqueue(t, c, items(total), EnqueueResult{Queued: total})
	i.close()

	kills := 0
	for done := false; !done; {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var timer *time.Timer
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			switch line := lines.Text(); {
			case line == "ready" && kills < 12:
				timer = time.AfterFunc(rand.N(150*time.Millisecond), func() { _ = cmd.Process.Kill() })
			case strings.HasPrefix(line, "swept"):
				t.Log(line)
			case line == "done":
				done = true
			case strings.HasPrefix(line, "error:"):
				t.Error(line)
				done = true
			}
		}
		err = cmd.Wait()
		if timer != nil {
			timer.Stop()
		}
		if err != nil {
			kills++
		}
	}
	if kills < 6 {
		t.Errorf("only %d processes could be killed before all was done", kills)
	}

	i = open(t, dir, Options{})
	n := i.counts(t, c, killSegments)
	if !n.Balanced() || n.Enqueued != total || n.Waiting() != 0 {
		t.Errorf("after %d kills the counts are %+v", kills, n)
	}
	t.Logf("%d kills, %+v", kills, n)

	// Item by item: exactly one of published, skipped and in quarantine.
	ends := map[string][]string{}
	for _, kind := range []string{"published", "skipped"} {
		for _, id := range i.ids(t, StreamEvents, eventFilter(kind, c.Name)) {
			ends[id] = append(ends[id], kind)
		}
	}
	for e, err := range i.Quarantined(t.Context(), c.Name) {
		if err != nil {
			t.Fatal(err)
		}
		ends[e.Item.ID] = append(ends[e.Item.ID], fmt.Sprintf("in quarantine by %s at %s", e.Failure.Stage, e.Failure.At.Format(time.TimeOnly)))
	}
	if len(ends) != total {
		t.Errorf("%d of %d items have an outcome", len(ends), total)
	}
	for id, k := range ends {
		if len(k) != 1 {
			t.Errorf("item %s has the outcomes %q; its jobs are %v, its events %v", id, k,
				i.subjects(t, StreamJobs, "job.*."+c.Name+"."+id), i.subjects(t, StreamEvents, "attest.v1.*."+c.Name+".*.*.*."+id))
		}
	}
	// What was published was signed, and everything in quarantine has its event.
	failed := map[string]bool{}
	for _, id := range i.ids(t, StreamEvents, eventFilter("failed", c.Name)) {
		failed[id] = true
	}
	for e := range i.Quarantined(t.Context(), c.Name) {
		if !failed[e.Item.ID] {
			t.Errorf("item %s is in quarantine without an event", e.Item.ID)
		}
	}
}

// ids are the last tokens of the subjects in the stream.
func (i *instance) ids(t *testing.T, stream, filter string) []string {
	t.Helper()
	var out []string
	for subject, n := range i.subjects(t, stream, filter) {
		if n != 1 {
			t.Errorf("%d messages on %s", n, subject)
		}
		out = append(out, subject[strings.LastIndexByte(subject, '.')+1:])
	}
	return out
}

// subjects are how many messages each subject has.
func (i *instance) subjects(t *testing.T, stream, filter string) map[string]uint64 {
	t.Helper()
	s, err := i.js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	info, err := s.Info(t.Context(), jetstream.WithSubjectFilter(filter))
	if err != nil {
		t.Fatal(err)
	}
	return info.State.Subjects
}
