package main

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"
)

// grant is what an authorization code stands for (RFC 6749, 4.1; PKCE: RFC 7636).
type grant struct {
	client, redirect, challenge, nonce string
	ask                                ask
	until                              time.Time
}

const (
	codeLifetime = time.Minute
	maxCodes     = 1000
	outOfBand    = "urn:ietf:wg:oauth:2.0:oob" // the user carries the code from the page to the terminal
)

// authorize approves at once, as whoever login_hint names: nobody is asked, nobody is authenticated.
func (o *issuer) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	redirect, err := url.Parse(q.Get("redirect_uri"))
	if err != nil || !(q.Get("redirect_uri") == outOfBand || redirect.Scheme == "http" && isLoopback(redirect.Hostname())) {
		http.Error(w, "redirect_uri is not on this machine", http.StatusBadRequest)
		return
	}
	if q.Get("response_type") != "code" || q.Get("code_challenge_method") != "S256" || q.Get("code_challenge") == "" || q.Get("client_id") == "" {
		http.Error(w, "only response_type=code with PKCE S256 and a client_id", http.StatusBadRequest)
		return
	}
	a, err := askOf(url.Values{"kind": {"email"}, "email": {q.Get("login_hint")}, "audience": {q.Get("client_id")}})
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	code, now := rand.Text(), time.Now()
	o.mu.Lock()
	for c, g := range o.codes {
		if now.After(g.until) {
			delete(o.codes, c)
		}
	}
	full := len(o.codes) >= maxCodes
	if !full {
		o.codes[code] = grant{
			client: q.Get("client_id"), redirect: q.Get("redirect_uri"), challenge: q.Get("code_challenge"),
			nonce: q.Get("nonce"), ask: a, until: now.Add(codeLifetime),
		}
	}
	o.mu.Unlock()
	if full {
		http.Error(w, "too many logins wait", http.StatusTooManyRequests)
		return
	}
	if q.Get("redirect_uri") == outOfBand {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, code)
		return
	}
	back := redirect.Query()
	back.Set("code", code)
	back.Set("state", q.Get("state"))
	redirect.RawQuery = back.Encode()
	http.Redirect(w, r, redirect.String(), http.StatusFound)
}

// exchange gives the token for a code: once, to whoever began the login.
func (o *issuer) exchange(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 1<<16)
	refuse := func(status int, code string) {
		w.WriteHeader(status)
		answer(w, map[string]string{"error": code})
	}
	if err := r.ParseForm(); err != nil || r.PostForm.Get("grant_type") != "authorization_code" {
		refuse(http.StatusBadRequest, "unsupported_grant_type")
		return
	}
	client := r.PostForm.Get("client_id")
	if user, _, ok := r.BasicAuth(); ok {
		client = user
	}
	o.mu.Lock()
	g, ok := o.codes[r.PostForm.Get("code")]
	delete(o.codes, r.PostForm.Get("code"))
	o.mu.Unlock()
	sum := sha256.Sum256([]byte(r.PostForm.Get("code_verifier")))
	challenge := base64.RawURLEncoding.EncodeToString(sum[:])
	if !ok || time.Now().After(g.until) || client != g.client || r.PostForm.Get("redirect_uri") != g.redirect ||
		subtle.ConstantTimeCompare([]byte(challenge), []byte(g.challenge)) != 1 {
		refuse(http.StatusBadRequest, "invalid_grant")
		return
	}
	jwt, err := o.issue(g.ask, g.nonce)
	if err != nil {
		refuse(http.StatusInternalServerError, "server_error")
		return
	}
	answer(w, map[string]any{
		"access_token": rand.Text(), "token_type": "Bearer", "expires_in": int(g.ask.lifetime.Seconds()), "id_token": jwt,
	})
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
