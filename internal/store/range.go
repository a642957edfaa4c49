package store

import (
	"errors"
	"fmt"
	"io"
	"math"
)

// checkRange refuses what no store could answer.
func checkRange(offset, length int64) error {
	if offset >= 0 && length <= 0 {
		return fmt.Errorf("a range of %d bytes", length)
	}
	return nil
}

// rangeText names a range in messages.
func rangeText(offset, length int64) string {
	if offset < 0 {
		return fmt.Sprintf("the last %d bytes", suffixLength(offset))
	}
	return fmt.Sprintf("%d bytes from %d", length, offset)
}

// suffixLength is -offset, also where that is no int64.
func suffixLength(offset int64) int64 { return -max(offset, -math.MaxInt64) }

// resolveRange says which bytes [from, to) of an object of size bytes a range means, or ErrRange. It expects what checkRange has let pass.
func resolveRange(offset, length, size int64) (from, to int64, err error) {
	if offset < 0 {
		offset, length = max(0, size-suffixLength(offset)), size
	}
	if offset >= size {
		return 0, 0, fmt.Errorf("%w: the object has %d bytes", ErrRange, size)
	}
	return offset, offset + min(length, size-offset), nil
}

// rangeBody gives exactly the bytes of a range. An end before theirs is an error: over a network the answer was cut off, in a directory
// somebody has shortened the file in place.
type rangeBody struct {
	io.ReadCloser
	left int64
	what string
}

func (b *rangeBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	switch {
	case b.left == 0 && (err == nil || errors.Is(err, io.EOF)):
		return n, io.EOF
	case errors.Is(err, io.EOF):
		return n, &outage{err: fmt.Errorf("%s: %d bytes are missing: %w", b.what, b.left, io.ErrUnexpectedEOF)}
	}
	return n, err
}
