package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/hallmark-attest/hallmark/internal/command"
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
	command.QueueFlags
	command.StageFlags
	Timeout      time.Duration `help:"Give up after this long; what is not done yet is done by the next run (default: never)."`
	DrainTimeout time.Duration `default:"60s" help:"After ctrl-C, carry on what is signed for at most this long."`
}

// Run publishes.
func (p *publishCmd) Run(ctx context.Context, env *command.Env) error {
	if err := errors.Join(p.Check(), p.CheckStages()); err != nil {
		return err
	}
	// Everything that can be wrong with the configuration is found before anything is enqueued.
	signer, verifier, err := p.Signer(ctx, env)
	if err != nil {
		return err
	}
	ch, err := command.OpenChannel(ctx, p.To, true)
	if err != nil {
		return err
	}
	identity, issuer, err := signer.Identity(ctx)
	if err != nil {
		return err
	}
	c := &pipeline.Campaign{
		To: p.To, ChannelURL: p.ChannelURL, NoTargetChannel: p.NoTargetChannel,
		Identity: identity, Issuer: issuer, State: pipeline.StateOpen,
	}
	items, duplicates, err := p.read(ctx, env, c)
	if err != nil {
		return err
	}
	q, closeQueue, err := p.Open(ctx, env, p.To)
	if err != nil {
		return err
	}
	defer closeQueue()
	c, err = adopt(ctx, q, c, items)
	if err != nil {
		return err
	}
	if _, err := q.Enqueue(ctx, c, stages.Names()[0], queue.Items(items...)); err != nil {
		return fmt.Errorf("enqueuing: %w", err)
	}

	ps := &parts{queue: q, channel: ch, signer: signer, verifier: verifier, encoder: &event.Encoder{Version: command.Version()}}
	times, runErr := p.work(ctx, env, ps, c, len(items))
	return p.conclude(ctx, env, q, c, duplicates, times, runErr)
}

// adopt returns the open campaign of an interrupted run of the same command, or creates a new one.
func adopt(ctx context.Context, q *queue.Queue, c *pipeline.Campaign, items []*pipeline.Item) (*pipeline.Campaign, error) {
	c.Inputs = inputsDigest(c, items)
	open, err := q.Campaigns().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("looking for an interrupted run: %w", err)
	}
	for _, o := range open {
		if o.State == pipeline.StateOpen && o.Inputs == c.Inputs {
			c = o
			break
		}
	}
	if c.Name == "" {
		// A campaign begins on a whole second and signs nothing before, so that what it signed itself can be told from
		// what was signed before it: timestamps have a resolution of a second.
		c.Created = time.Now().UTC().Truncate(time.Second).Add(time.Second)
		c.Name = fmt.Sprintf("publish-%s-%.6s", c.Created.Format("20060102-150405"), lower(rand.Text()))
		if err := q.Campaigns().Create(ctx, c); err != nil {
			return nil, fmt.Errorf("creating the campaign: %w", err)
		}
		select {
		case <-time.After(time.Until(c.Created)):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	for _, it := range items {
		it.Campaign = c.Name
	}
	return c, nil
}

func lower(s string) string {
	b := []byte(s)
	for i, ch := range b {
		if 'A' <= ch && ch <= 'Z' {
			b[i] = ch + 'a' - 'A'
		}
	}
	return string(b)
}

// work runs the stages until nothing waits any more.
func (p *publishCmd) work(ctx context.Context, env *command.Env, ps *parts, c *pipeline.Campaign, total int) ([]command.StageTime, error) {
	w := env.Stderr
	if env.JSON {
		w = nil
	}
	progress := command.NewProgress(w, env.Terminal(), stages.Names(), total)
	defer progress.Close()
	if p.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, p.Timeout, errTimeout)
		defer cancel()
	}
	r, err := ps.runner(ctx, env, c, p.Concurrency, p.DrainTimeout, progress)
	if err != nil {
		return nil, err
	}
	run, done := context.WithCancelCause(ctx)
	defer done(nil)
	finished := make(chan error, 1)
	go func() { finished <- r.Run(run) }()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-finished:
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
		if counts.Waiting() == 0 {
			done(nil)
			err := <-finished
			return progress.Stages(), err
		}
	}
}

var errTimeout = errors.New("the time given by --timeout is over")

// conclude says how it went, and closes the campaign if nothing is left to do.
func (p *publishCmd) conclude(ctx context.Context, env *command.Env, q *queue.Queue, c *pipeline.Campaign, duplicates int, times []command.StageTime, runErr error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	s, err := summarise(ctx, q, c)
	if err != nil {
		return errors.Join(runErr, fmt.Errorf("reading the ledger: %w", err))
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
	case errors.Is(runErr, errTimeout):
		return &command.Error{Code: command.ExitUpstream, Item: c.Name, Hint: "run the same command again: it goes on where this run stopped",
			Err: fmt.Errorf("%w; %d of %d packages are not done", runErr, s.Waiting, s.Enqueued)}
	case errors.Is(runErr, context.Canceled):
		return &command.Error{Code: command.ExitInterrupted, Item: c.Name, Hint: "run the same command again: it goes on where this run stopped",
			Err: fmt.Errorf("interrupted; %d of %d packages are not done", s.Waiting, s.Enqueued)}
	}
	return runErr
}

// summary is how a campaign stands: the result of publish and, for each campaign, of status.
type summary struct {
	Schema     string    `json:"schema"`
	Campaign   string    `json:"campaign"`
	State      string    `json:"state"`
	Created    time.Time `json:"created"`
	To         string    `json:"to"`
	ChannelURL string    `json:"channelURL,omitempty"`
	Identity   string    `json:"identity"`
	Issuer     string    `json:"issuer"`

	Enqueued  uint64 `json:"enqueued"`
	Published uint64 `json:"published"`
	Skipped   uint64 `json:"skipped"`
	Failed    uint64 `json:"failed"` // in quarantine
	Aborted   uint64 `json:"aborted"`
	Waiting   uint64 `json:"waiting"`

	Segments []segment `json:"segments,omitempty"`
	// PerMinute is how many items were finished in the last minute; Left is how long the rest takes at that rate, in
	// seconds. Both are absent where they mean nothing.
	PerMinute uint64 `json:"perMinute,omitempty"`
	Left      uint64 `json:"secondsLeft,omitempty"`

	Duplicates  int                 `json:"duplicates,omitempty"`
	Stages      []command.StageTime `json:"stages,omitempty"`
	Interrupted bool                `json:"interrupted,omitempty"`
	Causes      []cause             `json:"causes,omitempty"`
	Failures    []failure           `json:"failures,omitempty"`
}

type segment struct {
	Name        string `json:"name"`
	Pending     uint64 `json:"pending"`
	InFlight    uint64 `json:"inFlight"`
	Redelivered uint64 `json:"redelivered"`
}

type cause struct {
	Cause string `json:"cause"`
	Count int    `json:"count"`
	Hint  string `json:"hint,omitempty"`
}

type failure struct {
	Item     string `json:"item"`
	Filename string `json:"filename"`
	Source   string `json:"source"`
	pipeline.Failure
}

// maxFailures bounds how many failures a summary lists one by one; the causes count all.
const maxFailures = 1000

func summarise(ctx context.Context, q *queue.Queue, c *pipeline.Campaign) (*summary, error) {
	segments, err := c.Segments(stages.Names())
	if err != nil {
		return nil, err
	}
	heads := make([]string, len(segments))
	for i, s := range segments {
		heads[i] = s[0]
	}
	counts, err := q.Counts(ctx, c, heads)
	if err != nil {
		return nil, err
	}
	s := &summary{Schema: "hallmark.campaign/1", Campaign: c.Name, State: string(c.State), Created: c.Created, To: c.To, ChannelURL: c.ChannelURL,
		Identity: c.Identity, Issuer: c.Issuer, Enqueued: counts.Enqueued, Published: counts.Published, Skipped: counts.Skipped,
		Failed: counts.Failed, Aborted: counts.Aborted, Waiting: counts.Waiting()}
	for _, g := range counts.Segments {
		s.Segments = append(s.Segments, segment{g.Name, g.Pending, g.InFlight, g.Redelivered})
	}
	byCause := map[string]*cause{}
	for e, err := range q.Quarantined(ctx, c.Name) {
		if err != nil {
			return nil, err
		}
		k := byCause[e.Failure.Cause]
		if k == nil {
			k = &cause{Cause: e.Failure.Cause, Hint: e.Failure.Hint}
			byCause[e.Failure.Cause] = k
		}
		k.Count++
		if len(s.Failures) < maxFailures {
			f := failure{Failure: e.Failure}
			if e.Item != nil {
				f.Item, f.Filename, f.Source = e.Item.ID, e.Item.Filename, e.Item.Source
			}
			s.Failures = append(s.Failures, f)
		}
	}
	for _, k := range byCause {
		s.Causes = append(s.Causes, *k)
	}
	slices.SortFunc(s.Causes, func(a, b cause) int { return cmp.Or(b.Count-a.Count, cmp.Compare(a.Cause, b.Cause)) })
	slices.SortFunc(s.Failures, func(a, b failure) int {
		return cmp.Or(cmp.Compare(a.Cause, b.Cause), cmp.Compare(a.Filename, b.Filename))
	})
	return s, nil
}

// text writes the result of publish.
func (s *summary) text(w io.Writer) {
	switch {
	case s.Interrupted:
		fmt.Fprintf(w, "campaign %s: %d published, %d skipped, %d set aside, %d not done yet\n", s.Campaign, s.Published, s.Skipped, s.Failed, s.Waiting)
	case s.Published == 0 && s.Failed == 0 && s.Skipped > 0:
		fmt.Fprintf(w, "campaign %s: all %d packages were published already, signed by %s; nothing was changed\n", s.Campaign, s.Skipped, s.Identity)
	default:
		fmt.Fprintf(w, "campaign %s: %d published, %d skipped (published already), %d set aside\n", s.Campaign, s.Published, s.Skipped, s.Failed)
	}
	if s.Duplicates > 0 {
		fmt.Fprintf(w, "%d arguments named a package that was named already\n", s.Duplicates)
	}
	for _, f := range s.Failures {
		fmt.Fprintf(w, "set aside: %s\n  cause: %s (%s)\n", cmp.Or(f.Source, f.Filename, f.Item), f.Message, f.Cause)
		if f.Hint != "" {
			fmt.Fprintf(w, "  hint:  %s\n", f.Hint)
		}
	}
	if n := int64(s.Failed) - int64(len(s.Failures)); n > 0 {
		fmt.Fprintf(w, "and %d more\n", n)
	}
}
