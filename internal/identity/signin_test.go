package identity

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// screen is what a person sees.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// browser follows the page that it is opened with, as a person's would: with the provider's redirect.
type browser struct {
	t      *testing.T
	p      *provider
	opened int
	answer func(state string) url.Values // what the provider sends back
	wg     sync.WaitGroup
}

func (b *browser) open(page string) error {
	b.opened++
	u, err := url.Parse(page)
	if err != nil {
		return err
	}
	q := u.Query()
	if u.Path != "/auth" || q.Get("response_type") != "code" || q.Get("client_id") != "sigstore" || q.Get("code_challenge_method") != "S256" ||
		len(q.Get("nonce")) < 20 || len(q.Get("state")) < 20 || !strings.HasPrefix(q.Get("scope"), "openid email") {
		b.t.Errorf("page %s", page)
	}
	b.p.mu.Lock()
	b.p.challenge, b.p.nonce = q.Get("code_challenge"), q.Get("nonce")
	refused := b.p.offline == "refused" && strings.Contains(q.Get("scope"), "offline_access")
	b.p.mu.Unlock()
	back := q.Get("redirect_uri")
	if u, err := url.Parse(back); err != nil || u.Hostname() != "localhost" || u.Path != "/auth/callback" {
		b.t.Errorf("redirect to %s", back)
	}
	b.wg.Go(func() {
		get := func(v url.Values) int {
			resp, err := http.Get(strings.Replace(back, "localhost", "127.0.0.1", 1) + "?" + v.Encode())
			if err != nil {
				b.t.Error(err)
				return 0
			}
			defer resp.Body.Close()
			if body, _ := io.ReadAll(resp.Body); strings.Contains(string(body), "the-code") {
				b.t.Error("the page shows the code")
			}
			return resp.StatusCode
		}
		if got := get(url.Values{"state": {"another"}, "code": {"stolen"}}); got != http.StatusBadRequest {
			b.t.Errorf("another state: %d", got)
		}
		answer := b.answer(q.Get("state"))
		if refused {
			answer = url.Values{"state": {q.Get("state")}, "error": {"invalid_scope"}}
		}
		if got := get(answer); got != http.StatusOK {
			b.t.Errorf("the redirect: %d", got)
		}
	})
	return nil
}

func code(state string) url.Values { return url.Values{"state": {state}, "code": {"the-code"}} }

func TestBrowser(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	seen := &screen{}
	b := &browser{t: t, p: p, answer: code}
	defer b.wg.Wait()
	s := NewInteractive(p.URL, "", strings.NewReader(""), seen, nil)
	s.opener = b.open
	for range 3 {
		tok, err := s.Token(t.Context())
		if err != nil || tok.Raw != p.issued || tok.Email != "jane@acme.example" {
			t.Fatalf("Token = %v, %v", tok, err)
		}
	}
	if b.opened != 1 {
		t.Errorf("asked to sign in %d times, with a token that is good", b.opened)
	}
	if !strings.Contains(seen.String(), p.URL+"/auth?") || strings.Contains(seen.String(), p.issued) || strings.Contains(seen.String(), "the-code") {
		t.Errorf("screen: %s", seen)
	}

	signOut(s)
	if _, err := s.Token(t.Context()); err != nil || b.opened != 2 {
		t.Errorf("without a refresh token: %v, %d sign-ins", err, b.opened)
	}
	signOut(s)
	b.answer = func(state string) url.Values {
		return url.Values{"state": {state}, "error": {"access_denied"}, "error_description": {"not\x1b[2J you"}}
	}
	if _, err := s.Token(t.Context()); !errors.Is(err, ErrRefused) || !strings.HasSuffix(err.Error(), "access_denied: not[2J you") {
		t.Errorf("denied: %q", err)
	}
	b.answer = func(state string) url.Values { return url.Values{"state": {state}, "code": {"wrong"}} }
	if _, err := s.Token(t.Context()); !errors.Is(err, ErrRefused) {
		t.Errorf("wrong code: %v", err)
	}
	// A token that was made for another sign-in.
	b.answer = func(state string) url.Values {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.nonce = "another"
		return code(state)
	}
	if _, err := s.Token(t.Context()); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "another sign-in") {
		t.Errorf("wrong nonce: %v", err)
	}
}

// TestBrowserEndsWithContext: whoever does not sign in does not keep the program, nor the next sign-in.
func TestBrowserEndsWithContext(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	s := NewInteractive(p.URL, "", strings.NewReader(""), io.Discard, nil)
	ctx, cancel := context.WithCancel(t.Context())
	s.opener = func(string) error { cancel(); return nil }
	if _, err := s.Token(ctx); !errors.Is(err, context.Canceled) || errors.Is(err, ErrRefused) {
		t.Errorf("Token = %v, want the context's error", err)
	}
	b := &browser{t: t, p: p, answer: code}
	defer b.wg.Wait()
	s.opener = b.open
	if _, err := s.Token(t.Context()); err != nil {
		t.Errorf("the next sign-in: %v", err)
	}
}

// TestRefresh renews without the person, as long as the provider lets it.
func TestRefresh(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	p.offline = "offered"
	b := &browser{t: t, p: p, answer: code}
	defer b.wg.Wait()
	s := NewInteractive(p.URL, "", strings.NewReader(""), io.Discard, nil)
	s.opener = b.open
	last := ""
	for i := range 4 {
		tok, err := s.Token(t.Context())
		if err != nil || tok.Raw == last || tok.Raw != p.issued {
			t.Fatalf("token %d: %v, %v", i, tok, err)
		}
		last = tok.Raw
		signOut(s)
	}
	if want := []string{"authorization_code", "refresh_token", "refresh_token", "refresh_token"}; b.opened != 1 || !slices.Equal(p.grants, want) {
		t.Errorf("%d sign-ins, grants %q", b.opened, p.grants)
	}
	p.refresh = nil // revoked
	if _, err := s.Token(t.Context()); err != nil || b.opened != 2 {
		t.Errorf("after the refresh token: %v, %d sign-ins", err, b.opened)
	}
}

// TestOfflineRefused: a provider that offers refresh tokens but does not give them to this client is asked without.
func TestOfflineRefused(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	p.offline = "refused"
	b := &browser{t: t, p: p, answer: code}
	defer b.wg.Wait()
	s := NewInteractive(p.URL, "", strings.NewReader(""), io.Discard, nil)
	s.opener = b.open
	if _, err := s.Token(t.Context()); err != nil || b.opened != 2 {
		t.Errorf("browser: %v, %d sign-ins", err, b.opened)
	}
	p.device = "granted"
	d := NewInteractive(p.URL, "", strings.NewReader(""), io.Discard, nil)
	d.device = true
	if _, err := d.Token(t.Context()); err != nil {
		t.Errorf("device: %v", err)
	}
}

// TestDevice signs in with a code (RFC 8628), where there is no browser.
func TestDevice(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, device string
		want         error
		says         string
		polls        int
	}{
		{name: "at once", device: "granted", polls: 1},
		{name: "after a while", device: "authorization_pending authorization_pending granted", polls: 3},
		{name: "denied", device: "authorization_pending access_denied", want: ErrRefused, says: "access_denied", polls: 2},
		{name: "too late", device: "expired_token", want: ErrRefused, says: "expired_token", polls: 1},
		{name: "garbage", device: "garbage", want: ErrRefused, says: "no code"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newProvider(t)
			p.device = tt.device
			seen := &screen{}
			s := NewInteractive(p.URL, "", strings.NewReader(""), seen, nil)
			s.opener = func(string) error { return errNoBrowser }
			tok, err := s.Token(t.Context())
			if !errors.Is(err, tt.want) || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("Token = %v, %v, want %v with %q", tok, err, tt.want, tt.says)
			}
			if len(p.polled) != tt.polls {
				t.Errorf("%d polls, want %d", len(p.polled), tt.polls)
			}
			for i := 1; i < len(p.polled); i++ {
				if d := p.polled[i].Sub(p.polled[i-1]); d < 900*time.Millisecond {
					t.Errorf("polled after %s, sooner than the provider said", d)
				}
			}
			if tt.want == nil {
				if tok.Email != "jane@acme.example" || tok.Raw != p.issued {
					t.Errorf("Token = %v", tok)
				}
				for _, want := range []string{p.URL + "/device", "WDJB-MJHT", p.URL + "/device?user_code=WDJB-MJHT"} {
					if !strings.Contains(seen.String(), want) {
						t.Errorf("the screen does not show %q: %s", want, seen)
					}
				}
			}
			for _, secret := range []string{"the-device-code", "\x1b"} {
				if strings.Contains(seen.String(), secret) {
					t.Errorf("the screen shows %q", secret)
				}
			}
		})
	}
	t.Run("not offered", func(t *testing.T) {
		t.Parallel()
		p := newProvider(t)
		s := NewInteractive(p.URL, "", strings.NewReader(""), io.Discard, nil)
		s.device = true
		if _, err := s.Token(t.Context()); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "device_authorization_endpoint") {
			t.Errorf("Token = %v", err)
		}
	})
}

// TestSignInBoundsAnswers: a provider cannot fill the memory.
func TestSignInBoundsAnswers(t *testing.T) {
	t.Parallel()
	read := 0
	s := NewInteractive("https://idp.example", "", strings.NewReader(""), io.Discard, roundTrip(func(*http.Request) (*http.Response, error) {
		r := response(200, "", nil)
		r.Body = io.NopCloser(endless{&read})
		return r, nil
	}))
	if _, err := s.Token(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Token = %v, want ErrUnavailable", err)
	}
	if read > 4<<20 {
		t.Errorf("read %d bytes", read)
	}
}

type endless struct{ read *int }

func (e endless) Read(p []byte) (int, error) {
	*e.read += len(p)
	return len(p), nil
}
