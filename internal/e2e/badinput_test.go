package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hallmark-attest/hallmark/internal/conda/condatest"
)

// TestBadInput: each bad package is set aside with its reason, exit 3; the rest of the campaign is finished.
func TestBadInput(t *testing.T) {
	t.Parallel()
	good := samples(t, 6, 11)
	p := newPlace(t)
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}

	want := map[string]string{} // cause by source
	for _, bad := range condatest.Bad() {
		want[write(filepath.Join(bad.Name, bad.Filename), bad.Bytes)] = bad.Code
	}
	missing := filepath.Join(dir, "missing-1.0-0.conda")
	want[missing] = "source.missing"
	folder := filepath.Join(dir, "folder-1.0-0.conda")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	want[folder] = "source.not-a-file"
	fifo := filepath.Join(dir, "fifo-1.0-0.conda") // opening it to read must not hang
	if err := syscall.Mkfifo(fifo, 0o644); err != nil {
		t.Fatal(err)
	}
	want[fifo] = "source.not-a-file"

	// A package that the channel has with other bytes.
	first := samples(t, 1, 12)[0]
	run(t, programs.producer, p.publish(first)...).want(t, 0)
	spec := condatest.Samples(1, 12)[0]
	spec.Timestamp++
	other, err := condatest.Write(filepath.Join(dir, "other"), spec)
	if err != nil {
		t.Fatal(err)
	}
	want[other] = "channel.conflict"

	// A digest that the submitter gave and the package does not have.
	digested := good[0]
	sums := write("SHA256SUMS", []byte(strings.Repeat("0", 64)+"  "+filepath.Base(digested)+"\n"))
	want[digested] = "package.digest-mismatch"

	args := p.publish(append(append([]string{}, good...), good[1])...) // and one argument twice
	for path := range want {
		if path != digested {
			args = append(args, path)
		}
	}
	args = append(args, "--sha256sums", sums)
	r := run(t, programs.producer, args...).want(t, 3)
	s := decode[campaign](t, r)
	got := map[string]string{}
	for _, f := range s.Failures {
		got[f.Source] = f.Cause
		if f.Message == "" {
			t.Errorf("%s: no message", f.Source)
		}
		if strings.Contains(f.Message, "internal") {
			t.Errorf("%s: %s", f.Source, f.Message)
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("set aside: %s", d)
	}
	if s.Published != 5 || s.Failed != len(want) || s.Waiting != 0 || s.Duplicates != 1 {
		t.Errorf("%+v", s)
	}
	check(t, p.channel, 6, subdirs(t, p.channel)...)

	// Without --json a person reads the same.
	text := slices.DeleteFunc(args, func(a string) bool { return a == "--json" })
	r = run(t, programs.producer, text...).want(t, 3)
	for path, cause := range want {
		if !strings.Contains(r.stdout, path) || !strings.Contains(r.stdout, cause) {
			t.Errorf("the text does not tell of %s (%s)", path, cause)
		}
	}
	if !strings.Contains(r.stderr, "hint:") || !strings.Contains(r.stderr, "set aside") {
		t.Errorf("stderr: %s", r.stderr)
	}
}

// TestUnreadableFile: a file without read rights is set aside, if the command does not run as root.
func TestUnreadableFile(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("/tmp", "hallmark-unreadable-") // a folder that another user can reach
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	good := samples(t, 1, 13)[0]
	b := read(t, good)
	open, closed := filepath.Join(dir, filepath.Base(good)), filepath.Join(dir, "closed", filepath.Base(good))
	for path, mode := range map[string]os.FileMode{open: 0o644, closed: 0o000} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(programs.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	p := place{filepath.Join(dir, "channel"), filepath.Join(dir, "state")}
	s := decode[campaign](t, runAsNobody(t, programs.producer, p.publish(open, closed)...).want(t, 3))
	if s.Published != 1 || len(s.Failures) != 1 || s.Failures[0].Cause != "source.unreadable" || s.Failures[0].Source != closed {
		t.Errorf("%+v", s)
	}
	// Nobody can write here: told before anything is enqueued.
	sealed := filepath.Join(dir, "sealed")
	if err := os.Mkdir(sealed, 0o755); err != nil {
		t.Fatal(err)
	}
	q := place{filepath.Join(sealed, "channel"), filepath.Join(dir, "state2")}
	r := runAsNobody(t, programs.producer, q.publish(open)...).want(t, 2)
	if !strings.Contains(r.stderr, "cannot be written to") && !strings.Contains(r.stderr, "permission denied") {
		t.Errorf("%s", r.stderr)
	}
	if _, err := os.Stat(q.state); err == nil {
		t.Error("the queue was made although the channel cannot be written to")
	}
}

// TestTwoFilesOfOneName: one of them is published, the other set aside; which one is nobody's promise.
func TestTwoFilesOfOneName(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	spec := condatest.Samples(1, 14)[0]
	var both []string
	for range 2 {
		path, err := condatest.Write(t.TempDir(), spec)
		if err != nil {
			t.Fatal(err)
		}
		both = append(both, path)
		spec.Timestamp++
	}
	s := decode[campaign](t, run(t, programs.producer, p.publish(both...)...).want(t, 3))
	if s.Published != 1 || len(s.Failures) != 1 || s.Failures[0].Cause != "channel.conflict" {
		t.Errorf("%+v", s)
	}
	check(t, p.channel, 1, subdirs(t, p.channel)...)
}
