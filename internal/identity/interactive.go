package identity

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// The public-good Sigstore's sign-in service, where nothing else is said.
const (
	defaultIssuer   = issuerSigstore
	defaultClientID = "sigstore"
)

// signInPatience is how long a person has for a sign-in.
const signInPatience = 5 * time.Minute

// Interactive lets a person sign in: with a browser on this machine (authorization code flow with PKCE, RFC 8252), or
// where there is none, with a code to be entered on another device (RFC 8628), or last with a code that the provider
// shows and the person types. The provider's endpoints are those of its discovery document.
//
// A token is given out again until shortly before it expires. Then it is renewed without the person if the provider gave
// a refresh token, which is asked for where the provider offers it and is only ever kept in memory; else the person is
// asked again.
type Interactive struct {
	issuer, clientID string
	device           bool // not with a browser, even if there is one

	in     io.Reader
	out    io.Writer
	client *http.Client
	turn   chan struct{} // one sign-in at a time; it guards what follows
	opener func(address string) error

	current Token
	renewAt time.Time
	refresh string // the refresh token
}

// NewInteractive signs in with the provider at the issuer's URL ("" for the public-good Sigstore) as the OAuth client
// ("" for "sigstore"). What the person must do is written to out, and a code is read from in if there is no other way.
func NewInteractive(issuer, clientID string, in io.Reader, out io.Writer, transport http.RoundTripper) *Interactive {
	return &Interactive{issuer: cmp.Or(issuer, defaultIssuer), clientID: cmp.Or(clientID, defaultClientID), in: in, out: out,
		client: &http.Client{Transport: bounded{transport}}, turn: make(chan struct{}, 1), opener: openBrowser}
}

// bounded bounds every answer, which the libraries read to the end, and the time that it takes.
type bounded struct{ base http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	base := b.base
	if base == nil {
		base = http.DefaultTransport
	}
	ctx, cancel := context.WithTimeout(r.Context(), answerTimeout)
	defer cancel()
	resp, err := base.RoundTrip(r.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// answerTimeout bounds a request with its answer. It is not the client's, whose timer lives until the answer is closed, which
// oauth2 forgets where it asks for a device code.
const answerTimeout = 30 * time.Second

// maxAnswer bounds a sign-in service's answer, in bytes.
const maxAnswer = 1 << 20

func (i *Interactive) String() string { return "sign-in at " + i.issuer }

// Format keeps tokens out of whatever prints the source.
func (i *Interactive) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, i.String()) }

// Token returns the token at hand, renews it, or has the person sign in. It returns when ctx ends; only where a code is to
// be typed, the reading of it is left behind, and the next sign-in waits for it. A sign-in that the person or the provider
// refuses, or that takes more than five minutes, matches ErrRefused; a provider that is out of reach, ErrUnavailable.
func (i *Interactive) Token(ctx context.Context) (Token, error) {
	select {
	case i.turn <- struct{}{}:
	case <-ctx.Done():
		return Token{}, ctx.Err()
	}
	s := &signIn{Interactive: i, release: sync.OnceFunc(func() { <-i.turn })}
	defer func() {
		if !s.reading {
			s.release()
		}
	}()
	if i.current.Raw != "" && time.Now().Before(i.renewAt) {
		return i.current, nil
	}
	if err := s.discover(ctx); err != nil {
		return Token{}, err
	}
	raw, err := s.renew(ctx)
	if raw == "" && err == nil {
		raw, err = s.ask(ctx)
	}
	if err != nil {
		return Token{}, err
	}
	t, err := parsed(raw, i, time.Now())
	if err != nil {
		return Token{}, err
	}
	i.current, i.renewAt = t, time.Time{}
	if left := time.Until(t.Expiry); !t.Expiry.IsZero() {
		i.renewAt = time.Now().Add(left - min(left/4, time.Minute)).Round(0) // wall-clock time: a machine's sleep counts
	}
	return t, nil
}

// signIn is one turn.
type signIn struct {
	*Interactive
	provider *oidc.Provider
	config   oauth2.Config
	release  func()
	reading  bool // somebody still reads what is to be typed, and will release the turn
}

// discover asks the provider what it can do.
func (s *signIn) discover(ctx context.Context) (err error) {
	if s.provider, err = oidc.NewProvider(oidc.ClientContext(ctx, s.client), s.issuer); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("asking %s how to sign in: %w: %w", s.issuer, ErrUnavailable, err)
	}
	var offered struct {
		Scopes []string `json:"scopes_supported"`
	}
	if err := s.provider.Claims(&offered); err != nil {
		return fmt.Errorf("asking %s how to sign in: %w: %w", s.issuer, ErrUnavailable, err)
	}
	s.config = oauth2.Config{ClientID: s.clientID, Endpoint: s.provider.Endpoint(), Scopes: []string{oidc.ScopeOpenID, "email"}}
	s.config.Endpoint.AuthStyle = oauth2.AuthStyleInParams // a public client has no secret, so no header to put it in
	if slices.Contains(offered.Scopes, oidc.ScopeOfflineAccess) {
		s.config.Scopes = append(s.config.Scopes, oidc.ScopeOfflineAccess)
	}
	return nil
}

// renew uses the refresh token. Without one, or if it is no longer good, it gives nothing.
func (s *signIn) renew(ctx context.Context) (string, error) {
	if s.refresh == "" {
		return "", nil
	}
	answer, err := s.config.TokenSource(oidc.ClientContext(ctx, s.client), &oauth2.Token{RefreshToken: s.refresh}).Token()
	if err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		if e, ok := errors.AsType[*oauth2.RetrieveError](err); ok && e.Response.StatusCode < 500 {
			s.refresh = ""
			return "", nil
		}
		return "", fmt.Errorf("renewing the sign-in at %s: %w: %w", s.issuer, ErrUnavailable, plain(err))
	}
	raw, err := s.accept(ctx, answer, "")
	if err != nil { // not every provider gives an identity token then
		s.refresh = ""
		return "", nil
	}
	return raw, nil
}

// ask has the person sign in. A provider that offers refresh tokens and then does not give them to this client is asked
// without.
func (s *signIn) ask(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, signInPatience, errTooLate)
	defer cancel()
	raw, err := s.way(ctx)
	if e, ok := errors.AsType[*refusedError](err); ok && e.code == "invalid_scope" {
		if n := slices.Index(s.config.Scopes, oidc.ScopeOfflineAccess); n >= 0 {
			s.config.Scopes = slices.Delete(s.config.Scopes, n, n+1)
			raw, err = s.way(ctx)
		}
	}
	switch {
	case err == nil:
		return raw, nil
	case context.Cause(ctx) == errTooLate:
		return "", fmt.Errorf("signing in at %s: %w: %w", s.issuer, ErrRefused, errTooLate)
	case ctx.Err() != nil:
		return "", ctx.Err()
	}
	return "", fmt.Errorf("signing in at %s: %w: %w", s.issuer, ErrRefused, plain(err))
}

var errTooLate = fmt.Errorf("nobody did within %s", signInPatience)

// way chooses the way of signing in.
func (s *signIn) way(ctx context.Context) (string, error) {
	if !s.device && s.config.Endpoint.AuthURL != "" {
		raw, err := s.byBrowser(ctx)
		if !errors.Is(err, errNoBrowser) {
			return raw, err
		}
	}
	switch {
	case s.config.Endpoint.DeviceAuthURL != "":
		return s.byDevice(ctx)
	case s.device:
		return "", errors.New("it offers no sign-in for devices (device_authorization_endpoint)")
	}
	return s.byTyping(ctx)
}

// accept verifies the identity token in an answer, and keeps the refresh token. The nonce is "" where none was sent.
func (s *signIn) accept(ctx context.Context, answer *oauth2.Token, nonce string) (string, error) {
	raw, _ := answer.Extra("id_token").(string)
	if raw == "" {
		return "", errors.New("its answer holds no identity token")
	}
	t, err := s.provider.Verifier(&oidc.Config{ClientID: s.clientID}).Verify(oidc.ClientContext(ctx, s.client), raw)
	if err != nil {
		return "", Token{Raw: raw}.redacted(err)
	}
	if nonce != "" && t.Nonce != nonce {
		return "", errors.New("its identity token is for another sign-in")
	}
	if answer.RefreshToken != "" {
		s.refresh = answer.RefreshToken
	}
	return raw, nil
}

// redacted is err without the token in its text.
func (t Token) redacted(err error) error {
	if text := err.Error(); t.Redact(text) != text {
		return errors.New(t.Redact(text))
	}
	return err
}

// refusedError is what a provider says when it refuses (RFC 6749, section 4.1.2.1).
type refusedError struct{ code, description string }

func (e *refusedError) Error() string {
	if e.description == "" {
		return "it answered " + e.code
	}
	return "it answered " + e.code + ": " + e.description
}

// plain gives a provider's refusal without the body that it came in, which might hold anything.
func plain(err error) error {
	e, ok := errors.AsType[*oauth2.RetrieveError](err)
	if !ok {
		return err
	}
	if e.ErrorCode == "" {
		return fmt.Errorf("it answered %d", e.Response.StatusCode)
	}
	return &refusedError{legible(e.ErrorCode), legible(e.ErrorDescription)}
}
