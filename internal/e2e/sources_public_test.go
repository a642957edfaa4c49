package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSourcesOfPublicSigstore: bundles that the public instance signed, in the index's form and as GitHub serves them, against
// its trust root; the packages themselves are signed by the private one.
func TestSourcesOfPublicSigstore(t *testing.T) {
	t.Parallel()
	corpus := "../../../shared/corpus/bundles"
	if _, err := os.Stat(corpus); err != nil {
		t.Skip("no corpus of bundles here")
	}
	const beacon = "sigstore-conformance/extremely-dangerous-public-oidc-beacon"
	bundle := read(t, filepath.Join(corpus, "conformance/happy-path-intoto-in-dsse-v3/bundle.sigstore.json"))
	sha := sha256Of(read(t, filepath.Join(corpus, "conformance/a.txt")))
	release := "https://github.com/" + beacon + "/releases/download/v1/a.txt"
	u := newUpstream(t)
	u.assets["/"+beacon+"/releases/download/v1/a.txt.sigstore.json"] = bundle
	u.assets["/"+beacon+"-2/releases/download/v1/a.txt.sigstore.json"] = bundle
	for name, bodies := range map[string]bool{"whole": true, "bare": false} {
		u.provenance["/integrity/"+name+"/1.0/"+name+"-1.0.tar.gz/provenance"] = indexProvenance(t, bundle, bodies)
	}
	policy := filepath.Join(t.TempDir(), "sources.yaml")
	if err := os.WriteFile(policy, []byte("version: 1\nrequire_log: true\nhosts:\n  - host: github.com\n    publishers: ['github:{owner}/{repo}']\n    bundles: ['{url}.sigstore.json']\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir, block := t.TempDir(), "{publishers: ['github:"+beacon+"']}"
	index := "https://files.pythonhosted.org/packages/source/"
	packages := []string{
		sourced(t, dir, "whole", index+"whole-1.0.tar.gz", sha, block, nil),
		sourced(t, dir, "bare", index+"bare-1.0.tar.gz", sha, block, nil),
		sourced(t, dir, "release", release, sha, "", nil),
		sourced(t, dir, "prefix", strings.Replace(release, beacon, beacon+"-2", 1), sha, "", nil),
		sourced(t, dir, "other", release, sha256Of(nil), "", nil),
	}
	p := newPlace(t)
	args := append(p.publish(packages...), "--sources", "require", "--sources-policy", policy, "--sources-trusted-root", filepath.Join(corpus, "public-good-trusted_root.json"))
	s := decode[sourcesCampaign](t, runEnv(t, append(slices.Clone(stack.env), u.env...), programs.producer, args...).want(t, 3))
	got := map[string]string{}
	for _, f := range s.Failures {
		got[strings.TrimSuffix(f.Filename, "-1.0-0.conda")] = f.Cause
	}
	want := map[string]string{"bare": "sources.log.absent", "prefix": "sources.publisher.mismatch", "other": "sources.attestation.other-artifact"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("set aside (-want +got):\n%s", diff)
	}
	if want := (sourceCounts{"require", 2, 3, 0, 0}); s.Published != 2 || s.Sources == nil || *s.Sources != want {
		t.Errorf("%+v, %+v", s.campaign, s.Sources)
	}
	for name, e := range p.events(t, "published", 2) {
		by := map[string]string{"whole": "recipe", "release": "policy"}[name]
		if x := e.Data.CustomData.Sources.List[0]; x.Log != "checked" || x.AskedBy != by || !slices.Equal(x.Publishers, []string{"github:" + beacon}) {
			t.Errorf("%s: %+v", name, x)
		}
	}
	u.sound(t)
}

// TestSourcesNeedATrustRoot: who cannot get the trust root says so, and begins nothing.
func TestSourcesNeedATrustRoot(t *testing.T) {
	t.Parallel()
	u := newUpstream(t) // its proxy leads to no mirror of Sigstore's trust root
	env := append(slices.Clone(stack.env), u.env...)
	pkg := samples(t, 1, 77)
	p := newPlace(t)
	r := runEnv(t, env, programs.producer, append(p.publish(pkg...), "--sources", "report")...).want(t, 5)
	if !strings.Contains(r.stderr, "--sources-trusted-root") {
		t.Errorf("no hint: %s", r.stderr)
	}
	run(t, programs.producer, append(p.publish(pkg...), "--sources", "report", "--sources-trusted-root", pkg[0])...).want(t, 2)
	if _, err := os.Stat(p.state); err == nil {
		t.Error("something was begun")
	}

	url := "nats://" + freeAddress(t)
	hash := startWorker(t, stack.env, "--listen", strings.TrimPrefix(url, "nats://"), "--state", p.state, "--stages", "hash")
	waitForServer(t, url)
	run(t, programs.producer, append([]string{"submit", "--nats", url, "--to", p.channel, "--channel-url", channelURL, "--campaign", "rebuild",
		"--certificate-identity", stack.Identity, "--certificate-oidc-issuer", stack.Issuer, "--sources", "report", "--cut", "sources,sign"}, pkg...)...).want(t, 0)
	w := startWorker(t, env, "--nats", url, "--stages", "sources", "--campaign", "rebuild")
	if err := w.cmd.Wait(); w.cmd.ProcessState.ExitCode() != 5 || !strings.Contains(w.stderr(), "--sources-trusted-root") {
		t.Errorf("%v, and it says %s", err, w.stderr())
	}
	hash.stop(t)
}

// TestSourcesOfOneCampaignOfTwo: the same workers serve campaigns that look at sources and ones that do not; what is cut
// between hash and sign is served by a worker that is given sources too.
func TestSourcesOfOneCampaignOfTwo(t *testing.T) {
	t.Parallel()
	const n = 3
	p, packages := newPlace(t), samples(t, n, 78)
	url := "nats://" + freeAddress(t)
	first := startWorker(t, stack.env, "--listen", strings.TrimPrefix(url, "nats://"), "--state", p.state, "--stages", "hash,sources",
		"--sources-trusted-root", stack.TrustedRoot)
	waitForServer(t, url)
	rest := startWorker(t, stack.env, "--nats", url, "--stages", "sign,upload,publish")
	for name, flags := range map[string][]string{"without": nil, "with": {"--sources", "require"}} {
		to := p.channel + "-" + name
		args := append([]string{"submit", "--nats", url, "--to", to, "--channel-url", channelURL, "--campaign", name,
			"--certificate-identity", stack.Identity, "--certificate-oidc-issuer", stack.Issuer, "--cut", "sign"}, flags...)
		run(t, programs.producer, append(args, packages...)...).want(t, 0)
		if c := waitForStatus(t, url, name, func(c campaign) bool { return c.Waiting == 0 }); c.Published != n {
			t.Errorf("%s: %+v", name, c)
		}
		s := decode[struct{ Campaigns []sourcesCampaign }](t, run(t, programs.producer, "status", "--json", "--nats", url, name).want(t, 0)).Campaigns[0]
		if looks := name == "with"; looks != (s.Sources != nil) || looks && *s.Sources != (sourceCounts{Mode: "require", Unattested: n}) {
			t.Errorf("%s: %+v", name, s.Sources)
		}
	}
	rest.stop(t)
	first.stop(t)
	r := run(t, programs.worker, "--nats", url, "--stages", "hash,upload").want(t, 2)
	if !strings.Contains(r.stderr, "want a run of") {
		t.Errorf("stages that are no run: %s", r.stderr)
	}
}
