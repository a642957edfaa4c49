package identity

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// provider is an OpenID Connect provider that signs everybody in.
type provider struct {
	*httptest.Server
	key *rsa.PrivateKey

	mu        sync.Mutex
	challenge string // of the sign-in that is going on
	nonce     string
	issued    string
	refuse    bool
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{key: key}
	mux := http.NewServeMux()
	reply := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, map[string]any{"issuer": p.URL, "authorization_endpoint": p.URL + "/auth", "token_endpoint": p.URL + "/token",
			"jwks_uri": p.URL + "/keys", "code_challenge_methods_supported": []string{"S256"}, "id_token_signing_alg_values_supported": []string{"RS256"}})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		b64 := base64.RawURLEncoding.EncodeToString
		reply(w, map[string]any{"keys": []any{map[string]any{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "1",
			"n": b64(key.N.Bytes()), "e": b64(big.NewInt(int64(key.E)).Bytes())}}})
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		verifier := sha256.Sum256([]byte(r.FormValue("code_verifier")))
		if p.refuse || r.FormValue("code") != "the-code" || base64.RawURLEncoding.EncodeToString(verifier[:]) != p.challenge {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		b64 := base64.RawURLEncoding.EncodeToString
		claims, _ := json.Marshal(map[string]any{"iss": p.URL, "aud": "sigstore", "sub": "7", "email": "jane@acme.example", "email_verified": true,
			"nonce": p.nonce, "iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix()})
		input := b64([]byte(`{"alg":"RS256","kid":"1"}`)) + "." + b64(claims)
		sum := sha256.Sum256([]byte(input))
		sig, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
		if err != nil {
			t.Error(err)
		}
		p.issued = input + "." + b64(sig)
		reply(w, map[string]any{"access_token": "access", "token_type": "bearer", "id_token": p.issued})
	})
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	return p
}

// person reads what the program says, follows the link, and types the code.
type person struct {
	p    *provider
	t    *testing.T
	mu   sync.Mutex
	all  bytes.Buffer // what it was told
	read bytes.Buffer // what of that is new
	code *strings.Reader
}

var link = regexp.MustCompile(`https?://\S+/auth\?\S+`)

func (p *person) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all.Write(b)
	return p.read.Write(b)
}

func (p *person) shown(s string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Contains(p.all.String(), s)
}

// Read types the code, once for each sign-in; the library reads it byte by byte.
func (p *person) Read(b []byte) (int, error) {
	if p.code != nil && p.code.Len() > 0 {
		return p.code.Read(b)
	}
	p.mu.Lock()
	u, err := url.Parse(link.FindString(p.read.String()))
	p.read.Reset()
	p.mu.Unlock()
	if err != nil || u.Query().Get("code_challenge_method") != "S256" || u.Query().Get("client_id") != "sigstore" {
		p.t.Errorf("no usable link: %v", err)
		return 0, io.EOF
	}
	p.p.mu.Lock()
	p.p.challenge, p.p.nonce = u.Query().Get("code_challenge"), u.Query().Get("nonce")
	p.p.mu.Unlock()
	p.code = strings.NewReader("the-code\n")
	return p.code.Read(b)
}

// TestInteractive signs in by the way that is left where no browser opens: a link and a code. (With no programs in PATH, none
// does.)
func TestInteractive(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	p := newProvider(t)
	who := &person{p: p, t: t}
	s, err := Detect(Options{Getenv: func(string) string { return "" }, Interactive: true, Issuer: p.URL, In: who, Out: who})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time, the token is still good
		tok, err := s.Token(t.Context())
		if err != nil || tok.Raw != p.issued || tok.Email != "jane@acme.example" || tok.Source != "sign-in at "+p.URL {
			t.Fatalf("Token = %v, %v", tok, err)
		}
	}
	if who.shown(p.issued) {
		t.Error("the token was shown")
	}

	signOut(s)
	p.refuse = true
	if _, err := s.Token(t.Context()); !errors.Is(err, ErrRefused) {
		t.Errorf("refused sign-in: %v, want ErrRefused", err)
	}
	p.Close()
	signOut(s)
	if _, err := s.Token(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("no provider: %v, want ErrUnavailable", err)
	}
}

// TestInteractiveEndsWithContext: a person who does not answer does not keep the program.
func TestInteractiveEndsWithContext(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	p := newProvider(t)
	in, typed := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	out := &asked{then: cancel}
	s := NewInteractive(p.URL, "", in, out, nil)
	if _, err := s.Token(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Token = %v, want the context's error", err)
	}
	_ = typed.Close()    // ends what was left behind
	s.turn <- struct{}{} // and this waits for it
}

// asked calls then once the person has been asked.
type asked struct{ then func() }

func (a *asked) Write(b []byte) (int, error) {
	if strings.Contains(string(b), "verification code") {
		a.then()
	}
	return len(b), nil
}

// signOut has the next Token ask the person.
func signOut(s Source) { s.(*Interactive).renewAt = time.Time{} }
