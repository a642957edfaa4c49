package attest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/tuf"
	"github.com/theupdateframework/go-tuf/v2/metadata"
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

// TUFOptions says where PublicGood fetches from. The zero value is public-good Sigstore with its default signing config.
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

// PublicGood fetches the trusted root and the signing config of public-good Sigstore by TUF, with one refresh. Call it
// once per process. cacheDir keeps the TUF metadata between runs and MUST NOT be shared by processes that run at the
// same time; "" keeps nothing. The context ends every request.
//
// LoadTrustRoot and LoadSigningConfig are the way without network.
func PublicGood(ctx context.Context, cacheDir string, opts TUFOptions) (*TrustRoot, *root.SigningConfig, error) {
	f := &tufFetcher{ctx: ctx, client: opts.Client}
	if f.client == nil {
		f.client = &http.Client{}
	}
	o := &tuf.Options{
		Root:              tuf.DefaultRoot(),
		RepositoryBaseURL: tuf.DefaultMirror,
		CachePath:         cacheDir,
		DisableLocalCache: cacheDir == "",
		Fetcher:           f,
		Context:           ctx,
	}
	if opts.RepositoryURL != "" {
		o.RepositoryBaseURL = opts.RepositoryURL
	}
	if opts.Root != nil {
		o.Root = opts.Root
	}
	target := opts.SigningConfig
	if target == "" {
		target = TargetSigningConfig
	}

	client, err := tuf.New(o)
	if err != nil {
		return nil, nil, fmt.Errorf("refreshing Sigstore's TUF metadata from %s: %w", o.RepositoryBaseURL, cause(ctx, err))
	}
	data, err := client.GetTarget(TargetTrustedRoot)
	if err != nil {
		return nil, nil, fmt.Errorf("fetching %s from %s: %w", TargetTrustedRoot, o.RepositoryBaseURL, cause(ctx, err))
	}
	trust, err := ParseTrustRoot(data)
	if err != nil {
		return nil, nil, fmt.Errorf("%s from %s: %w", TargetTrustedRoot, o.RepositoryBaseURL, err)
	}
	if data, err = client.GetTarget(target); err != nil {
		return nil, nil, fmt.Errorf("fetching %s from %s: %w", target, o.RepositoryBaseURL, cause(ctx, err))
	}
	sc, err := ParseSigningConfig(data)
	if err != nil {
		return nil, nil, fmt.Errorf("%s from %s: %w", target, o.RepositoryBaseURL, err)
	}
	return trust, sc, nil
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
