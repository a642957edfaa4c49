package identity

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// metadataServer is a metadata server as strict as Google's.
func metadataServer(t *testing.T, token func() string) http.Handler {
	t.Helper()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if r.Method != http.MethodGet || r.URL.Path != "/computeMetadata/v1/instance/service-accounts/default/identity" {
			http.NotFound(w, r)
			return
		}
		// It refuses what a proxy forwarded or a trick sent, and what it does not understand.
		if r.Header.Get("Metadata-Flavor") != "Google" || r.Header.Get("X-Forwarded-For") != "" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		if len(q) != 2 || q.Get("audience") != "sigstore" || q.Get("format") != "full" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("Metadata-Flavor", "Google")
		_, _ = w.Write([]byte(token()))
	})
}

func TestGoogle(t *testing.T) {
	t.Parallel()
	raw := validJWT(t)
	srv := httptest.NewServer(metadataServer(t, func() string { return raw }))
	defer srv.Close()
	env := map[string]string{googleVariable: strings.TrimPrefix(srv.URL, "http://")}
	s, err := Detect(Options{Getenv: func(n string) string { return env[n] }, mounted: t.TempDir(), Only: "google"})
	if err != nil {
		t.Fatal(err)
	}
	tok, err := s.Token(t.Context())
	if err != nil || tok.Raw != raw || tok.Source != "Google Cloud metadata server" {
		t.Errorf("Token = %v, %v", tok, err)
	}
	other, err := NewGoogle(env[googleVariable], "another audience", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Token(t.Context()); !errors.Is(err, ErrRefused) {
		t.Errorf("another audience: %v: this server looks at nothing", err)
	}
}

func TestGoogleFaults(t *testing.T) {
	raw := validJWT(t)
	flavor := http.Header{"Metadata-Flavor": {"Google"}}
	tests := []struct {
		name   string
		answer func(call int) (*http.Response, error)
		want   error
		says   string
		calls  int
	}{
		{name: "no service account", answer: func(int) (*http.Response, error) { return response(404, "x", flavor), nil }, want: ErrRefused, says: "attach a service account", calls: 1},
		{name: "not allowed", answer: func(int) (*http.Response, error) { return response(403, "x", flavor), nil }, want: ErrRefused, says: "workloadIdentityUser", calls: 1},
		{name: "another server", answer: func(int) (*http.Response, error) { return response(200, raw, nil), nil }, want: ErrRefused, says: "not Google's", calls: 1},
		{name: "redirect", answer: func(int) (*http.Response, error) {
			return response(302, "", http.Header{"Location": {"http://thief/"}}), nil
		}, want: ErrRefused, says: "302", calls: 1},
		{name: "garbage", answer: func(int) (*http.Response, error) { return response(200, "<html>", flavor), nil }, want: ErrMalformed, says: "reading the token", calls: 1},
		{name: "huge", answer: func(int) (*http.Response, error) {
			return response(200, strings.Repeat("a", 4*maxToken), flavor), nil
		}, want: ErrMalformed, says: "more than", calls: 1},
		{name: "expired", answer: func(int) (*http.Response, error) {
			return response(200, jwt(t, map[string]any{"exp": 1}), flavor), nil
		}, want: ErrExpired, says: "1970", calls: 1},
		{name: "failing for a while", answer: func(call int) (*http.Response, error) {
			if call < askAttempts {
				return response(503, "", flavor), nil
			}
			return response(200, jwt(t, map[string]any{"sub": "s"}), flavor), nil
		}, calls: askAttempts},
		{name: "failing", answer: func(int) (*http.Response, error) { return response(500, "", flavor), nil }, want: ErrUnavailable, says: "500", calls: askAttempts},
		{name: "pushing back", answer: func(int) (*http.Response, error) {
			return response(429, "", http.Header{"Retry-After": {"99999999999"}}), nil
		}, want: ErrUnavailable, says: "429", calls: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				g, err := NewGoogle("", "", roundTrip(func(r *http.Request) (*http.Response, error) {
					if calls++; r.URL.Host != "metadata.google.internal" {
						t.Errorf("asked %s", r.URL)
					}
					return tt.answer(calls)
				}))
				if err != nil {
					t.Fatal(err)
				}
				_, err = g.Token(t.Context())
				if !errors.Is(err, tt.want) || err != nil && !strings.Contains(err.Error(), tt.says) {
					t.Errorf("Token = %v, want %v with %q", err, tt.want, tt.says)
				}
				if calls != tt.calls {
					t.Errorf("%d calls, want %d", calls, tt.calls)
				}
				if err != nil && strings.Contains(err.Error(), raw) {
					t.Errorf("the error holds the token: %v", err)
				}
			})
		})
	}
}

// TestGoogleSlow: a server that does not answer is given up in time.
func TestGoogleSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, err := NewGoogle("", "", roundTrip(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, context.Cause(r.Context())
		}))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := g.Token(t.Context()); !errors.Is(err, ErrUnavailable) {
			t.Errorf("Token = %v, want ErrUnavailable", err)
		}
		if took := time.Since(start); took > askAttempts*askTimeout+8*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

func TestNewGoogleWantsHost(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"a/b", "user@a", "a?b", "a#b", "a b", "http://a"} {
		if _, err := NewGoogle(host, "", nil); err == nil {
			t.Errorf("NewGoogle(%q) took it", host)
		}
	}
	for _, host := range []string{"", "169.254.169.254", "127.0.0.1:8080", "metadata.google.internal", "[fd20:ce::254]"} {
		if _, err := NewGoogle(host, "", nil); err != nil {
			t.Errorf("NewGoogle(%q) = %v", host, err)
		}
	}
}
