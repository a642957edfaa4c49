package channel

import (
	"context"
	"slices"
)

// Subdirs gives the channel's subdirs: the folders that have a shard index or a repodata.json, sorted.
func (c *Channel) Subdirs(ctx context.Context) ([]string, error) {
	var folders []string
	for f, err := range c.store.Folders(ctx) {
		if err != nil {
			return nil, err
		}
		if checkSubdir(f) == nil {
			folders = append(folders, f)
		}
	}
	is := make([]bool, len(folders))
	err := c.each(ctx, len(folders), func(ctx context.Context, i int) error {
		for _, name := range []string{shardIndexName, repodataName} {
			_, found, err := c.head(ctx, folders[i]+"/"+name)
			if err != nil || found {
				is[i] = found
				return err
			}
		}
		return nil
	})
	var subdirs []string
	for i, f := range folders {
		if is[i] {
			subdirs = append(subdirs, f)
		}
	}
	slices.Sort(subdirs)
	return subdirs, err
}

// CatchUp brings the documents of these subdirs, or of all if none are named, up to date with the shards, and the channel's
// channeldata.json: it is called when a campaign ends. Where nothing is behind it asks the store a few questions and writes
// nothing. Safe to call at any time, by several processes.
func (c *Channel) CatchUp(ctx context.Context, subdirs ...string) (err error) {
	if len(subdirs) == 0 {
		if subdirs, err = c.Subdirs(ctx); err != nil {
			return err
		}
	}
	for _, s := range subdirs {
		if _, err := c.Monolith(ctx, s); err != nil {
			return err
		}
	}
	_, err = c.ChannelData(ctx, subdirs)
	return err
}
