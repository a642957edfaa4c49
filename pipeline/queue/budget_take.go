package queue

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Budget is a process's part of the budgets that hold for one campaign: the campaign's own and the deployment's. It is
// safe for concurrent use.
type Budget struct {
	b        *Budgets
	campaign string
}

// Campaign returns the budgets that hold for a campaign.
func (b *Budgets) Campaign(name string) *Budget { return &Budget{b, name} }

// Deployment returns the deployment's budgets alone, for what is done for no campaign.
func (b *Budgets) Deployment() *Budget { return &Budget{b: b} }

// Take waits until a request may be made to each of the upstreams, in the order of the calls, urgent ones first. What it
// returns MUST be asked right before the request: it reports whether the request to the upstream may be made under this
// permission, which is over after about two seconds, and good for one request. Whoever is told no takes again, urgently.
//
// The error is ctx's cause, or says that the budgets are closed.
func (b *Budget) Take(ctx context.Context, urgent bool, upstreams ...string) (use func(upstream string) bool, err error) {
	w, err := b.b.wait(ctx, b.campaign, urgent, upstreams)
	if err != nil {
		return nil, fmt.Errorf("waiting for the budget of %s: %w", strings.Join(upstreams, " and "), err)
	}
	return w.use, nil
}

// Wait waits until a request to the upstream may be made, which is now.
func (b *Budget) Wait(ctx context.Context, upstream string) error {
	for urgent := false; ; urgent = true {
		use, err := b.Take(ctx, urgent, upstream)
		if err != nil {
			return err
		}
		if use(upstream) {
			return nil
		}
	}
}

// Pause makes known that the upstream asked for no requests for d: no worker gets tokens of a budget that holds for the
// campaign until then. Where there is no budget, nothing is shared.
func (b *Budget) Pause(upstream string, d time.Duration) {
	b.b.mu.Lock()
	defer b.b.mu.Unlock()
	now := time.Now()
	for _, m := range []*meter{b.b.meters[meterKey{b.campaign, upstream}], b.b.meters[meterKey{"", upstream}]} {
		if m == nil || m.rate == 0 || !m.running || d <= 0 {
			continue
		}
		if until := now.Add(min(d, maxHold)); until.After(m.pause) {
			m.pause = until
		}
		m.leases = nil
		select {
		case m.wake <- struct{}{}:
		default:
		}
	}
}

// waiter is a caller of Take.
type waiter struct {
	upstreams []string
	line      *line
	ready     chan struct{} // closed when it has its tokens
	gone      bool

	mu    sync.Mutex
	until []time.Time // by upstream: until when the permission is good; zero once it was used
}

// use implements what Take returns.
func (w *waiter) use(upstream string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, u := range w.upstreams {
		if u == upstream && !w.until[i].IsZero() {
			ok := !over(w.until[i], time.Now())
			w.until[i] = time.Time{}
			return ok
		}
	}
	return false
}

// line is the callers that wait for the same budgets, the first one first.
type line struct {
	key     string
	meters  []*meter // of each upstream, the campaign's, if there is one, and then the deployment's
	waiters []*waiter
	waiting int // without those that are gone
}

// lines are served in turn.
type lines struct {
	list []*line
	turn int
}

// line returns the line for the budgets.
func (b *Budgets) line(ls *lines, campaign string, upstreams []string, now time.Time) *line {
	var meters []*meter
	for _, u := range upstreams {
		if campaign != "" {
			meters = append(meters, b.meter(meterKey{campaign, u}, now))
		}
		meters = append(meters, b.meter(meterKey{"", u}, now))
	}
	key := campaign + " " + strings.Join(upstreams, " ")
	for _, l := range ls.list {
		if l.key == key && l.waiting > 0 { // so the meters are the same
			return l
		}
	}
	l := &line{key: key, meters: meters}
	ls.list = append(ls.list, l)
	return l
}

func (b *Budgets) wait(ctx context.Context, campaign string, urgent bool, upstreams []string) (*waiter, error) {
	w := &waiter{upstreams: upstreams, ready: make(chan struct{}), until: make([]time.Time, len(upstreams))}
	b.mu.Lock()
	if b.ctx.Err() != nil {
		b.mu.Unlock()
		return nil, errBudgetsClosed
	}
	now := time.Now()
	ls := &b.normal
	if urgent {
		ls = &b.urgent
	}
	w.line = b.line(ls, campaign, upstreams, now)
	w.line.waiters = append(w.line.waiters, w)
	w.line.waiting++
	for _, m := range w.line.meters {
		if m.waiting++; m.waiting == 1 {
			m.since = now
		}
	}
	b.dispatch(now)
	b.mu.Unlock()

	var err error
	select {
	case <-w.ready:
		return w, nil
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-b.ctx.Done():
		err = errBudgetsClosed
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if w.gone { // at the same time
		return w, nil
	}
	b.leave(w)
	return nil, err
}

// leave takes a waiter out of the counts; it is skipped in its line. b.mu MUST be held.
func (b *Budgets) leave(w *waiter) {
	w.gone = true
	w.line.waiting--
	for _, m := range w.line.meters {
		m.waiting--
	}
}

// dispatch gives tokens to whoever waits, as far as there are any. b.mu MUST be held.
func (b *Budgets) dispatch(now time.Time) {
	b.urgent.dispatch(b, now)
	b.normal.dispatch(b, now)
}

// dispatch serves one waiter of each line after the other, until each line's first one finds a budget without tokens.
func (ls *lines) dispatch(b *Budgets, now time.Time) {
	for vain := 0; vain < len(ls.list); {
		if ls.turn >= len(ls.list) {
			ls.turn = 0
		}
		l := ls.list[ls.turn]
		for len(l.waiters) > 0 && l.waiters[0].gone {
			l.waiters = l.waiters[1:]
		}
		if len(l.waiters) == 0 {
			ls.list = append(ls.list[:ls.turn], ls.list[ls.turn+1:]...)
			vain = 0
			continue
		}
		w := l.waiters[0]
		if !w.serve(now) {
			vain++
			ls.turn++
			continue
		}
		l.waiters = l.waiters[1:]
		b.leave(w)
		close(w.ready)
		vain = 0
		ls.turn++
	}
}

// serve takes a token from each of the waiter's budgets, or none, and wakes the taker of the first one that has none.
func (w *waiter) serve(now time.Time) bool {
	for _, m := range w.line.meters {
		if !m.has(now) {
			select {
			case m.wake <- struct{}{}:
			default:
			}
			return false
		}
	}
	each := len(w.line.meters) / len(w.upstreams)
	for i, m := range w.line.meters {
		if i%each == 0 || w.line.meters[i-1].free() {
			m.used++
		}
		if until := m.spend(); w.until[i/each].IsZero() || until.Before(w.until[i/each]) {
			w.until[i/each] = until
		}
	}
	return true
}

// waitingFor is how many callers a meter should have tokens for. The deployment's leaves out those whose campaign has none
// for them: others may need the tokens. b.mu MUST be held.
func (b *Budgets) waitingFor(m *meter) int64 {
	if m.campaign != "" {
		return int64(m.waiting)
	}
	sum := int64(0)
	for _, ls := range []*lines{&b.urgent, &b.normal} {
		for _, l := range ls.list {
			if !slices.Contains(l.meters, m) {
				continue
			}
			n := int64(l.waiting)
			for _, x := range l.meters {
				if x.campaign != "" && !x.free() {
					n = min(n, x.left())
				}
			}
			sum += n
		}
	}
	return sum
}

func compareKeys(a, b meterKey) int {
	return cmp.Or(cmp.Compare(a.campaign, b.campaign), cmp.Compare(a.upstream, b.upstream))
}
