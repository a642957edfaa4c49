package channel

import (
	"container/list"
	"sync"
)

// shardCache keeps shards by the hash of their bytes, so that what it holds is never out of date. The shards that were
// used last stay.
type shardCache struct {
	mu   sync.Mutex
	room int
	m    map[hash]*list.Element
	used *list.List // of *cached, the latest first
}

type cached struct {
	hash  hash
	shard *shard
}

func newShardCache(room int) *shardCache {
	return &shardCache{room: room, m: map[hash]*list.Element{}, used: list.New()}
}

func (c *shardCache) get(h hash) *shard {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.m[h]
	if e == nil {
		return nil
	}
	c.used.MoveToFront(e)
	return e.Value.(*cached).shard
}

func (c *shardCache) put(h hash, s *shard) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m[h] != nil {
		return
	}
	c.m[h] = c.used.PushFront(&cached{h, s})
	c.room -= s.cost()
	for c.room < 0 && c.used.Len() > 1 {
		e := c.used.Back()
		old := c.used.Remove(e).(*cached)
		delete(c.m, old.hash)
		c.room += old.shard.cost()
	}
}

// cost is about what a shard takes in memory: its bytes, and what points into them.
func (s *shard) cost() int {
	n := s.size + 512
	for _, ms := range s.records {
		for _, m := range ms {
			n += 160 + len(m.key)
		}
	}
	return n
}
