package queue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/pipeline/event"
	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"
)

const childEnv = "HALLMARK_QUEUE_TEST_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		os.Exit(child(dir))
	}
	if dir := os.Getenv(steeredEnv); dir != "" {
		if err := steered(dir); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if dir := os.Getenv(poisonEnv); dir != "" {
		if err := poisoned(dir); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if url := os.Getenv(budgetChildEnv); url != "" {
		os.Exit(budgetChild(url))
	}
	if config := os.Getenv(nodeEnv); config != "" {
		os.Exit(runNode(config))
	}
	// The server's own: a stream whose write failed, see TestEmbeddedDiskFull, forgets what flushed its last block when it is stopped.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*msgBlock).flushLoop"))
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// instance is an embedded server with a queue on it.
type instance struct {
	*Queue
	server *Server
	nc     *nats.Conn
}

func (i *instance) close() {
	i.nc.Close()
	i.server.Close()
}

func open(tb testing.TB, dir string, o Options) *instance {
	tb.Helper()
	i, err := openInstance(tb.Context(), dir, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(i.close)
	return i
}

func openInstance(ctx context.Context, dir string, o Options) (*instance, error) {
	s, err := Embed(dir, EmbedOptions{Log: quiet})
	if err != nil {
		return nil, err
	}
	nc, err := s.Connect(ConnectOptions{Log: quiet})
	if err != nil {
		s.Close()
		return nil, err
	}
	o.Log, o.Died = quiet, s.Died()
	q, err := Open(ctx, nc, o)
	if err != nil {
		nc.Close()
		s.Close()
		return nil, err
	}
	return &instance{q, s, nc}, nil
}

func campaign(name string) *pipeline.Campaign {
	return &pipeline.Campaign{Name: name, State: pipeline.StateOpen, To: "/srv/channel", ChannelURL: "https://conda.example/forge",
		Created: time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)}
}

func items(n int) []*pipeline.Item {
	out := make([]*pipeline.Item, n)
	for i := range out {
		out[i] = &pipeline.Item{ID: fmt.Sprintf("id%06d", i), Filename: fmt.Sprintf("p%d-1.0-0.conda", i), Source: "/src"}
	}
	return out
}

// encoder writes events the way that pipeline/event does, as far as this package relies on it.
type encoder struct{}

func (encoder) Encode(c *pipeline.Campaign, o pipeline.Outcome) ([]event.Message, error) {
	names := append([]string(nil), o.Events...)
	if o.Kind != pipeline.OutcomeCrossed && (len(names) == 0 || names[len(names)-1] != string(o.Kind)) {
		names = append(names, string(o.Kind))
	}
	it := o.Delivery.Item
	if strings.HasPrefix(it.Filename, "unencodable") {
		return nil, errors.New("no")
	}
	// As the real one does, where the item ended before the hash stage knew these.
	subdir, name := "_", "_"
	if it.Package.Name != "" {
		subdir, name = Token(it.Package.Subdir), Token(it.Package.Name)
	}
	var out []event.Message
	for _, n := range names {
		out = append(out, event.Message{
			Subject: strings.Join([]string{"attest.v1", n, c.Name, Token(c.ChannelName()), subdir, name, Token(it.ID)}, "."),
			ID:      c.Name + "/" + it.ID + "/" + n,
			Header:  map[string][]string{"ce-id": {it.ID}},
			Data:    []byte(`{"item":"` + it.ID + `"}`),
		})
	}
	return out, nil
}

var oneSegment = []string{"hash"}

func (i *instance) counts(tb testing.TB, c *pipeline.Campaign, segments []string) Counts {
	tb.Helper()
	n, err := i.Counts(tb.Context(), c, segments)
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// quietCounts waits until the counts balance and are as wanted: acknowledgements are not waited for by whoever sends them.
func (i *instance) quietCounts(tb testing.TB, c *pipeline.Campaign, segments []string, want func(Counts) bool) Counts {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 10*time.Second)
	defer cancel()
	for {
		n := i.counts(tb, c, segments)
		if n.Balanced() && want(n) {
			return n
		}
		select {
		case <-ctx.Done():
			tb.Fatalf("counts do not become as wanted: %+v", n)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (i *instance) enqueue(tb testing.TB, c *pipeline.Campaign, its []*pipeline.Item, want EnqueueResult) {
	tb.Helper()
	got, err := i.Enqueue(tb.Context(), c, "hash", Items(its...))
	if err != nil {
		tb.Fatal(err)
	}
	if got != want {
		tb.Fatalf("enqueued %+v, want %+v", got, want)
	}
}

func (i *instance) create(tb testing.TB, c *pipeline.Campaign) {
	tb.Helper()
	if err := i.Campaigns().Create(tb.Context(), c); err != nil {
		tb.Fatal(err)
	}
}

// take collects n deliveries.
func take(tb testing.TB, s pipeline.Source, n int) []pipeline.Delivery {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 20*time.Second)
	defer cancel()
	var out []pipeline.Delivery
	for len(out) < n {
		ds, err := s.Next(ctx, n-len(out))
		if err != nil {
			tb.Fatalf("after %d of %d items: %v", len(out), n, err)
		}
		out = append(out, ds...)
	}
	return out
}

func (i *instance) source(tb testing.TB, c *pipeline.Campaign, segment string, o SourceOptions) pipeline.Source {
	tb.Helper()
	s, err := i.Source(tb.Context(), c.Name, segment, o)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func outcome(d pipeline.Delivery, kind pipeline.OutcomeKind) pipeline.Outcome {
	o := pipeline.Outcome{Delivery: d, Kind: kind}
	d.Item.Package.Subdir, d.Item.Package.Name = "noarch", "n"
	switch kind {
	case pipeline.OutcomePublished:
		o.Events = []string{"signed", "published"}
	case pipeline.OutcomeFailed, pipeline.OutcomeSkipped:
		o.Failure = &pipeline.Failure{Stage: "hash", Cause: "test." + string(kind), Message: "so it is", Attempts: d.Attempt}
	}
	return o
}

// early makes an outcome one of an item that ended before anything was known of its package.
func early(o pipeline.Outcome) pipeline.Outcome {
	o.Delivery.Item.Package = pipeline.Package{}
	return o
}

// leaked waits until no goroutine of the server or the client is left, and returns the stacks if that does not happen.
func leaked() string {
	deadline := time.Now().Add(5 * time.Second)
	for {
		buf := make([]byte, 4<<20)
		var bad []string
		for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(g, "nats-io/") {
				bad = append(bad, g)
			}
		}
		if len(bad) == 0 {
			return ""
		}
		if time.Now().After(deadline) {
			return strings.Join(bad, "\n\n")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// parallel runs f n times at once.
func parallel(n int, f func(int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}
