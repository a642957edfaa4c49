package store_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hallmark-attest/hallmark/internal/store"
	"github.com/hallmark-attest/hallmark/internal/store/storetest"
)

func openDir(t *testing.T) store.Store {
	t.Helper()
	d, _ := newDir(t)
	return d
}

func newDir(t *testing.T) (*store.Dir, string) {
	t.Helper()
	path := t.TempDir()
	return reopen(t, path), path
}

func reopen(t *testing.T, path string) *store.Dir {
	t.Helper()
	d, err := store.NewDir(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestDir(t *testing.T) {
	t.Parallel()
	storetest.Run(t, openDir)
}

func listed(t *testing.T, s store.Store, prefix string) []string {
	t.Helper()
	keys := []string{}
	for info, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

// TestDirIsPlain: what is on disk is what a web server serves, with modes that let it.
func TestDirIsPlain(t *testing.T) {
	old := syscall.Umask(0o022)
	defer syscall.Umask(old)
	path := filepath.Join(t.TempDir(), "made", "as", "needed")
	d := reopen(t, path)
	if d.String() != path {
		t.Errorf("name %s", d)
	}
	for i, o := range []store.PutOptions{{}, {IfNoneMatch: true}} {
		key := []string{"noarch/a+b!c.conda", "linux-64/deep/er/x"}[i]
		if _, err := put(t, d, key, []byte("bytes"), o); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(path, filepath.FromSlash(key))
		if b, err := os.ReadFile(file); err != nil || string(b) != "bytes" {
			t.Errorf("%s: %q %v", file, b, err)
		}
		fi, err := os.Stat(file)
		if err != nil || fi.Mode() != 0o644 || fi.Sys().(*syscall.Stat_t).Nlink != 1 {
			t.Errorf("%s: %v, links %d, %v", file, fi.Mode(), fi.Sys().(*syscall.Stat_t).Nlink, err)
		}
		for dir := filepath.Dir(file); dir != filepath.Dir(path); dir = filepath.Dir(dir) {
			if fi, err := os.Stat(dir); err != nil || fi.Mode() != fs.ModeDir|0o755 {
				t.Errorf("%s: %v %v", dir, fi.Mode(), err)
			}
		}
	}
}

// TestDirReadOnly: a directory that is only read is left as it was.
func TestDirReadOnly(t *testing.T) {
	t.Parallel()
	d, path := newDir(t)
	if err := os.WriteFile(filepath.Join(path, "a"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a"}, listed(t, d, "")); diff != "" {
		t.Error(diff)
	}
	if err := d.Delete(t.Context(), "b"); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(path)
	if err != nil || len(entries) != 1 {
		t.Errorf("%v %v", entries, err)
	}
}

// TestDirHides: temporary files, locks and the probe's objects are in a folder that no listing shows and no key reaches.
func TestDirHides(t *testing.T) {
	t.Parallel()
	d, path := newDir(t)
	for _, key := range []string{".hallmark/probe/x", ".hallmarked", "a/.hallmark/x"} {
		if _, err := put(t, d, key, nil, store.PutOptions{}); err != nil {
			t.Error(err)
		}
	}
	for prefix, want := range map[string][]string{
		"": {".hallmarked", "a/.hallmark/x"}, ".hall": {".hallmarked"}, ".hallmark/": {}, ".hallmark/probe/": {}, ".hallmark/tmp/": {}, ".hallmark/locks/0": {},
		"a/.hallmark/": {"a/.hallmark/x"},
	} {
		if diff := cmp.Diff(want, listed(t, d, prefix)); diff != "" {
			t.Errorf("List %q: %s", prefix, diff)
		}
	}
	if left, err := os.ReadDir(filepath.Join(path, ".hallmark", "tmp")); err != nil || len(left) != 0 {
		t.Errorf("temporary files left: %v %v", left, err)
	}
	for _, key := range []string{".hallmark", ".hallmark/tmp", ".hallmark/tmp/x", ".hallmark/locks/00"} {
		if _, err := put(t, d, key, nil, store.PutOptions{}); !errors.Is(err, store.ErrKey) {
			t.Errorf("Put %q: %v", key, err)
		}
		if err := d.Delete(t.Context(), key); !errors.Is(err, store.ErrKey) {
			t.Errorf("Delete %q: %v", key, err)
		}
	}
}

// TestDirIsConfined: links in the directory lead nowhere outside.
func TestDirIsConfined(t *testing.T) {
	t.Parallel()
	d, path := newDir(t)
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"dir": outside, "file": secret, "up": "..", "dangling": "nowhere", "inside": "real"} {
		if err := os.Symlink(to, filepath.Join(path, name)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := put(t, d, "real", []byte("real"), store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"dir/secret", "file", "up/x", "dangling"} {
		if r, _, err := d.Get(t.Context(), key); err == nil {
			r.Close()
			t.Errorf("Get %q succeeded", key)
		}
		if _, err := d.Head(t.Context(), key); err == nil {
			t.Errorf("Head %q succeeded", key)
		}
	}
	for _, key := range []string{"dir/new", "dir/secret", "up/new"} {
		if _, err := put(t, d, key, nil, store.PutOptions{}); err == nil {
			t.Errorf("Put %q succeeded", key)
		}
		d.Delete(t.Context(), key)
	}
	if _, err := put(t, d, "file", []byte("own"), store.PutOptions{}); err != nil { // replaces the link
		t.Error(err)
	}
	if b, err := os.ReadFile(secret); err != nil || string(b) != "secret" {
		t.Errorf("the file outside: %q %v", b, err)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 1 {
		t.Errorf("outside: %v %v", entries, err)
	}
	if err := os.Remove(filepath.Join(path, "dangling")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(path, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../real", filepath.Join(path, "sub", "link")); err != nil {
		t.Fatal(err)
	}
	if info, err := d.Head(t.Context(), "sub/link"); err != nil || info.Size != 4 {
		t.Errorf("a link inside: %+v %v", info, err)
	}
	if diff := cmp.Diff([]string{"file", "inside", "real", "sub/link"}, listed(t, d, "")); diff != "" {
		t.Error(diff)
	}
}

// TestDirFileIsNoFolder: what a file system cannot hold is said, and is not "somebody was first".
func TestDirFileIsNoFolder(t *testing.T) {
	t.Parallel()
	d, path := newDir(t)
	if _, err := put(t, d, "a/b", nil, store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, o := range []store.PutOptions{{}, {IfNoneMatch: true}} {
		if _, err := put(t, d, "a", nil, o); !errors.Is(err, store.ErrKey) || errors.Is(err, store.ErrPrecondition) {
			t.Errorf("a file over a folder: %v", err)
		}
		if _, err := put(t, d, "a/b/c", nil, o); err == nil || errors.Is(err, store.ErrPrecondition) {
			t.Errorf("below a file: %v", err)
		}
	}
	if _, err := put(t, d, strings.Repeat("n", 256), nil, store.PutOptions{}); !errors.Is(err, store.ErrKey) {
		t.Errorf("a name that is too long: %v", err)
	}
	// A pipe would block who opens it.
	if err := syscall.Mkfifo(filepath.Join(path, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Get(t.Context(), "pipe"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a pipe: %v", err)
	}
	if diff := cmp.Diff([]string{"a/b"}, listed(t, d, "")); diff != "" {
		t.Error(diff)
	}
}

// TestDirETagAfterClockWasSetBack: the predecessor is from the future; the successor's ETag is still later.
func TestDirETagAfterClockWasSetBack(t *testing.T) {
	t.Parallel()
	d, path := newDir(t)
	if _, err := put(t, d, "k", []byte("a"), store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	future := time.Now().Add(24 * time.Hour).Truncate(time.Second)
	if err := os.Chtimes(filepath.Join(path, "k"), time.Time{}, future); err != nil {
		t.Fatal(err)
	}
	last := future
	seen := map[string]bool{}
	for range 20 {
		info, err := put(t, d, "k", []byte("b"), store.PutOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if !info.Modified.After(last) || seen[info.ETag] {
			t.Fatalf("modified %s after %s, ETag %s", info.Modified, last, info.ETag)
		}
		last, seen[info.ETag] = info.Modified, true
	}
}

// TestDirSweep: what dead writers left goes; what a living one writes stays.
func TestDirSweep(t *testing.T) {
	t.Parallel()
	d, path := newDir(t)
	if _, err := put(t, d, "k", nil, store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	temp := filepath.Join(path, ".hallmark", "tmp")
	old := time.Now().Add(-time.Hour)
	for _, name := range []string{"dead", "alive", "young"} {
		if err := os.WriteFile(filepath.Join(temp, name), []byte("half an obj"), 0o644); err != nil {
			t.Fatal(err)
		}
		if name != "young" {
			if err := os.Chtimes(filepath.Join(temp, name), old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	alive, err := os.Open(filepath.Join(temp, "alive"))
	if err != nil {
		t.Fatal(err)
	}
	defer alive.Close()
	if err := syscall.Flock(int(alive.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	reopen(t, path)
	var left []string
	entries, err := os.ReadDir(temp)
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if diff := cmp.Diff([]string{"alive", "young"}, left); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

// TestDirWriterIsNotSwept: the temporary file of a slow upload is locked, so a process that starts meanwhile leaves it alone.
func TestDirWriterIsNotSwept(t *testing.T) {
	t.Parallel()
	d, path := newDir(t)
	body := bodyFunc(func(p []byte, at int64) (int, error) {
		temps, err := filepath.Glob(filepath.Join(path, ".hallmark", "tmp", "*"))
		if err != nil || len(temps) != 1 {
			t.Errorf("%q %v", temps, err)
		}
		old := time.Now().Add(-time.Hour)
		for _, f := range temps {
			if err := os.Chtimes(f, old, old); err != nil {
				t.Error(err)
			}
		}
		reopen(t, path)
		return bytes.NewReader([]byte("slow")).ReadAt(p, at)
	})
	if _, err := d.Put(t.Context(), "k", body, 4, store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

type bodyFunc func([]byte, int64) (int, error)

func (f bodyFunc) ReadAt(p []byte, at int64) (int, error) { return f(p, at) }

// TestDirSurvivesItsFolder: .hallmark can go while nobody writes.
func TestDirSurvivesItsFolder(t *testing.T) {
	t.Parallel()
	d, path := newDir(t)
	for range 2 {
		if _, err := put(t, d, "a/k", nil, store.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(path, ".hallmark")); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(path, "a")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDirRefused(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"", file, filepath.Join(file, "below")} {
		if _, err := store.NewDir(path); err == nil {
			t.Errorf("%q was taken", path)
		}
	}
	if os.Getuid() == 0 {
		return // nothing is forbidden to root; the next check would prove nothing
	}
	closed := t.TempDir()
	if err := os.Chmod(closed, 0o555); err != nil {
		t.Fatal(err)
	}
	if err := store.Probe(t.Context(), reopen(t, closed)); !errors.Is(err, store.ErrAuth) {
		t.Errorf("%v, want ErrAuth", err)
	}
}
