package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// answer is a store without a network, for tests in which hours pass.
type answer func(*http.Request) (*http.Response, error)

func (a answer) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := a(r)
	if r.Body != nil {
		r.Body.Close()
	}
	return resp, err
}

func respond(r *http.Request, status int, body string, headers ...string) *http.Response {
	h := http.Header{}
	for i := 0; i < len(headers); i += 2 {
		h.Set(headers[i], headers[i+1])
	}
	return &http.Response{
		StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: h,
		ContentLength: int64(len(body)), Body: io.NopCloser(strings.NewReader(body)), Request: r,
	}
}

func s3Failure(r *http.Request, status int, code string, headers ...string) *http.Response {
	return respond(r, status, fmt.Sprintf("<Error><Code>%s</Code><Message>as asked</Message></Error>", code), headers...)
}

func pretend(t *testing.T, a answer) *S3 {
	t.Helper()
	s, err := NewS3(t.Context(), S3Config{
		Bucket: "b", Prefix: "p", Region: "us-east-1", Endpoint: "http://s3.invalid", Transport: a,
		Credentials: &Credentials{AccessKeyID: "a", SecretAccessKey: "s"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func putText(ctx context.Context, s Store, o PutOptions) error {
	_, err := s.Put(ctx, "k", strings.NewReader("text"), 4, o)
	return err
}

// TestOutage: the client tries nine times, for longer than an outage of seconds, then says that it is one.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		s := pretend(t, func(r *http.Request) (*http.Response, error) {
			n.Add(1)
			return s3Failure(r, http.StatusServiceUnavailable, "SlowDown", "Retry-After", "7"), nil
		})
		start := time.Now()
		err := putText(t.Context(), s, PutOptions{})
		if after, ok := Transient(err); !ok || after != 7*time.Second {
			t.Errorf("%v: after %s, transient %t", err, after, ok)
		}
		if n.Load() != attempts {
			t.Errorf("%d attempts", n.Load())
		}
		if took := time.Since(start); took > attempts*maxBackoff {
			t.Errorf("took %s", took)
		}
	})
}

// TestOutageOfSeconds: many uploads at once outlast it, all of them. The SDK's own quota of retries fails most.
func TestOutageOfSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		s := pretend(t, func(r *http.Request) (*http.Response, error) {
			if time.Since(start) < 4*time.Second {
				return s3Failure(r, http.StatusInternalServerError, "InternalError"), nil
			}
			return respond(r, http.StatusOK, "", "ETag", `"e"`), nil
		})
		var wg sync.WaitGroup
		for range 300 {
			wg.Go(func() {
				if err := putText(t.Context(), s, PutOptions{}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
}

// TestStalled: a connection that has gone dead ends each attempt in time, and is not taken for the caller's cancellation.
func TestStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		dead := true
		s := pretend(t, func(r *http.Request) (*http.Response, error) {
			n.Add(1)
			if !dead {
				return respond(r, http.StatusOK, "", "ETag", `"e"`), nil
			}
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		for name, f := range map[string]func(context.Context) error{
			"Put":      func(ctx context.Context) error { return putText(ctx, s, PutOptions{}) },
			"Get":      func(ctx context.Context) error { _, _, err := s.Get(ctx, "k"); return err },
			"GetRange": func(ctx context.Context) error { _, _, err := s.GetRange(ctx, "k", 0, 1, ""); return err },
			"Head":     func(ctx context.Context) error { _, err := s.Head(ctx, "k"); return err },
			"Delete":   func(ctx context.Context) error { return s.Delete(ctx, "k") },
		} {
			n.Store(0)
			start := time.Now()
			err := f(t.Context())
			if _, ok := Transient(err); !ok || errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v, want a transient error", name, err)
			}
			if took := time.Since(start); n.Load() != attempts || took < attempts*answerTime || took > attempts*(answerTime+maxBackoff+time.Second) {
				t.Errorf("%s: %d attempts in %s", name, n.Load(), took)
			}

			// The caller's deadline is the caller's, and ends it at once.
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			start = time.Now()
			err = f(ctx)
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
				t.Errorf("%s with a deadline: %v after %s", name, err, time.Since(start))
			}
		}
		dead = false
		if err := putText(t.Context(), s, PutOptions{}); err != nil {
			t.Error(err)
		}
	})
}

// slowBody sends a bit and then nothing, until it is cancelled.
type slowBody struct {
	first *strings.Reader
	done  <-chan struct{}
}

func (b slowBody) Read(p []byte) (int, error) {
	if b.first.Len() > 0 {
		return b.first.Read(p)
	}
	<-b.done
	return 0, context.Canceled
}

func (slowBody) Close() error { return nil }

// TestStalledBody: a download that stops moving ends; one whose reader takes his time does not.
func TestStalledBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := pretend(t, func(r *http.Request) (*http.Response, error) {
			resp := respond(r, http.StatusOK, "")
			resp.ContentLength = 100
			resp.Header.Set("Content-Length", "100")
			resp.Body = slowBody{strings.NewReader("abcdef"), r.Context().Done()}
			return resp, nil
		})
		if r, _, err := s.GetRange(t.Context(), "k", 0, 100, ""); err != nil {
			t.Error(err)
		} else {
			defer r.Close()
			start := time.Now()
			if _, err := io.ReadAll(r); !errors.Is(err, errStalled) || time.Since(start) != idle {
				t.Errorf("a range: %v after %s", err, time.Since(start))
			}
		}
		r, _, err := s.Get(t.Context(), "k")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		three := make([]byte, 3)
		for range 2 {
			if _, err := io.ReadFull(r, three); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour) // the clock is synctest's
		}
		start := time.Now()
		_, err = io.ReadAll(r)
		if _, ok := Transient(err); !ok || !errors.Is(err, errStalled) || time.Since(start) != idle {
			t.Errorf("%v after %s", err, time.Since(start))
		}
	})
}

// TestConflictIsTriedAgain: S3's 409 says that another conditional write was under way, not how it ended.
func TestConflictIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		puts := 0
		s := pretend(t, func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodHead {
				return respond(r, http.StatusNotFound, ""), nil
			}
			if puts++; puts == 1 {
				return s3Failure(r, http.StatusConflict, "ConditionalRequestConflict"), nil
			}
			return respond(r, http.StatusOK, "", "ETag", `"e"`), nil
		})
		if err := putText(t.Context(), s, PutOptions{IfNoneMatch: true}); err != nil || puts != 2 {
			t.Errorf("%d attempts: %v", puts, err)
		}
	})
}
