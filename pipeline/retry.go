package pipeline

import (
	"cmp"
	"math/rand/v2"
	"time"
)

// Retry is how a transient error is met: attempts in place with growing, jittered delays; then the item goes back to the
// queue and others get its place. Transient errors never set a package aside, however long they last.
type Retry struct {
	// Attempts is how many attempts an item gets in place.
	Attempts int
	// Base is the first delay, doubled with each attempt up to Max. Each delay is jittered by half, so that many items
	// that failed together do not come back together.
	Base, Max time.Duration
}

// DefaultRetry waits 0.5 s, 1 s, 2 s, … up to 30 s, and gives an item back after the sixth attempt.
var DefaultRetry = Retry{Attempts: 6, Base: 500 * time.Millisecond, Max: 30 * time.Second}

func (r Retry) withDefault() Retry { return cmp.Or(r, DefaultRetry) }

// delay is the wait after the nth failed attempt, from 1.
func (r Retry) delay(n int) time.Duration {
	d := r.Base
	for range min(n-1, 30) {
		if d >= r.Max {
			break
		}
		d *= 2
	}
	d = min(d, r.Max)
	return d/2 + rand.N(d/2+1)
}
