package main

import (
	"context"
	"time"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/command"
	"github.com/hallmark-attest/hallmark/internal/github"
	"github.com/hallmark-attest/hallmark/internal/provenance"
	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/pipeline/event"
	"github.com/hallmark-attest/hallmark/pipeline/queue"
	"github.com/hallmark-attest/hallmark/pipeline/telemetry"
	"github.com/hallmark-attest/hallmark/stages"
	"github.com/hallmark-attest/hallmark/stages/sign"
)

// grammar is the command line: one field for each command, one file for each field.
type grammar struct {
	command.Globals
	Publish    publishCmd    `cmd:"" help:"Hash, sign, upload and publish packages, and wait until all is done: everything embedded."`
	Submit     submitCmd     `cmd:"" help:"Enqueue packages on a NATS server for its workers, and return."`
	Status     statusCmd     `cmd:"" help:"Show how campaigns get on: counts by stage, failures by cause, rate, time left."`
	Campaign   campaignCmd   `cmd:"" help:"Control campaigns: list, show, pause, resume, rate, abort, close."`
	Quarantine quarantineCmd `cmd:"" help:"Look at what was set aside, and retry or drop it."`
	Report     reportCmd     `cmd:"" help:"Report what became of every item of a campaign; signed, if you like."`

	Watch   watchCmd   `cmd:"" help:"Print completed attestations as they come."`
	Verify  verifyCmd  `cmd:"" help:"Verify packages, local or published: by file, URL, or name in a channel."`
	Channel channelCmd `cmd:"" help:"Look after a channel: take over one that others made, check it, remove packages, collect what is out of use."`
	Queue   queueCmd   `cmd:"" help:"Look after the queue: compare streams, buckets and consumers with what this version wants, and change them."`
	Inspect inspectCmd `cmd:"" help:"Show who signed a package, and where that is written. Verifies nothing."`
	Whoami  whoamiCmd  `cmd:"" help:"Show what would be signed with: whose identity, and where its token comes from. Signs nothing."`

	VerifySource verifySourceCmd `cmd:"" help:"Verify who published a source archive, by its upstream attestations."`
}

func run(args []string, s command.Streams) int {
	var g grammar
	return command.Main("producer", "Hallmark signs and publishes conda packages in bulk: submit, watch, verify.", command.Version(), &g, &g.Globals, args, s)
}

// parts are the concrete things that a whole pipeline in one process is made of.
type parts struct {
	queue       *queue.Queue
	to          command.Destination
	sidecarOnly bool
	github      *github.Attestations // nil for campaigns that do without
	signer      *sign.KeylessSigner  // nil for a campaign that signs nothing
	budget      sign.Budget
	worker      string // its id
	verifier    *attest.Verifier
	sources     *provenance.Checker // nil where the campaign does not look at sources
	encoder     *event.Encoder
}

// runner puts the parts together for a campaign that is not cut. If somebody may ask, status is answered as long as it
// works. The returned function MUST be called once the runner has ended.
func (p *parts) runner(ctx context.Context, env *command.Env, c *pipeline.Campaign, f *command.StageFlags, drain time.Duration, asked bool, observers ...pipeline.Observer) (*pipeline.Runner, func(), error) {
	sp := stages.Parts{Campaign: c, Channel: p.to.Channel, Server: p.to.Server, SidecarOnly: p.sidecarOnly, GitHub: p.github, Verifier: p.verifier,
		Sources: p.sources, MonolithInterval: f.MonolithInterval, Log: env.Log}
	if p.signer != nil {
		sp.Signer = p.signer.Under(p.budget)
	}
	steps, err := stages.Build(stages.Of(c), sp, f.Concurrency)
	if err != nil {
		return nil, nil, command.Usage("", err)
	}
	meters, err := telemetry.NewMeters()
	if err != nil {
		return nil, nil, err
	}
	if _, err := p.queue.Sweep(ctx, c.Name); err != nil {
		return nil, nil, err
	}
	r := &pipeline.Runner{Steps: steps, Ledger: p.queue.Ledger(c, p.encoder), Observer: pipeline.Observers(append(observers, meters)...),
		Tally: pipeline.NewTally(steps), Suspects: p.queue.Suspects(c.Name), Suspicious: p.queue.Died(), Log: env.Log, DrainTimeout: drain}
	if r.Source, err = p.queue.Source(ctx, c.Name, steps[0].String(), queue.SourceOptions{MaxAckPending: 10 * r.Flights(), Encoder: p.encoder}); err != nil {
		return nil, nil, err
	}
	leave := func() {}
	if asked {
		if leave, err = p.queue.Present(queue.Presence{Worker: p.worker, Campaign: c, Segment: steps[0].String(), Tally: r.Tally}); err != nil {
			return nil, nil, err
		}
	}
	unmeter, err := meters.Watch(func() []telemetry.Tally { return []telemetry.Tally{r.Tally} })
	if err != nil {
		leave()
		return nil, nil, err
	}
	return r, func() {
		leave()
		_ = unmeter() // there is nothing else to unregister at the end
	}, nil
}
