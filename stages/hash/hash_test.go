package hash

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hallmark-attest/hallmark/internal/conda"
	"github.com/hallmark-attest/hallmark/internal/conda/condatest"
	"github.com/hallmark-attest/hallmark/pipeline"
)

func sample(t *testing.T) (condatest.Spec, *pipeline.Item) {
	t.Helper()
	s := condatest.Samples(5, 3)[4]
	p, err := condatest.Write(filepath.Join(t.TempDir(), s.Subdir), s)
	if err != nil {
		t.Fatal(err)
	}
	return s, &pipeline.Item{ID: "i", Campaign: "c", Source: p, Filename: s.Filename()}
}

func want(t *testing.T, err error, kind pipeline.Kind, cause string) {
	t.Helper()
	e, ok := errors.AsType[*pipeline.Error](err)
	if !ok || e.Kind != kind || e.Cause != cause {
		t.Errorf("want %v %s, got %v", kind, cause, err)
	} else if kind == pipeline.KindPermanent && (e.Hint == "" || e.Error() == "") {
		t.Error("no hint or no message")
	}
}

func TestRunFillsThePackageInTwice(t *testing.T) {
	t.Parallel()
	s, it := sample(t)
	b, err := s.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	it.Expected = fmt.Sprintf("%X", sha256.Sum256(b))
	stage := New(Options{})
	if stage.String() != "hash" || Concurrency() < 1 {
		t.Error("name or concurrency")
	}
	if err := stage.Run(t.Context(), it); err != nil {
		t.Fatal(err)
	}
	p := it.Package
	if p.Name != s.Name || p.Version != s.Version || p.Build != s.Build || p.Subdir != s.Subdir || p.Size != int64(len(b)) ||
		p.SHA256 != strings.ToLower(it.Expected) || len(p.MD5) != 32 || !json.Valid(p.Record) || !strings.Contains(string(p.RunExports), "strong") {
		t.Errorf("%+v", p)
	}
	first, err := json.Marshal(it)
	if err != nil {
		t.Fatal(err)
	}
	if err := stage.Run(t.Context(), it); err != nil {
		t.Fatal(err)
	}
	second, _ := json.Marshal(it)
	if d := cmp.Diff(string(first), string(second)); d != "" {
		t.Error(d)
	}
}

func TestRunRefusesBadPackages(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	stage := New(Options{})
	for _, b := range condatest.Bad() {
		t.Run(b.Name, func(t *testing.T) {
			p, err := b.Write(dir)
			if err != nil {
				t.Fatal(err)
			}
			it := &pipeline.Item{Source: p, Filename: b.Filename}
			want(t, stage.Run(t.Context(), it), pipeline.KindPermanent, b.Code)
			if d := cmp.Diff(pipeline.Package{}, it.Package); d != "" {
				t.Errorf("a failure left something in the item: %s", d)
			}
		})
	}
}

func TestRunRefusesOtherBytes(t *testing.T) {
	t.Parallel()
	_, it := sample(t)
	it.Expected = strings.Repeat("0", 64)
	want(t, New(Options{Prior: prior(func(*pipeline.Item) error { t.Error("asked"); return nil })}).Run(t.Context(), it), pipeline.KindPermanent, CauseDigestMismatch)
	if it.Package.SHA256 != "" {
		t.Error("the item took the wrong bytes")
	}
}

func TestRunOnWhatIsNoFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pipe, plain, secret := filepath.Join(dir, "pipe"), filepath.Join(dir, "plain"), filepath.Join(dir, "secret")
	if err := errors.Join(syscall.Mkfifo(pipe, 0o600), os.WriteFile(plain, []byte("x"), 0o600), os.WriteFile(secret, []byte("x"), 0)); err != nil {
		t.Fatal(err)
	}
	cases := map[string]string{
		filepath.Join(dir, "absent"):   CauseMissing,
		"":                             CauseMissing,
		"a\x00b":                       CauseMissing,
		filepath.Join(plain, "below"):  CauseMissing,
		"/" + strings.Repeat("n", 300): CauseMissing,
		dir:                            CauseNotAFile,
		pipe:                           CauseNotAFile,
		"/dev/null":                    CauseNotAFile,
	}
	if os.Geteuid() != 0 { // root reads everything; TestClassify has the error itself
		cases[secret] = CauseUnreadable
	}
	for source, cause := range cases {
		err := New(Options{}).Run(t.Context(), &pipeline.Item{Source: source, Filename: "a-1-0.conda"})
		want(t, err, pipeline.KindPermanent, cause)
	}
}

// A volume that is not mounted says "no such file" of everything on it. That is an outage, if somebody has read the file before.
func TestRunOnAPlaceThatIsAway(t *testing.T) {
	t.Parallel()
	empty := t.TempDir()
	for _, source := range []string{filepath.Join(empty, "a-1-0.conda"), filepath.Join(empty, "no", "a-1-0.conda")} {
		err := New(Options{}).Run(t.Context(), &pipeline.Item{Source: source, Filename: "a-1-0.conda", Expected: strings.Repeat("a", 64)})
		want(t, err, pipeline.KindTransient, "source.unavailable")
		err = New(Options{}).Run(t.Context(), &pipeline.Item{Source: source, Filename: "a-1-0.conda"})
		want(t, err, pipeline.KindPermanent, CauseMissing)
	}
	if err := os.WriteFile(filepath.Join(empty, "other"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := New(Options{}).Run(t.Context(), &pipeline.Item{Source: filepath.Join(empty, "a-1-0.conda"), Filename: "a-1-0.conda", Expected: strings.Repeat("a", 64)})
	want(t, err, pipeline.KindPermanent, CauseMissing)
}

func TestClassify(t *testing.T) {
	t.Parallel()
	for errno, c := range map[error]struct {
		kind  pipeline.Kind
		cause string
	}{
		syscall.ENOENT: {pipeline.KindPermanent, CauseMissing},
		syscall.EACCES: {pipeline.KindPermanent, CauseUnreadable},
		syscall.EPERM:  {pipeline.KindPermanent, CauseUnreadable},
		syscall.EISDIR: {pipeline.KindPermanent, CauseNotAFile},
		syscall.EIO:    {pipeline.KindTransient, CauseIO},
		syscall.ESTALE: {pipeline.KindTransient, CauseIO},
		syscall.ENFILE: {pipeline.KindTransient, CauseIO},
		syscall.EMFILE: {pipeline.KindTransient, CauseIO},
		syscall.ENOMEM: {pipeline.KindTransient, CauseIO},
	} {
		err := fmt.Errorf("reading: %w", &fs.PathError{Op: "read", Path: "p", Err: errno})
		want(t, classify(t.Context(), err), c.kind, c.cause)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	t.Parallel()
	_, it := sample(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := New(Options{}).Run(ctx, it)
	// A drain is no fault of the file: it has no cause of this stage.
	if e, ok := errors.AsType[*pipeline.Error](err); ok || !errors.Is(err, context.Canceled) {
		t.Error(err, e)
	}
}

// touched is a file that something else writes to during the first read, or whose reads fail.
type touched struct {
	*os.File
	during func()
	err    error
}

func (f *touched) ReadAt(p []byte, off int64) (int, error) {
	if f.during != nil {
		f.during()
		f.during = nil
	}
	if f.err != nil {
		return 0, f.err
	}
	return f.File.ReadAt(p, off)
}

func TestRunSeesThatTheFileChanges(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(path string) error{
		"same size": func(p string) error { return os.Chtimes(p, time.Time{}, time.Unix(1, 0)) },
		"cut":       func(p string) error { return os.Truncate(p, 100) },
		"emptied":   func(p string) error { return os.Truncate(p, 0) },
		"longer":    func(p string) error { return os.Truncate(p, 1<<20) },
		"longer, its time set back": func(p string) error {
			i, err := os.Stat(p)
			return errors.Join(err, os.Truncate(p, 1<<20), os.Chtimes(p, time.Time{}, i.ModTime()))
		},
		"bytes differ": func(p string) error { return os.WriteFile(p, []byte("not a package any more"), 0o600) },
	} {
		_, it := sample(t)
		stage := New(Options{})
		stage.open = func(path string) (file, error) {
			f, err := os.Open(path)
			return &touched{File: f, during: func() {
				if err := change(path); err != nil {
					t.Error(err)
				}
			}}, err
		}
		t.Run(name, func(t *testing.T) {
			want(t, stage.Run(t.Context(), it), pipeline.KindTransient, CauseChanged)
		})
	}
}

func TestRunReadErrorIsTransient(t *testing.T) {
	t.Parallel()
	_, it := sample(t)
	stage := New(Options{})
	stage.open = func(path string) (file, error) {
		f, err := os.Open(path)
		return &touched{File: f, err: syscall.EIO}, err
	}
	want(t, stage.Run(t.Context(), it), pipeline.KindTransient, CauseIO)
}

type prior func(*pipeline.Item) error

func (p prior) Find(_ context.Context, it *pipeline.Item) error { return p(it) }

func TestRunAsksThePrior(t *testing.T) {
	t.Parallel()
	_, it := sample(t)
	skip := pipeline.Skip("published", "there already")
	var seen string
	err := New(Options{Prior: prior(func(it *pipeline.Item) error {
		seen = it.Package.SHA256
		it.Bundle = pipeline.Bundle(`{}`)
		return skip
	})}).Run(t.Context(), it)
	if err != skip || len(seen) != 64 || string(it.Bundle) != "{}" {
		t.Errorf("%v, saw %q", err, seen)
	}
}

func TestSubdirOfOldPackages(t *testing.T) {
	t.Parallel()
	s := condatest.Spec{Name: "old", Version: "1", Build: "0", Index: map[string]any{"subdir": nil}}
	for _, c := range []struct {
		folder, option, item, want string
	}{
		{"linux-64", "", "", "linux-64"},
		{"noarch", "", "", "noarch"},
		{"build-output", "", "", ""}, // CEP 26's shape, and no platform
		{"linux-64", "", "osx-64", "osx-64"},
		{"linux-64", "win-64", "osx-64", "win-64"},
	} {
		p, err := condatest.Write(filepath.Join(t.TempDir(), c.folder), s)
		if err != nil {
			t.Fatal(err)
		}
		it := &pipeline.Item{Source: p, Filename: s.Filename(), Package: pipeline.Package{Subdir: c.item}}
		err = New(Options{Subdir: c.option}).Run(t.Context(), it)
		if c.want == "" {
			want(t, err, pipeline.KindPermanent, conda.CodeNoSubdir)
		} else if err != nil || it.Package.Subdir != c.want {
			t.Errorf("%+v: %s, %v", c, it.Package.Subdir, err)
		}
	}
}
