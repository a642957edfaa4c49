package store

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// lockShards is how many lock files there are; keys are spread over them by hash. A lock is held for a few system calls.
const lockShards = 256

// lock takes the key's lock: first among the goroutines of this Dir, then, by flock(2) on a file, among all processes of
// the machine and other Dirs of this one. The kernel frees the lock of a process that dies.
func (d *Dir) lock(ctx context.Context, key string) (unlock func(), err error) {
	h := fnv.New32a()
	h.Write([]byte(key))
	shard := h.Sum32() % lockShards
	turn := d.shards[shard]
	select {
	case turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	f, err := d.lockFile(ctx, filepath.FromSlash(fmt.Sprintf("%s/%02x", lockFolder, shard)))
	if err != nil {
		<-turn
		return nil, err
	}
	return func() {
		f.Close() // frees the lock
		<-turn
	}, nil
}

// lockFile opens and locks a lock file, and makes sure that it is still the one that others will open.
func (d *Dir) lockFile(ctx context.Context, name string) (*os.File, error) {
	for {
		// Only read access is asked for: flock needs no more.
		f, err := d.root.OpenFile(name, os.O_RDONLY|os.O_CREATE, fileMode)
		if errors.Is(err, fs.ErrNotExist) {
			if err := d.root.MkdirAll(filepath.FromSlash(lockFolder), folderMode); err != nil {
				return nil, err
			}
			continue
		} else if err != nil {
			return nil, err
		}
		if err := waitLock(ctx, f); err != nil {
			f.Close()
			return nil, err
		}
		mine, err := f.Stat()
		if err == nil {
			var there fs.FileInfo
			if there, err = d.root.Stat(name); err == nil && os.SameFile(mine, there) {
				return f, nil
			}
		}
		f.Close()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
}

// waitLock locks the file or gives up with the context. It asks again at intervals instead of blocking in flock(2), which no
// context can end: a process that was stopped while it held the lock would stop all others.
func waitLock(ctx context.Context, f *os.File) error {
	for wait := 100 * time.Microsecond; ; wait = min(2*wait, 10*time.Millisecond) {
		ok, err := tryLock(f)
		if ok || err != nil {
			return err
		}
		timer := time.NewTimer(wait/2 + rand.N(wait))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// staleAfter is how old a temporary file must be before a sweep looks at its lock: the time between its making and its
// locking, generously. Should a writer be stopped just there for longer, its Put fails; nothing else happens.
const staleAfter = time.Minute

// sweep removes the temporary files of writers that died. What it cannot remove it leaves.
func (d *Dir) sweep() {
	folder, err := d.root.OpenRoot(filepath.FromSlash(tempFolder))
	if err != nil {
		return
	}
	defer folder.Close()
	left, err := names(folder)
	if err != nil {
		return
	}
	for _, name := range left {
		if fi, err := folder.Lstat(name); err != nil || !fi.Mode().IsRegular() || time.Since(fi.ModTime()) < staleAfter {
			continue
		}
		f, err := folder.Open(name)
		if err != nil {
			continue
		}
		if ok, err := tryLock(f); ok && err == nil {
			folder.Remove(name)
		}
		f.Close()
	}
}
