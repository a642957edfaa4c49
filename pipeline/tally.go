package pipeline

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Tally counts where the items of one Runner are, stage by stage, while it runs: for whoever asks how work gets on. The
// Runner keeps it; reading it stops nobody. Its methods are safe for concurrent use.
//
// An item costs a few atomic additions in each stage, and a lock only when it has to be tried again.
type Tally struct {
	stages   []stageCount
	inFlight atomic.Int64
}

// StageTally is where the items of one stage were at one moment. While items move, the numbers of several stages may be
// off by those that moved in between.
type StageTally struct {
	Stage string
	// Ready wait for a place in the stage, Running are in it, Retrying wait in it to be tried again after a transient error,
	// or until an outage is over.
	Ready, Running, Retrying int64
	// LastDone is when the stage last did what it is for, or found that there was nothing to do. Zero: not yet.
	LastDone time.Time
	// Trouble is what keeps the stage from its work; nil if nothing waits to be tried again, and the last attempts went well.
	Trouble *Trouble
}

// Trouble is the newest transient error of a stage.
type Trouble struct {
	// Err is the error as the stage gave it. Its text may hold paths and secrets: clean it before it leaves the process.
	Err *Error
	// Source is the Item.Source of the item that met it.
	Source string
	// At is when it was met.
	At time.Time
	// Since is when the first of an unbroken row of such errors was met; zero if the stage has done an item since the
	// newest one.
	Since time.Time
	// NextTry is when the first of the items that wait is tried again; zero if none waits (they are back in the queue).
	NextTry time.Time
	// Paused says that the stage takes this for an outage: one item at a time is tried, the others are held back.
	Paused bool
}

// NewTally returns the tally of a Runner with these steps, for one call of Run.
func NewTally(steps []Step) *Tally {
	t := &Tally{stages: make([]stageCount, len(steps))}
	for i, s := range steps {
		t.stages[i].name = s.String()
	}
	return t
}

// InFlight is how many items are between the queue and the ledger. Those that are in no stage wait to be recorded.
func (t *Tally) InFlight() int64 { return t.inFlight.Load() }

// Stages returns every stage's tally, in order.
func (t *Tally) Stages() []StageTally {
	out := make([]StageTally, len(t.stages))
	for i := range t.stages {
		out[i] = t.stages[i].read()
	}
	return out
}

// fits refuses a tally that was made for other steps.
func (t *Tally) fits(steps []Step) error {
	if len(t.stages) != len(steps) {
		return fmt.Errorf("tally has %d stages, the runner %d", len(t.stages), len(steps))
	}
	for i, s := range steps {
		if t.stages[i].name != s.String() {
			return fmt.Errorf("tally has stage %q where the runner has %q", t.stages[i].name, s)
		}
	}
	return nil
}

// stageCount is one stage's part of a Tally.
type stageCount struct {
	name           string
	ready, running atomic.Int64
	lastDone       atomic.Int64 // Unix time in nanoseconds; 0: not yet

	mu      sync.Mutex
	waiting map[*flight]time.Time // those that wait to be tried again, and when they are
	trouble Trouble               // Err is nil until there is one; NextTry and Paused are not kept here
	paused  bool                  // attempts are held back until the time
	until   time.Time
}

// pause: the stage's breaker is open, and the next probe due at the time; or it is not.
func (c *stageCount) pause(open bool, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused, c.until = open, until
}

// attempted takes an attempt that ended with err at the time. It reports whether trouble begins with it: the stage was in none.
func (c *stageCount) attempted(it *Item, err *Error, at time.Time) (begins bool) {
	c.running.Add(-1)
	switch {
	case err == nil || err.Kind == KindSkip:
		c.lastDone.Store(at.UnixNano())
	case err.Kind == KindTransient:
		c.mu.Lock()
		defer c.mu.Unlock()
		since := c.trouble.Since
		if since.IsZero() || c.doneSince(since) {
			since, begins = at, true
		}
		c.trouble = Trouble{Err: err, Source: it.Source, At: at, Since: since}
	}
	return begins
}

// waits: the flight is tried again at the time, until tried is called.
func (c *stageCount) waits(f *flight, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting == nil {
		c.waiting = map[*flight]time.Time{}
	}
	c.waiting[f] = until
}

func (c *stageCount) tried(f *flight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, f)
}

func (c *stageCount) doneSince(t time.Time) bool { return c.lastDone.Load() >= t.UnixNano() }

func (c *stageCount) read() StageTally {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := StageTally{Stage: c.name, Ready: c.ready.Load(), Running: c.running.Load(), Retrying: int64(len(c.waiting))}
	if n := c.lastDone.Load(); n != 0 {
		s.LastDone = time.Unix(0, n)
	}
	if c.trouble.Err == nil {
		return s
	}
	t := c.trouble
	if c.doneSince(t.At) {
		t.Since = time.Time{}
	}
	if t.Paused = c.paused; !c.paused && s.Retrying == 0 && t.Since.IsZero() {
		return s
	}
	for _, at := range c.waiting {
		if c.paused && at.Before(c.until) {
			at = c.until
		}
		if t.NextTry.IsZero() || at.Before(t.NextTry) {
			t.NextTry = at
		}
	}
	s.Trouble = &t
	return s
}
