package prefix_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hallmark-attest/hallmark/internal/identity"
	"github.com/hallmark-attest/hallmark/internal/prefix"
	"github.com/hallmark-attest/hallmark/internal/prefix/prefixtest"
)

func TestAudience(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]string{
		"prefix.dev": "prefix.dev", "repo.Prefix.dev:443": "prefix.dev", "notprefix.dev": "notprefix.dev", "prefix.dev.example.org": "prefix.dev.example.org", "127.0.0.1:80": "127.0.0.1",
	} {
		if got := prefix.Audience(&url.URL{Scheme: "https", Host: host}); got != want {
			t.Errorf("%s: %s", host, got)
		}
	}
}

// trusting is a bench whose client publishes as an identity.
func trusting(t *testing.T, audience string) (*bench, *prefix.Trusted, string) {
	t.Helper()
	b := newBench(t, nil)
	id := prefixtest.IdentityToken("repo:my-org/my-repo", audience)
	b.server.Trust(id)
	trusted, err := prefix.NewTrusted(b.server.Origin(), identity.NewStatic(id, "the test"), b.server.Client().Transport)
	if err != nil {
		t.Fatal(err)
	}
	b.connect(t, func(c *prefix.Config) { c.Tokens = trusted })
	return b, trusted, id
}

func TestTrustedPublishing(t *testing.T) {
	t.Parallel()
	b, _, id := trusting(t, "127.0.0.1")
	for range 2 {
		if _, err := b.upload(t); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(b.server.Requests(prefixtest.Mint)); n != 1 {
		t.Errorf("minted %d times", n)
	}
	b.server.Revoke() // the next upload is answered 401
	if _, err := b.upload(t); err != nil {
		t.Errorf("after a revocation: %v", err)
	}
	if n := len(b.server.Requests(prefixtest.Mint)); n != 2 {
		t.Errorf("minted %d times", n)
	}
	for _, r := range b.server.Requests("") {
		if strings.Contains(r.Authorization+r.Path, id) {
			t.Error("the identity token went where it does not belong")
		}
	}
}

// TestMintOutage: a token is refused while no other can be minted; that may pass.
func TestMintOutage(t *testing.T) {
	t.Parallel()
	b, _, _ := trusting(t, "127.0.0.1")
	if _, err := b.upload(t); err != nil {
		t.Fatal(err)
	}
	outage := prefixtest.Fault{On: prefixtest.Mint, Status: 503}
	b.server.Revoke()
	b.server.Fail(outage)
	if _, err := b.upload(t); err != nil {
		t.Error(err)
	}
	b.server.Revoke()
	b.server.Fail(slices.Repeat([]prefixtest.Fault{outage}, prefix.DefaultAttempts)...)
	_, err := b.upload(t)
	if _, transient := prefix.Transient(err); !transient {
		t.Errorf("got %v", err)
	}
}

// TestRefusedForGood: a token minted anew is refused too.
func TestRefusedForGood(t *testing.T) {
	t.Parallel()
	b, _, _ := trusting(t, "127.0.0.1")
	f := prefixtest.Fault{On: prefixtest.Upload, Status: 401, Body: "who is minted-2?"}
	b.server.Fail(f, f)
	_, err := b.upload(t)
	if _, transient := prefix.Transient(err); !errors.Is(err, prefix.ErrIdentity) || transient || strings.Contains(err.Error(), "minted-") {
		t.Errorf("got %v", err)
	}
	if n := len(b.server.Requests(prefixtest.Mint)); n != 2 {
		t.Errorf("minted %d times", n)
	}
}

func TestMinting(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		prepare  func(*prefixtest.Server)
		audience string
		want     error // nil: it may pass
		asked    int
	}{
		"not trusted":    {func(s *prefixtest.Server) { s.Fail(prefixtest.Fault{On: prefixtest.Mint, Status: 401}) }, "127.0.0.1", prefix.ErrIdentity, 1},
		"malformed":      {func(s *prefixtest.Server) { s.Fail(prefixtest.Fault{On: prefixtest.Mint, Status: 422}) }, "127.0.0.1", prefix.ErrIdentity, 1},
		"no such path":   {func(s *prefixtest.Server) { s.Fail(prefixtest.Fault{On: prefixtest.Mint, Status: 404}) }, "127.0.0.1", prefix.ErrIdentity, 1},
		"other audience": {func(*prefixtest.Server) {}, "sigstore", prefix.ErrIdentity, 0},
		"redirect": {func(s *prefixtest.Server) {
			s.Fail(prefixtest.Fault{On: prefixtest.Mint, Status: 307, Header: http.Header{"Location": {"/api/oidc/mint_token"}}})
		}, "127.0.0.1", prefix.ErrIdentity, 1},
		"too many": {func(s *prefixtest.Server) {
			s.Fail(prefixtest.Fault{On: prefixtest.Mint, Status: 429, Header: http.Header{"Retry-After": {"7"}}})
		}, "127.0.0.1", nil, 1},
		"broken":   {func(s *prefixtest.Server) { s.Fail(prefixtest.Fault{On: prefixtest.Mint, Status: 500}) }, "127.0.0.1", nil, 1},
		"cut":      {func(s *prefixtest.Server) { s.Fail(prefixtest.Fault{On: prefixtest.Mint}) }, "127.0.0.1", nil, 1},
		"no token": {func(s *prefixtest.Server) { s.Fail(prefixtest.Fault{On: prefixtest.Mint, Status: 200}) }, "127.0.0.1", nil, 1},
		"a page": {func(s *prefixtest.Server) {
			s.Fail(prefixtest.Fault{On: prefixtest.Mint, Status: 200, Body: "<html> and so on"})
		}, "127.0.0.1", nil, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, trusted, id := trusting(t, tt.audience)
			tt.prepare(b.server)
			_, err := trusted.Token(t.Context(), prefix.Token{})
			after, transient := prefix.Transient(err)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || transient != (tt.want == nil) || (after == 7*time.Second) != (name == "too many") {
				t.Errorf("got %v, transient %v after %v", err, transient, after)
			}
			for part := range strings.SplitSeq(id, ".") {
				if strings.Contains(err.Error(), part) {
					t.Errorf("%v has the token in it", err)
				}
			}
			if n := len(b.server.Requests(prefixtest.Mint)); n != tt.asked {
				t.Errorf("asked %d times", n)
			}
			if tt.want == nil {
				if _, err := trusted.Token(t.Context(), prefix.Token{}); err != nil {
					t.Errorf("the next time: %v", err)
				}
			}
		})
	}
	// Here the server's own words have the token in them.
	b, _, _ := trusting(t, "127.0.0.1")
	id := prefixtest.IdentityToken("a stranger", "127.0.0.1")
	trusted, err := prefix.NewTrusted(b.server.Origin(), identity.NewStatic(id, "the test"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = trusted.Token(t.Context(), prefix.Token{}); err == nil || strings.Contains(err.Error(), id) || !strings.Contains(err.Error(), "no trusted publisher for [redacted]") {
		t.Errorf("got %v", err)
	}
}

// TestRenewal: tokens are replaced before they expire, whether they say when or not.
func TestRenewal(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		shape       func(int, time.Time) string
		life        time.Duration
		kept, ended time.Duration
	}{
		"says so":     {jwt, 20 * time.Minute, 18 * time.Minute, 20*time.Minute - 30*time.Second},
		"short":       {jwt, 100 * time.Second, 80 * time.Second, 95 * time.Second},
		"says nought": {nil, 20 * time.Minute, prefix.UnknownLife - time.Second, prefix.UnknownLife + time.Second},
	} {
		b, trusted, _ := trusting(t, "127.0.0.1")
		b.server.MintFor(tt.life, tt.shape)
		began := time.Now()
		now := began
		prefix.SetClock(trusted, func() time.Time { return now })
		for _, step := range []struct {
			at     time.Duration
			minted int
		}{{0, 1}, {tt.kept, 1}, {tt.ended, 2}} {
			now = began.Add(step.at)
			if _, err := trusted.Token(t.Context(), prefix.Token{}); err != nil {
				t.Fatal(err)
			}
			if n := len(b.server.Requests(prefixtest.Mint)); n != step.minted {
				t.Errorf("%s: after %v, minted %d times", name, step.at, n)
			}
		}
	}
}

func jwt(n int, expiry time.Time) string {
	return prefixtest.JWT(map[string]any{"iss": "https://server.test", "sub": fmt.Sprint(n), "exp": expiry.Unix()})
}

// TestTogether: many workers that need a token at once, or lose theirs at once, share one exchange.
func TestTogether(t *testing.T) {
	t.Parallel()
	b, trusted, _ := trusting(t, "127.0.0.1")
	first, err := trusted.Token(t.Context(), prefix.Token{})
	if err != nil {
		t.Fatal(err)
	}
	gate := make(chan struct{})
	b.server.Fail(prefixtest.Fault{On: prefixtest.Mint, Status: prefixtest.Through, Wait: gate})
	ended, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if got, err := trusted.Token(t.Context(), first); err != nil || got == first {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
	for len(b.server.Requests(prefixtest.Mint)) < 2 { // one has the turn, and waits at the gate
		if t.Context().Err() != nil {
			t.FailNow()
		}
	}
	cancel()
	if _, err := trusted.Token(ended, first); !errors.Is(err, context.Canceled) { // who waits for the turn may leave
		t.Errorf("got %v", err)
	}
	close(gate)
	wg.Wait()
	if n := len(b.server.Requests(prefixtest.Mint)); n != 2 {
		t.Errorf("minted %d times", n)
	}
}

func TestAPIToken(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "token")
	b := newBench(t, func(c *prefix.Config) { c.Tokens = &prefix.File{Path: path} })
	write := func(s string) {
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.upload(t); !errors.Is(err, prefix.ErrIdentity) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	for _, bad := range []string{"", " \n", "two words", "new\nline: x", "ünicode", strings.Repeat("x", 20_000)} {
		write(bad)
		if _, err := b.upload(t); !errors.Is(err, prefix.ErrIdentity) || len(b.server.Requests("")) != 0 || len(bad) > 3 && strings.Contains(err.Error(), bad) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
	write("the-wrong-one")
	_, err := b.upload(t)
	if s, ok := errors.AsType[*prefix.StatusError](err); !ok || s.Status != 401 || !errors.Is(err, prefix.ErrIdentity) || strings.Contains(err.Error(), "the-wrong-one") {
		t.Errorf("got %v", err)
	}
	if n := len(b.server.Requests(prefixtest.Upload)); n != 1 {
		t.Errorf("a token that was refused was sent %d times", n)
	}
	write(apiToken + "\n") // replaced while running
	if _, err := b.upload(t); err != nil {
		t.Error(err)
	}
	b.connect(t, func(c *prefix.Config) { c.Tokens = nil })
	if _, err := b.upload(t); !errors.Is(err, prefix.ErrIdentity) {
		t.Errorf("without a token: %v", err)
	}
}

// TestReading: private channels take the token; one that may only publish is left away.
func TestReading(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.server.Private(true, false)
	if _, err := b.upload(t); err != nil {
		t.Errorf("private: %v", err)
	}
	b.connect(t, func(c *prefix.Config) { c.Tokens = nil })
	compare := func(subdir string) (bool, error) {
		return b.client.Compare(t.Context(), subdir, filename, int64(len(b.body)), sum(b.body))
	}
	if _, err := compare(subdir); !errors.Is(err, prefix.ErrForbidden) {
		t.Errorf("private, without a token: %v", err)
	}
	b.server.Private(false, true)
	if exists, err := compare(subdir); err != nil || !exists {
		t.Errorf("public: %v, %v", exists, err)
	}
	if exists, err := compare("noarch"); err != nil || exists {
		t.Errorf("absent: %v, %v", exists, err)
	}
	b, _, _ = trusting(t, "127.0.0.1")
	b.server.Private(false, true)
	if _, err := b.upload(t); err != nil {
		t.Errorf("a token that may not read: %v", err)
	}
}

func TestTokensAreHidden(t *testing.T) {
	t.Parallel()
	token, err := prefix.NewToken(apiToken)
	if err != nil || prefix.Raw(token) != apiToken {
		t.Fatal(err)
	}
	j, err := json.Marshal(map[string]any{"t": token})
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "t", token)
	shown := fmt.Sprintf("%v %+v %#v %s %q %d %x %s %s", token, token, token, token, token, token, token, j, log.String())
	if strings.Contains(shown, apiToken) || strings.Contains(shown, fmt.Sprintf("%x", apiToken)) {
		t.Error(shown)
	}
}

func TestDetectTokens(t *testing.T) {
	t.Parallel()
	server := &url.URL{Scheme: "https", Host: "prefix.dev"}
	for name, tt := range map[string]struct {
		file string
		env  map[string]string
		want string // "": none
	}{
		"file":        {"/x", map[string]string{"PREFIX_API_KEY": "k"}, "API token file /x"},
		"key":         {"", map[string]string{"PREFIX_API_KEY": "k", "PREFIX_DEV_ID_TOKEN": "x"}, "environment variable PREFIX_API_KEY"},
		"gitlab":      {"", map[string]string{"PREFIX_DEV_ID_TOKEN": "x", "GITLAB_CI": "true"}, "trusted publishing with environment variable PREFIX_DEV_ID_TOKEN"},
		"github":      {"", map[string]string{"GITHUB_ACTIONS": "true", "SIGSTORE_ID_TOKEN": "x", "ACTIONS_ID_TOKEN_REQUEST_URL": "https://127.0.0.1/x", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "x"}, "trusted publishing with GitHub Actions"},
		"no right":    {"", map[string]string{"GITHUB_ACTIONS": "true"}, ""},
		"nothing":     {"", nil, ""},
		"for signing": {"", map[string]string{"SIGSTORE_ID_TOKEN": "x"}, ""},
	} {
		got, err := prefix.DetectTokens(prefix.Options{Server: server, TokenFile: tt.file, Getenv: func(k string) string { return tt.env[k] }})
		if tt.want == "" {
			if !errors.Is(err, prefix.ErrIdentity) {
				t.Errorf("%s: %v, %v", name, got, err)
			}
		} else if err != nil || got.String() != tt.want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}
