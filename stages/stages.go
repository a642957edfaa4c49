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
	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/stages/hash"
	"github.com/hallmark-attest/hallmark/stages/publish"
	"github.com/hallmark-attest/hallmark/stages/sign"
	"github.com/hallmark-attest/hallmark/stages/upload"
)

// Parts are what a campaign's stages work with. Each is safe for concurrent use and outlives the steps.
type Parts struct {
	Campaign *pipeline.Campaign
	// Channel is where the campaign writes. The stages upload and publish need it; hash uses it, where it is given, to
	// find what is done already. A worker that only signs has none, and so no credentials for the store.
	Channel *channel.Channel
	// Signer signs as the worker's identity. Only the stage sign needs it.
	Signer sign.Signer
	// Verifier checks bundles against the trust root. The stage sign needs it; hash with a Channel does too.
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
}

// list is every stage, in the order in which a package meets them.
//
// The stage sources (upstream attestations of a package's sources) has its place between hash and sign.
var list = []stage{
	{name: "hash", concurrency: hash.Concurrency(), build: newHash},                                               // one read: digests, size, the record; and what the channel has already
	{name: "sign", concurrency: sign.Concurrency, build: newSign, commits: true},                                  // CEP 27 statement, certificate, timestamp, log entry; verified before it goes on
	{name: "upload", concurrency: upload.Concurrency, build: newUpload, commits: true, completes: "signed"},       // package, then immutable sidecar, then mutable sidecar
	{name: "publish", concurrency: publish.Concurrency, build: newPublish, commits: true, completes: "published"}, // repodata and shards, many items per rewrite
}

// Names returns the names of all stages, in order.
func Names() []string {
	names := make([]string, len(list))
	for i, s := range list {
		names[i] = s.name
	}
	return names
}

// Build returns the steps with the given names, which MUST be a run of Names. Concurrency overrides the defaults by
// name.
func Build(names []string, p Parts, concurrency map[string]int) ([]pipeline.Step, error) {
	all := Names()
	start := -1
	if len(names) > 0 {
		start = slices.Index(all, names[0])
	}
	if start < 0 || start+len(names) > len(all) || !slices.Equal(all[start:start+len(names)], names) {
		return nil, fmt.Errorf("stages %s: want a run of %s", strings.Join(names, ","), strings.Join(all, ","))
	}
	for name := range concurrency {
		if !slices.Contains(all, name) {
			return nil, fmt.Errorf("concurrency of %q: want one of %s", name, strings.Join(all, ", "))
		}
	}
	var steps []pipeline.Step
	for _, s := range list[start : start+len(names)] {
		st, err := s.build(p)
		if err != nil {
			return nil, fmt.Errorf("stage %s: %w", s.name, err)
		}
		n := s.concurrency
		if c, ok := concurrency[s.name]; ok {
			n = c
		}
		steps = append(steps, pipeline.Step{Stage: st, Concurrency: n, Commits: s.commits, Completes: s.completes})
	}
	return steps, nil
}

var errNoChannel = errors.New("needs the channel's store")

func newHash(p Parts) (pipeline.Stage, error) {
	var o hash.Options
	if p.Channel != nil && p.Verifier != nil {
		o.Prior = &prior{channel: p.Channel, verifier: p.Verifier, campaign: p.Campaign}
	}
	return hash.New(o), nil
}

func newSign(p Parts) (pipeline.Stage, error) {
	if p.Signer == nil || p.Verifier == nil {
		return nil, errors.New("needs a signer and a trust root")
	}
	return sign.New(p.Signer, p.Verifier, sign.Options{
		ChannelURL: p.Campaign.ChannelURL,
		Identity:   p.Campaign.Identity,
		Issuer:     p.Campaign.Issuer,
	}), nil
}

func newUpload(p Parts) (pipeline.Stage, error) {
	if p.Channel == nil {
		return nil, errNoChannel
	}
	return upload.New(p.Channel), nil
}

func newPublish(p Parts) (pipeline.Stage, error) {
	if p.Channel == nil {
		return nil, errNoChannel
	}
	return publish.NewWith(p.Channel, publish.Options{Interval: p.MonolithInterval, Log: p.Log}), nil
}
