package storetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"sync"
	"testing"

	"github.com/hallmark-attest/hallmark/internal/store"
)

func readRange(ctx context.Context, s store.Store, key string, offset, length int64, etag string) ([]byte, store.Info, error) {
	r, info, err := s.GetRange(ctx, key, offset, length, etag)
	if err != nil {
		return nil, info, err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	return b, info, err
}

// wantRange checks a range of an object that has the bytes whole, and that Info is of the whole.
func wantRange(t *testing.T, s store.Store, key string, whole []byte, offset, length int64) {
	t.Helper()
	head, err := s.Head(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	from, to := offset, int64(len(whole))
	if offset < 0 {
		from = max(0, to+max(offset, -to))
	} else if length < to-from {
		to = from + length
	}
	for _, etag := range []string{"", head.ETag} {
		got, info, err := readRange(t.Context(), s, key, offset, length, etag)
		if err != nil {
			t.Fatalf("GetRange %q %d, %d: %v", key, offset, length, err)
		}
		if !bytes.Equal(got, whole[from:to]) {
			t.Fatalf("GetRange %q %d, %d: %d bytes %.60q, want %d bytes %.60q", key, offset, length, len(got), got, to-from, whole[from:to])
		}
		if info.Key != key || info.Size != head.Size || info.ETag != head.ETag || !info.Modified.Equal(head.Modified) {
			t.Fatalf("GetRange %q %d, %d: %+v, Head: %+v", key, offset, length, info, head)
		}
		if info.SHA256 != "" && info.SHA256 != sum(whole) {
			t.Fatalf("GetRange %q: digest %s, want that of the whole, %s", key, info.SHA256, sum(whole))
		}
	}
}

func ranges(t *testing.T, s store.Store) {
	for _, n := range []int64{1, 10, 100_000, bigSize} {
		b := pattern(int(n), 11)
		put(t, s, "d/k", b, store.PutOptions{SHA256: sum(b)})
		for _, r := range [][2]int64{
			{0, 1}, {0, n}, {0, n + 1}, {0, math.MaxInt64}, {n - 1, 1}, {n - 1, 2}, {n - 1, math.MaxInt64}, {n / 2, 1}, {n / 2, n},
			{-1, 0}, {-1, 1}, {-1, -1}, {-n, 0}, {-n - 1, 0}, {-n / 2, 7}, {math.MinInt64, 0}, {-math.MaxInt64, 0},
		} {
			if r[0] != 0 || r[1] > 0 { // -n/2 of one byte is no suffix
				wantRange(t, s, "d/k", b, r[0], r[1])
			}
		}
	}
	// A reader that is closed before its end harms nothing.
	r, _, err := s.GetRange(t.Context(), "d/k", 5, bigSize/2, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 10)); err != nil {
		t.Error(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	for _, length := range []int64{0, -1, math.MinInt64} {
		if _, _, err := readRange(t.Context(), s, "d/k", 1, length, ""); err == nil {
			t.Errorf("a range of %d bytes was taken", length)
		} else if _, again := store.Transient(err); again {
			t.Errorf("a range of %d bytes counts as the store's failure: %v", length, err)
		}
	}
}

func rangesPastTheEnd(t *testing.T, s store.Store) {
	refused := func(key string, offset, length int64, etag string) {
		t.Helper()
		_, _, err := readRange(t.Context(), s, key, offset, length, etag)
		if !errors.Is(err, store.ErrRange) {
			t.Errorf("GetRange %q %d, %d: %v, want ErrRange", key, offset, length, err)
		}
		if _, again := store.Transient(err); again {
			t.Errorf("GetRange %q %d, %d counts as the store's failure: %v", key, offset, length, err)
		}
	}
	now := put(t, s, "k", []byte("0123456789"), store.PutOptions{})
	for _, etag := range []string{"", now.ETag} {
		refused("k", 10, 1, etag)
		refused("k", 11, 1, etag)
		refused("k", math.MaxInt64, math.MaxInt64, etag)
	}
	now = put(t, s, "empty", nil, store.PutOptions{})
	for _, etag := range []string{"", now.ETag} {
		refused("empty", 0, 1, etag)
		refused("empty", 1, 1, etag)
		refused("empty", -1, 0, etag)
		refused("empty", -100, 0, etag)
	}
}

// rangesOfOneState: the ETag of the first range keeps the bytes of another state out of the others.
func rangesOfOneState(t *testing.T, s store.Store) {
	for _, n := range []int{1000, bigSize} {
		old, next := pattern(n, 1), pattern(n, 2)
		put(t, s, "k", old, store.PutOptions{})
		got, info, err := readRange(t.Context(), s, "k", -100, 0, "")
		if err != nil || !bytes.Equal(got, old[n-100:]) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		put(t, s, "k", next, store.PutOptions{})
		for _, r := range [][2]int64{{0, 100}, {-100, 0}, {int64(n), 1}} {
			if b, _, err := readRange(t.Context(), s, "k", r[0], r[1], info.ETag); !errors.Is(err, store.ErrPrecondition) {
				t.Errorf("range %d of a state that is gone: %d bytes, %v, want ErrPrecondition", r[0], len(b), err)
			}
		}
		if _, _, err := readRange(t.Context(), s, "k", 0, 1, "never-was"); !errors.Is(err, store.ErrPrecondition) {
			t.Errorf("a state that never was: %v, want ErrPrecondition", err)
		}
		wantRange(t, s, "k", next, 0, 100)
		if err := s.Delete(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		if _, _, err := readRange(t.Context(), s, "k", 0, 100, info.ETag); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("an object that is gone: %v, want ErrNotFound", err)
		}
	}
}

// rangesWhileOverwritten: two ranges under one ETag and with the same Info are of one state, however often the object changes between
// them. So are the bytes of one ReaderAt.
func rangesWhileOverwritten(t *testing.T, s store.Store) {
	const size = 50_000
	states := [2][]byte{pattern(size, 1), pattern(size, 2)}
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
				if r, err := store.OpenReaderAt(t.Context(), s, "k", -size/2); err != nil {
					t.Error(err)
					return
				} else if b, err := io.ReadAll(io.NewSectionReader(r, 0, size)); err != nil && !errors.Is(err, store.ErrPrecondition) {
					t.Error(err)
					return
				} else if err == nil && !bytes.Equal(b, states[0]) && !bytes.Equal(b, states[1]) {
					t.Error("one ReaderAt read two states")
					return
				}
				tail, info, err := readRange(t.Context(), s, "k", -size/2, 0, "")
				if err != nil {
					t.Error(err)
					return
				}
				head, again, err := readRange(t.Context(), s, "k", 0, size/2, info.ETag)
				if errors.Is(err, store.ErrPrecondition) || err == nil && !again.Same(info) {
					continue
				} else if err != nil {
					t.Error(err)
					return
				}
				if b := append(head, tail...); !bytes.Equal(b, states[0]) && !bytes.Equal(b, states[1]) {
					t.Error("two ranges of one ETag are of two states")
					return
				}
			}
		})
	}
	for i := range 60 {
		put(t, s, "k", states[i%2], store.PutOptions{})
	}
	close(done)
	wg.Wait()
}
