package attest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

func fullPolicy(t testing.TB) (Policy, []byte) {
	t.Helper()
	data, err := os.ReadFile("testdata/policy/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	p, err := ParsePolicy("full.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	return p, data
}

func TestParsePolicy(t *testing.T) {
	t.Parallel()
	const google = "https://accounts.google.com"
	got, _ := fullPolicy(t)
	want := Policy{
		Signers: []Signer{
			{Repository: "github:acme/feedstock"},
			{Repository: "github:acme/feedstock@refs/heads/main"},
			{Repository: "gitlab:acme/tools/forge@refs/tags/v1.0"},
			{Identity: "release@acme.example", Issuer: google},
			{IdentityPrefix: "https://github.com/acme/workflows", Issuer: githubIssuer, Claims: Claims{"sourceRepositoryOwner": {Exact: "https://github.com/acme"}}},
			{IdentityPattern: `spiffe://acme\.example/ns/[a-z-]+/sa/signer`, IssuerPattern: `https://oidc\.[a-z0-9]+\.acme\.example`},
			{Repository: "github:acme/nightly", Claims: Claims{"buildTrigger": {Exact: "schedule"}}},
		},
		Claims: Claims{"runnerEnvironment": {Exact: "github-hosted"}, "sourceRepositoryRef": {Pattern: "refs/heads/main|refs/tags/v[0-9.]+"}},
		Predicates: []Predicate{
			{Type: PredicateType},
			{Type: "https://slsa.dev/provenance/v1", Signers: []Signer{{Repository: "github:acme/builder"}}},
			{
				Type: "https://in-toto.io/attestation/vulns/v0.1", Extra: true, Signers: []Signer{{Identity: "scanner@acme.example", Issuer: google}},
				Claims: Claims{"sourceRepositoryIdentifier": {Exact: "1092908474"}},
			},
		},
		TargetChannel: "https://conda.acme.example/main",
		Channel:       ChannelWarn,
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if w := got.Warnings(); len(w) > 0 {
		t.Errorf("warnings %q", w)
	}
}

func TestParsePolicyDefaults(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]Policy{
		"signers: [github:a/b]":                                        {Signers: repository("github:a/b")},
		"\ufeffsigners: [github:a/b]\r\n":                              {Signers: repository("github:a/b")},
		"---\nsigners:\n- github:a/b\n# end\n...\n":                    {Signers: repository("github:a/b")},
		`{"version":1,"signers":["github:a/b"]}`:                       {Signers: repository("github:a/b")},
		"signers: [github:a/b]\nchannel: {check: ignore}":              {Signers: repository("github:a/b"), Channel: ChannelIgnore},
		"signers: [github:a/b]\nchannel: {url: '" + testChannel + "'}": {Signers: repository("github:a/b"), Channel: ChannelRequire, TargetChannel: testChannel},
		"signers: [github:a/b]\nchannel: {check: require}":             {Signers: repository("github:a/b"), Channel: ChannelRequire},
		"signers: [github:a/b]\npredicates: {extra: [{type: 'https://x.example', signers: [gitlab:a/b]}]}": {Signers: repository("github:a/b"), Predicates: []Predicate{
			{Type: PredicateType}, {Type: "https://x.example", Extra: true, Signers: repository("gitlab:a/b")}}},
	} {
		got, err := ParsePolicy("p", []byte(file))
		if err != nil {
			t.Error(err)
		}
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("%s:\n%s", file, diff)
		}
	}
}

// faultyPolicies are files that are wrong. Their messages are in a golden file.
func faultyPolicies() []string {
	const right = "signers: [github:a/b]\n"
	list := []string{
		// Nothing in it.
		"", "# a comment\n", "---\n", "~", "null\n", "{}", "signers:\n", "signers: []\n", "version: 1\n", "claims: {buildTrigger: push}\n",
		// No policy.
		"[]", "- github:a/b\n", "policy", "17", "signers", right + "--- \n" + right, right + "...\n---\n", right + "...\nsigners: [", "a: b: c\n",
		right + "claims: {buildTrigger: push\n", "signers:\n - github:a/b\n  - github:c/d\n", "signers:\n\t- github:a/b\n", "signers:\n  \t- github:a/b\n",
		"\xff\xfe", right + "# \xe9\n", "signers: [\"github:a/b\x00\"]", right + "# \x1b[2J\n", "%YAML 1.2\n---\n" + right,
		// Keys.
		"signer: [github:a/b]\n", "Signers: [github:a/b]\n", right + right, "signers: [github:a/b]\nx-note: later\n", right + "17: a\n", right + "[a]: b\n", right + "~: b\n",
		right + "<<: {version: 1}\n", right + "\"signers\": []\n",
		// YAML's tricks.
		"signers: &s [github:a/b]\n", "signers: &s [github:a/b]\nclaims: *s\n", "signers: *nobody\n", "signers: [!!str github:a/b]\n", "signers: !x [github:a/b]\n", "&a signers: [github:a/b]\n",
		"a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: [*c,*c]\n",
		// Types.
		"signers: github:a/b\n", "signers: {github: a/b}\n", "signers:\n  - github: a/b\n", "signers: [17, true, 2026-01-01, ~, [github:a/b], 1.5]\n", right + "claims: [a]\n", right + "claims: push\n",
		right + "claims: {buildTrigger: true}\n", right + "claims: {buildTrigger: [push]}\n", right + "claims: {sourceRepositoryIdentifier: 1092908474}\n", right + "channel: require\n", right + "channel: {check: [require]}\n",
		right + "predicates: [https://x.example]\n", right + "predicates: {required: https://x.example}\n", right + "version: '1'\n", right + "version: 2\n", right + "version: [1]\n", right + "version: 0x1\n",
		// Signers.
		"signers: ['']\n", "signers: [' github:a/b']\n", "signers: [alice@acme.example]\n", "signers: [github:a]\n", "signers: [github:a/b/c]\n", "signers: [github:a/]\n", "signers: ['github:a/..']\n",
		"signers: [bitbucket:a/b]\n", "signers: ['https://github.com/a/b']\n", "signers: ['github:a/b@main']\n", "signers: ['github:a/b@']\n", "signers: ['github:a/b@refs/heads/*']\n", "signers: ['gitlab:a']\n", "signers: ['github:*/b']\n",
		"signers:\n  - identity: a@b.example\n", "signers:\n  - issuer: https://a.example\n", "signers:\n  - {}\n", "signers:\n  - identity: ''\n    issuer: https://a.example\n",
		"signers:\n  - identity: a\n    identityPrefix: b\n    issuer: https://a.example\n", "signers:\n  - identity: a\n    issuer: https://a.example\n    issuerPattern: b\n",
		"signers:\n  - identity: a\n    issuer: token.actions.githubusercontent.com\n", "signers:\n  - identity: |\n      a\n    issuer: https://a.example\n", "signers:\n  - repository: github:a/b\n    issuer: https://a.example\n",
		"signers:\n  - identityPattern: '('\n    issuer: https://a.example\n", "signers:\n  - identityPattern: 'a)|(b'\n    issuer: https://a.example\n", "signers:\n  - identityPattern: '(?=a)'\n    issuerPattern: '['\n",
		"signers:\n  - identityPattern: '" + strings.Repeat("a", maxPattern+1) + "'\n    issuer: https://a.example\n", "signers:\n  - identityRegexp: a\n    issuer: https://a.example\n",
		"signers:\n  - identityPrefix: https://\n    issuer: https://a.example\n", "signers:\n  - identityPrefix: /\n    issuer: https://a.example\n", "signers:\n  - repository: github:a\n", "signers:\n  - github:a/b\n  - identity: a\n    issuer: b\n    claims: {ref: main}\n",
		// Claims.
		right + "claims: {}\n", right + "claims:\n", right + "claims: {repository: a, ref: b, workflow: c, owner: d}\n", right + "claims: {buildTrigger: ''}\n", right + "claims: {buildTrigger: {}}\n", right + "claims: {buildTrigger: {pattern: '('}}\n",
		right + "claims: {buildTrigger: {exact: push}}\n", right + "claims: {buildTrigger: push, buildTrigger: push}\n", right + "claims:\n  buildTrigger: {pattern: push, pattern: x}\n",
		// Predicate types.
		right + "predicates: {}\n", right + "predicates: {required: []}\n", right + "predicates: {required: [provenance]}\n", right + "predicates: {required: ['https://x.example', 'https://x.example']}\n", right + "predicates: {extra: [https://x.example]}\n",
		right + "predicates:\n  extra:\n    - type: https://x.example\n", right + "predicates:\n  extra:\n    - type: https://x.example\n      signers: []\n", right + "predicates:\n  required:\n    - type: https://x.example\n      claims: {buildTrigger: push}\n",
		right + "predicates:\n  extra:\n    - type: " + PredicateType + "\n      signers: [github:a/b]\n", right + "predicates:\n  required:\n    - signers: [github:a/b]\n", right + "predicates: {optional: []}\n",
		// Channel.
		right + "channel: {}\n", right + "channel: {check: maybe}\n", right + "channel: {check: Require}\n", right + "channel: {url: s3://acme/main}\n", right + "channel: {url: 'https://conda.acme.example/main/'}\n", right + "channel: {url: 'https://conda.acme.example/t/se-cret/main'}\n",
		right + "channel: {url: 'https://user:secret@conda.acme.example'}\n", right + "channel: {url: ''}\n", right + "channel: {check: off, url: 17}\n",
		// Several things at once, in the order of the file.
		"version: 3\nsigners:\n  - github:a\n  - identity: 5\nclaims: {runnerEnvironment: [x]}\nchanel: {}\n",
		"signers: [" + strings.Repeat("github:a,", maxFaults+5) + "]\n",
	}
	return append(list, "signers: ["+strings.Repeat("github:a/b,", maxSigners+1)+"]", "# "+strings.Repeat("x", MaxPolicy), strings.Repeat("[", 5000))
}

func TestParsePolicyFaults(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	for i, file := range faultyPolicies() {
		p, err := ParsePolicy("policy.yaml", []byte(file))
		if err == nil || CodeOf(err) != CodePolicyEmpty && CodeOf(err) != CodePolicyInvalid {
			t.Fatalf("%.200q: %+v, %v", file, p, err)
		}
		if diff := gocmp.Diff(Policy{}, p); diff != "" {
			t.Errorf("%.200q: a policy beside the error", file)
		}
		if f, ok := errors.AsType[*Fault](err); !ok || f.Line < 1 || f.File != "policy.yaml" {
			t.Errorf("%.200q: no fault with a line in %v", file, err)
		}
		if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "se-cret") {
			t.Errorf("a credential in %v", err)
		}
		for line := range strings.Lines(err.Error()) {
			if len(line) > 800 {
				t.Errorf("%.80q: a message of %d bytes", file, len(line))
			}
		}
		fmt.Fprintf(&b, "-- %d --\n", i+1)
		for line := range strings.Lines(fmt.Sprintf("%.300s", file)) {
			fmt.Fprintf(&b, "  | %s\n", strings.Trim(fmt.Sprintf("%.120q", strings.TrimSuffix(line, "\n")), `"`))
		}
		fmt.Fprintf(&b, "%s\n", err)
	}
	golden(t, "policy/faults.golden", b.Bytes())
}

func TestCanonical(t *testing.T) {
	t.Parallel()
	p, data := fullPolicy(t)
	golden(t, "policy/full.canonical.json", append(p.Canonical(), '\n'))
	if want := hexSHA256(p.Canonical()); p.Digest() != want {
		t.Errorf("digest %s, want %s", p.Digest(), want)
	}
	again, err := ParsePolicy("canonical", p.Canonical())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.Canonical(), p.Canonical()) {
		t.Errorf("read again, it is\n%s", again.Canonical())
	}
	// Said in another way, it is the same.
	same, err := ParsePolicy("same", data)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(same.Signers)
	slices.Reverse(same.Predicates)
	same.Signers = append(same.Signers, same.Signers[0], Signer{Repository: "github:ACME/Feedstock"})
	if same.Digest() != p.Digest() {
		t.Errorf("in another order, it is\n%s", same.Canonical())
	}
	base := Policy{Signers: repository("github:a/b"), TargetChannel: testChannel}
	explicit := Policy{Signers: base.Signers, TargetChannel: testChannel, Channel: ChannelRequire, Predicates: []Predicate{{Type: PredicateType}}}
	if base.Digest() != explicit.Digest() {
		t.Errorf("the defaults written out:\n%s\n%s", base.Canonical(), explicit.Canonical())
	}
	// Whatever else is said, it is another one.
	digests := map[string]string{base.Digest(): "the base"}
	for name, change := range map[string]func(p *Policy){
		"signer":         func(p *Policy) { p.Signers = repository("github:a/c") },
		"ref":            func(p *Policy) { p.Signers = repository("github:a/b@refs/heads/main") },
		"ref's case":     func(p *Policy) { p.Signers = repository("github:a/b@refs/heads/Main") },
		"more signers":   func(p *Policy) { p.Signers = append(repository("github:a/c"), p.Signers...) },
		"exact":          func(p *Policy) { p.Signers = allow("a", "b").Signers },
		"prefix":         func(p *Policy) { p.Signers = []Signer{{IdentityPrefix: "a", Issuer: "b"}} },
		"pattern":        func(p *Policy) { p.Signers = []Signer{{IdentityPattern: "a", Issuer: "b"}} },
		"regexp":         func(p *Policy) { p.Signers = []Signer{{IdentityRegexp: "a", Issuer: "b"}} },
		"issuer":         func(p *Policy) { p.Signers = allow("a", "c").Signers },
		"issuer pattern": func(p *Policy) { p.Signers = []Signer{{Identity: "a", IssuerPattern: "b"}} },
		"signer's claims": func(p *Policy) {
			p.Signers = []Signer{{Repository: "github:a/b", Claims: Claims{"buildTrigger": {Exact: "x"}}}}
		},
		"claims":          func(p *Policy) { p.Claims = Claims{"buildTrigger": {Exact: "x"}} },
		"claim's pattern": func(p *Policy) { p.Claims = Claims{"buildTrigger": {Pattern: "x"}} },
		"required":        func(p *Policy) { p.Predicates = []Predicate{{Type: PredicateType}, {Type: "a:b"}} },
		"extra": func(p *Policy) {
			p.Predicates = []Predicate{{Type: PredicateType}, {Type: "a:b", Extra: true, Signers: p.Signers}}
		},
		"required's own": func(p *Policy) { p.Predicates = []Predicate{{Type: PredicateType, Signers: p.Signers}} },
		"channel":        func(p *Policy) { p.TargetChannel += "2" },
		"warn":           func(p *Policy) { p.Channel = ChannelWarn },
		"ignore":         func(p *Policy) { p.Channel = ChannelIgnore },
		"no channel":     func(p *Policy) { p.TargetChannel = "" },
		"named later":    func(p *Policy) { p.TargetChannel, p.Channel = "", ChannelRequire },
	} {
		p := base
		change(&p)
		if other, ok := digests[p.Digest()]; ok {
			t.Errorf("%s is as %s: %s", name, other, p.Canonical())
		}
		digests[p.Digest()] = name
	}
}

// TestCanonicalRegexp: cosign's expressions, which are found anywhere, decide the same once they are patterns.
func TestCanonicalRegexp(t *testing.T) {
	t.Parallel()
	identities := []string{testIdentity, "acme", "xacme", "acmex", "a\ncme", "acme\n", "", "|", "a|b", `acme)`, "ACME", "\nacme"}
	for _, expr := range []string{
		"acme", "^acme", "acme$", "^acme$", "acme|b", "^a|e$", `\Qacme)`, `\Q|\E`, "(?i)acme", "(?m)^acme$", "", `a\b`, "a*?", `^https://github\.com/acme/`, `\Aacme\z`, "(?s)a.cme", "(?U)a+",
	} {
		flags := Policy{Signers: []Signer{{IdentityRegexp: cmp.Or(expr, ".*"), IssuerRegexp: "^https://"}}}
		file, err := ParsePolicy("canonical", flags.Canonical())
		if err != nil {
			t.Errorf("%q: %v", expr, err)
			continue
		}
		for _, id := range identities {
			want, got := flags.CheckSigner(id, githubIssuer, nil), file.CheckSigner(id, githubIssuer, nil)
			if CodeOf(want) != CodeOf(got) {
				t.Errorf("%q of %q: %q, and as a pattern %q", expr, id, CodeOf(want), CodeOf(got))
			}
		}
	}
}

// TestPolicyDocument: the files in the documentation are policies.
func TestPolicyDocument(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(doc, -1)
	if len(blocks) < 2 {
		t.Fatalf("%d examples", len(blocks))
	}
	for _, b := range blocks {
		p, err := ParsePolicy("docs/policy.md", b[1])
		if err != nil {
			t.Error(err)
		}
		if w := p.Warnings(); len(w) > 0 {
			t.Errorf("warnings %q", w)
		}
	}
	// What it says of the codes and claims is all there is.
	for _, name := range claimNames() {
		if !bytes.Contains(doc, []byte("`"+name+"`")) {
			t.Errorf("the claim %s is not there", name)
		}
	}
	for _, code := range []Code{
		CodePolicyEmpty, CodePolicyInvalid, CodePolicyChannel, CodeIdentityMismatch, CodeIssuerMismatch, CodeClaimMissing, CodeClaimMismatch,
		CodePredicateNotAllowed, CodeStatementTargetChannel, CodeSidecarMissing, CodeSidecarNoMatch, CodeSidecarMalformed, CodeSidecarTooLarge, CodeSidecarDigest,
	} {
		if !bytes.Contains(doc, []byte("`"+string(code)+"`")) {
			t.Errorf("the code %s is not there", code)
		}
	}
}

func FuzzParsePolicy(f *testing.F) {
	_, full := fullPolicy(f)
	f.Add(full)
	for _, file := range faultyPolicies() {
		if len(file) < 2000 {
			f.Add([]byte(file))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParsePolicy("fuzz", data)
		if err != nil {
			if CodeOf(err) != CodePolicyEmpty && CodeOf(err) != CodePolicyInvalid {
				t.Errorf("an error without its code: %v", err)
			}
			return
		}
		if err := p.Check(); err != nil || len(p.Signers) == 0 {
			t.Errorf("accepted, and not usable: %v", err)
		}
		p.Warnings()
		again, err := ParsePolicy("canonical", p.Canonical())
		if err != nil {
			t.Fatalf("the canonical form %s is refused: %v", p.Canonical(), err)
		}
		if !bytes.Equal(p.Canonical(), again.Canonical()) {
			t.Errorf("canonical twice: %s and %s", p.Canonical(), again.Canonical())
		}
		if p.CheckSigner("", "", nil) == nil {
			t.Error("nobody is allowed")
		}
	})
}
