package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

var quiet = log.New(io.Discard, "", 0)

// process is a program that is started, killed, stopped and started again; what it prints goes to a file.
type process struct {
	name    string
	program string
	args    []string
	env     []string
	log     string
	// ready waits until it can be used.
	ready func(ctx context.Context) error

	mu      sync.Mutex
	cmd     *exec.Cmd
	ended   chan struct{}
	stopped bool
	err     error // how it ended
}

// start starts it if it does not run, and waits until it is ready.
func (p *process) start(ctx context.Context) error {
	p.mu.Lock()
	if p.cmd == nil {
		f, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			p.mu.Unlock()
			return err
		}
		c := exec.Command(p.program, p.args...)
		c.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Dir(p.log), "TMPDIR=" + os.TempDir()}, p.env...)
		c.Stdout, c.Stderr = f, f
		c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		err = c.Start()
		f.Close()
		if err != nil {
			p.mu.Unlock()
			return fmt.Errorf("starting %s: %w", p.name, err)
		}
		ended := make(chan struct{})
		p.cmd, p.ended, p.stopped = c, ended, false
		go func() {
			err := c.Wait()
			p.mu.Lock()
			p.cmd, p.err = nil, err
			p.mu.Unlock()
			close(ended)
		}()
	}
	p.mu.Unlock()
	if p.ready == nil {
		return nil
	}
	if err := p.ready(ctx); err != nil {
		return fmt.Errorf("%s does not get ready: %w (its log is %s)", p.name, err, p.log)
	}
	return nil
}

// signal sends a signal if it runs, and reports whether it does.
func (p *process) signal(s syscall.Signal) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd != nil && p.cmd.Process.Signal(s) == nil
}

// how is how it ended.
func (p *process) how() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

func (p *process) running() bool { return p.signal(0) }

// kill is kill -9; it returns when the process is gone.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	p.wait(context.Background())
}

// wait waits for its end, at most until ctx ends.
func (p *process) wait(ctx context.Context) bool {
	p.mu.Lock()
	ended, runs := p.ended, p.cmd != nil
	p.mu.Unlock()
	if !runs {
		return true
	}
	select {
	case <-ended:
		return true
	case <-ctx.Done():
		return false
	}
}

// end asks it to end, and kills it if it does not.
func (p *process) end(within time.Duration) {
	p.signal(syscall.SIGCONT)
	p.signal(syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if !p.wait(ctx) {
		p.kill()
	}
}

// until asks again and again until f answers nil.
func until(ctx context.Context, within time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
	}
}

// listens waits until somebody takes connections at the address.
func listens(addr string) func(context.Context) error {
	return func(ctx context.Context) error {
		return until(ctx, 30*time.Second, func(ctx context.Context) error {
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
			if err == nil {
				c.Close()
			}
			return err
		})
	}
}

// freeAddress is an address on loopback that nobody listens on now.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// output runs a program to its end and returns its standard output. An exit code that is not 0 is an *exec.ExitError.
func output(ctx context.Context, env []string, program string, args ...string) ([]byte, string, error) {
	c := exec.CommandContext(ctx, program, args...)
	c.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.TempDir(), "TMPDIR=" + os.TempDir()}, env...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var errb limited
	c.Stderr = &errb
	out, err := c.Output()
	return out, errb.String(), err
}

// limited keeps the end of what is written to it.
type limited struct{ b []byte }

func (l *limited) Write(p []byte) (int, error) {
	l.b = append(l.b, p...)
	if n := len(l.b) - 16<<10; n > 0 {
		l.b = l.b[n:]
	}
	return len(p), nil
}

func (l *limited) String() string { return string(l.b) }
