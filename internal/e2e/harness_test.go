// Package e2e tests Hallmark from the outside: the real commands against a real private Sigstore, real stores and a real
// NATS server, with other people's tools looking at the result.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hallmark-attest/hallmark/internal/conda/condatest"
)

// channelURL is what the tests' campaigns attest.
const channelURL = "https://conda.example.org/e2e"

// programs are the commands under test and the foreign ones, built once.
var programs struct {
	dir                                        string
	producer, worker, sigstore, rekor1, cosign string
	channelcheck                               string // "" where the checker is not there
}

// stack is the private Sigstore (Rekor v2) that the tests share.
var stack *sigstore

func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		fmt.Println("e2e: left out in short mode; run go test ./... for all")
		os.Exit(0)
	}
	code, err := func() (int, error) {
		dir, err := os.MkdirTemp("", "hallmark-e2e-")
		if err != nil {
			return 1, err
		}
		defer os.RemoveAll(dir)
		if err := build(dir); err != nil {
			return 1, err
		}
		s, err := startSigstore(filepath.Join(dir, "instance"), "v2")
		if err != nil {
			return 1, err
		}
		stack = s
		defer s.stop()
		return m.Run(), nil
	}()
	if err != nil {
		log.Fatal("e2e: ", err)
	}
	os.Exit(code)
}

func build(dir string) error {
	programs.dir = dir
	bin := func(name string) string { return filepath.Join(dir, name) }
	programs.producer, programs.worker = bin("producer"), bin("worker")
	programs.sigstore, programs.rekor1, programs.cosign = bin("sigstore"), bin("rekor1"), bin("cosign")
	builds := [][]string{
		{"build", "-race", "-o", dir + string(filepath.Separator), "../../cmd/..."},
		{"build", "-C", "../../deploy/sigstore", "-o", programs.sigstore, "."},
		{"build", "-C", "../../deploy/sigstore/rekor1", "-o", programs.rekor1, "."},
		{"build", "-C", "../../.ci/cosign", "-o", programs.cosign, "github.com/sigstore/cosign/v3/cmd/cosign"},
	}
	checker := "../../../shared/tools/channelcheck"
	if _, err := os.Stat(checker); err == nil {
		programs.channelcheck = bin("channelcheck")
		builds = append(builds, []string{"build", "-C", checker, "-o", programs.channelcheck, "."})
	}
	for _, args := range builds {
		start := time.Now()
		c := exec.Command("go", args...)
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
		fmt.Printf("e2e: go %s: %s\n", strings.Join(args, " "), time.Since(start).Round(time.Second))
	}
	return nil
}

// sigstore is a running private Sigstore.
type sigstore struct {
	dir           string
	TrustedRoot   string            `json:"trusted_root"`
	SigningConfig string            `json:"signing_config"`
	Identity      string            `json:"identity"`
	Issuer        string            `json:"issuer"`
	URLs          map[string]string `json:"urls"`
	PID           int               `json:"pid"`
	env           []string
	cmd           *exec.Cmd
}

func startSigstore(dir, rekor string, flags ...string) (*sigstore, error) {
	args := append([]string{"up", "--json", "--rekor", rekor}, flags...)
	s := &sigstore{dir: dir, cmd: exec.Command(programs.sigstore, append(args, dir)...)}
	var stderr bytes.Buffer
	s.cmd.Stderr = &stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	if err := json.NewDecoder(out).Decode(s); err != nil {
		s.stop()
		return nil, fmt.Errorf("starting the private Sigstore: %w\n%s", err, stderr.String())
	}
	if s.env, err = readEnv(filepath.Join(dir, "env")); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func (s *sigstore) stop() {
	_ = s.cmd.Process.Signal(os.Interrupt)
	_ = s.cmd.Wait()
}

// readEnv reads the export lines of a shell file.
func readEnv(path string) ([]string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var env []string
	for l := range strings.Lines(string(b)) {
		if kv, ok := strings.CutPrefix(strings.TrimSpace(l), "export "); ok {
			k, v, _ := strings.Cut(kv, "=")
			env = append(env, k+"="+strings.Trim(v, `'"`))
		}
	}
	return env, nil
}

// result is how a command ended.
type result struct {
	code           int
	stdout, stderr string
}

// run runs a program with the shared Sigstore's environment.
func run(t testing.TB, program string, args ...string) result {
	t.Helper()
	return runEnv(t, stack.env, program, args...)
}

func runEnv(t testing.TB, env []string, program string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c := command(ctx, env, program, args...)
	var out, errb bytes.Buffer
	c.Stdout, c.Stderr = &out, &errb
	err := c.Run()
	r := result{c.ProcessState.ExitCode(), out.String(), errb.String()}
	if _, isExit := errors.AsType[*exec.ExitError](err); err != nil && !isExit {
		t.Fatalf("%s: %v", filepath.Base(program), err)
	}
	if strings.Contains(r.stderr, "DATA RACE") {
		t.Errorf("%s %s: data race\n%s", filepath.Base(program), args[0], r.stderr)
	}
	return r
}

// command prepares a program: its environment holds what it is given and nothing of the machine's own Hallmark or CI
// settings.
func command(ctx context.Context, env []string, program string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, program, args...)
	c.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + programs.dir, "TMPDIR=" + os.TempDir()}, env...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return c
}

// want fails unless the command ended with the code.
func (r result) want(t testing.TB, code int) result {
	t.Helper()
	if r.code != code {
		t.Fatalf("exit %d, want %d\nstdout:\n%s\nstderr:\n%s", r.code, code, r.stdout, r.stderr)
	}
	return r
}

// decode reads a command's JSON result.
func decode[T any](t testing.TB, r result) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(r.stdout), &v); err != nil {
		t.Fatalf("result is not JSON: %v\n%s", err, r.stdout)
	}
	return v
}

// campaign is the part of publish's and status's result that the tests look at.
type campaign struct {
	Campaign   string
	State      string
	Enqueued   int
	Published  int
	Skipped    int
	Failed     int
	Aborted    int
	Waiting    int
	Duplicates int
	Causes     []struct {
		Cause string
		Count int
	}
	Failures []struct {
		Filename, Source, Cause, Message, Hint, Stage string
	}
}

// samples writes n sample packages and returns their paths.
func samples(t testing.TB, n int, seed uint64) []string {
	t.Helper()
	dir := t.TempDir()
	var paths []string
	for _, s := range condatest.Samples(n, seed) {
		p, err := condatest.Write(dir, s)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, p)
	}
	return paths
}

// place is one channel and the state of the embedded queue for it.
type place struct{ channel, state string }

func newPlace(t testing.TB) place {
	dir := t.TempDir()
	return place{filepath.Join(dir, "channel"), filepath.Join(dir, "state")}
}

// publish is the command line that publishes packages to the place.
func (p place) publish(packages ...string) []string {
	return append([]string{"publish", "--json", "--to", p.channel, "--channel-url", channelURL, "--state", p.state}, packages...)
}

// tree reads every file of a folder.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		if strings.HasPrefix(rel, ".hallmark") {
			return nil
		}
		b, err := os.ReadFile(path)
		out[rel] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// logSize is how many entries the transparency log has: the second line of Rekor v2's checkpoint.
func logSize(t testing.TB) int {
	t.Helper()
	return stack.logSize(t)
}

func (s *sigstore) logSize(t testing.TB) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, "rekor", "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if _, err := fmt.Sscanf(string(b), "%s\n%d\n", new(string), &n); err != nil {
		t.Fatalf("checkpoint: %v\n%s", err, b)
	}
	return n
}

// subdirs are the platforms that a channel on disk has.
func subdirs(t testing.TB, channel string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(channel, "*", "repodata.json"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no repodata.json in %s (%v)", channel, err)
	}
	var out []string
	for _, f := range found {
		out = append(out, filepath.Base(filepath.Dir(f)))
	}
	return out
}

// check looks at a channel, a folder's or a URL's: with Hallmark's own check, where it is a folder, and with the independent
// checker, where that is there.
func check(t testing.TB, channel string, expect int, subdirs ...string) {
	t.Helper()
	if !strings.Contains(channel, "://") {
		run(t, programs.producer, "channel", "check", "--to", channel).want(t, 0)
	}
	if programs.channelcheck == "" {
		t.Log("the independent checker is not here; left out")
		return
	}
	args := append([]string{"-require-signed", "-expect", fmt.Sprint(expect), channel}, subdirs...)
	out, err := exec.CommandContext(t.Context(), programs.channelcheck, args...).CombinedOutput()
	if err != nil {
		t.Errorf("channelcheck: %v\n%s", err, out)
	}
}

// build -race programs are slow to start; a few at once are enough for two cores.
var few = make(chan struct{}, 4)

// each calls f for each element, a few at once.
func each[T any](list []T, f func(T)) {
	var wg sync.WaitGroup
	for _, v := range list {
		few <- struct{}{}
		wg.Go(func() {
			defer func() { <-few }()
			f(v)
		})
	}
	wg.Wait()
}

// waitForSidecars waits until the channel has n sidecars or the command has ended: a moment in the middle of a run.
func waitForSidecars(t testing.TB, channel string, n int, c *exec.Cmd) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 50 * 60 {
		found, _ := filepath.Glob(filepath.Join(channel, "*", "*.sigs"))
		if len(found) >= n {
			return
		}
		if err := c.Process.Signal(syscall.Signal(0)); err != nil {
			return
		}
		<-tick.C
	}
	t.Fatalf("no %d sidecars after a minute", n)
}

// runAsNobody runs a program without root's rights: as another user where the tests run as root. It takes what it reads
// from folders that only the tests' user can enter along.
func runAsNobody(t testing.TB, program string, args ...string) result {
	t.Helper()
	if os.Getuid() != 0 {
		return run(t, program, args...)
	}
	dir, err := os.MkdirTemp("/tmp", "hallmark-nobody-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	give := func(from string, mode os.FileMode) string {
		to := filepath.Join(dir, filepath.Base(from))
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to, b, mode)
		}
		if err != nil {
			t.Fatal(err)
		}
		return to
	}
	env := append(append([]string{}, stack.env...),
		"HALLMARK_TRUSTED_ROOT="+give(stack.TrustedRoot, 0o644), "HALLMARK_SIGNING_CONFIG="+give(stack.SigningConfig, 0o644))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := command(ctx, env, give(program, 0o755), args...)
	c.Dir = dir
	c.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
	var out, errb bytes.Buffer
	c.Stdout, c.Stderr = &out, &errb
	if err := c.Run(); err != nil && c.ProcessState == nil {
		t.Fatal(err)
	}
	return result{c.ProcessState.ExitCode(), out.String(), errb.String()}
}
