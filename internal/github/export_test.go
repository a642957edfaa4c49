package github

import (
	"context"
	"time"
)

// OnPause has a client call f instead of pausing, and go by the clock now.
func OnPause(a *Attestations, f func(time.Duration), now func() time.Time) {
	a.pause = func(ctx context.Context, d time.Duration) error { f(d); return ctx.Err() }
	a.now = now
}

// Unpacked is unpacked.
func Unpacked(raw []byte) []byte { return unpacked(raw) }
