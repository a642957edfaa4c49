package channel

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Update brings many packages into a subdir's repodata.json, repodata.json.zst and shards, with one rewrite of each, and
// returns when a client that reads any of them finds them. If the channel has no noarch/repodata.json yet, an empty one is
// written too (CEP 26).
//
// An entry whose file name is there with the same SHA-256 changes attestations_sha256 and nothing else: fields that were
// hotfixed stay. If nothing changes, nothing is written.
//
// changed counts the entries that changed something. refused is nil, or has an error for each entry that cannot be in the
// index, at its place in entries (*Conflict, *Removed, *Invalid, *Unsigned, *Malformed for its sidecar); the others are
// in. err is for all: no entry may be counted on.
//
// # Order
//
// repodata.json first, then its .zst, the shard index last. So a record that the shards show is in all three, and Find can
// tell from the shards alone, which are cheap, that nothing is left to do. Wherever a writer is cut off, the same Update
// done again finds what is missing and adds it.
//
// # Which sidecar a record advertises
//
// The mutable sidecar is read after the state of the index that is replaced (its ETag), and before the replacement. Let B
// read the index at t1, the sidecar S1 at t2, and write at t3 with success, so that nobody wrote the index between t1 and
// t3. Let A put S2 = S1 + bundle at a time after t2 (before, B would have read it), and update the index later, as whoever
// appends does. If A writes the index before t3, B's write fails, contrary to the assumption. If A writes after t3, it
// shows S2 or later: its own reading of the sidecar comes after it put S2. So no index goes back to an older sidecar, and
// when all is done the index shows the last one.
//
// # Losing a race
//
// Every write is conditional. Whoever loses starts again from what the winner wrote, so that no record is lost; and since
// a repeated change is no change, an answer that got lost looks like a race that was lost to oneself, and does no harm.
func (c *Channel) Update(ctx context.Context, subdir string, entries []Entry) (changed int, refused []error, err error) {
	if err := checkSubdir(subdir); err != nil {
		return 0, nil, &Invalid{Subdir: subdir, Err: err}
	}
	if err := c.foundNoarch(ctx, subdir); err != nil {
		return 0, nil, err
	}
	changes := make([]*change, len(entries))
	for i, e := range entries {
		changes[i] = newChange(subdir, e)
	}
	if err := c.update(ctx, c.subdir(subdir), changes); err != nil {
		return 0, nil, fmt.Errorf("updating the index of %s: %w", subdir, err)
	}
	for i, ch := range changes {
		if ch.done && ch.err == nil {
			changed++
		}
		if ch.err != nil {
			if refused == nil {
				refused = make([]error, len(changes))
			}
			refused[i] = ch.err
		}
	}
	return changed, refused, nil
}

// foundNoarch sees to it that there is a noarch/repodata.json, which makes a folder a channel (CEP 26). One that was left
// half made by a writer that was cut off, is completed; any other is somebody's, and left alone.
func (c *Channel) foundNoarch(ctx context.Context, subdir string) error {
	c.mu.Lock()
	founded := c.founded
	c.mu.Unlock()
	if founded {
		return nil
	}
	if subdir != noarch {
		empty := int64(len(newRepodata(noarch).encode()))
		missing := false
		for _, name := range []string{repodataName, zstName, shardIndexName} {
			info, found, err := c.head(ctx, noarch+"/"+name)
			if err != nil {
				return err
			}
			if name == repodataName && found && info.Size != empty {
				break
			}
			missing = missing || !found
		}
		if missing {
			if err := c.update(ctx, c.subdir(noarch), nil); err != nil {
				return fmt.Errorf("creating an empty %s: %w", noarch, err)
			}
		}
	}
	c.mu.Lock()
	c.founded = true
	c.mu.Unlock()
	return nil
}

// update is Update without the first steps and the last.
func (c *Channel) update(ctx context.Context, s *subdir, changes []*change) error {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	doc, etag, err := c.loadRepodata(ctx, s)
	if err != nil {
		return err
	}
	index, err := c.loadIndex(ctx, s, 0)
	if err != nil {
		return err
	}
	if index != nil {
		if err := c.lookAtShards(ctx, s.name, index, changes); err != nil {
			return err
		}
	}
	if err := c.readSidecars(ctx, s.name, changes); err != nil {
		return err
	}
	if doc, err = c.updateRepodata(ctx, s, doc, etag, index, changes); err != nil {
		return err
	}
	return c.updateShards(ctx, s, doc, index, changes)
}

// lookAtShards refuses what could not be put into the shards, before it is put into repodata.json. One broken shard fails
// the packages of its name and no others.
func (c *Channel) lookAtShards(ctx context.Context, subdir string, x *shardIndex, changes []*change) error {
	return c.each(ctx, len(changes), func(ctx context.Context, i int) error {
		ch := changes[i]
		if ch.err != nil {
			return nil
		}
		s, err := c.loadShard(ctx, x, ch.name)
		if m, ok := asMalformed(err); ok {
			ch.err = m
			return nil
		}
		if err != nil {
			return err
		}
		if raw, ok := s.record(ch.Filename); ok {
			ch.packed(subdir, nil, raw, true)
		}
		return nil
	})
}

// readSidecars reads the current sidecar of every package that is to be indexed.
func (c *Channel) readSidecars(ctx context.Context, subdir string, changes []*change) error {
	return c.each(ctx, len(changes), func(ctx context.Context, i int) error {
		ch := changes[i]
		if ch.err != nil {
			return nil
		}
		sha, err := c.currentSidecar(ctx, subdir, ch.Filename, ch.AttestationsSHA256)
		if m, ok := asMalformed(err); ok {
			ch.err = m
			return nil
		}
		if err != nil {
			return err
		}
		if sha == "" && ch.AttestationsSHA256 != "" {
			ch.err = &Unsigned{Subdir: subdir, Filename: ch.Filename}
		}
		ch.sidecar = sha
		return nil
	})
}

// updateRepodata writes repodata.json and its .zst, and gives what is in the store then.
func (c *Channel) updateRepodata(ctx context.Context, s *subdir, doc *repodata, etag string, index *shardIndex, changes []*change) (*repodata, error) {
	key := s.name + "/" + repodataName
	now := c.options.Now().UnixMilli()
	var written []byte // nil if nothing had to be written
	for a := c.attempts(); ; {
		if !a.next(ctx) {
			return nil, fmt.Errorf("writing %s: %w", key, a.err)
		}
		if doc == nil {
			var err error
			if doc, err = c.repodataFromShards(ctx, s.name, index); err != nil {
				return nil, err
			}
		}
		next, changed := doc.merge(s.name, changes, now)
		if len(changed) == 0 && etag != "" {
			break
		}
		b := next.encode()
		next.size = len(b)
		info, won, err := c.put(ctx, key, b, over(asRepodata, etag))
		if err != nil {
			return nil, err
		}
		if won {
			for _, ch := range changed {
				ch.done = true
			}
			doc, etag, written = next, info.ETag, b
			c.keep(s, doc, etag)
			break
		}
		if doc, etag, err = c.loadRepodata(ctx, s); err != nil {
			return nil, err
		}
		if err := c.readSidecars(ctx, s.name, changes); err != nil {
			return nil, err
		}
	}
	return doc, c.syncZst(ctx, s, etag, written)
}

// updateShards writes the shards of the names concerned, then their index.
func (c *Channel) updateShards(ctx context.Context, s *subdir, doc *repodata, index *shardIndex, changes []*change) error {
	key := s.name + "/" + shardIndexName
	for a := c.attempts(); ; {
		if !a.next(ctx) {
			return fmt.Errorf("writing %s: %w", key, a.err)
		}
		etag, base := "", index
		todo := map[string]*shard{}
		if index != nil {
			etag = index.etag
		} else {
			var err error
			base = newShardIndex(s.name)
			if todo, err = shardsFromRepodata(s.name, doc); err != nil {
				return err
			}
		}
		changed, err := c.mergeShards(ctx, s.name, doc, base, index == nil, todo, changes)
		if err != nil {
			return err
		}
		if index != nil && len(todo) == 0 {
			return nil
		}
		hashes, err := c.saveShards(ctx, base, todo)
		if err != nil {
			return err
		}
		next, raw := base.with(s.name, hashes, c.options.Now())
		asked := time.Now()
		info, won, err := c.put(ctx, key, c.codec.shards.EncodeAll(raw, nil), over(asIndex, etag))
		if err != nil {
			return err
		}
		if won {
			next.etag = info.ETag
			s.remember(next, asked)
			for _, ch := range changed {
				ch.done = true
			}
			return nil
		}
		if index, err = c.loadIndex(ctx, s, 0); err != nil {
			return err
		}
		if err := c.readSidecars(ctx, s.name, changes); err != nil {
			return err
		}
	}
}

func (c *Channel) saveShards(ctx context.Context, x *shardIndex, shards map[string]*shard) (map[string]hash, error) {
	names := slices.Sorted(maps.Keys(shards))
	list := make([]hash, len(names))
	err := c.each(ctx, len(names), func(ctx context.Context, i int) (err error) {
		list[i], err = c.saveShard(ctx, x, shards[names[i]])
		return err
	})
	if err != nil {
		return nil, err
	}
	hashes := make(map[string]hash, len(names))
	for i, name := range names {
		hashes[name] = list[i]
	}
	return hashes, nil
}

// mergeShards puts the changes into the shards of their names: those in todo, which are new, or those of the index. The
// ones that change are in todo then. fresh says that all of them are made from repodata.json just now.
func (c *Channel) mergeShards(ctx context.Context, subdir string, doc *repodata, x *shardIndex, fresh bool, todo map[string]*shard, changes []*change) (changed []*change, err error) {
	byName := map[string][]*change{}
	for _, ch := range changes {
		if ch.err == nil {
			byName[ch.name] = append(byName[ch.name], ch)
		}
	}
	names := slices.Sorted(maps.Keys(byName))
	old := make([]*shard, len(names))
	err = c.each(ctx, len(names), func(ctx context.Context, i int) (err error) {
		if old[i] = todo[names[i]]; old[i] != nil {
			return nil
		}
		old[i], err = c.loadShard(ctx, x, names[i])
		if m, ok := asMalformed(err); ok {
			for _, ch := range byName[names[i]] {
				ch.err = m
			}
			return nil
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	for i, name := range names {
		var records []member
		seen := map[string]bool{}
		for _, ch := range byName[name] {
			if ch.err != nil || seen[ch.Filename] {
				continue
			}
			seen[ch.Filename] = true
			have, ok := old[i].record(ch.Filename)
			raw := ch.packed(subdir, doc, have, ok && !fresh)
			if raw != nil {
				records = append(records, packMember(ch.Filename, raw))
				changed = append(changed, ch)
			}
		}
		if len(records) > 0 {
			todo[name] = old[i].with(records)
		}
	}
	return changed, nil
}

// packed gives the shard's record: an existing one with the current sidecar in it, or one made from repodata.json's; nil
// if nothing changes, or if it cannot be (err is set then).
func (c *change) packed(subdir string, doc *repodata, have []byte, exists bool) []byte {
	key := subdir + "/" + shardIndexName
	if !exists {
		record, ok := doc.record(c.Filename)
		if !ok { // cannot be: it was put in, or c.err is set
			c.err = &Malformed{Key: key, Err: fmt.Errorf("%s is not in %s", c.Filename, repodataName)}
			return nil
		}
		_, raw, err := packJSON(c.Filename, record)
		if err != nil {
			c.err = &Malformed{Key: key, Err: fmt.Errorf("the record of %s: %w", c.Filename, err)}
			return nil
		}
		have = raw
	}
	fields, err := splitMap(have)
	if err != nil {
		c.err = &Malformed{Key: key, Err: fmt.Errorf("the record of %s: %w", c.Filename, err)}
		return nil
	}
	if sha := digestField(fields, "sha256"); !c.same(sha, digestField(fields, "md5")) {
		c.err = &Conflict{Subdir: subdir, Filename: c.Filename, Where: "shard", Have: sha, Want: c.sha256}
		return nil
	}
	same := exists
	if c.sidecar != "" && digestField(fields, attestations) != c.sidecar {
		same = false
		fields = setMember(fields, attestations, appendDigest(nil, c.sidecar))
	}
	if _, has := lookup(fields, "run_exports"); !exists && !has && len(c.RunExports) > 0 {
		if v, err := decodeObject(c.RunExports); err == nil { // newChange has seen that it is
			if raw, err := appendValue(nil, v, 1); err == nil {
				fields = setMember(fields, "run_exports", raw)
			}
		}
	}
	if same {
		return nil
	}
	return joinMap(nil, fields)
}
