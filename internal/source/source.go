// Package source tells a package file that is gone from a place that is away: what the file system says flows in, and whether
// that may pass flows out.
package source

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Cause is the stable code of a place that is away.
const Cause = "source.unavailable"

// Away reports whether err, of opening a file, is about the place and not about the file: the file is not there, and its
// folder is not there either or is empty, as where a volume is not mounted. A file that is missing among others is gone for good.
func Away(err error) bool {
	e, ok := errors.AsType[*fs.PathError](err)
	if !ok || !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	d, err := os.Open(filepath.Dir(e.Path))
	if err != nil {
		return true
	}
	defer d.Close()
	_, err = d.Readdirnames(1)
	return errors.Is(err, io.EOF)
}
