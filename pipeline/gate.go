package pipeline

import (
	"context"
	"sync"
	"time"
)

// Gate stands between a campaign's source and its runner, and is as open as the campaign is: while the campaign is paused
// nothing comes through, and what is in flight goes on. It is safe for concurrent use.
type Gate struct {
	mu      sync.Mutex
	state   State
	changed chan struct{} // closed at the next change
}

// NewGate returns a gate for a campaign in the given state.
func NewGate(s State) *Gate { return &Gate{state: s, changed: make(chan struct{})} }

// Become tells the gate the campaign's state.
func (g *Gate) Become(s State) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s == g.state {
		return
	}
	g.state = s
	close(g.changed)
	g.changed = make(chan struct{})
}

// State returns the campaign's state, and a channel that is closed when it has another.
func (g *Gate) State() (State, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state, g.changed
}

// Wait waits until the campaign's state is another one than s, and returns it; or s, if ctx ends first.
func (g *Gate) Wait(ctx context.Context, s State) State {
	for {
		now, changed := g.State()
		if now != s {
			return now
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return s
		}
	}
}

// WaitAtMost is Wait, for at most d.
func (g *Gate) WaitAtMost(ctx context.Context, s State, d time.Duration) State {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return g.Wait(ctx, s)
}

// Source returns s behind the gate.
func (g *Gate) Source(s Source) Source { return gated{g, s} }

type gated struct {
	*Gate
	source Source
}

// shutWait is how long Next waits before a shut gate.
const shutWait = 5 * time.Second

// Next implements Source. Before a shut gate it waits a while in vain, so that whoever asks knows that there is nothing. Items
// that were asked for when the gate shut and come too late are given back by the source.
func (g gated) Next(ctx context.Context, limit int) ([]Delivery, error) {
	state, changed := g.State()
	if state != StateOpen {
		t := time.NewTimer(shutWait)
		defer t.Stop()
		select {
		case <-changed:
		case <-t.C:
		case <-ctx.Done():
		}
		return nil, ctx.Err()
	}
	while, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-changed:
			cancel()
		case <-done:
		}
	})
	ds, err := g.source.Next(while, limit)
	close(done)
	wg.Wait()
	if while.Err() != nil && ctx.Err() == nil && len(ds) == 0 {
		err = nil // the gate was shut
	}
	return ds, err
}

// Context returns a context for a runner's work: it ends with ctx, and when the campaign is neither open nor paused any
// more and nothing is in flight, for which it waits as long as patience allows. stop MUST be called once the runner has ended;
// it waits for what watches the gate.
func (g *Gate) Context(ctx context.Context, inFlight func() int64, patience time.Duration) (run context.Context, stop func()) {
	run, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			state, changed := g.State()
			if !state.TakesItems() {
				break
			}
			select {
			case <-changed:
			case <-run.Done():
				return
			}
		}
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		over := time.After(patience)
		for inFlight() > 0 {
			select {
			case <-tick.C:
				continue
			case <-over:
			case <-run.Done():
			}
			break
		}
		cancel()
	})
	return run, func() { cancel(); wg.Wait() }
}
