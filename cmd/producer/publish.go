package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hallmark-attest/hallmark/internal/command"
	"github.com/hallmark-attest/hallmark/internal/provenance"
	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/pipeline/event"
	"github.com/hallmark-attest/hallmark/pipeline/queue"
	"github.com/hallmark-attest/hallmark/stages"
)

// publishCmd is the whole pipeline in one process: the CI author's command.
type publishCmd struct {
	inputFlags
	command.ChannelFlags
	command.SignFlags
	command.SourceFlags
	command.SourceTrustFlags
	command.UploadFlags
	command.PolicyFlags
	command.QueueFlags
	command.StageFlags
	command.RateFlags
	Timeout      time.Duration `help:"Give up after this long; what is not done yet is done by the next run (default: never)."`
	DrainTimeout time.Duration `default:"60s" help:"After ctrl-C, carry on what is signed for at most this long."`
}

// Run publishes.
func (p *publishCmd) Run(ctx context.Context, env *command.Env) error {
	if err := errors.Join(p.Check(), p.CheckStages(), p.Rate.Check()); err != nil {
		return err
	}
	p.WarnOfDescriptors(env)
	// Everything that can be wrong with the configuration is found before anything is enqueued.
	c := &pipeline.Campaign{To: p.To, ChannelURL: p.ChannelURL, NoTargetChannel: p.NoTargetChannel,
		SkipExisting: p.SkipExisting, StoreGitHub: p.StoreGitHub, State: pipeline.StateOpen}
	if err := p.Freeze(env, c); err != nil {
		return err
	}
	ps := &parts{sidecarOnly: p.SidecarOnly(), encoder: &event.Encoder{Version: command.Version()}}
	var err error
	if c.Sources, ps.sources, err = p.sources(ctx); err != nil {
		return err
	}
	if err := p.open(ctx, env, ps, c); err != nil {
		return err
	}
	defer command.KeepTrust(ctx, env, ps.verifier)()
	items, duplicates, err := p.read(ctx, env, c)
	if err != nil {
		return err
	}
	q, closeQueue, err := p.QueueFlags.Open(ctx, env, p.To)
	if err != nil {
		return err
	}
	defer closeQueue()
	c, err = adopt(ctx, q, c, items)
	if err != nil {
		return err
	}
	if err := p.Rate.Set(ctx, q, c.Name); err != nil {
		return err
	}
	if c.Frozen == 0 { // otherwise it was closed with these very items, and reopened for some of them
		if _, err := q.Enqueue(ctx, c, stages.Names()[0], queue.Items(items...)); err != nil {
			return fmt.Errorf("enqueuing: %w", err)
		}
	}
	if err := awaitBeginning(ctx, env, c.Created); err != nil {
		return err
	}

	ps.queue, ps.worker = q, queue.WorkerID()
	budgets := q.Budgets(ps.worker)
	defer budgets.Close()
	ps.budget = budgets.Campaign(c.Name)
	times, runErr := p.work(ctx, env, ps, c, len(items))
	if runErr == nil {
		// Also what an earlier run left behind that was killed.
		if err := ps.to.CatchUp(ctx); err != nil {
			runErr = &command.Error{Code: command.ExitUpstream, Item: p.To, Hint: "every package is published in the channel's shards; run the same command again to finish",
				Err: fmt.Errorf("bringing repodata.json up to date: %w", err)}
		}
	}
	return p.conclude(ctx, env, q, c, duplicates, times, runErr)
}

// sources gives what the campaign asks of sources, and what checks them if it asks anything.
func (p *publishCmd) sources(ctx context.Context) (pipeline.SourcePolicy, *provenance.Checker, error) {
	policy, err := p.SourceFlags.Policy()
	if err != nil || policy.Mode == "" {
		return policy, nil, err
	}
	c, err := p.SourceTrustFlags.Checker()
	if err != nil {
		return policy, nil, err
	}
	checker, err := c.Load(ctx)
	return policy, checker, err
}

// open finds who signs, if anything is signed, and opens the places that are written to.
func (p *publishCmd) open(ctx context.Context, env *command.Env, ps *parts, c *pipeline.Campaign) (err error) {
	if c.NoSign {
		ps.verifier, err = p.Verifier(ctx)
	} else {
		ps.signer, ps.verifier, err = p.Signer(ctx, env)
	}
	if err != nil {
		return err
	}
	if ps.to, err = p.UploadFlags.Open(ctx, p.To, true); err != nil {
		return err
	}
	if !c.NoSign {
		if c.Identity, c.Issuer, err = ps.signer.Identity(ctx); err != nil {
			return err
		}
		claims, err := ps.signer.Claims(ctx)
		if err != nil {
			return err
		}
		if err := stages.CheckSigner(c, c.Identity, c.Issuer, claims); err != nil {
			return command.RefusedSigner(err, p.PolicyFlags.Policy)
		}
	}
	ps.github, err = p.GitHub(ctx, env, c)
	return err
}

// adopt returns the open campaign of an interrupted run of the same command, or creates a new one.
func adopt(ctx context.Context, q *queue.Queue, c *pipeline.Campaign, items []*pipeline.Item) (*pipeline.Campaign, error) {
	c.Inputs = inputsDigest(c, items)
	open, err := q.Campaigns().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("looking for an interrupted run: %w", err)
	}
	for _, o := range open {
		if o.Inputs != c.Inputs || o.State == pipeline.StateClosed {
			continue
		}
		switch o.State {
		case pipeline.StatePaused:
			return nil, errPaused(o)
		case pipeline.StateAborting: // as was ordered; what this run is to do is another campaign's
			if err := abort(ctx, q, o); err != nil {
				return nil, err
			}
			continue
		}
		c = o
		break
	}
	if c.Name == "" {
		// A campaign begins on a whole second and signs nothing before, so that what it signed itself can be told from
		// what was signed before it: timestamps have a resolution of a second.
		c.Created = time.Now().UTC().Truncate(time.Second).Add(time.Second)
		c.Name = fmt.Sprintf("publish-%s-%.6s", c.Created.Format("20060102-150405"), strings.ToLower(rand.Text()))
		if err := q.Campaigns().Create(ctx, c); err != nil {
			return nil, fmt.Errorf("creating the campaign: %w", err)
		}
	}
	for _, it := range items {
		it.Campaign = c.Name
	}
	return c, nil
}

// awaitBeginning waits for the second on which a campaign begins, see adopt. One that a run with another clock created may
// begin in hours: that is not waited for. What is signed until then counts as signed before the campaign, and is skipped
// where it would be published again.
func awaitBeginning(ctx context.Context, env *command.Env, created time.Time) error {
	wait := time.Until(created)
	if most := 2 * time.Second; wait > most {
		env.Log.Warn("the interrupted run's clock was ahead of this machine's: is it right?", "by", wait.Round(time.Second), "campaign_created", created)
		wait = most
	}
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// work runs the stages until nothing waits any more.
func (p *publishCmd) work(ctx context.Context, env *command.Env, ps *parts, c *pipeline.Campaign, total int) ([]command.StageTime, error) {
	w := env.Stderr
	if env.JSON {
		w = nil
	}
	progress := command.NewProgress(w, env.Terminal(), stages.Steps(c), total)
	defer progress.Close()
	if p.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, p.Timeout, errTimeout)
		defer cancel()
	}
	// Nobody else reaches an embedded server that does not listen.
	r, ended, err := ps.runner(ctx, env, c, &p.StageFlags, p.DrainTimeout, p.NATS != "" || p.Listen != "", progress)
	switch {
	case errors.Is(err, queue.ErrPaused):
		return nil, errPaused(c)
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, err
	}
	defer ended()
	gate, steered := steer(ctx, env, ps.queue, c)
	defer steered()
	r.Source = gate.Source(r.Source)
	run, done := gate.Context(ctx, r.Tally.InFlight, p.DrainTimeout)
	defer done()
	finished := make(chan error, 1)
	go func() { finished <- r.Run(run) }()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-finished:
			if s, _ := gate.State(); err == nil && ctx.Err() == nil && !s.TakesItems() {
				err = cmp.Or(abort(ctx, ps.queue, c), errAborted)
			}
			return progress.Stages(), cmp.Or(err, context.Cause(ctx))
		case <-tick.C:
		}
		counts, err := ps.queue.Counts(ctx, c, stages.Names()[:1])
		if err != nil {
			if ctx.Err() == nil {
				env.Log.Warn("asking the queue for its counts", "error", err)
			}
			continue
		}
		// A replica that is behind may not know of the items at all yet.
		if counts.Waiting() == 0 && counts.Enqueued >= uint64(total) {
			done()
			err := <-finished
			return progress.Stages(), err
		}
	}
}

var (
	errTimeout = errors.New("the time given by --timeout is over")
	errAborted = errors.New("the campaign was aborted")
)

func errPaused(c *pipeline.Campaign) error {
	return &command.Error{Code: command.ExitUpstream, Item: c.Name, Hint: "end the pause with producer campaign resume " + c.Name + ", then run the same command again",
		Err: fmt.Errorf("%w%s", queue.ErrPaused, because(c))}
}

// steer opens and shuts a gate as the campaign's state says. stop MUST be called.
func steer(ctx context.Context, env *command.Env, q *queue.Queue, c *pipeline.Campaign) (gate *pipeline.Gate, stop func()) {
	gate = pipeline.NewGate(c.State)
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		state := c.State
		for change, err := range q.Campaigns().Watch(ctx) {
			if err != nil || change.Campaign.Name != c.Name {
				continue // of one that cannot be read it is not known which it is
			}
			if now := change.Campaign.State; now != state {
				env.Log.Warn("the campaign is "+string(now)+because(change.Campaign), "campaign", c.Name)
				state = now
				gate.Become(now)
			}
		}
	})
	return gate, func() { cancel(); wg.Wait() }
}

// conclude says how it went, and closes the campaign if nothing is left to do.
func (p *publishCmd) conclude(ctx context.Context, env *command.Env, q *queue.Queue, c *pipeline.Campaign, duplicates int, times []command.StageTime, runErr error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if now, _, err := q.Campaigns().Get(ctx, c.Name); err == nil {
		c = now
	}
	s, err := summarise(ctx, q, c)
	if err != nil {
		return errors.Join(runErr, fmt.Errorf("reading the ledger: %w", err))
	}
	if runErr == nil && !c.State.TakesItems() && s.Aborted > 0 {
		runErr = errAborted // by somebody else, who was through before this run heard of it
	}
	s.Duplicates, s.Stages = duplicates, times
	s.Interrupted = runErr != nil
	if s.Waiting == 0 && runErr == nil {
		if err := q.Campaigns().Close(ctx, c.Name); err != nil {
			env.Log.Warn("closing the campaign", "campaign", c.Name, "error", err)
		} else {
			s.State = string(pipeline.StateClosed)
		}
	}
	if err := env.Result(s, s.text); err != nil {
		return err
	}
	switch {
	case runErr == nil && s.Failed == 0:
		return nil
	case runErr == nil:
		return &command.Error{Code: command.ExitQuarantined, Item: c.Name, Hint: "put right what is wrong with them and run the same command again",
			Err: fmt.Errorf("%d of %d packages were set aside", s.Failed, s.Enqueued)}
	case errors.Is(runErr, errAborted):
		return &command.Error{Code: command.ExitFailed, Item: c.Name, Hint: "run the same command again to do what was aborted, in a new campaign",
			Err: fmt.Errorf("%w%s; %d of %d packages were not done", runErr, because(c), s.Aborted, s.Enqueued)}
	case errors.Is(runErr, errTimeout):
		return &command.Error{Code: command.ExitUpstream, Item: c.Name, Hint: "run the same command again: it goes on where this run stopped",
			Err: fmt.Errorf("%w; %d of %d packages are not done", runErr, s.Waiting, s.Enqueued)}
	case errors.Is(runErr, context.Canceled):
		return &command.Error{Code: command.ExitInterrupted, Item: c.Name, Hint: "run the same command again: it goes on where this run stopped",
			Err: fmt.Errorf("interrupted; %d of %d packages are not done", s.Waiting, s.Enqueued)}
	}
	return runErr
}
