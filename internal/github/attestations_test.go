package github_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/github"
	"github.com/hallmark-attest/hallmark/internal/github/githubtest"
)

const token = "ghs_the-token-that-nobody-may-see"

var digest = strings.Repeat("ab", 32)

type bench struct {
	server *githubtest.Server
	stores *github.Attestations
	mu     sync.Mutex
	clock  time.Time
	pauses []time.Duration
}

func newBench(t *testing.T, change func(*github.Config)) *bench {
	t.Helper()
	b := &bench{server: githubtest.New(t, "my-org", "my.repo", token), clock: time.Unix(1_000_000, 0)}
	conf := github.Config{API: b.server.API(), Token: func() string { return token + "\n" }, Transport: b.server.Client().Transport}
	if change != nil {
		change(&conf)
	}
	var err error
	if b.stores, err = github.New(conf); err != nil {
		t.Fatal(err)
	}
	github.OnPause(b.stores, func(d time.Duration) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.clock, b.pauses = b.clock.Add(d), append(b.pauses, d)
	}, func() time.Time {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.clock
	})
	return b
}

func (b *bench) store(t *testing.T) (string, error) {
	t.Helper()
	return b.stores.Store(t.Context(), "my-org", "my.repo", githubtest.Bundle(digest))
}

func TestStore(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	id, err := b.store(t)
	if err != nil || id != "1001" {
		t.Fatalf("%q, %v", id, err)
	}
	if got := b.server.Stored(); len(got) != 1 || !bytes.Equal(got[0], githubtest.Bundle(digest)) {
		t.Errorf("stored %s", got)
	}
	if len(b.pauses) != 0 {
		t.Errorf("paused %v", b.pauses)
	}
}

// TestTurns: bundles go one after the other, with the interval between them.
func TestTurns(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if _, err := b.store(t); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if want := slices.Repeat([]time.Duration{github.DefaultInterval}, 4); !slices.Equal(b.pauses, want) {
		t.Errorf("paused %v", b.pauses)
	}
}

// TestStoredAlready: whatever GitHub answers for a bundle that it has, or did before it failed, the bundle is stored once.
func TestStoredAlready(t *testing.T) {
	t.Parallel()
	for _, byAddress := range []bool{false, true} {
		for name, prepare := range map[string]func(*githubtest.Server){
			"409": func(s *githubtest.Server) { s.Duplicates(409) }, "422": func(s *githubtest.Server) { s.Duplicates(422) },
			"lost": func(s *githubtest.Server) { s.Fail(githubtest.Fault{Method: "POST", After: true}) },
			"500":  func(s *githubtest.Server) { s.Fail(githubtest.Fault{Method: "POST", Status: 500, After: true}) },
			"503 wait": func(s *githubtest.Server) {
				s.Fail(githubtest.Fault{Method: "POST", Status: 503, After: true, Header: http.Header{"Retry-After": {"5"}}})
			},
			"garbage": func(s *githubtest.Server) {
				s.Fail(githubtest.Fault{Method: "POST", Status: 201, After: true, Body: "<html>"})
			},
		} {
			b := newBench(t, nil)
			if byAddress {
				b.server.ByAddress()
			}
			if strings.HasPrefix(name, "4") {
				if _, err := b.store(t); err != nil {
					t.Fatal(err)
				}
			}
			prepare(b.server)
			if id, err := b.store(t); err != nil || id != "" {
				t.Errorf("%s: %q, %v", name, id, err)
			}
			if n := len(b.server.Stored()); n != 1 {
				t.Errorf("%s: stored %d times", name, n)
			}
		}
	}
}

// TestLostBefore: an answer was lost, and so was the request: it is sent again. The list may fail, too.
func TestLostBefore(t *testing.T) {
	t.Parallel()
	for _, f := range [][]githubtest.Fault{
		{{Method: "POST"}}, {{Method: "POST", Status: 502}}, {{Method: "POST"}, {Method: "GET", Status: 500}}, {{Method: "POST"}, {Method: "GET", Status: 200, Body: "["}},
		{{Method: "POST"}, {Method: "GET", Status: 200, Body: `{"attestations":[{"bundle":null},{"bundle":{"other":1}},{"bundle":7}]}`}},
	} {
		b := newBench(t, nil)
		b.server.Fail(f...)
		if id, err := b.store(t); err != nil || id != "1001" {
			t.Errorf("%+v: %q, %v", f, id, err)
		}
	}
}

// TestHas: what Store did, and what nobody stored.
func TestHas(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	has := func() (bool, error) {
		return b.stores.Has(t.Context(), "my-org", "my.repo", githubtest.Bundle(digest))
	}
	if got, err := has(); err != nil || got {
		t.Errorf("before: %v, %v", got, err)
	}
	if _, err := b.store(t); err != nil {
		t.Fatal(err)
	}
	if got, err := has(); err != nil || !got {
		t.Errorf("after: %v, %v", got, err)
	}
	if _, err := b.stores.Has(t.Context(), "my-org", "my.repo", []byte("[]")); !errors.Is(err, github.ErrArgument) {
		t.Errorf("an array: %v", err)
	}
}

func TestProbe(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	if err := b.stores.Probe(t.Context(), "my-org", "my.repo"); err != nil {
		t.Error(err)
	}
	b = newBench(t, func(c *github.Config) { c.Token = func() string { return "another" } })
	if err := b.stores.Probe(t.Context(), "my-org", "my.repo"); !errors.Is(err, github.ErrIdentity) {
		t.Errorf("another token: %v", err)
	}
	if n := len(b.server.Stored()); n != 0 {
		t.Errorf("stored %d", n)
	}
}

func TestRepository(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		api, uri, want string
	}{
		{"https://api.github.com", "https://github.com/my-org/my.repo", "my-org/my.repo"},
		{"https://api.acme.ghe.com", "https://acme.ghe.com/o/r", "o/r"},
		{"https://ghe.example.org/api/v3", "https://ghe.example.org/o/r", "o/r"},
		{"http://127.0.0.1:1", "https://github.com/o/r", "o/r"},
		{"https://api.github.com", "https://gitlab.com/o/r", ""},
		{"https://api.github.com", "https://evil.example/o/r", ""},
		{"https://api.github.com", "http://github.com/o/r", ""},
		{"https://api.github.com", "https://github.com/o/r/x", ""},
		{"https://api.github.com", "https://github.com/o/..", ""},
		{"https://api.github.com", "https://u:p@github.com/o/r", ""},
		{"https://api.github.com", "", ""},
	} {
		u, err := url.Parse(tt.api)
		if err != nil {
			t.Fatal(err)
		}
		a, err := github.New(github.Config{API: u})
		if err != nil {
			t.Fatal(err)
		}
		owner, repo, err := a.Repository(tt.uri)
		if got := strings.Trim(owner+"/"+repo, "/"); got != tt.want || (err == nil) != (tt.want != "") || err != nil && !errors.Is(err, github.ErrArgument) {
			t.Errorf("%s at %s: %q, %v", tt.uri, tt.api, got, err)
		}
	}
}

func TestStatuses(t *testing.T) {
	t.Parallel()
	for code, want := range map[int]error{
		301: github.ErrNotFound, 307: github.ErrNotFound, 400: github.ErrRejected, 401: github.ErrIdentity, 403: github.ErrForbidden, 404: github.ErrNotFound,
		409: github.ErrRejected, 413: github.ErrRejected, 422: github.ErrRejected, 408: nil, 500: nil, 502: nil, 503: nil,
	} {
		b := newBench(t, func(c *github.Config) { c.Attempts = 2 })
		f := githubtest.Fault{Method: "POST", Status: code, Header: http.Header{"Location": {b.server.URL + "/repos/my-org/my.repo/attestations"}},
			Body: `{"message":"because \u001b[31m` + token + `"}`}
		b.server.Fail(f, f)
		_, err := b.store(t)
		_, transient := github.Transient(err)
		if err == nil || transient != (want == nil) || want != nil && !errors.Is(err, want) || !strings.Contains(err.Error(), "because  [31m[redacted]") {
			t.Errorf("%d: %v, transient %v", code, err, transient)
		}
		posts := slices.DeleteFunc(b.server.Requests(), func(r string) bool { return !strings.HasPrefix(r, "POST") })
		if len(posts) != map[bool]int{true: 2, false: 1}[want == nil] {
			t.Errorf("%d: %v", code, posts)
		}
	}
}

// TestLimits: a limit is not a lack of rights, is waited for by all together, and is passed on when it is long.
func TestLimits(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	reset := func(d time.Duration) http.Header {
		return http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {strconv.FormatInt(now.Add(d).Unix(), 10)}}
	}
	for name, tt := range map[string]struct {
		fault githubtest.Fault
		want  time.Duration
	}{
		"seconds":        {githubtest.Fault{Method: "POST", Status: 403, Header: http.Header{"Retry-After": {"30"}}}, 30 * time.Second},
		"429":            {githubtest.Fault{Method: "POST", Status: 429, Header: http.Header{"Retry-After": {"31"}}}, 31 * time.Second},
		"429, no more":   {githubtest.Fault{Method: "POST", Status: 429}, time.Minute},
		"reset":          {githubtest.Fault{Method: "POST", Status: 403, Header: reset(90 * time.Second)}, 90 * time.Second},
		"reset is past":  {githubtest.Fault{Method: "POST", Status: 403, Header: reset(-time.Hour)}, time.Second},
		"secondary":      {githubtest.Fault{Method: "POST", Status: 403, Body: `{"message":"You have exceeded a secondary rate limit."}`}, time.Minute},
		"an hour":        {githubtest.Fault{Method: "POST", Status: 429, Header: http.Header{"Retry-After": {"3000"}}}, 50 * time.Minute},
		"more than that": {githubtest.Fault{Method: "POST", Status: 403, Header: reset(48 * time.Hour)}, time.Hour},
	} {
		b := newBench(t, nil)
		b.server.Fail(tt.fault)
		id, err := b.store(t)
		if tt.want > github.DefaultPatience {
			after, ok := github.Transient(err)
			if !ok || after != tt.want || len(b.pauses) != 0 {
				t.Errorf("%s: %v after %v, %v", name, err, after, b.pauses)
			}
			if _, err := b.store(t); err == nil || len(b.server.Requests()) != 1 { // the next one is not sent, either
				t.Errorf("%s: %v, %v", name, err, b.server.Requests())
			}
			continue
		}
		// The attempt's own pause may be a little longer than what was asked for.
		var waited time.Duration
		for _, p := range b.pauses {
			waited += p
		}
		if err != nil || id != "1001" || waited < tt.want || waited > tt.want+github.DefaultBackoff || len(b.server.Requests()) != 2 {
			t.Errorf("%s: %q, %v, paused %v, asked %v", name, id, err, b.pauses, b.server.Requests())
		}
	}
}

func TestArguments(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	good := githubtest.Bundle(digest)
	for _, tt := range []struct {
		owner, repo string
		bundle      []byte
	}{
		{"", "r", good}, {"o", "", good}, {"o", "..", good}, {"o/x", "r", good}, {"o", "r/x", good}, {"o", "r?x", good}, {"-o", "r", good},
		{"o", "r", nil}, {"o", "r", []byte("[]")}, {"o", "r", []byte("{}")}, {"o", "r", slices.Concat([]byte("["), good, []byte("]"))},
		{"o", "r", githubtest.Bundle("../../x")}, {"o", "r", bytes.Repeat([]byte(" {}"), attest.MaxBundle)}, {"o", "r", []byte(`{"a":1,"a":2}`)},
	} {
		_, err := b.stores.Store(t.Context(), tt.owner, tt.repo, tt.bundle)
		if _, transient := github.Transient(err); !errors.Is(err, github.ErrArgument) || transient {
			t.Errorf("%q/%q %.40q: %v", tt.owner, tt.repo, tt.bundle, err)
		}
	}
	if len(b.server.Requests()) != 0 {
		t.Errorf("asked %v", b.server.Requests())
	}
	for _, bad := range []string{"", " ", "two words", "new\nline"} {
		b := newBench(t, func(c *github.Config) { c.Token = func() string { return bad } })
		if _, err := b.store(t); !errors.Is(err, github.ErrIdentity) || len(b.server.Requests()) != 0 {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if owner, repo, err := github.SplitRepository("my-org/my.repo"); err != nil || owner != "my-org" || repo != "my.repo" {
		t.Error(owner, repo, err)
	}
	if _, _, err := github.SplitRepository("a/b/c"); err == nil {
		t.Error("a/b/c")
	}
	for raw, ok := range map[string]bool{"https://api.github.com": true, "https://ghe.example.org/api/v3/": true, "http://127.0.0.1:1": true,
		"http://api.github.com": false, "https://u:p@h": false, "https://h?x=1": false, "https://": false} {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := github.New(github.Config{API: u}); (err == nil) != ok {
			t.Errorf("%s: %v", raw, err)
		}
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := b.stores.Store(ctx, "my-org", "my.repo", githubtest.Bundle(digest))
	if _, transient := github.Transient(err); !errors.Is(err, context.Canceled) || transient {
		t.Errorf("got %v", err)
	}
	if _, err := b.store(t); err != nil { // the turn was given back
		t.Error(err)
	}
}

// FuzzUnpacked: whatever a storage serves, what comes out is bounded.
func FuzzUnpacked(f *testing.F) {
	f.Add(snappy.Encode(nil, []byte(`{"a":1}`)))
	f.Add([]byte(`{"a":1}`))
	f.Add([]byte("\xff\xff\xff\xff\x0f"))
	f.Add(snappy.Encode(nil, make([]byte, 4<<20)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if got := github.Unpacked(raw); len(got) > max(attest.MaxBundle, len(raw)) {
			t.Errorf("%d bytes", len(got))
		}
	})
}
