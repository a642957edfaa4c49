package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hallmark-attest/hallmark/internal/github/githubtest"
)

const githubToken = "ghs_the-token-that-nobody-may-see"

func sum(b []byte) string {
	d := sha256.Sum256(b)
	return hex.EncodeToString(d[:])
}

// newGitHub is GitHub with the repository that the Sigstore's tokens name.
func newGitHub(t testing.TB) *githubtest.Server {
	repo := strings.Split(strings.TrimPrefix(stack.Identity, "https://github.com/"), "/")
	return githubtest.New(t, repo[0], repo[1], githubToken)
}

// TestStoreGitHub: each attestation is in the repository's store before it is published, once, through outages and runs that are
// repeated; for a channel in a directory, and on a server.
func TestStoreGitHub(t *testing.T) {
	t.Parallel()
	const n = 4
	for _, kind := range []string{"directory", "server"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			g := newGitHub(t)
			g.Duplicates(422)
			packages := samples(t, n, 71)
			p := newPlace(t)
			args := p.publish(packages...)
			sidecars := func() (all [][]byte) {
				for _, path := range packages {
					found, _ := filepath.Glob(filepath.Join(p.channel, "*", filepath.Base(path)+".sigs"))
					all = append(all, read(t, found[0]))
				}
				return all
			}
			if kind == "server" {
				h := newHosted(t)
				args = h.publish(packages...)
				sidecars = func() (all [][]byte) {
					for _, path := range packages {
						_, sidecar := h.served(path)
						all = append(all, sidecar)
					}
					return all
				}
			}
			g.Fail(githubtest.Fault{Method: "POST", After: true}, githubtest.Fault{Method: "POST", Status: 503}, githubtest.Fault{Method: "GET", Status: 502},
				githubtest.Fault{Method: "POST", Status: 429, Header: map[string][]string{"Retry-After": {"1"}}})
			env := uploader("GITHUB_TOKEN=" + githubToken)
			args = append(args, "--store-github-attestation", "--github-api", g.URL)
			r := runEnv(t, env, programs.producer, args...).want(t, 0)
			silent(t, r)
			s := decode[campaign](t, r)
			if s.Published != n || s.Failed != 0 {
				t.Errorf("%+v", s)
			}
			var stored, served []string
			for _, b := range g.Stored() {
				stored = append(stored, sum(b))
			}
			for _, sidecar := range sidecars() {
				served = append(served, sum(bundles(t, sidecar)[0]))
			}
			slices.Sort(stored)
			slices.Sort(served)
			if !slices.Equal(stored, served) {
				t.Errorf("GitHub has %v, the channel %v", stored, served)
			}
			if s := decode[campaign](t, runEnv(t, env, programs.producer, args...).want(t, 0)); s.Skipped != n {
				t.Errorf("again: %+v", s)
			}
			if got := len(g.Stored()); got != n {
				t.Errorf("stored %d", got)
			}
		})
	}
}

// TestStoreGitHubRefused: a token that GitHub does not accept, and a signer without a repository, are told before anything is
// begun; a lack of rights ends the run, and what is lacking is done by the next one.
func TestStoreGitHubRefused(t *testing.T) {
	t.Parallel()
	g := newGitHub(t)
	packages := samples(t, 2, 72)
	p := newPlace(t)
	args := append(p.publish(packages...), "--store-github-attestation", "--github-api", g.URL)
	r := runEnv(t, slices.Concat(stack.env, []string{"GITHUB_TOKEN=ghs_another"}), programs.producer, args...).want(t, 4)
	if !strings.Contains(r.stderr, "GITHUB_TOKEN") || strings.Contains(r.stderr, "ghs_another") {
		t.Errorf("stderr: %s", r.stderr)
	}
	env := slices.Concat(stack.env, []string{"GITHUB_TOKEN=" + githubToken})
	email := append(slices.Clone(env), "ACTIONS_ID_TOKEN_REQUEST_URL="+stack.URLs["token"]+"?kind=email")
	if r := runEnv(t, email, programs.producer, args...).want(t, 2); !strings.Contains(r.stderr, "no workflow of a GitHub repository") {
		t.Errorf("stderr: %s", r.stderr)
	}
	if r := run(t, programs.producer, append([]string{"submit", "--nats", "nats://127.0.0.1:1", "--to", p.channel, "--channel-url", channelURL, "--campaign", "x",
		"--certificate-identity", "me@example.org", "--certificate-oidc-issuer", stack.Issuer, "--store-github-attestation"}, packages...)...).want(t, 2); !strings.Contains(r.stderr, "no workflow") {
		t.Errorf("stderr: %s", r.stderr)
	}
	if len(tree(t, p.state)) != 0 || len(g.Stored()) != 0 {
		t.Error("something was begun")
	}
	g.Fail(githubtest.Fault{Method: "POST", Status: 403, Body: `{"message":"Resource not accessible by integration"}`},
		githubtest.Fault{Method: "POST", Status: 403, Body: `{"message":"Resource not accessible by integration"}`})
	r = runEnv(t, env, programs.producer, args...).want(t, 4)
	if !strings.Contains(r.stderr, "attestations: write") {
		t.Errorf("stderr: %s", r.stderr)
	}
	// Published is what GitHub has; nothing is set aside.
	if s := decode[campaign](t, r); s.Failed != 0 || s.Published != 0 {
		t.Errorf("%+v", s)
	}
	if s := decode[campaign](t, runEnv(t, env, programs.producer, args...).want(t, 0)); s.Published != 2 {
		t.Errorf("%+v", s)
	}
	if got := len(g.Stored()); got != 2 {
		t.Errorf("stored %d", got)
	}
}
