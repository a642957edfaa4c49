package writers_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/hallmark-attest/hallmark/internal/store"
)

// memory is a store in memory that can be interrupted.
type memory struct {
	store.Store // nil: what a channel does not call

	mu      sync.Mutex
	objects map[string]object
	etag    int

	// before, if set, is called before each operation, without the lock.
	before func(op, key string)
}

type object struct {
	bytes []byte
	etag  string
}

func newMemory() *memory { return &memory{objects: map[string]object{}} }

func (m *memory) String() string { return "memory" }

// aside marks the context of what is no operation for before.
type aside struct{}

func (m *memory) announce(ctx context.Context, op, key string) {
	if m.before != nil && ctx.Value(aside{}) == nil {
		m.before(op, key)
	}
}

func (m *memory) Put(ctx context.Context, key string, body io.ReaderAt, size int64, o store.PutOptions) (store.Info, error) {
	m.announce(ctx, "put", key)
	b, err := io.ReadAll(io.NewSectionReader(body, 0, size))
	if err != nil {
		return store.Info{}, err
	}
	if o.SHA256 != "" && digest(b) != o.SHA256 {
		return store.Info{}, store.ErrDigest
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old, exists := m.objects[key]
	if o.IfNoneMatch && exists || o.IfMatch != "" && old.etag != o.IfMatch {
		return store.Info{}, fmt.Errorf("putting %s: %w", key, store.ErrPrecondition)
	}
	m.etag++
	m.objects[key] = object{b, fmt.Sprint("e", m.etag)}
	return m.info(key), nil
}

func (m *memory) info(key string) store.Info {
	o := m.objects[key]
	return store.Info{Key: key, Size: int64(len(o.bytes)), ETag: o.etag, SHA256: digest(o.bytes)}
}

func (m *memory) Get(ctx context.Context, key string) (io.ReadCloser, store.Info, error) {
	info, b, err := m.look(ctx, "get", key)
	return io.NopCloser(bytes.NewReader(b)), info, err
}

func (m *memory) Head(ctx context.Context, key string) (store.Info, error) {
	info, _, err := m.look(ctx, "head", key)
	return info, err
}

func (m *memory) look(ctx context.Context, op, key string) (store.Info, []byte, error) {
	m.announce(ctx, op, key)
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.objects[key]; !ok {
		return store.Info{}, nil, fmt.Errorf("%s %s: %w", op, key, store.ErrNotFound)
	}
	return m.info(key), m.objects[key].bytes, nil
}

func (m *memory) List(_ context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, k := range slices.Sorted(maps.Keys(m.objects)) {
			if strings.HasPrefix(k, prefix) && !yield(m.info(k), nil) {
				return
			}
		}
	}
}

func (m *memory) Delete(ctx context.Context, keys ...string) error {
	m.announce(ctx, "delete", strings.Join(keys, " "))
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range keys {
		delete(m.objects, k)
	}
	return nil
}

// interrupt has f run before operation n, counted from 0, once. f uses get and set alone, or a context with aside, which are no operations. interrupt
// returns a function that tells before which operation that was; "" if there were not as many.
func (m *memory) interrupt(n int, f func()) func() string {
	var mu sync.Mutex
	count, where := 0, ""
	m.before = func(op, key string) {
		mu.Lock()
		defer mu.Unlock() // others wait until f is done: it is one step
		if count++; count == n+1 {
			where = op + " " + key
			f()
		}
	}
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return where
	}
}

// get is a getter.
func (m *memory) get(key string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[key]
	if !ok {
		return nil, fmt.Errorf("%s: %w", key, store.ErrNotFound)
	}
	return o.bytes, nil
}

// set puts an object there as somebody does who asks for no condition because he has just looked.
func (m *memory) set(key string, b []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.etag++
	m.objects[key] = object{b, fmt.Sprint("e", m.etag)}
}

// state gives every object's ETag.
func (m *memory) state() map[string]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string]string{}
	for k, o := range m.objects {
		out[k] = o.etag
	}
	return out
}
