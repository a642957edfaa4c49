package channel

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
)

// draft is a document that is being made.
type draft struct {
	file *os.File
	size int64
	sum  interface {
		io.Writer
		Sum(b []byte) []byte
	}
}

func newDraft(dir string) (*draft, error) {
	f, err := os.CreateTemp(dir, "document-")
	if err != nil {
		return nil, onDisk("putting a document together", err)
	}
	return &draft{file: f, sum: sha256.New()}, nil
}

func (d *draft) Write(p []byte) (int, error) {
	n, err := d.file.Write(p)
	d.size += int64(n)
	d.sum.Write(p[:n])
	if err != nil {
		err = onDisk("putting a document together", err)
	}
	return n, err
}

func (d *draft) sha256() string { return hex.EncodeToString(d.sum.Sum(nil)) }

func (d *draft) remove() {
	if d != nil {
		_ = d.file.Close()
		_ = os.Remove(d.file.Name())
	}
}

// newZst compresses a document as it is written. What comes out depends on what goes in alone.
func newZst(out io.Writer) (*zstd.Encoder, error) {
	return zstd.NewWriter(out, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(2), zstd.WithWindowSize(4<<20))
}
