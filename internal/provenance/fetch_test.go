package provenance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const someBundle = `{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}`

// tripper answers without a network.
type tripper func(*http.Request) (*http.Response, error)

func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func answer(status int, body string, header ...string) *http.Response {
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body))}
}

func errorOf(t *testing.T, err error) *Error {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("%v is no *Error", err)
	}
	return e
}

// TestStatuses: which answers are final, and which are worth another try.
func TestStatuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		url       string
		status    int
		header    []string
		code      Code
		temporary bool
		wait      time.Duration
	}{
		{"https://h/b", 404, nil, CodeMissing, false, 0},
		{"https://h/b", 410, nil, CodeMissing, false, 0},
		{"https://h/b", 401, nil, CodeFetchRefused, false, 0},
		{"https://h/b", 403, nil, CodeFetchRefused, false, 0},
		{"https://h/b", 403, []string{"Retry-After", "7"}, CodeUnavailable, true, 7 * time.Second},
		{"https://h/b", 403, []string{"X-RateLimit-Remaining", "0"}, CodeUnavailable, true, time.Second},
		{"https://pypi.org/integrity/a/1/a-1.zip/provenance", 403, nil, CodeUnavailable, true, time.Second},
		{"https://h/b", 406, nil, CodeFetchRefused, false, 0},
		{"https://h/b", 429, []string{"Retry-After", "120"}, CodeUnavailable, true, 2 * time.Minute},
		{"https://h/b", 503, []string{"Retry-After", "99999999"}, CodeUnavailable, true, time.Hour},
		{"https://h/b", 500, nil, CodeUnavailable, true, time.Second},
		{"https://h/b", 502, []string{"Retry-After", "soon"}, CodeUnavailable, true, time.Second},
		{"https://h/b", 204, nil, CodeFetchRefused, false, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := NewFetcher(FetchOptions{Transport: tripper(func(*http.Request) (*http.Response, error) { return answer(tt.status, "", tt.header...), nil })})
			_, err := f.Bundles(t.Context(), tt.url)
			if e := errorOf(t, err); e.Code != tt.code || e.Temporary != tt.temporary || e.RetryAfter != tt.wait {
				t.Errorf("%d %v: %+v", tt.status, tt.header, e)
			}
		})
	}
}

// TestHostLeftAlone: a host that asked to be left alone gets no request until then, for whichever URL; then it is asked
// again, and how long it has been failing is known.
func TestHostLeftAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n, down := 0, true
		f := NewFetcher(FetchOptions{Transport: tripper(func(*http.Request) (*http.Response, error) {
			if n++; down {
				return answer(429, "", "Retry-After", time.Now().Add(30*time.Second).UTC().Format(http.TimeFormat)), nil
			}
			return answer(200, someBundle), nil
		})})
		ask := func(u string) error { _, err := f.Bundles(t.Context(), u); return err }
		begin := time.Now()
		_ = ask("https://h/a")
		time.Sleep(20 * time.Second)
		if e := errorOf(t, ask("https://h/b")); !e.Temporary || e.RetryAfter != 10*time.Second || n != 1 {
			t.Errorf("%+v after %d requests", e, n)
		}
		time.Sleep(11 * time.Second)
		if e := errorOf(t, ask("https://h/a")); !e.Since.Equal(begin) || n != 2 {
			t.Errorf("failing since %v, not %v; %d requests", e.Since, begin, n)
		}
		down = false
		time.Sleep(31 * time.Second)
		if err := ask("https://h/a"); err != nil || n != 3 {
			t.Error(err, n)
		}
	})
}

// TestOnceForAll: many that ask for one URL make one request; a refusal is forgotten in time; whoever gives up leaves the
// others a turn.
func TestOnceForAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		f := NewFetcher(FetchOptions{Transport: tripper(func(r *http.Request) (*http.Response, error) {
			n.Add(1)
			select {
			case <-time.After(time.Second):
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
			if strings.HasSuffix(r.URL.Path, "missing") {
				return answer(404, ""), nil
			}
			return answer(200, someBundle), nil
		})})
		var wg sync.WaitGroup
		leader, give := context.WithCancel(t.Context())
		wg.Go(func() {
			if _, err := f.Bundles(leader, "https://h/b"); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		synctest.Wait()
		for range 100 {
			wg.Go(func() {
				if b, err := f.Bundles(t.Context(), "https://h/b"); err != nil || len(b) != 1 {
					t.Error(b, err)
				}
			})
		}
		synctest.Wait()
		give()
		wg.Wait()
		if n.Load() != 2 { // the leader's, and one of the hundred's
			t.Errorf("%d requests", n.Load())
		}
		for range 3 {
			if _, err := f.Bundles(t.Context(), "https://h/missing"); CodeOf(err) != CodeMissing {
				t.Error(err)
			}
		}
		time.Sleep(11 * time.Minute)
		_, _ = f.Bundles(t.Context(), "https://h/missing")
		if n.Load() != 4 {
			t.Errorf("%d requests", n.Load())
		}
	})
}

// TestRate: a host gets so many requests per second and no more; another host has its own budget.
func TestRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := NewFetcher(FetchOptions{Rate: 2, Burst: 1, Transport: tripper(func(*http.Request) (*http.Response, error) { return answer(200, someBundle), nil })})
		begin := time.Now()
		for i := range 5 {
			if _, err := f.Bundles(t.Context(), fmt.Sprintf("https://h/%d", i)); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(begin); d != 2*time.Second {
			t.Errorf("5 requests in %v", d)
		}
		if _, err := f.Bundles(t.Context(), "https://other/1"); err != nil || time.Since(begin) != 2*time.Second {
			t.Error(err, time.Since(begin))
		}
	})
}

// TestCacheIsBounded: what is too much is let go, and fetched again when it is asked for.
func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	n := 0
	f := NewFetcher(FetchOptions{Rate: 1e6, Burst: 100, CacheBytes: 3000, Transport: tripper(func(*http.Request) (*http.Response, error) { n++; return answer(200, someBundle), nil })})
	for _, u := range []string{"https://h/1", "https://h/2", "https://h/3", "https://h/3", "https://h/1"} {
		if _, err := f.Bundles(t.Context(), u); err != nil {
			t.Fatal(err)
		}
	}
	if n != 4 || f.bytes > 3000 || len(f.entries) != len(f.order) {
		t.Errorf("%d requests, %d bytes, %d entries", n, f.bytes, len(f.entries))
	}
}

// TestRedirects: https alone, and not for ever.
func TestRedirects(t *testing.T) {
	t.Parallel()
	x := newIndex(t)
	to := func(u string) http.Handler { return http.RedirectHandler(u, http.StatusFound) }
	x.other["/ok"], x.other["/end"] = to("/end"), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Referer") != "" {
			t.Error("a Referer was sent")
		}
		_, _ = io.WriteString(w, someBundle)
	})
	x.other["/loop"], x.other["/http"] = to("/loop"), to("http://example.org/b?token=secret")
	x.other["/user"] = to("https://a:secret@example.org/b")
	x.other["/file"] = to("file:///etc/passwd")
	f := x.fetcher(nil)
	if _, err := f.Bundles(t.Context(), x.URL+"/ok?token=secret"); err != nil {
		t.Error(err)
	}
	for _, p := range []string{"/loop", "/http", "/user", "/file"} {
		before := x.requests.Load()
		_, err := f.Bundles(t.Context(), x.URL+p+"?token=secret")
		if e := errorOf(t, err); e.Code != CodeRedirect || e.Temporary || strings.Contains(e.Error(), "secret") {
			t.Errorf("%s: %+v", p, e)
		}
		if n := x.requests.Load() - before; p == "/loop" && n != 1+maxRedirects || p != "/loop" && n != 1 {
			t.Errorf("%s: %d requests", p, n)
		}
	}
}

// TestNoConnection: an outage is temporary, its message has no secrets, and a private address is not connected to.
func TestNoConnection(t *testing.T) {
	t.Parallel()
	x := newIndex(t)
	f := NewFetcher(FetchOptions{})
	_, err := f.Bundles(t.Context(), x.URL+"/b?token=secret")
	if e := errorOf(t, err); e.Code != CodeFetchRefused || e.Temporary || x.requests.Load() != 0 {
		t.Errorf("%+v", e)
	}
	f = x.fetcher(nil)
	x.Close()
	_, err = f.Bundles(t.Context(), x.URL+"/b?token=secret")
	if e := errorOf(t, err); e.Code != CodeUnavailable || !e.Temporary || strings.Contains(e.Error(), "secret") {
		t.Errorf("%+v", e)
	}
	for a, public := range map[string]bool{"127.0.0.1": false, "::1": false, "10.1.2.3": false, "169.254.169.254": false, "100.64.0.1": false,
		"::ffff:192.168.0.1": false, "fd00::1": false, "fe80::1": false, "0.0.0.0": false, "224.0.0.1": false, "64:ff9b::a00:1": false,
		"151.101.0.223": true, "2a04:4e42::223": true} {
		if got := isPublic(netip.MustParseAddr(a)); got != public {
			t.Errorf("%s: public %v", a, got)
		}
	}
}
