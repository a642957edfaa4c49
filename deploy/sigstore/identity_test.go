package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/oauth2"
)

// TestIdentities: a test can be whoever it wants, and Fulcio refuses what it has to refuse.
func TestIdentities(t *testing.T) {
	t.Parallel()
	const life = 90 * time.Second
	p := startUp(t, filepath.Join(t.TempDir(), "s"), "--certificate-lifetime", life.String())
	for _, c := range []struct {
		name             string
		params           []string
		identity, issuer string // no issuer: refused, and identity is a part of Fulcio's reason
	}{
		{"another workflow", []string{"--repository", "evil/fork", "--workflow", "release.yaml", "--ref", "refs/tags/v1.0"},
			"https://github.com/evil/fork/.github/workflows/release.yaml@refs/tags/v1.0", p.Issuer},
		{"a person", []string{"--email", "someone@example.com"}, "someone@example.com", p.Issuer + "/email"},
		{"a token that is over", []string{"--lifetime", "-10s"}, "token is expired", ""},
		{"a token for somebody else", []string{"--audience", "prefix.dev"}, `expected audience \"sigstore\"`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b, err := p.signBundle(t, p.token(t, c.params...))
			if c.issuer == "" {
				if err == nil || !strings.Contains(err.Error(), "Fulcio returned 400") {
					t.Fatalf("not refused by Fulcio: %v", err)
				}
				if log := string(read(t, filepath.Join(p.Dir, "logs", "fulcio.log"))); !strings.Contains(log, c.identity) {
					t.Errorf("Fulcio's log does not say %q: %s", c.identity, log)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := verifyBundle(t, p.TrustedRoot, b, c.identity, c.issuer); err != nil {
				t.Error(err)
			}
			vc, err := b.VerificationContent()
			if err != nil {
				t.Fatal(err)
			}
			if cert := vc.Certificate(); cert.NotAfter.Sub(cert.NotBefore) != life {
				t.Errorf("the certificate lives %v instead of %v", cert.NotAfter.Sub(cert.NotBefore), life)
			}
		})
	}
	t.Run("a person by the browser's flow", func(t *testing.T) {
		t.Parallel()
		token := browserFlow(t, p.Issuer+"/email", nil)
		b, err := p.signBundle(t, token)
		if err != nil {
			t.Fatal(err)
		}
		if err := verifyBundle(t, p.TrustedRoot, b, defaultEmail, p.Issuer+"/email"); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { p.stop(t, syscall.SIGTERM) })
}

// testIssuer is an issuer behind a test server.
func testIssuer(t *testing.T) (*issuer, *httptest.Server) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	o := &issuer{key: key, keyID: "k", bearer: "secret", run: "1", codes: map[string]grant{}}
	srv := httptest.NewServer(o.handler())
	t.Cleanup(srv.Close)
	o.url = srv.URL
	return o, srv
}

// browserFlow logs in as sigstore's interactive flow does: code, PKCE, nonce, and a redirect to a listener of the client's. change may
// spoil what is sent for the token; the token is then empty.
func browserFlow(t *testing.T, issuer string, change func(url.Values)) string {
	t.Helper()
	ctx := t.Context()
	provider, err := oidc.NewProvider(ctx, issuer)
	if err != nil {
		t.Fatal(err)
	}
	back := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.FormValue("state")+" "+r.FormValue("code"))
	}))
	defer back.Close()
	cfg := oauth2.Config{ClientID: defaultAudience, Endpoint: provider.Endpoint(), Scopes: []string{"openid", "email"}, RedirectURL: back.URL + "/auth/callback"}
	verifier := oauth2.GenerateVerifier()
	res, err := http.Get(cfg.AuthCodeURL("the-state", oauth2.S256ChallengeOption(verifier), oidc.Nonce("the-nonce")))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	state, code, _ := strings.Cut(string(body), " ")
	if state != "the-state" || code == "" {
		t.Fatalf("the browser came back with %q", body)
	}
	if change != nil {
		form := url.Values{"grant_type": {"authorization_code"}, "code": {code}, "code_verifier": {verifier}, "client_id": {cfg.ClientID}, "redirect_uri": {cfg.RedirectURL}}
		change(form)
		res, err := http.PostForm(provider.Endpoint().TokenURL, form)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var answer struct {
			IDToken string `json:"id_token"`
		}
		if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
			t.Fatal(err)
		}
		return answer.IDToken
	}
	token, err := cfg.Exchange(ctx, code, oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := token.Extra("id_token").(string)
	parsed, err := provider.Verifier(&oidc.Config{ClientID: defaultAudience}).Verify(ctx, raw)
	if err != nil {
		t.Fatal(err)
	}
	if parsed.Nonce != "the-nonce" {
		t.Errorf("nonce %q", parsed.Nonce)
	}
	if _, err := cfg.Exchange(ctx, code, oauth2.VerifierOption(verifier)); err == nil {
		t.Error("a code was taken twice")
	}
	return raw
}

func TestBrowserFlowRefuses(t *testing.T) {
	t.Parallel()
	_, srv := testIssuer(t)
	if got := browserFlow(t, srv.URL+"/email", func(url.Values) {}); got == "" {
		t.Fatal("refused without a reason")
	}
	for _, name := range []string{"code", "code_verifier", "client_id", "redirect_uri", "grant_type"} {
		if got := browserFlow(t, srv.URL+"/email", func(v url.Values) { v.Set(name, "other") }); got != "" {
			t.Errorf("a token in spite of another %s", name)
		}
	}
	// Where the browser may be sent, and what else a login must have.
	good := url.Values{"response_type": {"code"}, "client_id": {"sigstore"}, "code_challenge": {"x"}, "code_challenge_method": {"S256"},
		"redirect_uri": {"http://localhost:1/auth/callback"}, "state": {"s"}}
	for _, c := range []struct {
		name, value string
		code        int
	}{
		{"state", "s", 302}, {"redirect_uri", "http://[::1]:1/", 302}, {"redirect_uri", outOfBand, 200},
		{"redirect_uri", "http://localhost.example.com/", 400}, {"redirect_uri", "https://example.com/", 400}, {"redirect_uri", "", 400},
		{"code_challenge_method", "plain", 400}, {"code_challenge", "", 400}, {"response_type", "token", 400}, {"login_hint", "nobody", 400},
	} {
		q := url.Values{}
		for k, v := range good {
			q[k] = v
		}
		q.Set(c.name, c.value)
		w := httptest.NewRecorder()
		srv.Config.Handler.ServeHTTP(w, httptest.NewRequest("GET", "/email/auth?"+q.Encode(), nil))
		if w.Code != c.code {
			t.Errorf("%s=%q: %d instead of %d", c.name, c.value, w.Code, c.code)
		}
	}
}

func TestActionsToken(t *testing.T) {
	t.Parallel()
	_, srv := testIssuer(t)
	get := func(query, bearer string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), "GET", srv.URL+"/token?"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", bearer)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var answer struct {
			Count int
			Value string
		}
		body, _ := io.ReadAll(res.Body)
		if res.StatusCode == 200 {
			if err := json.NewDecoder(bytes.NewReader(body)).Decode(&answer); err != nil || answer.Count != 1 {
				t.Fatalf("%q: %v", body, err)
			}
		}
		return res.StatusCode, answer.Value
	}
	for _, bearer := range []string{"", "Bearer", "Bearer ", "Bearer wrong", "Bearer secret2", "Basic secret", "secret"} {
		if code, _ := get("audience=sigstore", bearer); code != 401 {
			t.Errorf("%q: %d", bearer, code)
		}
	}
	for _, query := range []string{
		"repository=acme", "repository=a/b/c", "repository=a/b%0a", "workflow=../x.yml", "workflow=publish", "ref=main", "ref=refs/heads/a%20b",
		"lifetime=x", "lifetime=1e9", "lifetime=86401", "lifetime=-3601", "lifetime=9223372036854775807", "kind=robot", "email=a@b.c", "kind=email&email=nobody", "kind=email&email=A%20%3Ca@b.c%3E",
	} {
		if code, _ := get(query, "Bearer secret"); code != 400 {
			t.Errorf("%q: %d", query, code)
		}
	}
	code, jwt := get("api-version=2.0&audience=sigstore&lifetime=60", "bearer secret")
	if code != 200 {
		t.Fatal(code)
	}
	provider, err := oidc.NewProvider(context.Background(), srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	token, err := provider.Verifier(&oidc.Config{ClientID: "sigstore"}).Verify(t.Context(), jwt)
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(token.Expiry); left > time.Minute || left < 50*time.Second {
		t.Errorf("expires in %v", left)
	}
	if diff := cmp.Diff("repo:acme/feedstock:ref:refs/heads/main", token.Subject); diff != "" {
		t.Error(diff)
	}
}

func FuzzAskOf(f *testing.F) {
	f.Add("repository=acme/feedstock&workflow=publish.yml&ref=refs/heads/main&lifetime=60&audience=sigstore")
	f.Add("kind=email&email=a@b.c&lifetime=-5")
	f.Fuzz(func(t *testing.T, query string) {
		q, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		a, err := askOf(q)
		if err != nil {
			return
		}
		if a.lifetime < -time.Hour || a.lifetime > maxLifetime || strings.ContainsAny(a.workflowPath(), " \n\x00") {
			t.Errorf("accepted %+v", a)
		}
		(&a).workflowClaims("1")
	})
}
