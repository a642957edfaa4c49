package sign

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestFaults puts faults before each service and looks at what comes of it, and after how long.
func TestFaults(t *testing.T) {
	lost := io.ErrUnexpectedEOF
	type outcome struct {
		status   int // of the *UpstreamError; -1: none, signed
		message  string
		requests int // to the service
		min, max time.Duration
		after    time.Duration
	}
	tests := []struct {
		name  string
		fault func(n int) (*http.Response, error)
		want  outcome
	}{
		{"503 twice", func(n int) (*http.Response, error) {
			if n <= 2 {
				return answer(503, "busy"), nil
			}
			return nil, nil
		}, outcome{status: -1, requests: 3, min: 375 * time.Millisecond, max: 1500 * time.Millisecond}},
		{"connection lost once", func(n int) (*http.Response, error) {
			if n == 1 {
				return nil, lost
			}
			return nil, nil
		}, outcome{status: -1, requests: 2, min: 125 * time.Millisecond, max: 500 * time.Millisecond}},
		{"429 with Retry-After", func(n int) (*http.Response, error) {
			if n == 1 {
				return answer(429, "", "Retry-After", "3"), nil
			}
			return nil, nil
		}, outcome{status: -1, requests: 2, min: 3 * time.Second, max: 3500 * time.Millisecond}},
		{"429 with a long Retry-After", func(int) (*http.Response, error) { return answer(429, "slow down", "Retry-After", "120"), nil },
			outcome{status: 429, message: "slow down", requests: 1, after: 2 * time.Minute}},
		{"503 for good", func(int) (*http.Response, error) {
			return answer(503, `{"code":14,"message":"the log is read-only"}`), nil
		},
			outcome{status: 503, message: "the log is read-only", requests: 4, min: 800 * time.Millisecond, max: 3 * time.Second}},
		{"down for good", func(int) (*http.Response, error) { return nil, lost },
			outcome{status: 0, message: lost.Error(), requests: 4, min: 800 * time.Millisecond, max: 3 * time.Second}},
		{"refused", func(int) (*http.Response, error) { return answer(418, "<html>\n<b>no</b>\x00"), nil },
			outcome{status: 418, message: "<html> <b>no</b>", requests: 1}},
		{"redirect", func(int) (*http.Response, error) {
			return answer(307, "", "Location", "https://elsewhere.localhost/"), nil
		},
			outcome{status: 307, requests: 1}},
		{"nonsense", func(int) (*http.Response, error) { return answer(201, "<html>"), nil }, outcome{status: -2}},
		{"an endless answer", func(int) (*http.Response, error) { return answer(200, strings.Repeat("a", maxResponse+1)), nil },
			outcome{status: 200, message: "more than 4 MiB", requests: 1}},
		{"an answer that breaks off", func(n int) (*http.Response, error) {
			if n == 1 {
				r := answer(200, "")
				r.Body = io.NopCloser(io.MultiReader(strings.NewReader("{"), brokenReader{}))
				return r, nil
			}
			return nil, nil
		}, outcome{status: -1, requests: 2, min: 125 * time.Millisecond, max: 500 * time.Millisecond}},
	}
	for _, tt := range tests {
		for _, target := range []struct {
			service string
			version uint32
		}{{serviceFulcio, 2}, {serviceTSA, 2}, {serviceRekor, 2}, {serviceRekor, 1}} {
			t.Run(fmt.Sprintf("%s/%s v%d", tt.name, target.service, target.version), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newFake(t)
					f.fault = func(service string, n int, r *http.Request) (*http.Response, error) {
						if service != target.service {
							return nil, nil
						}
						return tt.fault(n)
					}
					c := f.config(t, target.version)
					s := newSigner(t, c)
					start := time.Now()
					_, err := s.Sign(t.Context(), testStatement(t))
					took := time.Since(start)
					if tt.want.status == -1 {
						if err != nil {
							t.Fatal(err)
						}
						if got := s.Stats().Retries; got != int64(tt.want.requests-1) {
							t.Errorf("%d retries counted", got)
						}
					} else {
						e, ok := errors.AsType[*UpstreamError](err)
						if !ok || e.Service != target.service {
							t.Fatalf("error %v, want one of %s", err, target.service)
						}
						if tt.want.status == -2 {
							return
						}
						if e.Status != tt.want.status || e.RetryAfter != tt.want.after || !strings.Contains(err.Error(), tt.want.message) {
							t.Errorf("error %v: %+v, want %+v", err, e, tt.want)
						}
					}
					if n := f.count(target.service); n != tt.want.requests {
						t.Errorf("%d requests, want %d", n, tt.want.requests)
					}
					if took < tt.want.min || took > tt.want.max {
						t.Errorf("took %s, want %s to %s", took, tt.want.min, tt.want.max)
					}
				})
			})
		}
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// TestPauseIsShared: when a service asks for a pause, callers that have not met it keep to it as well.
func TestPauseIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.fault = func(service string, n int, _ *http.Request) (*http.Response, error) {
			if service == serviceTSA && n == 1 {
				return answer(429, "", "Retry-After", "60"), nil
			}
			return nil, nil
		}
		s := newSigner(t, f.config(t, 2))
		for range 3 {
			_, err := s.Sign(t.Context(), testStatement(t))
			if e, ok := errors.AsType[*UpstreamError](err); !ok || !e.Temporary() || e.RetryAfter != time.Minute {
				t.Errorf("error %v, want a pause of a minute", err)
			}
		}
		if n := f.count(serviceTSA); n != 1 {
			t.Errorf("%d requests during the pause, want the first only", n)
		}
		time.Sleep(55 * time.Second) // what is left is short enough to be waited for
		start := time.Now()
		if _, err := s.Sign(t.Context(), testStatement(t)); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took < 5*time.Second || took > 6*time.Second {
			t.Errorf("waited %s, want the 5 s that were left", took)
		}
	})
}

// TestContextReachesTheWire: sigstore-go's requests to Fulcio and TSA have no context; ours have the caller's.
func TestContextReachesTheWire(t *testing.T) {
	for _, target := range []string{serviceFulcio, serviceTSA, serviceRekor} {
		t.Run(target, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				f.fault = func(service string, _ int, r *http.Request) (*http.Response, error) {
					if service != target {
						return nil, nil
					}
					select {
					case <-r.Context().Done():
						return nil, r.Context().Err()
					case <-time.After(15 * time.Second):
						return nil, errors.New("the request did not end")
					}
				}
				s := newSigner(t, f.config(t, 2))
				ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
				defer cancel()
				start := time.Now()
				_, err := s.Sign(ctx, testStatement(t))
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("error %v, want the deadline", err)
				}
				if took := time.Since(start); took != 200*time.Millisecond {
					t.Errorf("returned after %s, want 200ms", took)
				}
			})
		})
	}
}

// TestSlowCheckpoint: a v2 log may take its time.
func TestSlowCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.fault = func(service string, _ int, r *http.Request) (*http.Response, error) {
			if service == serviceRekor {
				return nil, pause(r.Context(), 45*time.Second)
			}
			return nil, nil
		}
		if _, err := newSigner(t, f.config(t, 2)).Sign(t.Context(), testStatement(t)); err != nil {
			t.Error(err)
		}
		if n := f.count(serviceRekor); n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
	})
}
