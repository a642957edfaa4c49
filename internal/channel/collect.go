package channel

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// collect finds what the shards say that the documents do not, yet: for the names whose shards are other ones than the
// base's, or for all.
func (m *monolith) collect(ctx context.Context, records, runExports *delta) error {
	c := m.c
	was := map[string]hash{}
	if !m.full {
		was = m.base.index.shards
	}
	names := m.index.differing(was)
	m.broken = map[string]bool{}
	defer func() { m.index = m.index.withoutNews(m.broken, was) }()
	var mu sync.Mutex
	return c.each(ctx, len(names), func(ctx context.Context, i int) error {
		name := names[i]
		now, err := c.loadShard(ctx, m.index, name)
		if _, ok := asMalformed(err); ok {
			mu.Lock()
			defer mu.Unlock()
			m.broken[name] = true
			return nil
		}
		if err != nil {
			return err
		}
		old := &shard{}
		if _, ok := was[name]; ok {
			if old, err = c.loadShard(ctx, m.base.index, name); err != nil {
				if _, ok := asMalformed(err); !ok {
					return err
				}
				old = nil // long collected, or broken: whatever is there of the name may have changed
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if err := m.compare(old, now, records, runExports); err != nil {
			return &Malformed{Key: m.index.key(m.index.shards[name]), Err: err}
		}
		return nil
	})
}

// withoutNews gives the index with the shards that the documents were merged from before for the names whose shards cannot be
// read, so that nobody takes those for merged: the next merge looks for them again.
func (x *shardIndex) withoutNews(broken map[string]bool, was map[string]hash) *shardIndex {
	n := *x
	n.shards = maps.Clone(x.shards)
	for name := range broken {
		delete(n.shards, name)
		if h, ok := was[name]; ok {
			n.shards[name] = h
		}
	}
	return &n
}

// compare puts what one name's shard says, and did not say before, into the deltas. old is nil if it is not known.
func (m *monolith) compare(old, now *shard, records, runExports *delta) error {
	removed, err := now.removed()
	if err != nil {
		return err
	}
	records.removed = append(records.removed, removed...)
	gone := map[string]bool{}
	for _, f := range removed {
		gone[f] = true
	}
	for p, raw := range now.files() {
		var before []byte
		known := false
		if old != nil {
			before, known = old.at(p)
		}
		if known && bytes.Equal(before, raw) {
			continue
		}
		delete(gone, p.filename())
		if err := addRecord(p, before, raw, records, runExports); err != nil {
			return fmt.Errorf("the record of %.80q: %w", p.key, err)
		}
	}
	if old != nil {
		for p := range old.files() {
			if _, still := now.at(p); !still {
				gone[p.filename()] = true
			}
		}
	}
	for _, f := range slices.Sorted(maps.Keys(gone)) {
		if _, _, live := now.record(f); live {
			continue
		}
		for _, p := range placesOf(f) {
			if err := records.add(p, toRemove, nil); err != nil {
				return err
			}
		}
		if err := runExports.add(placesOf(f)[0], toRemove, nil); err != nil {
			return err
		}
	}
	return nil
}

// addRecord puts a shard's record into the deltas. before is what the shard said before, nil if that is not known.
func addRecord(p placed, before, raw []byte, records, runExports *delta) error {
	b, exports, err := unpackRecord(raw)
	if err != nil {
		return err
	}
	what, exportsWhat := byte(toInsert), byte(toInsert)
	if before != nil {
		was, wasExports, err := unpackRecord(before)
		if err != nil {
			return err
		}
		if !sameButSidecar(was, b) {
			what = toReplace // somebody has changed the shard's record: a hotfix
		}
		if !bytes.Equal(wasExports, exports) {
			exportsWhat = toReplace
		}
	}
	if err := records.add(p, what, b); err != nil {
		return err
	}
	if exports == nil { // nothing is known (CEP 21); that is not the same as none
		return nil
	}
	return runExports.add(placesOf(p.filename())[0], exportsWhat, exports)
}

// sameButSidecar tells whether two records, as unpackRecord gives them, differ in attestations_sha256 at most.
func sameButSidecar(a, b []byte) bool {
	var x, y map[string]json.RawMessage
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	delete(x, attestations)
	delete(y, attestations)
	return maps.EqualFunc(x, y, func(a, b json.RawMessage) bool { return bytes.Equal(a, b) })
}
