package channel

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
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
	defer d.old.Close()
	if err := d.look(ctx, subdirs); err != nil {
		return false, false, err
	}
	if d.etag == "" && len(d.subdirs) == 0 {
		return true, false, nil
	}
	patches := newSpill(d.dir, room)
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

	etag    string // of the document; "" if there is none
	old     *os.File
	sort    bool     // its entries are in no order
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
	if d.old, err = os.CreateTemp(d.dir, "channeldata-"); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = d.old.Close()
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
	w := bufio.NewWriterSize(d.old, 256<<10)
	for p, err := range walk(io.TeeReader(&reading{r: r, key: channelDataKey}, w)) {
		if err == nil {
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
		if isReading(err) || err != nil && ctx.Err() != nil {
			return err
		}
		if err != nil {
			return &Malformed{Key: channelDataKey, Err: err}
		}
	}
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
func (d *channelData) collect(ctx context.Context, patches *spill) error {
	changed := map[string]bool{}
	for _, s := range d.subdirs {
		was := map[string]hash{}
		if s.seen != nil {
			was = s.seen.shards
		}
		for name, h := range s.index.shards {
			if old, ok := was[name]; !ok || old != h {
				changed[name] = true
			}
		}
		for name := range was {
			if _, ok := s.index.shards[name]; !ok {
				changed[name] = true
			}
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
				if err := patches.add(chunk[i], b); err != nil {
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

// merge writes the document with the patches in it, one entry a line. changed is false if it is what it was.
func (d *channelData) merge(patches *spill, out io.Writer) (changed bool, err error) {
	if _, err := d.old.Seek(0, io.SeekStart); err != nil {
		return false, err
	}
	pieces := walk(d.old)
	if d.sort {
		pieces = sorted(d.dir, pieces)
	}
	next, stop := iter.Pull2(patches.all())
	defer stop()
	w := &entryWriter{out: bufio.NewWriterSize(out, 256<<10), rest: &feed{next: next}, indexed: d.indexed()}
	if err := w.advance(); err != nil {
		return false, err
	}
	subdirs := d.allSubdirs()
	seen := map[string]bool{}
	for p, err := range pieces {
		if err != nil {
			return false, &Malformed{Key: channelDataKey, Err: err}
		}
		switch p.kind {
		case other:
			seen[p.key] = true
			raw := p.raw
			if p.key == "subdirs" && !slices.Equal(d.listed, subdirs) {
				raw, _ = encodeJSON(subdirs) // strings always encode
				w.changed = true
			}
			w.member(p.key, raw)
		case opened:
			seen[string(inPackages)] = true
			w.open()
		case record:
			err = w.entry(p.member)
		case closed:
			err = w.close()
		}
		if err != nil {
			return false, err
		}
	}
	if !seen["channeldata_version"] {
		w.changed = true
		w.member("channeldata_version", []byte("1"))
	}
	if !seen[string(inPackages)] {
		w.changed = true
		w.open()
		if err := w.close(); err != nil {
			return false, err
		}
	}
	if !seen["subdirs"] {
		w.changed = true
		raw, _ := encodeJSON(subdirs)
		w.member("subdirs", raw)
	}
	w.out.WriteString("}\n")
	return w.changed, w.out.Flush()
}

// indexed are the subdirs whose shards say all that there is to say of them.
func (d *channelData) indexed() map[string]bool {
	m := map[string]bool{}
	for _, s := range d.subdirs {
		m[s.name] = true
	}
	return m
}

// allSubdirs is what the document lists, and those with shards, in order.
func (d *channelData) allSubdirs() []string {
	missing := false
	all := slices.Clone(d.listed)
	for _, s := range d.subdirs {
		if !slices.Contains(all, s.name) {
			missing = true
			all = append(all, s.name)
		}
	}
	if missing {
		slices.Sort(all)
	}
	if all == nil {
		all = []string{}
	}
	return all
}

// entryWriter writes a channeldata.json.
type entryWriter struct {
	out     *bufio.Writer
	rest    *feed // of patches
	indexed map[string]bool
	changed bool
	members int
	first   bool // no entry has been written
	last    string
	any     bool
}

func (w *entryWriter) advance() (err error) {
	w.rest.head, err, w.rest.ok = w.rest.next()
	return err
}

func (w *entryWriter) name(key string) {
	sep := "{"
	if w.members > 0 {
		sep = ",\n"
	}
	w.members++
	w.out.WriteString(sep)
	w.out.Write(quote(key))
	w.out.WriteByte(':')
}

func (w *entryWriter) member(key string, raw []byte) {
	w.name(key)
	w.out.Write(raw)
}

func (w *entryWriter) open() {
	w.name(string(inPackages))
	w.out.WriteByte('{')
	w.first = true
}

// entry writes an entry of the document, and the new ones that come before it.
func (w *entryWriter) entry(old member) error {
	if w.any && w.last == old.key {
		return &Malformed{Key: channelDataKey, Err: fmt.Errorf("the name %.80q is there twice", old.key)}
	}
	w.any, w.last = true, old.key
	for w.rest.ok && w.rest.head.key < old.key {
		if err := w.patched(nil); err != nil {
			return err
		}
	}
	if w.rest.ok && w.rest.head.key == old.key {
		return w.patched(old.raw)
	}
	w.line(old.key, old.raw)
	return nil
}

// patched writes what the next patch makes of an entry; nil for none.
func (w *entryWriter) patched(old []byte) error {
	name := w.rest.head.key
	var p patch
	if err := json.Unmarshal(w.rest.head.value, &p); err != nil {
		return errOwnFile
	}
	raw, changed, err := p.apply(old, w.indexed)
	if err != nil {
		return &Malformed{Key: channelDataKey, Err: fmt.Errorf("the entry of %.80q: %w", name, err)}
	}
	w.changed = w.changed || changed
	if raw != nil {
		w.line(name, raw)
	}
	return w.advance()
}

func (w *entryWriter) line(name string, raw []byte) {
	if !w.first {
		w.out.WriteByte(',')
	}
	w.first = false
	w.out.WriteByte('\n')
	w.out.Write(quote(name))
	w.out.WriteByte(':')
	w.out.Write(raw)
}

func (w *entryWriter) close() error {
	for w.rest.ok {
		if err := w.patched(nil); err != nil {
			return err
		}
	}
	if !w.first {
		w.out.WriteByte('\n')
	}
	w.out.WriteByte('}')
	return nil
}
