package queue

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hallmark-attest/hallmark/internal/smalldisk"
	"github.com/hallmark-attest/hallmark/pipeline"
)

// book is a log that can be read while it is written.
type book struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *book) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// waitFor waits until the log has the text.
func (b *book) waitFor(tb testing.TB, text string) {
	tb.Helper()
	for range 60 * 20 {
		if strings.Contains(b.String(), text) {
			return
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-tb.Context().Done():
			tb.Fatal(tb.Context().Err())
		}
	}
	tb.Fatalf("the log does not say %q:\n%s", text, b)
}

// onDisk is an instance in dir whose log can be read.
func onDisk(tb testing.TB, dir string) (*instance, *book) {
	tb.Helper()
	b := new(book)
	log := slog.New(slog.NewTextHandler(b, nil))
	s, err := Embed(dir, EmbedOptions{Log: log})
	if err != nil {
		tb.Fatal(err)
	}
	nc, err := s.Connect(ConnectOptions{Log: log})
	if err != nil {
		s.Close()
		tb.Fatal(err)
	}
	i := &instance{server: s, nc: nc}
	tb.Cleanup(i.close)
	if i.Queue, err = Open(tb.Context(), nc, Options{Log: log, Died: s.Died(), Stuck: s.Stuck}); err != nil {
		tb.Fatal(err)
	}
	return i, b
}

// enqueueLater enqueues without waiting for it.
func (i *instance) enqueueLater(tb testing.TB, c *pipeline.Campaign, its []*pipeline.Item) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := i.Enqueue(tb.Context(), c, "hash", Items(its...))
		done <- err
	}()
	return done
}

// settleAll takes n items and records them as published.
func (i *instance) settleAll(tb testing.TB, c *pipeline.Campaign, n int) {
	tb.Helper()
	l := i.Ledger(c, encoder{})
	var os []pipeline.Outcome
	for _, d := range take(tb, i.source(tb, c, "hash", SourceOptions{}), n) {
		os = append(os, outcome(d, pipeline.OutcomePublished))
	}
	if err := l.Settle(tb.Context(), os); err != nil {
		tb.Fatal(err)
	}
}

// TestEmbeddedDiskFull: somebody else fills the disk under the embedded server. It says so; with room again it goes on by
// itself, and everything that was enqueued, before and during, is there once.
func TestEmbeddedDiskFull(t *testing.T) {
	t.Parallel()
	dir := smalldisk.Mount(t, 24<<20)
	i, log := onDisk(t, dir)
	c := campaign("full")
	i.create(t, c)
	its := items(400)
	i.enqueue(t, c, its[:100], EnqueueResult{Queued: 100})

	free := smalldisk.Fill(t, dir, 0)
	done := i.enqueueLater(t, c, its[100:])
	log.waitFor(t, "the queue's folder cannot be written")
	if !strings.Contains(log.String(), "no space left on device") || !strings.Contains(log.String(), "hint=\"free space on its disk") {
		t.Errorf("it does not say what to do:\n%s", log)
	}
	select {
	case err := <-done:
		t.Fatalf("enqueueing on a full disk ended: %v", err)
	default:
	}
	free()
	log.waitFor(t, "the queue goes on")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	i.settleAll(t, c, len(its))
	n := i.quietCounts(t, c, oneSegment, func(n Counts) bool { return n.Waiting() == 0 })
	if n.Published != uint64(len(its)) {
		t.Errorf("%+v", n)
	}
}

// TestEmbeddedLimit: the limit that was right at the start is used up. Enqueueing waits; when something else has left the
// disk, the limit grows and it goes on.
func TestEmbeddedLimit(t *testing.T) {
	t.Parallel()
	disk := smalldisk.Mount(t, 48<<20)
	free := smalldisk.Fill(t, disk, 8<<20)
	i, log := onDisk(t, filepath.Join(disk, "state"))
	c := campaign("limit")
	i.create(t, c)
	its := items(9000)
	for _, it := range its {
		it.Source = "/src/" + strings.Repeat("x", 1000)
	}
	done := i.enqueueLater(t, c, its)
	log.waitFor(t, "the queue has no room")
	log.waitFor(t, "the queue takes nothing more for now")
	if strings.Contains(log.String(), "critical write error") {
		t.Errorf("the disk was full before the limit:\n%s", log)
	}
	free()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	log.waitFor(t, "the queue goes on")
	n := i.quietCounts(t, c, oneSegment, func(n Counts) bool { return n.Waiting() == uint64(len(its)) })
	if n.Enqueued != uint64(len(its)) {
		t.Errorf("%+v", n)
	}
}

// TestEmbeddedRestartFull: a process that was killed on a full disk leaves a folder that the next one opens, and the
// mark of the death.
func TestEmbeddedRestartFull(t *testing.T) {
	t.Parallel()
	dir := smalldisk.Mount(t, 24<<20)
	i, _ := onDisk(t, dir)
	c := campaign("again")
	i.create(t, c)
	i.enqueue(t, c, items(50), EnqueueResult{Queued: 50})
	i.close()
	if err := writeFile(dir, "lock", "4194304\n"); err != nil { // as a killed process leaves it
		t.Fatal(err)
	}
	free := smalldisk.Fill(t, dir, 0)
	defer free()
	s, err := Embed(dir, EmbedOptions{Log: quiet})
	if err == nil {
		defer s.Close()
		if !s.Died() {
			t.Error("the death is forgotten")
		}
	}
	t.Logf("opening on a full disk: %v", err)
	if err != nil && !strings.Contains(err.Error(), "no space left") {
		t.Errorf("%v does not say that the disk is full", err)
	}
}

func writeFile(dir, name, text string) error {
	return os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)
}
