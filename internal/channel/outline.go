package channel

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"os"

	"github.com/hallmark-attest/hallmark/internal/conda/match"
)

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
