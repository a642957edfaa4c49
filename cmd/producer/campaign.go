package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hallmark-attest/hallmark/internal/command"
	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/pipeline/event"
	"github.com/hallmark-attest/hallmark/pipeline/queue"
	"github.com/hallmark-attest/hallmark/stages"
)

// campaignCmd controls campaigns: their state is on the server, and survives restarts of everything.
type campaignCmd struct {
	List   campaignListCmd   `cmd:"" help:"List all campaigns and their states."`
	Show   campaignShowCmd   `cmd:"" help:"Show how a campaign gets on, as status does."`
	Pause  campaignPauseCmd  `cmd:"" help:"Hand out no items any more, until resume; what is in flight finishes."`
	Resume campaignResumeCmd `cmd:"" help:"Hand out items again."`
	Rate   campaignRateCmd   `cmd:"" help:"Show how often the upstreams may be asked, and change it while workers work."`
	Abort  campaignAbortCmd  `cmd:"" help:"Give a campaign up: what is in flight finishes, the rest is recorded as aborted, and it is closed."`
	Close  campaignCloseCmd  `cmd:"" help:"Close a campaign of which every item has an outcome: its ledger and its quarantine stay."`
}

// whereFlags say which queue an existing campaign is in.
type whereFlags struct {
	command.QueueFlags
	To string `placeholder:"DIR|s3://BUCKET/PREFIX" help:"Channel whose embedded server's state to work with, where neither --nats nor --state is given."`
}

func (f *whereFlags) open(ctx context.Context, env *command.Env) (*queue.Queue, func(), error) {
	return openExisting(ctx, env, &f.QueueFlags, f.To)
}

type campaignListCmd struct{ whereFlags }

// Run lists.
func (l *campaignListCmd) Run(ctx context.Context, env *command.Env) error {
	q, closeQueue, err := l.open(ctx, env)
	if err != nil {
		return err
	}
	defer closeQueue()
	all, err := q.Campaigns().List(ctx)
	if err != nil {
		return err
	}
	standings := make([]standing, len(all))
	for i, c := range all {
		standings[i] = newStanding(c)
	}
	return env.Result(struct {
		Schema    string     `json:"schema"`
		Campaigns []standing `json:"campaigns"`
	}{"hallmark.campaigns/1", standings}, func(w io.Writer) {
		for _, s := range standings {
			fmt.Fprintf(w, "%-8s  %s  %s\n", s.State, s.Created.Format(time.RFC3339), s.Campaign+s.because())
		}
		if len(standings) == 0 {
			fmt.Fprintln(w, "no campaigns")
		}
	})
}

// standing is a campaign's state.
type standing struct {
	Schema   string         `json:"schema,omitempty"`
	Campaign string         `json:"campaign"`
	State    pipeline.State `json:"state"`
	Created  time.Time      `json:"created"`
	Changed  time.Time      `json:"changed,omitzero"` // when the state was changed last
	Reason   string         `json:"reason,omitempty"`
	InFlight *uint64        `json:"inFlight,omitempty"`
}

func newStanding(c *pipeline.Campaign) standing {
	return standing{Campaign: c.Name, State: c.State, Created: c.Created, Changed: c.Changed, Reason: c.Reason}
}

func (s standing) because() string {
	return because(&pipeline.Campaign{State: s.State, Changed: s.Changed, Reason: s.Reason})
}

// because says since when a campaign that is not open is in its state, and what for.
func because(c *pipeline.Campaign) string {
	text := ""
	if !c.Changed.IsZero() && c.State != pipeline.StateOpen {
		text += " since " + c.Changed.UTC().Format(time.RFC3339)
	}
	if c.Reason != "" {
		text += ": " + c.Reason
	}
	return text
}

type campaignShowCmd struct {
	Campaign string `arg:"" help:"Campaign to show."`
	whereFlags
}

// Run shows.
func (s *campaignShowCmd) Run(ctx context.Context, env *command.Env) error {
	status := statusCmd{Campaign: s.Campaign, QueueFlags: s.QueueFlags, To: s.To}
	return status.Run(ctx, env)
}

type campaignPauseCmd struct {
	Campaign string `arg:"" help:"Campaign to pause."`
	Reason   string `placeholder:"TEXT" help:"What for: shown with the state."`
	whereFlags
}

// Run pauses.
func (p *campaignPauseCmd) Run(ctx context.Context, env *command.Env) error {
	return change(ctx, env, &p.whereFlags, p.Campaign, func(q *queue.Queue) (*pipeline.Campaign, error) {
		return q.Campaigns().Pause(ctx, p.Campaign, p.Reason)
	})
}

type campaignResumeCmd struct {
	Campaign string `arg:"" help:"Campaign to resume."`
	whereFlags
}

// Run resumes.
func (r *campaignResumeCmd) Run(ctx context.Context, env *command.Env) error {
	return change(ctx, env, &r.whereFlags, r.Campaign, func(q *queue.Queue) (*pipeline.Campaign, error) {
		return q.Campaigns().Resume(ctx, r.Campaign)
	})
}

// change changes a campaign's state and says what it is then.
func change(ctx context.Context, env *command.Env, f *whereFlags, name string, do func(*queue.Queue) (*pipeline.Campaign, error)) error {
	q, closeQueue, err := f.open(ctx, env)
	if err != nil {
		return err
	}
	defer closeQueue()
	c, err := do(q)
	if err != nil {
		return stateError(name, err)
	}
	s, inFlight := newStanding(c), uint64(0)
	s.Schema = "hallmark.campaign-state/1"
	counts, err := tallied(ctx, q, c)
	if err != nil {
		return err
	}
	for _, g := range counts.Segments {
		inFlight += g.InFlight
	}
	s.InFlight = &inFlight
	return env.Result(s, func(w io.Writer) {
		fmt.Fprintf(w, "campaign %s is %s%s\n", c.Name, c.State, s.because())
		if c.State == pipeline.StatePaused && inFlight > 0 {
			fmt.Fprintf(w, "%d items are in flight: those that a worker holds finish\n", inFlight)
		}
	})
}

// stateError says why a state cannot be changed.
func stateError(name string, err error) error {
	if e, ok := errors.AsType[*command.Error](err); ok {
		return e
	}
	switch {
	case errors.Is(err, queue.ErrNotFound):
		return &command.Error{Code: command.ExitFailed, Item: name, Err: queue.ErrNotFound, Hint: "see producer campaign list"}
	case errors.Is(err, queue.ErrClosed), errors.Is(err, queue.ErrEnding), errors.Is(err, queue.ErrFrozen):
		return &command.Error{Code: command.ExitUsage, Item: name, Err: err, Hint: "see producer campaign list"}
	}
	return err
}

// heads are the names of the campaign's segments.
func heads(c *pipeline.Campaign) ([]string, error) {
	segments, err := c.Segments(stages.Of(c))
	if err != nil {
		return nil, err
	}
	out := make([]string, len(segments))
	for i, s := range segments {
		out[i] = s[0]
	}
	return out, nil
}

func tallied(ctx context.Context, q *queue.Queue, c *pipeline.Campaign) (queue.Counts, error) {
	segments, err := heads(c)
	if err != nil {
		return queue.Counts{}, err
	}
	return q.Counts(ctx, c, segments)
}

type campaignAbortCmd struct {
	Campaign string `arg:"" help:"Campaign to give up."`
	Reason   string `placeholder:"TEXT" help:"What for: shown with the state."`
	whereFlags
}

// Run aborts, and waits until every item has an outcome.
func (a *campaignAbortCmd) Run(ctx context.Context, env *command.Env) error {
	q, closeQueue, err := a.open(ctx, env)
	if err != nil {
		return err
	}
	defer closeQueue()
	c, err := q.Campaigns().Aborting(ctx, a.Campaign, a.Reason)
	if errors.Is(err, queue.ErrClosed) {
		// Nothing is left to do; that may be since a worker has completed what this command had begun.
		err = nil
	} else if err == nil {
		fmt.Fprintf(env.Stderr, "campaign %s is aborting; interrupted from now on, the next abort or any worker completes it\n", c.Name)
		err = abortAloud(ctx, env, q, c)
	}
	if err != nil {
		return stateError(a.Campaign, err)
	}
	if c, _, err = q.Campaigns().Get(ctx, a.Campaign); err != nil {
		return err
	}
	s, err := summarise(ctx, q, c)
	if err != nil {
		return err
	}
	return env.Result(s, func(w io.Writer) {
		fmt.Fprintf(w, "campaign %s is %s%s: ", c.Name, c.State, because(c))
		s.equation(w)
	})
}

// abort records what waits as aborted and closes the campaign.
func abort(ctx context.Context, q *queue.Queue, c *pipeline.Campaign) error {
	segments, err := heads(c)
	if err == nil {
		_, err = q.Abort(ctx, c, segments, &event.Encoder{Version: command.Version()})
	}
	return err
}

// abortAloud is abort for somebody who waits for it.
func abortAloud(ctx context.Context, env *command.Env, q *queue.Queue, c *pipeline.Campaign) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	done := make(chan struct{})
	defer close(done)
	wg.Go(func() {
		tick := time.NewTicker(5 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			n, err := tallied(ctx, q, c)
			if err != nil {
				continue // abort itself has the reason
			}
			held := uint64(0)
			for _, s := range n.Segments {
				held += s.InFlight
			}
			fmt.Fprintf(env.Stderr, "%d aborted, %d to go, of which %d are in flight with a worker, or were with one that died\n", n.Aborted, n.Waiting(), held)
		}
	})
	return abort(ctx, q, c)
}

type campaignCloseCmd struct {
	Campaign string `arg:"" help:"Campaign to close."`
	whereFlags
}

// Run closes.
func (l *campaignCloseCmd) Run(ctx context.Context, env *command.Env) error {
	return change(ctx, env, &l.whereFlags, l.Campaign, func(q *queue.Queue) (*pipeline.Campaign, error) {
		err := q.Campaigns().Close(ctx, l.Campaign)
		if e, ok := errors.AsType[*queue.WaitingError](err); ok {
			return nil, &command.Error{Code: command.ExitFailed, Item: l.Campaign, Err: e, Hint: "wait until they are, or give them up with producer campaign abort"}
		}
		if err != nil {
			return nil, err
		}
		c, _, err := q.Campaigns().Get(ctx, l.Campaign)
		return c, err
	})
}
