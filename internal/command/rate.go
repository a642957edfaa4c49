package command

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/hallmark-attest/hallmark/pipeline/queue"
)

// PerMinute is a rate as it is given on a command line: a number from 1 on, or none, which is 0.
type PerMinute int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *PerMinute) UnmarshalText(text []byte) error {
	if string(text) == "none" {
		*p = 0
		return nil
	}
	n, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil || n < 1 {
		return fmt.Errorf("%q: want requests a minute from 1 on, or none", text)
	}
	*p = PerMinute(n)
	return nil
}

// String is the rate as it is given.
func (p PerMinute) String() string {
	if p == 0 {
		return "none"
	}
	return strconv.FormatInt(int64(p), 10) + "/min"
}

// RateFlags say how often the upstreams may be asked for a campaign.
type RateFlags struct {
	Rate map[string]PerMinute `placeholder:"UPSTREAM=N;…" help:"Make at most N requests a minute to the upstream (rekor, fulcio, timestamp) for this campaign, all workers together; none for no limit. Changed at any time by campaign rate."`
}

// CheckRates refuses what cannot be a budget.
func (f *RateFlags) CheckRates() error {
	for u, n := range f.Rate {
		if err := queue.CheckRate(u, int64(n)); err != nil {
			return Usage("the upstreams are "+strings.Join(queue.Upstreams(), ", "), fmt.Errorf("--rate: %w", err))
		}
	}
	return nil
}

// SetRates gives the campaign its budgets; those that the flags do not name stay as they are.
func (f *RateFlags) SetRates(ctx context.Context, q *queue.Queue, campaign string) error {
	for _, u := range queue.Upstreams() {
		if n, ok := f.Rate[u]; ok {
			if err := q.SetRate(ctx, campaign, u, int64(n)); err != nil {
				return &Error{Code: ExitUpstream, Item: campaign, Err: fmt.Errorf("setting the rate of %s: %w", u, err), Hint: "run the same command again"}
			}
		}
	}
	return nil
}

// ParseRates reads assignments: rekor=600 fulcio=none.
func ParseRates(args []string) (RateFlags, error) {
	f := RateFlags{Rate: map[string]PerMinute{}}
	for _, a := range args {
		u, text, ok := strings.Cut(a, "=")
		if !ok {
			return f, Usage("for example rekor=600, or rekor=none", fmt.Errorf("%q is no rate", a))
		}
		if _, twice := f.Rate[u]; twice {
			return f, Usage("", errors.New(u+" has two rates"))
		}
		var n PerMinute
		if err := n.UnmarshalText([]byte(text)); err != nil {
			return f, Usage("", fmt.Errorf("rate of %s: %w", u, err))
		}
		f.Rate[u] = n
	}
	return f, f.CheckRates()
}
