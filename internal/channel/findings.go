package channel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
)

// findings is what a repodata.json has that is to be in the shards: records and removed files, ordered by package name.
type findings struct {
	entries *spill // key: name, 0, file name; value: section, 0, record; without a section for a removed file
}

func newFindings(dir string) *findings { return &findings{newSpill(dir, room)} }

func (f *findings) close() {
	if f != nil {
		f.entries.close()
	}
}

// piece takes what there is to find in a piece of the document.
func (f *findings) piece(p piece) error {
	switch {
	case p.kind == record:
		return f.record(p.section, p.member)
	case p.kind == other && p.key == "removed":
		var files []string
		if err := json.Unmarshal(p.raw, &files); err != nil {
			return errors.New("removed: it is not a list of file names")
		}
		return f.listed(files)
	}
	return nil
}

func (f *findings) record(in section, m member) error {
	file := placed{in, m.key}.filename()
	fields, err := splitObject(m.raw)
	if err != nil {
		return err
	}
	name := jsonString(fields, "name")
	if name == "" {
		if name, err = packageName(file); err != nil {
			return fmt.Errorf("the record of %.80q has no name, and %w", m.key, err)
		}
	}
	if strings.ContainsRune(name, 0) || strings.ContainsRune(file, 0) {
		return fmt.Errorf("the record of %.80q: a name with a zero byte", m.key)
	}
	value := make([]byte, 0, len(in)+1+len(m.raw))
	value = append(append(append(value, in...), 0), m.raw...)
	return f.entries.add(name+"\x00"+file, value)
}

func (f *findings) listed(files []string) error {
	for _, file := range files {
		name, err := packageName(file)
		if err != nil {
			continue // nothing that could be published
		}
		if err := f.entries.add(name+"\x00"+file, []byte{0}); err != nil {
			return err
		}
	}
	return nil
}

// found is what there is of one name.
type found struct {
	records []located
	removed []string
	err     error
}

type located struct {
	placed
	raw []byte // JSON
}

// names yields what there is, name by name; the last one has err set if something failed.
func (f *findings) names() iter.Seq2[string, *found] {
	return func(yield func(string, *found) bool) {
		var current *found
		name := ""
		for e, err := range f.entries.all() {
			if err != nil {
				yield("", &found{err: err})
				return
			}
			n, file, _ := strings.Cut(e.key, "\x00")
			if current != nil && n != name {
				if !yield(name, current) {
					return
				}
				current = nil
			}
			if current == nil {
				name, current = n, &found{}
			}
			in, raw, _ := strings.Cut(string(e.value), "\x00")
			if in == "" {
				current.removed = append(current.removed, file)
				continue
			}
			key := file
			if kind, ok := section(in).v3(); ok {
				key = strings.TrimSuffix(file, "."+kind)
			}
			current.records = append(current.records, located{placed{section(in), key}, []byte(raw)})
		}
		if current != nil {
			yield(name, current)
		}
	}
}

// apply gives the shard with what was found in it; what it has already stays.
func (f *found) apply(s *shard) (next *shard, changed bool, err error) {
	records := map[section][]member{}
	for _, r := range f.records {
		if _, _, have := s.record(r.filename()); have {
			continue
		}
		if _, have := s.at(r.placed); have {
			continue
		}
		raw, err := packJSON(r.raw)
		if err != nil {
			return nil, false, fmt.Errorf("the record of %.80q: %w", r.key, err)
		}
		for _, m := range records[r.section] {
			if m.key == r.key {
				return nil, false, fmt.Errorf("%s: the key %.80q is there twice", r.section, r.key)
			}
		}
		records[r.section] = append(records[r.section], packMember(r.key, raw))
	}
	next = s
	if len(records) > 0 {
		next = s.with(records)
	}
	// A file that is listed as removed and has a record all the same is there for every client: it stays.
	removed := slices.DeleteFunc(slices.Clone(f.removed), func(file string) bool {
		return slices.ContainsFunc(f.records, func(r located) bool { return r.filename() == file })
	})
	if len(removed) > 0 {
		if next, err = next.without(removed); err != nil {
			return nil, false, err
		}
	}
	return next, next != s, nil
}

// adoptFound puts what was found into the shards. changed tells whether they lacked any of it.
func (m *monolith) adoptFound(ctx context.Context, f *findings) (changed bool, err error) {
	live, err := m.stillThere(ctx, f)
	if err != nil {
		return false, err
	}
	batch := map[string]*found{}
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		did, err := m.c.changeIndex(ctx, m.s, func(ctx context.Context, x *shardIndex) (map[string]*shard, func(), error) {
			todo := map[string]*shard{}
			for name, f := range batch {
				s, err := m.c.loadShard(ctx, x, name)
				if err != nil {
					return nil, nil, err
				}
				next, changed, err := f.apply(s)
				if err != nil {
					return nil, nil, &Malformed{Key: m.key(repodataName), Err: err}
				}
				if changed {
					todo[name] = next
				}
			}
			return todo, nil, nil
		})
		changed = changed || did
		clear(batch)
		return err
	}
	for name, f := range f.names() {
		if f.err != nil {
			return changed, f.err
		}
		if m.broken[name] {
			continue
		}
		f.removed = slices.DeleteFunc(f.removed, func(file string) bool { return live[file] })
		batch[name] = f
		if len(batch) == 500 {
			if err := flush(); err != nil {
				return changed, err
			}
		}
	}
	return changed, flush()
}

// stillThere gives those of the files that repodata.json lists as removed for which it has a record all the same. It reads
// the document again only if there are any that the shards have.
func (m *monolith) stillThere(ctx context.Context, f *findings) (map[string]bool, error) {
	asked := map[string]bool{}
	for name, f := range f.names() {
		if f.err != nil {
			return nil, f.err
		}
		if len(f.removed) == 0 || m.broken[name] {
			continue
		}
		s, err := m.c.loadShard(ctx, m.index, name)
		if err != nil {
			return nil, err
		}
		for _, file := range f.removed {
			if _, _, ok := s.record(file); ok {
				asked[file] = true
			}
		}
	}
	live := map[string]bool{}
	if len(asked) == 0 {
		return live, nil
	}
	r, info, err := m.c.store.Get(ctx, m.key(repodataName))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", m.key(repodataName), err)
	}
	defer r.Close()
	if info.ETag != m.docs[repodataName].ETag {
		return nil, errMoved
	}
	for p, err := range walk(&reading{r: r, key: m.key(repodataName)}) {
		if err != nil {
			return nil, err
		}
		if p.kind == record {
			if file := (placed{p.section, p.key}).filename(); asked[file] {
				live[file] = true
			}
		}
	}
	return live, nil
}
