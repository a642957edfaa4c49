package store_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hallmark-attest/hallmark/internal/store"
)

func TestOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for location, want := range map[string]string{
		dir + "/plain":                 dir + "/plain",
		"file://" + dir + "/a%20b":     dir + "/a b",
		"file://localhost" + dir + "/": dir,
	} {
		s, err := store.Open(t.Context(), location, nil)
		if err != nil || s.String() != want {
			t.Errorf("%s: %v %v", location, s, err)
		}
	}
	for location, words := range map[string]string{
		"":                           "empty",
		"s3://":                      "no bucket",
		"s3:///prefix":               "no bucket",
		"s3:bucket/prefix":           "slashes",
		"file:/path":                 "slashes",
		"file://host/path":           "host",
		"file://path":                "host",
		"file:///path?x=1":           "%3F",
		"s3://id:hunter2@b":          "credentials",
		"gs://bucket":                "unknown scheme",
		"https://me:hunter2@host/ch": "URL to read from",
		"ftp://me:hunter2@h/%zz":     "unknown scheme",
		"s3://bucket/a/../b":         "prefix",
	} {
		_, err := store.Open(t.Context(), location, nil)
		if err == nil || !strings.Contains(err.Error(), words) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v, want %q", location, err, words)
		}
	}
}

// TestOpenRelative: a path is taken from where the program runs, and stays that when the program goes elsewhere.
func TestOpenRelative(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	s, err := store.Open(t.Context(), "channel", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	if _, err := put(t, s, "k", nil, store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "channel", "k")); err != nil {
		t.Error(err)
	}
}

// lacking is a directory that lacks something, as some S3-compatible stores do.
type lacking struct {
	store.Store
	put func(*store.PutOptions) error
	get error
}

func (l lacking) Put(ctx context.Context, key string, b io.ReaderAt, n int64, o store.PutOptions) (store.Info, error) {
	if err := l.put(&o); err != nil {
		return store.Info{}, err
	}
	return l.Store.Put(ctx, key, b, n, o)
}

func (l lacking) Get(ctx context.Context, key string) (io.ReadCloser, store.Info, error) {
	if l.get != nil {
		return nil, store.Info{}, l.get
	}
	return l.Store.Get(ctx, key)
}

func TestProbe(t *testing.T) {
	t.Parallel()
	outage := errors.New("outage")
	for what, test := range map[string]struct {
		put  func(*store.PutOptions) error
		get  error
		want error
	}{
		"nothing":       {func(*store.PutOptions) error { return nil }, nil, nil},
		"If-None-Match": {func(o *store.PutOptions) error { o.IfNoneMatch = false; return nil }, nil, store.ErrUnsupported},
		"If-Match":      {func(o *store.PutOptions) error { o.IfMatch = ""; return nil }, nil, store.ErrUnsupported},
		"a right If-Match": {func(o *store.PutOptions) error {
			if o.IfMatch != "" {
				o.IfMatch = "other"
			}
			return nil
		}, nil, store.ErrPrecondition},
		"digests": {func(o *store.PutOptions) error { o.SHA256 = ""; return nil }, nil, store.ErrUnsupported},
		"If-Match, as it says": {func(o *store.PutOptions) error {
			if o.IfMatch != "" {
				return store.ErrUnsupported
			}
			return nil
		}, nil, store.ErrUnsupported},
		"rights":         {func(*store.PutOptions) error { return store.ErrAuth }, nil, store.ErrAuth},
		"rights to read": {func(*store.PutOptions) error { return nil }, store.ErrAuth, store.ErrAuth},
		"health":         {func(*store.PutOptions) error { return outage }, nil, outage},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			d, path := newDir(t)
			err := store.Probe(t.Context(), lacking{d, test.put, test.get})
			if !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
				t.Errorf("%v, want %v", err, test.want)
			}
			if err != nil && !strings.Contains(err.Error(), path) {
				t.Errorf("%v does not name the store", err)
			}
			if left, _ := filepath.Glob(filepath.Join(path, ".hallmark", "probe", "*")); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

func TestTransient(t *testing.T) {
	t.Parallel()
	for _, f := range store.Failures {
		err := fmt.Errorf("putting: %w", &os.PathError{Op: "write", Path: "p", Err: f})
		if _, ok := store.Transient(err); !ok {
			t.Errorf("%v is not transient", err)
		}
	}
	for _, err := range []error{
		nil, context.Canceled, errors.New("other"), syscall.EISDIR, syscall.ENAMETOOLONG, os.ErrClosed,
		store.ErrNotFound, store.ErrPrecondition, store.ErrDigest, store.ErrKey, store.ErrAuth, store.ErrUnsupported,
		fmt.Errorf("%w: %w", store.ErrAuth, syscall.EAGAIN),
	} {
		if after, ok := store.Transient(err); ok || after != 0 {
			t.Errorf("%v is transient", err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	<-ctx.Done()
	if _, ok := store.Transient(fmt.Errorf("putting: %w", ctx.Err())); !ok {
		t.Error("a deadline is not transient")
	}
}
