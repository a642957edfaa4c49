package channel

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Removal says what Remove did with a file.
type Removal struct {
	Filename string `json:"filename"`
	// Removed says that its record is gone, and that it was there until now.
	Removed bool `json:"removed"`
	// Listed says that the index lists the file as removed (CEP 36).
	Listed bool `json:"listed"`
	// Deleted are the objects that were deleted, in that order.
	Deleted []string `json:"deleted,omitempty"`
}

// Remove takes files out of a subdir's index and lists them as removed (CEP 36), in the shards, then in the documents that
// are merged from them. A file that the channel knows nothing of is left out of the list. With purge their objects are
// deleted as well, in the reverse of the order in which they came: mutable sidecar, immutable sidecars, package; without it
// they stay where they are, as CEP 36 asks. Doing it again completes it.
//
// What is removed does not come back by being published again: see Removed.
func (c *Channel) Remove(ctx context.Context, subdir string, files []string, purge bool) ([]Removal, error) {
	out := make([]Removal, len(files))
	byName := map[string][]int{}
	for i, f := range files {
		if err := checkPlace(subdir, f); err != nil {
			return nil, err
		}
		out[i].Filename = f
		name, err := packageName(f)
		if err != nil {
			return nil, err
		}
		byName[name] = append(byName[name], i)
	}
	exists := make([]bool, len(files))
	if err := c.each(ctx, len(files), func(ctx context.Context, i int) (err error) {
		_, exists[i], err = c.head(ctx, packageKey(subdir, files[i]))
		return err
	}); err != nil {
		return nil, err
	}
	s := c.subdir(subdir)
	_, err := c.changeIndex(ctx, s, func(ctx context.Context, x *shardIndex) (map[string]*shard, func(), error) {
		todo := map[string]*shard{}
		for name, list := range byName {
			sh, err := c.loadShard(ctx, x, name)
			if err != nil {
				return nil, nil, err
			}
			listed, err := sh.removed()
			if err != nil {
				return nil, nil, &Malformed{Key: x.key(x.shards[name]), Err: err}
			}
			var gone []string
			for _, i := range list {
				_, _, there := sh.record(files[i])
				out[i].Removed = there
				if out[i].Listed = there || exists[i] || slices.Contains(listed, files[i]); out[i].Listed {
					gone = append(gone, files[i])
				}
			}
			next, err := sh.without(gone)
			if err != nil {
				return nil, nil, err
			}
			if next != sh {
				todo[name] = next
			}
		}
		return todo, nil, nil
	})
	if err != nil {
		return nil, fmt.Errorf("removing from the index of %s: %w", subdir, err)
	}
	if _, err := c.Monolith(ctx, subdir); err != nil {
		return nil, err
	}
	if !purge {
		return out, nil
	}
	for i := range out {
		if err := c.purge(ctx, subdir, &out[i]); err != nil {
			return nil, fmt.Errorf("deleting the objects of %s/%s: %w", subdir, out[i].Filename, err)
		}
	}
	return out, nil
}

func (c *Channel) purge(ctx context.Context, subdir string, r *Removal) error {
	if !r.Listed {
		return nil
	}
	keys := []string{sigsKey(subdir, r.Filename)}
	for info, err := range c.store.List(ctx, sigsKey(subdir, r.Filename)+".") {
		if err != nil {
			return err
		}
		if isDigest(strings.TrimPrefix(info.Key, sigsKey(subdir, r.Filename)+".")) {
			keys = append(keys, info.Key)
		}
	}
	for _, key := range append(keys, packageKey(subdir, r.Filename)) {
		_, found, err := c.head(ctx, key)
		if err != nil {
			return err
		}
		if !found {
			continue
		}
		if err := c.store.Delete(ctx, key); err != nil {
			return err
		}
		r.Deleted = append(r.Deleted, key)
	}
	return nil
}
