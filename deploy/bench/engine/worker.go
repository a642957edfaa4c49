package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/pipeline/event"
	"github.com/hallmark-attest/hallmark/pipeline/queue"
)

// task is what the worker's process is to do.
type task struct {
	URL      string // "": embedded
	State    string // folder of the embedded server
	Replicas int
	Segments int
	Items    int // enqueued
	Done     int // of these, taken to their end
}

// Figures are what the worker's process measures.
type Figures struct {
	EnqueueSeconds float64 `json:"enqueueSeconds"`
	Seconds        float64 `json:"seconds"`    // until so many were done
	CPU            float64 `json:"cpuSeconds"` // meanwhile
	Wrote          int64   `json:"wrote"`      // bytes, meanwhile
	RSS            int64   `json:"rss"`        // with all waiting
	Heap           int64   `json:"heap"`       // the same
}

var segmentNames = []string{"hash", "sign", "publish"}

// nothing is a stage that does nothing.
type nothing string

func (n nothing) String() string                          { return string(n) }
func (nothing) Run(context.Context, *pipeline.Item) error { return nil }

// events writes the two events of a signed and published package, of about the size that the real ones have: those take a
// verified bundle, which a stage that does nothing does not make.
type events struct{}

func (events) Encode(c *pipeline.Campaign, o pipeline.Outcome) ([]event.Message, error) {
	var out []event.Message
	if o.Kind == pipeline.OutcomeCrossed {
		return nil, nil
	}
	it := o.Delivery.Item
	for _, name := range []string{event.Signed, string(o.Kind)} {
		out = append(out, event.Message{
			Subject: strings.Join([]string{"attest.v1", name, c.Name, queue.Token(c.ChannelName()), it.Package.Subdir, it.Package.Name, it.ID}, "."),
			ID:      c.Name + "/" + it.ID + "/" + name,
			Data:    fmt.Appendf(make([]byte, 0, 1024), `{"package":%q,"sha256":%q,"fill":"%0700d"}`, it.Filename, it.Package.SHA256, 0),
		})
	}
	return out, nil
}

// finish counts what is published. Nothing else may come out.
type finish struct {
	n    atomic.Int64
	want int64
	end  func()
	odd  atomic.Pointer[pipeline.Outcome]
}

func (*finish) StageDone(context.Context, string, *pipeline.Item, time.Duration, *pipeline.Error) {}
func (*finish) Retrying(context.Context, string, *pipeline.Item, *pipeline.Error, time.Duration)  {}

func (f *finish) Settled(o pipeline.Outcome) {
	switch o.Kind {
	case pipeline.OutcomeCrossed:
	case pipeline.OutcomePublished:
		if f.n.Add(1) == f.want {
			f.end()
		}
	default:
		f.odd.CompareAndSwap(nil, &o)
	}
}

// work is the worker's process. It says "ready" when all items wait, and "go on" on stdin lets it begin: meanwhile, and after
// "done", its parent looks at the servers.
func work(ctx context.Context, arg string) error {
	var t task
	if err := json.Unmarshal([]byte(arg), &t); err != nil {
		return err
	}
	in := bufio.NewReader(os.Stdin)
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	q, end, err := open(ctx, t, log)
	if err != nil {
		return err
	}
	defer end()
	c := &pipeline.Campaign{Name: "bench", State: pipeline.StateOpen, To: "/srv/channel", ChannelURL: "https://conda.example/bench", Created: time.Now().UTC()}
	if t.Segments > 1 {
		c.Cuts = segmentNames[1:t.Segments]
	}
	if err := q.Campaigns().Create(ctx, c); err != nil {
		return err
	}
	var f Figures
	began := time.Now()
	res, err := q.Enqueue(ctx, c, segmentNames[0], func(yield func(*pipeline.Item, error) bool) {
		for i := range t.Items {
			name := fmt.Sprintf("package-%07d-1.2.3-h0123456_0.conda", i)
			it := &pipeline.Item{ID: fmt.Sprintf("%032x", i), Filename: name, Source: "/srv/build/output/linux-64/" + name}
			it.Package = pipeline.Package{SHA256: fmt.Sprintf("%064x", i), Size: 1 << 20, Name: fmt.Sprintf("package-%07d", i), Version: "1.2.3", Subdir: "linux-64"}
			if !yield(it, nil) {
				return
			}
		}
	})
	if err != nil || res.Queued != t.Items {
		return fmt.Errorf("enqueueing: %+v: %w", res, err)
	}
	f.EnqueueSeconds = time.Since(began).Seconds()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	f.Heap = int64(m.HeapAlloc)
	self, err := look(os.Getpid())
	if err != nil {
		return err
	}
	f.RSS = self.rss
	fmt.Println("ready")
	if line, err := in.ReadString('\n'); err != nil || strings.TrimSpace(line) != "go on" {
		return fmt.Errorf("not let go on: %q, %w", line, err)
	}
	before, err := look(os.Getpid())
	if err != nil {
		return err
	}
	rctx, stop := context.WithCancel(ctx)
	defer stop()
	until := make(chan struct{})
	fin := &finish{want: int64(t.Done), end: func() { close(until) }}
	var wg sync.WaitGroup
	errs := make(chan error, t.Segments)
	began = time.Now()
	for k := range t.Segments {
		steps := []pipeline.Step{{Stage: nothing(segmentNames[k]), Concurrency: 512}}
		r := &pipeline.Runner{Steps: steps, Ledger: q.Ledger(c, events{}), Observer: fin, Log: log, MaxInFlight: 2048}
		if k+1 < t.Segments {
			r.Next = segmentNames[k+1]
		} else {
			r.Steps[0].Completes = "published"
		}
		if r.Source, err = q.Source(ctx, c.Name, segmentNames[k], queue.SourceOptions{MaxAckPending: 20480}); err != nil {
			return err
		}
		wg.Go(func() { errs <- r.Run(rctx) })
	}
	select {
	case <-until:
		f.Seconds = time.Since(began).Seconds()
	case err := <-errs:
		return fmt.Errorf("a runner ended before all was done: %w", err)
	case <-ctx.Done():
		return ctx.Err()
	}
	if o := fin.odd.Load(); o != nil {
		return fmt.Errorf("item %s ended as %s: %+v", o.Delivery.Item.ID, o.Kind, o.Failure)
	}
	after, err := look(os.Getpid())
	if err != nil {
		return err
	}
	f.CPU, f.Wrote = after.cpu-before.cpu, after.wrote-before.wrote
	fmt.Println("done")
	if err := json.NewEncoder(os.Stdout).Encode(f); err != nil {
		return err
	}
	stop()
	wg.Wait()
	return nil
}

func open(ctx context.Context, t task, log *slog.Logger) (*queue.Queue, func(), error) {
	var nc *queue.Conn
	var err error
	end := func() { nc.Close() }
	if t.URL == "" {
		srv, err := queue.Embed(t.State, queue.EmbedOptions{Log: log})
		if err != nil {
			return nil, nil, err
		}
		if nc, err = srv.Connect(queue.ConnectOptions{Log: log}); err != nil {
			srv.Close()
			return nil, nil, err
		}
		end = func() { nc.Close(); srv.Close() }
	} else if nc, err = queue.Connect(ctx, t.URL, queue.ConnectOptions{Log: log}); err != nil {
		return nil, nil, err
	}
	// A cluster that has just been started has no leader yet.
	for began := time.Now(); ; {
		q, err := queue.Open(ctx, nc, queue.Options{Replicas: t.Replicas, Log: log})
		if err == nil {
			return q, end, nil
		}
		if time.Since(began) > time.Minute || ctx.Err() != nil {
			end()
			return nil, nil, err
		}
		time.Sleep(200 * time.Millisecond)
	}
}
