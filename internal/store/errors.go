package store

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"syscall"
	"time"
)

// failures are what a file system says when it, not the object, is the trouble. They may end: space is freed, a disk comes
// back, a volume is mounted writable again.
var failures = [...]error{
	syscall.ENOSPC, syscall.EDQUOT, syscall.EIO, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EROFS,
	syscall.ESTALE, syscall.EAGAIN, syscall.EBUSY, syscall.ETIMEDOUT, syscall.ENOLCK,
	syscall.ECONNRESET, syscall.ECONNREFUSED, syscall.EPIPE,
}

// Transient tells whether trying again may help, and, if the store said so, after how long.
func Transient(err error) (after time.Duration, ok bool) {
	if err == nil || errors.Is(err, context.Canceled) {
		return 0, false
	}
	for _, decided := range [...]error{ErrNotFound, ErrPrecondition, ErrDigest, ErrKey, ErrAuth, ErrRange, ErrUnsupported, fs.ErrClosed} {
		if errors.Is(err, decided) {
			return 0, false
		}
	}
	for _, f := range failures {
		if errors.Is(err, f) {
			return 0, true
		}
	}
	if o, ok := errors.AsType[*outage](err); ok {
		return o.after, true
	}
	if n, ok := errors.AsType[net.Error](err); ok && n.Timeout() {
		return 0, true
	}
	return 0, false
}
