package channel

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"io"
	"iter"
	"os"
	"slices"
	"strings"
)

// spill sorts more entries than memory is to hold: what goes beyond its room is sorted and written to a file, and the
// files are merged when they are read. It bounds bytes, not entries, since an entry is a record of whoever wrote it.
// One goroutine may use it at a time; close removes its files.
type spill struct {
	dir  string
	room int // bytes in memory
	used int
	mem  []spilled
	runs []*os.File
}

// spilled is an entry: of those with the same key, the one that was added first comes first.
type spilled struct {
	key   string
	value []byte
}

// overhead is about what an entry costs in memory besides its bytes.
const overhead = 64

// maxSpilled is the greatest key or value; what is larger is nothing that a channel has.
const maxSpilled = 256 << 20

func newSpill(dir string, room int) *spill { return &spill{dir: dir, room: room} }

// add puts an entry in. The spill keeps value.
func (s *spill) add(key string, value []byte) error {
	s.mem = append(s.mem, spilled{key, value})
	if s.used += len(key) + len(value) + overhead; s.used < s.room {
		return nil
	}
	return s.flush()
}

func (s *spill) sort() {
	slices.SortStableFunc(s.mem, func(a, b spilled) int { return strings.Compare(a.key, b.key) })
}

func (s *spill) flush() error {
	s.sort()
	f, err := os.CreateTemp(s.dir, "run-")
	if err != nil {
		return onDisk("sorting records", err)
	}
	s.runs = append(s.runs, f)
	w := bufio.NewWriterSize(f, 256<<10)
	var n [binary.MaxVarintLen64]byte
	for _, e := range s.mem {
		for _, b := range [][]byte{[]byte(e.key), e.value} {
			_, _ = w.Write(n[:binary.PutUvarint(n[:], uint64(len(b)))]) // Flush tells
			_, _ = w.Write(b)
		}
	}
	if err := w.Flush(); err != nil {
		return onDisk("sorting records", err)
	}
	clear(s.mem)
	s.mem, s.used = s.mem[:0], 0
	return nil
}

// all yields the entries by key. It may be called again, and add may not be called after it.
func (s *spill) all() iter.Seq2[spilled, error] {
	return func(yield func(spilled, error) bool) {
		s.sort()
		mem := s.mem
		var heads []*run
		for i, f := range s.runs {
			if _, err := f.Seek(0, io.SeekStart); err != nil {
				yield(spilled{}, onDisk("sorting records", err))
				return
			}
			r := &run{number: i, r: bufio.NewReaderSize(f, 64<<10)}
			if ok, err := r.next(); err != nil {
				yield(spilled{}, err)
				return
			} else if ok {
				heads = append(heads, r)
			}
		}
		for len(heads) > 0 || len(mem) > 0 {
			// A few runs: looking at each is as good as a heap.
			var first *run
			if len(heads) > 0 {
				first = slices.MinFunc(heads, func(a, b *run) int {
					return cmp.Or(strings.Compare(a.head.key, b.head.key), a.number-b.number)
				})
			}
			if first == nil || len(mem) > 0 && mem[0].key < first.head.key { // what is in memory came last
				if !yield(mem[0], nil) {
					return
				}
				mem = mem[1:]
				continue
			}
			if !yield(first.head, nil) {
				return
			}
			ok, err := first.next()
			if err != nil {
				yield(spilled{}, err)
				return
			}
			if !ok {
				heads = slices.DeleteFunc(heads, func(r *run) bool { return r == first })
			}
		}
	}
}

// close removes what is on the disk.
func (s *spill) close() {
	for _, f := range s.runs {
		_ = f.Close()
		_ = os.Remove(f.Name())
	}
	s.runs, s.mem = nil, nil
}

type run struct {
	number int
	r      *bufio.Reader
	head   spilled
}

func (r *run) next() (ok bool, err error) {
	key, err := r.bytes()
	if err == io.EOF {
		return false, nil
	}
	if err == nil {
		r.head.key = string(key)
		r.head.value, err = r.bytes()
	}
	if err != nil {
		return false, onDisk("sorting records", err)
	}
	return true, nil
}

func (r *run) bytes() ([]byte, error) {
	n, err := binary.ReadUvarint(r.r)
	if err != nil {
		return nil, err
	}
	if n > maxSpilled {
		return nil, errors.New("a file of its own was changed")
	}
	b := make([]byte, n)
	_, err = io.ReadFull(r.r, b)
	return b, err
}
