package conda

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Limits, in bytes, far above any known package: conda-forge's largest index.json are tens of kB.
const (
	maxMetadata   = 64 << 10
	maxIndex      = 2 << 20
	maxRunExports = 1 << 20
	maxPaths      = 64 << 20  // some 300,000 files
	maxFile       = 32 << 20  // any other file that ReadInfo is asked for
	maxWanted     = 128 << 20 // all of them
	maxInfo       = 256 << 20 // all of info/, unpacked
	maxInfoFiles  = 50_000
	maxPath       = 4096
	// maxWindow is zstd's at its highest level when the size was not known. Packages with it exist.
	maxWindow = 128 << 20
	// A .tar.bz2 unpacks to at most minUnpacked, or maxRatio times its size if that is more.
	minUnpacked = 1 << 30
	maxRatio    = 100
)

func unzstd(src *source, e zipEntry, sum io.Writer, w *wanted) error {
	whole := io.TeeReader(io.NewSectionReader(src, e.data, e.size), sum)
	in := bufio.NewReaderSize(whole, int(min(max(e.size, 16), 64<<10)))
	z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return fmt.Errorf("starting zstd: %w", err)
	}
	defer z.Close()
	return readTar(src.ctx, z, maxInfo, w)
}

func unbzip2(src *source, sums io.Writer, w *wanted) error {
	whole := io.TeeReader(io.NewSectionReader(src, 0, src.size), sums)
	in := bufio.NewReaderSize(whole, int(min(max(src.size, 16), block)))
	limit := int64(minUnpacked)
	if src.size > minUnpacked/maxRatio {
		limit = maxRatio * src.size
	}
	return readTar(src.ctx, bzip2.NewReader(in), limit, w)
}

// readTar reads a tarball to its last byte, or until w has enough. r MUST end with an error if its own checksum fails.
func readTar(ctx context.Context, r io.Reader, limit int64, w *wanted) error {
	s := &tarStream{ctx: ctx, r: r, left: limit}
	enough, err := readEntries(tar.NewReader(s), w)
	if enough && err == nil {
		return nil
	}
	if err == nil && s.ended {
		err = refuse(CodeTruncated, "the tarball has no end mark: its end is missing")
	}
	if err == nil {
		err = drain(s)
	}
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, io.ErrUnexpectedEOF):
		return refuse(CodeTruncated, "the archive is cut off")
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return refuse(CodeBomb, "unpacking needs too much memory: %w", err)
	default:
		return refuse(CodeCorrupt, "unpacking: %w", err)
	}
}

// tarStream is the unpacked tarball: bounded, cancellable, and knowing whether its reader met the end. archive/tar takes an
// end of file for the end mark of two zero blocks; a cut between two bzip2 streams or zstd frames looks just like that.
type tarStream struct {
	ctx   context.Context
	r     io.Reader
	left  int64
	ended bool
}

func (s *tarStream) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := s.r.Read(p)
	if s.left -= int64(n); s.left < 0 {
		return 0, refuse(CodeBomb, "it unpacks to more than the limit")
	}
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil // the next Read says it again
	}
	s.ended = s.ended || errors.Is(err, io.EOF)
	return n, err
}

// drain reads the padding after the end mark, and makes the decompressor check its last checksum.
func drain(r io.Reader) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if len(bytes.TrimLeft(buf[:n], "\x00")) > 0 {
			return refuse(CodeCorrupt, "there are bytes after the tarball's end mark")
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// readEntries reads the files that w wants, and reports whether it stopped because w has enough.
func readEntries(t *tar.Reader, w *wanted) (enough bool, err error) {
	seen := map[string]bool{} // the files right in info/, in lower case
	count, total := 0, int64(0)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if len(h.Name) > maxPath || len(h.Linkname) > maxPath {
			return false, refuse(CodeBomb, "a path is longer than %d bytes", maxPath)
		}
		name := path.Clean(h.Name)
		// Of the files outside info/ (a .tar.bz2 has them too) only this is checked: whoever unpacks them looks after the rest.
		if escapes(name) {
			return false, refuse(CodePathTraversal, "entry %q leaves the package", clip(h.Name))
		}
		folded := strings.ToLower(name)
		if folded != "info" && !strings.HasPrefix(folded, "info/") {
			continue
		}
		if count++; count > maxInfoFiles {
			return false, refuse(CodeBomb, "info/ has more than %d entries", maxInfoFiles)
		}
		if total += h.Size; h.Size > maxInfo || total > maxInfo {
			return false, refuse(CodeBomb, "info/ unpacks to more than %d bytes", maxInfo)
		}
		if err := checkInfoEntry(h, name); err != nil {
			return false, err
		}
		if h.Typeflag == tar.TypeDir {
			continue
		}
		// Unpacking leaves the last of two; and of two that differ in case, which one depends on the file system.
		if path.Dir(folded) == "info" {
			if seen[folded] {
				return false, refuse(CodeDuplicateEntry, "%s is there twice", clip(name))
			}
			seen[folded] = true
		}
		if err := w.take(t, h, name); err != nil {
			return false, err
		}
		if w.enough() {
			return true, nil
		}
	}
}

// checkInfoEntry keeps info/'s paths and links inside the package.
func checkInfoEntry(h *tar.Header, name string) error {
	if why := unsafePath(h.Name); why != "" {
		return refuse(CodePathTraversal, "entry %q: %s", clip(h.Name), why)
	}
	target := h.Linkname
	switch h.Typeflag {
	case tar.TypeSymlink:
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(name), target)
		}
	case tar.TypeLink:
		target = path.Clean(target)
	case tar.TypeReg, tar.TypeDir, tar.TypeGNUSparse:
		return nil
	default:
		return refuse(CodePathTraversal, "entry %q is a device or a pipe", clip(h.Name))
	}
	if escapes(target) || strings.ContainsRune(h.Linkname, '\\') || hasDrive(h.Linkname) || name == "info" {
		return refuse(CodePathTraversal, "entry %q links to %q, outside the package", clip(h.Name), clip(h.Linkname))
	}
	return nil
}

// unsafePath returns why a path in an archive may lead elsewhere, on any system.
func unsafePath(p string) string {
	switch {
	case p == "":
		return "the path is empty"
	case path.IsAbs(p):
		return "the path is absolute"
	case strings.ContainsRune(p, '\\'):
		return "the path has a backslash"
	case strings.ContainsRune(p, 0):
		return "the path has a NUL"
	case hasDrive(p):
		return "the path names a drive"
	}
	for part := range strings.SplitSeq(p, "/") {
		if part == ".." {
			return "the path has '..'"
		}
	}
	return ""
}

func escapes(clean string) bool {
	return path.IsAbs(clean) || clean == ".." || strings.HasPrefix(clean, "../")
}

func hasDrive(p string) bool {
	return len(p) > 1 && p[1] == ':' && (isLower(p[0]) || isUpper(p[0]))
}
