package store_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hallmark-attest/hallmark/internal/store"
)

// asked is a store that notes which ranges it is asked for.
type asked struct {
	store.Store
	mu     sync.Mutex
	ranges [][2]int64
	fail   error             // of the next range
	say    func(*store.Info) // changes what is said of the object
}

func (a *asked) GetRange(ctx context.Context, key string, offset, length int64, etag string) (io.ReadCloser, store.Info, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if offset < 0 {
		length = 0
	}
	a.ranges = append(a.ranges, [2]int64{offset, length})
	if err := a.fail; err != nil {
		a.fail = nil
		return nil, store.Info{}, err
	}
	r, info, err := a.Store.GetRange(ctx, key, offset, length, etag)
	if a.say != nil {
		a.say(&info)
	}
	return r, info, err
}

// TestReaderAtNotices: a store that gives the bytes of a new state with the ETag of the old one.
func TestReaderAtNotices(t *testing.T) {
	t.Parallel()
	d, _ := newDir(t)
	b := bytes.Repeat([]byte("0123456789"), 100_000)
	if _, err := put(t, d, "k", b, store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*store.Info){
		"digest":   func(i *store.Info) { i.SHA256 = "other" },
		"modified": func(i *store.Info) { i.Modified = i.Modified.Add(1) },
		"size":     func(i *store.Info) { i.Size++ },
	} {
		a := &asked{Store: d, say: func(i *store.Info) { i.SHA256 = "one" }}
		r, err := store.OpenReaderAt(t.Context(), a, "k", -100)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 10)
		if _, err := r.ReadAt(got, 10); err != nil {
			t.Error(err)
		}
		a.say = change
		if _, err := r.ReadAt(got, 500_000); !errors.Is(err, store.ErrPrecondition) {
			t.Errorf("another %s: %v, want ErrPrecondition", what, err)
		}
	}
}

func TestReaderAtRequests(t *testing.T) {
	t.Parallel()
	const kib, mib = 1 << 10, 1 << 20
	const size = 20 * mib
	d, _ := newDir(t)
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i * i >> 7)
	}
	if _, err := put(t, d, "k", b, store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	tail := [2]int64{-64 * kib, 0}
	for name, test := range map[string]struct {
		first int64
		reads [][2]int64 // offset, length
		want  [][2]int64
	}{
		"nothing":            {-64 * kib, nil, [][2]int64{tail}},
		"in the tail":        {-64 * kib, [][2]int64{{size - 22, 22}, {size - 64*kib, 64 * kib}}, [][2]int64{tail}},
		"the head":           {-64 * kib, [][2]int64{{0, 4}, {4, 100}, {0, 64 * kib}}, [][2]int64{tail, {0, 64 * kib}}},
		"up to the tail":     {-64 * kib, [][2]int64{{size - 300*kib, 30}, {size - 299*kib, 200 * kib}}, [][2]int64{tail, {size - 300*kib, 236 * kib}}},
		"over the tail":      {-64 * kib, [][2]int64{{size - 65*kib, 65 * kib}}, [][2]int64{tail, {size - 65*kib, kib}}},
		"elsewhere":          {-64 * kib, [][2]int64{{mib, 1}, {5 * mib, 1}, {5*mib + 1, 9}}, [][2]int64{tail, {mib, 64 * kib}, {5 * mib, 64 * kib}}},
		"much":               {-64 * kib, [][2]int64{{mib, 9 * mib}}, [][2]int64{tail, {mib, 4 * mib}, {5 * mib, 4 * mib}, {9 * mib, 4 * mib}}},
		"the first 4 MiB":    {1 << 50, [][2]int64{{0, 4 * mib}}, [][2]int64{{0, 4 * mib}}},
		"the last 4 MiB":     {-1 << 50, [][2]int64{{size - 4*mib, 4 * mib}}, [][2]int64{{-4 * mib, 0}}},
		"further and faster": {100 * kib, sequential(0, 1500*kib), [][2]int64{{0, 100 * kib}, {100 * kib, 200 * kib}, {300 * kib, 400 * kib}, {700 * kib, 800 * kib}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := &asked{Store: d}
			r, err := store.OpenReaderAt(t.Context(), a, "k", test.first)
			if err != nil {
				t.Fatal(err)
			}
			for _, read := range test.reads {
				got := make([]byte, read[1])
				if n, err := r.ReadAt(got, read[0]); n != len(got) || err != nil && !errors.Is(err, io.EOF) {
					t.Fatal(n, err)
				}
				if !bytes.Equal(got, b[read[0]:][:read[1]]) {
					t.Errorf("at %d: other bytes", read[0])
				}
			}
			if diff := cmp.Diff(test.want, a.ranges); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
		})
	}
}

// sequential reads 4 KiB at a time.
func sequential(from, to int64) (reads [][2]int64) {
	for at := from; at < to; at += 4 << 10 {
		reads = append(reads, [2]int64{at, 4 << 10})
	}
	return reads
}

// TestReaderAtAgain: a read that failed can be tried again, and nothing of the failed one is taken for the object's.
func TestReaderAtAgain(t *testing.T) {
	t.Parallel()
	d, _ := newDir(t)
	b := bytes.Repeat([]byte("0123456789"), 100_000)
	if _, err := put(t, d, "k", b, store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	a := &asked{Store: d}
	r, err := store.OpenReaderAt(t.Context(), a, "k", -100)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 10)
	for range 2 {
		broken := errors.New("broken")
		a.fail = broken
		if _, err := r.ReadAt(got, 10); !errors.Is(err, broken) {
			t.Errorf("%v, want the store's error", err)
		}
		if _, err := r.ReadAt(got, 10); err != nil || string(got) != "0123456789" {
			t.Errorf("%q %v", got, err)
		}
		if _, err := r.ReadAt(got, 500_001); err != nil || string(got) != "1234567890" {
			t.Errorf("%q %v", got, err)
		}
	}
}

// TestReaderAtConcurrently is for the race detector.
func TestReaderAtConcurrently(t *testing.T) {
	t.Parallel()
	d, _ := newDir(t)
	b := bytes.Repeat([]byte("0123456789"), 100_000)
	if _, err := put(t, d, "k", b, store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	r, err := store.OpenReaderAt(t.Context(), d, "k", -1000)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range int64(8) {
		wg.Go(func() {
			got := make([]byte, 20_000)
			for at := i; at < 900_000; at += 70_000 {
				if _, err := r.ReadAt(got, at); err != nil || !bytes.Equal(got, b[at:][:len(got)]) {
					t.Errorf("at %d: %v", at, err)
				}
			}
		})
	}
	wg.Wait()
}
