package channel

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
)

// piece is one step through a document of repodata.json's shape (CEP 36, CEP 48, CEP 12).
type piece struct {
	kind    pieceKind
	section section // of opened, record and closed
	member          // of other and record: key and raw
}

type pieceKind int

const (
	other    pieceKind = iota // a top-level member that is no section
	opened                    // a section begins
	record                    // one record of the section that is open
	closed                    // the section ends
	openedV3                  // "v3" begins
	closedV3                  // it ends
)

// maxValue is the greatest record or other member that is read, in bytes.
const maxValue = 64 << 20

// walk yields a document's pieces as it is read, in its own order, with the bytes of records as they stand. Memory does not
// grow with the document, only with its greatest value. Empty bytes stand for an empty object (CEP 36); null stands for an
// empty section. An error, also one of r, is yielded last.
func walk(r io.Reader) iter.Seq2[piece, error] {
	return func(yield func(piece, error) bool) {
		w := &walker{yield: yield, in: &bounded{r: r}}
		w.d = json.NewDecoder(w.in)
		if err := w.document(); err != nil && !errors.Is(err, errStopped) {
			if w.in.err != nil {
				err = w.in.err // what the decoder made of it is no news
			}
			yield(piece{}, err)
		}
	}
}

var errStopped = errors.New("stopped")

type walker struct {
	d     *json.Decoder
	in    *bounded
	yield func(piece, error) bool
}

func (w *walker) give(p piece) error {
	if !w.yield(p, nil) {
		return errStopped
	}
	return nil
}

func (w *walker) document() error {
	w.in.allow(w.d)
	t, err := w.d.Token()
	if err == io.EOF {
		return nil
	}
	if err != nil {
		return syntax(err)
	}
	if t != json.Delim('{') {
		return errNotObject
	}
	seen := map[string]bool{}
	if err := w.members(func(key string) error {
		if seen[key] {
			return fmt.Errorf("the key %.80q is there twice", key)
		}
		seen[key] = true
		switch key {
		case string(inPackages), string(inConda):
			return w.records(section(key))
		case v3:
			return w.revisions()
		}
		raw, err := w.value()
		if err != nil {
			return err
		}
		return w.give(piece{kind: other, member: jsonMember(key, raw)})
	}); err != nil {
		return err
	}
	w.in.allow(w.d)
	if _, err := w.d.Token(); err != io.EOF {
		if err == nil {
			err = errors.New("there is something behind it")
		}
		return syntax(err)
	}
	return nil
}

// members calls f after each key of the object that has begun, and reads its end.
func (w *walker) members(f func(key string) error) error {
	for {
		w.in.allow(w.d)
		t, err := w.d.Token()
		if err != nil {
			return syntax(err)
		}
		if t == json.Delim('}') {
			return nil
		}
		key, _ := t.(string) // in an object there is nothing else
		if err := f(key); err != nil {
			return err
		}
	}
}

// revisions walks through "v3".
func (w *walker) revisions() error {
	if err := w.give(piece{kind: openedV3}); err != nil {
		return err
	}
	seen := map[string]bool{}
	if err := w.object(v3, func(kind string) error {
		if seen[kind] {
			return fmt.Errorf("v3: the key %.80q is there twice", kind)
		}
		seen[kind] = true
		return w.records(inV3(kind))
	}); err != nil {
		return err
	}
	return w.give(piece{kind: closedV3})
}

func (w *walker) records(in section) error {
	if err := w.give(piece{kind: opened, section: in}); err != nil {
		return err
	}
	if err := w.object(string(in), func(key string) error {
		raw, err := w.value()
		if err != nil {
			return err
		}
		if raw[0] != '{' {
			return fmt.Errorf("%s: the record of %.80q is not an object", in, key)
		}
		return w.give(piece{kind: record, section: in, member: jsonMember(key, raw)})
	}); err != nil {
		return err
	}
	return w.give(piece{kind: closed, section: in})
}

// object reads an object, or null for an empty one.
func (w *walker) object(name string, f func(key string) error) error {
	w.in.allow(w.d)
	t, err := w.d.Token()
	if err != nil {
		return syntax(err)
	}
	switch t {
	case nil:
		return nil
	case json.Delim('{'):
		return w.members(f)
	}
	return fmt.Errorf("%s: %w", name, errNotObject)
}

func (w *walker) value() (json.RawMessage, error) {
	w.in.allow(w.d)
	var raw json.RawMessage
	if err := w.d.Decode(&raw); err != nil {
		return nil, syntax(err)
	}
	return bytes.TrimSpace(raw), nil
}

func syntax(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errors.New("it is not JSON: it ends too early")
	}
	return fmt.Errorf("it is not JSON: %w", err)
}

// bounded keeps the decoder, which reads a value whole, from reading more than maxValue for one.
type bounded struct {
	r     io.Reader
	read  int64
	limit int64
	err   error
}

func (b *bounded) allow(d *json.Decoder) { b.limit = d.InputOffset() + maxValue }

func (b *bounded) Read(p []byte) (int, error) {
	if b.read >= b.limit {
		b.err = fmt.Errorf("one of its values has more than %d bytes", maxValue)
		return 0, b.err
	}
	n, err := b.r.Read(p)
	b.read += int64(n)
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

// sorted gives a document's pieces with each section's records in order.
func sorted(dir string, in iter.Seq2[piece, error]) iter.Seq2[piece, error] {
	return func(yield func(piece, error) bool) {
		var records *spill
		defer func() {
			if records != nil {
				records.close()
			}
		}()
		for p, err := range in {
			if err == nil && p.kind == record {
				if err = records.add(p.key, p.raw); err == nil {
					continue
				}
			}
			if err != nil {
				yield(p, err)
				return
			}
			switch p.kind {
			case opened:
				records = newSpill(dir, room)
			case closed:
				for e, err := range records.all() {
					if !yield(piece{kind: record, section: p.section, member: jsonMember(e.key, e.value)}, err) || err != nil {
						return
					}
				}
				records.close()
				records = nil
			}
			if !yield(p, nil) {
				return
			}
		}
	}
}

// reading marks the errors of a store's reader, which are not the document's.
type reading struct {
	r   io.Reader
	key string
}

type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }
func (e *readError) Unwrap() error { return e.err }

func (r *reading) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && err != io.EOF {
		err = &readError{fmt.Errorf("reading %s: %w", r.key, err)}
	}
	return n, err
}

func isReading(err error) bool { _, ok := errors.AsType[*readError](err); return ok }
