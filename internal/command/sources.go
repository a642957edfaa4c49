package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"unicode/utf8"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/provenance"
	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/stages/sources"
)

// SourceFlags say what a campaign asks of its packages' sources.
type SourceFlags struct {
	Sources       string `default:"" enum:",off,report,require" placeholder:"off|report|require" help:"Verify the upstream attestations of packages' sources: report tells what is found, require sets packages aside whose sources are not what their recipe or the policy asks for (default: what the policy says, else off)."`
	SourcesPolicy string `placeholder:"FILE" help:"Who must have published the sources of which host, for recipes that do not say so themselves (YAML)."`
}

// maxSourcesPolicy is more than provenance.ParsePolicy takes, so that it says what is wrong.
const maxSourcesPolicy = 1 << 20

// Policy reads the policy and freezes it for a campaign: the zero value if sources are not looked at.
func (f *SourceFlags) Policy() (pipeline.SourcePolicy, error) {
	mode, text := f.Sources, ""
	if f.SourcesPolicy != "" {
		const hint = "docs/sources.md has an example"
		fail := func(err error) (pipeline.SourcePolicy, error) {
			return pipeline.SourcePolicy{}, &Error{Code: ExitUsage, Item: f.SourcesPolicy, Hint: hint, Err: fmt.Errorf("--sources-policy: %w", err)}
		}
		data, err := readBounded(f.SourcesPolicy, maxSourcesPolicy)
		if err != nil {
			return fail(err)
		}
		if !utf8.Valid(data) {
			return fail(errors.New("it is not UTF-8"))
		}
		text = string(data)
		p, err := provenance.ParsePolicy(data)
		if err != nil {
			return fail(err)
		}
		if mode == "" && p.Mode == "" {
			return pipeline.SourcePolicy{}, Usage("give --sources report or --sources require as well", errors.New("--sources-policy: neither it nor --sources says what is to be done"))
		}
		if mode == "off" {
			return pipeline.SourcePolicy{}, nil
		}
		if mode != "" && p.Mode != "" && mode != string(p.Mode) {
			return pipeline.SourcePolicy{}, Usage("leave the mode out of one of them", fmt.Errorf("--sources is %s, and the mode of --sources-policy %s", mode, p.Mode))
		}
		mode = cmp.Or(mode, string(p.Mode))
	}
	frozen := pipeline.NewSourcePolicy(mode, text)
	_, err := sources.Policy(frozen) // what workers will do
	return frozen, err
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// SourceTrustFlags say how whoever runs the stage sources checks upstream attestations. The trust root is another than the
// campaign's own: packages may be signed by a private Sigstore instance, and their sources are not.
type SourceTrustFlags struct {
	SourcesTrustedRoot string  `placeholder:"FILE" help:"Trusted root for the attestations of sources (default: public-good Sigstore, by TUF)."`
	SourcesRate        float64 `default:"5" placeholder:"N" help:"How many requests per second each host of source attestations gets at most."`
}

// Checker refuses what cannot work, and loads a trust root that is a file.
func (f *SourceTrustFlags) Checker() (*SourceChecker, error) {
	if !(f.SourcesRate > 0 && f.SourcesRate <= 1e6) {
		return nil, Usage("give a number above 0", fmt.Errorf("--sources-rate: %v", f.SourcesRate))
	}
	c := &SourceChecker{rate: f.SourcesRate}
	if f.SourcesTrustedRoot == "" {
		return c, nil
	}
	tr, err := attest.LoadTrustRoot(f.SourcesTrustedRoot)
	if err == nil {
		err = c.trust(tr)
	}
	if err != nil {
		return nil, Usage("give the trusted_root.json of the Sigstore instance that signs the sources' attestations", fmt.Errorf("--sources-trusted-root: %w", err))
	}
	return c, nil
}

// SourceChecker is the process's checker of sources: one for all campaigns, so that each attestation is fetched and verified
// once and a host's budget is kept over all of them. It is safe for concurrent use.
type SourceChecker struct {
	rate float64

	mu     sync.Mutex
	loaded *provenance.Checker
}

// Load gives the checker. The first campaign that needs it waits for the trust root; after a failure the next one tries again.
func (c *SourceChecker) Load(ctx context.Context) (*provenance.Checker, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.loaded != nil {
		return c.loaded, nil
	}
	tr, _, err := attest.PublicGood(ctx, attest.TUFOptions{})
	if err == nil {
		err = c.trust(tr)
	}
	if err != nil {
		return nil, &Error{Code: ExitUpstream, Err: fmt.Errorf("fetching the public-good trust root for the attestations of sources by TUF: %w", err),
			Hint: "check the network, or give --sources-trusted-root FILE"}
	}
	return c.loaded, nil
}

func (c *SourceChecker) trust(tr *attest.TrustRoot) error {
	v, err := provenance.NewVerifier(tr)
	if err != nil {
		return err
	}
	c.loaded = provenance.NewChecker(v, provenance.NewFetcher(provenance.FetchOptions{UserAgent: "hallmark/" + Version(), Rate: c.rate}))
	return nil
}
