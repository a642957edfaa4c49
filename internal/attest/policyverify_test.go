package attest

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What a job of GitHub Actions gets in its certificate, for flask's own release workflow.
const (
	flask         = "https://github.com/pallets/flask"
	flaskWorkflow = flask + "/.github/workflows/release.yml@refs/tags/3.1.1"
)

func githubClaims(change map[int]string) map[int]string {
	claims := map[int]string{
		9: flaskWorkflow, 10: strings.Repeat("a", 40), 11: "github-hosted", 12: flask, 13: strings.Repeat("b", 40), 14: "refs/tags/3.1.1",
		15: "596892", 16: "https://github.com/pallets", 17: "16748505", 18: flaskWorkflow, 19: strings.Repeat("c", 40), 20: "push",
		21: flask + "/actions/runs/1/attempts/1", 22: "public",
	}
	maps.Copy(claims, change)
	for n, v := range claims {
		if v == "" {
			delete(claims, n)
		}
	}
	return claims
}

func githubOrder(change map[int]string) order {
	return order{identities: []string{flaskWorkflow}, issuer: githubIssuer, extensions: githubClaims(change)}
}

func repository(shorthand string) []Signer { return []Signer{{Repository: shorthand}} }

// TestVerifyPolicies: certificates and policies, of which one part is wrong at a time, with everything else of the bundle
// right. "" is what passes.
func TestVerifyPolicies(t *testing.T) {
	t.Parallel()
	f := forgeOf(t)
	v := f.verifier(t, nil)
	as := func(identity string, change map[int]string) order {
		o := githubOrder(change)
		o.identities = []string{identity}
		return o
	}
	byFlask := repository("github:pallets/flask")
	require := func(claims Claims) Policy { return Policy{Signers: byFlask, Claims: claims} }
	pattern := func(s Signer) Policy { return Policy{Signers: []Signer{s}} }
	gitlab := order{
		identities: []string{"https://gitlab.com/acme/tools/forge//.gitlab-ci.yml@refs/heads/main"}, issuer: "https://gitlab.com",
		extensions: map[int]string{12: "https://gitlab.com/acme/tools/forge", 14: "refs/heads/main", 11: "gitlab-hosted"},
	}
	const slsa = "https://slsa.dev/provenance/v1"
	for _, tt := range []struct {
		name   string
		order  order
		policy Policy
		want   Code
	}{
		// Shorthands.
		{"github", githubOrder(nil), Policy{Signers: byFlask}, ""},
		{"github, other case", githubOrder(nil), Policy{Signers: repository("github:Pallets/FLASK")}, ""},
		{"github, certificate in other case", as(strings.Replace(flaskWorkflow, "pallets", "Pallets", 1), map[int]string{12: "https://github.com/Pallets/flask"}), Policy{Signers: byFlask}, ""},
		{"github, longer name", as(strings.Replace(flaskWorkflow, "flask", "flask-cors", 1), map[int]string{12: flask + "-cors"}), Policy{Signers: byFlask}, CodeIdentityMismatch},
		{"github, longer source only", githubOrder(map[int]string{12: flask + "-cors"}), Policy{Signers: byFlask}, CodeClaimMismatch},
		{"github, shorter name", githubOrder(nil), Policy{Signers: repository("github:pallets/flas")}, CodeIdentityMismatch},
		{"github, below the repository", githubOrder(map[int]string{12: flask + "/x"}), Policy{Signers: byFlask}, CodeClaimMismatch},
		{"github, workflow called from elsewhere", githubOrder(map[int]string{12: "https://github.com/mallory/flask"}), Policy{Signers: byFlask}, CodeClaimMismatch},
		{"github, workflow of elsewhere", as("https://github.com/mallory/ci/.github/workflows/release.yml@refs/heads/main", nil), Policy{Signers: byFlask}, CodeIdentityMismatch},
		{"github, no source", githubOrder(map[int]string{12: ""}), Policy{Signers: byFlask}, CodeClaimMissing},
		{"github, no claims at all", order{identities: []string{flaskWorkflow}, issuer: githubIssuer, extensions: map[int]string{}}, Policy{Signers: byFlask}, CodeClaimMissing},
		{"github, other issuer", order{identities: []string{flaskWorkflow}, extensions: githubClaims(nil)}, Policy{Signers: byFlask}, CodeIssuerMismatch},
		{"github, issuer with a slash", order{identities: []string{flaskWorkflow}, issuer: githubIssuer + "/", extensions: githubClaims(nil)}, Policy{Signers: byFlask}, CodeIssuerMismatch},
		{"github, host in front", as("https://evil.example/https://github.com/pallets/flask/x", nil), Policy{Signers: byFlask}, CodeIdentityMismatch},
		{"github, http", as(strings.Replace(flaskWorkflow, "https", "http", 1), nil), Policy{Signers: byFlask}, CodeIdentityMismatch},
		{"github, Kelvin sign", githubOrder(map[int]string{12: "https://github.com/pallets/flas\u212a"}), Policy{Signers: byFlask}, CodeClaimMismatch},
		{"github@ref", githubOrder(nil), Policy{Signers: repository("github:pallets/flask@refs/tags/3.1.1")}, ""},
		{"github@ref, other", githubOrder(nil), Policy{Signers: repository("github:pallets/flask@refs/tags/3.1.2")}, CodeClaimMismatch},
		{"github@ref, other case", githubOrder(map[int]string{14: "refs/tags/V3"}), Policy{Signers: repository("github:pallets/flask@refs/tags/v3")}, CodeClaimMismatch},
		{"github@ref, prefix", githubOrder(nil), Policy{Signers: repository("github:pallets/flask@refs/tags/3.1")}, CodeClaimMismatch},
		{"github@ref, none in the certificate", githubOrder(map[int]string{14: ""}), Policy{Signers: repository("github:pallets/flask@refs/tags/3.1.1")}, CodeClaimMissing},
		{"github@ref, only the workflow's", githubOrder(map[int]string{14: "refs/heads/x"}), Policy{Signers: repository("github:pallets/flask@refs/tags/3.1.1")}, CodeClaimMismatch},
		{"gitlab", gitlab, Policy{Signers: repository("gitlab:acme/tools/forge")}, ""},
		{"gitlab@ref", gitlab, Policy{Signers: repository("gitlab:acme/tools/forge@refs/heads/main")}, ""},
		{"gitlab@ref, other", gitlab, Policy{Signers: repository("gitlab:acme/tools/forge@refs/tags/v1")}, CodeClaimMismatch},
		{"gitlab, the group", gitlab, Policy{Signers: repository("gitlab:acme/tools")}, CodeClaimMismatch},
		{"gitlab, same name on github", gitlab, Policy{Signers: repository("github:acme/tools")}, CodeIdentityMismatch},

		// Patterns are for the whole text.
		{"pattern", githubOrder(nil), pattern(Signer{IdentityPattern: `https://github\.com/pallets/[a-z]+/.*@refs/tags/[0-9.]+`, Issuer: githubIssuer}), ""},
		{"pattern, part of it", githubOrder(nil), pattern(Signer{IdentityPattern: `https://github\.com/pallets/`, Issuer: githubIssuer}), CodeIdentityMismatch},
		{"pattern, end of it", githubOrder(nil), pattern(Signer{IdentityPattern: `release\.yml@.*`, Issuer: githubIssuer}), CodeIdentityMismatch},
		{"pattern, a shorter alternative first", githubOrder(nil), pattern(Signer{IdentityPattern: `https|https://.*`, Issuer: githubIssuer}), ""},
		{"pattern, alternatives that end early", githubOrder(nil), pattern(Signer{IdentityPattern: `https://github\.com/pallets/flask|x`, Issuer: githubIssuer}), CodeIdentityMismatch},
		{"pattern, lazy", githubOrder(nil), pattern(Signer{IdentityPattern: `https://.+?`, Issuer: githubIssuer}), ""},
		{"pattern, lines", githubOrder(nil), pattern(Signer{IdentityPattern: `(?m)^https://[^/]*$`, Issuer: githubIssuer}), CodeIdentityMismatch},
		{"issuer pattern", githubOrder(nil), pattern(Signer{Identity: flaskWorkflow, IssuerPattern: `https://token\.actions\.[a-z.]+`}), ""},
		{"issuer pattern, part of it", githubOrder(nil), pattern(Signer{Identity: flaskWorkflow, IssuerPattern: `https://token`}), CodeIssuerMismatch},
		{"second signer", githubOrder(nil), Policy{Signers: append(repository("github:acme/x"), byFlask...)}, ""},
		{"identity of one, issuer of another", githubOrder(nil), Policy{Signers: []Signer{{Identity: flaskWorkflow, Issuer: testIssuer}, {Identity: "a@b", Issuer: githubIssuer}}}, CodeIssuerMismatch},
		{"identity of one, claims of another", githubOrder(nil), Policy{Signers: []Signer{
			{Identity: flaskWorkflow, Issuer: githubIssuer, Claims: Claims{"buildTrigger": {Exact: "schedule"}}},
			{Identity: testIdentity, Issuer: githubIssuer, Claims: Claims{"buildTrigger": {Exact: "push"}}}}}, CodeClaimMismatch},

		// Claims.
		{"claim", githubOrder(nil), require(Claims{"runnerEnvironment": {Exact: "github-hosted"}}), ""},
		{"claim, other", githubOrder(map[int]string{11: "self-hosted"}), require(Claims{"runnerEnvironment": {Exact: "github-hosted"}}), CodeClaimMismatch},
		{"claim, case", githubOrder(map[int]string{11: "GitHub-hosted"}), require(Claims{"runnerEnvironment": {Exact: "github-hosted"}}), CodeClaimMismatch},
		{"claim, missing", githubOrder(map[int]string{11: ""}), require(Claims{"runnerEnvironment": {Exact: "github-hosted"}}), CodeClaimMissing},
		{"claim, missing, any pattern", githubOrder(map[int]string{11: ""}), require(Claims{"runnerEnvironment": {Pattern: ".*"}}), CodeClaimMissing},
		{"claim, pattern", githubOrder(nil), require(Claims{"sourceRepositoryRef": {Pattern: `refs/tags/[0-9.]+`}}), ""},
		{"claim, pattern for a part", githubOrder(nil), require(Claims{"sourceRepositoryRef": {Pattern: `refs/tags/[0-9]`}}), CodeClaimMismatch},
		{"claim, two of which one", githubOrder(nil), require(Claims{"buildTrigger": {Exact: "push"}, "sourceRepositoryVisibilityAtSigning": {Exact: "private"}}), CodeClaimMismatch},
		{"claim, of the signer", githubOrder(nil), pattern(Signer{Repository: "github:pallets/flask", Claims: Claims{"buildTrigger": {Exact: "schedule"}}}), CodeClaimMismatch},
		{"claim, of the signer and of all", githubOrder(nil), Policy{Claims: Claims{"buildTrigger": {Exact: "push"}}, Signers: []Signer{{Repository: "github:pallets/flask", Claims: Claims{"sourceRepositoryOwnerIdentifier": {Exact: "16748505"}}}}}, ""},
		{"claim, workflow", githubOrder(map[int]string{18: flask + "/.github/workflows/evil.yml@refs/tags/3.1.1"}), require(Claims{"buildConfigURI": {Exact: flaskWorkflow}}), CodeClaimMismatch},
		{"claim, owner", githubOrder(map[int]string{16: "https://github.com/mallory"}), require(Claims{"sourceRepositoryOwner": {Exact: "https://github.com/pallets"}}), CodeClaimMismatch},
		{"claim, trigger", githubOrder(map[int]string{20: "pull_request_target"}), require(Claims{"buildTrigger": {Pattern: "push|release|workflow_dispatch"}}), CodeClaimMismatch},

		// The policy itself.
		{"empty", githubOrder(nil), Policy{}, CodePolicyEmpty},
		{"claims and nobody", githubOrder(nil), Policy{Claims: Claims{"buildTrigger": {Exact: "push"}}}, CodePolicyEmpty},
		{"unknown claim", githubOrder(nil), require(Claims{"workflow": {Exact: "x"}}), CodePolicyInvalid},
		{"claim without a value", githubOrder(nil), require(Claims{"buildTrigger": {}}), CodePolicyInvalid},
		{"claim with both", githubOrder(nil), require(Claims{"buildTrigger": {Exact: "push", Pattern: "push"}}), CodePolicyInvalid},
		{"claim, bad pattern", githubOrder(nil), require(Claims{"buildTrigger": {Pattern: "("}}), CodePolicyInvalid},
		{"pattern that is two", githubOrder(nil), pattern(Signer{IdentityPattern: `x)|(?:.*`, Issuer: githubIssuer}), CodePolicyInvalid},
		{"no repository", githubOrder(nil), Policy{Signers: repository("github:pallets")}, CodePolicyInvalid},
		{"repository and issuer", githubOrder(nil), pattern(Signer{Repository: "github:pallets/flask", Issuer: githubIssuer}), CodePolicyInvalid},
		{"publish not named", githubOrder(nil), Policy{Signers: byFlask, Predicates: []Predicate{{Type: slsa}}}, CodePredicateNotAllowed},
		{"publish by its own signers", githubOrder(nil), Policy{Signers: repository("github:a/b"), Predicates: []Predicate{{Type: PredicateType, Signers: byFlask}}}, ""},
		{"publish by others than its own", githubOrder(nil), Policy{Signers: byFlask, Predicates: []Predicate{{Type: PredicateType, Signers: repository("github:a/b")}}}, CodeIdentityMismatch},
		{"claims of all are not those of own signers", githubOrder(nil), Policy{Signers: byFlask, Claims: Claims{"buildTrigger": {Exact: "x"}}, Predicates: []Predicate{{Type: PredicateType, Signers: byFlask}}}, ""},
		{"extra without signers", githubOrder(nil), Policy{Signers: byFlask, Predicates: []Predicate{{Type: PredicateType}, {Type: slsa, Extra: true}}}, CodePolicyEmpty},
		{"nothing required", githubOrder(nil), Policy{Signers: byFlask, Predicates: []Predicate{{Type: PredicateType, Extra: true, Signers: byFlask}}}, CodePolicyInvalid},
		{"a type twice", githubOrder(nil), Policy{Signers: byFlask, Predicates: []Predicate{{Type: PredicateType}, {Type: PredicateType}}}, CodePolicyInvalid},
		{"claims without own signers", githubOrder(nil), Policy{Signers: byFlask, Predicates: []Predicate{{Type: PredicateType, Claims: Claims{"buildTrigger": {Exact: "push"}}}}}, CodePolicyInvalid},
		{"no type", githubOrder(nil), Policy{Signers: byFlask, Predicates: []Predicate{{Type: PredicateType}, {Type: "provenance"}}}, CodePolicyInvalid},

		// The channel.
		{"channel", githubOrder(nil), Policy{Signers: byFlask, Channel: ChannelRequire, TargetChannel: testChannel}, ""},
		{"channel, other", githubOrder(nil), Policy{Signers: byFlask, Channel: ChannelRequire, TargetChannel: testChannel + "-dev"}, CodeStatementTargetChannel},
		{"channel, other, by default", githubOrder(nil), Policy{Signers: byFlask, TargetChannel: testChannel + "-dev"}, CodeStatementTargetChannel},
		{"channel, other, warn", githubOrder(nil), Policy{Signers: byFlask, Channel: ChannelWarn, TargetChannel: testChannel + "-dev"}, ""},
		{"channel, other, ignore", githubOrder(nil), Policy{Signers: byFlask, Channel: ChannelIgnore, TargetChannel: testChannel + "-dev"}, ""},
		{"channel, required and unknown", githubOrder(nil), Policy{Signers: byFlask, Channel: ChannelRequire}, CodePolicyChannel},
		{"channel, warn and unknown", githubOrder(nil), Policy{Signers: byFlask, Channel: ChannelWarn}, CodePolicyChannel},
		{"channel, ignore and unknown", githubOrder(nil), Policy{Signers: byFlask, Channel: ChannelIgnore}, ""},
		{"channel, no such mode", githubOrder(nil), Policy{Signers: byFlask, Channel: "Require", TargetChannel: testChannel}, CodePolicyInvalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := encode(t, f.sign(t, tt.order))
			r, err := v.Verify(b, testSubject(), tt.policy)
			wantCode(t, err, tt.want)
			if (r != nil) != (tt.want == "") {
				t.Errorf("result %+v beside %v", r, err)
			}
			// The whole statement is right, so the other ways to ask have to agree, but for a type that is not named.
			if _, anyErr := v.VerifyAny(b, testSubject(), tt.policy); CodeOf(anyErr) != tt.want {
				t.Errorf("VerifyAny: %v", anyErr)
			}
			// And so does what is written down and read again.
			if again, err := ParsePolicy("canonical", tt.policy.Canonical()); err != nil {
				if tt.want != CodePolicyEmpty && tt.want != CodePolicyInvalid {
					t.Errorf("the canonical form is refused: %v", err)
				}
			} else if _, err := v.Verify(b, testSubject(), again); CodeOf(err) != tt.want {
				t.Errorf("by the canonical form: %v", err)
			}
		})
	}
}

func TestPolicyFor(t *testing.T) {
	t.Parallel()
	const other = testChannel + "-dev"
	for _, tt := range []struct {
		target  string
		mode    ChannelMode
		url     string
		want    Code
		becomes string
	}{
		{"", "", testChannel, "", testChannel},
		{"", ChannelRequire, testChannel, "", testChannel},
		{"", ChannelWarn, testChannel, "", testChannel},
		{"", ChannelIgnore, testChannel, "", ""},
		{testChannel, "", "", "", testChannel},
		{testChannel, "", "https://CONDA.localhost/acme", "", testChannel},
		{testChannel, "", other, CodePolicyChannel, ""},
		{testChannel, ChannelRequire, other, CodePolicyChannel, ""},
		{testChannel, ChannelWarn, other, "", testChannel},
		{testChannel, ChannelIgnore, other, "", testChannel},
	} {
		p, err := Policy{TargetChannel: tt.target, Channel: tt.mode}.For(tt.url)
		if wantCode(t, err, tt.want); err == nil && p.TargetChannel != tt.becomes {
			t.Errorf("%q %s for %q: %q", tt.target, tt.mode, tt.url, p.TargetChannel)
		}
	}
}

func TestPolicyWarnsOfAnybody(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		signer Signer
		warns  int
	}{
		{Signer{IdentityPrefix: "https://github.com", Issuer: githubIssuer}, 1},
		{Signer{IdentityPrefix: "https://github.com/", Issuer: githubIssuer}, 1},
		{Signer{IdentityPrefix: "https://github.com/acme", Issuer: githubIssuer}, 0},
		{Signer{IdentityPattern: ".*", Issuer: githubIssuer}, 1},
		{Signer{IdentityPattern: "https://.+", IssuerPattern: "(?s).*"}, 2},
		{Signer{IdentityPattern: `https://github\.com/acme/.*`, Issuer: githubIssuer}, 0},
		{Signer{IdentityPattern: ".*", Issuer: githubIssuer, Claims: Claims{"sourceRepository": {Exact: flask}}}, 0},
	} {
		if w := (Policy{Signers: []Signer{tt.signer}}).Warnings(); len(w) != tt.warns {
			t.Errorf("%s: %q", tt.signer, w)
		}
		p := Policy{Predicates: []Predicate{{Type: "https://x.example/y", Signers: []Signer{tt.signer}}}}
		if w := p.Warnings(); len(w) != tt.warns {
			t.Errorf("%s for a predicate type: %q", tt.signer, w)
		}
	}
}

// TestRefusalsNameBoth: whoever reads the refusal sees what the certificate says and what the policy asks for.
func TestRefusalsNameBoth(t *testing.T) {
	t.Parallel()
	claims := map[string]string{"sourceRepository": flask, "sourceRepositoryRef": "refs/heads/x"}
	for _, tt := range []struct {
		policy Policy
		want   []string
	}{
		{Policy{Signers: repository("github:acme/forge")}, []string{flaskWorkflow, githubIssuer, "github:acme/forge"}},
		{Policy{Signers: repository("github:pallets/flask@refs/tags/v1")}, []string{flaskWorkflow, "github:pallets/flask@refs/tags/v1", `"refs/heads/x"`, `"refs/tags/v1"`}},
		{Policy{Signers: repository("github:pallets/flask"), Claims: Claims{"buildTrigger": {Pattern: "push|release"}}}, []string{"buildTrigger", "/push|release/"}},
	} {
		err := tt.policy.CheckSigner(flaskWorkflow, githubIssuer, claims)
		for _, want := range tt.want {
			if !strings.Contains(fmt.Sprint(err), want) {
				t.Errorf("%v does not say %s", err, want)
			}
		}
	}
}

func TestPredicateTypes(t *testing.T) {
	t.Parallel()
	required, extra := Policy{}.PredicateTypes()
	if diff := cmp.Diff([]string{PredicateType}, required); diff != "" || extra != nil {
		t.Error(diff, extra)
	}
	required, extra = Policy{Predicates: []Predicate{{Type: "a:b"}, {Type: "c:d", Extra: true}}}.PredicateTypes()
	if diff := cmp.Diff([][]string{{"a:b"}, {"c:d"}}, [][]string{required, extra}); diff != "" {
		t.Error(diff)
	}
}
