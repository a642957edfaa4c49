package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Upstreams are the services that can have a budget.
func Upstreams() []string { return []string{"fulcio", "timestamp", "rekor"} }

// Budgets takes tokens from the rate budgets of a deployment and of its campaigns, for one process: one token for each
// request to an upstream, from the campaign's budget and from the deployment's. Where neither has a budget for the
// upstream, nothing is waited for. It is safe for concurrent use by thousands.
//
// A budget costs a worker about one read and one write a second, while it has demand. Without contact to the server no
// token is given, except that an absence of budgets which was read less than five seconds ago holds.
type Budgets struct {
	store  budgetStore
	worker string
	log    *slog.Logger
	tempo  tempo

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	clock  serverClock
	meters map[meterKey]*meter
	urgent lines
	normal lines
}

// budgetStore holds the records. Its errors are errNoBudget, ErrConflict, or what kept it from answering.
type budgetStore interface {
	// get returns a record, its revision, and the time at which the server stored it, by the server's clock.
	get(ctx context.Context, key string) (data []byte, revision uint64, stamp time.Time, err error)
	// put replaces the record that has the revision; 0 if there is none.
	put(ctx context.Context, key string, data []byte, revision uint64) error
}

var errNoBudget = errors.New("no such budget")

// errBudgetsClosed is what Take returns after Close.
var errBudgetsClosed = errors.New("the budgets are closed")

// Budgets returns the process's part of all budgets. The worker's id is what others see it take tokens as: see WorkerID.
// The caller MUST Close it.
func (q *Queue) Budgets(worker string) *Budgets {
	return newBudgets(kvBudgets{q}, worker, budgetTempo, q.log)
}

func newBudgets(store budgetStore, worker string, t tempo, log *slog.Logger) *Budgets {
	ctx, cancel := context.WithCancel(context.Background())
	return &Budgets{store: store, worker: worker, log: log, tempo: t, ctx: ctx, cancel: cancel, meters: map[meterKey]*meter{}}
}

// Close ends all work for the budgets. Whoever waits in Take gets an error.
func (b *Budgets) Close() {
	b.mu.Lock() // so that no taker starts once it is waited for
	b.cancel()
	b.mu.Unlock()
	b.wg.Wait()
}

type meterKey struct{ campaign, upstream string } // campaign is "" for the deployment's

// meter is what the process has of one budget.
type meter struct {
	meterKey
	key       string    // of the record
	leases    []lease   // the oldest first
	unlimited time.Time // until when it is known that there is no budget
	rate      int64     // as last read

	waiting int       // callers
	since   time.Time // when the first of an unbroken row of callers began to wait
	touched time.Time // when somebody last took, or wanted to
	used    int64     // tokens since cycled; the deployment's only where the campaign has no budget
	wasted  int64     // tokens that nobody used in time, since cycled
	most    int64     // to ask for at once; 0: no bound
	cycled  time.Time
	flow    float64 // tokens used in a period, lately

	pause   time.Time // until when the upstream wants to be left alone; zero if that is known to all
	failing error     // why the last cycle failed
	logged  time.Time
	running bool
	wake    chan struct{} // holds one: somebody found no token
}

// lease is tokens that may be used until a time: by the monotonic clock, which goes on while a process is stopped, and by
// the wall clock too, which goes on while a machine sleeps.
type lease struct {
	n     int64
	until time.Time
}

func over(until, now time.Time) bool {
	return !now.Before(until) || !now.Round(0).Before(until.Round(0))
}

// has says whether a request may be made now.
func (m *meter) has(now time.Time) bool {
	m.leases = slices.DeleteFunc(m.leases, func(l lease) bool {
		if over(l.until, now) {
			m.wasted += l.n
			return true
		}
		return l.n == 0
	})
	return len(m.leases) > 0 || !over(m.unlimited, now)
}

// spend takes the token that has says is there, and returns until when it is good.
func (m *meter) spend() time.Time {
	if len(m.leases) == 0 {
		return m.unlimited
	}
	m.leases[0].n--
	return m.leases[0].until
}

// free says that there was no budget when the meter was last read.
func (m *meter) free() bool { return !m.unlimited.IsZero() }

func (m *meter) left() (n int64) {
	for _, l := range m.leases {
		n += l.n
	}
	return n
}

// want is how many tokens to ask for, for the next period: those that callers wait for, and those that flow through.
//
// Where callers wait and tokens are left all the same, another budget is what keeps them, and others may need the tokens:
// then what flows through is enough. After some were not used in time, no more than that is asked for at once, and twice as
// much each time that all were used.
func (m *meter) want(t tempo, waiting int64, now time.Time) int64 {
	m.has(now) // forgets what is over
	elapsed := max(now.Sub(m.cycled), t.period/10)
	m.flow = max(float64(m.used)*float64(t.period)/float64(elapsed), m.flow/2)
	through := int64(math.Ceil(1.25 * m.flow))
	if m.wasted > 0 {
		m.most = max(1, through)
	} else if m.most *= 2; m.most > maxRate {
		m.most = 0
	}
	m.used, m.wasted, m.cycled = 0, 0, now
	left := m.left()
	want := waiting + int64(m.flow+0.5) - left
	if left > 0 && waiting > 0 {
		want = max(1, through) - left
	}
	if m.most > 0 {
		want = min(want, m.most)
	}
	return min(max(want, 0), maxBudgetWant)
}

// meter returns the meter of a budget with its taker running. b.mu MUST be held.
func (b *Budgets) meter(k meterKey, now time.Time) *meter {
	m := b.meters[k]
	if m == nil {
		m = &meter{meterKey: k, key: budgetKey(k.campaign, k.upstream), wake: make(chan struct{}, 1), cycled: now}
		b.meters[k] = m
	}
	m.touched = now
	if !m.running && b.ctx.Err() == nil {
		m.running = true
		b.wg.Go(func() { b.take(m) })
	}
	return m
}

// take asks for tokens as long as somebody wants some.
func (b *Budgets) take(m *meter) {
	for {
		delay, early := b.cycle(b.ctx, m)
		planned := time.NewTimer(delay)
		soon := time.NewTimer(min(delay, b.tempo.period/10))
		select {
		case <-b.ctx.Done():
		case <-planned.C:
		case <-soon.C:
			wake := m.wake
			if !early {
				wake = nil // asking before that would be in vain
			}
			select {
			case <-b.ctx.Done():
			case <-planned.C:
			case <-wake:
			}
		}
		planned.Stop()
		soon.Stop()
		b.mu.Lock()
		idle := m.waiting == 0 && m.pause.IsZero() && time.Since(m.touched) > 5*b.tempo.period
		if idle || b.ctx.Err() != nil {
			m.running = false
			delete(b.meters, m.meterKey)
			b.mu.Unlock()
			return
		}
		b.mu.Unlock()
	}
}

// cycle learns how the budget stands and takes tokens if they are wanted. It returns when to do so again, and whether it
// may be done earlier if somebody finds no token.
func (b *Budgets) cycle(ctx context.Context, m *meter) (next time.Duration, early bool) {
	t := b.tempo
	ctx, cancel := context.WithTimeout(ctx, t.lease) // what comes later is of no use
	defer cancel()
	b.mu.Lock()
	want := m.want(t, b.waitingFor(m), time.Now())
	b.mu.Unlock()
	for attempt := 1; ; attempt++ {
		asked := time.Now()
		data, revision, stamp, err := b.store.get(ctx, m.key)
		if errors.Is(err, errNoBudget) {
			return b.none(m, asked)
		}
		var rec *budgetRecord
		if err == nil {
			rec, err = decodeBudget(data)
		}
		if err != nil {
			return b.failed(m, err)
		}
		if rec.Rate == 0 {
			return b.none(m, asked)
		}
		rec.settle(t, stamp)
		b.mu.Lock()
		read := time.Now()
		b.clock.observe(t, revision, stamp, read, false)
		now := b.clock.at(read)
		certain := b.clock.certain(t, read)
		m.rate, m.unlimited, m.failing = rec.Rate, time.Time{}, nil
		until, pause := m.pause, time.Duration(0)
		if !until.IsZero() {
			pause = min(max(until.Sub(read), 1), maxHold)
		}
		b.mu.Unlock()

		n := int64(0)
		if pause == 0 {
			n = rec.grant(t, b.worker, want, now)
		}
		me := rec.Takers[b.worker]
		heard := me.Seen > now-int64(t.period)*8/10 && me.Want > 0
		if pause == 0 && n == 0 && (want == 0 || heard) {
			b.done(m, 0, read, until)
			return b.later(rec, want, now)
		}
		rec.Last = budgetGrant{Worker: b.worker, N: n, Want: want, Pause: int64(pause)}
		if data, err = rec.encode(); err != nil {
			return b.failed(m, err)
		}
		sent := time.Now()
		err = b.store.put(ctx, m.key, data, revision)
		switch {
		case errors.Is(err, ErrConflict) && attempt < 8:
			if sleep(ctx, rand.N(time.Duration(attempt)*t.period/50)) {
				continue
			}
			return b.failed(m, context.Cause(ctx))
		case errors.Is(err, ErrConflict):
			return t.period / 10, false
		case err != nil:
			return b.failed(m, err)
		}
		b.done(m, n, sent, until)
		if !certain {
			// Our own revision says what time it is on the server.
			if _, revision, stamp, err := b.store.get(ctx, m.key); err == nil {
				b.mu.Lock()
				read := time.Now()
				b.clock.observe(t, revision, stamp, read, true)
				b.mu.Unlock()
				if n < want && attempt < 8 {
					want -= n
					continue
				}
			}
		}
		if n > 0 && n == want {
			return b.beat(), true
		}
		return b.later(rec, want, now)
	}
}

// later is when to ask again after what is wanted was not given.
func (b *Budgets) later(rec *budgetRecord, want, now int64) (time.Duration, bool) {
	beat := b.beat()
	if want == 0 {
		return beat, true
	}
	if rec.Last.N > 0 {
		return beat, false
	}
	due := time.Duration(max(rec.due(b.tempo)-now, 0))
	return min(max(due, b.tempo.period/4), beat), false
}

// beat is one period, or a little more or less: workers that were started at once must not stay in step.
func (b *Budgets) beat() time.Duration {
	return b.tempo.period*9/10 + rand.N(b.tempo.period/5)
}

// none: there is no budget.
func (b *Budgets) none(m *meter, asked time.Time) (time.Duration, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m.rate, m.failing, m.leases, m.pause = 0, nil, nil, time.Time{}
	m.unlimited = asked.Add(5 * b.tempo.period)
	b.dispatch(time.Now())
	return b.tempo.period + b.beat(), true
}

// done takes n tokens that were asked for at the time; the pause is known to all.
func (b *Budgets) done(m *meter, n int64, sent, pause time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > 0 {
		m.leases = append(m.leases, lease{n, sent.Add(b.tempo.lease)})
	}
	if m.pause.Equal(pause) {
		m.pause = time.Time{}
	}
	now := time.Now()
	b.dispatch(now)
	if m.waiting > 0 && now.Sub(m.since) > 10*b.tempo.period && now.Sub(m.logged) > 30*b.tempo.period {
		m.logged = now
		b.log.Info("waiting for the budget", "upstream", m.upstream, "campaign", m.campaign, "per_minute", m.rate, "waiting", m.waiting)
	}
}

// failed: how the budget stands is not known.
func (b *Budgets) failed(m *meter, err error) (time.Duration, bool) {
	if b.ctx.Err() != nil {
		return 0, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	m.failing = err
	if now := time.Now(); m.waiting > 0 && now.Sub(m.logged) > 30*b.tempo.period {
		m.logged = now
		b.log.Warn("no requests are made while the budget cannot be asked for", "upstream", m.upstream, "campaign", m.campaign,
			"waiting", m.waiting, "error", err)
	}
	return b.tempo.period/4 + rand.N(b.tempo.period/4), false
}

// BudgetWait is what callers of this process wait for.
type BudgetWait struct {
	Campaign  string    // "" for the deployment's budget
	Upstream  string    // one of Upstreams
	PerMinute int64     // 0: not known
	Waiting   int       // callers
	Since     time.Time // since when there is always one
	Err       error     // why the budget cannot be asked for; nil if it only has no tokens
}

// String says it in one line.
func (w BudgetWait) String() string {
	of := "campaign " + w.Campaign
	if w.Campaign == "" {
		of = "the deployment"
	}
	if w.Err != nil {
		return fmt.Sprintf("the budget of %s for %s cannot be asked for: %v", w.Upstream, of, w.Err)
	}
	return fmt.Sprintf("waiting for the budget of %s for %s: %d/min", w.Upstream, of, w.PerMinute)
}

// Waiting tells what callers of this process wait for at the moment, sorted by campaign and upstream. Callers that wait for
// two budgets are counted in both, unless one has tokens for them.
func (b *Budgets) Waiting() []BudgetWait {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	var out []BudgetWait
	for _, m := range b.meters {
		if m.waiting > 0 && !m.has(now) {
			out = append(out, BudgetWait{m.campaign, m.upstream, m.rate, m.waiting, m.since, m.failing})
		}
	}
	slices.SortFunc(out, func(x, y BudgetWait) int {
		return compareKeys(meterKey{x.Campaign, x.Upstream}, meterKey{y.Campaign, y.Upstream})
	})
	return out
}

// WaitingByUpstream is how many callers wait for each upstream: what Waiting tells, for a metric.
func (b *Budgets) WaitingByUpstream() map[string]int64 {
	all, out := map[string]int64{}, map[string]int64{}
	for _, w := range b.Waiting() {
		if w.Campaign == "" {
			all[w.Upstream] = int64(w.Waiting) // the campaigns' among them
		} else {
			out[w.Upstream] += int64(w.Waiting)
		}
	}
	maps.Copy(out, all)
	return out
}

// sleep waits for d and reports whether it did; false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
