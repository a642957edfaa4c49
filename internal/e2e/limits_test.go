package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hallmark-attest/hallmark/internal/smalldisk"
)

// start starts producer; its log is that of a worker's process, and what it writes to stdout is in the returned file.
func start(t *testing.T, env []string, args ...string) (p *workerProcess, stdout string) {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "stdout"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p = &workerProcess{cmd: command(context.WithoutCancel(t.Context()), env, programs.producer, args...)}
	p.cmd.Stderr, p.cmd.Stdout = p, out
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	return p, out.Name()
}

// complete waits for the end of a publish of n packages, all of which must be published, at the first go.
func (w *workerProcess) complete(t *testing.T, stdout string, n int) {
	t.Helper()
	code := w.end()
	b, err := os.ReadFile(stdout)
	if err != nil {
		t.Fatal(err)
	}
	r := result{code, string(b), w.stderr()}
	sum := decode[campaign](t, r.want(t, 0))
	if sum.Enqueued != n || sum.Published != n || sum.Failed+sum.Skipped+sum.Waiting != 0 {
		t.Errorf("%+v", sum)
	}
	if strings.Contains(r.stderr, "DATA RACE") {
		t.Errorf("data race\n%s", r.stderr)
	}
}

// unhurt looks at a channel that cannot be written to: what has a name is whole.
func unhurt(t *testing.T, channel string, packages []string) {
	t.Helper()
	want := map[string]string{}
	for _, p := range packages {
		want[filepath.Base(p)] = string(read(t, p))
	}
	for name, b := range tree(t, channel) {
		base := filepath.Base(name)
		switch {
		case base == ".ballast":
		case want[base] != "":
			if b != want[base] {
				t.Errorf("%s has %d bytes, the package %d", name, len(b), len(want[base]))
			}
		case strings.Contains(base, ".sigs"):
			if v := []json.RawMessage{}; json.Unmarshal([]byte(b), &v) != nil || len(v) == 0 {
				t.Errorf("%s is no sidecar: %.100q", name, b)
			}
		case strings.HasSuffix(base, ".json"):
			if !json.Valid([]byte(b)) {
				t.Errorf("%s is no JSON: %.100q", name, b)
			}
		}
	}
}

// tidy fails if the store has left something of its own behind.
func tidy(t *testing.T, channel string) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(channel, ".hallmark*", "tmp", "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q (%v)", left, err)
	}
}

// TestFullDiskUpload: the channel's disk is full. The stage pauses, nothing is set aside, what is visible is whole; when
// there is room again, it goes on by itself.
func TestFullDiskUpload(t *testing.T) {
	t.Parallel()
	const n = 36
	packages := samples(t, n, 71)
	p := newPlace(t)
	p.channel = filepath.Join(smalldisk.Mount(t, 64<<20), "channel")
	if err := os.MkdirAll(p.channel, 0o755); err != nil {
		t.Fatal(err)
	}
	free := smalldisk.Fill(t, filepath.Dir(p.channel), 200<<10) // enough for a few
	publish, stdout := start(t, stack.env, p.publish(packages...)...)
	if l := publish.waitFor(t, "a stage is paused"); !strings.Contains(l, "no space left on device") || !strings.Contains(l, "stage=upload") && !strings.Contains(l, "stage=publish") {
		t.Errorf("%s", l)
	}
	unhurt(t, p.channel, packages)
	free()
	publish.complete(t, stdout, n)
	if !strings.Contains(publish.stderr(), "a stage is paused") {
		t.Errorf("never paused:\n%s", publish.stderr())
	}
	check(t, p.channel, n, subdirs(t, p.channel)...)
	tidy(t, p.channel)
}

// TestFullDiskPublish: the disk is full when packages and sidecars are there and the index is not. status tells; nothing of
// the index is half written.
func TestFullDiskPublish(t *testing.T) {
	t.Parallel()
	const n = 24
	packages := samples(t, n, 72)
	p := newPlace(t)
	p.channel = filepath.Join(smalldisk.Mount(t, 64<<20), "channel")
	url := "nats://" + freeAddress(t)
	first := startWorker(t, stack.env, "--listen", strings.TrimPrefix(url, "nats://"), "--state", p.state, "--stages", "hash,sources,sign,upload")
	waitForServer(t, url)
	run(t, programs.producer, append([]string{"submit", "--json", "--nats", url, "--to", p.channel, "--channel-url", channelURL, "--campaign", "rebuild",
		"--certificate-identity", stack.Identity, "--certificate-oidc-issuer", stack.Issuer, "--cut", "publish"}, packages...)...).want(t, 0)
	waitForSidecars(t, p.channel, n, first.cmd)
	free := smalldisk.Fill(t, filepath.Dir(p.channel), 16<<10) // enough for what a worker writes to see that it can
	last := startWorker(t, stack.env, "--nats", url, "--stages", "publish")
	if l := last.waitFor(t, "trying again"); !strings.Contains(l, "no space left on device") {
		t.Errorf("%s", l)
	}
	unhurt(t, p.channel, packages)
	told := false
	for range 100 {
		r := run(t, programs.producer, "status", "--nats", url, "rebuild").want(t, 0)
		if told = strings.Contains(r.stdout, "no space left on device"); told {
			break
		}
	}
	if !told {
		t.Error("status does not tell of the full disk")
	}
	free()
	st := waitForStatus(t, url, "rebuild", func(c campaign) bool { return c.Waiting == 0 })
	if st.Published != n || st.Failed != 0 {
		t.Errorf("%+v", st)
	}
	last.stop(t)
	first.stop(t)
	check(t, p.channel, n, subdirs(t, p.channel)...)
	tidy(t, p.channel)
}

// TestFullDiskState: the disk of the embedded queue's state is filled by somebody else in the middle of a run. It says so,
// waits, and completes.
func TestFullDiskState(t *testing.T) {
	t.Parallel()
	const n = 36
	packages := samples(t, n, 73)
	p := newPlace(t)
	disk := smalldisk.Mount(t, 32<<20)
	p.state = filepath.Join(disk, "state")
	publish, stdout := start(t, stack.env, append(p.publish(packages...), "--concurrency", "sign=2")...)
	waitForSidecars(t, p.channel, 2, publish.cmd)
	free := smalldisk.Fill(t, disk, 0)
	if l := publish.waitFor(t, "the queue's folder cannot be written"); !strings.Contains(l, "no space left on device") || !strings.Contains(l, "hint=") {
		t.Errorf("%s", l)
	}
	free()
	publish.complete(t, stdout, n)
	check(t, p.channel, n, subdirs(t, p.channel)...)

	// Killed on a full disk, the next run goes on.
	more := samples(t, n, 74)
	publish, _ = start(t, stack.env, append(p.publish(more...), "--concurrency", "sign=2")...)
	waitForSidecars(t, p.channel, n+2, publish.cmd)
	free = smalldisk.Fill(t, disk, 0)
	publish.waitFor(t, "the queue's folder cannot be written")
	_ = publish.cmd.Process.Kill()
	_ = publish.cmd.Wait()
	free()
	sum := decode[campaign](t, run(t, programs.producer, p.publish(more...)...).want(t, 0))
	if sum.Waiting+sum.Failed != 0 || sum.Published+sum.Skipped != n {
		t.Errorf("%+v", sum)
	}
	check(t, p.channel, 2*n, subdirs(t, p.channel)...)
}

// TestFullDiskTemp: the folder for temporary files is full, where index documents are put together.
func TestFullDiskTemp(t *testing.T) {
	t.Parallel()
	const n = 12
	packages := samples(t, n, 75)
	p := newPlace(t)
	temp := smalldisk.Mount(t, 1<<20)
	free := smalldisk.Fill(t, temp, 0)
	publish, stdout := start(t, append([]string{"TMPDIR=" + temp}, stack.env...), p.publish(packages...)...)
	if l := publish.waitFor(t, "trying again"); !strings.Contains(l, "no space left on device") || !strings.Contains(l, "stage=publish") {
		t.Errorf("%s", l)
	}
	unhurt(t, p.channel, packages)
	free()
	publish.complete(t, stdout, n)
	check(t, p.channel, n, subdirs(t, p.channel)...)
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left in the folder for temporary files: %v %v", left, err)
	}
}

// TestFewDescriptors: far fewer file descriptors than the concurrency asks for. Nothing is set aside; it goes on slowly,
// or when there are more.
func TestFewDescriptors(t *testing.T) {
	t.Parallel()
	const n = 120
	packages := samples(t, n, 76)
	p := newPlace(t)
	publish, stdout := start(t, stack.env, append(p.publish(packages...), "--concurrency", "hash=64;sign=64;upload=64")...)
	few := func(n uint64) {
		old := unix.Rlimit{}
		if err := unix.Prlimit(publish.cmd.Process.Pid, unix.RLIMIT_NOFILE, nil, &old); err != nil {
			t.Fatal(err)
		}
		if err := unix.Prlimit(publish.cmd.Process.Pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: old.Max}, nil); err != nil {
			t.Fatal(err)
		}
	}
	waitForSidecars(t, p.channel, 1, publish.cmd)
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", publish.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	few(uint64(max(len(open)-8, 12)))
	publish.waitFor(t, "too many open files")
	select {
	case <-time.After(3 * time.Second): // for a while everything fails that opens something
	case <-t.Context().Done():
	}
	unhurt(t, p.channel, packages)
	few(4096)
	publish.complete(t, stdout, n)
	check(t, p.channel, n, subdirs(t, p.channel)...)
	// Not tidy: taking a temporary file away takes a descriptor. A later sweep does it.
}
