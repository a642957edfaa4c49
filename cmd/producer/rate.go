package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hallmark-attest/hallmark/internal/command"
	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/pipeline/queue"
)

// campaignRateCmd shows and changes rate budgets, of a campaign or of the deployment.
type campaignRateCmd struct {
	Args       []string `arg:"" optional:"" name:"campaign|rate" help:"The campaign, and rates to give it, such as rekor=600 or fulcio=none; without rates, its budgets are shown."`
	Deployment bool     `help:"The deployment's budgets, which hold for all campaigns together, instead of a campaign's."`
	command.QueueFlags
	To string `placeholder:"DIR|s3://BUCKET/PREFIX" help:"Channel whose embedded server's state to work with, where neither --nats nor --state is given."`
}

// Run changes what is given, and shows how the budgets stand.
func (r *campaignRateCmd) Run(ctx context.Context, env *command.Env) error {
	name, args := "", r.Args
	if !r.Deployment {
		if len(args) == 0 {
			return command.Usage("name a campaign, or give --deployment", errors.New("whose budgets?"))
		}
		name, args = args[0], args[1:]
	}
	rates, err := command.ParseRates(args)
	if err != nil {
		return err
	}
	q, closeQueue, err := openExisting(ctx, env, &r.QueueFlags, r.To)
	if err != nil {
		return err
	}
	defer closeQueue()
	if !r.Deployment {
		c, _, err := q.Campaigns().Get(ctx, name)
		switch {
		case errors.Is(err, queue.ErrNotFound):
			return &command.Error{Code: command.ExitFailed, Item: name, Err: errors.New("no such campaign"), Hint: "see producer status --all"}
		case err != nil:
			return err
		case c.State == pipeline.StateClosed && len(args) > 0:
			return command.Usage("", fmt.Errorf("campaign %s is closed", name))
		}
	}
	if err := rates.Set(ctx, q, name); err != nil {
		return err
	}
	states, err := q.Rates(ctx, name)
	if err != nil {
		return err
	}
	if states == nil {
		states = []queue.BudgetState{}
	}
	return env.Result(struct {
		Schema   string              `json:"schema"`
		Campaign string              `json:"campaign,omitempty"`
		Budgets  []queue.BudgetState `json:"budgets"`
	}{"hallmark.budgets/1", name, states}, func(w io.Writer) {
		for _, s := range states {
			fmt.Fprintln(w, budgetLine(s, time.Now()))
			for _, t := range s.Takers {
				fmt.Fprintf(w, "  %s  %d granted in its last 2 s, wanted %d, seen %s ago\n", t.Worker, t.Granted, t.Wants,
					max(time.Since(t.Seen), 0).Round(time.Second))
			}
		}
		if len(states) == 0 {
			fmt.Fprintln(w, "no budgets: nothing is limited")
		}
	})
}

// budgetLine says how a budget stands at the time now.
func budgetLine(s queue.BudgetState, now time.Time) string {
	line := fmt.Sprintf("%-9s  %d/min, %d granted in the last minute", s.Upstream, s.PerMinute, s.Granted)
	if s.Campaign == "" {
		line += ", all campaigns together"
	}
	wanting, wants := 0, int64(0)
	for _, t := range s.Takers {
		if t.Wants > 0 && now.Sub(t.Seen) < 5*time.Second {
			wanting++
			wants += t.Wants
		}
	}
	switch {
	case wanting == 1:
		line += fmt.Sprintf("; 1 worker wants %d", wants)
	case wanting > 1:
		line += fmt.Sprintf("; %d workers want %d", wanting, wants)
	}
	if s.HeldUntil.After(now) {
		line += "; held, as it asked for, until " + s.HeldUntil.Format("15:04:05Z")
	}
	return line
}

// budgets adds the budgets that hold for the campaign: what else there is is worth showing without them.
func (s *summary) budgets(ctx context.Context, q *queue.Queue, campaign string) error {
	for _, of := range []string{campaign, ""} {
		states, err := q.Rates(ctx, of)
		if err != nil {
			s.Budgets, s.BudgetsError = nil, err.Error()
			return ctx.Err()
		}
		s.Budgets = append(s.Budgets, states...)
	}
	return nil
}
