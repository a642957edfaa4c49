package channel

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Update brings many packages into a subdir's shards, with one rewrite of each shard concerned and of the shard index, and
// returns when a client that reads the shards finds them. A repodata.json of at most Options.Small bytes is brought up to
// date in the same breath, a larger one when Monolith is called. What an update reads and writes follows the number of names
// that change, and the number of names in the index, not the number of records. If the channel has no noarch/repodata.json
// yet, an empty one is written too (CEP 26). A subdir that has a repodata.json and no shards is adopted first (see Adopt).
//
// An entry whose file name is there with the same SHA-256 changes attestations_sha256, adds run_exports if the record does
// not say, and leaves everything else: fields that were hotfixed stay. If nothing changes, nothing is written.
//
// changed counts the entries that changed something. refused is nil, or has an error for each entry that cannot be in the
// index, at its place in entries (*Conflict, *Removed, *Invalid, *Unsigned, *Malformed for its shard or sidecar); the others
// are in. err is for all: no entry may be counted on.
//
// # Order
//
// Shards first, then their index: that is when a record is there, and what Find looks at. The documents that are merged
// from shards follow, and whoever was cut off before that has left a base (see Monolith) that tells.
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

// foundNoarch sees to it that there is a noarch/repodata.json, which makes a folder a channel (CEP 26). One that is there
// is somebody's, and left alone.
func (c *Channel) foundNoarch(ctx context.Context, subdir string) error {
	c.mu.Lock()
	founded := c.founded
	c.mu.Unlock()
	if founded {
		return nil
	}
	if subdir != noarch {
		_, found, err := c.head(ctx, noarch+"/"+repodataName)
		if err != nil {
			return err
		}
		if !found {
			_, err := c.changeIndex(ctx, c.subdir(noarch), nothing)
			if err == nil { // whatever Options.Small says: nobody else would call it for noarch
				_, err = c.Monolith(ctx, noarch)
			}
			if err != nil {
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
	_, err := c.changeIndex(ctx, s, func(ctx context.Context, x *shardIndex) (map[string]*shard, func(), error) {
		if err := c.readSidecars(ctx, s.name, changes); err != nil {
			return nil, nil, err
		}
		todo, changed, err := c.mergeShards(ctx, s.name, x, changes)
		return todo, func() {
			for _, ch := range changed {
				ch.done = true
			}
		}, err
	})
	if err != nil {
		return err
	}
	return c.catchUp(ctx, s)
}

// catchUp brings the documents of a small subdir up to date.
func (c *Channel) catchUp(ctx context.Context, s *subdir) error {
	info, _, err := c.head(ctx, s.name+"/"+repodataName)
	if err != nil || info.Size > c.options.Small {
		return err
	}
	_, err = c.Monolith(ctx, s.name)
	return err
}

// changeIndex replaces shards. propose is given an index and says which names are to have which shards, and what to do when
// that is so; it is called again with a later index if somebody else was first. If it proposes nothing, nothing is written.
// A subdir without an index gets one.
func (c *Channel) changeIndex(ctx context.Context, s *subdir, propose func(ctx context.Context, x *shardIndex) (shards map[string]*shard, done func(), err error)) (changed bool, err error) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	key := s.name + "/" + shardIndexName
	for a := c.attempts(); ; {
		if !a.next(ctx) {
			return false, fmt.Errorf("writing %s: %w", key, a.err)
		}
		x, err := c.loadIndex(ctx, s, 0)
		if err != nil {
			return false, err
		}
		if x == nil {
			if x, err = c.shardRepodata(ctx, s); err != nil {
				return false, err
			}
		}
		shards, done, err := propose(ctx, x)
		if err != nil {
			return false, err
		}
		if x.etag != "" && len(shards) == 0 {
			return false, nil
		}
		hashes, reused, err := c.saveShards(ctx, x, shards)
		if err != nil {
			return false, err
		}
		next, raw := x.with(s.name, hashes, c.options.Now())
		asked := time.Now()
		info, won, err := c.put(ctx, key, c.codec.shards.EncodeAll(raw, nil), over(asIndex, x.etag))
		if err != nil {
			return false, err
		}
		if !won {
			continue
		}
		next.etag = info.ETag
		s.remember(next, asked)
		// Collect may have been about to take away a shard that nobody needed until now: see there.
		for _, sh := range reused {
			if _, _, err := c.saveShard(ctx, next, sh); err != nil {
				return false, err
			}
		}
		if done != nil {
			done()
		}
		return true, nil
	}
}

// nothing proposes nothing: it is for a subdir that is only to have an index.
func nothing(context.Context, *shardIndex) (map[string]*shard, func(), error) { return nil, nil, nil }

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

// mergeShards puts the changes into the shards of their names, and gives the shards and the changes that change something.
// One broken shard fails the packages of its name and no others.
func (c *Channel) mergeShards(ctx context.Context, subdir string, x *shardIndex, changes []*change) (todo map[string]*shard, changed []*change, err error) {
	byName := map[string][]*change{}
	for _, ch := range changes {
		if ch.err == nil {
			byName[ch.name] = append(byName[ch.name], ch)
		}
	}
	names := slices.Sorted(maps.Keys(byName))
	old := make([]*shard, len(names))
	err = c.each(ctx, len(names), func(ctx context.Context, i int) (err error) {
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
		return nil, nil, err
	}
	todo = map[string]*shard{}
	now := c.options.Now().UnixMilli()
	for i, name := range names {
		if old[i] == nil {
			continue
		}
		removed, err := old[i].removed()
		if err != nil {
			for _, ch := range byName[name] {
				ch.err = &Malformed{Key: x.key(x.shards[name]), Err: err}
			}
			continue
		}
		records := map[section][]member{}
		seen := map[string]*change{}
		for _, ch := range byName[name] {
			if first := seen[ch.Filename]; first != nil { // twice in one batch
				if first.sha256 != ch.sha256 {
					ch.err = &Conflict{Subdir: subdir, Filename: ch.Filename, Where: "record", Have: first.sha256, Want: ch.sha256}
				}
				continue
			}
			raw, at := ch.merge(subdir, old[i], removed, now)
			if ch.err == nil {
				seen[ch.Filename] = ch
			}
			if raw != nil {
				records[at.section] = append(records[at.section], packMember(at.key, raw))
				changed = append(changed, ch)
			}
		}
		if len(records) > 0 {
			todo[name] = old[i].with(records)
		}
		old[i] = nil // they may be many, and large
	}
	return todo, changed, nil
}

// merge gives the record that the package is to have and its place; nil if it has it, or if it cannot be (err is set then).
func (ch *change) merge(subdir string, s *shard, removed []string, now int64) (raw []byte, at placed) {
	have, at, ok := s.record(ch.Filename)
	if !ok {
		if slices.Contains(removed, ch.Filename) {
			ch.err = &Removed{Subdir: subdir, Filename: ch.Filename}
			return nil, placed{}
		}
		return ch.fresh(subdir, now), place(ch.Filename, ch.fields)
	}
	fields, err := splitMap(have)
	if err != nil {
		ch.err = &Malformed{Key: subdir + "/" + shardIndexName, Err: fmt.Errorf("the record of %s: %w", ch.Filename, err)}
		return nil, at
	}
	if sha := digestField(fields, "sha256"); !ch.same(sha, digestField(fields, "md5")) {
		ch.err = &Conflict{Subdir: subdir, Filename: ch.Filename, Where: "record", Have: sha, Want: ch.sha256}
		return nil, at
	}
	same := true
	if ch.sidecar != "" && digestField(fields, attestations) != ch.sidecar {
		same = false
		fields = setMember(fields, attestations, appendDigest(nil, ch.sidecar))
	}
	if _, known := lookup(fields, "run_exports"); !known && len(ch.RunExports) > 0 { // one that was made from a repodata.json
		if v, err := decodeObject(ch.RunExports); err == nil { // newChange has seen that it is
			if raw, err := appendValue(nil, v, 1); err == nil {
				same = false
				fields = setMember(fields, "run_exports", raw)
			}
		}
	}
	if same {
		return nil, at
	}
	return joinMap(nil, fields), at
}
