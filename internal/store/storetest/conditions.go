package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hallmark-attest/hallmark/internal/store"
)

// each runs f for 0 … n-1 on so many goroutines and fails the test at the first error.
func each(t *testing.T, goroutines, n int, f func(i int) error) {
	t.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := f(i); err != nil {
					t.Errorf("%d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// stale returns the ETag that an object once had.
func stale(t *testing.T, s store.Store) string {
	t.Helper()
	old := put(t, s, "stale", []byte("was"), store.PutOptions{})
	put(t, s, "stale", []byte("is"), store.PutOptions{})
	return old.ETag
}

func ifNoneMatch(t *testing.T, s store.Store) {
	put(t, s, "d/k", []byte("first"), store.PutOptions{IfNoneMatch: true})
	refuse(t, s, "d/k", []byte("other"), store.PutOptions{IfNoneMatch: true}, store.ErrPrecondition)
	refuse(t, s, "d/k", []byte("first"), store.PutOptions{IfNoneMatch: true}, store.ErrPrecondition)
	want(t, s, "d/k", []byte("first"))
	if err := s.Delete(t.Context(), "d/k"); err != nil {
		t.Fatal(err)
	}
	put(t, s, "d/k", []byte("other"), store.PutOptions{IfNoneMatch: true})
	want(t, s, "d/k", []byte("other"))
}

func ifMatch(t *testing.T, s store.Store) {
	refuse(t, s, "none", []byte("x"), store.PutOptions{IfMatch: stale(t, s)}, store.ErrPrecondition)
	wantMissing(t, s, "none")
	a := put(t, s, "k", []byte("a"), store.PutOptions{IfNoneMatch: true})
	b := put(t, s, "k", []byte("b"), store.PutOptions{IfMatch: a.ETag})
	refuse(t, s, "k", []byte("c"), store.PutOptions{IfMatch: a.ETag}, store.ErrPrecondition)
	refuse(t, s, "k", []byte("c"), store.PutOptions{IfMatch: "never-was"}, store.ErrPrecondition)
	if now := want(t, s, "k", []byte("b")); now.ETag != b.ETag {
		t.Errorf("Put returned ETag %q, Head %q", b.ETag, now.ETag)
	}
	if err := s.Delete(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	refuse(t, s, "k", []byte("c"), store.PutOptions{IfMatch: b.ETag}, store.ErrPrecondition)
	wantMissing(t, s, "k")
}

func bothConditions(t *testing.T, s store.Store) {
	a := put(t, s, "k", []byte("a"), store.PutOptions{})
	_, err := s.Put(t.Context(), "k", strings.NewReader("b"), 1, store.PutOptions{IfNoneMatch: true, IfMatch: a.ETag})
	if err == nil {
		t.Error("two conditions that exclude each other were taken")
	}
	want(t, s, "k", []byte("a"))
}

func raceToCreate(t *testing.T, s store.Store)    { race(t, s, 25, 40) }
func raceToCreateBig(t *testing.T, s store.Store) { race(t, s, 1, bigSize) }

// raceToChangeBig: several writers change one state of a big object, as several publishers do a repodata.json. One wins.
func raceToChangeBig(t *testing.T, s store.Store) {
	first := put(t, s, "k", pattern(bigSize, 100), store.PutOptions{})
	var wins, winner atomic.Int64
	each(t, 4, 4, func(i int) error {
		b := pattern(bigSize, byte(i))
		_, err := s.Put(t.Context(), "k", bytes.NewReader(b), bigSize, store.PutOptions{SHA256: sum(b), IfMatch: first.ETag})
		if err == nil {
			wins.Add(1)
			winner.Store(int64(i))
		} else if errors.Is(err, store.ErrPrecondition) {
			err = nil
		}
		return err
	})
	if wins.Load() != 1 {
		t.Fatalf("%d winners", wins.Load())
	}
	want(t, s, "k", pattern(bigSize, byte(winner.Load())))
}

// race lets 16 writers create one object: one wins, the others are told so, and the bytes are the winner's.
func race(t *testing.T, s store.Store, rounds, size int) {
	writers := 16
	if size > 1<<20 {
		writers = 4
	}
	for round := range rounds {
		key := fmt.Sprintf("race/%d", round)
		var winner atomic.Int64
		var wins atomic.Int64
		start := make(chan struct{})
		var wg sync.WaitGroup
		for w := range writers {
			b := pattern(size, byte(w))
			wg.Go(func() {
				<-start
				_, err := s.Put(t.Context(), key, bytes.NewReader(b), int64(size), store.PutOptions{SHA256: sum(b), IfNoneMatch: true})
				switch {
				case err == nil:
					wins.Add(1)
					winner.Store(int64(w))
				case !errors.Is(err, store.ErrPrecondition):
					t.Errorf("writer %d: %v", w, err)
				}
			})
		}
		close(start)
		wg.Wait()
		if wins.Load() != 1 {
			t.Fatalf("round %d: %d winners", round, wins.Load())
		}
		want(t, s, key, pattern(size, byte(winner.Load())))
	}
}

// counter: 12 writers add to one number by compare and swap; no addition is lost.
func counter(t *testing.T, s store.Store) {
	const writers, additions = 12, 5
	put(t, s, "counter", []byte("0"), store.PutOptions{IfNoneMatch: true})
	each(t, writers, writers*additions, func(int) error { return add(t.Context(), s, "counter") })
	want(t, s, "counter", []byte(strconv.Itoa(writers*additions)))
}

func add(ctx context.Context, s store.Store, key string) error {
	for {
		b, info, err := read(ctx, s, key)
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(string(b))
		if err != nil {
			return err
		}
		next := strconv.Itoa(n + 1)
		_, err = s.Put(ctx, key, strings.NewReader(next), int64(len(next)), store.PutOptions{IfMatch: info.ETag})
		if !errors.Is(err, store.ErrPrecondition) {
			return err
		}
	}
}

// everyChange: the same size over and over, faster than a file system's clock ticks, with inode numbers in re-use.
func everyChange(t *testing.T, s store.Store) {
	seen := map[string]int{}
	for i := range 200 {
		info := put(t, s, "k", fmt.Appendf(nil, "%06d", i), store.PutOptions{})
		if before, ok := seen[info.ETag]; ok {
			t.Fatalf("states %d and %d have the ETag %s", before, i, info.ETag)
		}
		seen[info.ETag] = i
	}
}

// wholeObjects: while an object is overwritten all the time, readers see each time one state as a whole.
func wholeObjects(t *testing.T, s store.Store) {
	const size = 100_000
	states := [2][]byte{pattern(size, 1), pattern(size/2, 2)}
	put(t, s, "k", states[0], store.PutOptions{})
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					if n > 0 {
						return
					}
				default:
				}
				b, info, err := read(t.Context(), s, "k")
				if err != nil {
					t.Error(err)
					return
				}
				if int64(len(b)) != info.Size || !bytes.Equal(b, states[0]) && !bytes.Equal(b, states[1]) {
					t.Errorf("read %d bytes that nobody wrote (announced %d)", len(b), info.Size)
					return
				}
			}
		})
	}
	for i := range 60 {
		b := states[i%2]
		put(t, s, "k", b, store.PutOptions{SHA256: sum(b)})
	}
	close(done)
	wg.Wait()
}

// readerKeeps: a reader that has begun is not disturbed by an overwrite and a deletion.
func readerKeeps(t *testing.T, s store.Store) {
	b := pattern(1<<20, 7)
	put(t, s, "k", b, store.PutOptions{})
	r, _, err := s.Get(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	first := make([]byte, 1000)
	if _, err := io.ReadFull(r, first); err != nil {
		t.Fatal(err)
	}
	put(t, s, "k", pattern(1<<20, 8), store.PutOptions{})
	if err := s.Delete(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(append(first, rest...), b) {
		t.Error("the reader got another state's bytes")
	}
}
