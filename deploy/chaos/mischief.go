package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"
)

// every is the mean time between two actions at intensity 1.
const every = 4 * time.Second

// rate is how many of all requests meet a fault at intensity 1.
const rate = 0.02

// action is one thing that is done to the house. It returns when it is over: what it stopped runs again.
type action struct {
	name  string
	often int
	do    func(ctx context.Context, h *house, rng *rand.Rand) error
}

func between(rng *rand.Rand, from, to time.Duration) time.Duration {
	return from + time.Duration(rng.Int64N(int64(to-from)))
}

// hold waits, or until ctx ends.
func hold(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

var actions = []action{
	{"worker: kill -9", 22, func(ctx context.Context, h *house, rng *rand.Rand) error {
		w, down := h.workers[rng.IntN(len(h.workers))], between(rng, 0, 3*time.Second)
		h.kills.Add(1)
		w.kill()
		hold(ctx, down)
		return w.start(ctx)
	}},
	{"worker: SIGTERM", 8, func(ctx context.Context, h *house, rng *rand.Rand) error {
		w := h.workers[rng.IntN(len(h.workers))]
		w.end(70 * time.Second)
		return w.start(ctx)
	}},
	{"worker: SIGSTOP", 8, func(ctx context.Context, h *house, rng *rand.Rand) error {
		// Longer than the queue waits for a sign of life, now and then.
		w, d := h.workers[rng.IntN(len(h.workers))], between(rng, 2*time.Second, 20*time.Second)
		if rng.IntN(6) == 0 {
			d = 75 * time.Second
		}
		h.stops.Add(1)
		w.signal(syscall.SIGSTOP)
		hold(ctx, d)
		w.signal(syscall.SIGCONT)
		return nil
	}},
	{"nats: kill -9 one of three", 10, func(ctx context.Context, h *house, rng *rand.Rand) error {
		n, down := h.nodes[rng.IntN(len(h.nodes))], between(rng, 0, 6*time.Second)
		n.kill()
		hold(ctx, down)
		return n.start(ctx)
	}},
	{"nats: kill -9 all three", 3, func(ctx context.Context, h *house, rng *rand.Rand) error {
		down := between(rng, 0, 6*time.Second)
		for _, n := range h.nodes {
			n.kill()
		}
		hold(ctx, down)
		for _, n := range h.nodes {
			if err := n.start(ctx); err != nil {
				return err
			}
		}
		return nil
	}},
	{"nats: SIGSTOP one", 7, func(ctx context.Context, h *house, rng *rand.Rand) error {
		n, d := h.nodes[rng.IntN(len(h.nodes))], between(rng, time.Second, 12*time.Second)
		n.signal(syscall.SIGSTOP)
		hold(ctx, d)
		n.signal(syscall.SIGCONT)
		return nil
	}},
	{"nats: one cut off from the others", 6, func(ctx context.Context, h *house, rng *rand.Rand) error {
		n, d, hole := h.nodes[rng.IntN(len(h.nodes))], between(rng, time.Second, 12*time.Second), rng.IntN(2) == 0
		for _, w := range n.routes {
			w.set(!hole, hole)
		}
		hold(ctx, d)
		for _, w := range n.routes {
			w.set(false, false)
		}
		return nil
	}},
	{"nats: one cut off from its clients", 6, func(ctx context.Context, h *house, rng *rand.Rand) error {
		n, d, hole := h.nodes[rng.IntN(len(h.nodes))], between(rng, time.Second, 12*time.Second), rng.IntN(2) == 0
		n.client.set(!hole, hole)
		hold(ctx, d)
		n.client.set(false, false)
		return nil
	}},
	{"upstream: out", 14, func(ctx context.Context, h *house, rng *rand.Rand) error {
		p, d := h.proxies[rng.IntN(len(h.proxies))], between(rng, 2*time.Second, 20*time.Second)
		p.out.Store(true)
		hold(ctx, d)
		p.out.Store(false)
		return nil
	}},
	{"upstream: every third request meets a fault", 8, func(ctx context.Context, h *house, rng *rand.Rand) error {
		p, d := h.proxies[rng.IntN(len(h.proxies))], between(rng, 2*time.Second, 15*time.Second)
		p.setRate(1. / 3)
		hold(ctx, d)
		p.setRate(rate * h.intensity)
		return nil
	}},
	{"s3: kill -9", 4, func(ctx context.Context, h *house, rng *rand.Rand) error {
		down := between(rng, 0, 5*time.Second)
		h.s3.kill()
		hold(ctx, down)
		return h.s3.start(ctx)
	}},
	{"s3: SIGSTOP", 3, func(ctx context.Context, h *house, rng *rand.Rand) error {
		d := between(rng, time.Second, 15*time.Second)
		h.s3.signal(syscall.SIGSTOP)
		hold(ctx, d)
		h.s3.signal(syscall.SIGCONT)
		return nil
	}},
	{"sigstore: SIGSTOP", 3, func(ctx context.Context, h *house, rng *rand.Rand) error {
		d := between(rng, time.Second, 15*time.Second)
		h.stops.Add(1)
		h.sigstore.signal(syscall.SIGSTOP)
		hold(ctx, d)
		h.sigstore.signal(syscall.SIGCONT)
		return nil
	}},
	{"sigstore: stopped and started", 2, func(ctx context.Context, h *house, rng *rand.Rand) error {
		down := between(rng, 0, 5*time.Second)
		h.stops.Add(1)
		h.sigstore.end(20 * time.Second)
		hold(ctx, down)
		return h.sigstore.start(ctx)
	}},
}

// mischief does one action after the other, now and then two at once, until ctx ends. It returns when all are over.
func (h *house) mischief(ctx context.Context) error {
	for _, p := range h.proxies {
		p.setRate(rate * h.intensity)
	}
	defer func() {
		for _, p := range h.proxies {
			p.setRate(0)
		}
	}()
	if h.intensity <= 0 {
		<-ctx.Done()
		return nil
	}
	sum := 0
	for _, a := range actions {
		sum += a.often
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failure error
	busy := map[string]bool{} // one action of a kind at a time
	for ctx.Err() == nil {
		pause := time.Duration(h.rng.ExpFloat64() * float64(every) / h.intensity)
		n, seed := h.rng.IntN(sum), h.rng.Uint64()
		hold(ctx, min(pause, 5*every))
		var a action
		for _, a = range actions {
			if n -= a.often; n < 0 {
				break
			}
		}
		kind := a.name[:4]
		mu.Lock()
		skip := busy[kind] || failure != nil || ctx.Err() != nil
		if !skip {
			busy[kind] = true
			h.did[a.name]++
		}
		mu.Unlock()
		if skip {
			continue
		}
		wg.Go(func() {
			// What was begun is put right again though the campaign may be over meanwhile.
			err := a.do(context.WithoutCancel(ctx), h, rand.New(rand.NewPCG(seed, 2)))
			if err == nil && kind == "nats" {
				err = h.healed(context.WithoutCancel(ctx))
			}
			mu.Lock()
			defer mu.Unlock()
			busy[kind] = false
			if err != nil && failure == nil {
				failure = fmt.Errorf("%s: %w", a.name, err)
			}
		})
	}
	wg.Wait()
	return failure
}
