package provenance

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hallmark-attest/hallmark/internal/conda"
)

// recipe is a rendered recipe as rattler-build writes it, with one source and its block.
func recipe(downloadURL, sha256hex, block string) []byte {
	source := fmt.Sprintf("- url: %s\n  sha256: %s\n", downloadURL, sha256hex)
	if block != "" {
		source += "  attestation:\n    " + strings.ReplaceAll(block, "\n", "\n    ") + "\n"
	}
	indented := "  " + strings.ReplaceAll(strings.TrimSuffix(source, "\n"), "\n", "\n  ")
	return []byte("recipe:\n  schema_version: 1\n  package: {name: x, version: '1'}\n  source:\n" + indented + "\nfinalized_sources:\n" + source)
}

const byFlask = "publishers:\n- github:pallets/flask"

// TestMinimumVerification goes through the draft's checks, each thing wrong in turn, over the index's own wire.
func TestMinimumVerification(t *testing.T) {
	t.Parallel()
	f := forgeOf(t)
	other := digestOf([]byte("other"))
	for _, tt := range []struct {
		name   string
		block  string
		url    string
		sha    string
		answer func(t *testing.T) []byte // nil: 404
		policy Policy
		status Status
		cause  string
		log    string
		warn   string
	}{
		{name: "right", status: StatusVerified, log: LogChecked, answer: func(t *testing.T) []byte { return provenance(t, nil, f.sign(t, order{})) }},
		{name: "a name in other letters", block: "publishers:\n- github:Pallets/FLASK", status: StatusVerified, log: LogChecked,
			answer: func(t *testing.T) []byte { return provenance(t, nil, f.sign(t, order{})) }},
		{name: "explicit", block: "publishers:\n- identity: https://github.com/pallets/flask\n  issuer: " + githubIssuer, status: StatusVerified, log: LogChecked,
			answer: func(t *testing.T) []byte { return provenance(t, nil, f.sign(t, order{})) }},
		{name: "gitlab in a subgroup", block: "publishers:\n- gitlab:group/sub/project", status: StatusVerified, log: LogChecked,
			answer: func(t *testing.T) []byte {
				return provenance(t, nil, f.sign(t, order{san: "https://gitlab.com/group/sub/project//.gitlab-ci.yml@refs/tags/1", issuer: "https://gitlab.com"}))
			}},
		{name: "an e-mail address", block: "publishers:\n- identity: 1-compute@developer.gserviceaccount.com\n  issuer: https://accounts.google.com", status: StatusVerified, log: LogChecked,
			answer: func(t *testing.T) []byte {
				return provenance(t, nil, f.sign(t, order{san: "1-compute@developer.gserviceaccount.com", issuer: "https://accounts.google.com"}))
			}},
		{name: "an e-mail address is no prefix", block: "publishers:\n- identity: me@example.org\n  issuer: https://accounts.google.com", status: StatusRefused, cause: "publisher.mismatch",
			answer: func(t *testing.T) []byte {
				return provenance(t, nil, f.sign(t, order{san: "me@example.org/x", issuer: "https://accounts.google.com"}))
			}},
		{name: "prefix trick", status: StatusRefused, cause: "publisher.mismatch", answer: func(t *testing.T) []byte { return provenance(t, nil, f.sign(t, order{san: corsSAN})) }},
		{name: "another issuer", status: StatusRefused, cause: "publisher.issuer-mismatch",
			answer: func(t *testing.T) []byte {
				return provenance(t, nil, f.sign(t, order{issuer: githubIssuer + "/"}))
			}},
		{name: "another digest", status: StatusRefused, cause: "attestation.other-artifact", answer: func(t *testing.T) []byte { return provenance(t, nil, f.sign(t, order{sha256: other})) }},
		{name: "others in the pool do no harm", status: StatusVerified, log: LogChecked,
			answer: func(t *testing.T) []byte {
				return provenance(t, nil, f.sign(t, order{sha256: other, san: corsSAN}), f.sign(t, order{}))
			}},
		{name: "the right signer of other bytes, the wrong one of these", status: StatusRefused, cause: "publisher.mismatch",
			answer: func(t *testing.T) []byte {
				return provenance(t, nil, f.sign(t, order{sha256: other}), f.sign(t, order{san: corsSAN}))
			}},
		{name: "one bad in the pool", status: StatusRefused, cause: "signature.invalid",
			answer: func(t *testing.T) []byte {
				n := 0
				return provenance(t, func(a object) { // the second has the first one's signature
					noBodies(a)
					if n++; n == 2 {
						a["envelope"].(object)["signature"] = base64.StdEncoding.EncodeToString([]byte("no signature"))
					}
				}, f.sign(t, order{}), f.sign(t, order{}))
			}},
		{name: "two publishers, one there", block: byFlask + "\n- github:pallets/bot", status: StatusRefused, cause: "publisher.mismatch",
			answer: func(t *testing.T) []byte { return provenance(t, nil, f.sign(t, order{})) }},
		{name: "two publishers, both there", block: byFlask + "\n- github:pallets/flask-cors", status: StatusVerified, log: LogChecked,
			answer: func(t *testing.T) []byte {
				return provenance(t, nil, f.sign(t, order{}), f.sign(t, order{san: corsSAN}))
			}},
		{name: "predicate type", block: byFlask + "\npredicate_type: " + publishType, status: StatusVerified, log: LogChecked,
			answer: func(t *testing.T) []byte { return provenance(t, nil, f.sign(t, order{})) }},
		{name: "another predicate type", block: byFlask + "\npredicate_type: " + publishType, status: StatusRefused, cause: "attestation.predicate-type",
			answer: func(t *testing.T) []byte {
				return provenance(t, nil, f.sign(t, order{predicateType: "https://example.org/test/v1"}))
			}},
		{name: "no log material", status: StatusVerified, log: LogUnchecked, warn: "transparency log was not checked",
			answer: func(t *testing.T) []byte { return provenance(t, noBodies, f.sign(t, order{})) }},
		{name: "no log material, and it is asked for", policy: Policy{RequireLog: true}, status: StatusRefused, cause: "log.absent",
			answer: func(t *testing.T) []byte { return provenance(t, noBodies, f.sign(t, order{})) }},
		{name: "the log is checked where it can be", status: StatusRefused, cause: "log.not-verified",
			answer: func(t *testing.T) []byte {
				return provenance(t, func(a object) {
					a["verification_material"].(object)["transparency_entries"].([]object)[0]["integratedTime"] = "1700000000"
				}, f.sign(t, order{}))
			}},
		{name: "signed after the certificate's life", status: StatusRefused, cause: "log.not-verified",
			answer: func(t *testing.T) []byte { return provenance(t, nil, f.sign(t, order{expired: true})) }},
		{name: "another repository's run", status: StatusVerified, log: LogChecked, warn: "on behalf of",
			answer: func(t *testing.T) []byte {
				return provenance(t, nil, f.sign(t, order{repository: "https://github.com/evil/caller"}))
			}},
		{name: "all of a host", block: "publishers:\n- identity: https://github.com/pallets\n  issuer: " + githubIssuer, status: StatusVerified, log: LogChecked, warn: "wider than a repository",
			answer: func(t *testing.T) []byte { return provenance(t, nil, f.sign(t, order{})) }},
		{name: "missing", status: StatusRefused, cause: "attestation.missing"},
		{name: "empty", status: StatusRefused, cause: "attestation.missing", answer: func(t *testing.T) []byte { return provenance(t, nil) }},
		{name: "malformed", status: StatusRefused, cause: "response.malformed", answer: func(*testing.T) []byte { return []byte(`{"version":1,`) }},
		{name: "another version", status: StatusRefused, cause: "response.malformed", answer: func(*testing.T) []byte { return []byte(`{"version":2,"attestation_bundles":[]}`) }},
		{name: "HTML", status: StatusRefused, cause: "response.malformed", answer: func(*testing.T) []byte { return []byte(`<html>`) }},
		{name: "a name twice", status: StatusRefused, cause: "response.malformed", answer: func(*testing.T) []byte { return []byte(`{"version":1,"version":1,"attestation_bundles":[]}`) }},
		{name: "too large", status: StatusRefused, cause: "response.too-large", answer: func(*testing.T) []byte { return bytes.Repeat([]byte(" "), maxResponse+1) }},
		{name: "empty publishers", block: "publishers: []", status: StatusRefused, cause: "publishers.empty", answer: func(t *testing.T) []byte { return provenance(t, nil, f.sign(t, order{})) }},
		{name: "empty publishers with a bundle", block: "publishers:\nbundle_url: https://example.org/b", status: StatusRefused, cause: "publishers.empty"},
		{name: "no publishers", block: "predicate_type: x", status: StatusRefused, cause: "publishers.empty"},
		{name: "a ref", block: byFlask + "@refs/tags/3.1.1", status: StatusRefused, cause: "publisher.ref", answer: func(t *testing.T) []byte { return provenance(t, nil, f.sign(t, order{})) }},
		{name: "an unknown provider", block: "publishers:\n- bitbucket:pallets/flask", status: StatusRefused, cause: "publisher.unknown-provider"},
		{name: "no issuer", block: "publishers:\n- identity: https://github.com/pallets/flask", status: StatusRefused, cause: "publisher.malformed"},
		{name: "no sha256", sha: "''", status: StatusRefused, cause: "recipe.no-sha256"},
		{name: "an unknown constraint", block: byFlask + "\nworkflow: publish.yml", status: StatusRefused, cause: "recipe.unknown-field"},
		{name: "another host", url: "https://example.org/flask-3.1.1.tar.gz", status: StatusRefused, cause: "bundle-url.none"},
		{name: "a host that looks like the index", url: "https://pypi.org.example.org/flask-3.1.1.tar.gz", status: StatusRefused, cause: "bundle-url.none"},
		{name: "http", block: byFlask + "\nbundle_url: http://example.org/b", status: StatusRefused, cause: "bundle-url.invalid"},
		{name: "credentials", block: byFlask + "\nbundle_url: https://a:b@example.org/b", status: StatusRefused, cause: "bundle-url.invalid"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			x := newIndex(t)
			if tt.answer != nil {
				x.provenance[flaskPath] = tt.answer(t)
			}
			c := NewChecker(f.verifier(t), x.fetcher(nil))
			files := conda.Files{renderedRecipe: recipe(or(tt.url, flaskURL), or(tt.sha, flaskSHA256), or(tt.block, byFlask))}
			report, err := c.Check(t.Context(), files, tt.policy)
			if err != nil || len(report.Outcomes) != 1 || report.Retry != nil {
				t.Fatalf("%+v, %v", report, err)
			}
			o := report.Outcomes[0]
			if o.Status != tt.status || o.Cause != tt.cause || o.Log != tt.log || o.AskedBy != "recipe" {
				t.Errorf("%+v", o)
			}
			if warned := strings.Contains(strings.Join(o.Warnings, "\n"), or(tt.warn, "\x00")); warned != (tt.warn != "") || tt.warn == "" && len(o.Warnings) > 0 {
				t.Errorf("warnings %q", o.Warnings)
			}
			if (o.Status == StatusVerified) != (len(o.Signers) > 0) {
				t.Errorf("signers %+v", o.Signers)
			}
		})
	}
}

// TestSeveralBundles: every URL is fetched, the bundles are pooled, and one URL that fails fails the source.
func TestSeveralBundles(t *testing.T) {
	t.Parallel()
	f, x := forgeOf(t), newIndex(t)
	serve := func(data []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(data) }
	}
	x.other["/a"] = serve(f.sign(t, order{}))
	x.other["/b"] = serve(provenance(t, nil, f.sign(t, order{san: corsSAN})))
	x.other["/c"] = serve([]byte(`{"attestations":[{"bundle":` + string(f.sign(t, order{})) + `,"repository_id":1}]}`))
	c := NewChecker(f.verifier(t), x.fetcher(nil))
	for _, tt := range []struct{ paths, want string }{
		{"a b", ""}, {"c b", ""}, {"a", "publisher.mismatch"}, {"a b missing", "attestation.missing"},
	} {
		block := byFlask + "\n- github:pallets/flask-cors\nbundle_url:"
		for p := range strings.FieldsSeq(tt.paths) {
			block += "\n- " + x.URL + "/" + p
		}
		r, err := c.Check(t.Context(), conda.Files{renderedRecipe: recipe("https://example.org/f.tgz", flaskSHA256, block)}, Policy{})
		if err != nil || r.Outcomes[0].Cause != tt.want || (r.Outcomes[0].Status == StatusVerified) != (tt.want == "") {
			t.Errorf("%s: %+v, %v", tt.paths, r, err)
		}
	}
}

// TestEmbedded: the package's own bundles come first; what was tampered with is refused, what is not enough is fetched.
func TestEmbedded(t *testing.T) {
	t.Parallel()
	f := forgeOf(t)
	good, cors, bad := f.sign(t, order{}), f.sign(t, order{san: corsSAN}), f.sign(t, order{expired: true})
	name := "attestations/" + flaskFile + ".0.sigstore.json"
	listed := func(data []byte) string {
		return byFlask + "\nverified:\n- path: " + name + "\n  sha256: " + digestOf(data) + "\n  predicate_type: x\n  san: y\n  issuer: z"
	}
	for _, tt := range []struct {
		name, block string
		file        []byte
		status      Status
		cause, from string
		requests    int64
	}{
		{"listed", listed(good), good, StatusVerified, "", "package", 0},
		{"by its name", byFlask, good, StatusVerified, "", "package", 0},
		{"other bytes than listed", listed(cors), good, StatusRefused, "embedded.changed", "", 0},
		{"does not verify", listed(bad), bad, StatusRefused, "log.not-verified", "package", 0},
		{"somebody else's", listed(cors), cors, StatusVerified, "", "upstream", 1},
		{"listed, and not there", listed(good), nil, StatusVerified, "", "upstream", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			x := newIndex(t)
			x.provenance[flaskPath] = provenance(t, nil, good)
			files := conda.Files{renderedRecipe: recipe(flaskURL, flaskSHA256, tt.block)}
			if tt.file != nil {
				files["recipe/"+name] = tt.file
			}
			r, err := NewChecker(f.verifier(t), x.fetcher(nil)).Check(t.Context(), files, Policy{})
			if err != nil || len(r.Outcomes) != 1 {
				t.Fatal(r, err)
			}
			if o := r.Outcomes[0]; o.Status != tt.status || o.Cause != tt.cause || o.From != tt.from || x.requests.Load() != tt.requests {
				t.Errorf("%+v after %d requests", o, x.requests.Load())
			}
		})
	}
}

// TestPolicy: rules for hosts, for sources whose recipe asks for nothing.
func TestPolicy(t *testing.T) {
	t.Parallel()
	f, x := forgeOf(t), newIndex(t)
	x.provenance[flaskPath] = provenance(t, nil, f.sign(t, order{}))
	p, err := ParsePolicy([]byte("version: 1\nmode: require\nhosts:\n- {host: pypi.org, project: Flask, publishers: ['github:pallets/flask']}\n" +
		"- {host: github.com, path: /pallets, publishers: ['github:{owner}/{repo}'], bundles: ['" + x.URL + "/{owner}/{repo}/{sha256}']}\n" +
		"- {host: gitlab.example.org, publishers: [{identity: 'https://github.com/pallets/flask', issuer: '" + githubIssuer + "'}], bundles: ['" + x.URL + "/pallets/flask/{sha256}']}\n"))
	if err != nil {
		t.Fatal(err)
	}
	x.other["/pallets/flask/"+flaskSHA256] = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(f.sign(t, order{})) })
	x.other["/pallets/flask-cors/"+flaskSHA256] = x.other["/pallets/flask/"+flaskSHA256]
	c := NewChecker(f.verifier(t), x.fetcher(nil))
	for _, tt := range []struct {
		url, sha string
		status   Status
		cause    string
	}{
		{flaskURL, flaskSHA256, StatusVerified, ""},
		{"https://pypi.io/packages/source/F/Flask/" + flaskFile, flaskSHA256, StatusVerified, ""},
		{flaskURL, digestOf(nil), StatusRefused, "attestation.other-artifact"},
		{"https://pypi.org/x/django-1.tar.gz", flaskSHA256, StatusNone, ""},
		{"https://github.com/pallets/flask/releases/download/3.1.1/f.tgz", flaskSHA256, StatusVerified, ""},
		{"https://github.com/pallets/flask-cors/releases/download/3.1.1/f.tgz", flaskSHA256, StatusRefused, "publisher.mismatch"},
		{"https://github.com/palletsevil/flask/releases/download/3.1.1/f.tgz", flaskSHA256, StatusNone, ""},
		{"https://github.com/pallets/flask/archive/3.1.1.tar.gz", flaskSHA256, StatusNone, ""},
		{"https://example.org/f.tgz", flaskSHA256, StatusNone, ""},
		{"https://gitlab.example.org/f.tgz", flaskSHA256, StatusVerified, ""},
	} {
		meta := []byte("package: {name: x}\nsource:\n  url: " + tt.url + "\n  sha256: " + tt.sha + "\n")
		r, err := c.Check(t.Context(), conda.Files{metaRecipe: meta}, p)
		if err != nil || len(r.Outcomes) != 1 || r.Outcomes[0].Status != tt.status || r.Outcomes[0].Cause != tt.cause {
			t.Errorf("%s: %+v, %v", tt.url, r, err)
		}
	}
	for name, tt := range map[string]struct {
		text string
		want Code
	}{
		"nobody":      {"version: 1\nhosts: [{host: pypi.org}]", CodePublishersEmpty},
		"unknown key": {"version: 1\nhost: []", CodePolicy},
		"a ref":       {"version: 1\nhosts: [{host: pypi.org, publishers: ['github:a/b@refs/tags/1']}]", CodePublisherRef},
		"no bundles":  {"version: 1\nhosts: [{host: github.com, publishers: ['github:a/b']}]", CodeNoBundleURL},
		"no issuer":   {"version: 1\nhosts: [{host: pypi.org, publishers: [{identity: 'https://github.com/a/b'}]}]", CodePublisher},
		"no identity": {"version: 1\nhosts: [{host: pypi.org, publishers: [{issuer: 'https://i'}]}]", CodePublisher},
		"other key":   {"version: 1\nhosts: [{host: pypi.org, publishers: [{identity: 'https://github.com/a/b', issuer: 'https://i', ref: x}]}]", CodeRecipeField},
		"null":        {"version: 1\nhosts: [{host: pypi.org, publishers: ['github:a/b', null]}]", CodePublisher},
		"list":        {"version: 1\nhosts: [{host: pypi.org, publishers: [[]]}]", CodePublisher},
		"no list":     {"version: 1\nhosts: [{host: pypi.org, publishers: 'github:a/b'}]", CodePolicy},
		"mode":        {"version: 1\nmode: maybe", CodePolicy},
		"version":     {"mode: off", CodePolicy},
		"owner":       {"version: 1\nhosts: [{host: example.org, publishers: ['github:{owner}/b'], bundles: ['{url}.json']}]", CodePolicy},
	} {
		if _, err := ParsePolicy([]byte(tt.text)); CodeOf(err) != tt.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRealBundles: bundles that public Sigstore signed and logged, in the index's form.
func TestRealBundles(t *testing.T) {
	t.Parallel()
	const beacon = "github:sigstore-conformance/extremely-dangerous-public-oidc-beacon"
	sha := digestOf(corpus(t, "conformance/a.txt"))
	good := corpus(t, "conformance/happy-path-intoto-in-dsse-v3/bundle.sigstore.json")
	bad := corpus(t, "conformance/dsse-mismatch-envelope_fail/bundle.sigstore.json")
	v := trusting(t, corpus(t, "public-good-trusted_root.json"))
	for _, tt := range []struct {
		name, publisher, sha string
		answer               []byte
		status               Status
		cause, log           string
	}{
		{"right", beacon, sha, provenance(t, nil, good), StatusVerified, "", LogChecked},
		{"right, no bodies", beacon, sha, provenance(t, noBodies, good), StatusVerified, "", LogUnchecked},
		{"prefix", beacon[:len(beacon)-1], sha, provenance(t, nil, good), StatusRefused, "publisher.mismatch", ""},
		{"digest", beacon, digestOf(nil), provenance(t, nil, good), StatusRefused, "attestation.other-artifact", ""},
		{"another envelope", beacon, sha, provenance(t, nil, bad), StatusRefused, "log.not-verified", ""},
		{"staging's", beacon, sha, provenance(t, nil, corpus(t, "conformance/rekor2-dsse-happy-path/bundle.sigstore.json")), StatusRefused, "log.not-verified", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			x := newIndex(t)
			x.provenance["/integrity/a-b/1.0+x/A_b-1.0+x-py3-none-any.whl/provenance"] = tt.answer
			files := conda.Files{renderedRecipe: recipe("https://pypi.org/packages/A_b-1.0+x-py3-none-any.whl", tt.sha, "publishers:\n- "+tt.publisher)}
			r, err := NewChecker(v, x.fetcher(nil)).Check(t.Context(), files, Policy{})
			if err != nil || len(r.Outcomes) != 1 {
				t.Fatal(r, err)
			}
			if o := r.Outcomes[0]; o.Status != tt.status || o.Cause != tt.cause || o.Log != tt.log {
				t.Errorf("%+v", o)
			}
		})
	}
}

// TestRecordedBundle: a bundle of a private Sigstore with Rekor v2. It verifies as it is; PEP 740 has no place for its
// timestamp, and without that there is no time to go by.
func TestRecordedBundle(t *testing.T) {
	t.Parallel()
	read := func(name string) []byte {
		data, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	var sidecar []json.RawMessage
	if err := json.Unmarshal(read("recorded.sigs"), &sidecar); err != nil {
		t.Fatal(err)
	}
	x := newIndex(t)
	c := NewChecker(trusting(t, read("trusted_root.json")), x.fetcher(nil))
	src := Source{URLs: []string{flaskURL}, SHA256: "e545c5b52e91f932997d82495b4e862136cc214bbc758950d41a0657e49d3095",
		Attestation: &Attestation{Publishers: []Publisher{{Identity: "https://github.com/acme/feedstock", Issuer: "http://127.0.0.1:30718"}}}}
	o, _, err := c.CheckSource(t.Context(), src, Policy{RequireLog: true}, []Bundle{{Raw: sidecar[0]}})
	if err != nil {
		t.Fatal(err)
	}
	want := Outcome{URL: flaskURL, SHA256: src.SHA256, Status: StatusVerified, Publishers: []string{"https://github.com/acme/feedstock by http://127.0.0.1:30718"},
		Log: LogChecked, From: "given", Signers: []Signer{{Identity: "https://github.com/acme/feedstock/.github/workflows/publish.yml@refs/heads/main",
			Issuer: "http://127.0.0.1:30718", PredicateType: "https://schemas.conda.org/attestations-publish-1.schema.json", Log: LogChecked}}}
	if diff := cmp.Diff(want, o); diff != "" {
		t.Error(diff)
	}
	x.provenance[flaskPath] = provenance(t, nil, sidecar[0])
	if o, _, err = c.CheckSource(t.Context(), src, Policy{}, nil); err != nil || o.Cause != "timestamp.not-verified" {
		t.Errorf("%+v, %v", o, err)
	}
	src.Attestation.Publishers = nil
	if o, _, err = c.CheckSource(t.Context(), src, Policy{}, []Bundle{{Raw: sidecar[0]}}); err != nil || o.Cause != "publishers.empty" {
		t.Errorf("%+v, %v", o, err)
	}
}
