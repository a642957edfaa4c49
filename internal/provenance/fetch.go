package provenance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/hallmark-attest/hallmark/internal/remote"
)

// FetchOptions are a Fetcher's options; the zero value is of use.
type FetchOptions struct {
	// Transport does the requests; nil is one that connects to public addresses alone, since the URLs come from foreign
	// recipes (but through a proxy of the environment, which decides itself).
	Transport http.RoundTripper
	// PyPI is the base URL of the Python package index; "" is https://pypi.org.
	PyPI string
	// Rate is how many requests per second a host gets at most, 5 if it is 0; Burst how many at once, 10 if it is 0.
	Rate  float64
	Burst int
	// Timeout bounds one request with its redirects; 30 s if it is 0.
	Timeout time.Duration
	// Forget is how long a refusal is kept, 10 minutes if it is 0. Bundles are kept as long as there is room.
	Forget time.Duration
	// CacheBytes bounds what is kept; 128 MiB if it is 0.
	CacheBytes int
	// UserAgent is what the requests say; "" is "hallmark".
	UserAgent string
}

const (
	maxRedirects = 5
	maxHosts     = 1024
)

// Fetcher fetches bundles, each URL once for all that ask: keep one for the whole process. It sends no credentials and no
// cookies, takes https alone, also of redirects, and leaves a host alone for as long as that asks.
type Fetcher struct {
	o      FetchOptions
	client *http.Client

	mu      sync.Mutex
	entries map[string]*entry
	order   []string // of entries, oldest first
	bytes   int
	hosts   map[string]*host
}

// entry is what a URL answered, or will.
type entry struct {
	done    chan struct{} // closed once the rest is set
	bundles []Bundle
	err     *Error // nil if it was answered
	aborted bool   // whoever fetched gave up: somebody else has to
	at      time.Time
	size    int
	since   time.Time // of its failing; zero if it does not
}

type host struct {
	limit    *rate.Limiter
	closed   time.Time // until then
	failures int       // in a row
}

// NewFetcher makes a fetcher.
func NewFetcher(o FetchOptions) *Fetcher {
	o.PyPI = strings.TrimSuffix(cmp.Or(o.PyPI, defaultPyPI), "/")
	o.Rate, o.Burst = cmp.Or(o.Rate, 5), cmp.Or(o.Burst, 10)
	o.Timeout, o.Forget = cmp.Or(o.Timeout, 30*time.Second), cmp.Or(o.Forget, 10*time.Minute)
	o.CacheBytes, o.UserAgent = cmp.Or(o.CacheBytes, 128<<20), cmp.Or(o.UserAgent, "hallmark")
	if o.Transport == nil {
		o.Transport = newTransport()
	}
	return &Fetcher{
		o:       o,
		client:  &http.Client{Transport: o.Transport, CheckRedirect: checkRedirect},
		entries: map[string]*entry{}, hosts: map[string]*host{},
	}
}

var errRedirect = errors.New("a redirect is not followed")

func checkRedirect(req *http.Request, via []*http.Request) error {
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("%w: there are more than %d", errRedirect, maxRedirects)
	case req.URL.Scheme != "https":
		return fmt.Errorf("%w: it does not lead to https", errRedirect)
	case req.URL.User != nil:
		return fmt.Errorf("%w: it has credentials", errRedirect)
	}
	req.Header.Del("Referer") // it may be a URL that is nobody else's business
	return nil
}

// Bundles gives the bundles behind a URL. The error is an *Error, or the context's. The result is shared and MUST NOT be
// changed.
func (f *Fetcher) Bundles(ctx context.Context, rawURL string) ([]Bundle, error) {
	if err := checkBundleURL(rawURL); err != nil {
		return nil, err
	}
	for {
		e, mine := f.entry(rawURL)
		if mine {
			f.fill(ctx, rawURL, e)
		} else {
			select {
			case <-e.done:
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case e.aborted:
			continue
		case e.err != nil:
			return nil, e.err
		default:
			return e.bundles, nil
		}
	}
}

// entry gives the entry of a URL: an old one to wait for, or a new one to fill.
func (f *Fetcher) entry(rawURL string) (e *entry, mine bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.entries[rawURL]
	if old != nil {
		select {
		case <-old.done:
		default:
			return old, false
		}
		if !old.aborted && (old.err == nil || !old.err.Temporary && time.Since(old.at) < f.o.Forget) {
			return old, false
		}
	}
	e = &entry{done: make(chan struct{})}
	if old != nil {
		e.since = old.since
		f.bytes -= old.size
	} else {
		f.order = append(f.order, rawURL)
	}
	f.entries[rawURL] = e
	return e, true
}

func (f *Fetcher) fill(ctx context.Context, rawURL string, e *entry) {
	bundles, err := f.fetch(ctx, rawURL)
	f.mu.Lock()
	defer f.mu.Unlock()
	e.bundles, e.at, e.size = bundles, time.Now(), 1024
	for _, b := range bundles {
		e.size += len(b.Raw)
	}
	switch fe := (*Error)(nil); {
	case err == nil:
		e.since = time.Time{}
	case errors.As(err, &fe):
		if e.err = fe; fe.Temporary {
			if e.since.IsZero() {
				e.since = e.at
			}
			fe.Since = e.since
		} else {
			e.since = time.Time{}
		}
	default: // the context's
		e.aborted = true
	}
	f.bytes += e.size
	close(e.done)
	f.trim(rawURL)
}

// trim lets the oldest entries go, but for the one that has just come and those that somebody waits for.
func (f *Fetcher) trim(keep string) {
	for i := 0; f.bytes > f.o.CacheBytes && i < len(f.order); {
		u := f.order[i]
		e := f.entries[u]
		select {
		case <-e.done:
		default:
			i++
			continue
		}
		if u == keep {
			i++
			continue
		}
		f.bytes -= e.size
		delete(f.entries, u)
		f.order = append(f.order[:i], f.order[i+1:]...)
	}
}

// fetch does one request. The error is an *Error, or the context's.
func (f *Fetcher) fetch(ctx context.Context, rawURL string) ([]Bundle, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, refuse(CodeBundleURL, "", "the bundle URL is not a URL")
	}
	if err := f.admit(ctx, hostOf(u)); err != nil {
		return nil, err
	}
	rctx, cancel := context.WithTimeout(ctx, f.o.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(rctx, http.MethodGet, rawURL, nil)
	if err != nil {
		return nil, refuse(CodeBundleURL, "", "the bundle URL is not a URL")
	}
	req.Header.Set("User-Agent", f.o.UserAgent)
	req.Header.Set("Accept", "application/vnd.dev.sigstore.bundle.v0.3+json, application/json;q=0.9, */*;q=0.1")
	if strings.HasPrefix(rawURL, f.o.PyPI+"/integrity/") {
		req.Header.Set("Accept", "application/vnd.pypi.integrity.v1+json")
	}
	resp, err := f.client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, f.failed(hostOf(u), rawURL, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, f.answered(hostOf(u), rawURL, resp)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse+1))
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, f.failed(hostOf(u), rawURL, err)
	}
	f.open(hostOf(u))
	bundles, err := ParseResponse(body)
	if e, ok := errors.AsType[*Error](err); ok {
		e.Err = fmt.Errorf("from %s: %w", safeURL(rawURL), e.Err)
		return nil, e
	}
	return bundles, err
}

// host gives what is known of a host. f.mu is held.
func (f *Fetcher) host(name string) *host {
	h := f.hosts[name]
	if h == nil {
		if len(f.hosts) >= maxHosts {
			now := time.Now()
			for n, h := range f.hosts {
				if h.closed.Before(now) && h.limit.TokensAt(now) >= float64(f.o.Burst) {
					delete(f.hosts, n)
				}
			}
		}
		h = &host{limit: rate.NewLimiter(rate.Limit(f.o.Rate), f.o.Burst)}
		f.hosts[name] = h
	}
	return h
}

// admit waits for the host's turn. A host that asked to be left alone is not waited for: the caller has other work.
func (f *Fetcher) admit(ctx context.Context, name string) error {
	f.mu.Lock()
	h := f.host(name)
	wait := time.Until(h.closed)
	f.mu.Unlock()
	if wait > 0 {
		return &Error{Code: CodeUnavailable, Temporary: true, RetryAfter: wait, Err: fmt.Errorf("%s has asked to be left alone, or does not answer", clip(name, 100))}
	}
	if err := h.limit.Wait(ctx); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return &Error{Code: CodeUnavailable, Temporary: true, RetryAfter: time.Second, Err: fmt.Errorf("waiting for a turn at %s: %w", clip(name, 100), err)}
	}
	return nil
}

// close leaves a host alone for a while: what it asks for, or more with each failure in a row.
func (f *Fetcher) close(name string, asked time.Duration) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := f.host(name)
	h.failures++
	wait := max(asked, time.Second<<min(h.failures-1, 5))
	h.closed = time.Now().Add(wait)
	return wait
}

func (f *Fetcher) open(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.host(name).failures = 0
}

// failed says what a request without an answer means.
func (f *Fetcher) failed(name, rawURL string, err error) *Error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err // its text has the URL, query and all
	}
	switch {
	case errors.Is(err, errRedirect):
		return refuse(CodeRedirect, "give a bundle_url that needs no such redirect", "fetching %s: %s", safeURL(rawURL), clip(err.Error(), 200))
	case errors.Is(err, errPrivate):
		return refuse(CodeFetchRefused, "", "fetching %s: %w", safeURL(rawURL), errPrivate)
	}
	return &Error{Code: CodeUnavailable, Temporary: true, RetryAfter: f.close(name, 0), Err: fmt.Errorf("fetching %s: %s", safeURL(rawURL), clip(err.Error(), 300))}
}

// answered says what a status other than 200 means.
func (f *Fetcher) answered(name, rawURL string, resp *http.Response) *Error {
	what := fmt.Errorf("%s answered %d", safeURL(rawURL), resp.StatusCode)
	asked, has := remote.RetryAfter(resp.Header, time.Now())
	switch s := resp.StatusCode; {
	case s == http.StatusNotFound || s == http.StatusGone:
		f.open(name)
		return &Error{Code: CodeMissing, Err: fmt.Errorf("%w: it has no attestations of this file", what)}
	case s == http.StatusTooManyRequests || s == http.StatusRequestTimeout || s >= 500,
		// The index says 403 while attestations are switched off, and others when a budget is used up.
		s == http.StatusForbidden && (has || strings.HasPrefix(rawURL, f.o.PyPI+"/integrity/") || resp.Header.Get("X-RateLimit-Remaining") == "0"):
		return &Error{Code: CodeUnavailable, Temporary: true, RetryAfter: f.close(name, asked), Err: what}
	default:
		f.open(name)
		return &Error{Code: CodeFetchRefused, Err: what}
	}
}
