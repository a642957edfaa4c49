package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hallmark-attest/hallmark/internal/command"
	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/pipeline/event"
	"github.com/hallmark-attest/hallmark/pipeline/queue"
	"github.com/hallmark-attest/hallmark/stages"
)

// followed are the campaigns that are being served, each by one goroutine.
type followed struct {
	mu    sync.Mutex
	gates map[string]*pipeline.Gate
}

// tell gives a campaign's state to whoever serves it. If nobody does and there is something to do, it returns a gate for
// somebody who will.
func (f *followed) tell(c *pipeline.Campaign) *pipeline.Gate {
	f.mu.Lock()
	defer f.mu.Unlock()
	if g := f.gates[c.Name]; g != nil {
		g.Become(c.State)
		return nil
	}
	if c.State == pipeline.StateClosed {
		return nil
	}
	g := pipeline.NewGate(c.State)
	f.gates[c.Name] = g
	return g
}

// leave ends the serving of a campaign that is closed, and reports whether it is: it may have been reopened.
func (f *followed) leave(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s, _ := f.gates[name].State(); s != pipeline.StateClosed {
		return false
	}
	delete(f.gates, name)
	return true
}

// work serves each campaign, as its state says, from when it opens until it closes; it returns when ctx has ended and every
// runner has drained.
func (w *worker) work(ctx context.Context) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	var wg sync.WaitGroup
	served := followed{gates: map[string]*pipeline.Gate{}}
	for change, err := range w.queue.Campaigns().Watch(ctx) {
		if err != nil {
			w.env.Log.Error("a campaign cannot be read; others are served", "error", err)
			continue
		}
		c := change.Campaign
		if w.only != "" && c.Name != w.only {
			continue
		}
		if gate := served.tell(c); gate != nil {
			wg.Go(func() {
				if err := w.follow(ctx, c, gate, &served); err != nil {
					end(err)
				}
			})
		}
	}
	wg.Wait()
	err := context.Cause(ctx)
	if _, ok := errors.AsType[*command.Error](err); ok || isIdentity(err) {
		return err
	}
	if ctx.Err() != nil {
		w.env.Log.Info("drained")
	}
	return nil // ending on SIGTERM is what a daemon is for
}

// errServed ends a worker whose one campaign is closed.
var errServed = errors.New("the campaign is closed")

// follow does for a campaign what its state asks for, until it is closed or ctx ends.
func (w *worker) follow(ctx context.Context, c *pipeline.Campaign, gate *pipeline.Gate, served *followed) error {
	log := w.env.Log.With("campaign", c.Name)
	for ctx.Err() == nil {
		state, _ := gate.State()
		switch state {
		case pipeline.StateOpen:
			if err := w.campaign(ctx, c, gate); err != nil {
				return err
			}
		case pipeline.StateAborting:
			w.abort(ctx, c, gate)
		case pipeline.StateClosed:
			if served.leave(c.Name) {
				if w.only != "" {
					return errServed
				}
				return nil
			}
		default:
			log.Info("the campaign is not open; waiting", "state", state)
			gate.Wait(ctx, state)
		}
	}
	return nil
}

// campaign works on one campaign until it is neither open nor paused or ctx ends. What is wrong with one campaign does not
// end the others; a worker that serves no other ends, with the error, if it would sign as somebody else or can sign no more, or
// if an upstream keeps it from beginning.
func (w *worker) campaign(ctx context.Context, c *pipeline.Campaign, gate *pipeline.Gate) error {
	log := w.env.Log.With("campaign", c.Name)
	for {
		err := w.serve(ctx, c, gate)
		if ctx.Err() != nil {
			return nil
		}
		e, ok := errors.AsType[*command.Error](err)
		if w.only != "" && (isIdentity(err) || ok && e.Code == command.ExitUpstream) {
			return err
		}
		if err == nil { // also if there is nothing for this worker to do
			gate.Wait(ctx, pipeline.StateOpen)
			return nil
		}
		if errors.Is(err, queue.ErrPaused) || errors.Is(err, queue.ErrEnding) || errors.Is(err, queue.ErrClosed) {
			// The state has changed, and if this worker has not heard of it yet, it will.
			gate.WaitAtMost(ctx, pipeline.StateOpen, time.Second)
			return nil
		}
		log := log
		if ok && e.Hint != "" {
			log = log.With("hint", e.Hint)
		}
		// The reason may go away: another identity, rights given, a store that is back. Until then others may serve it.
		again := time.Minute
		if ok && e.Code == command.ExitUpstream { // an outage, a full disk: soon after it is over
			again = 10 * time.Second
		}
		log.Error("not serving the campaign for now", "error", err, "next_try_in", again)
		if gate.WaitAtMost(ctx, pipeline.StateOpen, again) != pipeline.StateOpen || ctx.Err() != nil {
			return nil
		}
	}
}

// abort records what waits as aborted, as whoever ordered it does too: it is done even if he is gone.
func (w *worker) abort(ctx context.Context, c *pipeline.Campaign, gate *pipeline.Gate) {
	log := w.env.Log.With("campaign", c.Name)
	segments, err := c.Segments(stages.Of(c))
	if err == nil {
		heads := make([]string, len(segments))
		for i, s := range segments {
			heads[i] = s[0]
		}
		log.Info("the campaign is being aborted")
		var n int
		if n, err = w.queue.Abort(ctx, c, heads, &event.Encoder{Version: command.Version()}); err == nil {
			log.Info("the campaign is aborted", "by_this_worker", n)
		}
	}
	if err != nil && ctx.Err() == nil {
		log.Error("cannot abort the campaign; others may", "error", err, "next_try_in", time.Minute)
	}
	gate.WaitAtMost(ctx, pipeline.StateAborting, time.Minute)
}
