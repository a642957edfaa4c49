package channel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hallmark-attest/hallmark/internal/store"
)

// Options of a Channel; the zero value is fit for use.
type Options struct {
	// Attempts is how often a change that others keep getting ahead of is tried before it ends with ErrContended.
	// Default 200.
	Attempts int
	// Parallel is how many requests one call has in flight at once. Default 16.
	Parallel int
	// Small is the greatest repodata.json, in bytes, that every Update brings up to date at once. A larger one follows when
	// Monolith is called. Default 4 MiB; negative for never.
	Small int64
	// CurrentUpTo is up to which size of repodata.json, in bytes, a subdir gets a current_repodata.json. One that is there is
	// kept up to date whatever the size. What it selects is found in memory, which follows the number of names and of records
	// selected: hundreds of MiB for a channel of conda-forge's size. Default 128 MiB; negative for never, then those that are
	// there are neither kept up to date nor deleted.
	CurrentUpTo int64
	// Scratch is the folder in which large documents are put together; default the system's for temporary files.
	Scratch string
	// KeepShards is how many bytes of shards are kept in memory. Default 16 MiB.
	KeepShards int
	// Revalidate is how long Find trusts the shard index without asking the store again. Default 1 s.
	Revalidate time.Duration
	// Now gives the time for indexed_timestamp and created_at. Default time.Now.
	Now func() time.Time
}

// Channel is one conda channel in a store. All its methods may be called concurrently, also by several Channels on the
// same store in several processes.
type Channel struct {
	store   store.Store
	options Options
	codec   *codec
	shards  *shardCache
	sigs    sigsCache
	buffers sync.Pool // of *[]byte, for reading

	mu      sync.Mutex
	subdirs map[string]*subdir
	founded bool // noarch is known to be there (CEP 26)
}

// subdir is what is remembered of one. Everything in it is checked against the store's ETags before it is believed.
type subdir struct {
	name string
	// turn is held by the one update of this subdir that runs. It is a channel, so that waiting for it ends with a context.
	turn chan struct{}

	// merging is held by the one Monolith of this subdir that runs.
	merging chan struct{}

	mu    sync.Mutex // guards the rest
	index *shardIndex
	asked time.Time
}

// New returns the channel that is in s.
func New(s store.Store, o Options) *Channel {
	if o.Attempts <= 0 {
		o.Attempts = 200
	}
	if o.Parallel <= 0 {
		o.Parallel = 16
	}
	if o.CurrentUpTo == 0 {
		o.CurrentUpTo = 128 << 20
	}
	if o.Small == 0 {
		o.Small = 4 << 20
	}
	if o.KeepShards <= 0 {
		o.KeepShards = 16 << 20
	}
	if o.Revalidate <= 0 {
		o.Revalidate = time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Channel{store: s, options: o, codec: newCodec(), shards: newShardCache(o.KeepShards), subdirs: map[string]*subdir{},
		buffers: sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}}
}

// String names the channel's store for messages.
func (c *Channel) String() string { return c.store.String() }

func (c *Channel) subdir(name string) *subdir {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.subdirs[name]
	if s == nil {
		s = &subdir{name: name, turn: make(chan struct{}, 1), merging: make(chan struct{}, 1)}
		c.subdirs[name] = s
	}
	return s
}

// attempts yields the number of the attempt, from 0, after a growing and jittered wait, until it is left, the context
// ends, or they are used up; done tells which.
type attempts struct {
	n, most int
	err     error
}

func (c *Channel) attempts() *attempts { return &attempts{most: c.options.Attempts} }

func (a *attempts) next(ctx context.Context) bool {
	if a.err = ctx.Err(); a.err != nil {
		return false
	}
	if a.n == a.most {
		a.err = ErrContended
		return false
	}
	if a.n > 0 {
		t := time.NewTimer(rand.N(min(2*time.Second, 5*time.Millisecond<<min(a.n, 10))))
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			a.err = ctx.Err()
			return false
		}
	}
	a.n++
	return true
}

// read gets a whole object of at most limit bytes. found is false if there is none.
func (c *Channel) read(ctx context.Context, key string, limit int64) (b []byte, info store.Info, found bool, err error) {
	r, info, err := c.store.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return nil, info, false, nil
	}
	if err != nil {
		return nil, info, false, fmt.Errorf("reading %s: %w", key, err)
	}
	defer r.Close()
	if info.Size > limit {
		return nil, info, false, &Malformed{Key: key, Err: fmt.Errorf("it has %d bytes, more than %d", info.Size, limit)}
	}
	var buf bytes.Buffer
	if info.Size > 0 {
		buf.Grow(int(min(info.Size, 8<<20)) + bytes.MinRead) // a size may be a lie
	}
	n, err := buf.ReadFrom(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, info, false, fmt.Errorf("reading %s: %w", key, err)
	}
	if n > limit {
		return nil, info, false, &Malformed{Key: key, Err: fmt.Errorf("it has more than %d bytes", limit)}
	}
	return buf.Bytes(), info, true, nil
}

// head is store.Head with found instead of ErrNotFound.
func (c *Channel) head(ctx context.Context, key string) (info store.Info, found bool, err error) {
	info, err = c.store.Head(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return info, false, nil
	}
	if err != nil {
		return info, false, fmt.Errorf("looking for %s: %w", key, err)
	}
	return info, true, nil
}

// put writes b. won is false if somebody was first.
func (c *Channel) put(ctx context.Context, key string, b []byte, o store.PutOptions) (info store.Info, won bool, err error) {
	o.SHA256 = digest(b)
	info, err = c.store.Put(ctx, key, bytes.NewReader(b), int64(len(b)), o)
	if errors.Is(err, store.ErrPrecondition) {
		return info, false, nil
	}
	if err != nil {
		return info, false, fmt.Errorf("writing %s: %w", key, err)
	}
	return info, true, nil
}

// create writes what never changes under its key. If the key is taken, the bytes there must be the same; since is when
// they were written, as far as that is known, and zero if it was just now.
func (c *Channel) create(ctx context.Context, key string, b []byte, o store.PutOptions) (since time.Time, err error) {
	want := digest(b)
	for a := c.attempts(); ; {
		if !a.next(ctx) {
			return since, fmt.Errorf("writing %s: %w", key, a.err)
		}
		if _, won, err := c.put(ctx, key, b, o); won || err != nil {
			return since, err
		}
		have, info, found, err := c.objectDigest(ctx, key)
		if err != nil {
			return since, err
		}
		if found && (have != want || info.Size != int64(len(b))) {
			return since, &Malformed{Key: key, Err: fmt.Errorf("its bytes hash to %s, its name needs %s", have, want)}
		}
		if found {
			return info.Modified, nil
		}
		// Taken a moment ago, and gone: another write to the key is still under way, or it was deleted.
	}
}
