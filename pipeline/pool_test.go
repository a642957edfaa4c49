package pipeline

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func (p *Pool) holds() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held
}

func TestPoolBoundsItemsOfAllCampaignsAndPartsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool(60, 5)
		type camp struct {
			q     *memory
			now   atomic.Int64
			done  atomic.Int64
			share *Share
			res   chan error
			drain context.CancelFunc
		}
		var all, most atomic.Int64
		begin := func(n int, live bool) *camp {
			c := &camp{q: newMemory(n), share: p.Join(live)}
			c.res, c.drain = start(t, &Runner{Source: c.q, Ledger: c.q, Share: c.share, Steps: []Step{step("sign", 100, func(context.Context, *Item) error {
				c.now.Add(1)
				n := all.Add(1)
				most.Store(max(most.Load(), n))
				time.Sleep(time.Second)
				c.now.Add(-1)
				all.Add(-1)
				c.done.Add(1)
				return nil
			})}})
			return c
		}
		one := begin(100000, false)
		time.Sleep(10 * time.Second)
		if n := one.now.Load(); n < 55 {
			t.Errorf("a campaign alone has %d of 60 places", n)
		}
		two := begin(100000, false)
		time.Sleep(20 * time.Second)
		for i, c := range []*camp{one, two} {
			if n := c.now.Load(); n < 24 || n > 36 {
				t.Errorf("campaign %d of two has %d of 60 places", i+1, n)
			}
		}
		began := time.Now()
		live := begin(50, true)
		for live.done.Load() < 50 {
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("50 live items of a second each took %v beside two bulk campaigns", took)
		}
		if n := most.Load(); n > 60+3*5 {
			t.Errorf("%d items in flight at once", n)
		}
		for _, c := range []*camp{one, two, live} {
			c.drain()
			<-c.res
			c.share.Leave()
		}
		if p.held != 0 || len(p.shares) != 0 {
			t.Errorf("%d places held, %d shares at the end", p.held, len(p.shares))
		}
	})
}

// A campaign whose store is out for good holds as many places as it got, and the others go on.
func TestPoolAStuckCampaignStopsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool(20, 4)
		run := func(n int, f func() error) (*memory, chan error, context.CancelFunc) {
			q := newMemory(n)
			commits := step("sign", 4, ok)
			commits.Commits = true
			res, drain := start(t, &Runner{Source: q, Ledger: q, Share: p.Join(false), DrainTimeout: time.Second,
				Steps: []Step{commits, step("upload", 30, func(context.Context, *Item) error { return f() })}})
			return q, res, drain
		}
		_, res1, drain1 := run(1000, func() error { return errors.New("store is out") })
		time.Sleep(time.Minute)
		q, res2, drain2 := run(100, func() error { time.Sleep(100 * time.Millisecond); return nil })
		time.Sleep(time.Minute)
		if n := len(q.settled()); n != 100 {
			t.Errorf("%d of 100 items done beside a campaign that is stuck", n)
		}
		drain1()
		drain2()
		<-res1
		<-res2
	})
}

// Campaigns without items keep no places from those that have some.
func TestPoolIdleCampaignsHoldLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool(200, 1)
		var ends []func()
		for range 40 {
			q := newMemory(0)
			res, drain := start(t, &Runner{Source: q, Ledger: q, Share: p.Join(false), Steps: []Step{step("a", 50, ok)}})
			ends = append(ends, func() { drain(); <-res })
		}
		time.Sleep(time.Minute)
		if held := p.holds(); held > 40 {
			t.Errorf("40 idle campaigns hold %d places", held)
		}
		for _, end := range ends {
			end()
		}
	})
}

func TestPoolEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool(1, 0)
		a, b := p.Join(false), p.Join(false)
		if !a.take(t.Context()) || b.try() {
			t.Fatal("one place, two takers")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if b.take(ctx) {
			t.Fatal("got a place that was not free")
		}
		a.give()
		if p.held != 0 {
			t.Error(fmt.Sprint(p.held, " held: given to somebody who had gone"))
		}
	})
}
