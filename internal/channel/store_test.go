package channel

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
	"sync/atomic"
	"testing"
	"time"

	"github.com/hallmark-attest/hallmark/internal/store"
)

// memory is a store in memory that can be told to misbehave.
type memory struct {
	mu      sync.Mutex
	objects map[string]object
	etag    int
	writes  []string // keys, in the order in which they were written

	now func() time.Time // default time.Now

	// noDigests makes it a store that does not know SHA-256 digests.
	noDigests bool
	// before is called, if set, before an operation ("get", "head", "put") touches anything, without the lock; its error
	// is the operation's.
	before func(op, key string) error
	// after is the same, after a write has taken place: its error is an answer that got lost.
	after func(key string) error
}

type object struct {
	b       []byte
	etag    string
	options store.PutOptions
	written time.Time
}

func newMemory() *memory { return &memory{objects: map[string]object{}} }

func (m *memory) time() time.Time {
	if m.now != nil {
		return m.now()
	}
	return time.Now()
}

func (m *memory) String() string { return "memory" }

func (m *memory) hook(op, key string) error {
	if m.before == nil {
		return nil
	}
	return m.before(op, key)
}

func (m *memory) Put(ctx context.Context, key string, body io.ReaderAt, size int64, o store.PutOptions) (store.Info, error) {
	if err := ctx.Err(); err != nil {
		return store.Info{}, err
	}
	if err := m.hook("put", key); err != nil {
		return store.Info{}, err
	}
	b, err := io.ReadAll(io.NewSectionReader(body, 0, size))
	if err != nil {
		return store.Info{}, err
	}
	if o.SHA256 != "" && digest(b) != o.SHA256 {
		return store.Info{}, store.ErrDigest
	}
	info, err := m.put(key, b, o)
	if err == nil && m.after != nil {
		err = m.after(key)
	}
	return info, err
}

func (m *memory) put(key string, b []byte, o store.PutOptions) (store.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	old, exists := m.objects[key]
	if o.IfNoneMatch && exists || o.IfMatch != "" && old.etag != o.IfMatch {
		return store.Info{}, fmt.Errorf("put %s: %w", key, store.ErrPrecondition)
	}
	m.etag++
	m.objects[key] = object{b, fmt.Sprintf("e%d", m.etag), o, m.time()}
	m.writes = append(m.writes, key)
	return m.info(key), nil
}

func (m *memory) info(key string) store.Info {
	o := m.objects[key]
	i := store.Info{Key: key, Size: int64(len(o.b)), ETag: o.etag, Modified: o.written}
	if !m.noDigests {
		i.SHA256 = digest(o.b)
	}
	return i
}

func (m *memory) Get(ctx context.Context, key string) (io.ReadCloser, store.Info, error) {
	i, err := m.look(ctx, "get", key)
	if err != nil {
		return nil, i, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return io.NopCloser(bytes.NewReader(m.objects[key].b)), m.info(key), nil
}

func (m *memory) GetRange(ctx context.Context, key string, offset, length int64, etag string) (io.ReadCloser, store.Info, error) {
	i, err := m.look(ctx, "range", key)
	if err != nil {
		return nil, i, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	b, i := m.objects[key].b, m.info(key)
	if etag != "" && i.ETag != etag {
		return nil, store.Info{}, fmt.Errorf("range of %s: %w", key, store.ErrPrecondition)
	}
	if offset < 0 {
		offset, length = max(0, i.Size+offset), i.Size
	}
	if offset >= i.Size {
		return nil, store.Info{}, fmt.Errorf("range of %s: %w", key, store.ErrRange)
	}
	return io.NopCloser(bytes.NewReader(b[offset:min(i.Size, offset+length)])), i, nil
}

func (m *memory) Head(ctx context.Context, key string) (store.Info, error) {
	return m.look(ctx, "head", key)
}

func (m *memory) look(ctx context.Context, op, key string) (store.Info, error) {
	if err := ctx.Err(); err != nil {
		return store.Info{}, err
	}
	if err := m.hook(op, key); err != nil {
		return store.Info{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.objects[key]; !ok {
		return store.Info{}, fmt.Errorf("%s %s: %w", op, key, store.ErrNotFound)
	}
	return m.info(key), nil
}

func (m *memory) List(_ context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		for _, k := range slices.Sorted(maps.Keys(m.state())) {
			if !strings.HasPrefix(k, prefix) {
				continue
			}
			if err := m.hook("list", k); err != nil {
				yield(store.Info{}, err)
				return
			}
			m.mu.Lock()
			_, ok := m.objects[k]
			i := m.info(k)
			m.mu.Unlock()
			if ok && !yield(i, nil) {
				return
			}
		}
	}
}

func (m *memory) Folders(context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		last := ""
		for _, k := range slices.Sorted(maps.Keys(m.state())) {
			folder, _, ok := strings.Cut(k, "/")
			if ok && folder != last && !yield(folder, nil) {
				return
			}
			last = folder
		}
	}
}

func (m *memory) Delete(_ context.Context, keys ...string) error {
	for _, k := range keys {
		if err := m.hook("delete", k); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range keys {
		delete(m.objects, k)
	}
	return nil
}

// interrupt has f run before operation n, counted from 0, once. Nothing that f does is counted. ran tells whether there was
// such an operation.
func (m *memory) interrupt(n int64, f func()) (ran *atomic.Bool) {
	ran = new(atomic.Bool)
	var count atomic.Int64
	m.before = func(string, string) error {
		if !ran.Load() && count.Add(1)-1 == n {
			ran.Store(true)
			f()
		}
		return nil
	}
	return ran
}

// set puts an object there as somebody else would.
func (m *memory) set(key string, b []byte) {
	if _, err := m.put(key, b, store.PutOptions{}); err != nil {
		panic(err)
	}
}

// state is every object's bytes.
func (m *memory) state() map[string]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := map[string]string{}
	for k, o := range m.objects {
		s[k] = string(o.b)
	}
	return s
}

func (m *memory) get(t testing.TB, key string) []byte {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[key]
	if !ok {
		t.Fatalf("there is no %s", key)
	}
	return o.b
}

// clock gives times a second apart, from 2026-01-01 on.
func clock() func() time.Time {
	var mu sync.Mutex
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	return func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		now = now.Add(time.Second)
		return now
	}
}
