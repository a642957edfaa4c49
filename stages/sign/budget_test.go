package sign

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeBudget gives permissions and counts them.
type fakeBudget struct {
	wait  time.Duration // before each that is not urgent
	stale int           // so many permissions are over when they are used
	err   error

	mu     sync.Mutex
	takes  []string
	used   map[string]int // by service
	pauses []string
}

func (b *fakeBudget) Take(ctx context.Context, urgent bool, services ...string) (func(string) bool, error) {
	what := strings.Join(services, "+")
	if urgent {
		what = "urgent " + what
	} else if err := pause(ctx, b.wait); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.takes = append(b.takes, what)
	left := slices.Clone(services)
	return func(service string) bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		i := slices.Index(left, service)
		if i < 0 {
			return false
		}
		left = slices.Delete(left, i, i+1)
		if b.stale > 0 {
			b.stale--
			return false
		}
		if b.used == nil {
			b.used = map[string]int{}
		}
		b.used[service]++
		return true
	}, b.err
}

func (b *fakeBudget) Pause(service string, d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pauses = append(b.pauses, service+" "+d.String())
}

// TestBudgetDoesNotAgeTheCertificate: the wait for the budget comes before the certificate's age is looked at.
func TestBudgetDoesNotAgeTheCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		b := &fakeBudget{wait: certLife - 30*time.Second}
		s := newSigner(t, f.config(t, 2)).Under(b)
		if _, _, err := s.Identity(t.Context()); err != nil { // a certificate from before the wait
			t.Fatal(err)
		}
		bundle, err := s.Sign(t.Context(), testStatement(t))
		if err != nil {
			t.Fatal(err)
		}
		r := verified(t, f, bundle)
		if left := r.NotAfter.Sub(r.SignedAt); left != certLife {
			t.Errorf("signed with a certificate that had %s left, want a new one", left)
		}
	})
}

// TestEveryRequestIsInTheBudget: however often a service is asked for one signature, each request has its own permission, and
// what the signature needs is waited for at once.
func TestEveryRequestIsInTheBudget(t *testing.T) {
	for _, version := range []uint32{1, 2} {
		for _, perPackage := range []bool{false, true} {
			t.Run(fmt.Sprintf("v%d/%v", version, perPackage), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newFake(t)
					c := f.config(t, version)
					c.PerPackage = perPackage
					b := &fakeBudget{stale: 2}
					asked := 0
					f.fault = func(service string, n int, r *http.Request) (*http.Response, error) {
						asked++
						b.mu.Lock()
						defer b.mu.Unlock()
						if got := b.used[budgetNames[service]]; got != n {
							t.Errorf("request %d to %s with %d permissions", n, service, got)
						}
						switch {
						case service == serviceRekor && n == 1: // the answer is lost, and the entry there
							body, _ := io.ReadAll(r.Body)
							if err := f.record(&discard{header: http.Header{}}, body, r); err != nil {
								t.Error(err)
							}
							return nil, io.ErrUnexpectedEOF
						case service == serviceTSA && n == 2, service == serviceFulcio && n == 1:
							return nil, io.ErrUnexpectedEOF
						}
						return nil, nil
					}
					s := newSigner(t, c).Under(b)
					for range 3 {
						if _, err := s.Sign(t.Context(), testStatement(t)); err != nil {
							t.Fatal(err)
						}
					}
					sum := 0
					for _, n := range b.used {
						sum += n
					}
					if sum != asked || asked < 10 {
						t.Errorf("%d requests with %d permissions: %v", asked, sum, b.takes)
					}
					if b.takes[0] != "timestamp+rekor" || b.takes[1] != "urgent fulcio" {
						t.Errorf("taken: %v", b.takes)
					}
				})
			})
		}
	}
}

// TestBudgetHearsOfPauses: a Retry-After is for all workers.
func TestBudgetHearsOfPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		b := &fakeBudget{}
		f.fault = func(service string, n int, r *http.Request) (*http.Response, error) {
			if service != serviceRekor || n > 1 {
				return nil, nil
			}
			return &http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"7"}}, Body: http.NoBody, Request: r}, nil
		}
		if _, err := newSigner(t, f.config(t, 2)).Under(b).Sign(t.Context(), testStatement(t)); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(b.pauses) != "[rekor 7s]" || b.used["rekor"] != 2 {
			t.Errorf("pauses %v, permissions %v", b.pauses, b.used)
		}
	})
}

// TestBudgetEnds: what ends the wait for the budget ends the signature, with nothing asked of anybody.
func TestBudgetEnds(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	over := errors.New("no budget")
	_, err := newSigner(t, f.config(t, 2)).Under(&fakeBudget{err: over}).Sign(t.Context(), testStatement(t))
	if !errors.Is(err, over) || f.count(serviceFulcio)+f.count(serviceTSA)+f.count(serviceRekor) != 0 {
		t.Errorf("%v", err)
	}
}
