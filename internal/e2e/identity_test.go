package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hallmark-attest/hallmark/internal/remote"
)

// TestShortLives: a campaign that outlives its tokens and certificates many times over. A token is good for 20 s and is
// replaced in its file by somebody else; a certificate for 30 s. With HALLMARK_LONG these are the lives, and the campaign
// takes minutes; otherwise all of it goes five times as fast. Nothing is lost, set aside or logged twice, and every
// attestation verifies.
func TestShortLives(t *testing.T) {
	t.Parallel()
	tokenLife, renewed, certificateLife, signing := 6*time.Second, 2*time.Second, 6*time.Second, "sign=24"
	if os.Getenv("HALLMARK_LONG") != "" {
		tokenLife, renewed, certificateLife, signing = 20*time.Second, 12*time.Second, 30*time.Second, "sign=5"
	}
	const n, atLeast = 500, 4 // certificates
	s := ownSigstore(t, "--certificate-lifetime", certificateLife.String())
	token := filepath.Join(t.TempDir(), "token")
	s.writeToken(t, token, tokenLife, "")
	s.keepToken(t, token, tokenLife, renewed)

	packages := samples(t, n, 61)
	p := newPlace(t)
	args := append(p.publish(packages...), "--identity-token-file", token, "--concurrency", signing)
	start := time.Now()
	sum := decode[campaign](t, runEnv(t, s.trust(), programs.producer, args...).want(t, 0))
	t.Logf("%d packages in %s", n, time.Since(start).Round(time.Second))
	if sum.Enqueued != n || sum.Published != n || sum.Waiting+sum.Failed+sum.Skipped != 0 {
		t.Errorf("%+v", sum)
	}
	certificates := s.verified(t, p, packages)
	if len(certificates) < atLeast {
		t.Errorf("%d certificates, want %d at least: the campaign outlived none", len(certificates), atLeast)
	}
	// Every entry of the log is an attestation in the channel: nothing was signed twice, or with a certificate that was over.
	if size := s.logSize(t); size != n {
		t.Errorf("%d log entries for %d packages", size, n)
	}
}

// TestTokenIsNotRenewed: when nobody renews the token, the run ends with exit code 4 and says what to do. What was signed
// is published; with a new token the same command does the rest, and signs nothing twice.
func TestTokenIsNotRenewed(t *testing.T) {
	t.Parallel()
	const n = 36
	s := ownSigstore(t, "--certificate-lifetime", "4s")
	token := filepath.Join(t.TempDir(), "token")
	packages := samples(t, n, 62)
	p := newPlace(t)
	args := append(p.publish(packages...), "--identity-token-file", token, "--concurrency", "sign=3")

	s.writeToken(t, token, 5*time.Second, "")
	r := runEnv(t, s.trust(), programs.producer, args...).want(t, 4)
	report := decodeReport(t, r.stderr)
	if !strings.Contains(report.Message, "expired") || !strings.Contains(report.Hint, "a token file is read anew") {
		t.Errorf("%+v", report)
	}
	if raw, err := os.ReadFile(token); err != nil || strings.Contains(r.stdout+r.stderr, string(raw)) {
		t.Errorf("the token is shown (%v)", err)
	}
	first := decode[campaign](t, r)
	if first.Published == 0 || first.Failed != 0 || first.Published+first.Waiting != n {
		t.Errorf("after the token's end: %+v", first)
	}

	s.writeToken(t, token, 5*time.Second, "")
	s.keepToken(t, token, 6*time.Second, 2*time.Second)
	second := decode[campaign](t, runEnv(t, s.trust(), programs.producer, args...).want(t, 0))
	if second.Campaign != first.Campaign || second.Published != n || second.Failed+second.Skipped+second.Waiting != 0 {
		t.Errorf("with a new token: %+v; first %+v", second, first)
	}
	s.verified(t, p, packages)
	if size := s.logSize(t); size != n {
		t.Errorf("%d log entries for %d packages", size, n)
	}
}

// TestGitHubActions: the identity of a workflow, from a provider that pushes back, fails, and whose tokens live for seconds.
func TestGitHubActions(t *testing.T) {
	t.Parallel()
	const n = 40
	s := ownSigstore(t, "--certificate-lifetime", "4s")
	provider := newProvider(t, s)
	env := append(s.trust(), "GITHUB_ACTIONS=true", "ACTIONS_ID_TOKEN_REQUEST_URL="+provider.URL+"/token?api-version=2.0&lifetime=8",
		"ACTIONS_ID_TOKEN_REQUEST_TOKEN="+s.variable("ACTIONS_ID_TOKEN_REQUEST_TOKEN"))
	packages := samples(t, n, 63)
	p := newPlace(t)
	sum := decode[campaign](t, runEnv(t, env, programs.producer, append(p.publish(packages...), "--concurrency", "sign=3")...).want(t, 0))
	if sum.Published != n || sum.Failed != 0 {
		t.Errorf("%+v", sum)
	}
	certificates := s.verified(t, p, packages)
	if given := int(provider.given.Load()); given != len(certificates) || given < 3 {
		t.Errorf("%d tokens for %d certificates; want one for each, and 3 at least", given, len(certificates))
	}
	if provider.refused.Load() != 2 {
		t.Errorf("the provider failed %d times, want 2: this test sees nothing", provider.refused.Load())
	}
	if wrong := provider.wrong.Load(); wrong != 0 {
		t.Errorf("%d requests were not GitHub's: bearer token, audience, and the query that was there", wrong)
	}

	// A job without the permission gets no token: exit code 4, before anything is done, and no word of the credential.
	secret := "not-the-request-token"
	r := runEnv(t, append(env, "ACTIONS_ID_TOKEN_REQUEST_TOKEN="+secret), programs.producer, newPlace(t).publish(packages...)...).want(t, 4)
	if strings.Contains(r.stdout+r.stderr, secret) {
		t.Errorf("the request's credential is shown: %s", r.stderr)
	}
	r = runEnv(t, append(s.trust(), "GITHUB_ACTIONS=true"), programs.producer, newPlace(t).publish(packages...)...).want(t, 4)
	if report := decodeReport(t, r.stderr); !strings.Contains(report.Hint, "id-token: write") {
		t.Errorf("the hint does not name the permission: %+v", report)
	}
}

// TestAnotherIdentity: a campaign's signer is frozen. Somebody else's run is another campaign and takes up nothing of the
// first; a token that turns into somebody else's in the middle of a run ends it.
func TestAnotherIdentity(t *testing.T) {
	t.Parallel()
	const n, twin = 30, "repository=evil/twin"
	s := ownSigstore(t, "--certificate-lifetime", "4s")
	token := filepath.Join(t.TempDir(), "token")
	packages := samples(t, n, 64)
	p := newPlace(t)
	args := append(p.publish(packages...), "--identity-token-file", token, "--concurrency", "sign=2")

	// The file is somebody else's as soon as the first certificate is there.
	s.writeToken(t, token, time.Minute, "")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	c := command(ctx, s.trust(), programs.producer, args...)
	var stdout, stderr strings.Builder
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	waitForSidecars(t, p.channel, 1, c)
	s.writeToken(t, token, time.Hour, twin)
	_ = c.Wait()
	r := result{c.ProcessState.ExitCode(), stdout.String(), stderr.String()}.want(t, 4)
	if report := decodeReport(t, r.stderr); !strings.Contains(report.Message, "evil/twin") || !strings.Contains(report.Message, s.Identity) {
		t.Errorf("it does not name both identities: %+v", report)
	}
	first := decode[campaign](t, r)
	if first.Published == 0 || first.Waiting == 0 || first.Failed != 0 || first.Published+first.Waiting != n {
		t.Fatalf("%+v", first)
	}
	size := s.logSize(t)
	if size != first.Published {
		t.Errorf("%d log entries, and %d published", size, first.Published)
	}

	// The twin's run is a campaign of its own.
	second := decode[campaign](t, runEnv(t, s.trust(), programs.producer, args...).want(t, 0))
	if second.Campaign == first.Campaign || second.Published != n || second.Waiting+second.Failed+second.Skipped != 0 {
		t.Errorf("the twin's: %+v; the first: %+v", second, first)
	}
	if got := s.logSize(t) - size; got != n {
		t.Errorf("%d new log entries, want the twin's %d", got, n)
	}
	// The first signer's run goes on where it stopped.
	s.writeToken(t, token, time.Hour, "")
	third := decode[campaign](t, runEnv(t, s.trust(), programs.producer, args...).want(t, 0))
	if third.Campaign != first.Campaign || third.Published != n || third.Failed+third.Waiting != 0 {
		t.Errorf("the first signer again: %+v; the first: %+v", third, first)
	}
	s.verified(t, p, packages)
	if got := s.logSize(t); got != 2*n {
		t.Errorf("%d log entries, want %d", got, 2*n)
	}
}

// TestWorkerOfAnotherIdentity: a worker that would sign as somebody else serves nothing of the campaign. If it is to serve
// nothing else it ends with exit code 4, also when the token turns into another's later.
func TestWorkerOfAnotherIdentity(t *testing.T) {
	t.Parallel()
	const n = 40
	s := ownSigstore(t, "--certificate-lifetime", "4s")
	p := newPlace(t)
	url := "nats://" + freeAddress(t)
	// The server does no stage that signs.
	server := startWorker(t, s.trust(), "--listen", strings.TrimPrefix(url, "nats://"), "--state", p.state, "--stages", "hash")
	waitForServer(t, url)
	packages := samples(t, n, 65)
	run(t, programs.producer, append([]string{"submit", "--json", "--nats", url, "--to", p.channel, "--channel-url", channelURL, "--campaign", "c",
		"--certificate-identity", s.Identity, "--certificate-oidc-issuer", s.Issuer}, packages...)...).want(t, 0)

	own, twin := filepath.Join(t.TempDir(), "token"), filepath.Join(t.TempDir(), "token")
	s.writeToken(t, own, time.Hour, "")
	s.writeToken(t, twin, time.Hour, "repository=evil/twin")
	both := func(what, text string) {
		t.Helper()
		if !strings.Contains(text, "evil/twin") || !strings.Contains(text, s.Identity) {
			t.Errorf("%s does not name both identities: %s", what, text)
		}
	}
	sworn := startWorker(t, s.trust(), "--json", "--nats", url, "--campaign", "c", "--identity-token-file", twin)
	if code := sworn.end(); code != 4 {
		t.Errorf("exit code %d, want 4\n%s", code, sworn.stderr())
	}
	report := decodeReport(t, sworn.stderr())
	both("the report", report.Message)
	if report.Code != 4 || report.Item != "c" || report.Hint == "" {
		t.Errorf("%+v", report)
	}
	// One that serves others too stays, and its log says why it does nothing here.
	stranger := startWorker(t, s.trust(), "--log-format", "json", "--nats", url, "--identity-token-file", twin)
	both("the log", stranger.waitFor(t, "not serving the campaign"))
	if size := s.logSize(t); size != 0 {
		t.Errorf("%d log entries of a stranger's", size)
	}

	// The right one, until its token is another's.
	turned := startWorker(t, s.trust(), "--json", "--nats", url, "--campaign", "c", "--identity-token-file", own, "--concurrency", "sign=2")
	waitForSidecars(t, p.channel, 1, turned.cmd)
	s.writeToken(t, own, time.Hour, "repository=evil/twin")
	if code := turned.end(); code != 4 {
		t.Errorf("exit code %d, want 4\n%s", code, turned.stderr())
	}
	both("the report", decodeReport(t, turned.stderr()).Message)

	s.writeToken(t, own, time.Hour, "")
	right := startWorker(t, s.trust(), "--nats", url, "--identity-token-file", own)
	if st := waitForStatus(t, url, "c", func(c campaign) bool { return c.Waiting == 0 }); st.Published != n || st.Failed != 0 {
		t.Errorf("%+v", st)
	}
	for _, w := range []*workerProcess{stranger, right, server} {
		w.stop(t)
	}
	s.verified(t, p, packages)
	if size := s.logSize(t); size != n {
		t.Errorf("%d log entries for %d packages", size, n)
	}
}

// ownSigstore starts a private Sigstore for one test.
func ownSigstore(t *testing.T, flags ...string) *sigstore {
	t.Helper()
	s, err := startSigstore(filepath.Join(t.TempDir(), "instance"), "v2", flags...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	return s
}

// variable is one of the instance's environment.
func (s *sigstore) variable(name string) string {
	for _, kv := range s.env {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	return ""
}

// trust is the instance's environment without its identity.
func (s *sigstore) trust() []string {
	return []string{"HALLMARK_TRUSTED_ROOT=" + s.TrustedRoot, "HALLMARK_SIGNING_CONFIG=" + s.SigningConfig}
}

// writeToken puts a new token into a file, in one step. The query says whose.
func (s *sigstore) writeToken(t testing.TB, path string, life time.Duration, query string) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), http.MethodGet, fmt.Sprintf("%s?lifetime=%d&%s", s.URLs["token"], int(life.Seconds()), query), nil)
	if err != nil {
		t.Error(err)
		return
	}
	req.Header.Set("Authorization", "Bearer "+s.variable("ACTIONS_ID_TOKEN_REQUEST_TOKEN"))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Error(err)
		return
	}
	defer resp.Body.Close()
	var answer struct{ Value string }
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&answer); err != nil || answer.Value == "" {
		t.Errorf("no token: %s, %v", resp.Status, err)
		return
	}
	if err := os.WriteFile(path+".new", []byte(answer.Value), 0o600); err != nil {
		t.Error(err)
	} else if err := os.Rename(path+".new", path); err != nil {
		t.Error(err)
	}
}

// keepToken replaces the token in a file again and again, until the test ends.
func (s *sigstore) keepToken(t *testing.T, path string, life, every time.Duration) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for remote.Pause(ctx, every) == nil {
			s.writeToken(t, path, life, "")
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
}

// verified verifies every package of a channel as anybody would, with no Sigstore at hand, and gives the certificates that
// were used by their bytes.
func (s *sigstore) verified(t *testing.T, p place, packages []string) map[string]int {
	t.Helper()
	type verification struct{ Verified, Refused int }
	args := append([]string{"verify", "--json", "--channel", p.channel, "--target-channel", channelURL,
		"--trusted-root", s.TrustedRoot, "--certificate-identity", s.Identity, "--certificate-oidc-issuer", s.Issuer}, packages...)
	if v := decode[verification](t, runEnv(t, nil, programs.producer, args...).want(t, 0)); v.Verified != len(packages) || v.Refused != 0 {
		t.Errorf("%+v", v)
	}
	sidecars, err := filepath.Glob(filepath.Join(p.channel, "*", "*.sigs"))
	if err != nil || len(sidecars) != len(packages) {
		t.Errorf("%d sidecars for %d packages (%v)", len(sidecars), len(packages), err)
	}
	certificates := map[string]int{}
	for _, path := range sidecars {
		var bundles []struct {
			VerificationMaterial struct {
				Certificate struct{ RawBytes string }
			}
		}
		if err := json.Unmarshal(read(t, path), &bundles); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		for _, b := range bundles {
			certificates[b.VerificationMaterial.Certificate.RawBytes]++
		}
	}
	return certificates
}

// provider stands before an instance's issuer, as GitHub's does before a job.
type provider struct {
	*httptest.Server
	asked, given, refused, wrong atomic.Int64
}

// newProvider serves tokens. Its second answer asks for patience, and its third is an error.
func newProvider(t *testing.T, s *sigstore) *provider {
	target, err := url.Parse(s.URLs["token"])
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{}
	issuer := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host, r.Out.URL.Path = target.Scheme, target.Host, target.Path
	}}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+s.variable("ACTIONS_ID_TOKEN_REQUEST_TOKEN") {
			http.Error(w, "who asks?", http.StatusUnauthorized)
			return
		}
		if q := r.URL.Query(); q.Get("audience") != "sigstore" || q.Get("api-version") != "2.0" || r.Method != http.MethodGet {
			p.wrong.Add(1)
		}
		switch p.asked.Add(1) {
		case 2:
			p.refused.Add(1)
			w.Header().Set("Retry-After", "1")
			http.Error(w, "slowly", http.StatusTooManyRequests)
		case 3:
			p.refused.Add(1)
			http.Error(w, "oh", http.StatusBadGateway)
		default:
			p.given.Add(1)
			issuer.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(p.Close)
	return p
}

// decodeReport reads the error that a command with --json wrote last.
func decodeReport(t testing.TB, stderr string) (r struct {
	Code                int
	Message, Item, Hint string
}) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(stderr), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &r); err != nil {
		t.Errorf("no report: %v\n%s", err, stderr)
	}
	return r
}
