//go:build unix

package identity

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestProgramWithoutDescriptors: a program that cannot be started for want of file descriptors is asked again later. It is
// not parallel, since it is this process that has none for a moment.
func TestProgramWithoutDescriptors(t *testing.T) {
	p := NewBuildkite(script(t, "buildkite-agent", "echo "+validJWT(t)), "")
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	none := old
	none.Cur = 3
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	_, err := p.Token(t.Context())
	if rerr := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); rerr != nil {
		t.Fatal(rerr)
	}
	if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrRefused) || !errors.Is(err, syscall.EMFILE) || !strings.Contains(err.Error(), "too many open files") {
		t.Errorf("error %v, want ErrUnavailable", err)
	}
	if _, err := p.Token(t.Context()); err != nil {
		t.Errorf("with descriptors again: %v", err)
	}
}
