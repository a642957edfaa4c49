package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/hallmark-attest/hallmark/internal/remote"
)

// The variables that GitHub Actions sets in a job that has the permission "id-token: write".
const (
	githubURL   = "ACTIONS_ID_TOKEN_REQUEST_URL"
	githubToken = "ACTIONS_ID_TOKEN_REQUEST_TOKEN"
)

// GitHub asks the OIDC provider of GitHub Actions, once per token: they live for
// minutes.
type GitHub struct {
	requestURL, requestToken, audience string

	client *http.Client
}

// NewGitHub gives tokens from the provider that a job's ACTIONS_ID_TOKEN_REQUEST_URL and _TOKEN name. The audience
// defaults to DefaultAudience, the transport to http.DefaultTransport.
func NewGitHub(requestURL, requestToken, audience string, transport http.RoundTripper) (*GitHub, error) {
	u, err := url.Parse(requestURL)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" {
		return nil, fmt.Errorf("%s is not an http(s) URL", githubURL)
	}
	if audience == "" {
		audience = DefaultAudience
	}
	q := u.Query()
	q.Set("audience", audience)
	u.RawQuery = q.Encode()
	return &GitHub{requestURL: u.String(), requestToken: requestToken, audience: audience,
		client: remote.Unmoved(transport, askTimeout)}, nil
}

func (g *GitHub) String() string { return "GitHub Actions" }

// Format keeps the request's credential out of whatever prints the source.
func (g *GitHub) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, g.String()) }

// Token asks for a token. A provider that fails or pushes back is asked up to four times; then the error matches
// ErrUnavailable. A refusal matches ErrRefused.
func (g *GitHub) Token(ctx context.Context) (Token, error) { return persist(ctx, g, g.audience, g.ask) }

// ask makes one request. It returns the provider's Retry-After along with an error.
func (g *GitHub) ask(ctx context.Context) (raw string, after wait, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.requestURL, nil)
	if err != nil {
		return "", 0, errors.New("the request URL is malformed")
	}
	req.Header.Set("Authorization", "Bearer "+g.requestToken)
	req.Header.Set("Accept", "application/json")
	body, after, err := fetch(g.client, req)
	if err != nil {
		return "", after, err
	}
	var answer struct {
		Value string `json:"value"`
	}
	if json.Unmarshal(body, &answer) != nil || answer.Value == "" {
		return "", 0, fmt.Errorf("its answer holds no token: %w", ErrMalformed)
	}
	return answer.Value, 0, nil
}
