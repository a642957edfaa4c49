package pipeline

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// world is what outlives a worker: its queue, its ledger and its notes.
type world struct {
	mu       sync.Mutex
	attempts map[string]int
	outcomes map[string]Outcome
	notes    map[string]int
	most     int // notes at once
}

func newWorld(n int) *world {
	w := &world{attempts: map[string]int{}, outcomes: map[string]Outcome{}, notes: map[string]int{}}
	for i := range n {
		w.attempts[fmt.Sprintf("i%04d", i)] = 0
	}
	return w
}

// life is one worker's, from its start to its death. What it does after that changes nothing any more.
type life struct {
	*world
	dead  atomic.Bool
	death chan struct{}
	ready []Delivery
}

func (l *life) die() {
	if l.dead.CompareAndSwap(false, true) {
		close(l.death)
	}
}

var errDead = errors.New("dead")

func (l *life) Next(ctx context.Context, limit int) ([]Delivery, error) {
	if l.dead.Load() || !sleep(ctx, time.Millisecond) {
		return nil, errDead
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(limit, len(l.ready))
	out := l.ready[:n]
	l.ready = l.ready[n:]
	for i := range out {
		l.attempts[out[i].Item.ID]++
		out[i].Attempt = l.attempts[out[i].Item.ID]
	}
	return out, nil
}

func (l *life) Settle(_ context.Context, os []Outcome) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead.Load() {
		return errDead
	}
	for _, o := range os {
		l.outcomes[o.Delivery.Item.ID] = o
	}
	return nil
}

func (l *life) Deaths(_ context.Context, ids []string) (map[string]int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.notes), nil
}

func (l *life) Note(_ context.Context, id string, n int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead.Load() {
		return errDead
	}
	l.notes[id] = n
	l.most = max(l.most, len(l.notes))
	return nil
}

func (l *life) Clear(_ context.Context, id string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead.Load() {
		return errDead
	}
	delete(l.notes, id)
	return nil
}

// again is a job whose release brings the item back at once.
type again struct {
	*life
	d *Delivery
}

func (again) Extend() error { return nil }
func (again) Ack() error    { return nil }
func (j again) Release(time.Duration) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.ready = append(j.ready, *j.d)
	return nil
}

// live runs a worker until it dies, or until all is done, and reports which.
func (w *world) live(t *testing.T, concurrency int, run func(l *life, it *Item)) (died bool) {
	l := &life{world: w, death: make(chan struct{})}
	for id := range w.attempts {
		if _, done := w.outcomes[id]; !done {
			d := Delivery{Item: &Item{ID: id}}
			d.Job = again{l, &d}
			l.ready = append(l.ready, d)
		}
	}
	steps := []Step{step("hash", concurrency, func(ctx context.Context, it *Item) error {
		run(l, it)
		if l.dead.Load() {
			<-ctx.Done()
		}
		return ctx.Err()
	})}
	r := &Runner{Source: l, Ledger: l, Suspects: l, Steps: steps, DrainTimeout: time.Nanosecond}
	res, drain := start(t, r)
	defer func() { drain(); <-res }()
	for {
		select {
		case <-l.death:
			return true
		case <-time.After(time.Second):
		}
		w.mu.Lock()
		done := len(w.outcomes) == len(w.attempts)
		w.mu.Unlock()
		if done {
			return false
		}
	}
}

func TestAnItemThatKillsWorkersIsSetAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(400)
		deaths := 0
		for w.live(t, 64, func(l *life, it *Item) {
			time.Sleep(rand.N(50 * time.Millisecond))
			if it.ID == "i0123" {
				l.die()
			}
		}) {
			deaths++
			if deaths > 20 {
				t.Fatal("the item goes on killing workers")
			}
		}
		for id, o := range w.outcomes {
			switch {
			case id != "i0123" && o.Kind != OutcomePublished:
				t.Errorf("innocent %s is %s: %+v", id, o.Kind, o.Failure)
			case id == "i0123" && (o.Kind != OutcomeFailed || o.Failure.Cause != CausePoison):
				t.Errorf("the poison is %s: %+v", o.Kind, o.Failure)
			}
		}
		if deaths > suspectAfter+poisonAfter {
			t.Errorf("%d workers died", deaths)
		}
		if len(w.notes) > 0 {
			t.Errorf("%d notes are left", len(w.notes))
		}
	})
}

// Workers that are killed from outside, again and again, set nothing aside: neither where they die at once, nor now and then.
func TestKilledWorkersAccuseNobody(t *testing.T) {
	for name, tt := range map[string]struct{ least, most, item time.Duration }{
		"right after the start": {0, 60 * time.Millisecond, 20 * time.Millisecond},
		"now and then":          {2 * time.Second, 5 * time.Minute, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(1000)
				for n := 0; ; n++ {
					at := time.Now().Add(tt.least + rand.N(tt.most-tt.least))
					if !w.live(t, 16, func(l *life, it *Item) {
						time.Sleep(tt.item)
						if n < 60 && time.Now().After(at) {
							l.die()
						}
					}) {
						break
					}
				}
				for id, o := range w.outcomes {
					if o.Kind != OutcomePublished {
						t.Errorf("%s is %s: %+v", id, o.Kind, o.Failure)
					}
				}
			})
		})
	}
}

// An item that comes often without a death, as in an outage, is noted while it is worked on, and that is all.
func TestItemsThatComeOftenAreNoSuspects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(50)
		for id := range w.attempts {
			w.attempts[id] = 7
		}
		var most, now atomic.Int64
		if w.live(t, 50, func(*life, *Item) {
			most.Store(max(most.Load(), now.Add(1)))
			time.Sleep(time.Second)
			now.Add(-1)
		}) {
			t.Fatal("died")
		}
		if most.Load() < 40 {
			t.Errorf("%d items at once: they were tried alone", most.Load())
		}
		if len(w.notes) > 0 {
			t.Errorf("%d notes are left", len(w.notes))
		}
	})
}
