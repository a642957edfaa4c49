package identity

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestLook takes one source away after the other from an environment that has all of them.
func TestLook(t *testing.T) {
	t.Parallel()
	raw := validJWT(t)
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	mounted, google, other := write("oidc-token", raw), write("google", "Google Compute Engine\n"), write("other", "Go")
	all := map[string]string{"HALLMARK_ID_TOKEN": raw, "SIGSTORE_ID_TOKEN": raw,
		githubURL: "https://pipelines.example/token", githubToken: "request-secret",
		"BUILDKITE": "true", "CIRCLECI": "true", spiffeSocket: "unix:///run/agent.sock", googleVariable: "127.0.0.1:1"}
	without := func(names ...string) map[string]string {
		m := maps.Clone(all)
		for _, n := range names {
			delete(m, n)
		}
		return m
	}
	noTokens := []string{"HALLMARK_ID_TOKEN", "SIGSTORE_ID_TOKEN", githubURL}
	noBuildkite := append(slices.Clone(noTokens), "BUILDKITE")
	noCI := append(slices.Clone(noBuildkite), "CIRCLECI")
	noSPIFFE := append(slices.Clone(noCI), spiffeSocket)
	tests := []struct {
		name   string
		o      Options
		env    map[string]string
		nobody bool // at the terminal
		bare   bool // no programs
		want   string
		kind   string
		lacks  []string // what the error lists
	}{
		{name: "a token given", o: Options{Token: raw, TokenFile: "f"}, env: all, kind: "token", want: "the token given on the command line"},
		{name: "a file given", o: Options{TokenFile: "/run/token"}, env: all, kind: "file", want: "file /run/token"},
		{name: "our variable", env: all, kind: "variable", want: "environment variable HALLMARK_ID_TOKEN"},
		{name: "Sigstore's variable", env: without("HALLMARK_ID_TOKEN"), kind: "variable", want: "environment variable SIGSTORE_ID_TOKEN"},
		{name: "GitHub", env: without("HALLMARK_ID_TOKEN", "SIGSTORE_ID_TOKEN"), kind: "github", want: "GitHub Actions"},
		{name: "Buildkite", env: without(noTokens...), kind: "buildkite", want: "Buildkite"},
		{name: "CircleCI", env: without(noBuildkite...), kind: "circleci", want: "CircleCI"},
		{name: "a mounted token", o: Options{mounted: mounted}, env: without(noCI...), kind: "mounted", want: "file " + mounted},
		{name: "a folder in its place", o: Options{mounted: dir}, env: without(noCI...), kind: "spiffe", want: "SPIFFE workload API"},
		{name: "SPIFFE", env: without(noCI...), kind: "spiffe", want: "SPIFFE workload API"},
		{name: "Google by variable", env: without(noSPIFFE...), kind: "google", want: "Google Cloud metadata server"},
		{name: "Google by machine", o: Options{product: google}, kind: "google", want: "Google Cloud metadata server"},
		{name: "Google's Cloud Run", env: map[string]string{"K_SERVICE": "x"}, kind: "google", want: "Google Cloud metadata server"},
		{name: "a person", o: Options{product: other}, kind: "sign-in", want: "sign-in at https://oauth2.sigstore.dev/auth"},
		{name: "a person elsewhere", o: Options{Issuer: "https://dex.example"}, kind: "sign-in", want: "sign-in at https://dex.example"},
		{name: "nobody", nobody: true, lacks: []string{"no token file", "HALLMARK_ID_TOKEN", "SIGSTORE_ID_TOKEN",
			"not in a GitHub Actions job", "not in a Buildkite job", "not in a CircleCI job", "there is no ", spiffeSocket, "not on Google Cloud", "no terminal", "in CI"}},

		// A job does not sign as its machine.
		{name: "GitHub without the permission", o: Options{product: google}, env: map[string]string{"GITHUB_ACTIONS": "true"}, nobody: true,
			lacks: []string{`"id-token: write"`, githubURL, "does not sign as the machine"}},
		{name: "GitLab without the token", o: Options{product: google}, env: map[string]string{"GITLAB_CI": "true", "CI_JOB_TOKEN": "x"}, nobody: true,
			lacks: []string{"GitLab CI job", "id_tokens: {SIGSTORE_ID_TOKEN: {aud: sigstore}}", "CI_JOB_TOKEN", "does not sign as the machine"}},
		{name: "Buildkite in a container", bare: true, o: Options{product: google}, env: map[string]string{"BUILDKITE": "true"}, nobody: true,
			lacks: []string{"buildkite-agent", "mount-buildkite-agent"}},
		{name: "CircleCI without its program", bare: true, o: Options{product: google}, env: map[string]string{"CIRCLECI": "true"}, nobody: true,
			lacks: []string{"no program circleci", "forks"}},
		// But a token mounted for Sigstore is meant.
		{name: "GitLab with a mounted token", o: Options{mounted: mounted}, env: map[string]string{"GITLAB_CI": "true"}, kind: "mounted", want: "file " + mounted},

		// What was asked for, and nothing else.
		{name: "only GitHub", o: Options{Only: "github"}, env: all, kind: "github", want: "GitHub Actions"},
		{name: "only Google", o: Options{Only: "google"}, env: map[string]string{"GITHUB_ACTIONS": "true"}, kind: "google", want: "Google Cloud metadata server"},
		{name: "only a device", o: Options{Only: "device"}, env: all, kind: "device", want: "sign-in at https://oauth2.sigstore.dev/auth"},
		{name: "only a person who is not there", o: Options{Only: "sign-in"}, env: all, nobody: true, lacks: []string{"no terminal", "run in a terminal"}},
		{name: "only SPIFFE", o: Options{Only: "spiffe"}, nobody: true, lacks: []string{spiffeSocket, "unix:///path"}},
		{name: "only a variable", o: Options{Only: "variable"}, nobody: true, lacks: []string{"SIGSTORE_ID_TOKEN"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := tt.o
			o.Getenv = func(name string) string { return tt.env[name] }
			o.Interactive = !tt.nobody
			if o.mounted == "" {
				o.mounted = filepath.Join(dir, "none")
			}
			if o.product == "" {
				o.product = filepath.Join(dir, "none")
			}
			o.lookPath = func(name string) (string, error) {
				if tt.bare {
					return "", os.ErrNotExist
				}
				return "/usr/bin/" + name, nil
			}
			got, err := Look(o)
			if tt.want != "" {
				if err != nil || got.Source.String() != tt.want || got.Kind != tt.kind {
					t.Fatalf("Look = %v, %v, want %s", got, err, tt.want)
				}
				last := len(got.Looked) - 1
				for i, f := range got.Looked {
					if f.Found != (i == last) || f.Why == "" || f.Found && f.Kind != tt.kind {
						t.Errorf("finding %d of %d: %+v", i, last, f)
					}
				}
				if i := slices.Index(Kinds(), tt.kind); tt.o.Only == "" && last != max(0, i-1) || tt.o.Only != "" && last != 0 {
					t.Errorf("looked at %d places", last+1)
				}
				return
			}
			if !errors.Is(err, ErrNoIdentity) {
				t.Fatalf("Look = %v, %v, want ErrNoIdentity", got, err)
			}
			if e, ok := errors.AsType[*MissingError](err); ok {
				err = fmt.Errorf("%w: %s", err, e.Hint)
			}
			for _, s := range tt.lacks {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("error %q does not mention %q", err, s)
				}
			}
		})
	}
}

func TestKinds(t *testing.T) {
	t.Parallel()
	want := []string{"token", "file", "variable", "github", "buildkite", "circleci", "mounted", "spiffe", "google", "sign-in", "device"}
	if diff := cmp.Diff(want, Kinds()); diff != "" {
		t.Error(diff)
	}
}

// TestLookRefusesNonsense: an address that makes no sense is no reason to look elsewhere.
func TestLookRefusesNonsense(t *testing.T) {
	t.Parallel()
	for _, env := range []map[string]string{
		{githubURL: "nowhere", githubToken: "x"}, {spiffeSocket: "/run/agent.sock"}, {googleVariable: "host/path?"},
	} {
		o := Options{Getenv: func(name string) string { return env[name] }, Interactive: true, mounted: t.TempDir(), product: t.TempDir()}
		if s, err := Look(o); err == nil || errors.Is(err, ErrNoIdentity) {
			t.Errorf("%v: %v, %v", env, s.Source, err)
		}
	}
}
