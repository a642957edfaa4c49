package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// simStore is a server with one clock of its own, for workers in a synctest bubble.
type simStore struct {
	mu      sync.Mutex
	records map[string]simRecord
	skew    time.Duration
	writes  int
	latency time.Duration // of each way, at most
}

type simRecord struct {
	data     []byte
	revision uint64
	stamp    time.Time
}

func newSimStore() *simStore {
	return &simStore{records: map[string]simRecord{}, skew: -1234567 * time.Second, latency: 3 * time.Millisecond}
}

func (s *simStore) way(ctx context.Context) error {
	if !sleep(ctx, rand.N(s.latency)) {
		return context.Cause(ctx)
	}
	return nil
}

func (s *simStore) get(ctx context.Context, key string) ([]byte, uint64, time.Time, error) {
	if err := s.way(ctx); err != nil {
		return nil, 0, time.Time{}, err
	}
	s.mu.Lock()
	r, ok := s.records[key]
	s.mu.Unlock()
	if err := s.way(ctx); err != nil {
		return nil, 0, time.Time{}, err
	}
	if !ok {
		return nil, 0, time.Time{}, errNoBudget
	}
	return r.data, r.revision, r.stamp, nil
}

func (s *simStore) put(ctx context.Context, key string, data []byte, revision uint64) error {
	if err := s.way(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	r := s.records[key]
	conflict := r.revision != revision
	if !conflict {
		s.writes++
		s.records[key] = simRecord{data, uint64(s.writes), time.Now().Add(s.skew)} // revisions are the whole bucket's
	}
	s.mu.Unlock()
	if err := s.way(ctx); err != nil {
		return err
	}
	if conflict {
		return ErrConflict
	}
	return nil
}

func (s *simStore) written() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes
}

func (s *simStore) step(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.skew += d
}

// simWorker is a worker with users. It can be stopped (as by SIGSTOP), which delays whatever it is about to do, and cut off.
type simWorker struct {
	*Budgets
	sim   *sim
	name  string
	mu    sync.Mutex
	until time.Time // it is stopped
	cut   bool
	users context.CancelFunc
}

// simLink is a worker's way to the store.
type simLink struct {
	*simStore
	w *simWorker
}

var errCut = errors.New("cut off")

func (l simLink) get(ctx context.Context, key string) ([]byte, uint64, time.Time, error) {
	if l.w.isCut() {
		return nil, 0, time.Time{}, errCut
	}
	data, revision, stamp, err := l.simStore.get(ctx, key)
	l.w.hang()
	return data, revision, stamp, err
}

func (l simLink) put(ctx context.Context, key string, data []byte, revision uint64) error {
	l.w.hang()
	if l.w.isCut() {
		return errCut
	}
	err := l.simStore.put(ctx, key, data, revision)
	l.w.hang()
	return err
}

func (w *simWorker) isCut() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cut
}

func (w *simWorker) setCut(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
}

func (w *simWorker) stop(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.until = time.Now().Add(d)
}

func (w *simWorker) hang() {
	w.mu.Lock()
	until := w.until
	w.mu.Unlock()
	time.Sleep(time.Until(until))
}

// sim is a deployment.
type sim struct {
	t     *testing.T
	store *simStore
	tempo tempo
	mu    sync.Mutex
	uses  map[string][]time.Time // by worker
	wg    sync.WaitGroup
	n     int
}

func newSim(t *testing.T) *sim {
	return &sim{t: t, store: newSimStore(), tempo: budgetTempo, uses: map[string][]time.Time{}}
}

func (s *sim) rate(campaign, upstream string, perMinute int64) {
	if err := setRate(s.t.Context(), s.store, s.tempo, budgetKey(campaign, upstream), perMinute); err != nil {
		s.t.Error(err)
	}
}

func (s *sim) worker() *simWorker {
	s.n++
	w := &simWorker{sim: s, name: fmt.Sprintf("w%d", s.n)}
	w.Budgets = newBudgets(simLink{s.store, w}, w.name, s.tempo, quiet)
	return w
}

// demand starts users that make one request after the other, each of which takes a time.
func (w *simWorker) demand(campaign, upstream string, users int, takes time.Duration) {
	ctx, cancel := context.WithCancel(w.sim.t.Context())
	before := w.users
	w.users = func() {
		cancel()
		if before != nil {
			before()
		}
	}
	b := w.Campaign(campaign)
	for range users {
		w.sim.wg.Go(func() {
			for urgent := false; ; {
				use, err := b.Take(ctx, urgent, upstream)
				if err != nil {
					return
				}
				w.hang()
				if urgent = !use(upstream); urgent {
					continue
				}
				w.sim.mu.Lock()
				w.sim.uses[w.name] = append(w.sim.uses[w.name], time.Now())
				w.sim.mu.Unlock()
				if takes > 0 {
					time.Sleep(takes/2 + rand.N(takes))
				}
			}
		})
	}
}

// idle ends the users.
func (w *simWorker) idle() {
	if w.users != nil {
		w.users()
		w.users = nil
	}
}

// leave is the end of a worker; die is one without any notice to anybody. As a worker never says good-bye, they differ by
// what it has begun.
func (w *simWorker) leave() {
	w.idle()
	w.Close()
}

func (w *simWorker) die() {
	w.setCut(true)
	w.leave()
}

func (s *sim) all() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []time.Time
	for _, u := range s.uses {
		all = append(all, u...)
	}
	slices.SortFunc(all, time.Time.Compare)
	return all
}

// most is the largest number of uses in any window.
func most(uses []time.Time, window time.Duration) int {
	n, first := 0, 0
	for i, u := range uses {
		for !uses[first].After(u.Add(-window)) {
			first++
		}
		n = max(n, i-first+1)
	}
	return n
}

func between(uses []time.Time, from, to time.Time) (n int) {
	for _, u := range uses {
		if !u.Before(from) && u.Before(to) {
			n++
		}
	}
	return n
}

// count is how often the worker made a request since.
func (s *sim) count(w *simWorker, since time.Time) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return between(s.uses[w.name], since, time.Now().Add(1))
}

func simulate(t *testing.T, f func(t *testing.T, s *sim)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t)
		f(t, s)
		s.wg.Wait()
	})
}
