// Package storetest says what a store must do, as tests. What flows in is a way to open an empty store; what flows out is a
// verdict. It also starts a real S3 server for tests, here and elsewhere.
package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/hallmark-attest/hallmark/internal/store"
)

// Run runs the conformance suite. open is called for each test and MUST give an empty store; it may share one server.
// The suite's big objects have 12 MiB: a store that sends large objects in parts is to be opened with a bound below that as well.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, s store.Store)
	}{
		{"RoundTrip", roundTrip},
		{"Overwrite", overwrite},
		{"Missing", missing},
		{"Delete", deletion},
		{"IfNoneMatch", ifNoneMatch},
		{"IfMatch", ifMatch},
		{"BothConditions", bothConditions},
		{"RaceToCreate", raceToCreate},
		{"RaceToCreateBig", raceToCreateBig},
		{"RaceToChangeBig", raceToChangeBig},
		{"Counter", counter},
		{"EveryChangeHasItsETag", everyChange},
		{"Digest", digest},
		{"DigestBig", digestBig},
		{"ShortBody", shortBody},
		{"Empty", empty},
		{"Big", big},
		{"WholeObjects", wholeObjects},
		{"ReaderKeepsItsState", readerKeeps},
		{"Ranges", ranges},
		{"RangesPastTheEnd", rangesPastTheEnd},
		{"RangesOfOneState", rangesOfOneState},
		{"RangesWhileOverwritten", rangesWhileOverwritten},
		{"ReaderAt", readerAt},
		{"ReaderAtOneState", readerAtOneState},
		{"OddKeys", oddKeys},
		{"RefusedKeys", refusedKeys},
		{"List", list},
		{"ListStops", listStops},
		{"ListMany", listMany},
		{"Folders", folders},
		{"Cancelled", cancelled},
		{"Probe", probe},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, open(t))
		})
	}
}

// bigSize is three of the smallest parts of S3, the last one short.
const bigSize = 12<<20 + 345

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

func put(t *testing.T, s store.Store, key string, b []byte, o store.PutOptions) store.Info {
	t.Helper()
	info, err := s.Put(t.Context(), key, bytes.NewReader(b), int64(len(b)), o)
	if err != nil {
		t.Fatal(err)
	}
	if info.Key != key || info.Size != int64(len(b)) || info.ETag == "" {
		t.Fatalf("Put %q of %d bytes returned %+v", key, len(b), info)
	}
	return info
}

func refuse(t *testing.T, s store.Store, key string, b []byte, o store.PutOptions, want error) {
	t.Helper()
	if _, err := s.Put(t.Context(), key, bytes.NewReader(b), int64(len(b)), o); !errors.Is(err, want) {
		t.Fatalf("Put %q with %+v: %v, want %v", key, o, err, want)
	}
}

func read(ctx context.Context, s store.Store, key string) ([]byte, store.Info, error) {
	r, info, err := s.Get(ctx, key)
	if err != nil {
		return nil, info, err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	return b, info, err
}

// want checks that the object has these bytes and that everything said about it agrees.
func want(t *testing.T, s store.Store, key string, b []byte) store.Info {
	t.Helper()
	got, info, err := read(t.Context(), s, key)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, b) {
		t.Fatalf("%q has %d bytes %.60q, want %d bytes %.60q", key, len(got), got, len(b), b)
	}
	head, err := s.Head(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if head.Key != key || head.Size != int64(len(b)) || head.ETag == "" || head.Modified.IsZero() {
		t.Fatalf("Head %q of %d bytes: %+v", key, len(b), head)
	}
	if info.Key != key || info.Size != head.Size || info.ETag != head.ETag || !info.Modified.Equal(head.Modified) {
		t.Fatalf("Get %q: %+v, Head: %+v", key, info, head)
	}
	for _, i := range []store.Info{info, head} {
		if i.SHA256 != "" && i.SHA256 != sum(b) {
			t.Fatalf("%q: digest %s, want %s", key, i.SHA256, sum(b))
		}
	}
	return head
}

func wantMissing(t *testing.T, s store.Store, key string) {
	t.Helper()
	if _, err := s.Head(t.Context(), key); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("Head %q: %v, want ErrNotFound", key, err)
	}
	if _, _, err := read(t.Context(), s, key); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("Get %q: %v, want ErrNotFound", key, err)
	}
	for _, etag := range []string{"", "never-was"} {
		if _, _, err := readRange(t.Context(), s, key, 0, 1, etag); !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("GetRange %q with ETag %q: %v, want ErrNotFound", key, etag, err)
		}
	}
}

func keys(t *testing.T, s store.Store, prefix string) []string {
	t.Helper()
	ks := []string{}
	for info, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		if info.Size < 0 || info.ETag == "" || info.Modified.IsZero() {
			t.Fatalf("List %q: %+v", prefix, info)
		}
		if !strings.HasPrefix(info.Key, ".hallmark/") {
			ks = append(ks, info.Key)
		}
	}
	return ks
}

// pattern makes n bytes that differ by seed everywhere.
func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	x := uint32(seed) + 1
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}
