package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// How a ReaderAt reads ahead, in bytes.
const (
	minAhead = 64 << 10
	maxAhead = 4 << 20
	// joinGap is the gap before what was fetched first that is fetched to its end: one request costs more than these bytes.
	joinGap = 512 << 10
)

// ReaderAt reads one state of one object at any place, by few requests. What was fetched first is kept, as is what was fetched last, up to 4
// MiB each. A read elsewhere fetches 64 KiB at least, and one that goes on where the last ended twice as much as that.
// A ReaderAt is safe for concurrent use; its reads wait for each other.
type ReaderAt struct {
	ctx   context.Context
	store Store
	key   string
	info  Info

	mu          sync.Mutex
	first, last chunk
}

// chunk is bytes of the object.
type chunk struct {
	at int64
	b  []byte
}

func (c *chunk) end() int64 { return c.at + int64(len(c.b)) }

// from returns the bytes from off on, or nil.
func (c *chunk) from(off int64) []byte {
	if off < c.at || off >= c.end() {
		return nil
	}
	return c.b[off-c.at:]
}

// OpenReaderAt opens an object for reading at any place. The first bytes are fetched at once, and they tell the size: the last -first bytes if
// first is negative, as is good for a ZIP, whose directory is at the end, else the first bytes, as for a stream; 4 MiB at most.
// All later reads are of the same state: they are ErrPrecondition once the object has been overwritten, ErrNotFound once it is gone. ctx
// ends them all. Nothing has to be closed.
func OpenReaderAt(ctx context.Context, s Store, key string, first int64) (*ReaderAt, error) {
	r := &ReaderAt{ctx: ctx, store: s, key: key}
	offset, length := int64(0), min(max(first, minAhead), maxAhead)
	if first < 0 {
		offset = max(first, -maxAhead)
	}
	body, info, err := s.GetRange(ctx, key, offset, length, "")
	if errors.Is(err, ErrRange) {
		// An empty object is one of which no store gives a range.
		if info, err = s.Head(ctx, key); err == nil && info.Size > 0 {
			err = fmt.Errorf("opening %s in %s: %w: the object has changed", key, s, ErrPrecondition)
		}
		if err != nil {
			return nil, err
		}
		r.info = info
		return r, nil
	} else if err != nil {
		return nil, err
	}
	r.info = info
	r.first.at = max(0, offset)
	if first < 0 {
		r.first.at = max(0, info.Size+offset)
		length = info.Size - r.first.at
	}
	err = r.first.fill(body, min(length, info.Size-r.first.at))
	return r, err
}

// fill reads n bytes of a range into the chunk, and closes it.
func (c *chunk) fill(body io.ReadCloser, n int64) error {
	defer body.Close()
	if int64(cap(c.b)) < n {
		c.b = make([]byte, n)
	}
	c.b = c.b[:n]
	if _, err := io.ReadFull(body, c.b); err != nil {
		c.b = nil
		return err
	}
	return nil
}

// Size is the object's size in bytes.
func (r *ReaderAt) Size() int64 { return r.info.Size }

// Info says what is known of the state that is read.
func (r *ReaderAt) Info() Info { return r.info }

// ReadAt implements io.ReaderAt.
func (r *ReaderAt) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("reading %s in %s: negative offset %d", r.key, r.store, off)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for n < len(p) {
		at := off + int64(n)
		if at < off || at >= r.info.Size {
			return n, io.EOF
		}
		b := r.first.from(at)
		if b == nil {
			b = r.last.from(at)
		}
		if b == nil {
			if b, err = r.fetch(at, int64(len(p)-n)); err != nil {
				return n, err
			}
		}
		n += copy(p[n:], b)
	}
	return n, nil
}

// fetch gets bytes from at on, at least one and want if they are not too many.
func (r *ReaderAt) fetch(at, want int64) ([]byte, error) {
	ahead := int64(minAhead)
	for _, c := range []*chunk{&r.first, &r.last} {
		if len(c.b) > 0 && at == c.end() {
			ahead = min(2*int64(len(c.b)), maxAhead)
		}
	}
	length := min(max(want, ahead), maxAhead, r.info.Size-at)
	if gap := r.first.at - at; gap > 0 {
		if gap <= joinGap {
			length = gap
		}
		length = min(length, gap)
	}
	body, info, err := r.store.GetRange(r.ctx, r.key, at, length, r.info.ETag)
	if err != nil {
		return nil, err
	}
	if !info.Same(r.info) {
		body.Close()
		return nil, fmt.Errorf("reading %s in %s: %w: the object has changed", r.key, r.store, ErrPrecondition)
	}
	r.last.at = at
	if err := r.last.fill(body, length); err != nil {
		return nil, err
	}
	return r.last.b, nil
}
