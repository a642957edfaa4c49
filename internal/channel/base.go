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

// loadBase gives the subdir's base; nil if there is none that can be read: it saves work, and is nobody's only truth.
func (c *Channel) loadBase(ctx context.Context, subdir string) (*base, error) {
	key := subdir + "/" + baseName
	b, info, found, err := c.read(ctx, key, maxShardIndex)
	if _, ok := asMalformed(err); ok || err == nil && !found {
		return &base{etag: info.ETag}, nil
	}
	if err != nil {
		return nil, err
	}
	x := &base{etag: info.ETag, docs: map[string]string{}}
	if b, err = c.codec.decompress(b); err != nil {
		return x, nil
	}
	if index, err := parseShardIndex(subdir, b); err == nil {
		x.index = index
		for _, name := range c.documents() {
			if m, ok := lookup(index.info, name); ok {
				if t, _, err := text(m.raw); err == nil {
					x.docs[name] = string(t)
				}
			}
		}
	}
	return x, nil
}

// saveBase says that the documents with these ETags are a merge of the index. That somebody else said something meanwhile
// is no failure: theirs is as true.
func (c *Channel) saveBase(ctx context.Context, subdir string, was *base, docs map[string]string, index *shardIndex) error {
	n := *index
	n.names = make([]member, 0, len(index.shards))
	for _, name := range slices.Sorted(maps.Keys(index.shards)) {
		h := index.shards[name]
		n.names = append(n.names, packMember(name, appendBytes(nil, h[:])))
	}
	n.info = slices.Clone(index.info)
	for _, name := range c.documents() {
		if etag, ok := docs[name]; ok {
			n.info = setMember(n.info, name, appendString(nil, etag))
		}
	}
	slices.SortFunc(n.info, byKey)
	top := overlay(overlay(newShardIndex(subdir).others, n.others), []member{
		packMember("info", joinMap(nil, n.info)),
		packMember("shards", joinMap(nil, n.names)),
	})
	_, _, err := c.put(ctx, subdir+"/"+baseName, c.codec.shards.EncodeAll(joinMap(nil, top), nil), over(asBase, was.etag))
	return err
}

// covers tells whether the base is of these documents and this index.
func (b *base) covers(docs map[string]string, index *shardIndex) bool {
	return b.index != nil && maps.Equal(b.docs, docs) && maps.Equal(b.index.shards, index.shards)
}
