// Package github keeps attestations where GitHub's own tools look for them: verified bundles flow into a repository's
// attestation store, and their ids flow out. The repository's attestations tab and "gh attestation verify" without --bundle
// read from there.
package github

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/remote"
	"github.com/hallmark-attest/hallmark/internal/strictjson"
)

// Where nothing else is said.
const (
	DefaultAPI      = "https://api.github.com"
	DefaultAttempts = 4
	DefaultBackoff  = time.Second
	DefaultPatience = 2 * time.Minute
	// DefaultInterval is what GitHub asks for between requests that create something ("Best practices for using the REST
	// API").
	DefaultInterval = time.Second

	// TokenVariable is where a workflow puts the job's token. It takes the permission "attestations: write".
	TokenVariable = "GITHUB_TOKEN"

	apiVersion = "2022-11-28"
	timeout    = time.Minute
)

// Config says how to reach the store. The zero value is github.com with the token in GITHUB_TOKEN.
type Config struct {
	API       *url.URL          // defaults to DefaultAPI; https, or http on loopback
	Token     func() string     // asked for each request; defaults to the variable GITHUB_TOKEN
	Transport http.RoundTripper // defaults to http.DefaultTransport
	Attempts  int               // how often a bundle is sent while GitHub fails in a way that may pass; DefaultAttempts
	Backoff   time.Duration     // the first pause between attempts; DefaultBackoff
	Patience  time.Duration     // the longest pause that GitHub may ask for; longer ones are the caller's; DefaultPatience
	Interval  time.Duration     // between bundles, of all callers together; DefaultInterval
}

// Attestations are the attestation stores of repositories. It is safe for concurrent use; callers take turns, since GitHub
// limits what creates content (about 80 requests a minute and 500 an hour, for all that a token's owner does).
type Attestations struct {
	api      url.URL
	token    func() string
	client   *http.Client
	attempts int
	backoff  time.Duration
	patience time.Duration
	interval time.Duration
	pause    func(context.Context, time.Duration) error
	now      func() time.Time

	turn chan struct{} // holds one value: the right to send, and next
	next time.Time     // nothing is sent before
}

// New makes the stores' client. It makes no request.
func New(c Config) (*Attestations, error) {
	if c.API == nil {
		c.API, _ = url.Parse(DefaultAPI)
	}
	ip, err := netip.ParseAddr(c.API.Hostname())
	local := err == nil && ip.IsLoopback() || c.API.Hostname() == "localhost"
	if c.API.Host == "" || c.API.User != nil || c.API.RawQuery != "" || c.API.Fragment != "" || !(c.API.Scheme == "https" || c.API.Scheme == "http" && local) {
		return nil, errors.New("GitHub's API is at https://host or https://host/path, without credentials and query")
	}
	if c.Token == nil {
		c.Token = func() string { return os.Getenv(TokenVariable) }
	}
	if c.Transport == nil {
		c.Transport = http.DefaultTransport
	}
	a := &Attestations{
		api: url.URL{Scheme: c.API.Scheme, Host: c.API.Host, Path: strings.TrimSuffix(c.API.Path, "/")}, token: c.Token,
		client:   remote.Unmoved(c.Transport, timeout),
		attempts: cmp.Or(max(c.Attempts, 0), DefaultAttempts), backoff: cmp.Or(max(c.Backoff, 0), DefaultBackoff), patience: cmp.Or(max(c.Patience, 0), DefaultPatience),
		interval: cmp.Or(max(c.Interval, 0), DefaultInterval), pause: remote.Pause, now: time.Now, turn: make(chan struct{}, 1),
	}
	a.turn <- struct{}{}
	return a, nil
}

// SplitRepository splits "owner/repo", as the variable GITHUB_REPOSITORY has it.
func SplitRepository(s string) (owner, repo string, err error) {
	owner, repo, _ = strings.Cut(s, "/")
	if err := checkRepository(owner, repo); err != nil {
		return "", "", err
	}
	return owner, repo, nil
}

var (
	ownerName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$`)
	repoName  = regexp.MustCompile(`^[A-Za-z0-9._-]{1,100}$`)
)

func checkRepository(owner, repo string) error {
	if !ownerName.MatchString(owner) || !repoName.MatchString(repo) || repo == "." || repo == ".." {
		return fmt.Errorf("%w: %.100q is no repository: want owner/repo", ErrArgument, owner+"/"+repo)
	}
	return nil
}

// Has tells whether a repository's store lists a bundle, as it is or written anew. Where Store was cut off before it could
// say what it did, it is what to ask first. The errors are those of Store.
func (a *Attestations) Has(ctx context.Context, owner, repo string, bundle []byte) (bool, error) {
	if err := checkRepository(owner, repo); err != nil {
		return false, err
	}
	bundle = bytes.TrimSpace(bundle)
	digest, err := subject(bundle)
	if err != nil {
		return false, fmt.Errorf("%w: the bundle %w", ErrArgument, err)
	}
	return a.has(ctx, owner, repo, digest, bundle)
}

// Probe asks for something that no repository's store has, so that a token which GitHub does not accept is known early.
// Whether it may write is not known before something is written. The errors are those of Store.
func (a *Attestations) Probe(ctx context.Context, owner, repo string) error {
	if err := checkRepository(owner, repo); err != nil {
		return err
	}
	_, err := a.has(ctx, owner, repo, "sha256:"+strings.Repeat("0", 64), []byte("{}"))
	return err
}

// Repository gives the repository that a certificate's claim sourceRepositoryURI names, https://github.com/owner/repo. It
// MUST be one of this API's: https://api.HOST and https://HOST/… have those of https://HOST. An API on loopback, as tests
// have it, has all. The error matches ErrArgument.
func (a *Attestations) Repository(uri string) (owner, repo string, err error) {
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", "", fmt.Errorf("%w: the source repository %.200q is none of GitHub", ErrArgument, uri)
	}
	if host := strings.ToLower(a.api.Host); host != u.Host && host != "api."+u.Host && a.api.Scheme == "https" {
		return "", "", fmt.Errorf("%w: the source repository %.200q is not one of %s", ErrArgument, uri, a.api.Host)
	}
	return SplitRepository(strings.TrimPrefix(u.Path, "/"))
}

// Store puts a bundle into a repository's store and returns GitHub's id of it. The caller MUST have verified the bundle.
//
// GitHub does not say what it answers for a bundle that it has. So where an answer was lost, or was 409 or 422, the store is
// asked for the bundle's subject first; if it has the bundle already, Store has succeeded, with an id of "": GitHub's list
// does not tell it.
//
// Errors match ErrArgument, ErrIdentity, ErrForbidden, ErrNotFound or ErrRejected, or are ctx's; else Transient says yes.
func (a *Attestations) Store(ctx context.Context, owner, repo string, bundle []byte) (id string, err error) {
	if err := checkRepository(owner, repo); err != nil {
		return "", err
	}
	bundle = bytes.TrimSpace(bundle)
	digest, err := subject(bundle)
	if err != nil {
		return "", fmt.Errorf("%w: the bundle %w", ErrArgument, err)
	}
	body := bytes.Join([][]byte{[]byte(`{"bundle":`), bundle, []byte(`}`)}, nil) // its bytes, not written anew
	delay := a.backoff
	for attempt := 1; ; attempt++ {
		id, err = a.create(ctx, owner, repo, body)
		if err == nil {
			return id, nil
		}
		after, passes := Transient(err)
		s, _ := errors.AsType[*StatusError](err)
		_, limited := errors.AsType[*limited](err)
		if lost := passes && !limited; lost || s != nil && (s.Status == http.StatusConflict || s.Status == http.StatusUnprocessableEntity) {
			if has, lerr := a.has(ctx, owner, repo, digest, bundle); lerr == nil && has {
				return "", nil
			}
		}
		if !passes || attempt >= a.attempts || after > a.patience {
			return "", err
		}
		if perr := a.pause(ctx, max(after, delay/2+rand.N(delay/2+1))); perr != nil {
			return "", errors.Join(perr, err)
		}
		delay *= 2
	}
}

// create makes one request, when it is its turn.
func (a *Attestations) create(ctx context.Context, owner, repo string, body []byte) (id string, err error) {
	doing := fmt.Sprintf("storing an attestation in the GitHub repository %s/%s", owner, repo)
	select {
	case <-a.turn:
		defer func() { a.turn <- struct{}{} }()
	case <-ctx.Done():
		return "", fmt.Errorf("%s: %w", doing, ctx.Err())
	}
	if wait := a.next.Sub(a.now()); wait > a.patience { // somebody else was told so
		return "", &limited{&StatusError{Service: service, Doing: doing, Status: http.StatusTooManyRequests, Said: "asked to wait", After: wait}}
	} else if wait > 0 {
		if err := a.pause(ctx, wait); err != nil {
			return "", fmt.Errorf("%s: %w", doing, err)
		}
	}
	defer func() {
		after, _ := Transient(err)
		a.next = a.now().Add(max(after, a.interval))
	}()
	resp, err := a.ask(ctx, doing, http.MethodPost, "/repos/"+owner+"/"+repo+"/attestations", nil, body)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusOK {
		return "", a.refusal(doing, resp)
	}
	var created struct {
		ID json.Number `json:"id"` // a number, or the same as a string
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", remote.Unreached(ctx, doing, err)
	}
	if json.Unmarshal(raw, &created) != nil || created.ID == "" {
		return "", &remote.Outage{Err: fmt.Errorf("%s: the answer has no id", doing)}
	}
	return created.ID.String(), nil
}

// ask makes one request to the API, whatever it is answered.
func (a *Attestations) ask(ctx context.Context, doing, method, path string, query url.Values, body []byte) (*http.Response, error) {
	token := strings.TrimSpace(a.token())
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, fmt.Errorf("%s: there is no token, or none that can be one: %w", doing, ErrIdentity)
	}
	u := a.api
	u.Path, u.RawQuery = u.Path+path, query.Encode()
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/vnd.github+json")
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("X-GitHub-Api-Version", apiVersion)
	req.Header.Set("User-Agent", "hallmark") // GitHub refuses requests without one
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, remote.Unreached(ctx, doing, err)
	}
	return resp, nil
}

// subject gives the digest that GitHub lists a bundle under: that of its statement's subject.
func subject(bundle []byte) (string, error) {
	if len(bundle) > attest.MaxBundle {
		return "", fmt.Errorf("has %d bytes, more than %d", len(bundle), attest.MaxBundle)
	}
	if _, err := strictjson.DecodeObject(bundle); err != nil {
		return "", err
	}
	var b struct {
		DSSE struct {
			Payload []byte `json:"payload"`
		} `json:"dsseEnvelope"`
	}
	if json.Unmarshal(bundle, &b) != nil {
		return "", errors.New("has no statement")
	}
	var st struct {
		Subject []struct {
			Digest map[string]string `json:"digest"`
		} `json:"subject"`
	}
	if json.Unmarshal(b.DSSE.Payload, &st) != nil || len(st.Subject) == 0 || !sha256Hex.MatchString(st.Subject[0].Digest["sha256"]) {
		return "", errors.New("has no statement about a SHA-256")
	}
	return "sha256:" + st.Subject[0].Digest["sha256"], nil
}

var sha256Hex = regexp.MustCompile(`^[0-9a-f]{64}$`)
