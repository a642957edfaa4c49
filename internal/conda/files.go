package conda

import (
	"archive/tar"
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"path"
	"slices"
	"strings"
)

// Files are files of info/ by their path below it: "index.json", "recipe/meta.yaml".
type Files map[string][]byte

const (
	fileIndex      = "index.json"
	fileRunExports = "run_exports.json"
	filePaths      = "paths.json"
	fileAbout      = "about.json"
)

// How much of a .conda's end, where most packages have all of info/, and then of its info tarball is read at once.
const (
	fetchConda = 64 << 10
	fetchInfo  = 256 << 10
)

// FetchFirst says which bytes of a package a reader over a network should fetch first, for ReadInfo to find there what it needs: so many from
// the start, or, if it is negative, from the end.
func FetchFirst(filename string) int64 {
	if strings.HasSuffix(filename, ".tar.bz2") {
		return block
	}
	return -fetchConda
}

// ReadInfo reads files of info/ of the package of size bytes in r whose file name is filename. Each of want is a file's path below info/
// ("about.json"), or a folder's with a slash at its end ("recipe/") for all files in it and below. What is not there is not in the result.
//
// It is for a package that has been Read before and whose bytes are known to be the same: it reads as little as it can. Of a .conda that is the
// last 64 KiB with the ZIP's directory, and the info tarball; of a .tar.bz2 everything from the start on. It stops at the last file of
// want; a folder, or a file that is not there, takes reading the info tarball, or all of the .tar.bz2, to the end.
//
// What it reads is bounded and refused as by Read, with an *Error. What it does not read it cannot refuse: in a .conda the headers of the other
// entries, metadata.json and the pkg- tarball; behind the last file another of the same name; and a checksum that comes after it.
// A file has at most 32 MiB, paths.json 64 MiB, all of want 128 MiB. Memory is bounded by those and as by Read.
func ReadInfo(ctx context.Context, r io.ReaderAt, size int64, filename string, want ...string) (Files, error) {
	w, err := wants(want)
	if err != nil {
		return nil, fmt.Errorf("reading info of %s: %w", filename, err)
	}
	name, err := ParseFilename(filename)
	if err != nil {
		return nil, err
	}
	if size == 0 {
		return nil, refuse(CodeEmpty, "%s is empty", filename)
	}
	src := &source{ctx: ctx, r: r, size: size}
	if name.Format == TarBz2 {
		err = readTarBz2(src, name, io.Discard, w)
	} else {
		err = readCondaInfo(src, name, w)
	}
	if src.err != nil {
		err = src.err // what the parsers made of a failed read is no news
	}
	if err != nil {
		return nil, fmt.Errorf("reading info of %s: %w", filename, err)
	}
	return w.files, nil
}

func readCondaInfo(src *source, name Name, w *wanted) error {
	if err := src.hold(src.size-fetchConda, fetchConda); err != nil {
		return err
	}
	entries, dir, err := readDirectory(src)
	if err != nil {
		if other := checkZipMagic(src); other != nil {
			return other // it says more
		}
		return err
	}
	info, _, err := members(entries, name)
	if err != nil {
		return err
	}
	// What the directory alone tells: the entries are one after the other, and none is longer than its place.
	at := int64(0)
	for i := range entries {
		e, next := &entries[i], dir.after(entries, i)
		if i == 0 && e.header != 0 || next-e.header-lenLocal-int64(len(e.name)) < e.size {
			return refuse(CodeBadZip, "%q overlaps with what is around it, or does not start the ZIP", clip(e.name))
		}
		if e.name == info.name {
			at = e.header
			if start := src.size - fetchConda; at < start {
				if err := src.hold(at, min(fetchInfo, start-at, next-at)); err != nil {
					return err
				}
			}
			if err := e.locate(src, at, next); err != nil {
				return err
			}
			info = *e
		}
	}
	sum := crc32.NewIEEE()
	if err := unzstd(src, info, sum, w); err != nil {
		return fmt.Errorf("%s: %w", info.name, err)
	}
	if !w.enough() && sum.Sum32() != info.crc {
		return refuse(CodeCorrupt, "%s: its CRC-32 is %08x, the ZIP says %08x", info.name, sum.Sum32(), info.crc)
	}
	return nil
}

// wanted is which files of info/ are wanted, and what was read of them.
type wanted struct {
	stop    bool              // when all are there
	exact   map[string]string // "info/" and the path in lower case → path
	folders []string          // with "info/" and a slash at the end
	files   Files
	left    int64 // bytes
}

// want wants files by their exact paths.
func want(stop bool, names ...string) *wanted {
	w := &wanted{stop: stop, exact: map[string]string{}, files: Files{}, left: maxWanted}
	for _, n := range names {
		w.exact["info/"+strings.ToLower(n)] = n
	}
	return w
}

// wants is want for what a caller of ReadInfo wants.
func wants(names []string) (*wanted, error) {
	var files []string
	w := want(true)
	for _, n := range names {
		clean, folder := strings.CutSuffix(n, "/")
		if clean == "." || path.Clean(clean) != clean || unsafePath(clean) != "" {
			return nil, fmt.Errorf("%q is no path below info/", n)
		}
		if folder {
			w.folders = append(w.folders, "info/"+n)
		} else {
			files = append(files, n)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("no file is wanted")
	}
	w.exact = want(true, files...).exact
	return w, nil
}

// enough tells that nothing that could come is wanted.
func (w *wanted) enough() bool {
	return w.stop && len(w.folders) == 0 && len(w.files) == len(w.exact)
}

// take reads the entry if it is wanted.
func (w *wanted) take(r io.Reader, h *tar.Header, name string) error {
	if file, ok := w.exact[strings.ToLower(name)]; ok {
		limit, code := limits(file)
		if h.Typeflag != tar.TypeReg || name != "info/"+file {
			return refuse(code, "%s is not a regular file of that name", clip(name))
		}
		if w.files[file] != nil {
			return refuse(CodeDuplicateEntry, "%s is there twice", clip(name))
		}
		b, err := w.slurp(r, h, limit)
		if err == nil && len(b) == 0 && code != CodeInfoInvalid {
			err = refuse(code, "%s is empty", name)
		}
		w.files[file] = b
		return err
	}
	in := func(folder string) bool { return strings.HasPrefix(name, folder) }
	if h.Typeflag != tar.TypeReg || !slices.ContainsFunc(w.folders, in) {
		return nil
	}
	b, err := w.slurp(r, h, maxFile)
	w.files[strings.TrimPrefix(name, "info/")] = b // of two, the last, as unpacking leaves it
	return err
}

// limits says how large a file may be, and what is wrong if it is no file.
func limits(file string) (limit int64, code string) {
	switch file {
	case fileIndex:
		return maxIndex, CodeIndexInvalid
	case fileRunExports:
		return maxRunExports, CodeRunExportsInvalid
	case filePaths:
		return maxPaths, CodeInfoInvalid
	}
	return maxFile, CodeInfoInvalid
}

// slurp reads an entry. The result is never nil.
func (w *wanted) slurp(r io.Reader, h *tar.Header, limit int64) ([]byte, error) {
	if h.Size > limit || h.Size > w.left {
		return []byte{}, refuse(CodeBomb, "%s has %d bytes; at most %d are read", clip(h.Name), h.Size, min(limit, w.left))
	}
	w.left -= h.Size
	return io.ReadAll(r) // the reader ends at h.Size
}
