package channel

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// loadRepodata gives the subdir's repodata.json and its ETag, "" if there is none. The caller holds the turn.
func (c *Channel) loadRepodata(ctx context.Context, s *subdir) (*repodata, string, error) {
	key := s.name + "/" + repodataName
	info, found, err := c.head(ctx, key)
	if err != nil {
		return nil, "", err
	}
	if found && s.repodata != nil && info.ETag == s.etag {
		return s.repodata, s.etag, nil
	}
	s.repodata, s.etag = nil, ""
	b, info, found, err := c.read(ctx, key, maxRepodata)
	if err != nil || !found {
		return nil, "", err
	}
	d, err := parseRepodata(b)
	if err != nil {
		return nil, "", &Malformed{Key: key, Err: err}
	}
	c.keep(s, d, info.ETag)
	return d, info.ETag, nil
}

func (c *Channel) keep(s *subdir, d *repodata, etag string) {
	s.repodata, s.etag = nil, ""
	if d.size <= c.options.KeepRepodata {
		s.repodata, s.etag = d, etag
	}
}

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

// saveShard writes a shard and gives its hash.
func (c *Channel) saveShard(ctx context.Context, x *shardIndex, s *shard) (hash, error) {
	raw := s.encode()
	b := c.codec.shards.EncodeAll(raw, nil)
	h := hash(sha256.Sum256(b))
	if err := c.create(ctx, x.key(h), b, asShard); err != nil {
		return hash{}, err
	}
	n := *s
	n.size = len(raw)
	c.shards.put(h, &n)
	return h, nil
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

// repodataFromShards makes the repodata.json that shards stand for, for a subdir that has shards alone.
func (c *Channel) repodataFromShards(ctx context.Context, subdir string, x *shardIndex) (*repodata, error) {
	d := newRepodata(subdir)
	if x == nil {
		return d, nil
	}
	names := slices.Sorted(maps.Keys(x.shards))
	shards := make([]*shard, len(names))
	err := c.each(ctx, len(names), func(ctx context.Context, i int) (err error) {
		shards[i], err = c.loadShard(ctx, x, names[i])
		return err
	})
	if err != nil {
		return nil, err
	}
	var removed []string
	for i, s := range shards {
		broken := func(err error) error {
			return &Malformed{Key: x.key(x.shards[names[i]]), Err: err}
		}
		for _, m := range slices.Concat(s.packages, s.conda) {
			raw, err := unpackRecord(m.raw)
			if err != nil {
				return nil, broken(fmt.Errorf("the record of %.80q: %w", m.key, err))
			}
			if isConda(m.key) {
				d.conda = append(d.conda, jsonMember(m.key, raw))
			} else {
				d.packages = append(d.packages, jsonMember(m.key, raw))
			}
		}
		if r, ok := lookup(s.others, "removed"); ok {
			v, err := decodeValue(r.raw)
			if err != nil {
				return nil, broken(err)
			}
			list, _ := v.([]any)
			for _, e := range list {
				if f, ok := e.(string); ok {
					removed = append(removed, f)
				}
			}
		}
	}
	if err := sortMembers(d.packages); err != nil {
		return nil, &Malformed{Key: subdir + "/" + shardIndexName, Err: err}
	}
	if err := sortMembers(d.conda); err != nil {
		return nil, &Malformed{Key: subdir + "/" + shardIndexName, Err: err}
	}
	if len(removed) > 0 {
		slices.Sort(removed)
		raw, err := encodeJSON(slices.Compact(removed))
		if err != nil {
			return nil, err
		}
		if d.removed, err = parseRemoved(raw); err != nil {
			return nil, err
		}
		d.others = overlay(d.others, []member{jsonMember("removed", raw)})
	}
	return d, nil
}

// shardsFromRepodata makes the shards that a repodata.json stands for, for a subdir that has none yet. Clients that find
// a shard index look no further, so that it has to have every record of the subdir from the first time on.
func shardsFromRepodata(subdir string, d *repodata) (map[string]*shard, error) {
	records := map[string][]member{}
	for _, m := range slices.Concat(d.packages, d.conda) {
		broken := func(err error) error {
			return &Malformed{Key: subdir + "/" + repodataName, Err: fmt.Errorf("the record of %.80q: %w", m.key, err)}
		}
		name, raw, err := packJSON(m.key, m.raw)
		if err != nil {
			return nil, broken(err)
		}
		records[name] = append(records[name], packMember(m.key, raw))
	}
	removed := map[string][]any{}
	for f := range d.removed {
		if name, err := packageName(f); err == nil {
			removed[name] = append(removed[name], f)
		}
	}
	shards := make(map[string]*shard, len(records))
	for name, rs := range records {
		shards[name] = (&shard{}).with(rs)
	}
	for name, files := range removed {
		slices.SortFunc(files, func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
		raw, err := appendValue(nil, files, 1)
		if err != nil {
			return nil, err
		}
		s := shards[name]
		if s == nil {
			s = &shard{}
			shards[name] = s
		}
		s.others = []member{packMember("removed", raw)}
	}
	return shards, nil
}

// packJSON gives the package name and the shard form of a record of repodata.json.
func packJSON(filename string, record []byte) (name string, raw []byte, err error) {
	fields, err := decodeObject(record)
	if err != nil {
		return "", nil, err
	}
	if name, _ = fields["name"].(string); name == "" {
		if name, err = packageName(filename); err != nil {
			return "", nil, err
		}
	}
	raw, err = packRecord(fields)
	return name, raw, err
}
