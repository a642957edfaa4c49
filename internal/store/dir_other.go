//go:build !unix

package store

import (
	"fmt"
	"io/fs"
	"os"
	"runtime"
)

func inode(fs.FileInfo) uint64 { return 0 }

// tryLock: flock(2) is what a Dir's conditions stand on. Reading works without.
func tryLock(*os.File) (bool, error) {
	return false, fmt.Errorf("%w: a directory as store needs flock(2), which %s lacks", ErrUnsupported, runtime.GOOS)
}
