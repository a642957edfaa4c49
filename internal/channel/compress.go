package channel

import (
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// codec compresses and decompresses. EncodeAll uses one thread and depends on nothing but its input and the level, so that
// the same bytes give the same bytes.
type codec struct {
	shards  *zstd.Encoder
	decoder *zstd.Decoder
}

// Each encoder keeps a history of twice the window. Shards are a few kilobytes, the index hardly compresses at all: a larger
// window would gain nothing.
const (
	encoders    = 2
	shardWindow = 1 << 20
)

func newCodec() *codec {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(encoders),
		zstd.WithWindowSize(shardWindow), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(err) // the options are constants
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(4), zstd.WithDecoderMaxMemory(max(maxShard, maxShardIndex)))
	if err != nil {
		panic(err)
	}
	return &codec{
		shards:  e,
		decoder: d,
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
