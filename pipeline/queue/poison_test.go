package queue

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/hallmark-attest/hallmark/pipeline"
)

const poisonEnv = "HALLMARK_QUEUE_TEST_POISON"

// deadly is a stage that an item kills the process of.
type deadly struct{ item string }

func (deadly) String() string { return "hash" }

func (d deadly) Run(ctx context.Context, it *pipeline.Item) error {
	it.Package.Subdir, it.Package.Name = "noarch", "n"
	if it.ID == d.item {
		if p, err := os.FindProcess(os.Getpid()); err == nil {
			_ = p.Kill() // as the kernel does when memory runs out
		}
		<-ctx.Done()
	}
	select {
	case <-time.After(10 * time.Millisecond):
	case <-ctx.Done():
	}
	return ctx.Err()
}

// poisoned works on the campaign until nothing waits any more.
func poisoned(dir string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	i, err := openInstance(ctx, dir, Options{})
	if err != nil {
		return err
	}
	defer i.close()
	c := campaign("poison")
	r := &pipeline.Runner{Steps: []pipeline.Step{{Stage: deadly{"id000123"}, Concurrency: 20}}, Ledger: i.Ledger(c, encoder{}), Suspects: i.Suspects(c.Name), Suspicious: i.Died(),
		Heartbeat: 200 * time.Millisecond, Probation: 100 * time.Millisecond, Log: quiet}
	if r.Source, err = i.Source(ctx, c.Name, "hash", SourceOptions{AckWait: time.Second, Wait: time.Second}); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	for {
		n, err := i.Counts(ctx, c, oneSegment)
		if err != nil {
			return err
		}
		if n.Waiting() == 0 {
			cancel()
			return <-ended
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestAnItemThatKillsItsProcessIsSetAside(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes")
	}
	t.Parallel()
	dir := t.TempDir()
	i := open(t, dir, Options{})
	c := campaign("poison")
	i.create(t, c)
	i.enqueue(t, c, items(200), EnqueueResult{Queued: 200})
	i.close()
	for deaths := 0; ; deaths++ {
		if deaths > 10 {
			t.Fatal("the item goes on killing processes")
		}
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), poisonEnv+"="+dir)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		err := cmd.Run()
		if err == nil {
			t.Logf("%d processes died", deaths)
			break
		}
		if cmd.ProcessState.Exited() {
			t.Fatal(err)
		}
	}
	i = open(t, dir, Options{})
	if n := i.counts(t, c, oneSegment); n.Published != 199 || n.Failed != 1 || !n.Balanced() {
		t.Errorf("%+v", n)
	}
	for e, err := range i.Quarantined(t.Context(), c.Name) {
		if err != nil || e.Item.ID != "id000123" || e.Failure.Cause != pipeline.CausePoison {
			t.Errorf("%v: %+v %+v", err, e.Item, e.Failure)
		}
	}
	if got, err := i.Suspects(c.Name).Deaths(t.Context(), []string{"id000123"}); err != nil || len(got) > 0 {
		t.Errorf("notes %v, %v", got, err)
	}
}
