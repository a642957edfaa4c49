package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/sigstore/rekor-tiles/v2/cmd/rekor-server/posix/app"
)

// rekorVersion is the major version of the log's API, as in the signing configuration.
type rekorVersion uint32

const (
	rekorV1 rekorVersion = 1
	rekorV2 rekorVersion = 2
)

// rekorCommand is the hidden command under which this program is Rekor v2.
const rekorCommand = "rekor"

// serveRekor is Rekor v2's own main function, in a process of its own: its server cannot be imported, and ends by os.Exit.
func serveRekor(args []string) {
	go endWithParent()
	os.Args = append([]string{"rekor-server"}, args...)
	app.Execute()
}

// endWithParent asks this process to stop when standard input ends: the parent holds the other end of that pipe and
// writes nothing, so the end means that it is gone, however it went.
func endWithParent() {
	_, _ = io.Copy(io.Discard, os.Stdin)
	_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
}

// startRekor starts the chosen Rekor as a child.
func startRekor(h home, st state, o options) (*child, error) {
	if o.rekor == rekorV1 {
		exe, err := findRekor1(o.rekor1)
		if err != nil {
			return nil, err
		}
		return startChild("Rekor v1", h.path("logs", "rekor1.log"), exe,
			"-port", strconv.Itoa(st.Ports.Rekor1),
			"-trillian-port", strconv.Itoa(st.Ports.Trillian),
			"-signer", h.key(rekor1Key),
			"-hostname", rekorOrigin,
		)
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program, to start Rekor: %w", err)
	}
	return startChild("Rekor v2", h.path("logs", "rekor.log"), exe, rekorCommand, "serve",
		"--http-address=127.0.0.1", "--http-port="+strconv.Itoa(st.Ports.Rekor),
		"--grpc-address=127.0.0.1", "--grpc-port="+strconv.Itoa(st.Ports.RekorGRPC),
		"--http-metrics-port="+strconv.Itoa(st.Ports.RekorMetrics),
		"--hostname="+rekorOrigin,
		"--storage-dir="+h.path("rekor"),
		"--signer-filepath="+h.key(rekorKey),
		"--checkpoint-interval="+o.checkpointInterval.String(),
		"--batch-max-age="+o.batchMaxAge.String(),
		"--log-level=warn",
	)
}

// rekorTiles serves what Rekor v2 has written, for whoever reads or audits the log. Rekor's own server only takes entries.
func rekorTiles(h home) http.Handler {
	files := http.StripPrefix("/api/v2", http.FileServer(http.Dir(h.path("rekor"))))
	mux := http.NewServeMux()
	mux.Handle("GET /api/v2/checkpoint", files)
	mux.Handle("GET /api/v2/tile/", files)
	return mux
}

// findRekor1 looks for the program of the module rekor1: where it is said to be, beside this program, in PATH.
func findRekor1(given string) (string, error) {
	if given != "" {
		path, err := filepath.Abs(given)
		if err == nil {
			_, err = os.Stat(path)
		}
		if err != nil {
			return "", fmt.Errorf("%w: --rekor1-binary: %w", errUsage, err)
		}
		return path, nil
	}
	if self, err := os.Executable(); err == nil {
		if p := filepath.Join(filepath.Dir(self), "rekor1"); isFile(p) {
			return p, nil
		}
	}
	if p, err := exec.LookPath("rekor1"); err == nil {
		return p, nil
	}
	return "", fmt.Errorf("%w: Rekor v1 is a program of its own, and neither beside this one nor in PATH: build it with "+
		"`go -C deploy/sigstore/rekor1 build -o DIR/rekor1 .`, and give --rekor1-binary DIR/rekor1", errUsage)
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// child is a server in a process of its own, which ends when this process ends.
type child struct {
	name, log string
	cmd       *exec.Cmd
	alive     io.Closer     // our end of its standard input
	done      chan struct{} // closed when it has ended
	err       error         // how; valid once done is closed
}

// startChild starts a program with its output in the file log.
func startChild(name, log, exe string, args ...string) (*child, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the log of %s: %w", name, err)
	}
	defer out.Close() // the child has its own
	cmd := exec.Command(exe, args...)
	cmd.Stdout, cmd.Stderr = out, out
	// A group of its own: Ctrl-C in a terminal reaches us, and we stop it after whoever still writes to it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	alive, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	c := &child{name: name, log: log, cmd: cmd, alive: alive, done: make(chan struct{})}
	go func() {
		c.err = cmd.Wait()
		close(c.done)
	}()
	return c, nil
}

// ended describes an end that nobody asked for.
func (c *child) ended() error {
	return fmt.Errorf("%s ended by itself (%v); its log is %s", c.name, c.err, c.log)
}

// stop asks the child to finish what it has begun and waits for it; when ctx ends first, it is killed.
func (c *child) stop(ctx context.Context) error {
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // an error means that it has ended
	select {
	case <-c.done:
	case <-ctx.Done():
		_ = c.cmd.Process.Kill()
		<-c.done
		return fmt.Errorf("%s did not stop in time and was killed", c.name)
	}
	_ = c.alive.Close()
	// Rekor v1's server ends by the signal itself.
	if state, ok := errors.AsType[*exec.ExitError](c.err); ok {
		if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() && ws.Signal() == syscall.SIGTERM {
			return nil
		}
	}
	if c.err != nil {
		return fmt.Errorf("stopping %s: %w; its log is %s", c.name, c.err, c.log)
	}
	return nil
}

// await asks url until it answers 200, the child (which may be nil) has ended, or ctx is over.
func await(ctx context.Context, url string, c *child) error {
	var done <-chan struct{}
	if c != nil {
		done = c.done
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	last := errors.New("no answer")
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, maxRequest))
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(res.Status)
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-done:
			return c.ended()
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w (last: %w)", url, ctx.Err(), last)
		case <-tick.C:
		}
	}
}
