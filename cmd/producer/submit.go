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
	"github.com/hallmark-attest/hallmark/stages"
)

// submitCmd enqueues packages for the workers of a server.
type submitCmd struct {
	inputFlags
	command.ChannelFlags
	command.SourceFlags
	command.PolicyFlags
	command.QueueFlags
	command.RateFlags
	Campaign string   `required:"" help:"Name of the campaign; submitting to it again adds only what is not in it yet."`
	Identity string   `name:"certificate-identity" help:"Identity (SAN) that the workers must sign with; another one is refused. With a --policy it may be left out: then whoever the policy accepts may sign."`
	Issuer   string   `name:"certificate-oidc-issuer" help:"OIDC issuer of that identity."`
	Live     bool     `help:"Overtake the campaigns that are not live, in workers that serve both: for small submissions that somebody waits for."`
	Cut      []string `placeholder:"STAGE" help:"Cut the list of stages before these, for workers with --stages: for example sign,upload."`
}

// Run submits.
func (s *submitCmd) Run(ctx context.Context, env *command.Env) error {
	if err := errors.Join(s.Check(), s.Rate.Check()); err != nil {
		return err
	}
	if s.NATS == "" && s.State == "" {
		return command.Usage("to do everything in one process, use publish", errors.New("no --nats: submit enqueues on a server, for its workers"))
	}
	sourcePolicy, err := s.SourceFlags.Policy()
	if err != nil {
		return err
	}
	c := &pipeline.Campaign{
		Name: s.Campaign, Created: time.Now().UTC().Truncate(time.Second), State: pipeline.StateOpen,
		To: s.To, ChannelURL: s.ChannelURL, NoTargetChannel: s.NoTargetChannel,
		SkipExisting: s.SkipExisting, StoreGitHub: s.StoreGitHub,
		Identity: s.Identity, Issuer: s.Issuer, Cuts: s.Cut, Live: s.Live, Sources: sourcePolicy,
	}
	if err := s.signer(env, c); err != nil {
		return err
	}
	if s.StoreGitHub {
		if err := command.CheckStoreGitHub(s.Identity); err != nil {
			return err
		}
	}
	if err := c.Validate(); err != nil {
		return command.Usage("", err)
	}
	segments, err := c.Segments(stages.Of(c))
	if err != nil {
		return command.Usage("", fmt.Errorf("--cut: %w", err))
	}
	q, closeQueue, err := s.Open(ctx, env, s.To)
	if err != nil {
		return err
	}
	defer closeQueue()
	items, duplicates, err := s.read(ctx, env, c)
	if err != nil {
		return err
	}
	switch err := q.Campaigns().Create(ctx, c); {
	case errors.Is(err, queue.ErrExists):
		have, _, err := q.Campaigns().Get(ctx, c.Name)
		if err != nil {
			return fmt.Errorf("reading campaign %s: %w", c.Name, err)
		}
		if err := command.SameCampaign(have, c); err != nil {
			return err
		}
		if !have.State.TakesItems() {
			return command.Usage("choose another name", fmt.Errorf("campaign %s is %s", have.Name, have.State))
		}
		if have.Frozen > 0 {
			return command.Usage("choose another name", fmt.Errorf("campaign %s: %w", have.Name, queue.ErrFrozen))
		}
		c = have
	case err != nil:
		return fmt.Errorf("creating campaign %s: %w", c.Name, err)
	}
	if err := s.Rate.Set(ctx, q, c.Name); err != nil {
		return err
	}
	res, err := q.Enqueue(ctx, c, segments[0][0], queue.Items(items...))
	if err != nil {
		return &command.Error{Code: command.ExitUpstream, Item: c.Name, Err: fmt.Errorf("enqueuing: %w", err),
			Hint: "run the same command again: what is enqueued already is not enqueued twice"}
	}
	return env.Result(struct {
		Schema     string         `json:"schema"`
		Campaign   string         `json:"campaign"`
		State      pipeline.State `json:"state"`
		Queued     int            `json:"queued"`
		Already    int            `json:"already"`
		Duplicates int            `json:"duplicates"`
	}{"hallmark.submission/1", c.Name, c.State, res.Queued, res.Already, duplicates}, func(w io.Writer) {
		fmt.Fprintf(w, "campaign %s: %d packages enqueued, %d were there already\n", c.Name, res.Queued, res.Already)
		if c.State == pipeline.StatePaused {
			fmt.Fprintf(w, "the campaign is paused%s; they wait until it is resumed\n", because(c))
		}
		if duplicates > 0 {
			fmt.Fprintf(w, "%d arguments named a package that was named already\n", duplicates)
		}
	})
}

// signer freezes who may sign: the one identity, the policy, or both.
func (s *submitCmd) signer(env *command.Env, c *pipeline.Campaign) error {
	switch {
	case (s.Identity == "") != (s.Issuer == ""):
		return command.Usage("an identity means nothing without who vouches for it", errors.New("--certificate-identity and --certificate-oidc-issuer go together"))
	case s.NoSign && s.Identity != "":
		return command.Usage("say in the policy whose attestations count", errors.New("--certificate-identity is who signs, and with --no-sign nobody does"))
	case s.Identity == "" && s.PolicyFlags.Policy == "" && !s.NoSign:
		return command.Usage("give --certificate-identity and --certificate-oidc-issuer, a --policy, or both", errors.New("who may sign? neither an identity nor a policy is given"))
	}
	if err := s.Freeze(env, c); err != nil {
		return err
	}
	if s.Identity == "" {
		return nil
	}
	if err := stages.CheckIdentity(c, s.Identity, s.Issuer); err != nil {
		return command.RefusedSigner(err, s.PolicyFlags.Policy)
	}
	return nil
}
