package channel

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/hallmark-attest/hallmark/internal/store"
	"golang.org/x/sync/errgroup"
)

// shardRepodata makes the shards that a subdir's repodata.json stands for, for a subdir that has none yet, and gives the
// index that is to be written, without an ETag. Clients that find a shard index look no further, so that it has to have
// every record of the subdir from the first time on. The document is read once, as it comes; memory does not follow its size.
func (c *Channel) shardRepodata(ctx context.Context, s *subdir) (*shardIndex, error) {
	x := newShardIndex(s.name)
	key := s.name + "/" + repodataName
	r, info, err := c.store.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return x, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", key, err)
	}
	defer r.Close()
	d, err := c.scratch()
	if err != nil {
		return nil, err
	}
	defer d.remove()
	f := newFindings(d.dir)
	defer f.close()
	for p, err := range walk(&reading{r: r, key: key}) {
		if err == nil {
			err = f.piece(p)
		}
		if err == nil && p.kind == other && p.key == "info" {
			err = x.readInfo(p.raw)
		}
		if err != nil {
			if isReading(err) || isDisk(err) || ctx.Err() != nil {
				return nil, err
			}
			return nil, &Malformed{Key: key, Err: err}
		}
	}
	g, inner := errgroup.WithContext(ctx)
	g.SetLimit(c.options.Parallel)
	var mu sync.Mutex
	hashes := map[string]hash{}
	for name, ops := range f.names() {
		if ops.err != nil {
			_ = g.Wait()
			return nil, ops.err
		}
		if inner.Err() != nil {
			break
		}
		g.Go(func() error {
			sh, _, err := ops.apply(&shard{})
			if err != nil {
				return &Malformed{Key: key, Err: err}
			}
			h, _, err := c.saveShard(inner, x, sh)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			hashes[name] = h
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	adopted, _ := x.with(s.name, hashes, c.options.Now())
	// What is made from this repodata.json later is these shards and what changed since. Its .zst and the rest are not known.
	b, err := c.loadBase(ctx, s.name)
	if err != nil {
		return nil, err
	}
	return adopted, c.saveBase(ctx, s.name, b, map[string]string{repodataName: info.ETag}, adopted)
}

// readInfo takes over where repodata.json says that the packages are (CEP 15).
func (x *shardIndex) readInfo(raw []byte) error {
	info, err := decodeObject(raw)
	if err != nil {
		return fmt.Errorf("info: %w", err)
	}
	if u, ok := info["base_url"].(string); ok && u != "" {
		x.info = overlay(x.info, []member{packMember("base_url", appendString(nil, u))})
	}
	return nil
}

// Adopted says what Adopt did.
type Adopted struct {
	Names    int  // package names in the index
	Sharded  bool // the shards were made just now
	Sidecars int  // records that advertise another sidecar than before
}

// Adopt takes over a subdir that others made: shards are built from its repodata.json, if there are none, in one pass; if
// there are, what they lack of it is put in; records get the sidecars that are in the store (`<file>.sigs`), which indexers
// that do not know of CEP 50 drop; and the documents are merged again. Doing it again changes nothing.
func (c *Channel) Adopt(ctx context.Context, subdir string) (Adopted, error) {
	var a Adopted
	if err := checkSubdir(subdir); err != nil {
		return a, &Invalid{Subdir: subdir, Err: err}
	}
	s := c.subdir(subdir)
	var err error
	if a.Sharded, err = c.changeIndex(ctx, s, nothing); err != nil {
		return a, fmt.Errorf("adopting %s: %w", subdir, err)
	}
	if _, err := c.Monolith(ctx, subdir); err != nil { // what repodata.json has and the shards do not, is in them now
		return a, err
	}
	var batch []string
	flush := func() error {
		n, err := c.advertise(ctx, s, batch)
		a.Sidecars += n
		batch = batch[:0]
		return err
	}
	for info, err := range c.store.List(ctx, subdir+"/") {
		if err != nil {
			return a, fmt.Errorf("listing %s: %w", subdir, err)
		}
		file, ok := strings.CutSuffix(strings.TrimPrefix(info.Key, subdir+"/"), sigsSuffix)
		if !ok {
			continue
		}
		if _, err := packageName(file); err != nil {
			continue
		}
		if batch = append(batch, file); len(batch) == 1000 {
			if err := flush(); err != nil {
				return a, err
			}
		}
	}
	if err := flush(); err != nil {
		return a, err
	}
	if _, err := c.Monolith(ctx, subdir); err != nil {
		return a, err
	}
	x, err := c.loadIndex(ctx, s, 0)
	if x != nil {
		a.Names = len(x.shards)
	}
	return a, err
}

// advertise has the records of files show the sidecars that are in the store. A sidecar that cannot be one is left for
// Check to report.
func (c *Channel) advertise(ctx context.Context, s *subdir, files []string) (changed int, err error) {
	if len(files) == 0 {
		return 0, nil
	}
	_, err = c.changeIndex(ctx, s, func(ctx context.Context, x *shardIndex) (map[string]*shard, func(), error) {
		changed = 0
		todo := map[string]*shard{}
		var mu sync.Mutex
		err := c.each(ctx, len(files), func(ctx context.Context, i int) error {
			name, err := packageName(files[i])
			if err != nil {
				return err
			}
			sha, err := c.currentSidecar(ctx, s.name, files[i], "")
			if _, bad := asMalformed(err); bad || err == nil && sha == "" {
				return nil
			}
			if err != nil {
				return err
			}
			sh, err := c.loadShard(ctx, x, name)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if todo[name] != nil {
				sh = todo[name]
			}
			raw, at, ok := sh.record(files[i])
			if !ok {
				return nil
			}
			fields, err := splitMap(raw)
			if err != nil {
				return &Malformed{Key: x.key(x.shards[name]), Err: err}
			}
			if digestField(fields, attestations) == sha {
				return nil
			}
			changed++
			todo[name] = sh.with(map[section][]member{at.section: {packMember(at.key, joinMap(nil, setMember(fields, attestations, appendDigest(nil, sha))))}})
			return nil
		})
		return todo, nil, err
	})
	return changed, err
}
