// Package stages is the ordered list of what is done to a package. A campaign's parts flow in; the steps of a worker's
// segment flow out.
package stages

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/channel"
	attestations "github.com/hallmark-attest/hallmark/internal/github"
	"github.com/hallmark-attest/hallmark/internal/prefix"
	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/stages/github"
	"github.com/hallmark-attest/hallmark/stages/hash"
	"github.com/hallmark-attest/hallmark/stages/publish"
	"github.com/hallmark-attest/hallmark/stages/server"
	"github.com/hallmark-attest/hallmark/stages/sign"
	"github.com/hallmark-attest/hallmark/stages/sources"
	"github.com/hallmark-attest/hallmark/stages/upload"
)

// Parts are what a campaign's stages work with. Each is safe for concurrent use and outlives the steps.
type Parts struct {
	Campaign *pipeline.Campaign
	// Channel is where the campaign writes. The stages upload and publish need it; hash uses it, where it is given, to
	// find what is done already. A worker that only signs has none, and so no credentials for the store.
	Channel *channel.Channel
	// Sources checks who published packages' sources. Only the stage sources needs it.
	Sources sources.Checker
	// Server is what takes Channel's place, where the campaign's channel is on a server that keeps its own index.
	Server *prefix.Client
	// SidecarOnly is for a Server: to be published, a package's sidecar is read back, and its bytes are not.
	SidecarOnly bool
	// GitHub is where bundles go, too, if the campaign says so. Only the stage upload needs it.
	GitHub *attestations.Attestations
	// Signer signs as the worker's identity. Only the stage sign needs it, and not for a campaign that signs nothing.
	Signer sign.Signer
	// Verifier checks bundles against the trust root. The stage sign needs it; hash with a Channel or Server does too, and
	// upload with a Server.
	Verifier *attest.Verifier
	// MonolithInterval is publish.Options.Interval.
	MonolithInterval time.Duration
	// Log defaults to slog.Default().
	Log *slog.Logger
}

// stage is one line of the list.
type stage struct {
	name        string
	concurrency int // by default
	commits     bool
	completes   string
	build       func(Parts) (pipeline.Stage, error)
	// wanted says whether a campaign has the stage; nil: every one has.
	wanted func(*pipeline.Campaign) bool
	// with names the stage that this step always goes with, if the campaign wants it: it is no stage of its own, so that no list
	// of stages names it and none is cut before it.
	with string
}

// list is every stage, in the order in which a package meets them.
var list = []stage{
	{name: "hash", concurrency: hash.Concurrency(), build: newHash},                                                          // one read: digests, size, the record; and what the channel has already
	{name: "sources", concurrency: sources.Concurrency, build: newSources, wanted: checksSources},                            // who published the sources that the recipe names: upstream attestations
	{name: "sign", concurrency: sign.Concurrency, build: newSign, commits: true},                                             // CEP 27 statement, certificate, timestamp, log entry; verified before it goes on
	{name: "upload", concurrency: upload.Concurrency, build: newUpload, commits: true, completes: "signed"},                  // package, then immutable sidecar, then mutable sidecar
	{name: "github", concurrency: github.Concurrency, build: newGitHub, commits: true, with: "upload", wanted: storesGitHub}, // the bundle in the repository's attestation store as well
	{name: "publish", concurrency: publish.Concurrency, build: newPublish, commits: true, completes: "published"},            // repodata and shards, many items per rewrite
}

// Names returns the names of all stages, in order.
func Names() []string {
	var names []string
	for _, s := range list {
		if s.with == "" {
			names = append(names, s.name)
		}
	}
	return names
}

// Of returns the names of the stages that a campaign has, in order: all but those that it asks nothing of, so that they
// cost nothing and a campaign is cut the same with and without them.
func Of(c *pipeline.Campaign) []string {
	var names []string
	for _, s := range list {
		if s.with == "" && (s.wanted == nil || s.wanted(c)) {
			names = append(names, s.name)
		}
	}
	return names
}

// Steps returns the names of all that a campaign's items go through, in order: its stages, and what comes with them.
func Steps(c *pipeline.Campaign) []string {
	var names []string
	for _, s := range list {
		if s.in(c, Of(c)) {
			names = append(names, s.name)
		}
	}
	return names
}

// in tells whether a step is part of what a campaign's items go through in the stages with the given names.
func (s *stage) in(c *pipeline.Campaign, names []string) bool {
	if s.with == "" {
		return slices.Contains(names, s.name)
	}
	return slices.Contains(names, s.with) && s.wanted(c)
}

// In returns those of the names that the campaign has, in their order.
func In(c *pipeline.Campaign, names []string) []string {
	has := Of(c)
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !slices.Contains(has, n) })
}

// Check refuses names that are a run of stages in no campaign: neither of all, nor of those that every campaign has.
func Check(names []string) error {
	if isRun(names, Names()) || isRun(names, Of(new(pipeline.Campaign))) {
		return nil
	}
	return notARun(names, Names())
}

func isRun(names, of []string) bool {
	if len(names) == 0 {
		return false
	}
	start := slices.Index(of, names[0])
	return start >= 0 && start+len(names) <= len(of) && slices.Equal(of[start:start+len(names)], names)
}

func notARun(names, of []string) error {
	return fmt.Errorf("stages %s: want a run of %s", strings.Join(names, ","), strings.Join(of, ","))
}

// Build returns the steps with the given names, which MUST be a run of the campaign's stages (Of). Concurrency overrides the
// defaults by name; it may name stages that are not built.
func Build(names []string, p Parts, concurrency map[string]int) ([]pipeline.Step, error) {
	if all := Of(p.Campaign); !isRun(names, all) {
		return nil, notARun(names, all)
	}
	for name := range concurrency {
		if !slices.Contains(Names(), name) {
			return nil, fmt.Errorf("concurrency of %q: want one of %s", name, strings.Join(Names(), ", "))
		}
	}
	var steps []pipeline.Step
	for _, s := range list {
		if !s.in(p.Campaign, names) {
			continue
		}
		st, err := s.build(p)
		if err != nil {
			return nil, fmt.Errorf("stage %s: %w", s.name, err)
		}
		n := s.concurrency
		if served, ok := serverConcurrency[s.name]; ok && p.Server != nil {
			n = served
		}
		if c, ok := concurrency[s.name]; ok {
			n = c
		}
		steps = append(steps, pipeline.Step{Stage: st, Concurrency: n, Commits: s.commits, Completes: s.completes})
	}
	return steps, nil
}

var errNoChannel = errors.New("needs the channel's store or server")

// serverConcurrency is the concurrency of stages where the channel is on a server.
var serverConcurrency = map[string]int{"upload": server.UploadConcurrency, "publish": server.PublishConcurrency}

func newHash(p Parts) (pipeline.Stage, error) {
	var o hash.Options
	counts := counting{verifier: p.Verifier}
	if p.Verifier != nil {
		var err error
		if counts.policy, err = Policy(p.Campaign); err != nil {
			return nil, err
		}
	}
	switch {
	case p.Verifier == nil:
	case p.Server != nil:
		o.Prior = server.NewPrior(p.Server, counts.accept, p.Campaign.Created, p.Campaign.SkipExisting)
	case p.Channel != nil:
		o.Prior = &prior{channel: p.Channel, campaign: p.Campaign, counts: counts}
	}
	return hash.New(o), nil
}

func checksSources(c *pipeline.Campaign) bool { return c.Sources.Mode != "" }

func newSources(p Parts) (pipeline.Stage, error) {
	if p.Sources == nil {
		return nil, errors.New("needs what checks sources")
	}
	policy, err := sources.Policy(p.Campaign.Sources)
	if err != nil {
		return nil, err
	}
	return sources.New(p.Sources, sources.Options{Policy: policy}), nil
}

func newSign(p Parts) (pipeline.Stage, error) {
	if p.Signer == nil && !p.Campaign.NoSign || p.Verifier == nil {
		return nil, errors.New("needs a signer and a trust root")
	}
	if err := p.Campaign.Sources.Check(); err != nil {
		return nil, err
	}
	o := sign.Options{ChannelURL: p.Campaign.ChannelURL, Identity: p.Campaign.Identity, Issuer: p.Campaign.Issuer,
		NoSign: p.Campaign.NoSign, Alone: p.Campaign.OnServer(), Log: p.Log}
	if p.Campaign.Policy != nil {
		policy, err := Policy(p.Campaign)
		if err != nil {
			return nil, err
		}
		o.Policy = &policy
	}
	st := sign.New(p.Signer, p.Verifier, o)
	if p.Campaign.Sources.Mode == "require" {
		return sourced{st}, nil
	}
	return st, nil
}

func newUpload(p Parts) (pipeline.Stage, error) {
	if p.Server != nil {
		if p.Verifier == nil {
			return nil, errors.New("needs a trust root")
		}
		policy, err := Policy(p.Campaign)
		if err != nil {
			return nil, err
		}
		return server.NewUpload(p.Server, counting{p.Verifier, policy}.acceptSigned(p.Campaign.Created)), nil
	}
	if p.Channel == nil {
		return nil, errNoChannel
	}
	return upload.New(p.Channel), nil
}

func newPublish(p Parts) (pipeline.Stage, error) {
	if p.Server != nil {
		return server.NewPublish(p.Server, p.SidecarOnly), nil
	}
	if p.Channel == nil {
		return nil, errNoChannel
	}
	return publish.NewWith(p.Channel, publish.Options{Interval: p.MonolithInterval, Log: p.Log}), nil
}

func newGitHub(p Parts) (pipeline.Stage, error) {
	if p.GitHub == nil {
		return nil, errors.New("needs GitHub's API")
	}
	return github.New(p.GitHub), nil
}

func storesGitHub(c *pipeline.Campaign) bool { return c.StoreGitHub }
