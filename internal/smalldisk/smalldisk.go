// Package smalldisk gives tests a disk that is soon full. A size flows in; a folder with a file system of its own flows out,
// and what fills it.
package smalldisk

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Fill writes a file that leaves at most about leave bytes of the disk that holds dir, and returns what removes it. With
// leave 0 not a byte can be written any more.
func Fill(tb testing.TB, dir string, leave int64) (free func()) {
	tb.Helper()
	name := filepath.Join(dir, ".ballast")
	f, err := os.Create(name)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	var size int64
	block := make([]byte, 4096)
	for {
		n, err := f.Write(block)
		size += int64(n)
		if errors.Is(err, syscall.ENOSPC) {
			break
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	if err := f.Truncate(max(size-leave, 0)); err != nil {
		tb.Fatal(err)
	}
	return func() {
		if err := os.Remove(name); err != nil {
			tb.Error(err)
		}
	}
}
