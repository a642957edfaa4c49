package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// budgetKey is the record's key in the bucket: of a campaign, or of the deployment for "". Campaign names have no dots.
func budgetKey(campaign, upstream string) string {
	if campaign == "" {
		return "deployment." + upstream
	}
	return "campaign." + campaign + "." + upstream
}

// kvBudgets is the bucket as a budgetStore.
type kvBudgets struct{ q *Queue }

func (s kvBudgets) get(ctx context.Context, key string) ([]byte, uint64, time.Time, error) {
	ctx, cancel := s.q.within(ctx)
	defer cancel()
	e, err := s.q.budgets.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, 0, time.Time{}, errNoBudget
	}
	if err != nil {
		return nil, 0, time.Time{}, fmt.Errorf("reading budget %s: %w", key, err)
	}
	return e.Value(), e.Revision(), e.Created(), nil
}

func (s kvBudgets) put(ctx context.Context, key string, data []byte, revision uint64) error {
	ctx, cancel := s.q.within(ctx)
	defer cancel()
	var err error
	if revision == 0 {
		_, err = s.q.budgets.Create(ctx, key, data)
	} else {
		_, err = s.q.budgets.Update(ctx, key, data, revision)
	}
	if errors.Is(err, jetstream.ErrKeyExists) || errors.Is(verdict(err), errOverruled) {
		err = ErrConflict
	}
	if err != nil {
		return fmt.Errorf("changing budget %s: %w", key, err)
	}
	return nil
}

// CheckRate refuses what cannot be a budget: perMinute requests to the upstream, 0 for none.
func CheckRate(upstream string, perMinute int64) error {
	if !slices.Contains(Upstreams(), upstream) {
		return fmt.Errorf("no upstream %q: want one of %q", upstream, Upstreams())
	}
	if perMinute < 0 || perMinute > maxRate {
		return fmt.Errorf("%d requests a minute to %s: want 1 to %d, or none", perMinute, upstream, maxRate)
	}
	return nil
}

// SetRate gives the campaign (the deployment for "") a budget of so many requests a minute to the upstream, shared by all
// its workers; 0 takes it away. It holds for every token from the moment on that SetRate returns; tokens that were granted
// before are used within two seconds. Workers hear within two seconds of a budget where there was none.
func (q *Queue) SetRate(ctx context.Context, campaign, upstream string, perMinute int64) error {
	if err := CheckRate(upstream, perMinute); err != nil {
		return err
	}
	return setRate(ctx, kvBudgets{q}, budgetTempo, budgetKey(campaign, upstream), perMinute)
}

func setRate(ctx context.Context, s budgetStore, t tempo, key string, perMinute int64) error {
	for {
		rec := &budgetRecord{}
		data, revision, stamp, err := s.get(ctx, key)
		switch {
		case errors.Is(err, errNoBudget):
			if perMinute == 0 {
				return nil
			}
		case err != nil:
			return err
		default:
			// One that cannot be read is replaced: that is what the operator can do about it.
			if old, err := decodeBudget(data); err == nil {
				rec = old
				rec.settle(t, stamp)
			}
		}
		rec.Rate = perMinute
		if data, err = rec.encode(); err != nil {
			return fmt.Errorf("writing budget %s: %w", key, err)
		}
		if err := s.put(ctx, key, data, revision); !errors.Is(err, ErrConflict) {
			return err
		}
		if !sleep(ctx, time.Millisecond) { // workers take tokens about once a second
			return context.Cause(ctx)
		}
	}
}

// BudgetState is how a budget stands.
type BudgetState struct {
	// Campaign is "" for the deployment's budget.
	Campaign string `json:"campaign,omitempty"`
	Upstream string `json:"upstream"`
	// PerMinute is the budget; 0 for none.
	PerMinute int64 `json:"perMinute"`
	// Granted is how many tokens were taken in the last minute, or in up to five seconds more.
	Granted int64 `json:"granted"`
	// HeldUntil is when the upstream takes requests again, as it said itself; zero if it did not.
	HeldUntil time.Time `json:"heldUntil,omitzero"`
	// Takers took or wanted tokens in the last minute. They are sorted by worker.
	Takers []BudgetTaker `json:"takers"`
}

// BudgetTaker is a worker's part of a budget.
type BudgetTaker struct {
	Worker string `json:"worker"`
	// Wants is how many tokens it wanted for the next second when it was last heard of.
	Wants int64 `json:"wants"`
	// Granted is how many tokens it took in the two seconds before.
	Granted int64     `json:"granted"`
	Seen    time.Time `json:"seen"`
}

// Rates returns how the budgets of the campaign (of the deployment for "") stand, in the order of Upstreams, those without
// a budget left out.
func (q *Queue) Rates(ctx context.Context, campaign string) ([]BudgetState, error) {
	var out []BudgetState
	for _, u := range Upstreams() {
		data, _, stamp, err := kvBudgets{q}.get(ctx, budgetKey(campaign, u))
		if errors.Is(err, errNoBudget) {
			continue
		}
		var rec *budgetRecord
		if err == nil {
			rec, err = decodeBudget(data)
		}
		if err != nil {
			return nil, fmt.Errorf("budget of %s: %w", u, err)
		}
		if rec.Rate == 0 {
			continue
		}
		rec.settle(budgetTempo, stamp)
		// A budget that nobody takes from is not written to either. The clocks of this machine and of the server are
		// assumed to be near each other here: it is for people to read.
		rec.forget(budgetTempo, max(time.Now().UnixNano(), stamp.UnixNano()))
		out = append(out, rec.state(campaign, u))
	}
	return out, nil
}

func (r *budgetRecord) state(campaign, upstream string) BudgetState {
	s := BudgetState{Campaign: campaign, Upstream: upstream, PerMinute: r.Rate, Granted: r.used(), Takers: []BudgetTaker{}}
	if r.Hold > time.Now().UnixNano() {
		s.HeldUntil = time.Unix(0, r.Hold).UTC()
	}
	for name, w := range r.Takers {
		if !workerID.MatchString(name) {
			continue
		}
		t := BudgetTaker{Worker: name, Wants: w.Want, Seen: time.Unix(0, w.Seen).UTC().Truncate(time.Millisecond)}
		for _, g := range w.Took {
			t.Granted += g[1]
		}
		s.Takers = append(s.Takers, t)
	}
	slices.SortFunc(s.Takers, func(x, y BudgetTaker) int { return cmp.Compare(x.Worker, y.Worker) })
	return s
}
