package attest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/tuf"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"
)

// The TUF targets of public-good Sigstore.
const (
	// TargetTrustedRoot is the trusted root.
	TargetTrustedRoot = "trusted_root.json"
	// TargetSigningConfig is the default signing config, which chooses Rekor v1.
	TargetSigningConfig = "signing_config.v0.2.json"
	// TargetSigningConfigRekorV2 is the signing config that chooses Rekor v2. Older verifiers refuse its bundles.
	TargetSigningConfigRekorV2 = "signing_config_rekor_v2.v0.2.json"
)

// tufTimeout bounds one request to the TUF repository, answer included, if the client has no timeout of its own.
const tufTimeout = 30 * time.Second

// TUFOptions says where PublicGood and Repository fetch from. The zero value is public-good Sigstore with its default signing config.
type TUFOptions struct {
	// Client does the requests; nil is a client with the default transport.
	Client *http.Client
	// RepositoryURL is the TUF repository; "" is public-good Sigstore's.
	RepositoryURL string
	// Root is the TUF root to start from (root.json); nil is public-good Sigstore's, which is compiled in. Give it
	// together with RepositoryURL.
	Root []byte
	// SigningConfig is the target to read the signing config from; "" is TargetSigningConfig.
	SigningConfig string
}

// PublicGood fetches the trusted root and the signing config of public-good Sigstore by TUF, with one refresh. It keeps
// nothing on disk. The context ends every request. LoadTrustRoot and LoadSigningConfig are the way without network, and
// Repository is for a process that lives for long.
func PublicGood(ctx context.Context, opts TUFOptions) (*TrustRoot, *root.SigningConfig, error) {
	return NewRepository(opts).Fetch(ctx)
}

// Repository is a TUF repository that is fetched from again and again. What it gave once is remembered in memory: the next
// fetch starts from the newest root that was verified, and metadata that is older than the last is refused, so that
// nobody can take a running process back to a trusted root or a key that was replaced. It is not safe for concurrent use.
type Repository struct {
	opts                                TUFOptions
	root                                []byte // the newest root that was verified
	seen                                bool
	version                             int64 // of that root
	timestamp, snapshot, targetsVersion int64 // of what was last verified under it
}

// NewRepository makes no request.
func NewRepository(opts TUFOptions) *Repository {
	if opts.RepositoryURL == "" {
		opts.RepositoryURL = tuf.DefaultMirror
	}
	if opts.Root == nil {
		opts.Root = tuf.DefaultRoot()
	}
	if opts.SigningConfig == "" {
		opts.SigningConfig = TargetSigningConfig
	}
	if opts.Client == nil {
		opts.Client = &http.Client{}
	}
	return &Repository{opts: opts, root: opts.Root}
}

// Fetch refreshes the metadata (TUF 1.0, section 5) and gives the trusted root and the signing config of that one state of
// the repository.
func (r *Repository) Fetch(ctx context.Context) (*TrustRoot, *root.SigningConfig, error) {
	address := r.opts.RepositoryURL
	cfg, err := config.New(address, r.root)
	if err != nil {
		return nil, nil, fmt.Errorf("the TUF repository %s: %w", address, err)
	}
	cfg.Fetcher = &tufFetcher{ctx: ctx, client: r.opts.Client}
	cfg.DisableLocalCache = true
	// Without a cache, go-tuf still looks for metadata here, and with "" that is the working directory.
	cfg.LocalMetadataDir = os.DevNull
	client, err := updater.New(cfg)
	if err == nil {
		err = client.Refresh()
	}
	if err == nil {
		err = r.advance(client)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("refreshing Sigstore's TUF metadata from %s: %w", address, cause(ctx, err))
	}
	target := func(name string) ([]byte, error) {
		info, err := client.GetTargetInfo(name)
		if err != nil {
			return nil, fmt.Errorf("finding %s at %s: %w", name, address, cause(ctx, err))
		}
		_, data, err := client.DownloadTarget(info, name, "")
		if err != nil {
			return nil, fmt.Errorf("fetching %s from %s: %w", name, address, cause(ctx, err))
		}
		return data, nil
	}
	data, err := target(TargetTrustedRoot)
	if err != nil {
		return nil, nil, err
	}
	trust, err := ParseTrustRoot(data)
	if err != nil {
		return nil, nil, fmt.Errorf("%s from %s: %w", TargetTrustedRoot, address, err)
	}
	if data, err = target(r.opts.SigningConfig); err != nil {
		return nil, nil, err
	}
	sc, err := ParseSigningConfig(data)
	if err != nil {
		return nil, nil, fmt.Errorf("%s from %s: %w", r.opts.SigningConfig, address, err)
	}
	return trust, sc, nil
}

// errRollback says that a repository shows an older state than it did.
var errRollback = errors.New("the repository shows metadata that is older than what it showed before")

// advance remembers what was verified, unless it is older than what was before. Under a new root older versions are
// allowed: that is how a repository recovers after the keys of the lower roles were in wrong hands (TUF 1.0, 5.3.11).
func (r *Repository) advance(client *updater.Updater) error {
	set := client.GetTrustedMetadataSet()
	version, timestamp, snapshot := set.Root.Signed.Version, set.Timestamp.Signed.Version, set.Snapshot.Signed.Version
	targets := set.Targets[metadata.TARGETS].Signed.Version
	if r.seen && version == r.version && (timestamp < r.timestamp || snapshot < r.snapshot || targets < r.targetsVersion) {
		return errRollback
	}
	data, err := set.Root.ToBytes(false)
	if err != nil {
		return fmt.Errorf("keeping the root: %w", err)
	}
	r.seen, r.root, r.version = true, data, version
	r.timestamp, r.snapshot, r.targetsVersion = timestamp, snapshot, targets
	return nil
}

// cause puts the context's end in front: the TUF client does not always wrap what its fetcher says.
func cause(ctx context.Context, err error) error {
	if end := context.Cause(ctx); end != nil {
		return fmt.Errorf("%w: %w", end, err)
	}
	return err
}

// tufFetcher is go-tuf's Fetcher with a context. The interface has no place for one, so it lives as long as the fetch.
type tufFetcher struct {
	ctx    context.Context
	client *http.Client
}

// DownloadFile gets url, at most limit bytes of it. The TUF client tells by the error's type that there is no newer root.
func (f *tufFetcher) DownloadFile(url string, limit int64, _ time.Duration) ([]byte, error) {
	ctx := f.ctx
	if f.client.Timeout == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, tufTimeout)
		defer cancel()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, &metadata.ErrDownloadHTTP{StatusCode: resp.StatusCode, URL: url}
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", url, err)
	}
	if int64(len(data)) > limit {
		return nil, &metadata.ErrDownloadLengthMismatch{Msg: fmt.Sprintf("%s has more than %d bytes", url, limit)}
	}
	return data, nil
}
