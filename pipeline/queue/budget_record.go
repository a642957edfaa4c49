package queue

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// A budget is one key of the bucket: its record says how many requests a minute may be made and which tokens have been
// granted. Workers take tokens by compare-and-set; a token is a request that may be made within the lease's life.
//
// # Why no minute has more requests than the rate
//
// Let R be the rate, W one minute, L the life of a lease. Every grant has one time, T: when the server stored the revision
// that grants it, by the server's clock. Nobody writes that time; the server stamps it, and the next reader replays the
// grant at it (settle). Workers' clocks have no part in it.
//
// The record holds a schedule: if tokens went out one by one, evenly, the next one would be due at Next. A grant of n at T
// moves it on to max(Next, T) + n·I, I being the interval of one token, and is made only if the result is at most T + B·I:
// B tokens, those of burst (1.5 s), may be ahead of the schedule. (Whoever grants knows only a lower bound t of T, since the
// server has answered something stamped t meanwhile. It checks max(Next, t) + n·I ≤ t + B·I, and that is enough: if
// Next ≥ T, then Next + n·I ≤ t + B·I ≤ T + B·I; else the result is T + n·I, and n ≤ B follows from the check.)
//
// So for grants between T1 and T2, n of them: n·I ≤ (T2 + B·I) - T1, or n ≤ B + (T2 - T1)/I.
//
// A lease counts from before the request for it was sent, so it ends at T + L at the latest, and its tokens are used
// between T and T + L. The requests of any minute therefore have grants that lie less than W + L apart: n < B + (W + L)/I.
// With I = (W + L)/(R - B + 1) that is n < R + 1: at most R. What is left of the 5 % that a budget may be exceeded by is for
// what is outside of this reckoning: a connection that takes up to three seconds to carry a request that was made in time,
// a process that is stopped between the check and the request (it holds at most B tokens), and a step of the server's clock
// (forwards it gives B tokens at most; backwards, none are given until it is where it was, or for a minute).
//
// The price: with steady demand (W/(W+L))·(R-B+1)/R of the rate is used, about 94 %. The start is no exception: no minute
// is burst at once; what is not asked for within 1.5 s does not come back.
//
// A rate that is lowered holds for every grant after it, since it is in the same record; what was granted before is used
// within L.
type budgetRecord struct {
	Schema string `json:"schema"`
	// Rate is in tokens per minute; 0 means no budget: nobody needs to take anything.
	Rate int64 `json:"rate"`
	// Next and Hold are by the server's clock, in Unix nanoseconds. Until Hold nothing is granted: the upstream asked for it.
	Next int64 `json:"next,omitempty"`
	Hold int64 `json:"hold,omitempty"`
	// Last is what this revision did. Its time is the stamp of the revision.
	Last budgetGrant `json:"last,omitzero"`
	// Takers are those who took or wanted tokens in the last minute, by worker.
	Takers map[string]budgetTaker `json:"takers,omitempty"`
	// Used counts tokens in spans of a twelfth of a minute: [span, tokens].
	Used [][2]int64 `json:"used,omitempty"`
}

type budgetGrant struct {
	Worker string `json:"worker,omitempty"`
	N      int64  `json:"n,omitempty"`
	// Want is how many it wanted for the next period, these included.
	Want int64 `json:"want,omitempty"`
	// Pause is in nanoseconds from the stamp on.
	Pause int64 `json:"pause,omitempty"`
}

// budgetTaker is when a worker was last heard of, what it wanted, and what it took in the last two periods:
// [nanoseconds, tokens].
type budgetTaker struct {
	Seen int64      `json:"seen"`
	Want int64      `json:"want"`
	Took [][2]int64 `json:"took,omitempty"`
}

const (
	budgetSchema = "hallmark.budget/1"
	// maxRate keeps the interval of a token above a microsecond.
	maxRate       = 10_000_000
	maxBudget     = 256 << 10 // bytes of a record
	maxTakers     = 2048
	maxBudgetWant = 1 << 32
	// maxHold bounds how long one answer of an upstream keeps everybody from it.
	maxHold = time.Hour
)

// tempo are the times of a budget. Tests have faster ones.
type tempo struct {
	window time.Duration // what a rate is for
	lease  time.Duration // how long a token may be used, from before it was asked for
	period time.Duration // how often a worker asks while it has demand
}

var budgetTempo = tempo{window: time.Minute, lease: 2 * time.Second, period: time.Second}

// burst is how many tokens may be ahead of the schedule: those of one and a half periods, so that a worker which asks once
// a period, give or take, misses none.
func (t tempo) burst(rate int64) int64 {
	return max(1, int64(math.Ceil(float64(rate)*1.5*float64(t.period)/float64(t.window))))
}

// interval is the time of one token, in nanoseconds.
func (t tempo) interval(rate int64) int64 {
	n := rate - t.burst(rate) + 1
	return (int64(t.window+t.lease) + n - 1) / n
}

// active is how long a worker that was heard of counts as one that wants its part.
func (t tempo) active() int64 { return int64(3 * t.period) }

// settle replays what the revision did at the time of its stamp.
func (r *budgetRecord) settle(t tempo, stamp time.Time) {
	at := stamp.UnixNano()
	last := r.Last
	r.Last = budgetGrant{}
	if r.Rate > 0 && last.N > 0 {
		r.Next = max(r.Next, at) + last.N*t.interval(r.Rate)
		span := at / int64(t.window/12)
		if k := len(r.Used) - 1; k >= 0 && r.Used[k][0] >= span {
			r.Used[k][1] += last.N
		} else {
			r.Used = append(r.Used, [2]int64{span, last.N})
		}
	}
	if last.Pause > 0 {
		r.Hold = max(r.Hold, at+last.Pause)
	}
	// A server's clock that went back must not stop work for longer than it takes to be sure.
	r.Next = min(r.Next, at+int64(t.window+t.lease))
	r.Hold = min(r.Hold, at+int64(maxHold))
	if last.Worker != "" {
		if r.Takers == nil {
			r.Takers = map[string]budgetTaker{}
		}
		w := r.Takers[last.Worker]
		w.Seen, w.Want = at, last.Want
		if last.N > 0 {
			w.Took = append(w.Took, [2]int64{at, last.N})
		}
		r.Takers[last.Worker] = w
	}
	r.forget(t, at)
}

// forget removes what is too old to matter.
func (r *budgetRecord) forget(t tempo, now int64) {
	r.Used = slices.DeleteFunc(r.Used, func(u [2]int64) bool { return (u[0]+1)*int64(t.window/12) <= now-int64(t.window) })
	maps.DeleteFunc(r.Takers, func(_ string, w budgetTaker) bool {
		return w.Seen < now-int64(t.window) || w.Seen > now+int64(t.window)
	})
	for name, w := range r.Takers {
		w.Took = slices.DeleteFunc(slices.Clone(w.Took), func(g [2]int64) bool {
			return g[0] <= now-2*int64(t.period) || g[0] > now+2*int64(t.period)
		})
		r.Takers[name] = w
	}
}

// free is how many tokens the schedule allows at now, a lower bound of the time at which they are granted.
func (r *budgetRecord) free(t tempo, now int64) int64 {
	if now < r.Hold {
		return 0
	}
	i := t.interval(r.Rate)
	return max(0, (now+t.burst(r.Rate)*i-max(r.Next, now))/i)
}

// due is when the schedule allows the next token.
func (r *budgetRecord) due(t tempo) int64 {
	i := t.interval(r.Rate)
	return max(r.Hold, r.Next+i-t.burst(r.Rate)*i)
}

// grant is how many tokens the worker takes that wants some: what is free, and of what two periods bring no more than its
// part. The part of those who want less than theirs goes to the others; whoever was not heard of for three periods has
// none.
func (r *budgetRecord) grant(t tempo, worker string, want, now int64) int64 {
	n := min(want, r.free(t, now))
	if n <= 0 {
		return 0
	}
	wants := []int64{want}
	for name, w := range r.Takers {
		if name != worker && w.Want > 0 && w.Seen > now-t.active() {
			wants = append(wants, w.Want)
		}
	}
	if len(wants) == 1 {
		return n
	}
	// A fifth more, since whoever asks does so at its own beat: the schedule bounds the sum.
	part := int64(math.Ceil(1.2 * 2 * level(float64(t.period)/float64(t.interval(r.Rate)), wants)))
	for _, g := range r.Takers[worker].Took {
		if g[0] > now-2*int64(t.period) {
			part -= g[1]
		}
	}
	return max(0, min(n, max(part, 0)))
}

// level is how much each may have at most, so that what there is goes round: those who want less leave the rest to the
// others.
func level(total float64, wants []int64) float64 {
	slices.Sort(wants)
	for i, w := range wants {
		each := total / float64(len(wants)-i)
		if float64(w) >= each {
			return each
		}
		total -= float64(w)
	}
	return math.MaxInt32 // enough for all
}

// used is how many tokens were granted in the last minute, or a little more than that.
func (r *budgetRecord) used() int64 {
	var n int64
	for _, u := range r.Used {
		n += u[1]
	}
	return n
}

func (r *budgetRecord) encode() ([]byte, error) {
	r.Schema = budgetSchema
	return json.Marshal(r)
}

var errBudgetRecord = errors.New("the budget's record cannot be read")

// decodeBudget reads a record. Whoever may write to the bucket can write anything; what makes no sense is an error, and
// nothing is granted of it.
func decodeBudget(data []byte) (*budgetRecord, error) {
	if len(data) > maxBudget {
		return nil, fmt.Errorf("%w: it has %d bytes", errBudgetRecord, len(data))
	}
	var r budgetRecord
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("%w: %w", errBudgetRecord, err)
	}
	const farthest = math.MaxInt64 / 4
	ok := r.Schema == budgetSchema && r.Rate >= 0 && r.Rate <= maxRate && len(r.Takers) <= maxTakers && len(r.Used) <= 64 &&
		r.Next >= 0 && r.Next < farthest && r.Hold >= 0 && r.Hold < farthest && r.Last.N >= 0 && r.Last.N <= maxRate &&
		r.Last.Want >= 0 && r.Last.Want <= maxBudgetWant && r.Last.Pause >= 0 && r.Last.Pause <= int64(maxHold)
	for _, u := range r.Used {
		ok = ok && u[0] >= 0 && u[1] >= 0 && u[1] <= maxBudgetWant
	}
	for _, w := range r.Takers {
		ok = ok && w.Want >= 0 && w.Want <= maxBudgetWant && len(w.Took) <= 256
		for _, g := range w.Took {
			ok = ok && g[1] >= 0 && g[1] <= maxRate
		}
	}
	if !ok {
		return nil, fmt.Errorf("%w: it has numbers that make no sense, or another schema than %s", errBudgetRecord, budgetSchema)
	}
	return &r, nil
}
