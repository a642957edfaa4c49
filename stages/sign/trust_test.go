package sign

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/identity"
)

// rotating is a trust whose next root a test chooses.
type rotating struct {
	mu   sync.Mutex
	next *attest.TrustRoot
	err  error
}

func (r *rotating) set(next *attest.TrustRoot, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next, r.err = next, err
}

func (r *rotating) live(t testing.TB, config *attest.SigningConfig) *attest.LiveTrust {
	t.Helper()
	return must(attest.NewLiveTrust(t.Context(), func(context.Context) (*attest.TrustRoot, *attest.SigningConfig, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.next, config, r.err
	}))(t)
}

// rotated is the trust root of another fake, told apart by its digest.
func rotated(f *fake, digest string) *attest.TrustRoot {
	return &attest.TrustRoot{SHA256: digest, Material: &material{f: f}}
}

// TestNewAuthority: the certificate authority is newer than the trust root at hand, as in a worker that has lived for weeks.
// The root is fetched anew and signing goes on; if there is no newer one, nothing is signed.
func TestNewAuthority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, before := newFake(t), newFake(t)
		c := f.config(t, 2)
		var r rotating
		r.set(rotated(before, "before"), nil)
		c.Trust = r.live(t, c.Trust.Current().SigningConfig)
		s := newSigner(t, c)
		time.Sleep(time.Hour)
		if _, err := s.Sign(t.Context(), testStatement(t)); !errors.Is(err, ErrUntrusted) {
			t.Fatalf("error %v, want ErrUntrusted", err)
		}
		down := errors.New("down")
		r.set(nil, down)
		time.Sleep(time.Hour)
		if _, err := s.Sign(t.Context(), testStatement(t)); !errors.Is(err, ErrUntrusted) || !errors.Is(err, down) {
			t.Fatalf("error %v, want ErrUntrusted, and why there is no newer root", err)
		}
		if f.count(serviceTSA)+f.count(serviceRekor) != 0 {
			t.Error("something was signed with an untrusted certificate")
		}
		r.set(f.trust(), nil)
		time.Sleep(time.Hour)
		it := testItem()
		if err := New(s, c.Trust.Verifier(), testOptions()).Run(t.Context(), it); err != nil {
			t.Fatal(err)
		}
		if it.Signature.TrustedRootSHA256 != "fake" {
			t.Errorf("verified by the root %q", it.Signature.TrustedRootSHA256)
		}
	})
}

// TestDroppedAuthority: a new root no longer trusts the authority of the certificate in use. Nothing more is logged with it.
func TestDroppedAuthority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, after := newFake(t), newFake(t)
		c := f.config(t, 2)
		var r rotating
		r.set(f.trust(), nil)
		c.Trust = r.live(t, c.Trust.Current().SigningConfig)
		s := newSigner(t, c)
		must(s.Sign(t.Context(), testStatement(t)))(t)
		r.set(rotated(after, "after"), nil)
		time.Sleep(2 * time.Minute) // the certificate has most of its life before it
		must(c.Trust.Refresh(t.Context(), c.Trust.Current()))(t)
		if _, err := s.Sign(t.Context(), testStatement(t)); !errors.Is(err, ErrUntrusted) {
			t.Errorf("error %v, want ErrUntrusted", err)
		}
		if n := s.Stats().LogEntries; n != 1 {
			t.Errorf("%d log entries, want the first alone", n)
		}
		// The authority's own new root trusts it again: the same signer goes on.
		r.set(rotated(f, "again"), nil)
		time.Sleep(2 * time.Minute)
		must(s.Sign(t.Context(), testStatement(t)))(t)
	})
}

// TestNewSigningConfig: services that a new signing config names are used from the next signature on; one that names none is
// not, while the old ones serve.
func TestNewSigningConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		c := f.config(t, 0)
		both := c.Trust.Current().SigningConfig
		v1 := must(attest.ParseSigningConfig(must(both.MarshalJSON())(t)))(t)
		v1.WithRekorLogURLs(both.RekorLogURLs()[:1]...)
		none := must(attest.ParseSigningConfig(must(both.MarshalJSON())(t)))(t)
		none.WithRekorLogURLs()
		now := both
		c.Trust = must(attest.NewLiveTrust(t.Context(), func(context.Context) (*attest.TrustRoot, *attest.SigningConfig, error) {
			return f.trust(), now, nil
		}))(t)
		c.RekorVersion = 0
		s := newSigner(t, c)
		for _, step := range []struct {
			name    string
			config  *attest.SigningConfig
			version int
		}{{"both versions", both, 2}, {"none", none, 2}, {"version 1 alone", v1, 1}, {"both again", both, 2}} {
			now = step.config
			time.Sleep(time.Hour)
			must(c.Trust.Refresh(t.Context(), c.Trust.Current()))(t)
			if _, err := s.Sign(t.Context(), testStatement(t)); err != nil || s.RekorVersion() != step.version {
				t.Errorf("%s: log version %d, want %d; %v", step.name, s.RekorVersion(), step.version, err)
			}
		}
	})
}

// TestLateRenewalIsTold: as long as the old certificate serves nothing fails, and the log says what will.
func TestLateRenewalIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		c := f.config(t, 2)
		var text strings.Builder
		c.Log = slog.New(slog.NewTextHandler(&text, nil))
		tokens := &endingTokens{}
		c.Tokens = tokens
		s := newSigner(t, c)
		must(s.Sign(t.Context(), testStatement(t)))(t)
		tokens.ended = true
		time.Sleep(8*time.Minute + time.Second)
		must(s.Sign(t.Context(), testStatement(t)))(t)
		if got := text.String(); strings.Count(got, "cannot be renewed") != 1 || !strings.Contains(got, "good_until=") || !strings.Contains(got, identity.ErrExpired.Error()) {
			t.Errorf("the log says %q", got)
		}
		time.Sleep(2 * time.Minute)
		if _, err := s.Sign(t.Context(), testStatement(t)); !errors.Is(err, identity.ErrExpired) {
			t.Errorf("error %v, want ErrExpired", err)
		}
	})
}

// endingTokens is a source that somebody stops to renew.
type endingTokens struct {
	tokens
	ended bool
}

func (e *endingTokens) Token(ctx context.Context) (identity.Token, error) {
	if e.ended {
		return identity.Token{}, identity.ErrExpired
	}
	return e.tokens.Token(ctx)
}
