package pipeline

import (
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// breakAfter is how many transient errors in a row, with nothing done in between, are an outage and not bad luck.
	breakAfter = 8
	// probeMax bounds the wait between two probes: how long an upstream may be back before work goes on.
	probeMax = 5 * time.Second
	// pauseMax bounds what an upstream's Retry-After is believed.
	pauseMax = 10 * time.Minute
	// Those that waited for the end of an outage come back one by one, rejoinEach apart on average, but all of them within
	// rejoinMax.
	rejoinEach = 10 * time.Millisecond
	rejoinMax  = 3 * time.Second
)

// breaker holds a stage's attempts back while what it depends on is out. It opens after breakAfter transient errors in a
// row, or at once when an upstream names a time (Retry-After), which then holds for all. While it is open one item at a time
// goes through, as a probe; the others wait where they are, keep their places, and so stop what comes behind them. A probe
// that does what the stage is for closes it.
//
// A probe says nothing if it ends as permanent, as a skip, or with an error of the item's own: that may have been decided
// without the upstream. The next one then goes at once.
//
// Its methods are safe for concurrent use.
type breaker struct {
	retry Retry // of probes
	// shows is told of each change: whether attempts are held back, and when the next probe is due. It must not call back.
	shows func(open bool, until time.Time)

	mu       sync.Mutex
	failures int  // in a row
	open     bool // attempts are held back
	probing  bool // a probe is under way
	probes   int  // in a row, in vain
	until    time.Time
	named    bool // by an upstream: only a probe after it can tell that it is over
	waiting  int
	changed  chan struct{} // closed and replaced when one of those that wait has to look again
}

func newBreaker(r Retry, shows func(open bool, until time.Time)) *breaker {
	r.Max = min(r.Max, probeMax)
	return &breaker{retry: r, shows: shows, changed: make(chan struct{})}
}

// enter waits until an attempt may be made and reports whether it is a probe, and false for ok if one of the channels ended
// the wait. waits is told whenever the time of the next probe changes.
func (b *breaker) enter(waits func(until time.Time), stop ...<-chan struct{}) (probe, ok bool) {
	first := true
	for {
		b.mu.Lock()
		now := time.Now()
		switch {
		case !b.open && first:
			b.mu.Unlock()
			return false, true
		case !b.open:
			spread := min(time.Duration(b.waiting)*rejoinEach, rejoinMax)
			b.mu.Unlock()
			if !wait(rand.N(spread+1), nil, stop) {
				b.leave()
				return false, false
			}
			b.mu.Lock()
			again := b.open
			if !again {
				b.waiting--
			}
			b.mu.Unlock()
			if !again {
				return false, true
			}
			continue
		case !b.probing && !now.Before(b.until):
			b.probing = true
			if !first {
				b.waiting--
			}
			b.mu.Unlock()
			return true, true
		}
		if first {
			first = false
			b.waiting++
		}
		until, changed := b.until, b.changed
		pause := until.Sub(now)
		if b.probing {
			pause = pauseMax // the probe's end is told
		}
		b.mu.Unlock()
		waits(until)
		if !wait(pause, changed, stop) {
			b.leave()
			return false, false
		}
	}
}

func (b *breaker) leave() {
	b.mu.Lock()
	b.waiting--
	b.mu.Unlock()
}

// wait returns true after d, or when wake is closed; false if one of stop is.
func wait(d time.Duration, wake <-chan struct{}, stop []<-chan struct{}) bool {
	var s [2]<-chan struct{} // nil blocks for ever
	copy(s[:], stop)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-wake:
		return true
	case <-s[0]:
	case <-s[1]:
	}
	return false
}

// report takes an attempt that enter let through. It returns whether the breaker opened or closed by it.
// MUST be called once for each enter that returned ok.
func (b *breaker) report(probe bool, err *Error) (opened, closed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if probe {
		b.probing = false
		defer b.tell()
	}
	switch {
	case err == nil:
		b.failures = 0
		if b.open && (probe || !b.named) {
			b.open, b.named, b.probes = false, false, 0
			b.tell()
			return false, true
		}
	case err.Kind == KindTransient && !err.Alone:
		b.failures++
		named := min(err.RetryAfter, pauseMax)
		if !b.open && b.failures < breakAfter && named <= 0 {
			return false, false
		}
		// Attempts that were under way when it opened add nothing, unless an upstream names a later time.
		if probe || !b.open {
			b.probes++
			b.until = time.Now().Add(b.retry.delay(b.probes))
		}
		if named > 0 {
			// Nobody may come before the time, and not all at it.
			if t := time.Now().Add(named + rand.N(named/10+time.Millisecond)); t.After(b.until) {
				b.until = t
			}
			b.named = true
		}
		opened = !b.open
		b.open = true
		b.tell()
	}
	return opened, false
}

// tell wakes those that wait and shows how things are. The caller holds the lock.
func (b *breaker) tell() {
	b.shows(b.open, b.until)
	close(b.changed)
	b.changed = make(chan struct{})
}
