package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-attest/hallmark/internal/conda/condatest"
	"github.com/hallmark-attest/hallmark/internal/prefix/prefixtest"
)

const apiKey = "pfx_the-api-token-that-nobody-may-see"

// hosted is a channel on a strict server, and the state of the embedded queue for it.
type hosted struct {
	*prefixtest.Server
	state string
}

func newHosted(t testing.TB) hosted {
	h := hosted{prefixtest.New(t, "e2e"), filepath.Join(t.TempDir(), "state")}
	h.Accept(apiKey)
	return h
}

// uploader is the Sigstore's environment and the API token.
func uploader(more ...string) []string {
	return slices.Concat(stack.env, []string{"PREFIX_API_KEY=" + apiKey}, more)
}

// trusted is the environment of a CI job that is a trusted publisher.
func trusted() []string { return slices.Concat(stack.env, []string{"GITHUB_ACTIONS=true"}) }

func (h hosted) publish(packages ...string) []string {
	return append([]string{"publish", "--json", "--to", h.ChannelURL(), "--state", h.state}, packages...)
}

// holds fails unless the server serves the packages, each with one attestation, which cosign accepts.
func (h hosted) holds(t testing.TB, packages ...string) {
	t.Helper()
	dir := t.TempDir()
	for _, path := range packages {
		body, sidecar := h.served(path)
		if string(body) != string(read(t, path)) {
			t.Errorf("%s: the server has other bytes, or none", filepath.Base(path))
			continue
		}
		all := bundles(t, sidecar)
		if len(all) != 1 {
			t.Errorf("%s: %d attestations", filepath.Base(path), len(all))
		}
		bundle := filepath.Join(dir, filepath.Base(path)+".json")
		if err := os.WriteFile(bundle, all[0], 0o644); err != nil {
			t.Fatal(err)
		}
		if r := cosign(t, bundle, path, stack.Identity, stack.Issuer); r.code != 0 {
			t.Errorf("%s: cosign: %s", filepath.Base(path), r.stderr)
		}
	}
}

// served finds a package in whatever subdir it is.
func (h hosted) served(path string) (body, sidecar []byte) {
	for _, subdir := range []string{"noarch", "linux-64", "linux-aarch64", "osx-64", "osx-arm64", "win-64"} {
		if body, sidecar = h.Served(subdir, filepath.Base(path)); body != nil {
			return body, sidecar
		}
	}
	return nil, nil
}

// silent fails if a result repeats a token.
func silent(t testing.TB, r result) {
	t.Helper()
	for _, secret := range []string{apiKey, githubToken, "minted-"} {
		if strings.Contains(r.stdout+r.stderr, secret) {
			t.Errorf("it repeats %q:\n%s\n%s", secret, r.stdout, r.stderr)
		}
	}
}

// TestServerChannel: packages go to a channel on a server with their attestations; what is there already is skipped.
func TestServerChannel(t *testing.T) {
	t.Parallel()
	const n = 10
	h := newHosted(t)
	packages := samples(t, n, 61)
	r := runEnv(t, uploader(), programs.producer, append(h.publish(packages...), "--log-level", "DEBUG")...).want(t, 0)
	silent(t, r)
	if s := decode[campaign](t, r); s.Published != n || s.Enqueued != n || s.Skipped+s.Failed+s.Waiting != 0 {
		t.Fatalf("%+v", s)
	}
	h.holds(t, packages...)
	if got := len(h.Requests(prefixtest.Upload)); got != n {
		t.Errorf("%d uploads for %d packages", got, n)
	}
	read, mints := len(h.Requests(prefixtest.File)), len(h.Requests(prefixtest.Mint))
	if read < n || mints != 0 {
		t.Errorf("%d packages read back, %d tokens minted", read, mints)
	}
	for _, again := range [][]string{h.publish(packages...), append(h.publish(packages...), "--skip-existing"), append(h.publish(packages...), "--state", t.TempDir())} {
		s := decode[campaign](t, runEnv(t, uploader(), programs.producer, again...).want(t, 0))
		if s.Skipped != n || s.Published != 0 {
			t.Errorf("again: %+v", s)
		}
	}
	if got := len(h.Requests(prefixtest.Upload)); got != n {
		t.Errorf("%d uploads after running again", got)
	}
	// What works on directories and buckets says so.
	for _, args := range [][]string{{"channel", "check"}, {"channel", "adopt"}, {"channel", "gc"}} {
		if r := runEnv(t, uploader(), programs.producer, append(args, "--to", h.ChannelURL())...).want(t, 2); !strings.Contains(r.stderr, "server that keeps its own index") {
			t.Errorf("%v: %s", args, r.stderr)
		}
	}
}

// TestServerConflict: what the server has with other bytes, or unsigned, is set aside; the rest is published.
func TestServerConflict(t *testing.T) {
	t.Parallel()
	for _, look := range []bool{false, true} {
		h := newHosted(t)
		packages := samples(t, 4, 62)
		spec := condatest.Samples(4, 62)[0] // that of packages[0]
		spec.Timestamp++
		other, err := condatest.Write(filepath.Join(t.TempDir(), "other"), spec)
		if err != nil {
			t.Fatal(err)
		}
		h.Put(cmp.Or(spec.Subdir, "noarch"), filepath.Base(packages[0]), read(t, other), nil)
		args := h.publish(packages...)
		if look {
			args = append(args, "--skip-existing")
		}
		r := runEnv(t, uploader(), programs.producer, args...).want(t, 3)
		s := decode[campaign](t, r)
		if s.Published != 3 || s.Failed != 1 || len(s.Failures) != 1 || s.Failures[0].Cause != "channel.conflict" || s.Failures[0].Source != packages[0] {
			t.Errorf("skip existing %v: %+v", look, s)
		}
		if want := map[bool]string{false: "upload", true: "hash"}[look]; len(s.Failures) == 1 && s.Failures[0].Stage != want {
			t.Errorf("found by %s, want %s", s.Failures[0].Stage, want)
		}
		h.holds(t, packages[1:]...)
		if body, _ := h.served(packages[0]); string(body) != string(read(t, other)) {
			t.Error("it was overwritten")
		}
	}
}

// TestServerFaults: answers that are lost, outages, a token that is refused, sidecars that come late: all is published, once.
func TestServerFaults(t *testing.T) {
	t.Parallel()
	const n = 6
	h := newHosted(t)
	h.TrustIssuer(stack.Issuer)
	h.Fail(
		prefixtest.Fault{On: prefixtest.Probe, Status: 503},
		prefixtest.Fault{On: prefixtest.Upload, After: true},              // our own upload, its answer lost: 409 follows
		prefixtest.Fault{On: prefixtest.Upload, After: true, Status: 502}, // the same
		prefixtest.Fault{On: prefixtest.Upload, Status: 503},
		prefixtest.Fault{On: prefixtest.Upload, Status: 429, Header: map[string][]string{"Retry-After": {"1"}}},
		prefixtest.Fault{On: prefixtest.Upload, Status: 401, Body: "minted-1 is no good"},
		prefixtest.Fault{On: prefixtest.File, Status: 404}, // not served yet
		prefixtest.Fault{On: prefixtest.File},
		prefixtest.Fault{On: prefixtest.Sidecar, Status: 500},
		prefixtest.Fault{On: prefixtest.Mint, Status: 503},
	)
	packages := samples(t, n, 63)
	r := runEnv(t, trusted(), programs.producer, append(h.publish(packages...), "--concurrency", "upload=1")...).want(t, 0)
	silent(t, r)
	if s := decode[campaign](t, r); s.Published != n || s.Failed != 0 {
		t.Errorf("%+v", s)
	}
	h.holds(t, packages...)
	if got := len(h.Requests(prefixtest.Mint)); got < 3 { // an outage, the first token, the one after 401
		t.Errorf("%d requests for a token", got)
	}
}

// TestServerRewrites: a server that writes bundles anew, and one that takes the package and drops the bundle.
func TestServerRewrites(t *testing.T) {
	t.Parallel()
	packages := samples(t, 2, 64)
	h := newHosted(t)
	h.Rewrite(func(sidecar []byte) []byte {
		var v any
		_ = json.Unmarshal(sidecar, &v)
		anew, _ := json.MarshalIndent(v, "", "  ")
		return anew
	})
	if s := decode[campaign](t, runEnv(t, uploader(), programs.producer, append(h.publish(packages...), "--read-back", "sidecar")...).want(t, 0)); s.Published != 2 {
		t.Errorf("%+v", s)
	}
	if got := len(h.Requests(prefixtest.File)); got != 0 {
		t.Errorf("%d packages read back", got)
	}
	if s := decode[campaign](t, runEnv(t, uploader(), programs.producer, h.publish(packages...)...).want(t, 0)); s.Skipped != 2 {
		t.Errorf("again: %+v", s)
	}
}

// TestServerIdentity: who may not upload is told before anything is enqueued.
func TestServerIdentity(t *testing.T) {
	t.Parallel()
	pkg := samples(t, 1, 65)[0]
	wrong := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(wrong, []byte("pfx_the-wrong-token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := newHosted(t)
	for name, tt := range map[string]struct {
		env  []string
		args []string
		code int
		want string
	}{
		"no token":            {env: stack.env, code: 4, want: "PREFIX_API_KEY"},
		"wrong token":         {env: uploader(), args: []string{"--upload-token-file", wrong}, code: 4, want: "401"},
		"no publisher":        {env: trusted(), code: 4, want: "trusted publishing"},
		"missing file":        {env: uploader(), args: []string{"--upload-token-file", wrong + "x"}, code: 4, want: "API token"},
		"no channel":          {env: uploader(), args: []string{"--to", h.URL + "/nothing"}, code: 2, want: "no such channel"},
		"no http":             {env: uploader(), args: []string{"--to", "http://prefix.example/x"}, code: 2, want: "https"},
		"credentials":         {env: uploader(), args: []string{"--to", "https://me:" + apiKey + "@prefix.example/x"}, code: 2, want: "credentials"},
		"path":                {env: uploader(), args: []string{"--to", h.URL + "/a/b"}, code: 2, want: "HOST/NAME"},
		"another channel URL": {env: uploader(), args: []string{"--channel-url", channelURL}, code: 2, want: "--channel-url"},
		"GitHub, no token":    {env: uploader(), args: []string{"--store-github-attestation"}, code: 4, want: "GITHUB_TOKEN"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			state := filepath.Join(t.TempDir(), "state")
			args := []string{"publish", "--state", state, pkg}
			if !slices.Contains(tt.args, "--to") {
				args = append(args, "--to", h.ChannelURL())
			}
			r := runEnv(t, tt.env, programs.producer, append(args, tt.args...)...).want(t, tt.code)
			silent(t, r)
			if !strings.Contains(r.stderr, tt.want) || !strings.Contains(r.stderr, "hint:") {
				t.Errorf("it does not say %q, with a hint:\n%s", tt.want, r.stderr)
			}
			if strings.Contains(r.stderr, "wrong-token") {
				t.Error("it repeats a token")
			}
			if _, err := os.Stat(state); err == nil {
				t.Error("something was begun")
			}
		})
	}
}

// TestServerKilled: kill -9 after the uploads and before they are read back, and again: nothing is set aside or attested twice.
func TestServerKilled(t *testing.T) {
	t.Parallel()
	const n = 5
	for name, late := range map[string]bool{"served": false, "served late": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHosted(t)
			packages := samples(t, n, 66)
			gate := make(chan struct{})
			defer close(gate)
			for range n { // the looks before signing go through
				h.Fail(prefixtest.Fault{On: prefixtest.Sidecar, Status: prefixtest.Through})
			}
			for range n { // the read-back waits for the kill
				h.Fail(prefixtest.Fault{On: prefixtest.File, Status: prefixtest.Through, Wait: gate})
			}
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			c := command(ctx, uploader(), programs.producer, h.publish(packages...)...)
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for len(h.Requests(prefixtest.File)) < n && ctx.Err() == nil {
				<-tick.C
			}
			_ = c.Process.Kill()
			_ = c.Wait()
			h.holds(t, packages...)
			before := make([]string, n)
			for i, p := range packages {
				_, sidecar := h.served(p)
				before[i] = string(sidecar)
			}
			if late { // the run after it does not see what the one before it did, and signs again
				for range n {
					h.Fail(prefixtest.Fault{On: prefixtest.Sidecar, Status: 404})
				}
			}
			s := decode[campaign](t, runEnv(t, uploader(), programs.producer, h.publish(packages...)...).want(t, 0))
			if s.Published != n || s.Failed+s.Waiting+s.Skipped != 0 {
				t.Errorf("%+v", s)
			}
			for i, p := range packages {
				if _, sidecar := h.served(p); string(sidecar) != before[i] {
					t.Errorf("%s: the sidecar has changed", filepath.Base(p))
				}
			}
			want := n
			if late {
				want = 2 * n
			}
			if got := len(h.Requests(prefixtest.Upload)); got != want {
				t.Errorf("%d uploads, want %d", got, want)
			}
		})
	}
}

// TestServerInterrupted: ctrl-C, and again.
func TestServerInterrupted(t *testing.T) {
	t.Parallel()
	const n = 40
	h := newHosted(t)
	packages := samples(t, n, 67)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	c := command(ctx, uploader(), programs.producer, append(h.publish(packages...), "--concurrency", "sign=2;hash=1")...)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for len(h.Requests(prefixtest.Upload)) < 2 && ctx.Err() == nil {
		<-tick.C
	}
	_ = c.Process.Signal(os.Interrupt)
	_ = c.Wait()
	if code := c.ProcessState.ExitCode(); code != 130 {
		t.Fatalf("exit %d", code)
	}
	if s := decode[campaign](t, runEnv(t, uploader(), programs.producer, h.publish(packages...)...).want(t, 0)); s.Published != n || s.Waiting+s.Failed != 0 {
		t.Errorf("%+v", s)
	}
	h.holds(t, packages...)
	if got := len(h.Requests(prefixtest.Upload)); got != n {
		t.Errorf("%d uploads for %d packages", got, n)
	}
}
