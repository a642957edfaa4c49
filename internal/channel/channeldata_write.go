package channel

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"slices"
)

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
