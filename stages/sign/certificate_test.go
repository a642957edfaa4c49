package sign

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"math/big"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	sigstore "github.com/sigstore/sigstore-go/pkg/sign"
)

// madeCertificate is a certificate for a new key that begins now, plus the skew of the authority's clock.
func madeCertificate(t testing.TB, life, skew time.Duration) *certificate {
	t.Helper()
	keypair := must(sigstore.NewEphemeralKeypair(nil))(t)
	return must(newCertificate(keypair, madeDER(t, keypair, life, skew), time.Now()))(t)
}

func madeDER(t testing.TB, keypair sigstore.Keypair, life, skew time.Duration) []byte {
	t.Helper()
	ca := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	begin := time.Now().Add(skew)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: begin, NotAfter: begin.Add(life), URIs: []*url.URL{{Scheme: "https", Host: "x"}}}
	return must(x509.CreateCertificate(rand.Reader, template, template, keypair.GetPublicKey(), ca))(t)
}

func TestCertificateAges(t *testing.T) {
	tests := []struct {
		name            string
		life, skew      time.Duration
		renewAt, usable time.Duration // from now
	}{
		{"Fulcio's", 10 * time.Minute, 0, 8 * time.Minute, 570 * time.Second},
		{"an hour", time.Hour, 0, 48 * time.Minute, time.Hour - 30*time.Second},
		{"two minutes", 2 * time.Minute, 0, time.Minute, 96 * time.Second},
		{"half a minute", 30 * time.Second, 0, 15 * time.Second, 24 * time.Second},
		// Our clock is ahead: the certificate seems to be over, and is not.
		{"clock ahead", 10 * time.Minute, -time.Hour, 8 * time.Minute, 570 * time.Second},
		// Our clock is behind: the certificate seems to live for longer than it does.
		{"clock behind", 10 * time.Minute, time.Hour, 8 * time.Minute, 570 * time.Second},
		// The authority backdates: what is left counts.
		{"backdated", 10 * time.Minute, -4 * time.Minute, 4 * time.Minute, 330 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				now := time.Now()
				c := madeCertificate(t, tt.life, tt.skew)
				if got := c.renewAt.Sub(now); got != tt.renewAt {
					t.Errorf("renewed after %s, want %s", got, tt.renewAt)
				}
				if got := c.usableUntil.Sub(now); got != tt.usable {
					t.Errorf("usable for %s, want %s", got, tt.usable)
				}
			})
		})
	}
}

func TestCertificateIsForTheKey(t *testing.T) {
	t.Parallel()
	a, b := must(sigstore.NewEphemeralKeypair(nil))(t), must(sigstore.NewEphemeralKeypair(nil))(t)
	if _, err := newCertificate(a, madeDER(t, b, time.Minute, 0), time.Now()); err == nil {
		t.Error("a certificate for another key was taken")
	}
	if _, err := newCertificate(a, madeDER(t, a, -time.Minute, 0), time.Now()); err == nil {
		t.Error("a certificate that was never valid was taken")
	}
	if _, err := newCertificate(a, []byte("nonsense"), time.Now()); err == nil {
		t.Error("nonsense was taken")
	}
	c := must(newCertificate(a, madeDER(t, a, time.Minute, 0), time.Now()))(t)
	if _, err := c.GetCertificate(t.Context(), b, nil); err == nil {
		t.Error("the certificate was given for another key")
	}
}

// TestOneRenewalAtATime: however many need a certificate, one asks, and the others wait for it or go on with the old one.
func TestOneRenewalAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var issued atomic.Int64
		s := &certificates{issue: func(context.Context) (*certificate, error) {
			issued.Add(1)
			time.Sleep(2 * time.Second)
			return madeCertificate(t, certLife, 0), nil
		}}
		all := func() (slow int) {
			var wg sync.WaitGroup
			var waited atomic.Int64
			for range 500 {
				wg.Go(func() {
					start := time.Now()
					if c, err := s.get(t.Context()); err != nil || !time.Now().Before(c.usableUntil) {
						t.Errorf("get: %v, %v", c, err)
					}
					if time.Since(start) > 0 {
						waited.Add(1)
					}
				})
			}
			wg.Wait()
			return int(waited.Load())
		}
		if slow := all(); issued.Load() != 1 || slow != 500 {
			t.Errorf("first: %d issued, %d waited; want 1 and all", issued.Load(), slow)
		}
		if slow := all(); issued.Load() != 1 || slow != 0 {
			t.Errorf("then: %d issued, %d waited; want 1 and none", issued.Load(), slow)
		}
		time.Sleep(8*time.Minute + time.Second) // due, and the old one still serves
		if slow := all(); issued.Load() != 2 || slow != 1 {
			t.Errorf("renewal: %d issued, %d waited; want 2 and the one that asks", issued.Load(), slow)
		}
		time.Sleep(certLife) // over
		if slow := all(); issued.Load() != 3 || slow != 500 {
			t.Errorf("after it ended: %d issued, %d waited; want 3 and all", issued.Load(), slow)
		}
	})
}

// TestFailedRenewal: the old certificate serves while it can; then everybody hears of the failure, from one attempt.
func TestFailedRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := errors.New("down")
		var asked atomic.Int64
		var fail atomic.Bool
		s := &certificates{issue: func(context.Context) (*certificate, error) {
			asked.Add(1)
			time.Sleep(time.Second)
			if fail.Load() {
				return nil, down
			}
			return madeCertificate(t, certLife, 0), nil
		}}
		first := must(s.get(t.Context()))(t)
		fail.Store(true)
		time.Sleep(8*time.Minute + time.Second)
		asked.Store(0)
		for range 50 { // five seconds of signatures
			if c, err := s.get(t.Context()); err != nil || c != first {
				t.Fatalf("get: %v, want the old certificate", err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := asked.Load(); n != 1 {
			t.Errorf("asked %d times in 6 s, want 1", n)
		}
		time.Sleep(2 * time.Minute) // over
		asked.Store(0)
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if _, err := s.get(t.Context()); !errors.Is(err, down) {
					t.Errorf("get: %v, want the failure", err)
				}
			})
		}
		wg.Wait()
		if n := asked.Load(); n != 1 {
			t.Errorf("asked %d times for 100 callers, want 1", n)
		}
		fail.Store(false)
		if c, err := s.get(t.Context()); err != nil || c == first {
			t.Errorf("get after the outage: %v", err)
		}
	})
}

// TestAbandonedRenewal: the caller that asks gives up; that is nothing to those who wait for its answer.
func TestAbandonedRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &certificates{issue: func(ctx context.Context) (*certificate, error) {
			if err := pause(ctx, 2*time.Second); err != nil {
				return nil, err
			}
			return madeCertificate(t, certLife, 0), nil
		}}
		hasty, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := s.get(hasty); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("hasty caller: %v", err)
			}
		})
		synctest.Wait() // it asks first
		for range 10 {
			wg.Go(func() {
				if _, err := s.get(t.Context()); err != nil {
					t.Errorf("patient caller: %v", err)
				}
			})
		}
		impatient, cancel2 := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel2()
		if _, err := s.get(impatient); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("impatient caller: %v", err)
		}
		wg.Wait()
	})
}

func TestRenewalThatPanicsLetsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		s := &certificates{issue: func(context.Context) (*certificate, error) {
			if n++; n == 1 {
				panic("boom")
			}
			return madeCertificate(t, certLife, 0), nil
		}}
		func() {
			defer func() { _ = recover() }()
			_, _ = s.get(t.Context())
		}()
		if _, err := s.get(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
