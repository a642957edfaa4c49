package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Modes of what a Dir makes, before the process's umask. A plain web server can read the channel.
const (
	fileMode   = 0o644
	folderMode = 0o755
)

// Dir is a store in a directory of this machine.
//
// Guaranteed, on a local POSIX file system with flock(2), rename(2) and fsync(2):
//   - A reader, also one that does not know of Hallmark, sees the old bytes of an object or the new ones, never a part.
//   - When Put or Delete returns nil, the change has been flushed: the file, its folder, and every folder above it.
//     When Put returns ErrPrecondition for IfNoneMatch, what made it fail has been flushed too, so the caller may build on it.
//   - Conditions hold among all goroutines and processes of this machine that write through a Dir.
//   - Nothing outside the directory is read or written, whatever symbolic links are in it.
//   - A process that dies leaves whole objects, and at worst a temporary file that no listing shows and a later NewDir removes.
//
// Not guaranteed:
//   - Conditions against programs that write into the directory by other means, and between machines that share it over a
//     network (flock over NFSv4 works in practice; it is not tested here).
//   - That an object seen by Get, Head or List survives a power cut when it was written within the last moments: it becomes
//     visible by the rename, and durable by the flush after it.
//   - ContentType and CacheControl: a directory has no place for them; the web server in front decides.
//   - Keys "x" and "x/y" at the same time: a file is not a folder.
//
// Temporary files and locks are in the folder .hallmark below the root, which List never shows. It is made by the first
// write, so a directory that is only read is left as it was; it MUST NOT be removed while somebody writes.
type Dir struct {
	path   string
	root   *os.Root
	shards [lockShards]chan struct{}
	// flushed has the folders whose own entry is known to be durable, up to the root: each process flushes the whole
	// chain once, whoever made it, because another process may have made it and died, or not yet flushed it.
	flushed sync.Map // folder (string) → struct{}
}

// NewDir opens the directory, making it (and those above it) if it is missing, and removes the temporary files of writers
// that died. The result is safe for concurrent use; Close frees it.
func NewDir(path string) (*Dir, error) {
	if path == "" {
		return nil, errors.New("opening a directory as store: the path is empty")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("opening directory %q as store: %w", path, err)
	}
	if err := makeRoot(abs); err != nil {
		return nil, fmt.Errorf("opening directory %s as store: %w", abs, mapped(err))
	}
	root, err := os.OpenRoot(abs)
	if err != nil {
		return nil, fmt.Errorf("opening directory %s as store: %w", abs, mapped(err))
	}
	d := &Dir{path: abs, root: root}
	for i := range d.shards {
		d.shards[i] = make(chan struct{}, 1)
	}
	d.sweep()
	return d, nil
}

// makeRoot is os.MkdirAll that flushes the parents of what it makes.
func makeRoot(abs string) error {
	fi, err := os.Stat(abs)
	if err == nil && !fi.IsDir() {
		return &fs.PathError{Op: "mkdir", Path: abs, Err: syscall.ENOTDIR}
	}
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(abs)
	if err := makeRoot(parent); err != nil {
		return err
	}
	if err := os.Mkdir(abs, folderMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	f, err := os.Open(parent)
	if err != nil {
		return err
	}
	defer f.Close()
	return flush(f)
}

// Close frees the directory. Calls after it fail; objects that Get has opened stay readable.
func (d *Dir) Close() error { return d.root.Close() }

// String is the absolute path.
func (d *Dir) String() string { return d.path }

// Get implements Store. The bytes are those of one state of the object, also when it is overwritten or deleted meanwhile.
func (d *Dir) Get(ctx context.Context, key string) (io.ReadCloser, Info, error) {
	f, info, err := d.open(ctx, key)
	if err != nil {
		return nil, Info{}, fmt.Errorf("getting %s from %s: %w", key, d, mapped(err))
	}
	return f, info, nil
}

// GetRange implements Store. The file is opened and compared with etag before a byte is read, so the bytes are of that state.
func (d *Dir) GetRange(ctx context.Context, key string, offset, length int64, etag string) (io.ReadCloser, Info, error) {
	fail := func(err error) (io.ReadCloser, Info, error) {
		return nil, Info{}, fmt.Errorf("getting %s of %s from %s: %w", rangeText(offset, length), key, d, mapped(err))
	}
	if err := checkRange(offset, length); err != nil {
		return fail(err)
	}
	f, info, err := d.open(ctx, key)
	if err != nil {
		return fail(err)
	}
	from, to, err := resolveRange(offset, length, info.Size)
	if etag != "" && info.ETag != etag {
		err = fmt.Errorf("%w: the object has changed", ErrPrecondition)
	}
	if err == nil {
		_, err = f.Seek(from, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return fail(err)
	}
	return &rangeBody{ReadCloser: f, left: to - from, what: fmt.Sprintf("reading %s from %s", key, d)}, info, nil
}

func (d *Dir) open(ctx context.Context, key string) (*os.File, Info, error) {
	if err := cmpErr(ctx.Err(), checkDirKey(key)); err != nil {
		return nil, Info{}, err
	}
	// Without O_NONBLOCK a named pipe, put there by somebody, would block the caller for ever.
	f, err := d.root.OpenFile(filepath.FromSlash(key), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, Info{}, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = ErrNotFound
	}
	if err != nil {
		f.Close()
		return nil, Info{}, err
	}
	return f, dirInfo(key, fi), nil
}

// Head implements Store. SHA256 is always "": the directory keeps nothing but the bytes.
func (d *Dir) Head(ctx context.Context, key string) (Info, error) {
	err := cmpErr(ctx.Err(), checkDirKey(key))
	if err == nil {
		var info Info
		if info, err = d.stat(key); err == nil {
			return info, nil
		}
	}
	return Info{}, fmt.Errorf("looking up %s in %s: %w", key, d, mapped(err))
}

// stat is Head without words around its errors.
func (d *Dir) stat(key string) (Info, error) {
	fi, err := d.root.Stat(filepath.FromSlash(key))
	if err != nil {
		return Info{}, err
	}
	if !fi.Mode().IsRegular() {
		return Info{}, ErrNotFound
	}
	return dirInfo(key, fi), nil
}

// Delete implements Store. It tries every key; the error joins all failures.
func (d *Dir) Delete(ctx context.Context, keys ...string) error {
	var errs []error
	folders := map[string]bool{}
	for _, key := range keys {
		switch removed, err := d.remove(ctx, key); {
		case err != nil:
			errs = append(errs, fmt.Errorf("deleting %s from %s: %w", key, d, mapped(err)))
		case removed:
			folders[path.Dir(key)] = true
		}
	}
	for folder := range folders {
		if err := d.flushFolder(folder); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("deleting from folder %s of %s: %w", folder, d, mapped(err)))
		}
	}
	return errors.Join(errs...)
}

func (d *Dir) remove(ctx context.Context, key string) (bool, error) {
	if err := cmpErr(ctx.Err(), checkDirKey(key)); err != nil {
		return false, err
	}
	name := filepath.FromSlash(key)
	// Looked up first, so that deleting what is not there writes nothing, and a folder is never taken for an object.
	if fi, err := d.root.Lstat(name); absent(err) || err == nil && fi.IsDir() {
		return false, nil
	} else if err != nil {
		return false, err
	}
	unlock, err := d.lock(ctx, key)
	if err != nil {
		return false, err
	}
	defer unlock()
	if err := d.root.Remove(name); absent(err) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	return true, nil
}

// absent says that the error means: no such object. A file where the key has a folder counts (ENOTDIR).
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// mapped adds the error of this package that an error of the operating system stands for.
func mapped(err error) error {
	switch {
	case err == nil, errors.Is(err, ErrNotFound), errors.Is(err, ErrPrecondition), errors.Is(err, ErrKey):
		return err
	case absent(err):
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %w", ErrAuth, err)
	case errors.Is(err, syscall.ENAMETOOLONG):
		return fmt.Errorf("%w: %w", ErrKey, err)
	}
	return err
}

func cmpErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// dirInfo makes an Info of a file's state.
//
// The ETag is inode, modification time and size: one stat, no bytes read. Each alone can repeat. An inode number is given
// out again at once after its file has been replaced, and the kernel's own modification times advance in ticks of
// milliseconds, so an overwrite of an overwrite could come back with the number, the tick and the size of the first, and an
// IfMatch from back then would wrongly hold. Therefore publish makes the modification time of a key strictly increase, by
// setting it to the nanosecond clock or to the replaced file's time plus one step: it is the generation counter, kept
// where every stat shows it. Only after a Delete is there no predecessor to count from; then two states agree
// only if clock, inode number and size all repeat, which takes a clock that was set back to the very nanosecond (or, on a
// file system that stores whole seconds, a deletion and two writes within one).
// A file that another program writes in place changes its time by the kernel's clock, which does not hit our nanosecond.
func dirInfo(key string, fi fs.FileInfo) Info {
	return Info{
		Key:      key,
		Size:     fi.Size(),
		ETag:     fmt.Sprintf("%x-%x-%x", inode(fi), fi.ModTime().UnixNano(), fi.Size()),
		Modified: fi.ModTime(),
	}
}

// steps are by how much a modification time is moved until the file system shows it as later: nanoseconds on most,
// more where it stores time more coarsely.
var steps = [...]time.Duration{1, time.Microsecond, time.Millisecond, time.Second, 2 * time.Second}
