package channel

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
)

// delta is what is to change in a document: for each section, what is to become of a key.
type delta struct {
	dir      string
	sections map[section]*spill
	adds     map[section]bool // those that something is put into
	removed  []string         // files to be listed as removed
}

// Each entry of a delta is one byte that says what to do, and the record as JSON.
const (
	toInsert  = 'i' // take it, if there is none; else bring its sidecar up to date
	toReplace = 'r' // take it
	toRemove  = 'x' // there is to be none
)

// room is how many bytes of a section's changes are sorted in memory.
const room = 16 << 20

func newDelta(dir string) *delta {
	return &delta{dir: dir, sections: map[section]*spill{}, adds: map[section]bool{}}
}

func (d *delta) add(p placed, what byte, record []byte) error {
	s := d.sections[p.section]
	if s == nil {
		s = newSpill(d.dir, room)
		d.sections[p.section] = s
	}
	if what != toRemove {
		d.adds[p.section] = true
	}
	return s.add(p.key, append([]byte{what}, record...))
}

func (d *delta) close() {
	for _, s := range d.sections {
		s.close()
	}
}

// errUnsorted says that a section's keys do not come in order.
var errUnsorted = errors.New("its records are not sorted")

// merging is a document on its way from what it was to what it is to be.
type merging struct {
	delta *delta
	// sections are those that the document has in any case. Default: those of repodata.json.
	sections []section
	// amend changes a member that is no section; nil leaves them.
	amend func(key string, raw []byte) ([]byte, error)
	// missing are members that are put at the end of a document that lacks them.
	missing []member
	// listRemoved says that the document has the list "removed".
	listRemoved bool
	// settle gives the record that is to stand there, given the one that does and a change to it; nil for none.
	settle func(in section, old member, what byte, record []byte) ([]byte, error)
	// fresh gives the record that is to stand where there is none, given the delta's; nil for that itself.
	fresh func(record []byte) ([]byte, error)
	// unchanged sees each record that stays because nothing is said about it; nil for nobody.
	unchanged func(in section, old member) error
	// listed sees the files that the document listed as removed; nil for nobody.
	listed func(files []string) error
	// wrote sees each record, and each member that is no section, as it is written. Its bytes begin where the output ends by
	// then: behind what out has got and the buffered bytes that it has not yet. nil for nobody.
	wrote func(p piece, buffered int)

	out    *bufio.Writer
	sep    byte
	seen   map[string]bool
	source *feed  // of the section that is open
	any    bool   // a record of it has been read
	last   string // its key
	first  bool   // no record of it has been written
}

// feed is a section's delta as it is used up.
type feed struct {
	next func() (spilled, error, bool)
	stop func()
	head spilled
	ok   bool
}

// merge writes the document that in is, with the delta in it, to out: one record a line, in the order in which they came
// and with those that are new at their places. It ends with errUnsorted if there are no such places.
func (m *merging) merge(in iter.Seq2[piece, error], out io.Writer) (err error) {
	m.out, m.sep, m.seen = bufio.NewWriterSize(out, 256<<10), '{', map[string]bool{}
	defer func() {
		if m.source != nil {
			m.source.stop()
			m.source = nil
		}
	}()
	for p, err := range in {
		if err == nil {
			err = m.step(p)
		}
		if err != nil {
			return err
		}
	}
	if err := m.finish(); err != nil {
		return err
	}
	m.out.WriteString("}\n")
	return m.out.Flush()
}

func (m *merging) step(p piece) error {
	switch p.kind {
	case other:
		m.seen[p.key] = true
		raw := p.raw
		var err error
		switch {
		case p.key == "removed" && m.listRemoved:
			raw, err = m.extend(raw)
		case m.amend != nil:
			raw, err = m.amend(p.key, raw)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", p.key, err)
		}
		m.top(p.key)
		m.value(piece{kind: other, member: member{key: p.key, raw: raw}})
		return nil
	case openedV3:
		m.seen[v3] = true
		m.top(v3)
		m.out.WriteByte('{')
		m.sep = 0
		return nil
	case closedV3:
		for _, in := range slices.Sorted(maps.Keys(m.delta.adds)) {
			if _, ok := in.v3(); ok && !m.seen[string(in)] {
				if err := m.whole(in); err != nil {
					return err
				}
			}
		}
		m.out.WriteByte('}')
		m.sep = ','
		return nil
	case opened:
		return m.open(p.section)
	case record:
		return m.record(p.section, p.member)
	case closed:
		return m.close(p.section)
	}
	panic("a piece of no kind")
}

// top begins a member.
func (m *merging) top(key string) {
	if m.sep != 0 {
		m.out.WriteByte(m.sep)
	}
	if m.sep == ',' {
		m.out.WriteByte('\n')
	}
	m.sep = ','
	m.out.Write(quote(key))
	m.out.WriteByte(':')
}

func (m *merging) open(in section) error {
	m.seen[string(in)] = true
	key := string(in)
	if kind, ok := in.v3(); ok {
		key = kind
	}
	m.top(key)
	m.out.WriteByte('{')
	m.first, m.any = true, false
	m.source = &feed{next: func() (spilled, error, bool) { return spilled{}, nil, false }, stop: func() {}}
	if s := m.delta.sections[in]; s != nil {
		m.source.next, m.source.stop = iter.Pull2(s.all())
	}
	return m.advance()
}

func (m *merging) advance() (err error) {
	before := m.source.head.key
	had := m.source.ok
	m.source.head, err, m.source.ok = m.source.next()
	if err == nil && had && m.source.ok && m.source.head.key == before {
		err = fmt.Errorf("two changes of %.80q", before)
	}
	return err
}

func (m *merging) record(in section, old member) error {
	if m.any && old.key == m.last {
		return fmt.Errorf("%s: the key %.80q is there twice", in, old.key)
	}
	if m.any && old.key < m.last {
		return errUnsorted
	}
	m.any, m.last = true, old.key
	if err := m.insert(in, func(key string) bool { return key < old.key }); err != nil {
		return err
	}
	if m.source.ok && m.source.head.key == old.key {
		v := m.source.head.value
		raw, err := m.settle(in, old, v[0], v[1:])
		if err != nil {
			return err
		}
		if raw != nil {
			m.line(in, old.key, raw)
		}
		return m.advance()
	}
	if m.unchanged != nil {
		if err := m.unchanged(in, old); err != nil {
			return err
		}
	}
	m.line(in, old.key, old.raw)
	return nil
}

// insert writes the new records that are next, as long as their keys are due.
func (m *merging) insert(in section, due func(key string) bool) error {
	for m.source.ok && due(m.source.head.key) {
		if v := m.source.head.value; v[0] != toRemove {
			raw := v[1:]
			if m.fresh != nil {
				var err error
				if raw, err = m.fresh(raw); err != nil {
					return err
				}
			}
			if raw != nil {
				m.line(in, m.source.head.key, raw)
			}
		}
		if err := m.advance(); err != nil {
			return err
		}
	}
	return nil
}

func (m *merging) line(in section, key string, raw []byte) {
	if !m.first {
		m.out.WriteByte(',')
	}
	m.first = false
	m.out.WriteByte('\n')
	m.out.Write(quote(key))
	m.out.WriteByte(':')
	m.value(piece{kind: record, section: in, member: member{key: key, raw: raw}})
}

func (m *merging) value(p piece) {
	if m.wrote != nil {
		m.wrote(p, m.out.Buffered())
	}
	m.out.Write(p.raw)
}

func (m *merging) close(in section) error {
	if err := m.insert(in, func(string) bool { return true }); err != nil {
		return err
	}
	m.source.stop()
	m.source = nil
	if !m.first {
		m.out.WriteByte('\n')
	}
	m.out.WriteByte('}')
	return nil
}

// whole writes a section that the document did not have.
func (m *merging) whole(in section) error {
	if err := m.open(in); err != nil {
		return err
	}
	return m.close(in)
}

// finish writes what the document did not have and is to have.
func (m *merging) finish() error {
	sections := m.sections
	if sections == nil {
		sections = []section{inPackages, inConda}
	}
	for _, in := range sections {
		if !m.seen[string(in)] {
			if err := m.whole(in); err != nil {
				return err
			}
		}
	}
	missing := m.missing
	if m.listRemoved && len(m.delta.removed) > 0 {
		missing = append(missing, jsonMember("removed", []byte("[]")))
	}
	for _, x := range missing {
		if !m.seen[x.key] {
			if err := m.step(piece{kind: other, member: x}); err != nil {
				return err
			}
		}
	}
	for in := range m.delta.adds {
		if _, ok := in.v3(); ok && !m.seen[v3] {
			if err := m.step(piece{kind: openedV3}); err != nil {
				return err
			}
			return m.step(piece{kind: closedV3})
		}
	}
	return nil
}

// extend puts the delta's removed files into the list.
func (m *merging) extend(raw []byte) ([]byte, error) {
	var files []string
	if err := json.Unmarshal(raw, &files); err != nil {
		return nil, errors.New("it is not a list of file names")
	}
	if m.listed != nil {
		if err := m.listed(files); err != nil {
			return nil, err
		}
	}
	have := make(map[string]bool, len(files))
	for _, f := range files {
		have[f] = true
	}
	n := len(files)
	for _, f := range m.delta.removed {
		if !have[f] {
			have[f] = true
			files = append(files, f)
		}
	}
	if len(files) == n {
		return raw, nil
	}
	slices.Sort(files)
	return encodeJSON(files)
}

// settleRecord is merging.settle for repodata.json. A record that stands there stays as it is, byte for byte, but for the
// sidecar that it advertises: somebody may have hotfixed it. It gives way to one of other bytes, since the shards say which
// bytes the package has.
func settleRecord(_ section, old member, what byte, record []byte) ([]byte, error) {
	switch what {
	case toRemove:
		return nil, nil
	case toReplace:
		return record, nil
	}
	have, err := splitObject(old.raw)
	if err != nil {
		return nil, fmt.Errorf("the record of %.80q: %w", old.key, err)
	}
	want, err := splitObject(record)
	if err != nil {
		return nil, fmt.Errorf("the shard's record of %.80q: %w", old.key, err)
	}
	if a, b := strings.ToLower(jsonString(have, "sha256")), jsonString(want, "sha256"); a != "" && b != "" && a != b {
		return record, nil
	}
	sidecar := jsonString(want, attestations)
	if sidecar == "" || sidecar == jsonString(have, attestations) {
		return old.raw, nil
	}
	return setJSON(old.raw, have, attestations, quote(sidecar)), nil
}

// settleRunExports is merging.settle for run_exports.json.
func settleRunExports(_ section, old member, what byte, record []byte) ([]byte, error) {
	switch what {
	case toRemove:
		return nil, nil
	case toReplace:
		return record, nil
	}
	return old.raw, nil
}
