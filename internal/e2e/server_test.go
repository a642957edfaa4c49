package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestServer: producers and workers in processes of their own around one server; the list of stages is cut, so that the
// worker that signs has no store and the one that uploads has no identity.
func TestServer(t *testing.T) {
	t.Parallel()
	const n = 30
	packages := samples(t, n, 31)
	p := newPlace(t)
	url := "nats://" + freeAddress(t)
	// One worker is the server as well; it does only the first stage.
	hash := startWorker(t, stack.env, "--listen", strings.TrimPrefix(url, "nats://"), "--state", p.state, "--stages", "hash")
	waitForServer(t, url)

	submit := []string{"submit", "--json", "--nats", url, "--to", p.channel, "--channel-url", channelURL, "--campaign", "rebuild",
		"--certificate-identity", stack.Identity, "--certificate-oidc-issuer", stack.Issuer, "--cut", "sign,upload"}
	type submission struct{ Queued, Already, Duplicates int }
	if s := decode[submission](t, run(t, programs.producer, append(submit, packages[:20]...)...).want(t, 0)); s.Queued != 20 || s.Already != 0 {
		t.Fatal(s)
	}
	if s := decode[submission](t, run(t, programs.producer, append(submit, packages...)...).want(t, 0)); s.Queued != n-20 || s.Already != 20 {
		t.Errorf("submitted again, with more: %+v", s)
	}
	// The same campaign with another channel is refused.
	other := append([]string{}, submit...)
	other[4] = p.channel + "-other"
	for i, a := range other {
		if a == "--to" {
			other[i+1] = p.channel + "-other"
		}
	}
	other[3] = url
	run(t, programs.producer, append(other, packages...)...).want(t, 2)

	watch := startWatch(t, url, n)
	var without []string // no identity
	for _, kv := range stack.env {
		if !strings.HasPrefix(kv, "ACTIONS_") {
			without = append(without, kv)
		}
	}
	// A worker that signs as somebody else does nothing to the campaign.
	strange := append(append([]string{}, stack.env...), "ACTIONS_ID_TOKEN_REQUEST_URL="+stack.URLs["token"]+"?repository=evil/twin")
	stranger := startWorker(t, strange, "--nats", url, "--stages", "sign", "--log-level", "INFO")
	// One that is to serve nothing else has nothing to do then, and says why.
	sworn := startWorker(t, strange, "--nats", url, "--stages", "sign", "--campaign", "rebuild")
	if err := sworn.cmd.Wait(); sworn.cmd.ProcessState.ExitCode() != 4 || !strings.Contains(sworn.stderr(), "evil/twin") || !strings.Contains(sworn.stderr(), stack.Identity) {
		t.Errorf("%v, and it says %s", err, sworn.stderr())
	}
	sign := startWorker(t, stack.env, "--nats", url, "--stages", "sign")
	upload := startWorker(t, without, "--nats", url, "--stages", "upload,publish")

	st := waitForStatus(t, url, "rebuild", func(c campaign) bool { return c.Waiting == 0 })
	if st.Published != n || st.Enqueued != n || st.Failed != 0 {
		t.Errorf("%+v", st)
	}
	seen := watch()
	if len(seen) != n {
		t.Errorf("%d completed attestations seen by watch, want %d", len(seen), n)
	}
	for _, e := range seen {
		d := e.Data.CustomData
		if d.Signer.Identity != stack.Identity || len(d.Package.SHA256) != 64 || e.Type != "dev.cdevents.artifact.signed.0.3.0" || d.Attestation.Bundle.SHA256 == "" {
			t.Errorf("%+v", e)
		}
	}
	check(t, p.channel, n, subdirs(t, p.channel)...)
	for _, w := range []*workerProcess{stranger, sign, upload, hash} {
		w.stop(t)
	}
	if !strings.Contains(stranger.stderr(), "evil/twin") || !strings.Contains(stranger.stderr(), stack.Identity) {
		t.Errorf("the stranger does not name both identities:\n%s", stranger.stderr())
	}
}

type workerProcess struct {
	cmd  *exec.Cmd
	mu   sync.Mutex
	text strings.Builder
}

func (w *workerProcess) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(b)
}

func (w *workerProcess) stderr() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

func startWorker(t *testing.T, env []string, args ...string) *workerProcess {
	t.Helper()
	w := &workerProcess{cmd: command(context.WithoutCancel(t.Context()), env, programs.worker, args...)}
	w.cmd.Stderr = w
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.cmd.Process.Kill() })
	return w
}

// stop ends the worker as an operator would; it must drain and exit 0.
func (w *workerProcess) stop(t *testing.T) {
	t.Helper()
	_ = w.cmd.Process.Signal(os.Interrupt)
	if err := w.cmd.Wait(); err != nil || strings.Contains(w.stderr(), "DATA RACE") {
		t.Errorf("worker %q: %v\n%s", w.cmd.Args[1:], err, w.stderr())
	}
}

// end waits until the worker has ended by itself and gives its exit code: -1 if it had to be killed after two minutes.
func (w *workerProcess) end() int {
	late := time.AfterFunc(2*time.Minute, func() { _ = w.cmd.Process.Kill() })
	defer late.Stop()
	_ = w.cmd.Wait() // the exit code says it
	return w.cmd.ProcessState.ExitCode()
}

// waitFor waits until the worker's log has a line with the text, and returns that line.
func (w *workerProcess) waitFor(t *testing.T, text string) string {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for range 20 * 60 {
		for l := range strings.Lines(w.stderr()) {
			if strings.Contains(l, text) {
				return l
			}
		}
		<-tick.C
	}
	t.Fatalf("the worker did not say %q in a minute:\n%s", text, w.stderr())
	return ""
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func waitForServer(t testing.TB, url string) {
	t.Helper()
	addr := strings.TrimPrefix(url, "nats://")
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for range 1200 {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return
		}
		<-tick.C
	}
	t.Fatal("the server does not answer")
}

// waitForStatus asks producer status until the campaign is as wanted.
func waitForStatus(t testing.TB, url, name string, done func(campaign) bool) campaign {
	t.Helper()
	var last campaign
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for range 4 * 90 {
		r := run(t, programs.producer, "status", "--json", "--nats", url, name).want(t, 0)
		last = decode[struct{ Campaigns []campaign }](t, r).Campaigns[0]
		if sum := last.Published + last.Skipped + last.Failed + last.Aborted + last.Waiting; sum < last.Enqueued {
			t.Errorf("the ledger does not add up: %+v", last)
		}
		if done(last) {
			return last
		}
		<-tick.C
	}
	t.Fatalf("not as wanted after 90 s: %+v", last)
	return last
}

type seenEvent struct {
	ID, Type string
	Data     struct {
		CustomData struct {
			Package struct {
				Filename string
				SHA256   string
			}
			Signer struct{ Identity string }
			Riders []struct {
				PredicateType, Identity string
				Bundle                  struct{ SHA256 string }
			}
			Attestation struct {
				Bundle struct{ SHA256 string }
			}
		}
	}
}

// startWatch starts producer watch; the returned function waits for the n events that it was to print.
func startWatch(t *testing.T, url string, n int) func() []seenEvent {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	c := command(ctx, stack.env, programs.producer, "watch", "--json", "--nats", url, "--campaign", "rebuild", "--replay", "--count", fmt.Sprint(n))
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	result := make(chan []seenEvent, 1)
	go func() {
		var all []seenEvent
		for s := bufio.NewScanner(out); s.Scan(); {
			var e seenEvent
			if err := json.Unmarshal(s.Bytes(), &e); err == nil {
				all = append(all, e)
			}
		}
		_ = c.Wait()
		result <- all
	}()
	return func() []seenEvent { return <-result }
}

// TestStatusOfAnEmbeddedRun: after an interrupted publish, status tells how it stands.
func TestStatusOfAnEmbeddedRun(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	args := append(p.publish(samples(t, 3, 32)...), filepath.Join(t.TempDir(), "missing-1-0.conda"))
	run(t, programs.producer, args...).want(t, 3)
	r := run(t, programs.producer, "status", "--all", "--state", p.state).want(t, 0)
	for _, want := range []string{"closed", "4 enqueued = 3 published + 0 skipped + 1 set aside + 0 aborted + 0 waiting", "source.missing"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("status does not say %q:\n%s", want, r.stdout)
		}
	}
}
