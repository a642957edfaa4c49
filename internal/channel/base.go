package channel

import (
	"context"
	"maps"
	"slices"
)

// baseName is the object that says which shards a subdir's documents were merged from: a shard index with, in its info, the
// ETags of those documents. What it says stays true for ever (that document is a merge of those shards), so that it may be
// written late or not at all: without it the next merge reads every shard instead of those that changed.
const baseName = "repodata_merged.msgpack.zst"

// base is what a subdir's baseName says.
type base struct {
	etag  string            // of the object
	docs  map[string]string // ETag by document name
	index *shardIndex
}

// loadBase gives the subdir's base; without an index if there is none that can be read: it saves work, and is nobody's only
// truth.
func (c *Channel) loadBase(ctx context.Context, subdir string) (*base, error) {
	index, etag, err := c.loadMerged(ctx, subdir, baseName)
	if err != nil {
		return nil, err
	}
	x := &base{etag: etag, docs: map[string]string{}, index: index}
	if index == nil {
		return x, nil
	}
	for _, name := range documents {
		if m, ok := lookup(index.info, name); ok {
			if t, _, err := text(m.raw); err == nil {
				x.docs[name] = string(t)
			}
		}
	}
	return x, nil
}

// loadMerged gives the shards that something was merged from; nil if there is nothing that can be read. etag is the object's.
func (c *Channel) loadMerged(ctx context.Context, subdir, name string) (x *shardIndex, etag string, err error) {
	b, info, found, err := c.read(ctx, subdir+"/"+name, maxShardIndex)
	if _, ok := asMalformed(err); ok || err == nil && !found {
		return nil, info.ETag, nil
	}
	if err != nil {
		return nil, "", err
	}
	if b, err = c.codec.decompress(b); err != nil {
		return nil, info.ETag, nil
	}
	if x, err = parseShardIndex(subdir, b); err != nil {
		return nil, info.ETag, nil
	}
	return x, info.ETag, nil
}

// saveBase says that the documents with these ETags are a merge of the index. That somebody else said something meanwhile
// is no failure: theirs is as true.
func (c *Channel) saveBase(ctx context.Context, subdir string, was *base, docs map[string]string, index *shardIndex) error {
	var notes []member
	for _, name := range documents {
		if etag, ok := docs[name]; ok {
			notes = append(notes, packMember(name, appendString(nil, etag)))
		}
	}
	return c.saveMerged(ctx, subdir, baseName, was.etag, index, index.shards, notes)
}

// saveMerged writes what loadMerged reads, over the state with this ETag: these shards of an index, and notes in its info.
func (c *Channel) saveMerged(ctx context.Context, subdir, name, etag string, index *shardIndex, shards map[string]hash, notes []member) error {
	names := make([]member, 0, len(shards))
	for _, name := range slices.Sorted(maps.Keys(shards)) {
		h := shards[name]
		names = append(names, packMember(name, appendBytes(nil, h[:])))
	}
	info := slices.Clone(index.info)
	for _, m := range notes {
		info = setMember(info, m.key, m.raw)
	}
	slices.SortFunc(info, byKey)
	top := overlay(overlay(newShardIndex(subdir).others, index.others), []member{
		packMember("info", joinMap(nil, info)),
		packMember("shards", joinMap(nil, names)),
	})
	_, _, err := c.put(ctx, subdir+"/"+name, c.codec.shards.EncodeAll(joinMap(nil, top), nil), over(asBase, etag))
	return err
}

// covers tells whether the base is of these documents and this index.
func (b *base) covers(docs map[string]string, index *shardIndex) bool {
	return b.index != nil && maps.Equal(b.docs, docs) && maps.Equal(b.index.shards, index.shards)
}
