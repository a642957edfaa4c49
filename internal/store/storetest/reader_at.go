package storetest

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/hallmark-attest/hallmark/internal/store"
)

// readerAt reads objects through a store.ReaderAt in every way.
func readerAt(t *testing.T, s store.Store) {
	for _, n := range []int{0, 1, 70_000, 900_000} {
		b := pattern(n, 21)
		info := put(t, s, "d/k", b, store.PutOptions{})
		for _, first := range []int64{-1, -64 << 10, -1 << 40, 0, 1, 100_000, 1 << 40} {
			r, err := store.OpenReaderAt(t.Context(), s, "d/k", first)
			if err != nil {
				t.Fatal(err)
			}
			if r.Size() != int64(n) || r.Info().ETag != info.ETag {
				t.Errorf("%d bytes: %+v", n, r.Info())
			}
			if err := iotest.TestReader(io.NewSectionReader(r, 0, r.Size()), b); err != nil {
				t.Errorf("%d bytes, the first %d: %v", n, first, err)
			}
			// From the end to the start, in pieces that fit nothing.
			got := make([]byte, n)
			for end := n; end > 0; {
				from := max(0, end-33_333)
				if _, err := r.ReadAt(got[from:end], int64(from)); err != nil && !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
				end = from
			}
			if !bytes.Equal(got, b) {
				t.Errorf("%d bytes, the first %d: others came backwards", n, first)
			}
			if _, err := r.ReadAt(make([]byte, 1), int64(n)); !errors.Is(err, io.EOF) {
				t.Errorf("at the end: %v", err)
			}
			if _, err := r.ReadAt(make([]byte, 1), -1); err == nil {
				t.Error("before the start: no error")
			}
		}
	}
	if _, err := store.OpenReaderAt(t.Context(), s, "none", -1); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("%v, want ErrNotFound", err)
	}
}

// readerAtOneState: a reader never mixes two states.
func readerAtOneState(t *testing.T, s store.Store) {
	old := pattern(900_000, 1)
	put(t, s, "k", old, store.PutOptions{})
	r, err := store.OpenReaderAt(t.Context(), s, "k", -100_000)
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "k", pattern(900_000, 2), store.PutOptions{})
	b := make([]byte, 100)
	if _, err := r.ReadAt(b, 0); !errors.Is(err, store.ErrPrecondition) {
		t.Errorf("%v, want ErrPrecondition", err)
	}
	if _, err := r.ReadAt(b, 899_000); err != nil || !bytes.Equal(b, old[899_000:][:100]) {
		t.Errorf("what was fetched is no longer there: %v", err)
	}
	if err := s.Delete(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadAt(b, 0); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("%v, want ErrNotFound", err)
	}
}
