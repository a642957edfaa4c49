package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hallmark-attest/hallmark/internal/channel"
	"github.com/hallmark-attest/hallmark/internal/store"
	"github.com/hallmark-attest/hallmark/pipeline"
)

// index records updates, and takes a second for each.
type index struct {
	mu      sync.Mutex
	batches []int
	running map[string]int
	seen    map[string]int
	answer  func(ctx context.Context, entries []channel.Entry) ([]error, error)

	merges []time.Time // when documents were merged
	merge  func() error
}

func (x *index) CatchUp(ctx context.Context, subdirs ...string) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.merges = append(x.merges, time.Now())
	if x.merge != nil {
		return x.merge()
	}
	return nil
}

func (x *index) Update(ctx context.Context, subdir string, entries []channel.Entry) (int, []error, error) {
	x.mu.Lock()
	if x.running == nil {
		x.running, x.seen = map[string]int{}, map[string]int{}
	}
	if x.running[subdir]++; x.running[subdir] > 1 {
		panic("two updates of one subdir at once")
	}
	x.batches = append(x.batches, len(entries))
	for _, e := range entries {
		x.seen[subdir+"/"+e.Filename]++
	}
	x.mu.Unlock()
	defer func() { x.mu.Lock(); x.running[subdir]--; x.mu.Unlock() }()
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return 0, nil, ctx.Err()
	}
	if x.answer == nil {
		return len(entries), nil, nil
	}
	refused, err := x.answer(ctx, entries)
	return 0, refused, err
}

func item(subdir string, i int) *pipeline.Item {
	return &pipeline.Item{
		Filename: fmt.Sprintf("a-%d-0.conda", i),
		Package:  pipeline.Package{Subdir: subdir, Record: []byte("{}")},
		Sidecar:  pipeline.Sidecar{SHA256: strings.Repeat("a", 64)},
	}
}

func TestItemsShareUpdates(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := &index{}
		s := NewWith(x, Options{Batch: 100})
		defer s.Close()
		start := time.Now()
		var wg sync.WaitGroup
		for i := range 250 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 10 * time.Millisecond)
				it := item("noarch", i)
				if err := s.Run(t.Context(), it); err != nil {
					t.Error(err)
				}
				if it.PublishedAt.IsZero() || it.PublishedAt.Sub(start) < time.Second {
					t.Errorf("published at %v", it.PublishedAt)
				}
			})
		}
		wg.Wait()
		// About 20 come in the quiet time, 100 in each of the next two seconds, the rest in the last.
		if n := len(x.batches); n < 3 || n > 5 {
			t.Errorf("updates of %d items", x.batches)
		}
		for f, n := range x.seen {
			if n != 1 {
				t.Errorf("%s was published %d times", f, n)
			}
		}
		if len(x.seen) != 250 {
			t.Errorf("%d were published", len(x.seen))
		}
	})
}

func TestAFullBatchDoesNotWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := &index{}
		s := NewWith(x, Options{Batch: 10, Quiet: time.Hour})
		defer s.Close()
		start := time.Now()
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				if err := s.Run(t.Context(), item("noarch", i)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if d := time.Since(start); d != time.Second {
			t.Errorf("took %v", d)
		}
		synctest.Wait() // the bubble would not end if a goroutine were left behind: nobody closes s
	})
}

func TestSubdirsDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := New(&index{})
		defer s.Close()
		start := time.Now()
		var wg sync.WaitGroup
		for i, subdir := range []string{"noarch", "linux-64", "win-64"} {
			wg.Go(func() {
				if err := s.Run(t.Context(), item(subdir, i)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if d := time.Since(start); d != time.Second+DefaultQuiet {
			t.Errorf("took %v", d)
		}
	})
}

func TestACallerThatLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := &index{}
		s := New(x)
		defer s.Close()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				c := ctx
				if i == 2 {
					c = t.Context()
				}
				err := s.Run(c, item("noarch", i))
				if i < 2 != errors.Is(err, context.Canceled) {
					t.Errorf("item %d: %v", i, err)
				}
			})
		}
		time.Sleep(500 * time.Millisecond) // in the middle of the update
		start := time.Now()
		cancel()
		synctest.Wait()
		if time.Since(start) != 0 {
			t.Error("they did not leave at once")
		}
		wg.Wait() // the third one's update went on
		if len(x.batches) != 1 {
			t.Errorf("batches %v", x.batches)
		}

		// If all leave, the update ends, and with it the writer.
		ctx, cancel = context.WithCancel(t.Context())
		go s.Run(ctx, item("noarch", 9))
		time.Sleep(500 * time.Millisecond)
		cancel()
		start = time.Now()
		s.Close()
		if time.Since(start) != 0 {
			t.Error("an update went on that nobody waited for")
		}
		if e := pipeline.Classify(s.Run(t.Context(), item("noarch", 1))); e.Cause != CauseClosed || e.Kind != pipeline.KindTransient {
			t.Errorf("after Close: %v", e)
		}
	})
}

func TestOneRefusalFailsOneItem(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kinds := []error{nil, &channel.Conflict{}, &channel.Removed{}, &channel.Unsigned{}, &channel.Malformed{Err: errors.New("x")}, &channel.Invalid{Err: errors.New("x")}}
		want := []string{"", CauseConflict, CauseRemoved, CauseNoSidecar, CauseMalformed, CauseInvalid}
		x := &index{answer: func(_ context.Context, entries []channel.Entry) ([]error, error) {
			out := make([]error, len(entries))
			for i, e := range entries {
				var n int
				fmt.Sscanf(e.Filename, "a-%d-0.conda", &n)
				out[i] = kinds[n]
			}
			return out, nil
		}}
		s := New(x)
		defer s.Close()
		var wg sync.WaitGroup
		for i := range kinds {
			wg.Go(func() {
				err := s.Run(t.Context(), item("noarch", i))
				e := pipeline.Classify(err)
				if (err != nil) != (want[i] != "") || e != nil && (e.Cause != want[i] || e.Kind != pipeline.KindPermanent) {
					t.Errorf("%T: %v", kinds[i], err)
				}
			})
		}
		wg.Wait()
	})
}

func TestErrorsOfTheWholeUpdate(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err   error
		kind  pipeline.Kind
		cause string
	}{
		{&channel.Malformed{Key: "k", Err: errors.New("x")}, pipeline.KindFatal, CauseMalformed},
		{fmt.Errorf("x: %w", store.ErrAuth), pipeline.KindFatal, CauseDenied},
		{fmt.Errorf("x: %w", store.ErrUnsupported), pipeline.KindFatal, CauseUnsupported},
		{fmt.Errorf("x: %w", channel.ErrContended), pipeline.KindTransient, CauseContended},
		{errors.New("503"), pipeline.KindTransient, CauseUnavailable},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := New(&index{answer: func(context.Context, []channel.Entry) ([]error, error) { return nil, tt.err }})
			defer s.Close()
			e := pipeline.Classify(s.Run(t.Context(), item("noarch", 1)))
			if e.Kind != tt.kind || e.Cause != tt.cause || !errors.Is(e, tt.err) {
				t.Errorf("%v: %v %s", tt.err, e.Kind, e.Cause)
			}
		})
	}
}

func TestAPanicHitsOneItem(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := &index{answer: func(_ context.Context, entries []channel.Entry) ([]error, error) {
			for _, e := range entries {
				if e.Filename == "a-3-0.conda" {
					panic("a nil map")
				}
			}
			return nil, nil
		}}
		s := New(x)
		defer s.Close()
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				err := s.Run(t.Context(), item("noarch", i))
				if e := pipeline.Classify(err); (e != nil) != (i == 3) || e != nil && (e.Cause != "internal.panic" || e.Kind != pipeline.KindPermanent) {
					t.Errorf("item %d: %v", i, err)
				}
			})
		}
		wg.Wait()
	})
}

func TestNothingUnsignedIsPublished(t *testing.T) {
	t.Parallel()
	x := &index{}
	s := New(x)
	defer s.Close()
	it := item("noarch", 1)
	it.Sidecar = pipeline.Sidecar{}
	if e := pipeline.Classify(s.Run(t.Context(), it)); e == nil || e.Kind != pipeline.KindFatal || e.Cause != CauseUnsigned {
		t.Errorf("%v", e)
	}
	if len(x.batches) != 0 {
		t.Error("it was published")
	}
}

// TestDocumentsFollow: while items come without end, documents are merged once an interval; when they end, soon.
func TestDocumentsFollow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := &index{}
		failed := false
		x.merge = func() error {
			if len(x.merges) == 2 && !failed {
				failed = true
				return errors.New("the store is away")
			}
			return nil
		}
		s := NewWith(x, Options{Interval: 10 * time.Minute, Idle: 5 * time.Second, Log: slog.New(slog.DiscardHandler)})
		start := time.Now()
		for i := range 1000 { // 25 minutes
			if err := s.Run(t.Context(), item("linux-64", i)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(300 * time.Millisecond)
		}
		end := time.Now()
		time.Sleep(time.Hour)
		synctest.Wait()
		var got []string
		for _, m := range x.merges {
			if m.After(end) {
				got = append(got, "end+"+m.Sub(end).Round(time.Second).String())
				continue
			}
			got = append(got, m.Sub(start).Round(time.Minute).String())
		}
		want := []string{"10m0s", "20m0s", "21m0s", "end+5s"}
		if !slices.Equal(got, want) {
			t.Errorf("merged at %q, want %q", got, want)
		}
		if len(s.mergers) != 0 {
			t.Error("a merger is left")
		}
		if err := s.Run(t.Context(), item("linux-64", 1)); err != nil {
			t.Fatal(err)
		}
		s.Close() // ends the one that waits
	})
}

// TestBatchesAreBoundedInBytes: what is too much for one update waits for the next; a record that is too much by itself goes alone.
func TestBatchesAreBoundedInBytes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := &index{}
		s := NewWith(x, Options{Bytes: 100, Quiet: time.Minute})
		defer s.Close()
		start := time.Now()
		var wg sync.WaitGroup
		for i, n := range []int{40, 40, 40, 300, 10} {
			it := item("linux-64", i)
			it.Package.Record = []byte(strings.Repeat("x", n))
			wg.Go(func() {
				if err := s.Run(t.Context(), it); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		wg.Wait()
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("a whole batch waited for %v", d)
		}
		if want := []int{2, 1, 1, 1}; !slices.Equal(x.batches, want) {
			t.Errorf("batches of %v, want %v", x.batches, want)
		}
	})
}
