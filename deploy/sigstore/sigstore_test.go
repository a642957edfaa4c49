package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"google.golang.org/protobuf/encoding/protojson"
)

// TestSignAndVerify is the life of one directory: sign, verify, restart, kill, start again.
func TestSignAndVerify(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"v2", "v1"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			flags := []string{"--rekor", version}
			if version == "v1" {
				flags = append(flags, "--rekor1-binary", buildRekor1(t))
			}
			dir := filepath.Join(t.TempDir(), "s")
			p := startUp(t, dir, flags...)
			b := p.signAndVerify(t)
			checkCertificate(t, b)
			checkLogVersion(t, b, version)

			other := strings.Replace(p.Identity, "acme/", "evil/", 1)
			if err := verifyBundle(t, p.TrustedRoot, b, other, p.Issuer); err == nil {
				t.Error("verified as another identity")
			}
			if err := verifyBundle(t, p.TrustedRoot, b, p.Identity, p.Issuer+"/email"); err == nil {
				t.Error("verified as of another issuer")
			}
			listensOnLoopbackOnly(t, p)

			again := self("up", dir)
			if out, err := again.CombinedOutput(); err == nil || !strings.Contains(string(out), "already in use") {
				t.Errorf("a second one on the same directory: %v, %q", err, out)
			}

			trust := read(t, p.TrustedRoot)
			p.stop(t, syscall.SIGTERM)
			if _, err := os.Stat(filepath.Join(dir, "ready")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("ready is still there: %v", err)
			}
			nothingListens(t, p)

			p = startUp(t, dir, flags...)
			if !bytes.Equal(trust, read(t, p.TrustedRoot)) {
				t.Error("the trust root changed by a restart")
			}
			if err := verifyBundle(t, p.TrustedRoot, b, p.Identity, p.Issuer); err != nil {
				t.Errorf("a bundle from before the restart: %v", err)
			}
			b2 := p.signAndVerify(t)
			if version == "v2" { // v1's tree is in memory
				if i, j := b.Bundle.GetVerificationMaterial().GetTlogEntries()[0].GetLogIndex(), b2.Bundle.GetVerificationMaterial().GetTlogEntries()[0].GetLogIndex(); j != i+1 {
					t.Errorf("log index %d after %d: the log did not go on", j, i)
				}
			}

			if err := p.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			p.cmd.Wait()
			nothingListens(t, p)
			p = startUp(t, dir, flags...)
			if err := verifyBundle(t, p.TrustedRoot, b2, p.Identity, p.Issuer); err != nil {
				t.Errorf("a bundle from before the kill: %v", err)
			}
			p.signAndVerify(t)
			p.stop(t, syscall.SIGINT)
		})
	}
}

// checkCertificate looks for what Fulcio's GitHub templates write.
func checkCertificate(t *testing.T, b *bundle.Bundle) {
	t.Helper()
	vc, err := b.VerificationContent()
	if err != nil {
		t.Fatal(err)
	}
	cert := vc.Certificate()
	if life := cert.NotAfter.Sub(cert.NotBefore); life != stockLifetime {
		t.Errorf("the certificate lives %v", life)
	}
	ext, err := certificate.SummarizeCertificate(cert)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, got, want string }{
		{"source repository", ext.SourceRepositoryURI, "https://github.com/acme/feedstock"},
		{"owner", ext.SourceRepositoryOwnerURI, "https://github.com/acme"},
		{"ref", ext.SourceRepositoryRef, "refs/heads/main"},
		{"trigger", ext.BuildTrigger, "push"},
		{"runner", ext.RunnerEnvironment, "github-hosted"},
		{"visibility", ext.SourceRepositoryVisibilityAtSigning, "public"},
		{"build config", ext.BuildConfigURI, "https://github.com/acme/feedstock/.github/workflows/publish.yml@refs/heads/main"},
	} {
		if c.got != c.want {
			t.Errorf("%s is %q instead of %q", c.name, c.got, c.want)
		}
	}
}

func checkLogVersion(t *testing.T, b *bundle.Bundle, version string) {
	t.Helper()
	entries := b.Bundle.GetVerificationMaterial().GetTlogEntries()
	if len(entries) != 1 {
		t.Fatalf("%d log entries", len(entries))
	}
	e := entries[0]
	kind := e.GetKindVersion().GetKind() + " " + e.GetKindVersion().GetVersion()
	want := map[string]string{"v1": "dsse 0.0.1", "v2": "hashedrekord 0.0.2"}[version]
	if kind != want || (e.GetInclusionPromise() != nil) != (version == "v1") || e.GetInclusionProof() == nil {
		t.Errorf("a log entry of kind %q instead of %q: %s", kind, want, protojson.Format(e))
	}
}

// listensOnLoopbackOnly asks the kernel for the listening sockets of the program and its children.
func listensOnLoopbackOnly(t *testing.T, p *program) {
	t.Helper()
	addrs := listeners(t, p.PID)
	want := 8 // issuer, Fulcio, TSA, CT log, tiles; Rekor's HTTP, gRPC and metrics
	if p.Rekor == "v1" {
		want = 6 // issuer, Fulcio, TSA, CT log; Rekor and Trillian
	}
	if len(addrs) != want {
		t.Errorf("%d listeners instead of %d: %v", len(addrs), want, addrs)
	}
	for _, a := range addrs {
		if !a.IP.IsLoopback() {
			t.Errorf("a listener on %v", a)
		}
	}
}

// nothingListens waits until no port of the directory is open: Rekor may still be ending when its parent was killed.
func nothingListens(t *testing.T, p *program) {
	t.Helper()
	var st state
	if err := json.Unmarshal(read(t, filepath.Join(p.Dir, "state.json")), &st); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for _, port := range st.Ports.all() {
		for {
			l, err := net.Listen("tcp4", loopback(*port))
			if err == nil {
				l.Close()
				break
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Fatalf("port %d is still open", *port)
			}
		}
	}
}

func TestExec(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "with 'quotes'")
	// The file env and the environment must say the same.
	script := `set -e
test -s "$HALLMARK_TRUSTED_ROOT"; test -s "$HALLMARK_SIGNING_CONFIG"; test -f "$1/ready"
before="$HALLMARK_TRUSTED_ROOT $HALLMARK_SIGNING_CONFIG $ACTIONS_ID_TOKEN_REQUEST_URL $ACTIONS_ID_TOKEN_REQUEST_TOKEN"
unset HALLMARK_TRUSTED_ROOT HALLMARK_SIGNING_CONFIG ACTIONS_ID_TOKEN_REQUEST_URL ACTIONS_ID_TOKEN_REQUEST_TOKEN
. "$1/env"
test "$before" = "$HALLMARK_TRUSTED_ROOT $HALLMARK_SIGNING_CONFIG $ACTIONS_ID_TOKEN_REQUEST_URL $ACTIONS_ID_TOKEN_REQUEST_TOKEN"
echo result; exit 42`
	cmd := self("up", dir, "--", "sh", "-c", script, "sh", dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if code := cmd.ProcessState.ExitCode(); code != 42 || string(out) != "result\n" {
		t.Errorf("exit code %d (%v), stdout %q; %s", code, err, out, &stderr)
	}
	nothingListens(t, &program{summary: summary{Dir: dir}})

	// A command that cannot be started, and one that is killed.
	for _, c := range []struct {
		command []string
		code    int
	}{{[]string{"/does/not/exist"}, 1}, {[]string{"sh", "-c", "kill -KILL $$"}, 137}, {[]string{"true"}, 0}, {[]string{"sh", "-c", "kill -TERM $PPID; while :; do sleep 0.1; done"}, 143}} {
		cmd := self(append([]string{"up", dir, "--"}, c.command...)...)
		out, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != c.code {
			t.Errorf("%v: exit code %d instead of %d: %s", c.command, code, c.code, out)
		}
	}
}

func TestRekorEnds(t *testing.T) {
	t.Parallel()
	p := startUp(t, filepath.Join(t.TempDir(), "s"))
	kids := children(t, p.PID)
	if len(kids) != 1 {
		t.Fatalf("children %v", kids)
	}
	if err := syscall.Kill(kids[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.cmd.Wait()
	if code := p.cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(p.err.String(), "Rekor v2 ended by itself") {
		t.Errorf("exit code %d, %q", code, p.err)
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{}, {"down"}, {"up"}, {"up", "a", "b"}, {"up", "a", "--rekor", "v3"}, {"up", "a", "--"},
		{"up", "a", "--checkpoint-interval", "50ms"}, {"up", "a", "--certificate-lifetime", "0s"}, {"token"},
		{"up", filepath.Join(t.TempDir(), "x"), "--port-base", "70000"},
		{"up", filepath.Join(t.TempDir(), "x"), "--rekor", "v1", "--rekor1-binary", "/does/not/exist"},
	} {
		cmd := self(args...)
		out, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != 2 || len(out) == 0 {
			t.Errorf("%v: exit code %d, %q", args, code, out)
		}
	}
}

func TestPortBase(t *testing.T) {
	t.Parallel()
	var free ports // a run of free ports, as far as one can know
	if err := free.choose(0); err != nil {
		t.Fatal(err)
	}
	base := free.OIDC
	dir := filepath.Join(t.TempDir(), "s")
	p := startUp(t, dir, "--port-base", fmt.Sprint(base))
	if want := baseURL(base); p.Issuer != want {
		t.Errorf("issuer %s instead of %s", p.Issuer, want)
	}
	p.stop(t, syscall.SIGTERM)
	if out, err := self("up", dir, "--port-base", fmt.Sprint(base+1)).CombinedOutput(); err == nil {
		t.Errorf("other ports for the same directory: %s", out)
	}
	p = startUp(t, dir) // keeps them
	if want := baseURL(base); p.Issuer != want {
		t.Errorf("issuer %s instead of %s", p.Issuer, want)
	}
	p.stop(t, syscall.SIGTERM)
}

func TestTiles(t *testing.T) {
	t.Parallel()
	p := startUp(t, filepath.Join(t.TempDir(), "s"))
	p.signAndVerify(t)
	for _, c := range []struct {
		url  string
		code int
	}{
		{p.URLs["rekor_tiles"] + "/api/v2/checkpoint", 200},
		{p.URLs["rekor_tiles"] + "/api/v2/tile/0/000.p/1", 200},
		{p.URLs["rekor_tiles"] + "/api/v2/.state/treeState", 404},
		{p.URLs["ctlog"] + "/checkpoint", 200},
		{p.URLs["ctlog"] + "/tile/data/000.p/1", 200},
		{p.URLs["ctlog"] + "/.state/treeState", 404},
	} {
		res, err := http.Get(c.url)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != c.code || c.code == 200 && len(body) == 0 {
			t.Errorf("%s: %s, %d bytes", c.url, res.Status, len(body))
		}
	}
}

// BenchmarkSign is one certificate, timestamp and log entry per operation, from many goroutines: Rekor v2 answers only after a
// checkpoint, so throughput is their number divided by that wait, until the processors are busy. Use -benchtime 2000x.
func BenchmarkSign(b *testing.B) {
	for _, version := range []string{"v2", "v1"} {
		b.Run(version, func(b *testing.B) {
			flags := []string{"--rekor", version}
			if version == "v1" {
				flags = append(flags, "--rekor1-binary", buildRekor1(b))
			}
			p := startUp(b, filepath.Join(b.TempDir(), "s"), flags...)
			b.SetParallelism(128)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := p.signBundle(b, p.token(b)); err != nil {
						b.Error(err)
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "signatures/s")
		})
	}
}
