package channel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// unusedName is the object that says since when which shards are in no index: a shard's own age says nothing about when it
// fell out of use.
const unusedName = "repodata_unused.json"

// DefaultGrace is how long a shard is kept after it fell out of the index (CEP 16 proposes a week).
const DefaultGrace = 7 * 24 * time.Hour

// Collected says what Collect found and did.
type Collected struct {
	Used    int   `json:"used"`    // shards that the index names
	Waiting int   `json:"waiting"` // shards out of use that are kept for the readers of an older index
	Deleted int   `json:"deleted"`
	Bytes   int64 `json:"bytes"` // of those that were deleted
}

// unused is unusedName's content.
type unused struct {
	Version int                  `json:"version"`
	Since   map[string]time.Time `json:"since"` // by hash
}

// Collect deletes the shards of a subdir that have been out of its index for at least grace. It notes which shards it
// finds unused, so that a shard goes at the earliest in a second run that comes grace later. Packages and sidecars are never
// touched (CEP 50 wants old sidecars kept).
//
// # Writers at the same time
//
// A shard comes back into use if a name's records become again what they once were. Let a writer find that shard there, to
// write its index at t1; it looks again after t1 and writes the shard again if it is gone. Let Collect delete it at t0; it
// reads the index after t0, and writes the shard again if it is in there. If t0 is before the writer's second look, that
// look finds it gone. If it is after, t1 came before t0, and Collect's reading of the index comes after t1 and finds it.
func (c *Channel) Collect(ctx context.Context, subdir string, grace time.Duration) (Collected, error) {
	var out Collected
	if err := checkSubdir(subdir); err != nil {
		return out, &Invalid{Subdir: subdir, Err: err}
	}
	s := c.subdir(subdir)
	key := subdir + "/" + unusedName
	b, info, found, err := c.read(ctx, key, maxShardIndex)
	if err != nil {
		return out, err
	}
	marks := unused{Since: map[string]time.Time{}}
	if found {
		if err := json.Unmarshal(b, &marks); err != nil || marks.Version != 1 {
			return out, &Malformed{Key: key, Err: errors.New("it is not a list of unused shards")}
		}
	}
	x, err := c.loadIndex(ctx, s, 0)
	if err != nil || x == nil {
		return out, err
	}
	used := map[hash]bool{}
	for _, h := range x.shards {
		used[h] = true
	}
	out.Used = len(used)
	base, err := c.loadBase(ctx, subdir)
	if err != nil {
		return out, err
	}
	if base.index != nil { // the next merge compares with them
		for _, h := range base.index.shards {
			used[h] = true
		}
	}
	now := c.options.Now()
	next := unused{Version: 1, Since: map[string]time.Time{}}
	for o, err := range c.store.List(ctx, x.folder+"/") {
		if err != nil {
			return out, fmt.Errorf("listing shards of %s: %w", subdir, err)
		}
		h, ok := x.shardOf(o.Key)
		if !ok || used[h] {
			continue
		}
		since, marked := marks.Since[h.String()]
		if !marked {
			since = now.UTC().Truncate(time.Second)
		}
		if !marked && grace > 0 || now.Sub(since) < grace || now.Sub(o.Modified) < grace && !o.Modified.IsZero() {
			next.Since[h.String()] = since
			out.Waiting++
			continue
		}
		deleted, err := c.collectShard(ctx, s, o.Key, h)
		if err != nil {
			return out, err
		}
		if deleted {
			out.Deleted++
			out.Bytes += o.Size
		}
	}
	b, err = encodeJSON(next)
	if err != nil {
		return out, err
	}
	// Whoever collects at the same time has noted the same; which of the two stays makes no difference.
	_, _, err = c.put(ctx, key, b, over(asUnused, info.ETag))
	return out, err
}

func (c *Channel) collectShard(ctx context.Context, s *subdir, key string, h hash) (deleted bool, err error) {
	bytes, _, found, err := c.read(ctx, key, maxShard)
	if err != nil || !found {
		return false, err
	}
	if err := c.store.Delete(ctx, key); err != nil {
		return false, fmt.Errorf("deleting %s: %w", key, err)
	}
	now, err := c.loadIndex(ctx, s, 0)
	if err == nil && now != nil {
		for _, used := range now.shards {
			if used == h {
				_, err := c.create(ctx, key, bytes, asShard)
				return false, err
			}
		}
	}
	if err != nil { // it is not known whether somebody needs it
		if _, again := c.create(context.WithoutCancel(ctx), key, bytes, asShard); again != nil {
			return false, errors.Join(err, again)
		}
		return false, err
	}
	return true, nil
}

// shardOf reads a shard's hash out of its key.
func (x *shardIndex) shardOf(key string) (h hash, ok bool) {
	name, ok := strings.CutPrefix(key, x.folder+"/")
	if !ok {
		return h, false
	}
	name, ok = strings.CutSuffix(name, shardSuffix)
	if !ok || !isDigest(name) {
		return h, false
	}
	return parseHash(name), true
}
