package identity

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hallmark-attest/hallmark/internal/remote"
)

const tokenLife = 20 * time.Second

func shortLived(t *testing.T) string {
	return jwt(t, map[string]any{"iss": "https://issuer.example", "sub": "s", "exp": float64(time.Now().Add(tokenLife).UnixNano()) / 1e9})
}

// TestTokensOfTwentySeconds asks each source that can renew its token for one, again and again for ten minutes, in a world
// where a token lives for twenty seconds. Every one of them must be good, and still be so when it arrives somewhere.
func TestTokensOfTwentySeconds(t *testing.T) {
	sources := map[string]func(t *testing.T) Source{
		"GitHub": func(t *testing.T) Source {
			g, err := NewGitHub("https://pipelines.example/", requestSecret, "", roundTrip(func(*http.Request) (*http.Response, error) {
				return response(200, `{"value":"`+shortLived(t)+`"}`, nil), nil
			}))
			if err != nil {
				t.Fatal(err)
			}
			return g
		},
		"Google": func(t *testing.T) Source { // its server keeps a token for as long as it has a quarter of its life
			var raw string
			var made time.Time
			g, err := NewGoogle("", "", roundTrip(func(*http.Request) (*http.Response, error) {
				if time.Since(made) > tokenLife*3/4 {
					raw, made = shortLived(t), time.Now()
				}
				return response(200, raw, http.Header{"Metadata-Flavor": {"Google"}}), nil
			}))
			if err != nil {
				t.Fatal(err)
			}
			return g
		},
		"file": func(t *testing.T) Source { // whoever renews it is late by a second, and takes half of one to write it
			f := &File{Path: filepath.Join(t.TempDir(), "token")}
			write := func(text string) {
				if err := os.WriteFile(f.Path, []byte(text), 0o600); err != nil {
					t.Error(err)
				}
			}
			write(shortLived(t))
			go func() {
				for {
					if remote.Pause(t.Context(), tokenLife+time.Second) != nil {
						return
					}
					write("")
					if remote.Pause(t.Context(), time.Second/4) != nil {
						return
					}
					raw := shortLived(t)
					write(raw[:len(raw)/2])
					if remote.Pause(t.Context(), time.Second/4) != nil {
						return
					}
					write(raw)
				}
			}()
			return f
		},
	}
	for name, source := range sources {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := source(t)
				seen := map[string]bool{}
				for end := time.Now().Add(10 * time.Minute); time.Now().Before(end); time.Sleep(700 * time.Millisecond) {
					tok, err := s.Token(t.Context())
					if err != nil {
						t.Fatalf("after %s: %v", 10*time.Minute-time.Until(end), err)
					}
					if left := time.Until(tok.Expiry); left < 3*time.Second {
						t.Fatalf("after %s: a token with %s to live", 10*time.Minute-time.Until(end), left)
					}
					seen[tok.Raw] = true
				}
				if len(seen) < 20 {
					t.Errorf("%d tokens in ten minutes: this test sees nothing", len(seen))
				}
			})
		})
	}
}

// TestFileIsNotRenewed: a file that nobody renews is said to have expired, in seconds, and at once if it never was good.
func TestFileIsNotRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &File{Path: filepath.Join(t.TempDir(), "token")}
		if err := os.WriteFile(f.Path, []byte(shortLived(t)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Token(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(tokenLife)
		start := time.Now()
		if _, err := f.Token(t.Context()); !errors.Is(err, ErrExpired) {
			t.Errorf("Token = %v, want ErrExpired", err)
		}
		if took := time.Since(start); took != filePatience {
			t.Errorf("took %s, want %s", took, filePatience)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := f.Token(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Token = %v, want the context's error", err)
		}
		start = time.Now()
		if _, err := (&File{Path: f.Path}).Token(t.Context()); !errors.Is(err, ErrExpired) || time.Since(start) != 0 {
			t.Errorf("Token = %v after %s, want ErrExpired at once", err, time.Since(start))
		}
	})
}

// TestSignInRenewsBeforeTheEnd: a sign-in's token is given out for three quarters of its life.
func TestSignInRenewsBeforeTheEnd(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	p.offline, p.life = "offered", tokenLife
	b := &browser{t: t, p: p, answer: code}
	defer b.wg.Wait()
	s := NewInteractive(p.URL, "", nil, &screen{}, nil)
	s.opener = b.open
	tok, err := s.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := tok.Expiry.Sub(s.renewAt); got < tokenLife/4-2*time.Second || got > tokenLife/4+2*time.Second {
		t.Errorf("it is renewed %s before its end, want a quarter of its life", got)
	}
	s.renewAt = time.Now()
	if tok, err = s.Token(t.Context()); err != nil || b.opened != 1 || time.Until(tok.Expiry) < tokenLife-2*time.Second {
		t.Errorf("Token = %v, %v, %d sign-ins", tok, err, b.opened)
	}
}
