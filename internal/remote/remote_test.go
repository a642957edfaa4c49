package remote_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hallmark-attest/hallmark/internal/remote"
)

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for v, want := range map[string]time.Duration{
		"": -1, "soon": -1, "-5": -1, "99999999999999999999": -1,
		"0": 0, "120": 2 * time.Minute, "999999": time.Hour,
		now.Add(90 * time.Second).Format(http.TimeFormat): 90 * time.Second,
		now.Add(-time.Hour).Format(http.TimeFormat):       0,
		now.Add(48 * time.Hour).Format(http.TimeFormat):   time.Hour,
	} {
		after, said := remote.RetryAfter(http.Header{"Retry-After": {v}}, now)
		if after != max(want, 0) || said != (want >= 0) {
			t.Errorf("%q: %s %v, want %s", v, after, said, want)
		}
	}
}

func TestTransient(t *testing.T) {
	t.Parallel()
	kind := errors.New("no such thing")
	for name, tt := range map[string]struct {
		err   error
		after time.Duration
		ok    bool
	}{
		"nothing":            {nil, 0, false},
		"an answer":          {&remote.StatusError{Status: 503, After: time.Second}, time.Second, true},
		"an answer for good": {fmt.Errorf("x: %w", &remote.StatusError{Status: 404, Kind: kind}), 0, false},
		"an outage":          {fmt.Errorf("x: %w", &remote.Outage{Err: io.EOF}), 0, true},
		"too slow":           {context.DeadlineExceeded, 0, true},
		"called off":         {&remote.Outage{Err: context.Canceled}, 0, false},
		"anything else":      {errors.New("x"), 0, false},
	} {
		if after, ok := remote.Transient(tt.err); after != tt.after || ok != tt.ok {
			t.Errorf("%s: %s %v", name, after, ok)
		}
	}
	e := &remote.StatusError{Service: "GitHub", Doing: "asking", Status: 404, Said: "no", Kind: kind}
	if !errors.Is(e, kind) || e.Error() != "asking: GitHub answered 404 (no): no such thing" {
		t.Error(e)
	}
}

func TestUnreached(t *testing.T) {
	t.Parallel()
	err := &url.Error{Op: "Get", URL: "https://x.example/?signature=secret", Err: io.ErrUnexpectedEOF}
	got := remote.Unreached(t.Context(), "asking", err)
	if _, ok := errors.AsType[*remote.Outage](got); !ok || !errors.Is(got, io.ErrUnexpectedEOF) || strings.Contains(got.Error(), "secret") {
		t.Error(got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	got = remote.Unreached(ctx, "asking", err)
	if _, ok := errors.AsType[*remote.Outage](got); ok || !errors.Is(got, context.Canceled) {
		t.Error(got)
	}
}

func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		if err := remote.Pause(t.Context(), time.Minute); err != nil || time.Since(start) != time.Minute {
			t.Error(err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := remote.Pause(ctx, time.Minute); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Minute+time.Second {
			t.Error(err, time.Since(start))
		}
	})
}

func TestUnmoved(t *testing.T) {
	t.Parallel()
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	}))
	defer s.Close()
	resp, err := remote.Unmoved(http.DefaultTransport, time.Minute).Get(s.URL)
	if err != nil || resp.StatusCode != http.StatusTemporaryRedirect || asked != 1 {
		t.Error(resp, err, asked)
	}
	if err == nil {
		resp.Body.Close()
	}
}
