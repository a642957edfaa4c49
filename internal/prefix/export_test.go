package prefix

import (
	"context"
	"time"
)

// OnPause has a client call f instead of pausing.
func OnPause(c *Client, f func(time.Duration)) {
	c.pause = func(ctx context.Context, d time.Duration) error { f(d); return ctx.Err() }
}

// SetClock gives t another clock.
func SetClock(t *Trusted, now func() time.Time) { t.now = now }

// Raw shows a token.
func Raw(t Token) string { return t.raw }
