package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hallmark-attest/hallmark/internal/command"
	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/pipeline/queue"
)

// statusCmd shows how campaigns stand, from the server's own counts.
type statusCmd struct {
	Campaign string `arg:"" optional:"" help:"Campaign to show (default: all that are not closed)."`
	All      bool   `help:"Show closed campaigns too."`
	command.QueueFlags
	To string `placeholder:"DIR|s3://BUCKET/PREFIX" help:"Channel whose embedded server's state to look at, where neither --nats nor --state is given."`
}

// Run shows the status.
func (s *statusCmd) Run(ctx context.Context, env *command.Env) error {
	q, closeQueue, err := openExisting(ctx, env, &s.QueueFlags, s.To)
	if err != nil {
		return err
	}
	defer closeQueue()
	campaigns, err := q.Campaigns().List(ctx)
	if err != nil {
		return fmt.Errorf("listing campaigns: %w", err)
	}
	campaigns = slices.DeleteFunc(campaigns, func(c *pipeline.Campaign) bool {
		return s.Campaign != "" && c.Name != s.Campaign || s.Campaign == "" && !s.All && c.State == pipeline.StateClosed
	})
	// At once, since the workers of each are given time to answer.
	out := make([]*summary, len(campaigns))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i, c := range campaigns {
		g.Go(func() (err error) {
			if out[i], err = stand(gctx, q, c); err != nil {
				return fmt.Errorf("campaign %s: %w", c.Name, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if s.Campaign != "" && len(out) == 0 {
		return &command.Error{Code: command.ExitFailed, Item: s.Campaign, Err: errors.New("no such campaign"), Hint: "see producer status --all"}
	}
	return env.Result(struct {
		Schema    string     `json:"schema"`
		Campaigns []*summary `json:"campaigns"`
	}{"hallmark.status/1", out}, func(w io.Writer) {
		if len(out) == 0 {
			fmt.Fprintln(w, "no open campaigns")
		}
		for _, sum := range out {
			sum.status(w, time.Now())
		}
	})
}

// stand is how a campaign stands, for status: with its rate, and with what its workers say if it is not closed.
func stand(ctx context.Context, q *queue.Queue, c *pipeline.Campaign) (*summary, error) {
	s, err := summarise(ctx, q, c)
	if err != nil {
		return nil, err
	}
	if err := s.estimate(ctx, q, c); err != nil {
		return nil, err
	}
	if c.State == pipeline.StateClosed {
		return s, nil
	}
	if err := s.budgets(ctx, q, c.Name); err != nil {
		return nil, err
	}
	a, err := q.Workers(ctx, c.Name, 0)
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		s.WorkersError = err.Error() // the counts are worth showing all the same
		return s, nil
	}
	return s, s.workers(c, a)
}

// openExisting opens the queue that other commands work with.
func openExisting(ctx context.Context, env *command.Env, f *command.QueueFlags, to string) (*queue.Queue, func(), error) {
	to, err := whichQueue(f, to)
	if err != nil {
		return nil, nil, err
	}
	return f.Open(ctx, env, to)
}

// whichQueue refuses a command line that names no queue, and makes to absolute.
func whichQueue(f *command.QueueFlags, to string) (string, error) {
	if f.NATS == "" && f.State == "" && to == "" {
		return "", command.Usage("give --nats URL, or --to CHANNEL (or --state DIR) for the state of publish on this machine",
			errors.New("which queue?"))
	}
	if to == "" {
		return "", nil
	}
	return command.Absolute(to)
}

// equation writes how the ledger adds up.
func (s *summary) equation(w io.Writer) {
	fmt.Fprintf(w, "%d enqueued = %d published + %d skipped + %d set aside + %d aborted + %d waiting\n",
		s.Enqueued, s.Published, s.Skipped, s.Failed, s.Aborted, s.Waiting)
}

// estimate adds the rate over the last minute, and what it means for the rest.
func (s *summary) estimate(ctx context.Context, q *queue.Queue, c *pipeline.Campaign) error {
	if s.Waiting == 0 {
		return nil
	}
	n, err := q.DoneSince(ctx, c.Name, time.Now().Add(-time.Minute))
	if err != nil {
		return err
	}
	s.PerMinute = n
	if n > 0 {
		s.Left = (s.Waiting*60 + n - 1) / n
	}
	return nil
}

// status writes a campaign as status shows it at the time now.
func (s *summary) status(w io.Writer, now time.Time) {
	fmt.Fprintf(w, "%s  %s  since %s\n", s.Campaign, s.State, s.Created.Format(time.RFC3339))
	if text := because(&pipeline.Campaign{State: pipeline.State(s.State), Changed: s.Changed, Reason: s.Reason}); text != "" {
		fmt.Fprintf(w, "  %s%s\n", s.State, text)
	}
	fmt.Fprintf(w, "  writes to   %s\n", s.To)
	if s.ChannelURL != "" {
		fmt.Fprintf(w, "  channel     %s\n", s.ChannelURL)
	}
	switch {
	case s.NoSign:
		fmt.Fprintln(w, "  signed by   nobody here: attestations are brought along")
	case s.Identity == "":
		fmt.Fprintln(w, "  signed by   whom the policy accepts")
	default:
		fmt.Fprintf(w, "  signed by   %s\n  issuer      %s\n", s.Identity, s.Issuer)
	}
	if s.PolicySHA256 != "" {
		fmt.Fprintf(w, "  policy      sha256 %s\n", s.PolicySHA256)
	}
	fmt.Fprint(w, "  ")
	s.equation(w)
	fmt.Fprintf(w, "  %d signed and uploaded so far\n", s.Signed)
	s.Sources.text(w, "  ")
	todo := uint64(0) // what this segment has or will get
	for _, g := range s.Segments {
		todo += g.Pending + g.InFlight
		g.status(w, todo > 0, now)
	}
	if s.WorkersError != "" {
		fmt.Fprintf(w, "  what the workers do is not known: %s\n", s.WorkersError)
	}
	if s.WorkersUnread > 0 {
		fmt.Fprintf(w, "  %d answers of workers could not be read\n", s.WorkersUnread)
	}
	for _, b := range s.Budgets {
		fmt.Fprintf(w, "  budget      %s\n", budgetLine(b, now))
	}
	if s.BudgetsError != "" {
		fmt.Fprintf(w, "  which budgets there are is not known: %s\n", s.BudgetsError)
	}
	if s.PerMinute > 0 {
		fmt.Fprintf(w, "  %d/min, about %s left\n", s.PerMinute, time.Duration(s.Left)*time.Second)
	}
	for _, k := range s.Causes {
		fmt.Fprintf(w, "  %6d × %s in %s", k.Count, k.Cause, k.Stage)
		if k.Hint != "" {
			fmt.Fprintf(w, " (%s)", k.Hint)
		}
		fmt.Fprintln(w)
	}
}
