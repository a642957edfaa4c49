package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/command"
	"github.com/hallmark-attest/hallmark/internal/prefix"
	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/pipeline/event"
	"github.com/hallmark-attest/hallmark/pipeline/queue"
	"github.com/hallmark-attest/hallmark/pipeline/telemetry"
	"github.com/hallmark-attest/hallmark/stages"
	"github.com/hallmark-attest/hallmark/stages/sign"
)

// grammar is the command line. The worker has one command: work.
type grammar struct {
	command.Globals
	command.QueueFlags
	command.SignFlags
	command.SourceTrustFlags
	command.UploadFlags
	UploadServer []string `default:"https://prefix.dev" placeholder:"URL" help:"Servers that this worker's tokens may go to: campaigns with a channel on another one are left to other workers."`
	Stages       []string `placeholder:"STAGE" help:"Run these stages: a run of hash, sources, sign, upload, publish (default: all); sources is left out of campaigns that do not look at them. Campaigns that are cut otherwise are left to other workers."`
	command.StageFlags
	NoSign       bool          `help:"Sign nothing, and need no identity: serve only campaigns whose attestations are all brought along."`
	Campaign     string        `placeholder:"NAME" help:"Serve this campaign alone: end when it is closed, and with exit code 4 if its signer is somebody else or there is no identity any more. Without, campaigns of other signers are left to other workers."`
	MaxItems     int           `default:"2048" help:"How many items this worker holds at once, of all campaigns together. Campaigns share these places fairly; those submitted with --live come before the others."`
	DrainTimeout time.Duration `default:"60s" help:"After SIGTERM, carry on what is signed for at most this long."`
}

func run(args []string, s command.Streams) int {
	var g grammar
	return command.Main("worker", "Hallmark's worker runs the stages hash, sources, sign, upload and publish on the items of every open campaign.",
		command.Version(), &g, &g.Globals, args, s)
}

// Run works until ctx ends.
func (g *grammar) Run(ctx context.Context, env *command.Env) error {
	if g.NATS == "" && g.Listen == "" {
		return command.Usage("give --nats URL, or --listen 127.0.0.1:PORT to be the server as well",
			errors.New("no server: nobody could submit anything to this worker"))
	}
	if err := g.CheckStages(); err != nil {
		return err
	}
	g.WarnOfDescriptors(env)
	names := g.Stages
	if len(names) == 0 {
		names = stages.Names()
	}
	if err := stages.Check(names); err != nil {
		return command.Usage("", fmt.Errorf("--stages: %w", err))
	}
	if g.MaxItems < 1 {
		return command.Usage("give a number from 1 on", fmt.Errorf("--max-items: %d", g.MaxItems))
	}
	w := &worker{env: env, flags: g, id: queue.WorkerID(), pool: pipeline.NewPool(g.MaxItems, min(g.MaxItems, 32)), names: names, concurrency: g.Concurrency, interval: g.MonolithInterval, drain: g.DrainTimeout, only: g.Campaign}
	// A worker holds the credentials that its stages need, and no others.
	if slices.Contains(names, "sign") && !g.NoSign {
		if err := patiently(ctx, env, "finding the signer", func() (err error) {
			w.signer, w.verifier, err = g.Signer(ctx, env)
			return err
		}); err != nil {
			return err
		}
	} else if slices.Contains(names, "hash") || slices.Contains(names, "sign") {
		if err := patiently(ctx, env, "finding the trust root", func() (err error) {
			w.verifier, err = g.Verifier(ctx)
			return err
		}); err != nil {
			return err
		}
	}
	if slices.Contains(names, "sources") {
		var err error
		if w.sources, err = g.SourceTrustFlags.Checker(); err != nil {
			return err
		}
	}
	defer func() { w.kept() }()
	w.kept = func() {}
	if w.verifier != nil {
		w.kept = command.KeepTrust(ctx, env, w.verifier)
	}
	meters, err := telemetry.NewMeters()
	if err != nil {
		return err
	}
	unmeter, err := meters.Watch(w.running)
	if err != nil {
		return err
	}
	defer func() { _ = unmeter() }() // there is nothing else to unregister at the end
	w.meters = meters
	var q *queue.Queue
	var closeQueue func()
	if err := patiently(ctx, env, "opening the queue", func() (err error) {
		q, closeQueue, err = g.QueueFlags.Open(ctx, env, "worker")
		return err
	}); err != nil {
		return err
	}
	defer closeQueue()
	w.queue, w.budgets = q, q.Budgets(w.id)
	defer w.budgets.Close()
	unwatch, err := meters.WatchBudgets(w.budgets.WaitingByUpstream)
	if err != nil {
		return err
	}
	defer func() { _ = unwatch() }()
	if w.signer != nil {
		signer := w.signer.Under(w.budgets.Deployment())
		if err := patiently(ctx, env, "getting a certificate", func() (err error) {
			if w.identity, w.issuer, err = signer.Identity(ctx); err != nil {
				return err
			}
			w.claims, err = signer.Claims(ctx)
			return err
		}); err != nil {
			return err
		}
	}
	return w.work(ctx)
}

// patiently does what a worker needs before it can begin. An outage is waited for, as later on: a daemon that is started while an
// upstream or the queue's server is out has nothing better to do. Any other error ends it.
func patiently(ctx context.Context, env *command.Env, what string, do func() error) error {
	for n := 0; ; n++ {
		err := do()
		if !command.Outage(err) || ctx.Err() != nil {
			return err
		}
		pause := min(time.Second<<min(n, 4), 10*time.Second)
		pause = pause/2 + rand.N(pause/2+1)
		env.Log.Warn("cannot begin yet: "+what, "error", err, "next_try_in", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil // ending on SIGTERM is what a daemon is for
		}
	}
}

// worker serves every open campaign with one runner each.
type worker struct {
	env              *command.Env
	flags            *grammar
	id               string // what status calls this worker
	queue            *queue.Queue
	budgets          *queue.Budgets
	signer           *sign.KeylessSigner
	trust            sync.Mutex       // guards the loading of verifier
	verifier         *attest.Verifier // nil until a stage needs it
	kept             func()           // ends what keeps its trust root up to date
	sources          *command.SourceChecker
	identity, issuer string
	claims           map[string]string // what else the signer's certificate says
	meters           pipeline.Observer
	pool             *pipeline.Pool
	names            []string
	concurrency      map[string]int
	interval         time.Duration // see stages.Parts.MonolithInterval
	drain            time.Duration
	only             string   // the one campaign to serve; "" for all
	tallies          sync.Map // *pipeline.Tally of each runner → nothing
}

// running are the tallies of the runners that work now.
func (w *worker) running() []telemetry.Tally {
	var out []telemetry.Tally
	for t := range w.tallies.Range {
		out = append(out, t.(*pipeline.Tally))
	}
	return out
}

// isIdentity says whether an error is about who this worker is: it would sign as somebody else, or has no token any more.
func isIdentity(err error) bool {
	if e, ok := errors.AsType[*command.Error](err); ok {
		return e.Code == command.ExitIdentity
	}
	e, ok := errors.AsType[*pipeline.Error](err)
	return ok && e.Kind == pipeline.KindFatal && strings.HasPrefix(e.Cause, "identity.")
}

// serve runs the worker's stages on the campaign's items that come through the gate.
func (w *worker) serve(ctx context.Context, c *pipeline.Campaign, gate *pipeline.Gate) error {
	log := w.env.Log.With("campaign", c.Name)
	segments, err := c.Segments(stages.Of(c))
	if err != nil {
		return err
	}
	names := stages.In(c, w.names)
	if len(names) == 0 {
		log.Info("nothing to do for the campaign: it has none of this worker's stages", "stages", strings.Join(w.names, ","))
		return nil
	}
	at := slices.IndexFunc(segments, func(s []string) bool { return slices.Equal(s, names) })
	if at < 0 {
		return fmt.Errorf("the campaign is cut into %s, this worker runs %s", segmentsText(segments), strings.Join(w.names, ","))
	}
	if w.signer != nil {
		if err := stages.CheckSigner(c, w.identity, w.issuer, w.claims); err != nil {
			return command.RefusedSigner(err, c.Name)
		}
	}
	if w.signer == nil && slices.Contains(w.names, "sign") && !c.NoSign {
		return &command.Error{Code: command.ExitIdentity, Item: c.Name, Hint: "start a worker without --no-sign", Err: errors.New("this worker signs nothing, and the campaign's packages are to be signed")}
	}
	p := stages.Parts{Campaign: c, SidecarOnly: w.flags.SidecarOnly(), MonolithInterval: w.interval, Log: log}
	if p.Verifier, err = w.trusted(ctx, c, names); err != nil {
		return err
	}
	if w.signer != nil {
		p.Signer = w.signer.Under(w.budgets.Campaign(c.Name))
	}
	if slices.Contains(names, "sources") {
		if p.Sources, err = w.sources.Load(ctx); err != nil {
			return err
		}
	}
	var to command.Destination
	if needsStore(names) {
		if to, err = w.open(ctx, c, names); err != nil {
			return err
		}
		p.Channel, p.Server = to.Channel, to.Server
	}
	if slices.Contains(names, "upload") {
		if p.GitHub, err = w.flags.GitHub(ctx, w.env, c); err != nil {
			return err
		}
	}
	steps, err := stages.Build(names, p, w.concurrency)
	if err != nil {
		return err
	}
	if _, err := w.queue.Sweep(ctx, c.Name); err != nil {
		return err
	}
	encoder := &event.Encoder{Version: command.Version()}
	share := w.pool.Join(c.Live)
	defer share.Leave()
	r := &pipeline.Runner{Steps: steps, Ledger: w.queue.Ledger(c, encoder), Observer: w.meters, Tally: pipeline.NewTally(steps),
		Suspects: w.queue.Suspects(c.Name), Suspicious: w.queue.Died(), Share: share, Log: log, DrainTimeout: w.drain}
	if at+1 < len(segments) {
		r.Next = segments[at+1][0]
	}
	source, err := w.queue.Source(ctx, c.Name, names[0], queue.SourceOptions{MaxAckPending: 10 * r.Flights(), Encoder: encoder})
	if err != nil {
		return err
	}
	r.Source = gate.Source(source)
	ctx, ended := gate.Context(ctx, r.Tally.InFlight, w.drain)
	defer ended()
	w.tallies.Store(r.Tally, nil)
	defer w.tallies.Delete(r.Tally)
	leave, err := w.queue.Present(queue.Presence{Worker: w.id, Campaign: c, Segment: names[0], Tally: r.Tally})
	if err != nil {
		return err
	}
	defer leave()
	log.Info("serving a campaign", "stages", strings.Join(names, ","), "worker", w.id)
	if !slices.Contains(names, "publish") {
		return r.Run(ctx)
	}
	// A worker that was killed may have left documents that are behind their shards, and no item to remind of it.
	var wg sync.WaitGroup
	defer wg.Wait()
	behind, stop := context.WithCancel(ctx)
	defer stop()
	wg.Go(func() {
		if err := to.CatchUp(behind); err != nil && behind.Err() == nil {
			log.Warn("bringing the channel's documents up to date with its shards", "error", err)
		}
	})
	return r.Run(ctx)
}

// open opens the campaign's channel. Who may start campaigns says where a worker sends its token to, among the servers that
// the worker was started for.
func (w *worker) open(ctx context.Context, c *pipeline.Campaign, names []string) (command.Destination, error) {
	if !c.OnServer() {
		return w.flags.UploadFlags.Open(ctx, c.To, writes(names))
	}
	server, _, err := prefix.ParseURL(c.To)
	if err != nil {
		return command.Destination{}, err
	}
	if !slices.ContainsFunc(w.flags.UploadServer, func(s string) bool { return strings.TrimRight(s, "/") == server.String() }) {
		return command.Destination{}, command.Usage("start the worker with --upload-server "+server.String(),
			fmt.Errorf("the campaign's channel is on %s, and this worker uploads to %s alone", server, strings.Join(w.flags.UploadServer, ", ")))
	}
	return w.flags.UploadFlags.Open(ctx, c.To, slices.Contains(names, "upload"))
}

// trusted gives what verifies bundles, to the stages that look into sidecars: it is no credential. Those that sign and those
// that hash have it from the start; uploading to a server needs it, too.
func (w *worker) trusted(ctx context.Context, c *pipeline.Campaign, names []string) (*attest.Verifier, error) {
	w.trust.Lock()
	defer w.trust.Unlock()
	if w.verifier == nil && c.OnServer() && slices.Contains(names, "upload") {
		v, err := w.flags.Verifier(ctx)
		if err != nil {
			return nil, err
		}
		w.verifier, w.kept = v, command.KeepTrust(context.WithoutCancel(ctx), w.env, v) // until the worker ends, not the campaign
	}
	return w.verifier, nil
}

// needsStore: only the stages that look into the channel or write to it get its credentials.
func needsStore(names []string) bool {
	return slices.Contains(names, "hash") || writes(names)
}

// writes: looking into the channel asks for no right to write.
func writes(names []string) bool {
	return slices.Contains(names, "upload") || slices.Contains(names, "publish")
}

func segmentsText(segments [][]string) string {
	var out []string
	for _, s := range segments {
		out = append(out, strings.Join(s, ","))
	}
	return strings.Join(out, " | ")
}
