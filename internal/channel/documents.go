package channel

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// loadIndex gives the subdir's shard index; nil if there is none. One that was asked for less than age ago may be given
// again without asking.
func (c *Channel) loadIndex(ctx context.Context, s *subdir, age time.Duration) (*shardIndex, error) {
	key := s.name + "/" + shardIndexName
	s.mu.Lock()
	known, asked := s.index, s.asked
	s.mu.Unlock()
	if !asked.IsZero() && time.Since(asked) < age {
		return known, nil
	}
	now := time.Now()
	if known != nil {
		info, found, err := c.head(ctx, key)
		if err != nil {
			return nil, err
		}
		if found && info.ETag == known.etag {
			s.remember(known, now)
			return known, nil
		}
	}
	b, info, found, err := c.read(ctx, key, maxShardIndex)
	if err != nil {
		return nil, err
	}
	if !found {
		s.remember(nil, now)
		return nil, nil
	}
	if b, err = c.codec.decompress(b); err != nil {
		return nil, &Malformed{Key: key, Err: err}
	}
	x, err := parseShardIndex(s.name, b)
	if err != nil {
		return nil, &Malformed{Key: key, Err: err}
	}
	x.etag = info.ETag
	s.remember(x, now)
	return x, nil
}

// remember keeps an index that was current at that time, unless a later one is known.
func (s *subdir) remember(x *shardIndex, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !at.Before(s.asked) {
		s.index, s.asked = x, at
	}
}

// loadShard gives the shard of a name, an empty one if the index has none.
func (c *Channel) loadShard(ctx context.Context, x *shardIndex, name string) (*shard, error) {
	h, ok := x.shards[name]
	if !ok {
		return &shard{}, nil
	}
	if s := c.shards.get(h); s != nil {
		return s, nil
	}
	key := x.key(h)
	b, _, found, err := c.read(ctx, key, maxShard)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, &Malformed{Key: key, Err: fmt.Errorf("the shard of %s is not there", name)}
	}
	if got := hash(sha256.Sum256(b)); got != h {
		return nil, &Malformed{Key: key, Err: fmt.Errorf("its bytes hash to %s", got)}
	}
	if b, err = c.codec.decompress(b); err != nil {
		return nil, &Malformed{Key: key, Err: err}
	}
	s, err := parseShard(b)
	if err != nil {
		return nil, &Malformed{Key: key, Err: err}
	}
	c.shards.put(h, s)
	return s, nil
}

// saveShards writes shards and gives their hashes by name. reused are those that were there long before.
func (c *Channel) saveShards(ctx context.Context, x *shardIndex, shards map[string]*shard) (hashes map[string]hash, reused []*shard, err error) {
	names := slices.Sorted(maps.Keys(shards))
	list, old := make([]hash, len(names)), make([]bool, len(names))
	err = c.each(ctx, len(names), func(ctx context.Context, i int) (err error) {
		list[i], old[i], err = c.saveShard(ctx, x, shards[names[i]])
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	hashes = make(map[string]hash, len(names))
	for i, name := range names {
		hashes[name] = list[i]
		if old[i] {
			reused = append(reused, shards[name])
		}
	}
	return hashes, reused, nil
}

// saveShard writes a shard and gives its hash. old says that it was there long before, so that Collect may be about to
// take it away.
func (c *Channel) saveShard(ctx context.Context, x *shardIndex, s *shard) (h hash, old bool, err error) {
	raw := s.encode()
	b := c.codec.shards.EncodeAll(raw, nil)
	h = sha256.Sum256(b)
	since, err := c.create(ctx, x.key(h), b, asShard)
	if err != nil {
		return hash{}, false, err
	}
	n := *s
	n.size = len(raw)
	c.shards.put(h, &n)
	return h, !since.IsZero() && c.options.Now().Sub(since) > time.Hour, nil
}

// each calls f for 0 to n-1, some at once, and gives the first error. nil means that it was called for all of them.
func (c *Channel) each(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	g, inner := errgroup.WithContext(ctx)
	g.SetLimit(c.options.Parallel)
	for i := range n {
		if inner.Err() != nil {
			break
		}
		g.Go(func() error { return f(inner, i) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err() // the only other reason to have left the loop
}

// packJSON gives the shard form of a record of repodata.json.
func packJSON(record []byte) ([]byte, error) {
	fields, err := decodeObject(record)
	if err != nil {
		return nil, err
	}
	return packRecord(fields)
}

// scratch is a folder for files that live as long as one call.
type scratch struct{ dir string }

func (c *Channel) scratch() (scratch, error) {
	dir, err := os.MkdirTemp(c.options.Scratch, "hallmark-channel-")
	if err != nil {
		return scratch{}, onDisk("putting documents together", err)
	}
	return scratch{dir}, nil
}

func (s scratch) remove() { _ = os.RemoveAll(s.dir) }

// diskError is a failure of this machine's disk, on which documents are put together: it says nothing of the channel's.
type diskError struct{ err error }

func onDisk(doing string, err error) error { return &diskError{fmt.Errorf("%s: %w", doing, err)} }

func (e *diskError) Error() string { return e.err.Error() }
func (e *diskError) Unwrap() error { return e.err }

func isDisk(err error) bool { _, ok := errors.AsType[*diskError](err); return ok }
