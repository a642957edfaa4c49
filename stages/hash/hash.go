// Package hash is the first stage. An item with a file's path flows in; the item with what the file says flows out: digests, size,
// name, record and run exports. Then it asks what the channel has of this package already.
//
//	Item{Source, Filename, Expected} ──▶ open ──▶ conda.Read ──▶ compare ──▶ Prior ──▶ Item{Package}
//
// It refuses for good what can never be published, before anything is signed, and leaves everything else to be tried again.
package hash

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/hallmark-attest/hallmark/internal/conda"
	"github.com/hallmark-attest/hallmark/internal/source"
	"github.com/hallmark-attest/hallmark/pipeline"
)

// Codes of the stage's own errors; those of a package's bytes are in package conda.
const (
	CauseMissing        = "source.missing"          // permanent: there is no such file
	CauseNotAFile       = "source.not-a-file"       // permanent: a folder, a pipe, a device
	CauseUnreadable     = "source.unreadable"       // permanent: no permission
	CauseIO             = "source.io"               // transient: reading failed
	CauseChanged        = "source.changed"          // transient: the file was written to while it was read
	CauseDigestMismatch = "package.digest-mismatch" // permanent: not the bytes that were submitted
)

// Concurrency is how many items should be in the stage at once: one per core, since it is the cores that bound it.
func Concurrency() int { return runtime.GOMAXPROCS(0) }

// Prior knows what the channel has already.
type Prior interface {
	// Find is given an item whose Package is filled in. It may set the item's Bundle and Signature, or return
	// pipeline.Skip or pipeline.Permanent. Its error is the stage's.
	Find(ctx context.Context, it *pipeline.Item) error
}

// Options are the stage's options; the zero value is of use.
type Options struct {
	// Prior is asked after a package is read; nil if there is nothing to ask.
	Prior Prior
	// Subdir is the subdir of packages whose index.json names none. If it is empty, the item's Package.Subdir counts (a submitter that knows
	// may set it), then the folder that holds the file, if its name is that of a platform.
	Subdir string
}

// Stage is the stage "hash". It is safe for concurrent use.
type Stage struct {
	o    Options
	open func(path string) (file, error)
}

var _ pipeline.Stage = (*Stage)(nil)

// New returns the stage.
func New(o Options) *Stage { return &Stage{o: o, open: openFile} }

func (*Stage) String() string { return "hash" }

// Run reads the item's file and sets the item's Package, which it leaves alone if it fails. Run again it gives the same for the same
// bytes. Errors are *pipeline.Error, or the context's, or the Prior's.
func (s *Stage) Run(ctx context.Context, it *pipeline.Item) error {
	p, err := s.read(ctx, it)
	if err != nil {
		return err
	}
	if it.Expected != "" && !strings.EqualFold(it.Expected, p.SHA256) {
		return pipeline.Permanent(CauseDigestMismatch, "the file is not the one that was submitted: submit it again if the new one is meant",
			fmt.Errorf("%s has the SHA-256 %s, and %s was submitted", it.Filename, p.SHA256, it.Expected))
	}
	it.Package = pipeline.Package{
		Name: p.Name, Version: p.Version, Build: p.Build, Subdir: p.Subdir, Size: p.Size,
		SHA256: p.SHA256, MD5: p.MD5, Record: p.Record, RunExports: p.RunExports,
	}
	if s.o.Prior == nil {
		return nil
	}
	return s.o.Prior.Find(ctx, it)
}

func (s *Stage) read(ctx context.Context, it *pipeline.Item) (*conda.Package, error) {
	f, err := s.open(it.Source)
	if err != nil && it.Expected != "" && source.Away(err) { // whoever submitted it has read it
		return nil, pipeline.Transient(source.Cause, 0, err)
	}
	if err != nil {
		return nil, classify(ctx, err)
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		return nil, classify(ctx, err)
	}
	if !before.Mode().IsRegular() {
		return nil, pipeline.Permanent(CauseNotAFile, "submit package files, not folders or pipes", fmt.Errorf("%s is not a regular file", it.Source))
	}
	p, err := conda.Read(ctx, f, before.Size(), it.Filename, conda.Subdir(s.subdir(it)))
	// A file that is still being written looks damaged or gives a digest that nobody will ever see again: look at it later.
	after, statErr := f.Stat()
	if statErr != nil {
		return nil, classify(ctx, statErr)
	}
	if after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime()) {
		return nil, pipeline.Alone(CauseChanged, 0, fmt.Errorf("%s changed while it was read", it.Source))
	}
	if err != nil {
		return nil, classify(ctx, err)
	}
	return p, nil
}

func (s *Stage) subdir(it *pipeline.Item) string {
	for _, known := range []string{s.o.Subdir, it.Package.Subdir} {
		if known != "" {
			return known
		}
	}
	if dir := filepath.Base(filepath.Dir(it.Source)); isPlatform(dir) {
		return dir
	}
	return ""
}

// isPlatform reports a subdir of a known system. CEP 26 alone would take a folder such as "build-output" for one.
func isPlatform(dir string) bool {
	os, _, _ := strings.Cut(dir, "-")
	switch os {
	case "noarch", "linux", "osx", "win", "freebsd", "zos", "emscripten", "wasi":
		return conda.CheckSubdir(dir) == nil
	default:
		return false
	}
}

func classify(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("reading a package: %w", context.Cause(ctx))
	}
	if e, ok := errors.AsType[*conda.Error](err); ok {
		return pipeline.Permanent(e.Code, e.Hint, err)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, syscall.ELOOP), errors.Is(err, fs.ErrInvalid), errors.Is(err, syscall.EINVAL):
		return pipeline.Permanent(CauseMissing, "the path must be readable from every worker that hashes: is the volume mounted there?", err)
	case errors.Is(err, fs.ErrPermission):
		return pipeline.Permanent(CauseUnreadable, "let the worker's user read the file", err)
	case errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ENXIO): // ENXIO: a socket
		return pipeline.Permanent(CauseNotAFile, "submit package files, not folders or pipes", err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return pipeline.Alone(CauseChanged, 0, err) // shorter than it was a moment ago
	default:
		return pipeline.Transient(CauseIO, 0, err)
	}
}

// file is what the stage needs of an *os.File.
type file interface {
	io.ReaderAt
	io.Closer
	Stat() (fs.FileInfo, error)
}

// openFile does not wait where the path is a pipe that nobody writes to.
func openFile(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err // not f: a nil *os.File in an interface is not nil
	}
	return f, nil
}
