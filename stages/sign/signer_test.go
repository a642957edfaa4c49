package sign

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/pipeline"
)

const (
	testFile   = "foo-1.0-h0_0.conda"
	testSHA256 = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
)

func testStatement(t testing.TB) []byte {
	t.Helper()
	return must(attest.Statement(testFile, testSHA256, testChannel))(t)
}

func newSigner(t testing.TB, c Config) *KeylessSigner {
	t.Helper()
	return must(NewSigner(c))(t)
}

// verified verifies a bundle of the fake's.
func verified(t testing.TB, f *fake, bundle []byte) *attest.Result {
	t.Helper()
	v := must(attest.NewVerifier(f.trust()))(t)
	return must(v.Verify(bundle, attest.Subject{Filename: testFile, SHA256: testSHA256}, Policy(testChannel, testIdentity, testIssuer)))(t)
}

// TestSignConcurrently shares everything between many goroutines, logs included. Under -race it fails if the logs' clients are
// not complete before they are shared: sigstore-go's *sign.Rekor fills them in without a lock.
func TestSignConcurrently(t *testing.T) {
	t.Parallel()
	for _, version := range []uint32{1, 2} {
		t.Run(fmt.Sprint("v", version), func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			s := newSigner(t, f.config(t, version))
			if s.RekorVersion() != int(version) {
				t.Fatalf("RekorVersion = %d", s.RekorVersion())
			}
			const n = 100
			// All meet at the timestamp authority, so that nothing orders what they do to the log's client afterwards.
			var gate, wg sync.WaitGroup
			gate.Add(n)
			f.fault = func(service string, _ int, _ *http.Request) (*http.Response, error) {
				if service == serviceTSA {
					gate.Done()
					gate.Wait()
				}
				return nil, nil
			}
			certs := make([]string, n)
			for i := range n {
				wg.Go(func() {
					b, err := s.Sign(t.Context(), testStatement(t))
					if err != nil {
						t.Error(err)
						return
					}
					r := must(attest.Inspect(b))(t)
					if version == 2 { // the fake's v1 entries do not verify
						r = verified(t, f, b)
					}
					certs[i] = r.CertSHA256
				})
			}
			wg.Wait()
			for _, c := range certs {
				if c != certs[0] || c == "" {
					t.Fatal("not one certificate for all")
				}
			}
			if got, want := s.Stats(), (Stats{Certificates: 1, LogEntries: n}); got != want {
				t.Errorf("stats %+v, want %+v", got, want)
			}
		})
	}
}

func TestConfigChoosesHighestRekorVersion(t *testing.T) {
	t.Parallel()
	if v := newSigner(t, newFake(t).config(t, 0)).RekorVersion(); v != 2 {
		t.Errorf("RekorVersion = %d, want 2", v)
	}
}

// TestRenewal signs every 30 s for an hour, and everything verifies: certificates are renewed before they end, each with a new
// token.
func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		s := newSigner(t, f.config(t, 2))
		for range 120 {
			b, err := s.Sign(t.Context(), testStatement(t))
			if err != nil {
				t.Fatal(err)
			}
			verified(t, f, b)
			time.Sleep(30 * time.Second)
		}
		// Renewed two minutes before they end: at 0, 8, … 56 minutes.
		if got := s.Stats().Certificates; got != 8 {
			t.Errorf("%d certificates in an hour, want 8", got)
		}
		if want := "token-1 token-2 token-3 token-4 token-5 token-6 token-7 token-8"; strings.Join(f.subjects, " ") != want {
			t.Errorf("tokens used: %s", f.subjects)
		}
	})
}

func TestPerPackage(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c := f.config(t, 2)
	c.PerPackage = true
	s := newSigner(t, c)
	if _, _, err := s.Identity(t.Context()); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for range 5 {
		b, err := s.Sign(t.Context(), testStatement(t))
		if err != nil {
			t.Fatal(err)
		}
		seen[verified(t, f, b).CertSHA256] = true
	}
	// Five, not six: the one that Identity asked for is the first signature's.
	if len(seen) != 5 || s.Stats().Certificates != 5 {
		t.Errorf("%d certificates for 5 packages, %d issued", len(seen), s.Stats().Certificates)
	}
}

// TestLostAnswer: the log took the entry and its answer was lost; the same bytes, sent again, meet a 409. A v1 log's entry is
// fetched; for a v2 log the statement is signed again, and the old entry never sent a third time.
func TestLostAnswer(t *testing.T) {
	for _, version := range []uint32{1, 2} {
		t.Run(fmt.Sprint("v", version), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				f.fault = func(service string, n int, r *http.Request) (*http.Response, error) {
					if service == serviceRekor && n == 1 {
						body, _ := io.ReadAll(r.Body)
						rec := &discard{header: http.Header{}}
						if err := f.record(rec, body, r); err != nil {
							t.Error(err)
						}
						return nil, io.ErrUnexpectedEOF
					}
					return nil, nil
				}
				s := newSigner(t, f.config(t, version))
				b, err := s.Sign(t.Context(), testStatement(t))
				if err != nil {
					t.Fatal(err)
				}
				posts := f.bodies[serviceRekor]
				if len(posts) != 3 || posts[0] != posts[1] {
					t.Fatalf("%d requests, want a post, the same again, and one more", len(posts))
				}
				if version == 1 {
					if posts[2] != "" || must(attest.Inspect(b))(t).Log[0].Index != 7 {
						t.Errorf("the entry was not fetched: %q", posts[2])
					}
					return
				}
				verified(t, f, b)
				if posts[2] == posts[0] || posts[2] == "" {
					t.Error("the entry was posted again, not signed again")
				}
			})
		})
	}
}

type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}

// TestExpiredIsNotLogged: a certificate that is over by the timestamp authority's clock is not logged with, and replaced.
func TestExpiredIsNotLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		s := newSigner(t, f.config(t, 2))
		if _, _, err := s.Identity(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.skew = 11 * time.Minute
		if _, err := s.Sign(t.Context(), testStatement(t)); !errors.Is(err, ErrOutsideValidity) {
			t.Errorf("error %v, want ErrOutsideValidity", err)
		}
		if got, want := s.Stats(), (Stats{Certificates: 3, LogEntries: 0, Retries: 2}); got != want || f.count(serviceRekor) != 0 {
			t.Errorf("stats %+v, want %+v; %d requests to the log", got, want, f.count(serviceRekor))
		}
		f.skew = 0
		b, err := s.Sign(t.Context(), testStatement(t))
		if err != nil {
			t.Fatal(err)
		}
		verified(t, f, b)

		f.skew = -2 * time.Second // behind the certificate authority: it becomes valid while we wait
		s = newSigner(t, f.config(t, 2))
		if b, err = s.Sign(t.Context(), testStatement(t)); err == nil {
			verified(t, f, b)
		} else {
			t.Error(err)
		}
	})
}

func TestOneIdentityForLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		s := newSigner(t, f.config(t, 2))
		if _, err := s.Sign(t.Context(), testStatement(t)); err != nil {
			t.Fatal(err)
		}
		f.identity = "https://github.com/mallory/feedstock/.github/workflows/publish.yml@refs/heads/main"
		time.Sleep(certLife)
		_, err := s.Sign(t.Context(), testStatement(t))
		if !errors.Is(err, ErrIdentityChanged) || !strings.Contains(err.Error(), "acme") || !strings.Contains(err.Error(), "mallory") {
			t.Errorf("error %v, want ErrIdentityChanged naming both", err)
		}
		if s.Stats().LogEntries != 1 {
			t.Error("signed as somebody else")
		}
	})
}

func TestUntrustedAuthority(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c := f.config(t, 2)
	c.Trust = must(attest.FixedTrust(newFake(t).trust(), c.Trust.Current().SigningConfig))(t)
	s := newSigner(t, c)
	if _, err := s.Sign(t.Context(), testStatement(t)); !errors.Is(err, ErrUntrusted) {
		t.Errorf("error %v, want ErrUntrusted", err)
	}
	if f.count(serviceTSA)+f.count(serviceRekor) != 0 {
		t.Error("something was signed with an untrusted certificate")
	}
}

// TestErrorsDoNotShowTheToken has Fulcio echo what it was sent, in every kind of failure. The other services never see it.
func TestErrorsDoNotShowTheToken(t *testing.T) {
	for _, code := range []int{0, 200, 201, 204, 302, 400, 401, 403, 404, 409, 429, 500, 503} {
		for _, form := range []string{"%s", `{"message":"bad token %s"}`, "bad payload %.40s", "-----BEGIN CERTIFICATE-----\n%s"} {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				var seen string
				f.fault = func(service string, _ int, r *http.Request) (*http.Response, error) {
					seen, _ = strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
					if code == 0 {
						return nil, fmt.Errorf(form, seen)
					}
					return answer(code, fmt.Sprintf(form, seen), "Location", "https://x.localhost/"+seen, "Retry-After", "0"), nil
				}
				_, err := newSigner(t, f.config(t, 2)).Sign(t.Context(), testStatement(t))
				if err == nil || seen == "" {
					t.Fatalf("%d %s: no error, or no token seen", code, form)
				}
				noSecret(t, err, seen)
				noSecret(t, classify(err), seen)
			})
		}
	}
}

func TestOnlyFulcioSeesTheToken(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c := f.config(t, 2)
	f.fault = func(service string, _ int, r *http.Request) (*http.Response, error) {
		if has := r.Header.Get("Authorization") != ""; has != (service == serviceFulcio) {
			t.Errorf("%s: authorization sent: %v", service, has)
		}
		return nil, nil
	}
	if _, err := newSigner(t, c).Sign(t.Context(), testStatement(t)); err != nil {
		t.Fatal(err)
	}
	for service, bodies := range f.bodies {
		for _, raw := range c.Tokens.(*tokens).raw {
			for _, part := range strings.Split(raw, ".") {
				if strings.Contains(strings.Join(bodies, ""), part) {
					t.Errorf("a body for %s holds the token", service)
				}
			}
		}
	}
}

// TestATokenThatIsOutlived: an authority that answers after the token's end refuses it; that is no reason to stop.
func TestATokenThatIsOutlived(t *testing.T) {
	for _, slow := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(t)
			f.fault = func(service string, n int, _ *http.Request) (*http.Response, error) {
				if service != serviceFulcio || n > 3 {
					return nil, nil
				}
				if slow {
					time.Sleep(25 * time.Second) // three times: tokens live for a minute
				}
				if n < 3 {
					return answer(503, "busy"), nil
				}
				return answer(401, "the token has expired"), nil
			}
			s := newSigner(t, f.config(t, 2))
			_, err := s.Sign(t.Context(), testStatement(t))
			e, ok := errors.AsType[*pipeline.Error](classify(err))
			if !ok || (e.Kind == pipeline.KindTransient) != slow {
				t.Errorf("slow %v: %v", slow, classify(err))
			}
			if _, err := s.Sign(t.Context(), testStatement(t)); err != nil {
				t.Errorf("slow %v: with the next token: %v", slow, err)
			}
		})
	}
}
