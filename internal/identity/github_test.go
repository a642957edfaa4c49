package identity

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const requestSecret = "the-runner-s-request-secret"

func TestGitHub(t *testing.T) {
	t.Parallel()
	raw := validJWT(t)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+requestSecret || r.URL.Query().Get("audience") != "sigstore" ||
			r.URL.Query().Get("api-version") != "2.0" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"count": 1, "value": raw})
	}))
	defer srv.Close()
	g, err := NewGitHub(srv.URL+"/token?api-version=2.0", requestSecret, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := g.Token(t.Context())
	if err != nil || tok.Raw != raw || tok.Source != "GitHub Actions" {
		t.Errorf("Token = %v, %v", tok, err)
	}
	wrong, err := NewGitHub(srv.URL+"/token?api-version=2.0", "wrong", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = wrong.Token(t.Context()); !errors.Is(err, ErrRefused) {
		t.Errorf("wrong request token: %v, want ErrRefused", err)
	}
}

func TestGitHubDoesNotFollowRedirects(t *testing.T) {
	t.Parallel()
	var stolen atomic.Bool
	thief := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { stolen.Store(true) }))
	defer thief.Close()
	srv := httptest.NewServer(http.RedirectHandler(thief.URL, http.StatusTemporaryRedirect))
	defer srv.Close()
	g, err := NewGitHub(srv.URL, requestSecret, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Token(t.Context()); !errors.Is(err, ErrRefused) {
		t.Errorf("Token = %v, want ErrRefused", err)
	}
	if stolen.Load() {
		t.Error("the redirect was followed")
	}
}

func TestNewGitHubWantsURL(t *testing.T) {
	t.Parallel()
	for _, u := range []string{"", "not a url", "file:///etc/passwd", "https://", "http://[::1"} {
		if _, err := NewGitHub(u, requestSecret, "", nil); err == nil || strings.Contains(err.Error(), requestSecret) {
			t.Errorf("NewGitHub(%q) = %v", u, err)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func response(code int, body string, header http.Header) *http.Response {
	if header == nil {
		header = http.Header{}
	}
	return &http.Response{StatusCode: code, Header: header, Body: io.NopCloser(strings.NewReader(body))}
}

// TestGitHubFaults goes through what a provider may do, on a clock that the test owns.
func TestGitHubFaults(t *testing.T) {
	raw := validJWT(t)
	value := `{"value":"` + raw + `"}`
	failing := func(n int, fail func() (*http.Response, error)) func(int) (*http.Response, error) {
		return func(call int) (*http.Response, error) {
			if call <= n {
				return fail()
			}
			return response(200, value, nil), nil
		}
	}
	tests := []struct {
		name     string
		answer   func(call int) (*http.Response, error)
		want     error // nil: a token
		calls    int
		min, max time.Duration
	}{
		{name: "at once", answer: failing(0, nil), calls: 1},
		{name: "two 503", answer: failing(2, func() (*http.Response, error) { return response(503, "", nil), nil }),
			calls: 3, min: 750 * time.Millisecond, max: 3 * time.Second},
		{name: "Retry-After", answer: failing(1, func() (*http.Response, error) {
			return response(429, "", http.Header{"Retry-After": {"7"}}), nil
		}), calls: 2, min: 7 * time.Second, max: 7 * time.Second},
		{name: "too long a Retry-After", answer: failing(1, func() (*http.Response, error) {
			return response(429, "", http.Header{"Retry-After": {"600"}}), nil
		}), want: ErrUnavailable, calls: 1},
		{name: "connection error", answer: failing(1, func() (*http.Response, error) { return nil, io.ErrUnexpectedEOF }),
			calls: 2, min: 250 * time.Millisecond, max: time.Second},
		{name: "down for good", answer: failing(99, func() (*http.Response, error) { return nil, io.ErrUnexpectedEOF }),
			want: ErrUnavailable, calls: askAttempts, min: 1750 * time.Millisecond, max: 7 * time.Second},
		{name: "refused", answer: failing(99, func() (*http.Response, error) { return response(403, requestSecret, nil), nil }),
			want: ErrRefused, calls: 1},
		{name: "no token", answer: failing(99, func() (*http.Response, error) { return response(200, `{"count":0}`, nil), nil }),
			want: ErrMalformed, calls: 1},
		{name: "no JSON", answer: failing(99, func() (*http.Response, error) { return response(200, "<html>"+raw, nil), nil }),
			want: ErrMalformed, calls: 1},
		{name: "no JWT", answer: failing(99, func() (*http.Response, error) { return response(200, `{"value":"x"}`, nil), nil }),
			want: ErrMalformed, calls: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				g, err := NewGitHub("https://pipelines.example/secretpath", requestSecret, "", roundTrip(func(*http.Request) (*http.Response, error) {
					calls++
					return tt.answer(calls)
				}))
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				_, err = g.Token(t.Context())
				took := time.Since(start)
				if tt.want == nil && err != nil || tt.want != nil && !errors.Is(err, tt.want) {
					t.Errorf("error %v, want %v", err, tt.want)
				}
				if calls != tt.calls {
					t.Errorf("%d calls, want %d", calls, tt.calls)
				}
				if took < tt.min || took > tt.max {
					t.Errorf("took %s, want %s to %s", took, tt.min, tt.max)
				}
				if err != nil {
					for _, secret := range []string{requestSecret, raw, "secretpath"} {
						if strings.Contains(err.Error(), secret) {
							t.Errorf("error %q holds %q", err, secret)
						}
					}
				}
			})
		})
	}
}

func TestGitHubEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, err := NewGitHub("https://pipelines.example/", requestSecret, "", roundTrip(func(*http.Request) (*http.Response, error) {
			return response(503, "", nil), nil
		}))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		start := time.Now()
		if _, err := g.Token(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Token = %v, want the context's error", err)
		}
		if took := time.Since(start); took != 100*time.Millisecond {
			t.Errorf("took %s, want 100ms", took)
		}
	})
}
