package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"runtime/pprof"
	"sync/atomic"

	"github.com/hallmark-attest/hallmark/internal/channel"
	"github.com/hallmark-attest/hallmark/internal/store"
)

// Calls are the requests to a store. The bytes are those of objects.
type Calls struct {
	Put     int64 `json:"put"`
	Get     int64 `json:"get"`
	Head    int64 `json:"head"`
	List    int64 `json:"list"`
	Delete  int64 `json:"delete"`
	Read    int64 `json:"readBytes"`
	Written int64 `json:"writtenBytes"`
}

func (c Calls) Sum() int64 { return c.Put + c.Get + c.Head + c.List + c.Delete }

// counted counts the calls to a store.
type counted struct {
	store.Store
	put, get, head, list, del, read, written atomic.Int64
}

func (c *counted) calls() Calls {
	return Calls{c.put.Load(), c.get.Load(), c.head.Load(), c.list.Load(), c.del.Load(), c.read.Load(), c.written.Load()}
}

func (c *counted) Put(ctx context.Context, key string, body io.ReaderAt, size int64, o store.PutOptions) (store.Info, error) {
	c.put.Add(1)
	c.written.Add(size)
	return c.Store.Put(ctx, key, body, size, o)
}

func (c *counted) Get(ctx context.Context, key string) (io.ReadCloser, store.Info, error) {
	c.get.Add(1)
	return c.body(c.Store.Get(ctx, key))
}

func (c *counted) GetRange(ctx context.Context, key string, offset, length int64, etag string) (io.ReadCloser, store.Info, error) {
	c.get.Add(1)
	return c.body(c.Store.GetRange(ctx, key, offset, length, etag))
}

func (c *counted) body(r io.ReadCloser, info store.Info, err error) (io.ReadCloser, store.Info, error) {
	if err != nil {
		return nil, info, err
	}
	return &countedBody{r, &c.read}, info, nil
}

func (c *counted) Head(ctx context.Context, key string) (store.Info, error) {
	c.head.Add(1)
	return c.Store.Head(ctx, key)
}

func (c *counted) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	c.list.Add(1)
	return c.Store.List(ctx, prefix)
}

func (c *counted) Delete(ctx context.Context, keys ...string) error {
	c.del.Add(int64(len(keys)))
	return c.Store.Delete(ctx, keys...)
}

type countedBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}

// work is one call of a channel in a process of its own.
type work struct {
	what     string // adopt, update or monolith
	location string // of the store
	entries  string // file: what to index, a line each
	batch    int    // entries an update
	cpu, mem string // files for profiles, or ""
}

// do does the work and writes the calls to w.
func (o work) do(ctx context.Context, w io.Writer) (err error) {
	if o.cpu != "" {
		f, err := os.Create(o.cpu)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	if o.mem != "" {
		defer func() {
			f, e := os.Create(o.mem)
			if e == nil {
				e = cmpErr(pprof.Lookup("allocs").WriteTo(f, 0), f.Close())
			}
			err = errors.Join(err, e)
		}()
	}
	s, err := store.Open(ctx, o.location, nil)
	if err != nil {
		return err
	}
	c := &counted{Store: s}
	ch := channel.New(c, channel.Options{})
	switch o.what {
	case "adopt":
		_, err = ch.Adopt(ctx, subdir)
	case "update":
		err = o.update(ctx, ch)
	case "monolith":
		_, err = ch.Monolith(ctx, subdir)
	default:
		err = fmt.Errorf("unknown work %q", o.what)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(w).Encode(c.calls())
}

// update brings the entries into the index, so many at a time, as the publish stage does. Packages and sidecars are there.
func (o work) update(ctx context.Context, ch *channel.Channel) error {
	f, err := os.Open(o.entries)
	if err != nil {
		return err
	}
	defer f.Close()
	d := json.NewDecoder(f)
	for more := true; more; {
		var batch []channel.Entry
		for len(batch) < o.batch {
			var e channel.Entry
			if err := d.Decode(&e); errors.Is(err, io.EOF) {
				more = false
				break
			} else if err != nil {
				return fmt.Errorf("reading %s: %w", o.entries, err)
			}
			batch = append(batch, e)
		}
		if len(batch) == 0 {
			break
		}
		changed, refused, err := ch.Update(ctx, subdir, batch)
		if err == nil {
			err = errors.Join(refused...)
		}
		if err == nil && changed != len(batch) {
			err = fmt.Errorf("%d of %d entries changed something", changed, len(batch))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *Calls) plus(d *Calls) *Calls {
	return &Calls{c.Put + d.Put, c.Get + d.Get, c.Head + d.Head, c.List + d.List, c.Delete + d.Delete, c.Read + d.Read, c.Written + d.Written}
}
