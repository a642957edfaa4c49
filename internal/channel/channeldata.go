package channel

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/hallmark-attest/hallmark/internal/store"
)

// seenName is the object that says which of a subdir's shards the channel's channeldata.json has seen: a shard index, as in
// baseName. It is written after channeldata.json, so that it never says too much.
const seenName = "channeldata_merged.msgpack.zst"

// ChannelData brings the channel's channeldata.json (CEP 38) up to date with the shards of these subdirs and of those that
// it lists already. Subdirs without shards are left as it has them. written tells whether it had anything to change.
//
// An entry is rebuilt where a shard of its name says something else than the last time of versions, timestamps, digests or
// run_exports; a new signature is no reason. All other entries stay byte for byte. Of an entry that is rebuilt:
//   - version is the newest of all subdirs, timestamp the greatest of all records, in seconds;
//   - run_exports are the shards', by version, without those that are empty. Where a shard does not know them (one that was
//     made from a repodata.json), those that the entry had for the version stay;
//   - the rest is read out of one package of the newest version, the last build of it, by ranges: see conda.Describe. What
//     that package does not say, the entry keeps, and fields that CEP 38 does not know as well;
//   - a package that is not in the store (CEP 15's base_url) or cannot be read for a package says nothing at all: the
//     booleans are false then, unless the entry had them.
//
// A name without records is dropped. The other names go on where a shard is broken or a package cannot be read now (the
// store fails, somebody overwrites it): theirs stay as they are, and are looked at again the next time. An error means that
// nothing was written because of it, *Malformed that somebody else's channeldata.json cannot be read for one.
//
// It may be called at any time, also by several processes: whoever loses the race for the document starts again from what
// the winner wrote. Memory grows with the number of names, not with the document or the records.
func (c *Channel) ChannelData(ctx context.Context, subdirs []string) (written bool, err error) {
	for _, s := range subdirs {
		if err := checkSubdir(s); err != nil {
			return false, &Invalid{Subdir: s, Err: err}
		}
	}
	read := &abouts{c: c, known: map[string]*aboutRead{}}
	for a := c.attempts(); ; {
		if !a.next(ctx) {
			return false, fmt.Errorf("merging %s: %w", channelDataKey, a.err)
		}
		done, written, err := c.channelData(ctx, subdirs, read)
		if err != nil && !errors.Is(err, errMoved) {
			return false, fmt.Errorf("merging %s: %w", channelDataKey, err)
		}
		if done {
			return written, nil
		}
	}
}

// channelData is one attempt; done is false if somebody else was first.
//
// The order of reading matters, as in monolith.run: the document, what it has seen, the indexes. So they are never older
// than those that the document was merged from.
func (c *Channel) channelData(ctx context.Context, subdirs []string, read *abouts) (done, written bool, err error) {
	dir, err := c.scratch()
	if err != nil {
		return false, false, err
	}
	defer dir.remove()
	d := &channelData{c: c, dir: dir.dir, read: read, later: map[string]bool{}}
	if err := d.load(ctx); err != nil {
		return false, false, err
	}
	defer d.old.remove()
	if err := d.look(ctx, subdirs); err != nil {
		return false, false, err
	}
	if d.etag == "" && len(d.subdirs) == 0 {
		return true, false, nil
	}
	patches := newDelta(d.dir)
	defer patches.close()
	if err := d.collect(ctx, patches); err != nil {
		return false, false, err
	}
	doc, err := newDraft(d.dir)
	if err != nil {
		return false, false, err
	}
	defer doc.remove()
	changed, err := d.merge(patches, doc)
	if err != nil {
		return false, false, err
	}
	if changed {
		o := over(asRepodata, d.etag)
		o.SHA256 = doc.sha256()
		if _, err := c.store.Put(ctx, channelDataKey, doc.file, doc.size, o); errors.Is(err, store.ErrPrecondition) {
			return false, false, nil
		} else if err != nil {
			return false, false, fmt.Errorf("writing %s: %w", channelDataKey, err)
		}
	}
	return true, changed, d.remember(ctx)
}

type channelData struct {
	c    *Channel
	dir  string
	read *abouts

	etag    string   // of the document; "" if there is none
	old     *draft   // the document, on the disk
	sort    bool     // its entries are in no order
	lacks   bool     // it has not all that it has to have
	listed  []string // its subdirs
	subdirs []*seenSubdir

	mu    sync.Mutex
	later map[string]bool // names that are to be looked at again
	fail  error           // why one of them is
	fine  int             // how many packages have been read, or never will be
}

// seenSubdir is one that has shards.
type seenSubdir struct {
	name  string
	index *shardIndex
	etag  string      // of the object that says what was seen
	seen  *shardIndex // nil if nothing was
}

// load copies the document onto the disk and reads what has to be known of it in advance.
func (d *channelData) load(ctx context.Context) (err error) {
	if d.old, err = newDraft(d.dir); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			d.old.remove()
		}
	}()
	r, info, err := d.c.store.Get(ctx, channelDataKey)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", channelDataKey, err)
	}
	defer r.Close()
	d.etag = info.ETag
	last := ""
	has := map[string]bool{}
	w := bufio.NewWriterSize(d.old, 256<<10)
	for p, err := range walk(io.TeeReader(&reading{r: r, key: channelDataKey}, w)) {
		if err == nil {
			switch p.kind {
			case other:
				has[p.key] = true
			case opened:
				has[string(p.section)] = true
			}
			switch {
			case p.kind == record:
				d.sort = d.sort || p.key < last
				last = p.key
			case p.kind == openedV3, p.kind == opened && p.section != inPackages:
				err = errors.New("it is the index of a subdir")
			case p.kind == other && p.key == "channeldata_version" && string(p.raw) != "1":
				err = fmt.Errorf("its channeldata_version is %.20s, not 1", p.raw)
			case p.kind == other && p.key == "subdirs":
				err = json.Unmarshal(p.raw, &d.listed)
			}
		}
		if isReading(err) || isDisk(err) || err != nil && ctx.Err() != nil {
			return err
		}
		if err != nil {
			return &Malformed{Key: channelDataKey, Err: err}
		}
	}
	d.lacks = !has["channeldata_version"] || !has["subdirs"] || !has[string(inPackages)]
	return w.Flush()
}

// look finds the shards of the subdirs, and what was seen of them.
func (d *channelData) look(ctx context.Context, asked []string) error {
	names := slices.Clone(asked)
	for _, name := range d.listed {
		if checkSubdir(name) == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		s := &seenSubdir{name: name}
		var err error
		if s.seen, s.etag, err = d.c.loadMerged(ctx, name, seenName); err != nil {
			return err
		}
		if d.etag == "" || !slices.Contains(d.listed, name) { // the document is another one than that which saw it
			s.seen = nil
		}
		if s.index, err = d.c.loadIndex(ctx, d.c.subdir(name), 0); err != nil {
			return err
		}
		if s.index != nil {
			d.subdirs = append(d.subdirs, s)
		}
	}
	return nil
}

// collect makes the patches of the names whose shards have changed.
func (d *channelData) collect(ctx context.Context, patches *delta) error {
	changed := map[string]bool{}
	for _, s := range d.subdirs {
		was := map[string]hash{}
		if s.seen != nil {
			was = s.seen.shards
		}
		for _, name := range s.index.differing(was) {
			changed[name] = true
		}
	}
	for chunk := range slices.Chunk(slices.Sorted(maps.Keys(changed)), 256) {
		made := make([][]byte, len(chunk))
		if err := d.c.each(ctx, len(chunk), func(ctx context.Context, i int) error {
			p, err := d.patch(ctx, chunk[i])
			if err != nil || p == nil {
				return err
			}
			made[i], err = encodeJSON(p)
			return err
		}); err != nil {
			return err
		}
		for i, b := range made {
			if b != nil {
				if err := patches.add(placed{inPackages, chunk[i]}, toInsert, b); err != nil {
					return err
				}
			}
		}
	}
	if d.fail != nil && d.fine == 0 {
		return d.fail // an outage
	}
	return nil
}

// postpone leaves a name for the next time.
func (d *channelData) postpone(name string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.later[name] = true
	if _, ok := asMalformed(err); ok {
		d.fine++ // nothing that waiting helps against
	} else if d.fail == nil {
		d.fail = err
	}
}

// remember writes down what was seen.
func (d *channelData) remember(ctx context.Context) error {
	for _, s := range d.subdirs {
		shards := maps.Clone(s.index.shards)
		for name := range d.later {
			delete(shards, name)
		}
		if s.seen != nil && maps.Equal(s.seen.shards, shards) {
			continue
		}
		if err := d.c.saveMerged(ctx, s.name, seenName, s.etag, s.index, shards, nil); err != nil {
			return err
		}
	}
	return nil
}
