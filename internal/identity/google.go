package identity

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/hallmark-attest/hallmark/internal/remote"
)

const (
	googleHost = "metadata.google.internal"
	googlePath = "/computeMetadata/v1/instance/service-accounts/default/identity"
)

// Google asks the metadata server of Google Cloud (Compute Engine, GKE, Cloud Run, Cloud Build) for tokens of the service
// account that the machine runs as. The server gives a new one well before the last has expired.
type Google struct {
	url, audience string

	client *http.Client
}

// NewGoogle gives tokens from the metadata server at host, which may have a port and defaults to
// metadata.google.internal. The audience defaults to DefaultAudience. The transport defaults to one without a proxy: the
// server is on the machine's own link, and what it says is a credential.
func NewGoogle(host, audience string, transport http.RoundTripper) (*Google, error) {
	if host == "" {
		host = googleHost
	}
	if audience == "" {
		audience = DefaultAudience
	}
	if transport == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.Proxy = nil
		transport = t
	}
	// With the format "full" the token has the account's e-mail address, which is the identity.
	u := url.URL{Scheme: "http", Host: host, Path: googlePath,
		RawQuery: url.Values{"audience": {audience}, "format": {"full"}}.Encode()}
	if back, err := url.Parse(u.String()); err != nil || back.Host != host || back.User != nil || strings.ContainsAny(host, "/?#@") {
		return nil, errors.New("GCE_METADATA_HOST is not a host, with or without a port")
	}
	return &Google{url: u.String(), audience: audience, client: remote.Unmoved(transport, askTimeout)}, nil
}

func (g *Google) String() string { return "Google Cloud metadata server" }

// Token asks for a token. A server that fails or pushes back is asked up to four times; then the error matches
// ErrUnavailable. One that has no service account for this machine, or answers as another server would, matches ErrRefused.
func (g *Google) Token(ctx context.Context) (Token, error) { return persist(ctx, g, g.audience, g.ask) }

func (g *Google) ask(ctx context.Context) (string, wait, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.url, nil)
	if err != nil {
		return "", 0, errors.New("the metadata server's address is malformed")
	}
	req.Header.Set("Metadata-Flavor", "Google")
	genuine := false
	client := *g.client
	client.Transport = seen{g.client.Transport, func(h http.Header) { genuine = h.Get("Metadata-Flavor") == "Google" }}
	body, after, err := fetch(&client, req)
	if e, ok := errors.AsType[*statusError](err); ok {
		switch e.status {
		case http.StatusNotFound:
			return "", 0, fmt.Errorf("%w; attach a service account to this machine, or give another identity", err)
		case http.StatusForbidden:
			return "", 0, fmt.Errorf("%w; let the workload use its service account (roles/iam.workloadIdentityUser)", err)
		}
	}
	if err != nil {
		return "", after, err
	}
	if !genuine {
		return "", 0, fmt.Errorf("%w: what answers there is not Google's metadata server", ErrRefused)
	}
	return string(body), 0, nil
}

// seen shows an answer's headers on its way.
type seen struct {
	base http.RoundTripper
	show func(http.Header)
}

func (s seen) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := s.base.RoundTrip(r)
	if err == nil {
		s.show(resp.Header)
	}
	return resp, err
}
