package channel

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"os"
	"strconv"

	"github.com/hallmark-attest/hallmark/internal/conda/match"
)

// current makes current_repodata.json (CEP 36) and its .zst out of the new repodata.json: the newest version of each name,
// and what these depend on, by match.Newest. Records and all that is no record stand there as in repodata.json, byte for
// byte and in its order. What has no name, or a version that is none, is left out. It gives nil where there is to be none.
//
// Dependencies are followed until nothing is missing, where conda-index stops after once: what a solver does not find here
// has it read all of repodata.json, so that a few more records are cheaper than one too few.
//
// A client that does not know of "v3" (CEP 48) is not to lose a name because its newest version is in there. So the
// selection is made without v3, and where there is any, also with it; both are in the document.
//
// Memory grows with the names and with the selected records. The rest is read from the disk, what matters of a record
// some three times.
func (m *monolith) current(doc *draft) (current, zst *draft, err error) {
	if m.lines == nil {
		return nil, nil, nil
	}
	defer func() {
		if err != nil {
			current.remove()
			zst.remove()
			current, zst, err = nil, nil, fmt.Errorf("making %s: %w", m.key(currentName), err)
		}
	}()
	keys, err := m.lines.newest()
	if err != nil {
		return nil, nil, err
	}
	if current, err = newDraft(m.dir); err != nil {
		return nil, nil, err
	}
	if zst, err = newDraft(m.dir); err != nil {
		return current, nil, err
	}
	e, err := newZst(zst)
	if err != nil {
		return current, zst, err
	}
	defer e.Close()
	g := &merging{delta: newDelta(m.dir)} // nothing changes
	if err := g.merge(m.lines.pieces(doc.file, keys), io.MultiWriter(current, e)); err != nil {
		return current, zst, err
	}
	return current, zst, e.Close()
}

// outline is a document's records on the disk, with no more of each than match.Newest needs, and where their bytes are. It
// is written while the document is, so that the document is not read for it. Memory grows with the names.
type outline struct {
	file  *os.File
	out   *bufio.Writer
	size  int64 // of the file, in the end
	parts []part
	names map[string][]stretch
	last  *stretch // the one that the last record is in
	name  string   // that record's
	buf   []byte
	err   error
}

// part is a member of the document: a section's records, or the value of another key.
type part struct {
	section section // "" if it is none
	key     string  // of one that is none
	stretch         // of the outline for a section, of the document for others
}

// stretch is a range of bytes.
type stretch struct{ from, to int64 }

func newOutline(dir string) (*outline, error) {
	f, err := os.CreateTemp(dir, "outline-")
	if err != nil {
		return nil, err
	}
	return &outline{file: f, out: bufio.NewWriterSize(f, 256<<10), names: map[string][]stretch{}}, nil
}

func (o *outline) close() {
	if o != nil {
		_ = o.file.Close()
		_ = os.Remove(o.file.Name())
	}
}

// wrote takes what the document has at an offset. An error comes out in the end.
func (o *outline) wrote(p piece, at int64) {
	if o.err != nil {
		return
	}
	if p.kind != record {
		o.parts = append(o.parts, part{key: p.key, stretch: stretch{at, at + int64(len(p.raw))}})
		return
	}
	if n := len(o.parts); n == 0 || o.parts[n-1].section != p.section {
		o.parts = append(o.parts, part{section: p.section, stretch: stretch{o.size, o.size}})
		o.last = nil
	}
	file := placed{p.section, p.key}.filename()
	l, err := newLine(file, p.raw)
	if err != nil {
		o.err = fmt.Errorf("the record of %.80q: %w", p.key, err)
		return
	}
	if l.Name == "" { // nobody can ask for it
		return
	}
	l.stretch = stretch{at, at + int64(len(p.raw))}
	o.buf = l.append(o.buf[:0])
	var n [binary.MaxVarintLen64]byte
	size := binary.PutUvarint(n[:], uint64(len(o.buf)))
	_, _ = o.out.Write(n[:size])
	if _, err := o.out.Write(o.buf); err != nil {
		o.err = err
		return
	}
	here := stretch{o.size, o.size + int64(size+len(o.buf))}
	o.size = here.to
	o.parts[len(o.parts)-1].to = here.to
	if o.last != nil && o.name == l.Name {
		o.last.to = here.to
		return
	}
	// Keys are sorted and begin with the name, so that a name has few stretches.
	list := append(o.names[l.Name], here)
	o.names[l.Name], o.name, o.last = list, l.Name, &list[len(list)-1]
}

// newest selects the files of whose records current_repodata.json consists.
func (o *outline) newest() (map[string]struct{}, error) {
	if o.err == nil {
		o.err = o.out.Flush()
	}
	if o.err != nil {
		return nil, o.err
	}
	anyV3 := false
	old := func(in section) bool {
		_, ok := in.v3()
		anyV3 = anyV3 || ok
		return !ok
	}
	selection, err := o.selection(old)
	if err != nil || !anyV3 {
		return selection, err
	}
	all, err := o.selection(func(section) bool { return true })
	for key := range all {
		selection[key] = struct{}{}
	}
	return selection, err
}

func (o *outline) selection(from func(section) bool) (map[string]struct{}, error) {
	var parts []part
	for _, p := range o.parts {
		if p.section != "" && from(p.section) {
			parts = append(parts, p)
		}
	}
	s, err := match.Newest(match.Source{
		Records: func() iter.Seq2[match.Record, error] {
			return func(yield func(match.Record, error) bool) {
				for _, p := range parts {
					if !o.records(p.stretch, yield) {
						return
					}
				}
			}
		},
		Named: func(names []string) iter.Seq2[match.Record, error] {
			return func(yield func(match.Record, error) bool) {
				for _, name := range names {
					for _, s := range o.names[name] {
						for _, p := range parts {
							if p.from <= s.from && s.to <= p.to && !o.records(s, yield) {
								return
							}
						}
					}
				}
			}
		},
	})
	return s.Keys, err
}

func (o *outline) records(s stretch, yield func(match.Record, error) bool) bool {
	for l, err := range o.lines(s) {
		if err != nil {
			yield(match.Record{}, err)
			return false
		}
		if !yield(l.Record, nil) {
			return false
		}
	}
	return true
}

// lines yields what is in a stretch of the outline. The line is the iteration's own.
func (o *outline) lines(s stretch) iter.Seq2[*line, error] {
	return func(yield func(*line, error) bool) {
		r := bufio.NewReaderSize(io.NewSectionReader(o.file, s.from, s.to-s.from), int(min(s.to-s.from, 256<<10)))
		var l line
		var buf []byte
		for {
			n, err := binary.ReadUvarint(r)
			if err == io.EOF {
				return
			}
			if err == nil && n > maxValue {
				err = errOwnFile
			}
			if err == nil {
				if uint64(cap(buf)) < n {
					buf = make([]byte, n)
				}
				buf = buf[:n]
				_, err = io.ReadFull(r, buf)
			}
			if err == nil {
				err = l.read(string(buf))
			}
			if err != nil {
				yield(nil, fmt.Errorf("reading what was selected from: %w", err))
				return
			}
			if !yield(&l, nil) {
				return
			}
		}
	}
}

// pieces yields the document with no other records than those of these files.
func (o *outline) pieces(doc io.ReaderAt, keys map[string]struct{}) iter.Seq2[piece, error] {
	return func(yield func(piece, error) bool) {
		inV3 := false
		give := func(p piece) bool { return yield(p, nil) }
		for _, p := range o.parts {
			_, v3 := p.section.v3()
			if v3 != inV3 {
				kind := openedV3
				if inV3 {
					kind = closedV3
				}
				if inV3 = v3; !give(piece{kind: kind}) {
					return
				}
			}
			if p.section == "" {
				raw, err := p.read(doc)
				if !yield(piece{kind: other, member: member{key: p.key, raw: raw}}, err) || err != nil {
					return
				}
				continue
			}
			if !give(piece{kind: opened, section: p.section}) {
				return
			}
			kind, _ := p.section.v3()
			for l, err := range o.lines(p.stretch) {
				if err != nil {
					yield(piece{}, err)
					return
				}
				if _, ok := keys[l.Key]; !ok {
					continue
				}
				key := l.Key
				if v3 {
					key = key[:len(key)-len(kind)-1]
				}
				raw, err := l.stretch.read(doc)
				if !yield(piece{kind: record, section: p.section, member: member{key: key, raw: raw}}, err) || err != nil {
					return
				}
			}
			if !give(piece{kind: closed, section: p.section}) {
				return
			}
		}
		if inV3 {
			give(piece{kind: closedV3})
		}
	}
}

func (s stretch) read(r io.ReaderAt) ([]byte, error) {
	b := make([]byte, s.to-s.from)
	if n, err := r.ReadAt(b, s.from); n < len(b) {
		return nil, err
	}
	return b, nil
}

// line is what the outline has of a record: Key is its file's name.
type line struct {
	match.Record
	stretch // of the document: the record's bytes
}

// newLine reads out of a record, which MUST be valid JSON, what matters. What is of another type than it has to be is not
// there.
func newLine(file string, raw []byte) (line, error) {
	l := line{Record: match.Record{Key: file}}
	err := eachMember(raw, func(key, value []byte) {
		switch string(key) {
		case "name":
			l.Name = unquote(value)
		case "version":
			l.Version = unquote(value)
		case "build":
			l.Build = unquote(value)
		case "build_number":
			l.BuildNumber = integer(value)
		case "timestamp":
			l.Timestamp = integer(value)
		case "track_features", "features":
			l.Features = l.Features || notEmpty(value)
		case "depends":
			l.Depends = stringsOf(value)
		}
	})
	if l.Name == "" && err == nil {
		l.Name, _ = packageName(file)
	}
	return l, err
}

func (l *line) append(b []byte) []byte {
	features := uint64(0)
	if l.Features {
		features = 1
	}
	for _, n := range []uint64{uint64(l.from), uint64(l.to), features, uint64(l.BuildNumber), uint64(l.Timestamp)} {
		b = binary.AppendUvarint(b, n)
	}
	for _, s := range []string{l.Key, l.Name, l.Version, l.Build} {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	for _, s := range l.Depends {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	return b
}

var errOwnFile = errors.New("a file of its own was changed")

// read is the reverse of append. The strings are parts of s.
func (l *line) read(s string) error {
	ok := true
	number := func() (n uint64) {
		for shift := 0; shift < 64; shift += 7 {
			if len(s) == 0 {
				break
			}
			c := s[0]
			s = s[1:]
			n |= uint64(c&0x7f) << shift
			if c < 0x80 {
				return n
			}
		}
		ok = false
		return 0
	}
	text := func() (t string) {
		n := number()
		if n > uint64(len(s)) {
			ok = false
			return ""
		}
		t, s = s[:n], s[n:]
		return t
	}
	l.from, l.to = int64(number()), int64(number())
	l.Features = number() == 1
	l.BuildNumber, l.Timestamp = int64(number()), int64(number())
	l.Key, l.Name, l.Version, l.Build = text(), text(), text(), text()
	l.Depends = l.Depends[:0]
	for ok && len(s) > 0 {
		l.Depends = append(l.Depends, text())
	}
	if !ok {
		return errOwnFile
	}
	return nil
}

// eachMember is splitObject without a list: key is what is between the quotes.
func eachMember(b []byte, f func(key, value []byte)) error {
	i := skipSpace(b, 0)
	if i == len(b) || b[i] != '{' {
		return errNotObject
	}
	for i = skipSpace(b, i+1); b[i] != '}'; i = skipSpace(b, i) {
		if b[i] == ',' {
			i = skipSpace(b, i+1)
		}
		end := valueEnd(b, i)
		key := b[i+1 : end-1]
		if bytes.IndexByte(key, '\\') >= 0 {
			key = []byte(unquote(b[i:end]))
		}
		i = skipSpace(b, skipSpace(b, end)+1) // the colon
		end = valueEnd(b, i)
		f(key, b[i:end])
		i = end
	}
	return nil
}

// unquote gives a string's text, "" for what is none.
func unquote(raw []byte) string {
	if raw[0] != '"' {
		return ""
	}
	if text := raw[1 : len(raw)-1]; bytes.IndexByte(text, '\\') < 0 {
		return string(text)
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// stringsOf gives the strings of a list, and leaves out what is none.
func stringsOf(raw []byte) (out []string) {
	if raw[0] != '[' {
		return nil
	}
	for i := skipSpace(raw, 1); raw[i] != ']'; i = skipSpace(raw, i) {
		if raw[i] == ',' {
			i = skipSpace(raw, i+1)
		}
		end := valueEnd(raw, i)
		if raw[i] == '"' {
			out = append(out, unquote(raw[i:end]))
		}
		i = end
	}
	return out
}

// notEmpty tells whether a string or a list has anything in it.
func notEmpty(raw []byte) bool {
	switch raw[0] {
	case '"':
		return len(bytes.TrimSpace(raw[1:len(raw)-1])) > 0
	case '[':
		return raw[skipSpace(raw, 1)] != ']'
	}
	return false
}

// integer gives a number without its fraction, 0 for what is none.
func integer(raw []byte) int64 {
	if n, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
		return n
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || math.Abs(f) > 1<<53 {
		return 0
	}
	return int64(f)
}
