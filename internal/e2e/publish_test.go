package e2e

import (
	"context"
	"crypto/md5"
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

	"github.com/google/go-cmp/cmp"
)

const predicateType = "https://schemas.conda.org/attestations-publish-1.schema.json"

// TestPublish: the main job. For every package, digest, sidecar and record agree, and tools that share no code with
// Hallmark accept each attestation, and refuse it for another file, identity or issuer.
func TestPublish(t *testing.T) {
	t.Parallel()
	const n = 40
	packages := samples(t, n, 1)
	p := newPlace(t)
	sum := decode[campaign](t, run(t, programs.producer, p.publish(packages...)...).want(t, 0))
	if sum.Enqueued != n || sum.Published != n || sum.Waiting+sum.Failed+sum.Skipped != 0 {
		t.Fatalf("%+v", sum)
	}

	published := map[string]string{} // by file name
	for _, sub := range subdirs(t, p.channel) {
		for name, rec := range records(t, filepath.Join(p.channel, sub)) {
			file := filepath.Join(p.channel, sub, name)
			published[name] = file
			b := read(t, file)
			s, m := sha256.Sum256(b), md5.Sum(b)
			side := read(t, file+".sigs")
			d := sha256.Sum256(side)
			got := record{hex.EncodeToString(s[:]), hex.EncodeToString(m[:]), int64(len(b)), sub, hex.EncodeToString(d[:])}
			if diff := cmp.Diff(rec, got); diff != "" {
				t.Errorf("%s: record and bytes disagree: %s", name, diff)
			}
			if string(read(t, file+".sigs."+rec.Attestations)) != string(side) {
				t.Errorf("%s: immutable and mutable sidecar differ", name)
			}
		}
	}
	for _, path := range packages {
		if string(read(t, path)) != string(read(t, published[filepath.Base(path)])) {
			t.Errorf("%s: the channel has other bytes", path)
		}
	}

	t.Run("channelcheck", func(t *testing.T) {
		t.Parallel()
		check(t, p.channel, n, subdirs(t, p.channel)...)
		srv := httptest.NewServer(http.FileServer(http.Dir(p.channel)))
		defer srv.Close()
		check(t, srv.URL, n, subdirs(t, p.channel)...)
	})
	t.Run("cosign", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		each(packages, func(path string) {
			bundle := firstBundle(t, dir, published[filepath.Base(path)]+".sigs")
			cosign(t, bundle, path, stack.Identity, stack.Issuer).want(t, 0)
		})
		bundle := firstBundle(t, dir, published[filepath.Base(packages[0])]+".sigs")
		for _, wrong := range [][3]string{
			{packages[1], stack.Identity, stack.Issuer},
			{packages[0], stack.Identity + "x", stack.Issuer},
			{packages[0], stack.Identity, stack.Issuer + "x"},
		} {
			if r := cosign(t, bundle, wrong[0], wrong[1], wrong[2]); r.code == 0 {
				t.Errorf("cosign accepts %q", wrong)
			}
		}
	})
	t.Run("verify", func(t *testing.T) {
		t.Parallel()
		who := []string{"--certificate-identity", stack.Identity, "--certificate-oidc-issuer", stack.Issuer}
		type verification struct{ Verified, Refused int }
		all := append(append([]string{"verify", "--json", "--channel", p.channel, "--target-channel", channelURL}, who...), packages...)
		if v := decode[verification](t, run(t, programs.producer, all...).want(t, 0)); v.Verified != n || v.Refused != 0 {
			t.Error(v)
		}
		run(t, programs.producer, append([]string{"verify", published[filepath.Base(packages[0])]}, who...)...).want(t, 0)
		run(t, programs.producer, append([]string{"verify", "--bundle", published[filepath.Base(packages[0])] + ".sigs", packages[0]}, who...)...).want(t, 0)
		run(t, programs.producer, append([]string{"verify", "--bundle", published[filepath.Base(packages[0])] + ".sigs", packages[1]}, who...)...).want(t, 1)
		run(t, programs.producer, "verify", published[filepath.Base(packages[0])], "--certificate-identity", "somebody", "--certificate-oidc-issuer", stack.Issuer).want(t, 1)
		run(t, programs.producer, "verify", published[filepath.Base(packages[0])], "--certificate-identity-regexp", "^https://github.com/acme/", "--certificate-oidc-issuer", stack.Issuer).want(t, 0)
		run(t, programs.producer, "verify", published[filepath.Base(packages[0])]).want(t, 2)
		run(t, programs.producer, append([]string{"verify", "--target-channel", channelURL + "-other", published[filepath.Base(packages[0])]}, who...)...).want(t, 1)
	})
	t.Run("policy", func(t *testing.T) {
		t.Parallel()
		policy := func(name, text string) string {
			file := filepath.Join(t.TempDir(), name)
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			return file
		}
		good := policy("good.yaml", fmt.Sprintf("signers:\n  - identity: %q\n    issuer: %q\nclaims: {runnerEnvironment: github-hosted}\n", stack.Identity, stack.Issuer))
		other := policy("other.yaml", fmt.Sprintf("signers:\n  - identity: %q\n    issuer: %q\nclaims: {runnerEnvironment: self-hosted}\n", stack.Identity, stack.Issuer))
		faulty := policy("faulty.yaml", "signers:\n  - github:acme/feedstock\nsigner: x\n")
		file := published[filepath.Base(packages[0])]
		run(t, programs.producer, "verify", "--policy", good, "--target-channel", channelURL, file).want(t, 0)
		if r := run(t, programs.producer, "verify", "--policy", other, file).want(t, 1); !strings.Contains(r.stdout, "runnerEnvironment") {
			t.Errorf("it does not say which claim: %s", r.stdout)
		}
		if r := run(t, programs.producer, "verify", "--policy", faulty, file).want(t, 2); !strings.Contains(r.stderr, "faulty.yaml:3") {
			t.Errorf("it does not say which line: %s", r.stderr)
		}
		run(t, programs.producer, "channel", "check", "--to", p.channel, "--policy", good, "--target-channel", channelURL).want(t, 0)
		type report struct {
			Clean   bool
			Subdirs []struct{ Disagreements []struct{ Code string } }
		}
		r := decode[report](t, run(t, programs.producer, "channel", "check", "--json", "--to", p.channel, "--policy", other).want(t, 3))
		refused := 0
		for _, s := range r.Subdirs {
			for _, d := range s.Disagreements {
				if d.Code != "sidecar.refused" {
					t.Errorf("code %s", d.Code)
				}
				refused++
			}
		}
		if r.Clean || refused != n {
			t.Errorf("clean %v, %d refused", r.Clean, refused)
		}
	})
	t.Run("inspect", func(t *testing.T) {
		t.Parallel()
		r := run(t, programs.producer, "inspect", published[filepath.Base(packages[0])]).want(t, 0)
		for _, want := range []string{stack.Identity, stack.Issuer, channelURL, filepath.Base(packages[0]), "sourceRepository", "log entry"} {
			if !strings.Contains(r.stdout, want) {
				t.Errorf("inspect does not tell %q:\n%s", want, r.stdout)
			}
		}
	})
	t.Run("again", func(t *testing.T) {
		t.Parallel()
		// A place of its own, since "again" must see no other writer.
		p := newPlace(t)
		run(t, programs.producer, p.publish(packages[:6]...)...).want(t, 0)
		before := tree(t, p.channel)
		r := run(t, programs.producer, p.publish(packages[:6]...)...).want(t, 0)
		if s := decode[campaign](t, r); s.Skipped != 6 || s.Published != 0 || s.Enqueued != 6 {
			t.Errorf("%+v", s)
		}
		if d := cmp.Diff(before, tree(t, p.channel)); d != "" {
			t.Errorf("the second run changed the channel: %s", d)
		}
		text := slices.DeleteFunc(p.publish(packages[:6]...), func(a string) bool { return a == "--json" })
		if r := run(t, programs.producer, text...).want(t, 0); !strings.Contains(r.stdout, "all 6 packages were published already") {
			t.Errorf("it does not say that all was skipped: %s", r.stdout)
		}
	})
}

// TestRunningAgainSignsNothing has the log to itself.
func TestRunningAgainSignsNothing(t *testing.T) {
	packages := samples(t, 5, 7)
	p := newPlace(t)
	run(t, programs.producer, p.publish(packages...)...).want(t, 0)
	size := logSize(t)
	// Without the queue's state, what is done is found in the channel alone.
	if err := os.RemoveAll(p.state); err != nil {
		t.Fatal(err)
	}
	if s := decode[campaign](t, run(t, programs.producer, p.publish(packages...)...).want(t, 0)); s.Skipped != 5 {
		t.Errorf("%+v", s)
	}
	if n := logSize(t); n != size {
		t.Errorf("%d new log entries", n-size)
	}
}

// TestBroughtAttestations has the log to itself: what is brought is used instead of signing, if it holds.
func TestBroughtAttestations(t *testing.T) {
	packages := samples(t, 4, 11)
	from := newPlace(t)
	run(t, programs.producer, from.publish(packages...)...).want(t, 0)
	dir := t.TempDir()
	for i, path := range packages {
		name := filepath.Base(path)
		sidecars, err := filepath.Glob(filepath.Join(from.channel, "*", name+".sigs"))
		if err != nil || len(sidecars) != 1 {
			t.Fatal(sidecars, err)
		}
		sidecar := read(t, sidecars[0])
		to := filepath.Join(dir, name)
		switch i {
		case 0:
			err = os.WriteFile(to+".sigs", sidecar, 0o644)
		case 1:
			err = os.Rename(firstBundle(t, dir, sidecars[0]), to+".sigstore.json")
		case 2: // another package's
			others, _ := filepath.Glob(filepath.Join(from.channel, "*", filepath.Base(packages[0])+".sigs"))
			err = os.Rename(firstBundle(t, dir, others[0]), to+".attestation.json")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	size := logSize(t)
	p := newPlace(t)
	r := run(t, programs.producer, append(p.publish(packages...), "--attestation-dir", dir)...).want(t, 3)
	s := decode[campaign](t, r)
	if s.Published != 3 || s.Failed != 1 || !strings.Contains(r.stdout, "bundle.refused") {
		t.Errorf("%+v %s", s, r.stdout)
	}
	if n := logSize(t) - size; n != 1 { // the one that nobody brought anything for
		t.Errorf("%d new log entries", n)
	}
	run(t, programs.producer, "channel", "check", "--to", p.channel, "--certificate-identity", stack.Identity, "--certificate-oidc-issuer", stack.Issuer).want(t, 0)
	for i, path := range packages[:2] {
		name := filepath.Base(path)
		a, _ := filepath.Glob(filepath.Join(from.channel, "*", name+".sigs"))
		b, _ := filepath.Glob(filepath.Join(p.channel, "*", name+".sigs"))
		if string(read(t, a[0])) != string(read(t, b[0])) {
			t.Errorf("%d: the attestation is not the one that was brought", i)
		}
	}
	// What is not even JSON is told before anything is enqueued.
	if err := os.WriteFile(filepath.Join(dir, filepath.Base(packages[3])+".sigstore.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, programs.producer, append(newPlace(t).publish(packages...), "--attestation-dir", dir)...).want(t, 2)
}

// TestInterrupted: ctrl-C in the middle, and again; every package has one log entry.
func TestInterrupted(t *testing.T) {
	const n = 60
	packages := samples(t, n, 3)
	p := newPlace(t)
	before := logSize(t)
	args := append(p.publish(packages...), "--concurrency", "sign=4;hash=1")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	interrupted := false
	for range 20 {
		c := command(ctx, stack.env, programs.producer, args...)
		var out, errb strings.Builder
		c.Stdout, c.Stderr = &out, &errb
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		waitForSidecars(t, p.channel, 4, c)
		_ = c.Process.Signal(os.Interrupt)
		_ = c.Wait()
		code := c.ProcessState.ExitCode()
		if code == 130 {
			interrupted = true
			if !strings.Contains(errb.String(), "run the same command again") {
				t.Errorf("no hint: %s", errb.String())
			}
			break
		}
		if code == 0 {
			break // too fast for the signal
		}
		t.Fatalf("exit %d\n%s", code, errb.String())
	}
	if !interrupted {
		t.Fatal("the run was never interrupted")
	}
	s := decode[campaign](t, run(t, programs.producer, p.publish(packages...)...).want(t, 0))
	if s.Published != n || s.Waiting != 0 {
		t.Errorf("%+v", s)
	}
	check(t, p.channel, n, subdirs(t, p.channel)...)
	if got := logSize(t) - before; got != n {
		t.Errorf("%d log entries for %d packages", got, n)
	}
}

// TestKilled: kill -9 at any moment, and again; the invariants hold after each, and the campaign completes.
func TestKilled(t *testing.T) {
	const n = 80
	packages := samples(t, n, 4)
	p := newPlace(t)
	args := append(p.publish(packages...), "--concurrency", "sign=8")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	kills := 0
	for i := range 12 {
		c := command(ctx, stack.env, programs.producer, args...)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		exited := make(chan struct{})
		go func() { _ = c.Wait(); close(exited) }()
		select {
		case <-exited:
		case <-time.After(time.Duration(300+i*170) * time.Millisecond): // the moment of the kill: any will do
			_ = c.Process.Kill()
			<-exited
			kills++
		}
		invariants(t, p.channel)
	}
	s := decode[campaign](t, run(t, programs.producer, p.publish(packages...)...).want(t, 0))
	if s.Published+s.Skipped != n || s.Waiting != 0 || s.Failed != 0 {
		t.Errorf("%+v", s)
	}
	t.Logf("%d kills; %d published, %d skipped in the last campaign", kills, s.Published, s.Skipped)
	check(t, p.channel, n, subdirs(t, p.channel)...)
	for _, sub := range subdirs(t, p.channel) {
		for name := range records(t, filepath.Join(p.channel, sub)) {
			if b := bundles(t, read(t, filepath.Join(p.channel, sub, name+".sigs"))); len(b) != 1 {
				t.Errorf("%s has %d attestations", name, len(b))
			}
		}
	}
}

// invariants: whatever a crash left behind, a record that is visible agrees with its package and sidecar.
func invariants(t *testing.T, channel string) {
	t.Helper()
	found, _ := filepath.Glob(filepath.Join(channel, "*", "repodata.json"))
	for _, f := range found {
		dir := filepath.Dir(f)
		for name, rec := range records(t, dir) {
			s := sha256.Sum256(read(t, filepath.Join(dir, name)))
			side := read(t, filepath.Join(dir, name+".sigs."+rec.Attestations))
			d := sha256.Sum256(side)
			if rec.SHA256 != hex.EncodeToString(s[:]) || rec.Attestations != hex.EncodeToString(d[:]) {
				t.Errorf("%s: record, package and sidecar disagree after a kill", name)
			}
		}
	}
}

type record struct {
	SHA256       string `json:"sha256"`
	MD5          string `json:"md5"`
	Size         int64  `json:"size"`
	Subdir       string `json:"subdir"`
	Attestations string `json:"attestations_sha256"`
}

func records(t testing.TB, dir string) map[string]record {
	t.Helper()
	var doc struct {
		Packages map[string]record `json:"packages"`
		Conda    map[string]record `json:"packages.conda"`
	}
	if err := json.Unmarshal(read(t, filepath.Join(dir, "repodata.json")), &doc); err != nil {
		t.Fatal(err)
	}
	all := map[string]record{}
	for _, m := range []map[string]record{doc.Packages, doc.Conda} {
		for k, v := range m {
			all[k] = v
		}
	}
	return all
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func bundles(t testing.TB, sidecar []byte) []json.RawMessage {
	t.Helper()
	var all []json.RawMessage
	if err := json.Unmarshal(sidecar, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// firstBundle takes the first bundle out of a sidecar into a file, for tools that read bundles.
func firstBundle(t testing.TB, dir, sidecar string) string {
	t.Helper()
	file := filepath.Join(dir, filepath.Base(sidecar)+".json")
	if err := os.WriteFile(file, bundles(t, read(t, sidecar))[0], 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func cosign(t testing.TB, bundle, file, identity, issuer string) result {
	t.Helper()
	return run(t, programs.cosign, "verify-blob-attestation", "--bundle", bundle, "--trusted-root", stack.TrustedRoot,
		"--type", predicateType, "--certificate-identity", identity, "--certificate-oidc-issuer", issuer, file)
}
