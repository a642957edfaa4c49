package channel

import (
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// codec compresses and decompresses. EncodeAll uses one thread and depends on nothing but its input and the level, so that
// the same bytes give the same bytes.
type codec struct {
	shards   *zstd.Encoder
	repodata *zstd.Encoder
	decoder  *zstd.Decoder
}

func newCodec() *codec {
	encoder := func(level zstd.EncoderLevel, n int) *zstd.Encoder {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(n))
		if err != nil {
			panic(err) // the options are constants
		}
		return e
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(4), zstd.WithDecoderMaxMemory(max(maxShard, maxShardIndex)))
	if err != nil {
		panic(err)
	}
	return &codec{
		shards:   encoder(zstd.SpeedBetterCompression, 4),
		repodata: encoder(zstd.SpeedBetterCompression, 1),
		decoder:  d,
	}
}

// decompress gives at most max(maxShard, maxShardIndex) bytes.
func (c *codec) decompress(b []byte) ([]byte, error) {
	out, err := c.decoder.DecodeAll(b, nil)
	if err != nil {
		return nil, fmt.Errorf("decompressing: %w", err)
	}
	return out, nil
}

// decompressesTo tells whether compressed holds exactly want, without holding both in memory.
func decompressesTo(compressed, want []byte) bool {
	r, err := zstd.NewReader(bytes.NewReader(compressed), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return false
	}
	defer r.Close()
	buf := make([]byte, 128<<10)
	for {
		n, err := r.Read(buf)
		if n > len(want) || !bytes.Equal(buf[:n], want[:n]) {
			return false
		}
		want = want[n:]
		if err != nil {
			return err == io.EOF && len(want) == 0
		}
	}
}
