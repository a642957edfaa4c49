package store

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"testing"
)

// TestTransient: what a file system says of itself may pass; what it says of the object, or of us, does not.
func TestTransient(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]bool{
		syscall.ENOSPC: true, syscall.EDQUOT: true, syscall.EROFS: true, syscall.EIO: true, syscall.EMFILE: true, syscall.ENFILE: true,
		syscall.ENOMEM: true, syscall.ESTALE: true, syscall.EBUSY: true, syscall.ENOLCK: true,
		syscall.EACCES: false, syscall.EPERM: false, syscall.ENOENT: false, syscall.ENOTDIR: false, syscall.ENAMETOOLONG: false,
		fs.ErrClosed: false, context.Canceled: false, ErrDigest: false,
	} {
		wrapped := fmt.Errorf("putting a in b: %w", mapped(&os.PathError{Op: "write", Path: "a", Err: err}))
		if _, got := Transient(wrapped); got != want {
			t.Errorf("%v: transient %t, want %t", wrapped, got, want)
		}
	}
}
