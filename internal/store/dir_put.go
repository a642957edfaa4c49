package store

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

var (
	tempFolder = hidden + "/tmp"
	lockFolder = hidden + "/locks"
)

// checkDirKey is checkKey, and keeps writers out of the Dir's own temporary files and locks.
func checkDirKey(key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	for _, own := range [...]string{tempFolder, lockFolder} {
		if key == own || strings.HasPrefix(key, own+"/") {
			return fmt.Errorf("%w %q: reserved", ErrKey, key)
		}
	}
	if key == hidden {
		return fmt.Errorf("%w %q: reserved", ErrKey, key)
	}
	return nil
}

// Put implements Store: a temporary file is written and flushed, moved to its name under the key's lock, and the folder is
// flushed. An error after the move leaves the new object in place, as a lost answer does with S3.
func (d *Dir) Put(ctx context.Context, key string, body io.ReaderAt, size int64, o PutOptions) (Info, error) {
	info, err := d.put(ctx, key, body, size, o)
	if err != nil {
		return Info{}, fmt.Errorf("putting %s in %s: %w", key, d, mapped(err))
	}
	info.SHA256 = o.SHA256
	return info, nil
}

func (d *Dir) put(ctx context.Context, key string, body io.ReaderAt, size int64, o PutOptions) (Info, error) {
	if err := cmpErr(ctx.Err(), checkDirKey(key), checkOptions(size, o)); err != nil {
		return Info{}, err
	}
	// Most writers that come second learn it here, before they have written anything.
	if err := d.holds(key, o); err != nil {
		return Info{}, err
	}
	temp, err := d.temp()
	if err != nil {
		return Info{}, err
	}
	defer temp.discard()
	if err := temp.fill(ctx, body, size, o.SHA256); err != nil {
		return Info{}, err
	}
	if err := d.makeFolder(path.Dir(key)); err != nil {
		return Info{}, err
	}
	info, err := d.publish(ctx, temp, key, o)
	if err != nil {
		return Info{}, err
	}
	return info, d.flushFolder(path.Dir(key))
}

func checkOptions(size int64, o PutOptions) error {
	switch {
	case size < 0:
		return fmt.Errorf("negative size %d", size)
	case o.IfNoneMatch && o.IfMatch != "":
		return errors.New("IfNoneMatch and IfMatch exclude each other")
	case o.SHA256 != "":
		if sum, err := hex.DecodeString(o.SHA256); err != nil || len(sum) != sha256.Size || strings.ToLower(o.SHA256) != o.SHA256 {
			return fmt.Errorf("%w: %q is not a SHA-256 in lower-case hex", ErrDigest, o.SHA256)
		}
	}
	return nil
}

// holds checks the condition against what is there now.
func (d *Dir) holds(key string, o PutOptions) error {
	switch {
	case o.IfNoneMatch:
		fi, err := d.root.Lstat(filepath.FromSlash(key))
		if absent(err) {
			return nil
		} else if err != nil {
			return err
		}
		return d.exists(key, fi)
	case o.IfMatch != "":
		now, err := d.stat(key)
		if absent(err) || errors.Is(err, ErrNotFound) {
			return fmt.Errorf("%w: the object is gone", ErrPrecondition)
		} else if err != nil {
			return err
		}
		if now.ETag != o.IfMatch {
			return fmt.Errorf("%w: the object has changed", ErrPrecondition)
		}
	}
	return nil
}

// exists is what an IfNoneMatch is refused with. The caller will compare and, if the bytes are equal, tell others that they
// are stored; the writer that was first may not have flushed its folder yet, so this one does.
func (d *Dir) exists(key string, fi fs.FileInfo) error {
	if fi.IsDir() {
		return fmt.Errorf("%w %q: there are objects below it, and a file is not a folder", ErrKey, key)
	}
	if err := d.flushFolder(path.Dir(key)); err != nil {
		return err
	}
	return fmt.Errorf("%w: the object exists", ErrPrecondition)
}

// publish gives a written file its name. All changes of a key happen under its lock; for IfNoneMatch, link(2) besides
// elects one winner among writers that know of no lock.
func (d *Dir) publish(ctx context.Context, temp *tempFile, key string, o PutOptions) (Info, error) {
	unlock, err := d.lock(ctx, key)
	if err != nil {
		return Info{}, err
	}
	defer unlock()
	if err := d.holds(key, o); err != nil {
		return Info{}, err
	}
	name := filepath.FromSlash(key)
	if fi, err := d.root.Lstat(name); err == nil && fi.IsDir() {
		return Info{}, d.exists(key, fi)
	} else if err == nil {
		if err := temp.after(fi.ModTime()); err != nil {
			return Info{}, err
		}
	} else if !absent(err) {
		return Info{}, err
	}
	fi, err := temp.file.Stat()
	if err != nil {
		return Info{}, err
	}
	if o.IfNoneMatch {
		err := d.root.Link(temp.name, name)
		switch {
		case err == nil:
			return dirInfo(key, fi), nil // discard removes the other name
		case errors.Is(err, fs.ErrExist):
			there, err := d.root.Lstat(name)
			if err != nil {
				return Info{}, err
			}
			return Info{}, d.exists(key, there)
		case !noLinks(err):
			return Info{}, err
		}
		// The file system has no hard links. The lock alone keeps the promise.
	}
	if err := d.root.Rename(temp.name, name); err != nil {
		return Info{}, err
	}
	temp.name = ""
	return dirInfo(key, fi), nil
}

func noLinks(err error) bool {
	for _, no := range [...]error{syscall.EPERM, syscall.ENOTSUP, syscall.ENOSYS, syscall.EMLINK} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

// makeFolder makes a folder and those above it, and sees to it that their entries are durable.
func (d *Dir) makeFolder(folder string) error {
	if folder == "." {
		return nil
	}
	if _, ok := d.flushed.Load(folder); ok {
		if fi, err := d.root.Stat(filepath.FromSlash(folder)); err == nil && fi.IsDir() {
			return nil
		}
	}
	parent := path.Dir(folder)
	if err := d.makeFolder(parent); err != nil {
		return err
	}
	if err := d.root.Mkdir(filepath.FromSlash(folder), folderMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := d.flushFolder(parent); err != nil {
		return err
	}
	d.flushed.Store(folder, struct{}{})
	return nil
}

// flushFolder makes the names in a folder durable.
func (d *Dir) flushFolder(folder string) error {
	f, err := d.root.Open(filepath.FromSlash(folder))
	if err != nil {
		return err
	}
	defer f.Close()
	return flush(f)
}

// flush is fsync(2) of a folder. File systems that cannot do it say EINVAL; there is nothing more that we could do.
func flush(f *os.File) error {
	if err := f.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOTSUP) {
		return err
	}
	return nil
}

// tempFile is an object that has no name yet. While its writer lives, it is locked: that is how a sweep knows.
type tempFile struct {
	dir  *Dir
	file *os.File
	name string // below the root; "" once it has been renamed
}

func (d *Dir) temp() (*tempFile, error) {
	name := tempFolder + "/" + rand.Text()
	open := func() (*os.File, error) {
		return d.root.OpenFile(filepath.FromSlash(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	}
	f, err := open()
	if errors.Is(err, fs.ErrNotExist) {
		if err = d.root.MkdirAll(filepath.FromSlash(tempFolder), folderMode); err != nil {
			return nil, err
		}
		f, err = open()
	}
	if err != nil {
		return nil, err
	}
	t := &tempFile{dir: d, file: f, name: filepath.FromSlash(name)}
	if _, err := tryLock(f); err != nil {
		t.discard()
		return nil, err
	}
	return t, nil
}

// discard ends the file, whether it has been published or not.
func (t *tempFile) discard() {
	t.file.Close() // has been flushed, or is of no use; first, since removing takes a descriptor
	if t.name != "" {
		t.dir.root.Remove(t.name) // if it fails, a sweep finds it
	}
}

// buffers are what bodies are copied through.
var buffers = sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}

// fill writes the bytes, checks their digest, and flushes them together with a modification time of nanoseconds.
func (t *tempFile) fill(ctx context.Context, body io.ReaderAt, size int64, digest string) error {
	var sum hash.Hash
	if digest != "" {
		sum = sha256.New()
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for at := int64(0); at < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := body.ReadAt((*buf)[:min(int64(len(*buf)), size-at)], at)
		if n == 0 {
			return shortBody(at, size, err)
		}
		if sum != nil {
			sum.Write((*buf)[:n])
		}
		if _, err := t.file.Write((*buf)[:n]); err != nil {
			return err
		}
		if at += int64(n); err != nil && at < size {
			return shortBody(at, size, err)
		}
	}
	if sum != nil {
		if got := hex.EncodeToString(sum.Sum(nil)); got != digest {
			return fmt.Errorf("%w: announced %s, read %s", ErrDigest, digest, got)
		}
	}
	if err := t.touch(time.Now()); err != nil {
		return err
	}
	return t.file.Sync()
}

// shortBody is a body that ends, or fails, before its size.
func shortBody(at, size int64, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("reading the body at byte %d of %d: %w", at, size, err)
}

func (t *tempFile) touch(at time.Time) error { return t.dir.root.Chtimes(t.name, time.Time{}, at) }

// after makes the modification time later than that of the file about to be replaced; see dirInfo for why.
func (t *tempFile) after(old time.Time) error {
	moved := false
	for _, step := range steps {
		fi, err := t.file.Stat()
		if err != nil {
			return err
		}
		if fi.ModTime().After(old) {
			if moved {
				return t.file.Sync()
			}
			return nil
		}
		if err := t.touch(old.Add(step)); err != nil {
			return err
		}
		moved = true
	}
	return fmt.Errorf("the file system does not keep modification times later than %s", old.UTC().Format(time.RFC3339Nano))
}
