package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const slsaProvenance = "https://slsa.dev/provenance/v1"

// identityOf is whom the private Sigstore certifies for a repository's workflow; as is the environment in which one runs.
func identityOf(repository string) string {
	return "https://github.com/" + repository + "/.github/workflows/publish.yml@refs/heads/main"
}

func as(repository string) []string {
	return append(slices.Clone(stack.env), "ACTIONS_ID_TOKEN_REQUEST_URL="+stack.URLs["token"]+"?repository="+repository)
}

// nobody is an environment without an identity.
func nobody() []string {
	return slices.DeleteFunc(slices.Clone(stack.env), func(kv string) bool { return strings.HasPrefix(kv, "ACTIONS_") })
}

// policyFile writes a policy: who may publish, and what is said behind that.
func policyFile(t testing.TB, more string, publishers ...string) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("signers:\n")
	for _, p := range publishers {
		fmt.Fprintf(&b, "  - identityPrefix: https://github.com/%s\n    issuer: %s\n    claims: {sourceRepository: https://github.com/%[1]s}\n", p, stack.Issuer)
	}
	b.WriteString(more)
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// provenanceBy names who may attest a build, as required or extra.
func provenanceBy(how, repository string) string {
	publish := ""
	if how == "required" {
		publish = "    - " + predicateType + "\n"
	}
	return fmt.Sprintf("predicates:\n  %s:\n%s    - type: %s\n      signers:\n        - identityPrefix: https://github.com/%s\n          issuer: %s\n",
		how, publish, slsaProvenance, repository, stack.Issuer)
}

// attestBuild has cosign sign an SLSA v1 provenance of all the files, as a repository's workflow.
func attestBuild(t testing.TB, repository string, files ...string) []byte {
	t.Helper()
	type subject struct {
		Name   string            `json:"name"`
		Digest map[string]string `json:"digest"`
	}
	var subjects []subject
	for _, f := range files {
		sum := sha256.Sum256(read(t, f))
		subjects = append(subjects, subject{filepath.Base(f), map[string]string{"sha256": hex.EncodeToString(sum[:])}})
	}
	statement, err := json.Marshal(map[string]any{"_type": "https://in-toto.io/Statement/v1", "predicateType": slsaProvenance, "subject": subjects,
		"predicate": map[string]any{
			"buildDefinition": map[string]any{"buildType": "https://example.org/conda-build/v1", "externalParameters": map[string]any{"recipe": "recipe.yaml"}},
			"runDetails":      map[string]any{"builder": map[string]any{"id": "https://github.com/" + repository}},
		}})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	in, out := filepath.Join(dir, "statement.json"), filepath.Join(dir, "bundle.json")
	if err := os.WriteFile(in, statement, 0o644); err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(run(t, programs.sigstore, "token", "--repository", repository, stack.dir).want(t, 0).stdout)
	run(t, programs.cosign, "attest-blob", "--yes", "--new-bundle-format", "--statement", in, "--bundle", out, "--identity-token", token,
		"--signing-config", stack.SigningConfig, "--trusted-root", stack.TrustedRoot).want(t, 0)
	return read(t, out)
}

// sidecarOf finds a package's sidecar in a channel.
func sidecarOf(t testing.TB, channel, pkg string) []byte {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(channel, "*", filepath.Base(pkg)+".sigs"))
	if err != nil || len(found) != 1 {
		t.Fatalf("sidecars of %s: %q (%v)", pkg, found, err)
	}
	return read(t, found[0])
}

// bring writes what is brought along for a package.
func bring(t testing.TB, dir, pkg, end string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, filepath.Base(pkg)+end), b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// causes counts a campaign's failures by cause.
func (c campaign) causes() map[string]int {
	m := map[string]int{}
	for _, k := range c.Causes {
		m[k.Cause] += k.Count
	}
	return m
}

// TestPolicy: one campaign that signs for itself, under a policy.
func TestPolicy(t *testing.T) {
	t.Parallel()
	packages := samples(t, 3, 41)
	p := newPlace(t)
	policy := policyFile(t, "", "acme/feedstock", "acme/partner")

	// Who is not in it is told before anything is enqueued.
	r := runEnv(t, as("evil/twin"), programs.producer, append(p.publish(packages...), "--policy", policy)...).want(t, 4)
	if !strings.Contains(r.stderr, "evil/twin") || !strings.Contains(r.stderr, "hint") {
		t.Errorf("stderr: %s", r.stderr)
	}
	if _, err := os.Stat(p.state); err == nil {
		t.Error("the queue was made for a signer whom the policy does not accept")
	}
	claims := policyFile(t, "claims: {runnerEnvironment: self-hosted}\n", "acme/feedstock")
	if r := run(t, programs.producer, append(p.publish(packages...), "--policy", claims)...).want(t, 4); !strings.Contains(r.stderr, "runnerEnvironment") {
		t.Errorf("stderr: %s", r.stderr)
	}
	// So is what is wrong with the file.
	faulty := policyFile(t, "signer: x\n", "acme/feedstock")
	if r := run(t, programs.producer, append(p.publish(packages...), "--policy", faulty)...).want(t, 2); !strings.Contains(r.stderr, "policy.yaml:5:1") {
		t.Errorf("stderr: %s", r.stderr)
	}

	type summary struct {
		campaign
		PolicySHA256 string
		Identity     string
	}
	s := decode[summary](t, run(t, programs.producer, append(p.publish(packages...), "--policy", policy)...).want(t, 0))
	if s.Published != len(packages) || len(s.PolicySHA256) != 64 || s.Identity != stack.Identity {
		t.Errorf("%+v", s)
	}
	check(t, p.channel, len(packages), subdirs(t, p.channel)...)
	before := tree(t, p.channel)
	// Run again, by another whom the policy accepts: there is nothing to do. Without the policy, the other signs anew.
	if s := decode[campaign](t, runEnv(t, as("acme/partner"), programs.producer, append(p.publish(packages...), "--policy", policy)...).want(t, 0)); s.Skipped != len(packages) {
		t.Errorf("%+v", s)
	}
	if d := cmp.Diff(before, tree(t, p.channel)); d != "" {
		t.Errorf("the channel was changed: %s", d)
	}
	only := policyFile(t, "", "acme/partner")
	if s := decode[campaign](t, runEnv(t, as("acme/partner"), programs.producer, append(p.publish(packages[0]), "--policy", only)...).want(t, 0)); s.Published != 1 {
		t.Errorf("what the policy does not accept counts as done: %+v", s)
	}
	if all := bundles(t, sidecarOf(t, p.channel, packages[0])); len(all) != 2 {
		t.Errorf("%d bundles, want 2", len(all))
	}
	run(t, programs.producer, "channel", "check", "--to", p.channel, "--policy", policy, "--target-channel", channelURL).want(t, 0)
}

// TestNoSign: a campaign without an identity, whose attestations are all brought along.
func TestNoSign(t *testing.T) {
	t.Parallel()
	packages := samples(t, 6, 42)
	dir := t.TempDir()
	// Five packages that were signed elsewhere, one of them by somebody whom the policy does not accept; the sixth has nothing.
	for repository, of := range map[string][]string{"acme/partner": packages[:2], "acme/feedstock": packages[2:4], "evil/twin": packages[4:5]} {
		from := newPlace(t)
		runEnv(t, as(repository), programs.producer, from.publish(of...)...).want(t, 0)
		for _, pkg := range of {
			bring(t, dir, pkg, ".sigs", sidecarOf(t, from.channel, pkg))
		}
	}
	// One that is of another package.
	if err := os.Rename(filepath.Join(dir, filepath.Base(packages[3])+".sigs"), filepath.Join(dir, filepath.Base(packages[2])+".sigstore.json")); err != nil {
		t.Fatal(err)
	}
	p := newPlace(t)
	args := append(p.publish(packages...), "--policy", policyFile(t, "", "acme/feedstock", "acme/partner"), "--no-sign", "--attestation-dir", dir)
	s := decode[campaign](t, runEnv(t, nobody(), programs.producer, args...).want(t, 3))
	want := map[string]int{"attestation.missing": 2, "bundle.refused": 2}
	if d := cmp.Diff(want, s.causes()); d != "" || s.Published != 2 {
		t.Errorf("%+v: %s", s, d)
	}
	for _, f := range s.Failures {
		if f.Hint == "" || f.Stage != "sign" {
			t.Errorf("%+v", f)
		}
	}
	check(t, p.channel, 2, subdirs(t, p.channel)...)
	for _, pkg := range packages[:2] {
		if got := sidecarOf(t, p.channel, pkg); !bytes.Equal(got, read(t, filepath.Join(dir, filepath.Base(pkg)+".sigs"))) {
			t.Errorf("%s: the sidecar is not what was brought", pkg)
		}
	}
	before := tree(t, p.channel)
	s = decode[campaign](t, runEnv(t, nobody(), programs.producer, args...).want(t, 3))
	if s.Skipped != 2 || s.Failed != 4 {
		t.Errorf("again: %+v", s)
	}
	if d := cmp.Diff(before, tree(t, p.channel)); d != "" {
		t.Errorf("the channel was changed: %s", d)
	}
}

// TestRiders: a build's provenance, by another signer, goes into the sidecar behind the publish attestation, byte for byte;
// what the policy does not name is refused.
func TestRiders(t *testing.T) {
	t.Parallel()
	packages := samples(t, 4, 43)
	dir := t.TempDir()
	provenance := attestBuild(t, "acme/builder", packages...) // one statement for all of them
	spaced := bytes.Replace(provenance, []byte(":"), []byte(" :\n "), 1)
	bring(t, dir, packages[0], ".provenance.sigstore.json", provenance)
	bring(t, dir, packages[1], ".intoto.jsonl", append(bytes.TrimSpace(provenance), '\n'))
	bring(t, dir, packages[2], ".provenance.sigstore.json", spaced)
	p := newPlace(t)
	extra := policyFile(t, provenanceBy("extra", "acme/builder"), "acme/feedstock")
	args := append(p.publish(packages...), "--policy", extra, "--attestation-dir", dir)
	if s := decode[campaign](t, run(t, programs.producer, args...).want(t, 0)); s.Published != 4 {
		t.Fatalf("%+v", s)
	}
	check(t, p.channel, 4, subdirs(t, p.channel)...)
	for i, want := range [][]byte{provenance, provenance, spaced} {
		side := bundles(t, sidecarOf(t, p.channel, packages[i]))
		if len(side) != 2 || !bytes.Equal(bytes.TrimSpace(side[1]), bytes.TrimSpace(want)) {
			t.Errorf("package %d: %d bundles, and the second is not what was brought", i, len(side))
		}
	}
	verify := func(pkg, policy string) result {
		return run(t, programs.producer, "verify", "--channel", p.channel, "--policy", policy, "--target-channel", channelURL, pkg)
	}
	required := policyFile(t, provenanceBy("required", "acme/builder"), "acme/feedstock")
	verify(packages[2], required).want(t, 0)
	verify(packages[3], required).want(t, 1)

	// Run again: nothing. Then one more attestation for what is published already; then nothing again.
	before := tree(t, p.channel)
	if s := decode[campaign](t, run(t, programs.producer, args...).want(t, 0)); s.Skipped != 4 {
		t.Errorf("again: %+v", s)
	}
	if d := cmp.Diff(before, tree(t, p.channel)); d != "" {
		t.Errorf("the channel was changed: %s", d)
	}
	old := sidecarOf(t, p.channel, packages[3])
	bring(t, dir, packages[3], ".provenance.sigstore.json", provenance)
	if s := decode[campaign](t, run(t, programs.producer, args...).want(t, 0)); s.Skipped != 3 || s.Published != 1 {
		t.Errorf("with one more: %+v", s)
	}
	if now := sidecarOf(t, p.channel, packages[3]); !bytes.HasPrefix(now, old[:len(old)-1]) || len(bundles(t, now)) != 2 {
		t.Errorf("the sidecar was not continued: %s", now)
	}
	verify(packages[3], required).want(t, 0)
	check(t, p.channel, 4, subdirs(t, p.channel)...)
	if s := decode[campaign](t, run(t, programs.producer, args...).want(t, 0)); s.Skipped != 4 {
		t.Errorf("with one more, again: %+v", s)
	}

	// A required type that only the channel has counts, too: another signer may join.
	other := policyFile(t, provenanceBy("required", "acme/builder"), "acme/partner")
	if s := decode[campaign](t, runEnv(t, as("acme/partner"), programs.producer, append(p.publish(packages[0]), "--policy", other)...).want(t, 0)); s.Published != 1 {
		t.Errorf("%+v", s)
	}
	if n := len(bundles(t, sidecarOf(t, p.channel, packages[0]))); n != 3 {
		t.Errorf("%d bundles, want 3", n)
	}
	verify(packages[0], other).want(t, 0)

	// What is refused: a type that the policy does not name, one by the wrong signer, and a required one that is missing.
	for name, tt := range map[string]struct {
		policy, cause string
		brought       []byte
	}{
		"not named":          {policy: policyFile(t, "", "acme/feedstock"), cause: "bundle.predicate-type", brought: provenance},
		"no policy":          {cause: "bundle.predicate-type", brought: provenance},
		"another signer":     {policy: extra, cause: "bundle.refused", brought: attestBuild(t, "evil/twin", packages...)},
		"another package":    {policy: extra, cause: "bundle.refused", brought: attestBuild(t, "acme/builder", packages[1])},
		"required, and none": {policy: required, cause: "policy.predicate-missing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q, beside := newPlace(t), t.TempDir()
			args := append(q.publish(packages[0]), "--attestation-dir", beside)
			if tt.policy != "" {
				args = append(args, "--policy", tt.policy)
			}
			if tt.brought != nil {
				bring(t, beside, packages[0], ".provenance.sigstore.json", tt.brought)
			}
			s := decode[campaign](t, run(t, programs.producer, args...).want(t, 3))
			if len(s.Failures) != 1 || s.Failures[0].Cause != tt.cause || s.Failures[0].Hint == "" {
				t.Errorf("%+v", s)
			}
			if found := tree(t, q.channel); len(found) != 0 {
				t.Errorf("something was published: %v", found)
			}
		})
	}
}

// TestPolicyOnAServer: the policy is in the campaign, not on a worker's disk; workers whom it accepts serve it, riders
// cross the cuts, and a campaign that signs nothing has workers without an identity.
func TestPolicyOnAServer(t *testing.T) {
	t.Parallel()
	const n = 6
	packages := samples(t, n, 44)
	p := newPlace(t)
	url := "nats://" + freeAddress(t)
	hash := startWorker(t, nobody(), "--listen", strings.TrimPrefix(url, "nats://"), "--state", p.state, "--stages", "hash")
	waitForServer(t, url)
	dir := t.TempDir()
	provenance := bytes.Replace(attestBuild(t, "acme/builder", packages...), []byte(":"), []byte(" : "), 1)
	for _, pkg := range packages {
		bring(t, dir, pkg, ".provenance.sigstore.json", provenance)
	}
	policy := policyFile(t, provenanceBy("extra", "acme/builder"), "acme/partner")
	submit := []string{"submit", "--json", "--nats", url, "--to", p.channel, "--channel-url", channelURL, "--cut", "sign,upload", "--attestation-dir", dir}
	rebuild := append(slices.Clone(submit), "--campaign", "rebuild", "--policy", policy)
	run(t, programs.producer, append(rebuild, packages...)...).want(t, 0)
	// From here on the file is nobody's concern, and another one is another campaign.
	if err := os.WriteFile(policy, []byte("signers: [github:evil/twin]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if r := run(t, programs.producer, append(rebuild, packages...)...).want(t, 2); !strings.Contains(r.stderr, "policy") {
		t.Errorf("stderr: %s", r.stderr)
	}

	watch := startWatch(t, url, n)
	sworn := startWorker(t, as("evil/twin"), "--nats", url, "--stages", "sign", "--campaign", "rebuild")
	if err := sworn.cmd.Wait(); sworn.cmd.ProcessState.ExitCode() != 4 || !strings.Contains(sworn.stderr(), "evil/twin") {
		t.Errorf("%v, and it says %s", err, sworn.stderr())
	}
	sign := startWorker(t, as("acme/partner"), "--nats", url, "--stages", "sign")
	upload := startWorker(t, nobody(), "--nats", url, "--stages", "upload,publish")
	if st := waitForStatus(t, url, "rebuild", func(c campaign) bool { return c.Waiting == 0 }); st.Published != n {
		t.Errorf("%+v", st)
	}
	for _, e := range watch() {
		if d := e.Data.CustomData; d.Signer.Identity != identityOf("acme/partner") || len(d.Riders) != 1 || d.Riders[0].PredicateType != slsaProvenance ||
			d.Riders[0].Identity != identityOf("acme/builder") || len(d.Riders[0].Bundle.SHA256) != 64 {
			t.Errorf("%+v", e)
		}
	}
	for _, pkg := range packages {
		if side := bundles(t, sidecarOf(t, p.channel, pkg)); len(side) != 2 || !bytes.Equal(side[1], bytes.TrimSpace(provenance)) {
			t.Errorf("%s: %d bundles, and the second is not what was brought", pkg, len(side))
		}
	}
	check(t, p.channel, n, subdirs(t, p.channel)...)
	for _, w := range []*workerProcess{hash, sign, upload} {
		w.stop(t)
	}
}

// TestNoSignOnAServer: a worker without an identity does all stages of a campaign that signs nothing, and leaves one that
// signs alone.
func TestNoSignOnAServer(t *testing.T) {
	t.Parallel()
	packages := samples(t, 3, 45)
	from, dir := newPlace(t), t.TempDir()
	run(t, programs.producer, from.publish(packages...)...).want(t, 0)
	for _, pkg := range packages {
		bring(t, dir, pkg, ".sigs", sidecarOf(t, from.channel, pkg))
	}
	p := newPlace(t)
	url := "nats://" + freeAddress(t)
	w := startWorker(t, nobody(), "--listen", strings.TrimPrefix(url, "nats://"), "--state", p.state, "--no-sign")
	waitForServer(t, url)
	submit := []string{"submit", "--json", "--nats", url, "--to", p.channel, "--channel-url", channelURL, "--policy", policyFile(t, "", "acme/feedstock")}
	run(t, programs.producer, append(append(slices.Clone(submit), "--campaign", "signs"), packages...)...).want(t, 0)
	run(t, programs.producer, append(append(slices.Clone(submit), "--campaign", "brought", "--no-sign", "--attestation-dir", dir), packages...)...).want(t, 0)
	if st := waitForStatus(t, url, "brought", func(c campaign) bool { return c.Waiting == 0 }); st.Published != 3 {
		t.Errorf("%+v", st)
	}
	if st := waitForStatus(t, url, "signs", func(campaign) bool { return true }); st.Waiting != 3 || st.Failed != 0 {
		t.Errorf("%+v", st)
	}
	check(t, p.channel, 3, subdirs(t, p.channel)...)
	w.stop(t)
	if !strings.Contains(w.stderr(), "signs nothing") {
		t.Errorf("the worker does not say why it leaves the other campaign alone: %s", w.stderr())
	}
}

// TestKilledWithRiders: a campaign whose attestations are all brought along is killed. Each package is told as published all
// the same, by the run that goes on: what was signed long before the campaign is no sign that it was done before.
func TestKilledWithRiders(t *testing.T) {
	t.Parallel()
	const n = 24
	packages := samples(t, n, 46)
	from, dir := newPlace(t), t.TempDir()
	run(t, programs.producer, from.publish(packages...)...).want(t, 0)
	provenance := attestBuild(t, "acme/builder", packages...)
	for _, pkg := range packages {
		bring(t, dir, pkg, ".sigs", sidecarOf(t, from.channel, pkg))
		bring(t, dir, pkg, ".provenance.sigstore.json", provenance)
	}
	policy := policyFile(t, provenanceBy("required", "acme/builder"), "acme/feedstock")
	for _, sidecars := range []int{n / 2, n} {
		t.Run(fmt.Sprintf("at %d of %d", sidecars, n), func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			args := append(p.publish(packages...), "--policy", policy, "--no-sign", "--attestation-dir", dir)
			c := command(t.Context(), nobody(), programs.producer, args...)
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			waitForSidecars(t, p.channel, sidecars, c)
			_ = c.Process.Kill()
			_ = c.Wait()
			invariants(t, p.channel)
			runEnv(t, nobody(), programs.producer, args...).want(t, 0)
			published := 0
			all := decode[struct{ Campaigns []campaign }](t, run(t, programs.producer, "status", "--json", "--all", "--state", p.state).want(t, 0))
			for _, c := range all.Campaigns {
				published += c.Published
			}
			if published != n {
				t.Errorf("%d packages are told as published, want %d: %+v", published, n, all.Campaigns)
			}
			check(t, p.channel, n, subdirs(t, p.channel)...)
			for _, pkg := range packages {
				if side := bundles(t, sidecarOf(t, p.channel, pkg)); len(side) != 2 || !bytes.Equal(side[1], bytes.TrimSpace(provenance)) {
					t.Errorf("%s has %d attestations", pkg, len(side))
				}
			}
			before := tree(t, p.channel)
			if s := decode[campaign](t, runEnv(t, nobody(), programs.producer, args...).want(t, 0)); s.Skipped != n {
				t.Errorf("again: %+v", s)
			}
			if d := cmp.Diff(before, tree(t, p.channel)); d != "" {
				t.Errorf("the channel was changed: %s", d)
			}
		})
	}
}
