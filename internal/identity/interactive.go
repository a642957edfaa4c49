package identity

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/sigstore/sigstore/pkg/oauthflow"
	"golang.org/x/oauth2"
)

// The public-good Sigstore's sign-in service, where nothing else is said.
const (
	defaultIssuer   = "https://oauth2.sigstore.dev/auth"
	defaultClientID = "sigstore"
)

// Interactive lets a person sign in with a browser (OAuth authorization code flow with PKCE). Each token is another
// sign-in, so it suits runs that one certificate covers, and not one certificate per package.
type Interactive struct {
	issuer, clientID string

	in     io.Reader
	out    io.Writer
	client *http.Client
	turn   chan struct{} // one sign-in at a time
}

// NewInteractive signs in with the provider at the issuer's URL ("" for the public-good Sigstore) as the OAuth client
// ("" for "sigstore"). What the person must do is written to out, and a code is read from in if no browser opens.
func NewInteractive(issuer, clientID string, in io.Reader, out io.Writer, transport http.RoundTripper) *Interactive {
	if issuer == "" {
		issuer = defaultIssuer
	}
	if clientID == "" {
		clientID = defaultClientID
	}
	return &Interactive{issuer: issuer, clientID: clientID, in: in, out: out,
		client: &http.Client{Transport: transport, Timeout: 30 * time.Second}, turn: make(chan struct{}, 1)}
}

func (i *Interactive) String() string { return "sign-in at " + i.issuer }

// Token has the person sign in. It returns when ctx ends, though the library's own wait for the browser (two minutes at
// most) cannot be ended: it is left behind, and a second sign-in waits for it.
func (i *Interactive) Token(ctx context.Context) (Token, error) {
	select {
	case i.turn <- struct{}{}:
	case <-ctx.Done():
		return Token{}, ctx.Err()
	}
	ctx = oidc.ClientContext(ctx, i.client)
	provider, err := oidc.NewProvider(ctx, i.issuer)
	if err != nil {
		<-i.turn
		return Token{}, fmt.Errorf("asking %s how to sign in: %w: %w", i.issuer, ErrUnavailable, err)
	}
	config := oauth2.Config{ClientID: i.clientID, Endpoint: provider.Endpoint(), Scopes: []string{oidc.ScopeOpenID, "email"}}
	type answer struct {
		raw string
		err error
	}
	signedIn := make(chan answer, 1)
	go func() {
		defer func() { <-i.turn }()
		t, err := (&oauthflow.InteractiveIDTokenGetter{HTMLPage: signedInPage, Input: i.in, Output: i.out}).GetIDToken(provider, config)
		if err != nil {
			signedIn <- answer{err: err}
			return
		}
		signedIn <- answer{raw: t.RawString}
	}()
	select {
	case a := <-signedIn:
		if a.err != nil {
			return Token{}, fmt.Errorf("signing in at %s: %w: %w", i.issuer, ErrRefused, a.err)
		}
		return parsed(a.raw, i, time.Now())
	case <-ctx.Done():
		return Token{}, ctx.Err()
	}
}

const signedInPage = `<!doctype html><meta charset="utf-8"><title>Hallmark</title>
<p>You are signed in. You may close this page and go back to the terminal.</p>`
