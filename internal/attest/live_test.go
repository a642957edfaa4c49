package attest

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
)

// trustOf gives a trust root of the forge's material, changed.
func trustOf(t testing.TB, change func(*material)) *TrustRoot {
	t.Helper()
	m := forgeOf(t).material()
	if change != nil {
		change(m)
	}
	return &TrustRoot{Material: m}
}

func withoutLogs(m *material) { m.logs = map[string]*root.TransparencyLog{} }

// strangeLog is a root that has a log, and not the one that bundles are in.
func strangeLog(m *material) {
	logs := map[string]*root.TransparencyLog{}
	for id, l := range m.logs {
		other := *l
		other.ID = []byte("another log")
		logs[strings.ToUpper(id)+"00"] = &other
	}
	m.logs = logs
}

// TestVerifyLive: a bundle in a log that the trust root does not know yet is accepted by the one that does; refusals for
// other reasons have nothing fetched.
func TestVerifyLive(t *testing.T) {
	t.Parallel()
	old, fresh := trustOf(t, strangeLog), trustOf(t, nil)
	var fetched atomic.Int64
	var now atomic.Pointer[TrustRoot]
	now.Store(old)
	l, err := NewLiveTrust(t.Context(), func(context.Context) (*TrustRoot, *SigningConfig, error) {
		fetched.Add(1)
		return now.Load(), nil, nil
	})
	need(t, err)
	aged := func() { l.mu.Lock(); l.asked = time.Time{}; l.mu.Unlock() }
	v := l.Verifier()
	bundle := encode(t, forgeOf(t).sign(t, order{}))
	s, p := testSubject(), allow(testIdentity, testIssuer)

	_, err = v.VerifyLive(t.Context(), bundle, s, p)
	wantCode(t, err, CodeLog)
	if fetched.Load() != 1 {
		t.Error("fetched again within the pause")
	}
	now.Store(fresh)
	aged()
	if _, err := v.Verify(bundle, s, p); err == nil {
		t.Error("Verify fetches, and has no context for it")
	}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if r, err := v.VerifyLive(t.Context(), bundle, s, p); err != nil || !r.Verified {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
	wg.Wait()
	if n := fetched.Load(); n != 2 {
		t.Errorf("%d fetches for 50 at the same time, want 1", n-1)
	}
	if _, err := v.Verify(bundle, s, p); err != nil {
		t.Errorf("the new root is not used by Verify: %v", err)
	}
	if r, err := VerifySidecar([]byte("["+string(bundle)+"]"), v, s, p); err != nil {
		t.Errorf("the new root is not used for sidecars: %+v, %v", r, err)
	}
	aged()
	wrong := p
	wrong.Signers = []Signer{{Identity: "somebody", Issuer: "https://issuer.localhost"}}
	if _, err := v.VerifyLive(t.Context(), bundle, s, wrong); err == nil || fetched.Load() != 2 {
		t.Errorf("another signer: %v, %d fetches", err, fetched.Load()-2)
	}
}

// TestLiveTrustKeepsWhatWorks: what cannot be fetched or used changes nothing, and is told.
func TestLiveTrustKeepsWhatWorks(t *testing.T) {
	forgeOf(t) // made by the real clock, since other tests share it
	synctest.Test(t, func(t *testing.T) {
		sc, err := ParseSigningConfig([]byte(signingRekor))
		need(t, err)
		good := trustOf(t, nil)
		next := func() (*TrustRoot, *SigningConfig, error) { return good, sc, nil }
		l, err := NewLiveTrust(t.Context(), func(context.Context) (*TrustRoot, *SigningConfig, error) { return next() })
		need(t, err)
		first := l.Current()
		down := errors.New("down")
		for name, f := range map[string]func() (*TrustRoot, *SigningConfig, error){
			"an outage":            func() (*TrustRoot, *SigningConfig, error) { return nil, nil, down },
			"a root without logs":  func() (*TrustRoot, *SigningConfig, error) { return trustOf(t, withoutLogs), sc, nil },
			"no root":              func() (*TrustRoot, *SigningConfig, error) { return nil, sc, nil },
			"no signing config":    func() (*TrustRoot, *SigningConfig, error) { return trustOf(t, nil), nil, nil },
			"a panic in a parser":  func() (*TrustRoot, *SigningConfig, error) { panic("boom") },
			"the same bytes again": func() (*TrustRoot, *SigningConfig, error) { return good, sc, nil },
		} {
			time.Sleep(livePause)
			next = f
			got, err := l.Refresh(t.Context(), first)
			if got != first || l.Current() != first || (err == nil) != (name == "the same bytes again") {
				t.Errorf("%s: changed %v, error %v", name, got != first, err)
			}
			if again, aerr := l.Refresh(t.Context(), first); again != first || (aerr == nil) != (err == nil) {
				t.Errorf("%s, asked again at once: %v", name, aerr)
			}
		}
		time.Sleep(livePause)
		other := trustOf(t, nil)
		next = func() (*TrustRoot, *SigningConfig, error) { return other, sc, nil }
		got, err := l.Refresh(t.Context(), first)
		if err != nil || got == first || got.Root != other || got.SigningConfig != sc {
			t.Errorf("a good one was not taken: %v", err)
		}
		if late, err := l.Refresh(t.Context(), first); err != nil || late != got {
			t.Errorf("who is late does not get what is there: %v", err)
		}
	})
	if _, err := NewLiveTrust(t.Context(), func(context.Context) (*TrustRoot, *SigningConfig, error) { return trustOf(t, withoutLogs), nil, nil }); CodeOf(err) != CodeTrustUnusable {
		t.Errorf("begun with a root that is good for nothing: %v", err)
	}
}

// TestAbandonedRefresh: the caller that fetches gives up; that is nothing to those who wait for its answer.
func TestAbandonedRefresh(t *testing.T) {
	forgeOf(t) // made by the real clock, since other tests share it
	synctest.Test(t, func(t *testing.T) {
		other, begun := trustOf(t, nil), false
		l, err := NewLiveTrust(t.Context(), func(ctx context.Context) (*TrustRoot, *SigningConfig, error) {
			if !begun {
				return trustOf(t, nil), nil, nil
			}
			select {
			case <-time.After(2 * time.Second):
				return other, nil, nil
			case <-ctx.Done():
				return nil, nil, ctx.Err()
			}
		})
		need(t, err)
		begun = true
		first := l.Current()
		time.Sleep(livePause)
		hasty, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if got, err := l.Refresh(hasty, first); got != first || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("hasty: %v", err)
			}
		})
		synctest.Wait()
		for range 10 {
			wg.Go(func() {
				if got, err := l.Refresh(t.Context(), first); err != nil || got.Root != other {
					t.Errorf("patient: %v", err)
				}
			})
		}
		wg.Wait()
	})
}

// TestKeep: in weeks of work the root is fetched about once a day, after a failure sooner, and the log says what happened.
func TestKeep(t *testing.T) {
	forgeOf(t) // made by the real clock, since other tests share it
	synctest.Test(t, func(t *testing.T) {
		var fetched, failing atomic.Int64
		l, err := NewLiveTrust(t.Context(), func(context.Context) (*TrustRoot, *SigningConfig, error) {
			fetched.Add(1)
			if failing.Load() > 0 {
				return nil, nil, errors.New("down")
			}
			return trustOf(t, nil), nil, nil
		})
		need(t, err)
		var text lines
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { l.Keep(ctx, slog.New(slog.NewTextHandler(&text, nil))) })
		first := l.Current()
		time.Sleep(14 * 24 * time.Hour)
		if n := fetched.Load() - 1; n < 12 || n > 16 || l.Current() == first {
			t.Errorf("%d fetches in a fortnight", n)
		}
		if n := text.count("has changed"); int64(n) != fetched.Load()-1 {
			t.Errorf("%d changes told of %d", n, fetched.Load()-1)
		}
		failing.Store(1)
		before, kept := fetched.Load(), l.Current()
		time.Sleep(3 * 24 * time.Hour)
		if n := fetched.Load() - before; n < 40 || l.Current() != kept {
			t.Errorf("%d attempts in two days of outage", n)
		}
		if text.count("cannot be refreshed") == 0 {
			t.Error("nobody is told of the outage")
		}
		cancel()
		wg.Wait()
	})
}

// lines is a log for tests.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}
