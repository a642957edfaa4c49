package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hallmark-attest/hallmark/internal/conda/condatest"
)

// sourced writes a package that was built from a source, with its rendered recipe and further files of info/.
func sourced(t testing.TB, dir, name, url, sha, block string, info map[string][]byte) string {
	t.Helper()
	source := fmt.Sprintf("- url: %s\n  sha256: %s\n", url, sha)
	if block != "" {
		source += "  attestation: " + block + "\n"
	}
	files := map[string][]byte{"recipe/rendered_recipe.yaml": []byte("recipe:\n  schema_version: 1\nfinalized_sources:\n" + source)}
	maps.Copy(files, info)
	path, err := condatest.Write(dir, condatest.Spec{Name: name, Version: "1.0", Build: "0", Info: files})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Where the index has its files; the path in between says nothing.
const (
	indexFiles = "https://files.pythonhosted.org/packages/ab/cd/0123/"
	flaskURL   = indexFiles + "flask-3.1.1.tar.gz"
)

// sourceCounts are what publish and status say of a campaign's sources.
type sourceCounts struct {
	Mode                                      string
	Verified, Refused, Unverified, Unattested int
}

type sourcesCampaign struct {
	campaign
	Sources *sourceCounts
}

// sourceEvent is what a subscriber reads of it.
type sourceEvent struct {
	Type string
	Data struct {
		CustomData struct {
			Package struct{ Name string }
			Sources *struct {
				sourceCounts
				List []struct {
					URL, Outcome, AskedBy, Log, From, Cause string
					Publishers                              []string
					Signers                                 []struct{ Identity, Issuer string }
				}
			}
			Reason struct{ Cause string }
		}
	}
}

// events reads n events of a place's state, by the package's name.
func (p place) events(t testing.TB, kind string, n int) map[string]sourceEvent {
	t.Helper()
	out := map[string]sourceEvent{}
	r := run(t, programs.producer, "watch", "--json", "--state", p.state, "--events", kind, "--replay", "--count", fmt.Sprint(n)).want(t, 0)
	for l := range strings.Lines(r.stdout) {
		var e sourceEvent
		if err := json.Unmarshal([]byte(l), &e); err != nil {
			t.Fatal(err)
		}
		out[e.Data.CustomData.Package.Name] = e
	}
	return out
}

// source is one case: a package, its source's block, and what is to become of it.
type source struct {
	name  string
	block string
	url   string // "": the index's, with a file name of its own
	sha   string // "": flask's
	info  map[string][]byte
	serve []byte // what the index has of it; nil: nothing
	cause string // of being refused; "": it is published
	want  string // its package's count otherwise
}

// TestSources: a campaign that requires publishers, and one that reports: private Sigstore's attestations over the index's
// wire, GitHub's and out of the package. What is not as it was asked for is set aside with its cause, and told; the others
// are published.
func TestSources(t *testing.T) {
	t.Parallel()
	archive := []byte("the sources of flask")
	flask, cors := attestSource(t, archive, "pallets/flask"), attestSource(t, archive, "pallets/flask-cors")
	by := func(repository string) string {
		return fmt.Sprintf("{publishers: [{identity: 'https://github.com/%s', issuer: '%s'}]}", repository, stack.Issuer)
	}
	release := "https://github.com/pallets/flask/releases/download/3.1.1/flask-3.1.1.tar.gz"
	cases := []source{
		{name: "right", block: by("pallets/flask"), serve: indexProvenance(t, flask, false), want: "verified"},
		{name: "release", block: strings.Replace(by("Pallets/Flask"), "{", "{bundle_url: "+release+".sigstore.json, ", 1), url: release, want: "verified"},
		{name: "embedded", block: by("pallets/flask"), url: flaskURL, want: "verified",
			info: map[string][]byte{"recipe/attestations/flask-3.1.1.tar.gz.0.sigstore.json": flask}},
		{name: "secretive", block: by("pallets/flask"), url: "'https://me:hunter2@files.pythonhosted.org/x/secretive-1.0.tar.gz?token=hunter2'",
			serve: indexProvenance(t, flask, false), want: "verified"},
		{name: "nobody-asks", want: "unattested"},
		{name: "wrong-publisher", block: by("pallets/click"), serve: indexProvenance(t, flask, false), cause: "sources.publisher.mismatch"},
		{name: "prefix", block: by("pallets/flask"), serve: indexProvenance(t, cors, false), cause: "sources.publisher.mismatch"},
		{name: "issuer", block: "{publishers: ['github:pallets/flask']}", serve: indexProvenance(t, flask, false), cause: "sources.publisher.issuer-mismatch"},
		{name: "digest", block: by("pallets/flask"), sha: sha256Of([]byte("other bytes")), serve: indexProvenance(t, flask, false), cause: "sources.attestation.other-artifact"},
		{name: "missing", block: by("pallets/flask"), cause: "sources.attestation.missing"},
		{name: "malformed", block: by("pallets/flask"), serve: []byte(`{"version": 1, "attestation_bundles": [{`), cause: "sources.response.malformed"},
		{name: "tampered", block: by("pallets/flask"), serve: indexProvenance(t, broken(t, flask), false), cause: "sources.signature.invalid"},
		{name: "timestamp", block: by("pallets/flask"), serve: indexProvenance(t, flask, true), cause: "sources.timestamp.not-verified"},
		{name: "at-ref", block: "{publishers: ['github:pallets/flask@refs/tags/3.1.1']}", serve: indexProvenance(t, flask, false), cause: "sources.publisher.ref"},
		{name: "empty", block: "{publishers: []}", serve: indexProvenance(t, flask, false), cause: "sources.publishers.empty"},
		{name: "no-url", block: by("pallets/flask"), url: "https://example.org/flask-3.1.1.tar.gz", cause: "sources.bundle-url.none"},
		{name: "forged", block: by("pallets/flask"), url: flaskURL, cause: "sources.log.not-verified",
			info: map[string][]byte{"recipe/attestations/flask-3.1.1.tar.gz.0.sigstore.json": broken(t, flask)}},
	}
	u := newUpstream(t)
	u.assets["/pallets/flask/releases/download/3.1.1/flask-3.1.1.tar.gz.sigstore.json"] = flask
	dir := t.TempDir()
	var packages, good []string
	published, refused := map[string]string{}, map[string]string{} // by name
	var counts sourceCounts
	for _, c := range cases {
		url, sha := c.url, c.sha
		if url == "" {
			url = indexFiles + strings.ReplaceAll(c.name, "-", "_") + "-1.0.tar.gz" // PEP 625
		}
		if sha == "" {
			sha = sha256Of(archive)
		}
		if file := strings.ReplaceAll(c.name, "-", "_") + "-1.0.tar.gz"; c.serve != nil {
			u.provenance["/integrity/"+c.name+"/1.0/"+file+"/provenance"] = c.serve
		}
		path := sourced(t, dir, c.name, url, sha, c.block, c.info)
		packages = append(packages, path)
		switch {
		case c.cause != "":
			refused[c.name] = c.cause
			counts.Refused++
			continue
		case c.want == "verified":
			counts.Verified++
		default:
			counts.Unattested++
		}
		published[c.name] = c.want
		good = append(good, path)
	}
	// Many packages of one source ask once.
	const twins = 5
	for i := range twins {
		path := sourced(t, dir, fmt.Sprintf("twin-%d", i), indexFiles+"right-1.0.tar.gz", sha256Of(archive), by("pallets/flask"), nil)
		packages, good = append(packages, path), append(good, path)
		published[fmt.Sprintf("twin-%d", i)] = "verified"
		counts.Verified++
	}
	env := append(slices.Clone(stack.env), u.env...)
	with := func(p place, mode string, packages ...string) []string {
		return append(p.publish(packages...), "--sources", mode, "--sources-trusted-root", stack.TrustedRoot, "--sources-rate", "1000")
	}

	t.Run("require", func(t *testing.T) {
		p := newPlace(t)
		r := runEnv(t, env, programs.producer, with(p, "require", packages...)...).want(t, 3)
		s := decode[sourcesCampaign](t, r)
		got := map[string]string{}
		for _, f := range s.Failures {
			got[strings.TrimSuffix(f.Filename, "-1.0-0.conda")] = f.Cause
			if f.Stage != "sources" || f.Message == "" {
				t.Errorf("%+v", f)
			}
		}
		if diff := cmp.Diff(refused, got); diff != "" {
			t.Errorf("set aside (-want +got):\n%s", diff)
		}
		counts := counts
		counts.Mode = "require"
		if s.Published != len(good) || s.Sources == nil || *s.Sources != counts {
			t.Errorf("%d published, want %d; sources %+v, want %+v", s.Published, len(good), s.Sources, counts)
		}
		if n := u.requests("pypi.org/integrity/right/1.0/right-1.0.tar.gz/provenance"); n != 1 {
			t.Errorf("one source of %d packages was asked for %d times", twins+1, n)
		}
		for _, sub := range subdirs(t, p.channel) {
			for name := range records(t, filepath.Join(p.channel, sub)) {
				if published[strings.TrimSuffix(name, "-1.0-0.conda")] == "" {
					t.Errorf("%s is published", name)
				}
			}
		}
		text := runEnv(t, env, programs.producer, "status", "--all", "--state", p.state).want(t, 0).stdout
		if want := fmt.Sprintf("sources (require): %d packages verified, %d refused, 0 unverified, %d unattested", counts.Verified, counts.Refused, counts.Unattested); !strings.Contains(text, want) {
			t.Errorf("status does not say %q:\n%s", want, text)
		}

		// What was found goes with the package into its events.
		for name, e := range p.events(t, "published", len(good)) {
			src := e.Data.CustomData.Sources
			if src == nil || len(src.List) != 1 || src.List[0].Outcome != published[name] {
				t.Fatalf("%s: %+v", name, src)
			}
			x := src.List[0]
			switch {
			case name == "nobody-asks":
				if x.AskedBy != "" || x.Signers != nil {
					t.Errorf("%s: %+v", name, x)
				}
				continue
			case len(x.Signers) != 1 || !strings.HasPrefix(x.Signers[0].Identity, "https://github.com/pallets/flask/.github/workflows/") || x.Signers[0].Issuer != stack.Issuer || x.AskedBy != "recipe":
				t.Errorf("%s: %+v", name, x)
			}
			log, from := "unchecked", "upstream" // what the index has does not let it be checked here
			if name == "release" || name == "embedded" {
				log = "checked"
			}
			if name == "embedded" {
				from = "package"
			}
			if x.Log != log || x.From != from {
				t.Errorf("%s: log %s, from %s", name, x.Log, x.From)
			}
			if name == "secretive" && x.URL != "https://files.pythonhosted.org/x/secretive-1.0.tar.gz" {
				t.Errorf("the URL is told as %s", x.URL)
			}
		}
		for name, e := range p.events(t, "failed", len(refused)) {
			if src := e.Data.CustomData.Sources; src == nil || src.Refused != 1 || "sources."+src.List[0].Cause != refused[name] || e.Data.CustomData.Reason.Cause != refused[name] {
				t.Errorf("%s: %+v", name, src)
			}
		}
		all := run(t, programs.producer, "watch", "--json", "--state", p.state, "--events", "signed,published,failed,sourcesverified", "--replay", "--count",
			fmt.Sprint(2*len(good)+len(refused)+counts.Verified)).want(t, 0).stdout
		if strings.Contains(all+r.stdout+r.stderr, "hunter2") {
			t.Error("a secret of a URL is told")
		}
	})

	t.Run("again", func(t *testing.T) {
		p := newPlace(t)
		runEnv(t, env, programs.producer, with(p, "require", good...)...).want(t, 0)
		before := u.requests("")
		s := decode[sourcesCampaign](t, runEnv(t, env, programs.producer, with(p, "require", good...)...).want(t, 0))
		if s.Skipped != len(good) || s.Published != 0 {
			t.Errorf("%+v", s)
		}
		if n := u.requests("") - before; n != 0 {
			t.Errorf("%d requests for packages that are published", n)
		}
	})

	t.Run("report", func(t *testing.T) {
		p := newPlace(t)
		s := decode[sourcesCampaign](t, runEnv(t, env, programs.producer, with(p, "report", packages...)...).want(t, 0))
		counts := counts
		counts.Mode = "report"
		if s.Published != len(packages) || s.Failed != 0 || s.Sources == nil || *s.Sources != counts {
			t.Errorf("%+v; sources %+v, want %+v", s.campaign, s.Sources, counts)
		}
		got := map[string]string{}
		for name, e := range p.events(t, "sourcesrefused", len(refused)) {
			got[name] = "sources." + e.Data.CustomData.Sources.List[0].Cause
		}
		if diff := cmp.Diff(refused, got); diff != "" {
			t.Errorf("told as refused (-want +got):\n%s", diff)
		}
		line := run(t, programs.producer, "watch", "--state", p.state, "--events", "sourcesrefused", "--name", "prefix", "--replay", "--count", "1").want(t, 0).stdout
		if !strings.Contains(line, "prefix-1.0.tar.gz: publisher.mismatch") {
			t.Errorf("watch says %s", line)
		}
	})

	t.Run("outage", func(t *testing.T) {
		u := newUpstream(t)
		provenance := indexProvenance(t, flask, false)
		u.set(func() { u.provenance["/integrity/right/1.0/right-1.0.tar.gz/provenance"], u.down = provenance, true })
		env := append(slices.Clone(stack.env), u.env...)
		p := newPlace(t)
		args := with(p, "require", packages[0])
		r := runEnv(t, env, programs.producer, append(args, "--timeout", "6s")...).want(t, 5)
		if s := decode[sourcesCampaign](t, r); s.Waiting != 1 || s.Failed != 0 || u.requests("") == 0 {
			t.Errorf("%+v after %d requests", s, u.requests(""))
		}
		u.set(func() { u.down = false })
		if s := decode[sourcesCampaign](t, runEnv(t, env, programs.producer, args...).want(t, 0)); s.Published != 1 {
			t.Errorf("%+v", s)
		}
		u.sound(t)
	})

	t.Run("cut", func(t *testing.T) { sourcesInWorkers(t, u, packages, len(good), counts, refused) })
	u.sound(t)
}

// sourcesInWorkers: a worker for the stage alone, with the packages' files and a trust root, and neither identity nor store.
func sourcesInWorkers(t *testing.T, u *upstream, packages []string, good int, counts sourceCounts, refused map[string]string) {
	p := newPlace(t)
	url := "nats://" + freeAddress(t)
	bare := slices.DeleteFunc(slices.Clone(stack.env), func(kv string) bool { return strings.HasPrefix(kv, "ACTIONS_") || strings.HasPrefix(kv, "HALLMARK_") })
	hash := startWorker(t, stack.env, "--listen", strings.TrimPrefix(url, "nats://"), "--state", p.state, "--stages", "hash")
	waitForServer(t, url)
	policy := filepath.Join(t.TempDir(), "sources.yaml")
	if err := os.WriteFile(policy, []byte("version: 1\nmode: require\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, programs.producer, append([]string{"submit", "--nats", url, "--to", p.channel, "--channel-url", channelURL, "--campaign", "rebuild",
		"--certificate-identity", stack.Identity, "--certificate-oidc-issuer", stack.Issuer, "--sources-policy", policy, "--cut", "sources,sign"}, packages...)...).want(t, 0)
	sources := startWorker(t, append(bare, u.env...), "--nats", url, "--stages", "sources", "--sources-trusted-root", stack.TrustedRoot, "--sources-rate", "1000")
	// One that is cut otherwise takes nothing.
	other := startWorker(t, append(slices.Clone(stack.env), u.env...), "--nats", url, "--stages", "sources,sign", "--sources-trusted-root", stack.TrustedRoot)
	sign := startWorker(t, stack.env, "--nats", url, "--stages", "sign,upload,publish")

	waitForStatus(t, url, "rebuild", func(c campaign) bool { return c.Waiting == 0 })
	s := decode[struct{ Campaigns []sourcesCampaign }](t, run(t, programs.producer, "status", "--json", "--nats", url, "rebuild").want(t, 0)).Campaigns[0]
	counts.Mode = "require"
	if s.Published != good || s.Failed != len(refused) || s.Sources == nil || *s.Sources != counts {
		t.Errorf("%+v; sources %+v, want %+v", s.campaign, s.Sources, counts)
	}
	for _, f := range s.Failures {
		if name := strings.TrimSuffix(f.Filename, "-1.0-0.conda"); f.Cause != refused[name] {
			t.Errorf("%s: %s, want %s", name, f.Cause, refused[name])
		}
	}
	check(t, p.channel, good, subdirs(t, p.channel)...)
	for _, w := range []*workerProcess{sources, other, sign, hash} {
		w.stop(t)
	}
	if !strings.Contains(other.stderr(), "hash | sources | sign,upload,publish") {
		t.Errorf("a worker that is cut otherwise says: %s", other.stderr())
	}
}
