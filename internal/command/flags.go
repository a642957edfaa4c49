package command

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/channel"
	"github.com/hallmark-attest/hallmark/internal/identity"
	"github.com/hallmark-attest/hallmark/internal/prefix"
	"github.com/hallmark-attest/hallmark/internal/store"
	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/pipeline/queue"
	"github.com/hallmark-attest/hallmark/stages"
	"github.com/hallmark-attest/hallmark/stages/sign"
)

// ChannelFlags say where a campaign writes and what it attests: two things.
type ChannelFlags struct {
	To              string `required:"" placeholder:"DIR|s3://BUCKET/PREFIX|https://HOST/NAME" help:"Channel to write to: a directory, s3://bucket/prefix, or https://host/name on prefix.dev or a server that speaks as it does."`
	ChannelURL      string `name:"channel-url" placeholder:"URL" help:"The channel's public http(s) URL, attested as CEP 27's targetChannel (default: --to, where that is such a URL)."`
	NoTargetChannel bool   `help:"Attest no channel: the statement's predicate is null."`
	SkipExisting    bool   `help:"With --to https://…: look for each package before it is signed, not only when it is uploaded. A directory or bucket is looked into anyway."`
	StoreGitHub     bool   `name:"store-github-attestation" help:"Put each attestation into the GitHub repository's attestation store as well."`
}

// Check refuses what CEP 27 forbids, and makes To absolute.
func (f *ChannelFlags) Check() error {
	if OnServer(f.To) {
		server, name, err := prefix.ParseURL(f.To)
		if err != nil {
			return Usage("give https://HOST/NAME, and a token by file or environment", fmt.Errorf("--to: %w", err))
		}
		f.To = server.String() + "/" + name
		if f.ChannelURL != "" && f.ChannelURL != f.To {
			return Usage("leave out --channel-url", errors.New("--channel-url: a channel on a server has one public URL, the one that --to gives"))
		}
		if !f.NoTargetChannel {
			f.ChannelURL = f.To
		}
	} else {
		f.SkipExisting = false // it is always so
	}
	if f.ChannelURL != "" && f.NoTargetChannel {
		return Usage("give one of them", errors.New("--channel-url and --no-target-channel exclude each other"))
	}
	if f.ChannelURL == "" && !f.NoTargetChannel {
		return Usage("give the public URL that users will have in their configuration, or --no-target-channel to attest none",
			errors.New("no --channel-url: the attestation would not say for which channel the package is"))
	}
	if f.ChannelURL != "" {
		if err := attest.CheckTargetChannel(f.ChannelURL); err != nil {
			hint := ""
			if e, ok := errors.AsType[*attest.Error](err); ok {
				hint = e.Hint
			}
			return Usage(hint, fmt.Errorf("--channel-url: %w", err))
		}
	}
	to, err := Absolute(f.To)
	f.To = to
	return err
}

// Absolute makes a channel's location the same from any folder.
func Absolute(to string) (string, error) {
	if strings.Contains(to, "://") {
		return to, nil
	}
	abs, err := filepath.Abs(to)
	if err != nil {
		return to, Usage("", fmt.Errorf("--to: %w", err))
	}
	return abs, nil
}

// OpenChannel opens a channel in a store. For a caller that writes, it proves that it can be written to as
// Hallmark must: with conditions.
func OpenChannel(ctx context.Context, to string, writes bool) (*channel.Channel, error) {
	if OnServer(to) {
		return nil, Usage("give the channel's directory or bucket; what is on a server is looked after there", errors.New("the channel is on a server that keeps its own index: this works on a directory, or s3://bucket/prefix"))
	}
	s, err := store.Open(ctx, to, Traced("s3"))
	if err != nil {
		return nil, Usage("give a directory, or s3://bucket/prefix with the credentials in the environment", fmt.Errorf("opening the channel: %w", err))
	}
	if !writes {
		return channel.New(s, channel.Options{}), nil
	}
	if err := store.Probe(ctx, s); err != nil {
		hint := "check the address, the network and the store's own health"
		switch {
		case errors.Is(err, store.ErrAuth):
			hint = "check the credentials and their rights: read, write, list and delete"
		case errors.Is(err, store.ErrUnsupported):
			hint = "use a store that honours If-None-Match and If-Match on PUT"
		}
		return nil, Usage(hint, fmt.Errorf("the channel cannot be written to: %w", err))
	}
	return channel.New(s, channel.Options{}), nil
}

// TrustFlags say whom to trust.
type TrustFlags struct {
	TrustedRoot string `placeholder:"FILE" help:"Trusted root of a private Sigstore instance (default: public-good Sigstore, by TUF)."`
}

// SignFlags say how to sign.
type SignFlags struct {
	TrustFlags
	IdentityFlags
	SigningConfig string `placeholder:"FILE" help:"Signing configuration of a private Sigstore instance (default: public-good Sigstore, by TUF)."`
	RekorVersion  uint32 `default:"0" enum:"0,1,2" help:"Use the transparency log with this API version: 1 or 2; 0 as the signing configuration says."`
	Certificate   string `default:"shared" enum:"shared,per-package" help:"One certificate re-used within its life (shared), or one for each package."`
}

// IdentityFlags say where the identity token comes from.
type IdentityFlags struct {
	IDTokenFile    string `name:"identity-token-file" placeholder:"FILE" help:"File that holds the OIDC identity token; read anew for each certificate."`
	IdentitySource string `default:"auto" enum:"auto,variable,github,buildkite,circleci,mounted,spiffe,google,sign-in,device" help:"Where the identity token comes from, instead of the first place that has one: variable, github, buildkite, circleci, mounted, spiffe, google, sign-in, device."`
	Audience       string `name:"identity-audience" default:"sigstore" help:"Audience of the identity token, as the certificate authority wants it."`
	OIDCIssuer     string `name:"oidc-issuer" placeholder:"URL" help:"Issuer to sign in at (default: public-good Sigstore's)."`
	OIDCClientID   string `name:"oidc-client-id" default:"sigstore" help:"OAuth client to sign in as."`
}

// Identity finds the source of identity tokens.
func (f *IdentityFlags) Identity(env *Env) (identity.Survey, error) {
	o := identity.Options{TokenFile: f.IDTokenFile, Audience: f.Audience, Issuer: f.OIDCIssuer, ClientID: f.OIDCClientID,
		Interactive: env.Interactive(), In: env.Stdin, Out: env.Stderr}
	if f.IdentitySource != "auto" {
		if f.IDTokenFile != "" {
			return identity.Survey{}, Usage("give one of them", errors.New("--identity-token-file and --identity-source exclude each other"))
		}
		o.Only = f.IdentitySource
	}
	return identity.Look(o)
}

// Trust loads the trust root, and for public-good Sigstore a signing configuration of it as well: the default one for "".
func (f *TrustFlags) Trust(ctx context.Context, signingConfig string) (*attest.TrustRoot, *attest.SigningConfig, error) {
	return f.fetch(signingConfig, "")(ctx)
}

// fetch is how to get the trust root, again and again: the files are read anew, and public-good Sigstore's is fetched by
// TUF. It gives the signing configuration in the file, or public-good Sigstore's by its TUF target; "" is the default one.
func (f *TrustFlags) fetch(target, signingConfig string) attest.Fetch {
	if f.TrustedRoot != "" {
		return func(context.Context) (*attest.TrustRoot, *attest.SigningConfig, error) {
			tr, err := attest.LoadTrustRoot(f.TrustedRoot)
			if err != nil {
				return nil, nil, Usage("give the trusted_root.json of the Sigstore instance", err)
			}
			if signingConfig == "" {
				return tr, nil, nil
			}
			sc, err := attest.LoadSigningConfig(signingConfig)
			if err != nil {
				return nil, nil, Usage("give the signing_config.json of the Sigstore instance", err)
			}
			return tr, sc, nil
		}
	}
	// No cache on disk: one refresh per process is little, and commands that run at the same time would share it.
	public := attest.NewRepository(attest.TUFOptions{SigningConfig: target})
	return func(ctx context.Context) (*attest.TrustRoot, *attest.SigningConfig, error) {
		tr, sc, err := public.Fetch(ctx)
		if err != nil {
			return nil, nil, &Error{Code: ExitUpstream, Err: fmt.Errorf("fetching the public-good trust root by TUF: %w", err),
				Hint: "check the network, or give --trusted-root and --signing-config for a private instance"}
		}
		return tr, sc, nil
	}
}

// Verifier loads the trust root and returns what verifies against it. Its Keep keeps the trust root up to date.
func (f *TrustFlags) Verifier(ctx context.Context) (*attest.Verifier, error) {
	live, err := attest.NewLiveTrust(ctx, f.fetch("", ""))
	if err != nil {
		return nil, err
	}
	return live.Verifier(), nil
}

// Signer finds the identity and returns what signs with it, and what verifies the result; both use one trust root, which the
// verifier's Keep keeps up to date.
func (f *SignFlags) Signer(ctx context.Context, env *Env) (*sign.KeylessSigner, *attest.Verifier, error) {
	if (f.TrustedRoot == "") != (f.SigningConfig == "") {
		return nil, nil, Usage("give both, or none for public-good Sigstore", errors.New("--trusted-root and --signing-config go together"))
	}
	found, err := f.Identity(env)
	if err != nil {
		return nil, nil, err
	}
	target := "" // public-good Sigstore's choice is version 1 of the log
	if f.RekorVersion == 2 {
		target = attest.TargetSigningConfigRekorV2
	}
	live, err := attest.NewLiveTrust(ctx, f.fetch(target, f.SigningConfig))
	if err != nil {
		return nil, nil, err
	}
	s, err := sign.NewSigner(sign.Config{Trust: live, Log: env.Log, Tokens: found.Source, PerPackage: f.Certificate == "per-package",
		RekorVersion: f.RekorVersion})
	if err != nil {
		return nil, nil, Usage("check the signing configuration", err)
	}
	return s, live.Verifier(), nil
}

// StageFlags say how much is done at once.
type StageFlags struct {
	Concurrency      map[string]int `placeholder:"STAGE=N;…" help:"How many items are in a stage at once, by stage (and, in a worker, by campaign)."`
	MonolithInterval time.Duration  `default:"10m" help:"How long repodata.json of a large subdir stays behind its shards at most, while packages keep coming."`
}

// CheckStages refuses stages that do not exist and numbers that make no sense.
func (f *StageFlags) CheckStages() error {
	for name, n := range f.Concurrency {
		if !slices.Contains(stages.Names(), name) {
			return Usage("the stages are "+strings.Join(stages.Names(), ", "), fmt.Errorf("--concurrency: no stage %q", name))
		}
		if n < 1 || n > 1<<16 {
			return Usage("give a number from 1 on", fmt.Errorf("--concurrency: %d items at once in %s", n, name))
		}
	}
	return nil
}

// QueueFlags say where the queue is.
type QueueFlags struct {
	NATS     string `name:"nats" placeholder:"URL" help:"NATS server with JetStream to use instead of the embedded one."`
	Creds    string `name:"nats-creds" placeholder:"FILE" help:"Credentials file for the NATS server."`
	Replicas int    `help:"Replicas of the streams: 1 or 3 (default: 1 where they are created, else what they have)."`
	State    string `placeholder:"DIR" help:"Folder of the embedded server's state (default: one for each channel below the user's state folder)."`
	Listen   string `placeholder:"127.0.0.1:PORT" help:"Let other commands reach the embedded server here (default: it listens nowhere)."`
}

// StateDir is the folder of the embedded server for work on the channel to.
func (f *QueueFlags) StateDir(to string) (string, error) {
	if f.State != "" {
		return f.State, nil
	}
	base := os.Getenv("XDG_STATE_HOME")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", Usage("give --state DIR", fmt.Errorf("no place for the embedded server's state: %w", err))
		}
		base = filepath.Join(home, ".local", "state")
	}
	h := sha256.Sum256([]byte(to))
	return filepath.Join(base, "hallmark", hex.EncodeToString(h[:8])), nil
}

// Open connects to the server, or starts the embedded one with its state for the channel to. The returned function ends
// both.
func (f *QueueFlags) Open(ctx context.Context, env *Env, to string) (*queue.Queue, func(), error) {
	nc, o, closeAll, err := f.Connect(ctx, env, to)
	if err != nil {
		return nil, nil, err
	}
	q, err := queue.Open(ctx, nc, o)
	if err != nil {
		closeAll()
		if _, ok := errors.AsType[*queue.StreamMismatchError](err); ok || f.NATS != "" {
			err = &Error{Code: ExitUsage, Err: err, Hint: f.mismatchHint(err)}
		}
		return nil, nil, err
	}
	return q, closeAll, nil
}

// mismatchHint says what to do about a queue with other settings; "" if err is about something else.
func (f *QueueFlags) mismatchHint(err error) string {
	if _, ok := errors.AsType[*queue.StreamMismatchError](err); !ok {
		return ""
	}
	where := ""
	if f.NATS == "" {
		where = " with the same --state or --to"
	}
	return "see all differences with `producer queue check`" + where + ", and remove them with `producer queue migrate`"
}

// Connect is Open without a look at the streams.
func (f *QueueFlags) Connect(ctx context.Context, env *Env, to string) (*queue.Conn, queue.Options, func(), error) {
	o := queue.Options{Replicas: f.Replicas, Log: env.Log}
	if f.NATS != "" {
		nc, err := queue.Connect(ctx, f.NATS, queue.ConnectOptions{CredsFile: f.Creds, Log: env.Log})
		if err != nil {
			return nil, o, nil, &Error{Code: ExitUsage, Err: err, Hint: "check --nats and that the server runs with JetStream"}
		}
		return nc, o, nc.Close, nil
	}
	o.Replicas = 0 // an embedded server is alone
	dir, err := f.StateDir(to)
	if err != nil {
		return nil, o, nil, err
	}
	srv, err := queue.Embed(dir, queue.EmbedOptions{Listen: f.Listen, Log: env.Log})
	if err != nil {
		hint := ""
		if errors.Is(err, queue.ErrInUse) {
			hint = "wait for the other run, or give this one its own --state DIR"
		}
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			hint = "free space on the disk of the queue's state, or give another place with --state DIR"
		}
		return nil, o, nil, &Error{Code: ExitUsage, Err: err, Item: dir, Hint: hint}
	}
	o.Died, o.Stuck = srv.Died(), srv.Stuck
	nc, err := srv.Connect(queue.ConnectOptions{Log: env.Log})
	if err != nil {
		srv.Close()
		return nil, o, nil, err
	}
	return nc, o, func() { nc.Close(); srv.Close() }, nil
}

// SameCampaign says how two descriptions of a campaign differ, or returns nil.
func SameCampaign(have, want *pipeline.Campaign) error {
	for _, f := range []struct{ name, have, want string }{
		{"channel", have.To, want.To},
		{"channel URL", have.ChannelURL, want.ChannelURL},
		{"identity", have.Identity, want.Identity},
		{"issuer", have.Issuer, want.Issuer},
		{"policy", have.PolicySHA256(), want.PolicySHA256()},
		{"signing", signing(have), signing(want)},
		{"mode for sources", have.Sources.Mode, want.Sources.Mode},
		{"policy for sources", have.Sources.SHA256, want.Sources.SHA256},
		{"--skip-existing", fmt.Sprint(have.SkipExisting), fmt.Sprint(want.SkipExisting)},
		{"--store-github-attestation", fmt.Sprint(have.StoreGitHub), fmt.Sprint(want.StoreGitHub)},
		{"cuts", strings.Join(have.Cuts, ","), strings.Join(want.Cuts, ",")},
	} {
		if f.have != f.want {
			return &Error{Code: ExitUsage, Item: have.Name, Hint: "a campaign's channel, signer, rules and cuts are frozen: choose another name",
				Err: fmt.Errorf("campaign %s was started with %s %q, not %q", have.Name, f.name, f.have, f.want)}
		}
	}
	return nil
}

func signing(c *pipeline.Campaign) string {
	if c.NoSign {
		return "no"
	}
	return "yes"
}
