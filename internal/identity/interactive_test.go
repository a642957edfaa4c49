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
	"fmt"
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
	life      time.Duration // of tokens; a minute if 0

	device  string            // its way of answering polls, one word for each; "" if it has no device sign-in
	offline string            // "offered", or "refused" where it offers what this client does not get
	grants  []string          // what it was asked at the token endpoint
	polled  []time.Time       // when
	refresh map[string]string // refresh tokens that are good
}

// sign signs in whoever asks. The caller holds the lock.
func (p *provider) sign(t *testing.T, nonce string) map[string]any {
	b64 := base64.RawURLEncoding.EncodeToString
	life := p.life
	if life == 0 {
		life = time.Minute
	}
	claims, _ := json.Marshal(map[string]any{"iss": p.URL, "aud": "sigstore", "sub": "7", "email": "jane@acme.example", "email_verified": true,
		"nonce": nonce, "iat": time.Now().Unix(), "exp": time.Now().Add(life).Unix(), "jti": len(p.grants)})
	input := b64([]byte(`{"alg":"RS256","kid":"1"}`)) + "." + b64(claims)
	sum := sha256.Sum256([]byte(input))
	sig, err := rsa.SignPKCS1v15(rand.Reader, p.key, crypto.SHA256, sum[:])
	if err != nil {
		t.Error(err)
	}
	p.issued = input + "." + b64(sig)
	answer := map[string]any{"access_token": "access", "token_type": "bearer", "id_token": p.issued}
	if p.offline == "offered" {
		token := fmt.Sprint("refresh-token-", len(p.grants))
		p.refresh = map[string]string{token: "good"} // each is good once
		answer["refresh_token"] = token
	}
	return answer
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
		d := map[string]any{"issuer": p.URL, "authorization_endpoint": p.URL + "/auth", "token_endpoint": p.URL + "/token",
			"jwks_uri": p.URL + "/keys", "code_challenge_methods_supported": []string{"S256"}, "id_token_signing_alg_values_supported": []string{"RS256"}}
		if p.device != "" {
			d["device_authorization_endpoint"] = p.URL + "/device/code"
		}
		if p.offline != "" {
			d["scopes_supported"] = []string{"openid", "email", "offline_access"}
		}
		reply(w, d)
	})
	mux.HandleFunc("POST /device/code", func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		switch scope := r.FormValue("scope"); {
		case r.FormValue("client_id") != "sigstore" || r.FormValue("code_challenge_method") != "S256" || !strings.HasPrefix(scope, "openid email"):
			w.WriteHeader(http.StatusBadRequest)
		case p.offline == "refused" && strings.Contains(scope, "offline_access"):
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error":"invalid_scope","error_description":"not for you"}`)
		case p.device == "garbage":
			reply(w, map[string]any{"device_code": "the-device-code"})
		default:
			p.challenge = r.FormValue("code_challenge")
			reply(w, map[string]any{"device_code": "the-device-code", "user_code": "WDJB-\x1bMJHT", "verification_uri": p.URL + "/device",
				"verification_uri_complete": p.URL + "/device?user_code=WDJB-MJHT", "expires_in": 60, "interval": 1})
		}
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		b64 := base64.RawURLEncoding.EncodeToString
		reply(w, map[string]any{"keys": []any{map[string]any{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "1",
			"n": b64(key.N.Bytes()), "e": b64(big.NewInt(int64(key.E)).Bytes())}}})
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		refuse := func(code string) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			_ = json.NewEncoder(w).Encode(map[string]string{"error": code})
		}
		grant := r.FormValue("grant_type")
		p.grants = append(p.grants, grant)
		if _, _, basic := r.BasicAuth(); basic || r.FormValue("client_id") != "sigstore" {
			refuse("invalid_client")
			return
		}
		verifier := sha256.Sum256([]byte(r.FormValue("code_verifier")))
		proved := base64.RawURLEncoding.EncodeToString(verifier[:]) == p.challenge
		nonce := p.nonce
		switch grant {
		case "authorization_code":
			if p.refuse || r.FormValue("code") != "the-code" || !proved {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
		case "refresh_token":
			if p.refresh[r.FormValue("refresh_token")] != "good" {
				refuse("invalid_grant")
				return
			}
			nonce = "" // there was no request for it to come from
		case "urn:ietf:params:oauth:grant-type:device_code":
			p.polled = append(p.polled, time.Now())
			words := strings.Fields(p.device)
			word := words[min(len(p.polled), len(words))-1]
			if word != "granted" || r.FormValue("device_code") != "the-device-code" || !proved {
				refuse(word)
				return
			}
			nonce = ""
		default:
			refuse("unsupported_grant_type")
			return
		}
		reply(w, p.sign(t, nonce))
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
	noBrowser(t)
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
	noBrowser(t)
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

// noBrowser has no program that could open one.
func noBrowser(t *testing.T) { t.Setenv("PATH", t.TempDir()) }
