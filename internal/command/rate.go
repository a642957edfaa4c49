package command

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/hallmark-attest/hallmark/pipeline/queue"
)

// RateFlags say how often the upstreams may be asked for a campaign.
type RateFlags struct {
	Rate Rates `placeholder:"UPSTREAM=N;…" help:"Make at most N requests a minute to the upstream (rekor, fulcio, timestamp) for this campaign, all workers together; none for no limit. Changed at any time by campaign rate."`
}

// Rates are requests a minute, by upstream, as they are given: a number from 1 on, or none.
type Rates map[string]string

// Check refuses what cannot be a budget.
func (r Rates) Check() error {
	for u, text := range r {
		n, err := perMinute(text)
		if err == nil {
			err = queue.CheckRate(u, n)
		}
		if err != nil {
			return Usage("for example rekor=600, or rekor=none; the upstreams are "+strings.Join(queue.Upstreams(), ", "), fmt.Errorf("rate of %s: %w", u, err))
		}
	}
	return nil
}

func perMinute(text string) (int64, error) {
	if text == "none" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%q: want requests a minute from 1 on, or none", text)
	}
	return n, nil
}

// Set gives the campaign (the deployment for "") these budgets; others stay as they are. The rates MUST have been checked.
func (r Rates) Set(ctx context.Context, q *queue.Queue, campaign string) error {
	for _, u := range queue.Upstreams() {
		text, ok := r[u]
		if !ok {
			continue
		}
		n, err := perMinute(text)
		if err == nil {
			err = q.SetRate(ctx, campaign, u, n)
		}
		if err != nil {
			return &Error{Code: ExitUpstream, Item: campaign, Err: fmt.Errorf("setting the rate of %s: %w", u, err), Hint: "run the same command again"}
		}
	}
	return nil
}

// ParseRates reads assignments: rekor=600 fulcio=none.
func ParseRates(args []string) (Rates, error) {
	r := Rates{}
	for _, a := range args {
		u, text, ok := strings.Cut(a, "=")
		if !ok {
			return nil, Usage("for example rekor=600, or rekor=none", fmt.Errorf("%q is no rate", a))
		}
		if _, twice := r[u]; twice {
			return nil, Usage("", errors.New(u+" has two rates"))
		}
		r[u] = text
	}
	return r, r.Check()
}
