package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"

	"github.com/hallmark-attest/hallmark/internal/channel"
	"github.com/hallmark-attest/hallmark/internal/github"
	"github.com/hallmark-attest/hallmark/internal/prefix"
	"github.com/hallmark-attest/hallmark/internal/store"
	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/pipeline/telemetry"
)

// Destination is the place that a campaign writes to: a store, where Hallmark keeps the channel's index, or a server that
// keeps its own (docs/prefix.md). One of them is set.
type Destination struct {
	Channel *channel.Channel
	Server  *prefix.Client
}

// CatchUp brings the documents of a channel in a store up to date with its shards. A server does that itself.
func (d Destination) CatchUp(ctx context.Context) error {
	if d.Channel == nil {
		return nil
	}
	return d.Channel.CatchUp(ctx)
}

// OnServer tells whether a channel's location is on a server that keeps its own index.
func OnServer(to string) bool { return (&pipeline.Campaign{To: to}).OnServer() }

// UploadFlags say how to upload to a channel's server and to GitHub: other identities than the one that signs.
type UploadFlags struct {
	UploadTokenFile string `placeholder:"FILE" help:"File with an API token of the channel's server; read anew for each request (default: PREFIX_API_KEY, else trusted publishing in a CI job)."`
	ReadBack        string `default:"package" enum:"package,sidecar" help:"What is read back from a channel's server before a package counts as published: its bytes and its sidecar (package), or the sidecar alone."`
	GitHubTokenFile string `name:"github-token-file" placeholder:"FILE" help:"File with the token for --store-github-attestation; read anew for each request (default: GITHUB_TOKEN)."`
	GitHubAPI       string `name:"github-api" default:"https://api.github.com" placeholder:"URL" help:"GitHub's API."`
}

// SidecarOnly tells what --read-back says.
func (f *UploadFlags) SidecarOnly() bool { return f.ReadBack == "sidecar" }

// Open opens the place that a campaign writes to. For a caller that uploads, it proves that it can be written to: a store
// with conditions, a server with a token that it accepts for this channel.
func (f *UploadFlags) Open(ctx context.Context, to string, uploads bool) (Destination, error) {
	if !OnServer(to) {
		ch, err := OpenChannel(ctx, to, uploads)
		return Destination{Channel: ch}, err
	}
	host, name, err := prefix.ParseURL(to)
	if err != nil {
		return Destination{}, Usage("give https://HOST/NAME", fmt.Errorf("--to: %w", err))
	}
	transport := untold("prefix")
	tokens, err := prefix.DetectTokens(prefix.Options{Server: host, TokenFile: f.UploadTokenFile, Transport: transport})
	if err != nil && uploads {
		return Destination{}, &Error{Code: ExitIdentity, Err: fmt.Errorf("uploading to the channel: %w", err), Item: to,
			Hint: "give --upload-token-file or PREFIX_API_KEY, or run in a CI job that is a trusted publisher of the channel: the identity that signs is not the one that uploads"}
	}
	server, err := prefix.New(prefix.Config{Server: host, Channel: name, Tokens: tokens, Transport: transport})
	if err != nil {
		return Destination{}, Usage("give https://HOST/NAME", fmt.Errorf("--to: %w", err))
	}
	if uploads {
		if err := server.Probe(ctx); err != nil {
			return Destination{}, f.refused(to, tokens, err)
		}
	}
	return Destination{Server: server}, nil
}

// refused says what a server's answer means before anything is begun.
func (f *UploadFlags) refused(to string, tokens prefix.TokenSource, err error) error {
	e := &Error{Code: ExitUpstream, Err: err, Item: to, Hint: "the server cannot be reached or fails: run the same command again"}
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, prefix.ErrIdentity):
		e.Code, e.Hint = ExitIdentity, fmt.Sprintf("the token to upload with is that of %s: is it valid, or the job a trusted publisher of the channel?", tokens)
	case errors.Is(err, prefix.ErrForbidden):
		e.Code, e.Hint = ExitIdentity, fmt.Sprintf("the token to upload with is that of %s: has it the right to upload to this channel?", tokens)
	case errors.Is(err, prefix.ErrChannel):
		e.Code, e.Hint = ExitUsage, "create the channel on the server, or give the right one by --to"
	}
	return e
}

// workflow is the identity of a job of GitHub Actions: the one kind of signer whose certificates name a GitHub repository.
var workflow = regexp.MustCompile(`^(https://[^/]+/[^/]+/[^/]+)/\.github/workflows/`)

// CheckStoreGitHub refuses a signer whose attestations cannot be in a GitHub repository's store, for all that is known before
// it signs.
func CheckStoreGitHub(identity string) error {
	if workflow.MatchString(identity) {
		return nil
	}
	if identity == "" {
		return Usage("give --certificate-identity beside the policy, or leave out --store-github-attestation",
			errors.New("--store-github-attestation: the campaign has no signer of its own, so nobody knows whose repository it would be"))
	}
	return Usage("sign in a GitHub Actions job, or leave out --store-github-attestation",
		fmt.Errorf("--store-github-attestation: the signer %s is no workflow of a GitHub repository, so its certificates name none", identity))
}

// GitHub gives the attestation stores for a campaign that uses them, and nil for others. A token that is missing, or that
// GitHub does not accept, is an error with ExitIdentity.
func (f *UploadFlags) GitHub(ctx context.Context, env *Env, c *pipeline.Campaign) (*github.Attestations, error) {
	if !c.StoreGitHub {
		return nil, nil
	}
	if err := CheckStoreGitHub(c.Identity); err != nil {
		return nil, err
	}
	api, err := url.Parse(f.GitHubAPI)
	if err != nil {
		return nil, Usage("", errors.New("--github-api is no URL"))
	}
	hint := `give the job's token in GITHUB_TOKEN (env: {GITHUB_TOKEN: "${{ github.token }}"}, permissions: {attestations: write}), or a file by --github-token-file`
	if f.githubToken() == "" {
		return nil, &Error{Code: ExitIdentity, Hint: hint, Err: fmt.Errorf("storing attestations at GitHub: there is no token in %s", cmp.Or(f.GitHubTokenFile, github.TokenVariable))}
	}
	stores, err := github.New(github.Config{API: api, Token: f.githubToken, Transport: untold("github")})
	if err != nil {
		return nil, Usage("", fmt.Errorf("--github-api: %w", err))
	}
	// A reusable workflow's repository is not the one that the attestations will go to, and serves to try the token all the same.
	owner, repo, err := stores.Repository(workflow.FindStringSubmatch(c.Identity)[1])
	if err != nil {
		return nil, Usage("give the API of the GitHub that the signer's repository is on", fmt.Errorf("--github-api: %w", err))
	}
	switch err := stores.Probe(ctx, owner, repo); {
	case errors.Is(err, github.ErrIdentity):
		return nil, &Error{Code: ExitIdentity, Err: err, Hint: hint}
	case err != nil && ctx.Err() != nil:
		return nil, err
	case err != nil: // it may pass, or be different for the repository itself
		env.Log.Warn("trying the token for GitHub's attestation store", "error", err)
	}
	return stores, nil
}

// githubToken reads the token, anew each time.
func (f *UploadFlags) githubToken() string {
	if f.GitHubTokenFile == "" {
		return strings.TrimSpace(os.Getenv(github.TokenVariable))
	}
	b, err := os.ReadFile(f.GitHubTokenFile)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// untold is the transport to a server of strangers, with a span for each request that they do not hear of.
func untold(upstream string) http.RoundTripper {
	return telemetry.Untold(store.NewTransport(), upstream)
}
