package store

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"strings"
)

func TestRangeHeader(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		offset, length int64
		want           string
	}{
		{0, 1, "bytes=0-0"},
		{5, 10, "bytes=5-14"},
		{5, math.MaxInt64, "bytes=5-"},
		{0, math.MaxInt64, "bytes=0-9223372036854775806"},
		{-1, 0, "bytes=-1"},
		{math.MinInt64, 0, "bytes=-9223372036854775807"},
	} {
		if got := rangeHeader(test.offset, test.length); got != test.want {
			t.Errorf("%d, %d: %s, want %s", test.offset, test.length, got, test.want)
		}
	}
}

// TestRangeAnswers: what a store answers is believed only if it is what was asked for.
func TestRangeAnswers(t *testing.T) {
	t.Parallel()
	const ten = "0123456789"
	for _, test := range []struct {
		what           string
		offset, length int64
		status         int
		contentRange   string
		body           string
		want           string // the bytes, if err is nil
		err            error
	}{
		{"right", 2, 3, 206, "bytes 2-4/10", "234", "234", nil},
		{"the end", 8, 3, 206, "bytes 8-9/10", "89", "89", nil},
		{"suffix", -3, 0, 206, "bytes 7-9/10", "789", "789", nil},
		{"suffix of more", -30, 0, 206, "bytes 0-9/10", ten, ten, nil},
		{"all of it, said as 200", 0, 10, 200, "", ten, ten, nil},
		{"all of it as suffix, said as 200", -10, 0, 200, "", ten, ten, nil},
		{"range ignored", 2, 3, 200, "", ten, "", ErrUnsupported},
		{"suffix ignored", -3, 0, 200, "", ten, "", ErrUnsupported},
		{"suffix one too long", -3, 0, 206, "bytes 6-9/10", "6789", "", ErrUnsupported},
		{"other start", 2, 3, 206, "bytes 1-3/10", "123", "", ErrUnsupported},
		{"too short", 2, 3, 206, "bytes 2-3/10", "23", "", ErrUnsupported},
		{"too long", 2, 3, 206, "bytes 2-5/10", "2345", "", ErrUnsupported},
		{"two lengths", 2, 3, 206, "bytes 2-4/10", "2345", "", ErrUnsupported},
		{"unknown size", 2, 3, 206, "bytes 2-4/*", "234", "", ErrUnsupported},
		{"past its own size", 2, 3, 206, "bytes 2-4/4", "234", "", ErrUnsupported},
		{"backwards", 2, 3, 206, "bytes 4-2/10", "234", "", ErrUnsupported},
		{"other unit", 2, 3, 206, "lines 2-4/10", "234", "", ErrUnsupported},
		{"no numbers", 2, 3, 206, "bytes x-y/z", "234", "", ErrUnsupported},
		{"numbers too large", 2, 3, 206, "bytes 2-4/99999999999999999999", "234", "", ErrUnsupported},
		{"past the end", 10, 3, 416, "", "<Error><Code>InvalidRange</Code></Error>", "", ErrRange},
		{"past the end, without a code", 10, 3, 416, "", "", "", ErrRange},
		{"empty object as 200", -3, 0, 200, "", "", "", ErrRange},
		{"changed", 2, 3, 412, "", "<Error><Code>PreconditionFailed</Code></Error>", "", ErrPrecondition},
	} {
		t.Run(test.what, func(t *testing.T) {
			t.Parallel()
			s := pretend(t, func(r *http.Request) (*http.Response, error) {
				if got, want := r.Header.Get("Range"), rangeHeader(test.offset, test.length); got != want {
					t.Errorf("asked for %q, want %q", got, want)
				}
				if r.Header.Get("If-Match") != `"e"` {
					t.Errorf("If-Match %q", r.Header.Get("If-Match"))
				}
				resp := respond(r, test.status, test.body, "ETag", `"e"`)
				if test.contentRange != "" {
					resp.Header.Set("Content-Range", test.contentRange)
				}
				resp.Header.Set("Content-Length", fmt.Sprint(len(test.body)))
				return resp, nil
			})
			body, info, err := s.GetRange(t.Context(), "k", test.offset, test.length, `"e"`)
			if test.err != nil {
				if !errors.Is(err, test.err) {
					t.Errorf("%v, want %v", err, test.err)
				}
				if _, again := Transient(err); again {
					t.Errorf("transient: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer body.Close()
			if got, err := io.ReadAll(body); string(got) != test.want || err != nil || info.Size != 10 || info.ETag != `"e"` {
				t.Errorf("%q %v of %+v, want %q", got, err, info, test.want)
			}
		})
	}
}

// TestRangeOfAnotherState: a store that ignores If-Match on reading is noticed by the ETag.
func TestRangeOfAnotherState(t *testing.T) {
	t.Parallel()
	s := pretend(t, func(r *http.Request) (*http.Response, error) {
		return respond(r, 206, "234", "ETag", `"other"`, "Content-Range", "bytes 2-4/10", "Content-Length", "3"), nil
	})
	if _, _, err := s.GetRange(t.Context(), "k", 2, 3, `"e"`); !errors.Is(err, ErrUnsupported) {
		t.Errorf("%v, want ErrUnsupported", err)
	}
}

// TestRangeIsCut: an answer that ends early, or goes on, is not passed off as the range.
func TestRangeIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for body, want := range map[string]string{"23": "23", "": "", "2345": "234"} {
			s := pretend(t, func(r *http.Request) (*http.Response, error) {
				resp := respond(r, 206, body, "Content-Range", "bytes 2-4/10", "ETag", `"e"`)
				resp.ContentLength = -1 // chunked
				return resp, nil
			})
			r, _, err := s.GetRange(t.Context(), "k", 2, 3, "")
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if _, again := Transient(err); string(got) != want || (err != nil) != (len(body) < 3) || again != (err != nil) {
				t.Errorf("%q: %q, %v", body, got, err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestDirRangeIsCut: a file that is shortened in place while it is read.
func TestDirRangeIsCut(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	d, err := NewDir(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.Put(t.Context(), "k", strings.NewReader("0123456789"), 10, PutOptions{}); err != nil {
		t.Fatal(err)
	}
	r, _, err := d.GetRange(t.Context(), "k", 2, 5, "")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := os.Truncate(filepath.Join(path, "k"), 4); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); string(got) != "23" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%q %v", got, err)
	}
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-9/10", "bytes 2-4/*", "bytes -/", "bytes 9-0/10", "bytes 0-4611686018427387903/4611686018427387904"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		from, to, size, ok := contentRange(s)
		if ok && (from < 0 || to <= from || size < to) {
			t.Errorf("%q: %d to %d of %d", s, from, to, size)
		}
	})
}
