package smalldisk

import (
	"fmt"
	"os"
	"syscall"
	"testing"
)

// Mount mounts a disk of size bytes, in memory, until the test ends, and returns its folder. Where the test may not mount, it
// is skipped.
func Mount(tb testing.TB, size int64) string {
	tb.Helper()
	dir := tb.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, fmt.Sprintf("size=%d,mode=0755", size)); err != nil {
		tb.Skipf("NOT TESTED: a full disk. Mounting a small one takes root's rights (uid %d): %v", os.Getuid(), err)
	}
	tb.Cleanup(func() {
		// Lazily: a process that the test killed may have files open for a moment yet.
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			tb.Error(err)
		}
	})
	return dir
}
