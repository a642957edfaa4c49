package writers_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// reader is a client that looks at a channel again and again while others write into it.
type reader struct {
	dir    string
	files  map[string]read // what was read before, and has not changed
	known  map[string]shardOf
	shards map[string]row // as seen last
	json   map[string]row
}

type read struct {
	info  fs.FileInfo
	bytes []byte
}

// get reads an object, once per state.
func (r *reader) get(key string) ([]byte, error) {
	f, err := os.Open(filepath.Join(r.dir, filepath.FromSlash(key)))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if old, ok := r.files[key]; ok && os.SameFile(old.info, info) && old.info.ModTime().Equal(info.ModTime()) && old.info.Size() == info.Size() {
		return old.bytes, nil
	}
	b := make([]byte, info.Size())
	if n, err := f.ReadAt(b, 0); n != len(b) {
		return nil, fmt.Errorf("reading %s: %d bytes of %d, %w", key, n, len(b), err)
	}
	r.files[key] = read{info, b}
	return b, nil
}

// look reads everything that the channel shows, and gives the first thing that is broken.
func (r *reader) look() error {
	if r.files == nil {
		r.files, r.known = map[string]read{}, map[string]shardOf{}
	}
	d, _, err := loadDocument(r.get)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if b, err := r.get(subdir + "/repodata.json.zst"); err == nil {
		if b, err = unzstd(b); err == nil {
			_, err = parseDocument(b)
		}
		if err != nil {
			return fmt.Errorf("repodata.json.zst: %w", err)
		}
	}
	if b, err := r.get(subdir + "/repodata.json"); err == nil && d.rows == nil {
		return fmt.Errorf("repodata.json has %d bytes and no records", len(b))
	}
	shards, removed, err := loadShards(r.get, r.known)
	if err != nil && !errors.Is(err, fs.ErrNotExist) || err != nil && r.shards != nil {
		return err
	}
	if len(removed)+len(d.removed) > 0 {
		return fmt.Errorf("removed: %q %q", removed, d.removed)
	}
	for what, rows := range map[string][2]map[string]row{"the shards": {r.shards, shards}, "repodata.json": {r.json, d.rows}} {
		for file := range rows[0] {
			if _, still := rows[1][file]; !still {
				return fmt.Errorf("%s: %s was in %s, and is no more", file, file, what)
			}
		}
		for file, row := range rows[1] {
			if err := r.holds(file, row); err != nil {
				return fmt.Errorf("%s in %s: %w", file, what, err)
			}
		}
	}
	for file := range d.rows { // merged from shards that were there before
		if _, ok := shards[file]; !ok {
			return fmt.Errorf("%s is in repodata.json and not in the shards", file)
		}
	}
	r.shards, r.json = shards, d.rows
	return nil
}

// holds checks that a record's package and sidecar are there, with the digests that it says. The mutable sidecar may have
// bundles more, behind those.
func (r *reader) holds(file string, row row) error {
	b, err := r.get(subdir + "/" + file)
	if err != nil {
		return err
	}
	if digest(b) != row.SHA256 {
		return fmt.Errorf("its bytes hash to %s, the record says %s", digest(b), row.SHA256)
	}
	shown, err := r.get(subdir + "/" + file + ".sigs." + row.Attestations)
	if err != nil {
		return err
	}
	if digest(shown) != row.Attestations {
		return fmt.Errorf("its immutable sidecar %s hashes to %s", row.Attestations, digest(shown))
	}
	now, err := r.get(subdir + "/" + file + ".sigs")
	if err != nil {
		return err
	}
	had, err := elements(shown)
	if err != nil {
		return err
	}
	has, err := elements(now)
	if err != nil {
		return err
	}
	if len(had) == 0 || len(has) < len(had) || !slices.Equal(has[:len(had)], had) {
		return fmt.Errorf("its sidecar has %d bundles that do not begin with the %d which the record advertises", len(has), len(had))
	}
	return nil
}
