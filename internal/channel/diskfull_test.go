package channel

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/hallmark-attest/hallmark/internal/smalldisk"
)

// TestSpillOnAFullDisk: records that are sorted on a full disk are an error of the disk's, never of the records', and leave
// nothing behind; with room they are sorted.
func TestSpillOnAFullDisk(t *testing.T) {
	t.Parallel()
	dir := smalldisk.Mount(t, 2<<20)
	fill := func() (*spill, error) {
		s := newSpill(dir, 64<<10)
		for i := range 2000 {
			if err := s.add(fmt.Sprintf("%04d", i*7%2000), make([]byte, 500)); err != nil {
				return s, err
			}
		}
		return s, nil
	}
	free := smalldisk.Fill(t, dir, 200<<10)
	s, err := fill()
	if !errors.Is(err, syscall.ENOSPC) || !errors.As(err, new(*diskError)) {
		t.Errorf("error %v, want the disk's", err)
	}
	if _, ok := asMalformed(err); ok {
		t.Errorf("error %v is taken for one of the channel's", err)
	}
	s.close()
	free()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	s, err = fill()
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	n := 0
	for e, err := range s.all() {
		if err != nil || e.key != fmt.Sprintf("%04d", n) {
			t.Fatalf("entry %d is %q (%v)", n, e.key, err)
		}
		n++
	}
	if n != 2000 {
		t.Errorf("%d entries", n)
	}
}
