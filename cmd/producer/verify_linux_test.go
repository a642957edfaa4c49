package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// TestVerifyOffline: with a trust root and local files nothing is asked of any network: there is none where this runs.
func TestVerifyOffline(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The test's own executable is the command where it is called so: see TestMain.
	producer := filepath.Join(t.TempDir(), "producer")
	if err := os.Symlink(exe, producer); err != nil {
		t.Fatal(err)
	}
	inDir := t.TempDir()
	for _, name := range []string{emery, emery + ".sigs"} {
		if err := os.WriteFile(filepath.Join(inDir, name), recorded(t, name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	command := func(args ...string) (int, string) {
		c := exec.CommandContext(t.Context(), producer, append(append([]string{"verify", "--json"}, emerySigner...), args...)...)
		var out bytes.Buffer
		c.Stdout, c.Stderr = &out, &out
		c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		if os.Getuid() != 0 {
			c.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		}
		if err := c.Run(); errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSPC) {
			t.Skipf("this machine does not let a process have a network of its own: %v", err)
		} else if c.ProcessState == nil {
			t.Fatal(err)
		}
		return c.ProcessState.ExitCode(), out.String()
	}
	if code, out := command(filepath.Join(inDir, emery)); code != 0 {
		t.Errorf("exit %d: %s", code, out)
	}
	if code, out := command("--bundle", filepath.Join(inDir, emery+".sigs"), filepath.Join(inDir, emery)); code != 0 {
		t.Errorf("with a bundle: exit %d: %s", code, out)
	}
	// There really is no network.
	h := newHost(t)
	if code, out := command(h.URL + "/ch/noarch/" + emery); code != 5 {
		t.Errorf("a URL: exit %d: %s", code, out)
	}
}
