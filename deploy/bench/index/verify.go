package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/hallmark-attest/hallmark/internal/channel"
)

// verify reads shards as a client does (CEP 16), with no code of the channel's, and asks that every entry is in the shard of its
// name with its digest, and that the index has at least so many names.
func (d Directory) verify(entries []channel.Entry, names int) error {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	defer z.Close()
	read := func(file string, into any) error {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if b, err = z.DecodeAll(b, nil); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		return msgpack.Unmarshal(b, into)
	}
	var index struct {
		Info struct {
			Base string `msgpack:"shards_base_url"`
		} `msgpack:"info"`
		Shards map[string][]byte `msgpack:"shards"`
	}
	if err := read(d.sub("repodata_shards.msgpack.zst"), &index); err != nil {
		return err
	}
	if len(index.Shards) < names {
		return fmt.Errorf("the shard index has %d names, want %d", len(index.Shards), names)
	}
	type shard struct {
		Conda map[string]struct {
			SHA256 []byte `msgpack:"sha256"`
		} `msgpack:"packages.conda"`
	}
	shards := map[string]shard{}
	for _, e := range entries {
		name := e.Filename
		for range 2 {
			name = name[:strings.LastIndexByte(name, '-')]
		}
		s, ok := shards[name]
		if !ok {
			file := d.sub(filepath.FromSlash(index.Info.Base), fmt.Sprintf("%x.msgpack.zst", index.Shards[name]))
			if err := read(file, &s); err != nil {
				return fmt.Errorf("the shard of %s: %w", name, err)
			}
			shards[name] = s
		}
		have, ok := s.Conda[e.Filename]
		if sha := fmt.Sprintf(`"sha256":"%x"`, have.SHA256); !ok || !strings.Contains(string(e.Record), sha) {
			return fmt.Errorf("%s is not in the shard of %s, or not with its digest", e.Filename, name)
		}
	}
	return nil
}
