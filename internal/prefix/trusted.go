package prefix

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hallmark-attest/hallmark/internal/identity"
	"github.com/hallmark-attest/hallmark/internal/remote"
)

const (
	// UnknownLife is how long a minted token is used that does not say when it expires.
	UnknownLife = 5 * time.Minute
	// APIKeyVariable is where rattler's clients look for an API token.
	APIKeyVariable = "PREFIX_API_KEY"
	// IDTokenVariable is where GitLab CI puts the identity token for prefix.dev, as rattler's clients name it.
	IDTokenVariable = "PREFIX_DEV_ID_TOKEN"

	mintTimeout = 30 * time.Second
	mintMargin  = time.Minute // before its expiry, a token is replaced
)

// Audience is the audience of the identity tokens that a server takes for its own: "prefix.dev" for it and its subdomains,
// else the server's host name.
func Audience(server *url.URL) string {
	host := strings.ToLower(server.Hostname())
	if host == "prefix.dev" || strings.HasSuffix(host, ".prefix.dev") {
		return "prefix.dev"
	}
	return host
}

// Trusted is trusted publishing: it exchanges an identity token (OIDC) for a token of the server, keeps that until shortly
// before it expires or is refused, and then exchanges anew. Workers that ask at the same time share one exchange.
type Trusted struct {
	mint     string
	audience string
	source   identity.Source
	client   *http.Client
	now      func() time.Time

	turn    chan struct{} // holds one value: the right to what follows
	token   Token
	renewal time.Time
}

var _ TokenSource = (*Trusted)(nil)

// NewTrusted makes a source for a server. source MUST give identity tokens for Audience(server): others are not sent, since
// whoever has a token can use it where its audience says. transport defaults to http.DefaultTransport.
func NewTrusted(server *url.URL, source identity.Source, transport http.RoundTripper) (*Trusted, error) {
	if err := checkServer(server); err != nil {
		return nil, err
	}
	if transport == nil {
		transport = http.DefaultTransport
	}
	t := &Trusted{
		mint:     (&url.URL{Scheme: server.Scheme, Host: server.Host, Path: "/api/oidc/mint_token"}).String(),
		audience: Audience(server), source: source, client: remote.Unmoved(transport, 0), now: time.Now, turn: make(chan struct{}, 1),
	}
	t.turn <- struct{}{}
	return t, nil
}

// String implements TokenSource.
func (t *Trusted) String() string { return "trusted publishing with " + t.source.String() }

// Token implements TokenSource.
func (t *Trusted) Token(ctx context.Context, refused Token) (Token, error) {
	select {
	case <-t.turn:
		defer func() { t.turn <- struct{}{} }()
	case <-ctx.Done():
		return Token{}, fmt.Errorf("waiting for a token: %w", ctx.Err())
	}
	if t.token != (Token{}) && t.token != refused && t.now().Before(t.renewal) {
		return t.token, nil
	}
	token, renewal, err := t.exchange(ctx)
	if err != nil {
		return Token{}, err
	}
	if token == refused {
		return Token{}, fmt.Errorf("the server minted the token again that it had refused: %w", ErrIdentity)
	}
	t.token, t.renewal = token, renewal
	return token, nil
}

func (t *Trusted) exchange(ctx context.Context) (token Token, renewal time.Time, err error) {
	id, err := t.source.Token(ctx)
	switch {
	case errors.Is(err, identity.ErrUnavailable) || err != nil && ctx.Err() != nil:
		return Token{}, time.Time{}, fmt.Errorf("trusted publishing: %w", err)
	case err != nil:
		return Token{}, time.Time{}, fmt.Errorf("trusted publishing: %w: %w", ErrIdentity, err)
	case !slices.Contains(id.Audience, t.audience):
		return Token{}, time.Time{}, fmt.Errorf("trusted publishing: the identity token of %s is for %q, not for %q, and was not sent: %w",
			t.source, id.Audience, t.audience, ErrIdentity)
	}
	body, err := json.Marshal(struct {
		Token string `json:"token"`
	}{id.Raw})
	if err != nil {
		return Token{}, time.Time{}, fmt.Errorf("trusted publishing: %w", err)
	}
	const doing = "exchanging the identity token for one of the server"
	within, cancel := context.WithTimeout(ctx, mintTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(within, http.MethodPost, t.mint, bytes.NewReader(body))
	if err != nil {
		return Token{}, time.Time{}, fmt.Errorf("%s: %w", doing, err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", userAgent)
	began := t.now()
	resp, err := t.client.Do(req)
	if err != nil {
		return Token{}, time.Time{}, remote.Unreached(ctx, doing, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		kind := ErrIdentity
		if transientStatus(resp.StatusCode) {
			kind = nil
		}
		return Token{}, time.Time{}, status(doing, resp, kind, id.Redact)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 2*maxToken))
	if err != nil {
		return Token{}, time.Time{}, remote.Unreached(ctx, doing, err)
	}
	token, err = NewToken(string(raw))
	if err != nil { // an error page, say: it may be gone the next time
		return Token{}, time.Time{}, &remote.Outage{Err: fmt.Errorf("%s: the answer is no token: %w", doing, err)}
	}
	return token, began.Add(life(token, began)), nil
}

// life is how long to use a token: until a minute, or a tenth of its life, before it expires.
func life(t Token, now time.Time) time.Duration {
	claims, err := identity.Parse(t.raw)
	if err != nil || claims.Expiry.IsZero() {
		return UnknownLife
	}
	left := claims.Expiry.Sub(now)
	return left - min(mintMargin, left/10)
}

// transientStatus tells whether an answer may be another one the next time.
func transientStatus(code int) bool {
	return code >= 500 || code == http.StatusRequestTimeout || code == http.StatusTooEarly || code == http.StatusTooManyRequests
}

// Options say where DetectTokens may look.
type Options struct {
	Server    *url.URL
	TokenFile string              // a file with an API token, given explicitly
	Getenv    func(string) string // defaults to os.Getenv
	Transport http.RoundTripper   // defaults to http.DefaultTransport
}

// DetectTokens picks the source of tokens, without a request: a file that was given, then the variable PREFIX_API_KEY, then
// trusted publishing in a CI job: GitLab's PREFIX_DEV_ID_TOKEN, GitHub Actions, Buildkite. If there is none, the error
// matches ErrIdentity and says what to do.
func DetectTokens(o Options) (TokenSource, error) {
	if err := checkServer(o.Server); err != nil {
		return nil, err
	}
	getenv := o.Getenv
	if getenv == nil {
		getenv = os.Getenv
	}
	var source identity.Source
	switch {
	case o.TokenFile != "":
		return &File{Path: o.TokenFile}, nil
	case getenv(APIKeyVariable) != "":
		return &Variable{Name: APIKeyVariable, Getenv: getenv}, nil
	case getenv(IDTokenVariable) != "":
		source = &identity.Variable{Name: IDTokenVariable, Getenv: getenv}
	default:
		kind := ""
		switch "true" {
		case getenv("GITHUB_ACTIONS"):
			kind = "github"
		case getenv("BUILDKITE"):
			kind = "buildkite"
		default:
			return nil, fmt.Errorf("%w: there is neither an API token (a file, or %s) nor a CI job with trusted publishing (in GitLab, give it %s for the audience %q)",
				ErrIdentity, APIKeyVariable, IDTokenVariable, Audience(o.Server))
		}
		var err error
		source, err = identity.Detect(identity.Options{Only: kind, Audience: Audience(o.Server), Getenv: getenv, Transport: o.Transport})
		if err != nil {
			return nil, fmt.Errorf("looking for an identity to publish with: %w: %w", ErrIdentity, err)
		}
	}
	return NewTrusted(o.Server, source, o.Transport)
}
