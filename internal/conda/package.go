package conda

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
)

// Package is what a package's bytes say.
type Package struct {
	Name, Version, Build string
	BuildNumber          int64
	Subdir               string
	Format               Format
	Size                 int64  // bytes
	SHA256, MD5          string // lower-case hex
	// Index is info/index.json as it is in the package.
	Index json.RawMessage
	// Record is the repodata record (CEP 36), deterministic: Index's fields with sha256, md5, size and subdir filled in, and
	// without those that only a channel may set.
	Record json.RawMessage
	// RunExports is the CEP 12 object, "{}" if the package has none.
	RunExports json.RawMessage
}

type options struct{ subdir string }

// Option is an option of Read.
type Option func(*options)

// Subdir is the subdir of a package whose index.json names none, as old ones do. One that names its own keeps it.
func Subdir(s string) Option { return func(o *options) { o.subdir = s } }

// Read reads the package of size bytes in r whose file name (no folder) is filename.
//
// Each byte is read once, save for the ZIP directory and the info tarball of a .conda, which come first so that a bad
// package is refused before the bulk is read. The package is proven whole: in a .conda by its directory and by the CRC-32 of every entry, in
// a .tar.bz2 by unpacking it to the end (see readTarBz2). The pkg- tarball of a .conda is not unpacked. info/paths.json,
// which CEP 34 requires, may be missing: packages of before 2016 have none, and nothing here reads it.
//
// An error is an *Error if the package can never pass. Any other comes from r or ctx, whatever the bytes were.
// Memory is bounded: about 1 MiB, the info files that are read, and a zstd window of at most 128 MiB.
func Read(ctx context.Context, r io.ReaderAt, size int64, filename string, opts ...Option) (*Package, error) {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	name, err := ParseFilename(filename)
	if err != nil {
		return nil, err
	}
	if size == 0 {
		return nil, refuse(CodeEmpty, "%s is empty", filename)
	}
	src := &source{ctx: ctx, r: r, size: size}
	read := readConda
	if name.Format == TarBz2 {
		read = readTarBz2
	}
	sums := &sums{sha256: sha256.New(), md5: md5.New()}
	w := want(false, fileIndex, fileRunExports)
	err = read(src, name, sums, w)
	if src.err != nil {
		err = src.err // what the parsers made of a failed read is no news
	}
	if err == nil {
		var p *Package
		if p, err = w.files.describe(name, o.subdir, sums, size); err == nil {
			return p, nil
		}
	}
	return nil, fmt.Errorf("reading %s: %w", filename, err)
}

func (in Files) describe(name Name, subdir string, sums *sums, size int64) (*Package, error) {
	if in[fileIndex] == nil {
		return nil, refuse(CodeNoIndex, "there is no info/index.json")
	}
	ix, err := readIndex(in[fileIndex], name, subdir)
	if err != nil {
		return nil, err
	}
	runExports, err := RunExports(in[fileRunExports])
	if err != nil {
		return nil, err
	}
	p := &Package{
		Name: name.Name, Version: name.Version, Build: name.Build, BuildNumber: ix.number, Subdir: ix.subdir, Format: name.Format,
		Size: size, SHA256: hex.EncodeToString(sums.sha256.Sum(nil)), MD5: hex.EncodeToString(sums.md5.Sum(nil)),
		Index: in[fileIndex], RunExports: runExports,
	}
	if p.Record, err = ix.record(p.SHA256, p.MD5, size); err != nil {
		return nil, fmt.Errorf("writing the record: %w", err)
	}
	return p, nil
}

// source is the package's bytes. It keeps the first error of reading, so that it is told from a parser's complaint.
type source struct {
	ctx  context.Context
	r    io.ReaderAt
	size int64
	err  error
	held []held
}

// held is a stretch that has been read already and is read no more.
type held struct {
	at int64
	b  []byte
}

// hold reads n bytes at off at once, as far as they are there, and keeps them: what is asked of a network piece by piece takes a request for each.
func (s *source) hold(off, n int64) error {
	off, n = max(0, off), min(n, s.size-max(0, off))
	b, err := s.bytes(off, n)
	if err == nil {
		s.held = append(s.held, held{off, b})
	}
	return err
}

// ReadAt reads within the size. An end before it is an error of reading: the file has shrunk.
func (s *source) ReadAt(p []byte, off int64) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	if s.err = s.ctx.Err(); s.err != nil {
		return 0, s.err
	}
	if off < 0 || off >= s.size {
		return 0, io.EOF
	}
	want := int(min(int64(len(p)), s.size-off))
	n := 0
	for n < want {
		at, to := off+int64(n), off+int64(want)
		copied := false
		for _, h := range s.held {
			if h.at <= at && at < h.at+int64(len(h.b)) {
				n += copy(p[n:want], h.b[at-h.at:])
				copied = true
				break
			}
			if at < h.at {
				to = min(to, h.at)
			}
		}
		if copied {
			continue
		}
		got, err := s.r.ReadAt(p[n:][:to-at], at)
		if n += got; int64(got) < to-at {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			s.err = fmt.Errorf("reading at byte %d: %w", off+int64(n), err)
			return n, s.err
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// bytes returns n bytes at off, all within the size.
func (s *source) bytes(off, n int64) ([]byte, error) {
	b := make([]byte, n)
	if _, err := s.ReadAt(b, off); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b, nil
}

// sums are the digests of all of a package's bytes, in one goroutine: two packages at once are faster than two digests at
// once.
type sums struct{ sha256, md5 hash.Hash }

func (s *sums) Write(p []byte) (int, error) {
	_, _ = s.sha256.Write(p)
	return s.md5.Write(p)
}

// block is how much is read and hashed at a time; smaller ones cost throughput.
const block = 512 << 10

var magicBzip2, magicZip = []byte("BZh"), []byte("PK\x03\x04")

func readConda(src *source, name Name, sums io.Writer, w *wanted) error {
	entries, err := readZip(src)
	if err != nil {
		return err
	}
	info, meta, err := members(entries, name)
	if err == nil {
		err = checkMetadata(src, meta)
	}
	if err != nil {
		return err
	}
	if err := unzstd(src, info, io.Discard, w); err != nil {
		return fmt.Errorf("%s: %w", info.name, err)
	}
	// The digests, and with them the CRC-32 of every entry: it costs a hundredth of the digests and finds a damaged pkg- tarball
	// without unpacking it. entries are in the order of the file and do not overlap.
	buf := make([]byte, min(block, src.size))
	crc := uint32(0)
	for off := int64(0); off < src.size; {
		n, err := src.ReadAt(buf[:min(int64(len(buf)), src.size-off)], off)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		_, _ = sums.Write(buf[:n])
		for len(entries) > 0 {
			e := entries[0]
			from, to := max(e.data, off), min(e.data+e.size, off+int64(n))
			if from < to {
				crc = crc32.Update(crc, crc32.IEEETable, buf[from-off:to-off])
			}
			if e.data+e.size > off+int64(n) {
				break
			}
			if crc != e.crc {
				return refuse(CodeCorrupt, "%s: its CRC-32 is %08x, the ZIP says %08x", e.name, crc, e.crc)
			}
			entries, crc = entries[1:], 0
		}
		off += int64(n)
	}
	return nil
}

// readTarBz2 unpacks a .tar.bz2 to its end, at some 40 MB/s of unpacked bytes. That is the price of three proofs that nothing cheaper
// gives: that the bytes are whole (each bzip2 block has its CRC; the end mark alone would let a hole or a cut between two
// streams pass, as pbzip2 writes many); that there is no run_exports.json (info/ is not always in one piece: conda-build
// packages exist with pkg files between); and that no second index.json comes later, which is the one that unpacking leaves.
// The cost is bounded by maxUnpacked.
func readTarBz2(src *source, _ Name, sums io.Writer, w *wanted) error {
	if head, err := src.bytes(0, min(3, src.size)); err != nil {
		return err
	} else if !bytes.HasPrefix(magicBzip2, head) {
		return refuse(CodeNotAPackage, "this is not bzip2%s", looksLike(head))
	}
	return unbzip2(src, sums, w)
}

func looksLike(head []byte) string {
	switch {
	case bytes.HasPrefix(head, magicBzip2):
		return ", but bzip2"
	case bytes.HasPrefix(head, magicZip[:2]):
		return ", but a ZIP"
	default:
		return ""
	}
}
