package store

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// List implements Store. It holds the names of one folder per level in memory. Objects that come or go meanwhile
// may be missing or listed; one that stays is always listed, once.
// Symbolic links to files inside the directory are objects; those to folders are not followed.
func (d *Dir) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		fail := func(err error) {
			yield(Info{}, fmt.Errorf("listing %q in %s: %w", prefix, d, mapped(err)))
		}
		if err := checkPrefix(prefix); err != nil {
			fail(err)
			return
		}
		start, _, below := cutLast(prefix)
		root, at := d.root, ""
		if below {
			if start == hidden || strings.HasPrefix(start, hidden+"/") {
				return
			}
			// OpenRoot has no error of its own for what is not a folder.
			if fi, err := d.root.Stat(filepath.FromSlash(start)); absent(err) || err == nil && !fi.IsDir() {
				return
			}
			sub, err := d.root.OpenRoot(filepath.FromSlash(start))
			if absent(err) {
				return
			} else if err != nil {
				fail(err)
				return
			}
			defer sub.Close()
			root, at = sub, start+"/"
		}
		l := listing{root: d.root, ctx: ctx, prefix: prefix, yield: yield}
		if l.walk(root, at); l.err != nil {
			fail(l.err)
		}
	}
}

// Folders implements Store. An empty folder is yielded too: whether there is an object below is not looked at.
func (d *Dir) Folders(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		all, err := names(d.root)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			yield("", fmt.Errorf("listing the folders of %s: %w", d, mapped(err)))
			return
		}
		var folders []string
		for _, name := range all {
			if folder, ok := strings.CutSuffix(name, "/"); ok && folder != hidden {
				folders = append(folders, folder)
			}
		}
		slices.Sort(folders)
		for _, folder := range folders {
			if !yield(folder, nil) {
				return
			}
		}
	}
}

type listing struct {
	root   *os.Root // the store's
	ctx    context.Context
	prefix string
	yield  func(Info, error) bool
	err    error
}

// walk lists one folder; at is "" or its key with a slash. It returns false when the listing is over.
func (l *listing) walk(root *os.Root, at string) bool {
	names, err := names(root)
	if err != nil {
		l.err = err
		return false
	}
	for _, name := range names {
		if l.err = l.ctx.Err(); l.err != nil {
			return false
		}
		key := at + name
		folder, isFolder := strings.CutSuffix(name, "/")
		switch {
		case at == "" && folder == hidden:
			continue
		case isFolder:
			if strings.HasPrefix(key, l.prefix) || strings.HasPrefix(l.prefix, key) {
				if !l.descend(root, folder, key) {
					return false
				}
			}
		case strings.HasPrefix(key, l.prefix):
			fi, err := root.Lstat(name)
			if err == nil && fi.Mode().Type() == fs.ModeSymlink {
				// Seen from the store's root, as Get sees it. A link that leads nowhere inside is no object.
				if fi, err = l.root.Stat(filepath.FromSlash(key)); err != nil {
					continue
				}
			}
			if absent(err) || err == nil && !fi.Mode().IsRegular() {
				continue
			} else if err != nil {
				l.err = err
				return false
			}
			if !l.yield(dirInfo(key, fi), nil) {
				return false
			}
		}
	}
	return true
}

func (l *listing) descend(root *os.Root, name, at string) bool {
	sub, err := root.OpenRoot(name)
	if absent(err) {
		return true
	} else if err != nil {
		l.err = err
		return false
	}
	defer sub.Close()
	return l.walk(sub, at)
}

// names returns what is in a folder in the order of keys. Folders have a slash appended before sorting: "a-b" comes before
// "a/b", and "a0" after it.
func names(root *os.Root) ([]string, error) {
	f, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []string
	for {
		// A few at a time: what is known of an entry besides its name takes several times as much as the name.
		entries, err := f.ReadDir(1024)
		for _, e := range entries {
			switch e.Type() {
			case fs.ModeDir:
				out = append(out, e.Name()+"/")
			case 0, fs.ModeSymlink:
				out = append(out, e.Name())
			}
		}
		if err == io.EOF {
			slices.Sort(out)
			return out, nil
		}
		if err != nil {
			return nil, err
		}
	}
}
