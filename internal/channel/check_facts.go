package channel

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/hallmark-attest/hallmark/internal/store"
	"github.com/klauspost/compress/zstd"
)

// shards takes down what the shards say.
func (k *checking) shards(ctx context.Context, x *shardIndex) error {
	names := slices.Sorted(maps.Keys(x.shards))
	for chunk := range slices.Chunk(names, 256) {
		loaded, errs := make([]*shard, len(chunk)), make([]*Malformed, len(chunk))
		if err := k.c.each(ctx, len(chunk), func(ctx context.Context, i int) (err error) {
			loaded[i], err = k.c.loadShard(ctx, x, chunk[i])
			if m, ok := asMalformed(err); ok {
				errs[i] = m
				return nil
			}
			return err
		}); err != nil {
			return err
		}
		for i, s := range loaded {
			k.counts.Shards++
			err := error(errs[i])
			if errs[i] == nil {
				err = k.shard(s)
			}
			if errors.Is(err, errStopped) || isDisk(err) {
				return err
			}
			if err != nil {
				if k.unread == nil {
					k.unread = map[string]bool{}
				}
				k.unread[chunk[i]] = true
				if err := k.report(ShardUnreadable, "", x.key(x.shards[chunk[i]]), "the shard of %s: %v", chunk[i], err); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (k *checking) shard(s *shard) error {
	for p, raw := range s.files() {
		b, exports, err := unpackRecord(raw)
		if err != nil {
			return fmt.Errorf("the record of %.80q: %w", p.key, err)
		}
		k.counts.Records++
		if err := k.fact(p.filename(), factShard, b); err != nil {
			return err
		}
		if exports != nil {
			if err := k.fact(p.filename(), factExports, exports); err != nil {
				return err
			}
		}
	}
	removed, err := s.removed()
	if err != nil {
		return err
	}
	for _, f := range removed {
		if err := k.fact(f, factGone, nil); err != nil {
			return err
		}
	}
	return nil
}

// documents takes down what the documents say, and compares them with their .zst.
func (k *checking) documents(ctx context.Context) error {
	for _, doc := range []struct {
		name string
		kind byte
	}{{repodataName, factRepodata}, {currentName, factCurrent}, {runExportsName, factExported}} {
		key := k.subdir + "/" + doc.name
		r, _, err := k.c.store.Get(ctx, key)
		if errors.Is(err, store.ErrNotFound) {
			if doc.name == repodataName {
				if err := k.report(RepodataUnreadable, "", key, "it is not there"); err != nil {
					return err
				}
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", key, err)
		}
		err = k.document(ctx, r, key, doc.kind)
		_ = r.Close()
		if err != nil {
			return err
		}
	}
	if err := k.zst(ctx, repodataName, zstName, true); err != nil {
		return err
	}
	return k.zst(ctx, currentName, currentZstName, false)
}

func (k *checking) document(ctx context.Context, r io.Reader, key string, kind byte) error {
	for p, err := range walk(&reading{r: r, key: key}) {
		if err != nil {
			if isReading(err) || ctx.Err() != nil {
				return err
			}
			return k.report(RepodataUnreadable, "", key, "%v", err)
		}
		if p.kind == record {
			if err := k.fact(placed{p.section, p.key}.filename(), kind, p.raw); err != nil {
				return err
			}
		}
	}
	return nil
}

// zst compares a document with its .zst. Where that is not needed, it is not missed.
func (k *checking) zst(ctx context.Context, name, zstName string, needed bool) error {
	key := k.subdir + "/" + zstName
	z, _, err := k.c.store.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		if !needed {
			return nil
		}
		return k.report(ZstDiffers, "", key, "it is not there")
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", key, err)
	}
	defer z.Close()
	j, _, err := k.c.store.Get(ctx, k.subdir+"/"+name)
	if errors.Is(err, store.ErrNotFound) {
		return nil // reported, if it is needed
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", k.subdir+"/"+name, err)
	}
	defer j.Close()
	d, err := zstd.NewReader(&reading{r: z, key: key}, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	defer d.Close()
	same, err := equal(d, &reading{r: j, key: k.subdir + "/" + name})
	if isReading(err) {
		return err
	}
	if err != nil || !same {
		return k.report(ZstDiffers, "", key, "it does not hold what %s holds", name)
	}
	return nil
}

// equal tells whether two readers give the same bytes.
func equal(a, b io.Reader) (bool, error) {
	x, y := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, errA := io.ReadFull(a, x)
		m, errB := io.ReadFull(b, y)
		for _, err := range []error{errA, errB} {
			if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
				return false, err
			}
		}
		if n != m || !bytes.Equal(x[:n], y[:m]) {
			return false, nil
		}
		if errA != nil || errB != nil {
			return errA != nil && errB != nil, nil
		}
	}
}

// object is what is taken down of an object in the store.
type objectFact struct {
	Size   int64
	SHA256 string
}

// objects takes down what is in the store, and reports shards that nobody needs.
func (k *checking) objects(ctx context.Context, x *shardIndex) error {
	used := map[hash]bool{}
	if x != nil {
		for _, h := range x.shards {
			used[h] = true
		}
	}
	prefixes := []string{k.subdir + "/"}
	if x != nil && !strings.HasPrefix(x.folder+"/", prefixes[0]) {
		prefixes = append(prefixes, x.folder+"/")
	}
	for _, prefix := range prefixes {
		for info, err := range k.c.store.List(ctx, prefix) {
			if err != nil {
				return fmt.Errorf("listing %s: %w", prefix, err)
			}
			if x != nil {
				if h, ok := x.shardOf(info.Key); ok {
					if !used[h] && k.c.options.Now().Sub(info.Modified) > k.options.Grace {
						if err := k.report(ShardOrphan, "", info.Key, "no index names it: collect it"); err != nil {
							return err
						}
					}
					continue
				}
			}
			name, ok := strings.CutPrefix(info.Key, k.subdir+"/")
			if !ok || strings.Contains(name, "/") {
				continue
			}
			if err := k.object(name, info); err != nil {
				return err
			}
		}
	}
	return nil
}

func (k *checking) object(name string, info store.Info) error {
	kind := byte(factObject)
	file, sha, isSigs := strings.Cut(name, sigsSuffix)
	switch {
	case isSigs && sha == "":
		kind = factSigs
	case isSigs && strings.HasPrefix(sha, ".") && isDigest(sha[1:]):
		kind, info.SHA256 = factImmutable, sha[1:]
	default:
		file = name
	}
	if _, err := packageName(file); err != nil {
		return nil // nothing of a package's
	}
	switch kind {
	case factObject:
		k.counts.Packages++
	case factSigs:
		k.counts.Sidecars++
	}
	b, err := json.Marshal(objectFact{info.Size, info.SHA256})
	if err != nil {
		return err
	}
	return k.fact(file, kind, b)
}
