package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// The variables that GitHub Actions sets in a job that has the permission "id-token: write".
const (
	githubURL   = "ACTIONS_ID_TOKEN_REQUEST_URL"
	githubToken = "ACTIONS_ID_TOKEN_REQUEST_TOKEN"
)

const (
	githubAttempts = 4
	githubTimeout  = 15 * time.Second // one attempt
	githubPatience = 30 * time.Second // the longest wait between two
)

// GitHub asks the OIDC provider of GitHub Actions, once per token: they live for five minutes.
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
		client: &http.Client{
			Transport: transport,
			Timeout:   githubTimeout,
			// The request carries a credential: it goes where the runner said, and nowhere else.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}}, nil
}

func (g *GitHub) String() string { return "GitHub Actions" }

// Format keeps the request's credential out of whatever prints the source.
func (g *GitHub) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, g.String()) }

// Token asks for a token. A provider that fails or pushes back is asked up to four times; then the error matches
// ErrUnavailable. A refusal matches ErrRefused.
func (g *GitHub) Token(ctx context.Context) (Token, error) {
	delay := 500 * time.Millisecond
	for attempt := 1; ; attempt++ {
		raw, after, err := g.ask(ctx)
		if err == nil {
			return parsed(raw, g, time.Now())
		}
		err = fmt.Errorf("asking %s for an identity token (audience %s): %w", g, g.audience, err)
		if !errors.Is(err, ErrUnavailable) || attempt == githubAttempts || after > githubPatience {
			return Token{}, err
		}
		t := time.NewTimer(max(after, delay/2+rand.N(delay)))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return Token{}, errors.Join(ctx.Err(), err)
		}
		delay *= 2
	}
}

// ask makes one request. It returns the provider's Retry-After along with an error.
func (g *GitHub) ask(ctx context.Context) (raw string, after time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.requestURL, nil)
	if err != nil {
		return "", 0, errors.New("the request URL is malformed")
	}
	req.Header.Set("Authorization", "Bearer "+g.requestToken)
	req.Header.Set("Accept", "application/json")
	resp, err := g.client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return "", 0, ctx.Err()
		}
		// Without the URL, whose path and query are the runner's business.
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		return "", 0, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer resp.Body.Close()
	switch code := resp.StatusCode; {
	case code == http.StatusOK:
	case code == http.StatusTooManyRequests || code >= 500:
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		return "", time.Duration(min(max(seconds, 0), 3600)) * time.Second, fmt.Errorf("%w: it answered %d", ErrUnavailable, code)
	default:
		return "", 0, fmt.Errorf("%w: it answered %d", ErrRefused, code)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 2*maxToken))
	if err != nil {
		return "", 0, fmt.Errorf("%w: reading its answer: %w", ErrUnavailable, err)
	}
	var answer struct {
		Value string `json:"value"`
	}
	if json.Unmarshal(body, &answer) != nil || answer.Value == "" {
		return "", 0, fmt.Errorf("its answer holds no token: %w", ErrMalformed)
	}
	return answer.Value, 0, nil
}
