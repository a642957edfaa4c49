package attest

import (
	"strings"
	"testing"
)

func TestSignerMatches(t *testing.T) {
	t.Parallel()
	const repo = "https://github.com/acme/feedstock"
	const san = repo + "/.github/workflows/publish.yml@refs/heads/main"
	for _, tt := range []struct {
		signer        Signer
		identity, iss string
		want          Code
	}{
		{Signer{Identity: san, Issuer: githubIssuer}, san, githubIssuer, ""},
		{Signer{Identity: san, Issuer: githubIssuer}, san + "2", githubIssuer, CodeIdentityMismatch},
		{Signer{Identity: san, Issuer: githubIssuer}, strings.ToUpper(san), githubIssuer, CodeIdentityMismatch},
		{Signer{Identity: repo, Issuer: githubIssuer}, san, githubIssuer, CodeIdentityMismatch},
		{Signer{Identity: san, Issuer: githubIssuer}, san, githubIssuer + ".evil", CodeIssuerMismatch},
		{Signer{Identity: san, Issuer: githubIssuer}, san, "", CodeIssuerMismatch},
		{Signer{IdentityPrefix: repo, Issuer: githubIssuer}, san, githubIssuer, ""},
		{Signer{IdentityPrefix: repo, Issuer: githubIssuer}, repo, githubIssuer, ""},
		{Signer{IdentityPrefix: repo, Issuer: githubIssuer}, repo + "@v1", githubIssuer, ""},
		{Signer{IdentityPrefix: repo + "/", Issuer: githubIssuer}, san, githubIssuer, ""},
		{Signer{IdentityPrefix: repo + "/.github/workflows/publish.yml@", Issuer: githubIssuer}, san, githubIssuer, ""},
		{Signer{IdentityPrefix: repo, Issuer: githubIssuer}, repo + "2/x", githubIssuer, CodeIdentityMismatch},
		{Signer{IdentityPrefix: repo, Issuer: githubIssuer}, repo + "-evil", githubIssuer, CodeIdentityMismatch},
		{Signer{IdentityPrefix: repo, Issuer: githubIssuer}, "x" + san, githubIssuer, CodeIdentityMismatch},
		{Signer{IdentityPrefix: repo + "/", Issuer: githubIssuer}, repo, githubIssuer, CodeIdentityMismatch},
		{Signer{IdentityRegexp: `^https://github\.com/acme/`, Issuer: githubIssuer}, san, githubIssuer, ""},
		{Signer{IdentityRegexp: `acme/f`, Issuer: githubIssuer}, san, githubIssuer, ""}, // found anywhere, as cosign does
		{Signer{IdentityRegexp: `^acme`, Issuer: githubIssuer}, san, githubIssuer, CodeIdentityMismatch},
		{Signer{IdentityRegexp: `.*`, IssuerRegexp: `^https://token\.`}, san, githubIssuer, ""},
		{Signer{IdentityRegexp: `.*`, IssuerRegexp: `.*`}, "", githubIssuer, CodeIdentityMismatch},
		{Signer{IdentityRegexp: `.*`, IssuerRegexp: `.*`}, san, "", CodeIssuerMismatch},
		{Signer{IdentityRegexp: `.*`, IssuerRegexp: `^x`}, san, githubIssuer, CodeIssuerMismatch},
	} {
		err := Policy{Signers: []Signer{{Identity: "nobody", Issuer: "nowhere"}, tt.signer}}.CheckSigner(tt.identity, tt.iss, nil)
		if wantCode(t, err, tt.want); t.Failed() {
			t.Fatalf("%s with %q by %q", tt.signer, tt.identity, tt.iss)
		}
		if err != nil && (!strings.Contains(err.Error(), tt.signer.String()) || !strings.Contains(err.Error(), `"nobody"`)) {
			t.Errorf("the error does not name the signers: %v", err)
		}
	}
	// Identity of one signer with the issuer of another: neither is allowed.
	p := Policy{Signers: []Signer{{Identity: "a", Issuer: "x"}, {Identity: "b", Issuer: "y"}}}
	wantCode(t, p.CheckSigner("a", "y", nil), CodeIssuerMismatch)
}

func TestPolicyCheck(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		policy Policy
		want   Code
	}{
		{Policy{}, CodePolicyEmpty},
		{Policy{TargetChannel: testChannel}, CodePolicyEmpty},
		{Policy{Signers: []Signer{{}}}, CodePolicyInvalid},
		{Policy{Signers: []Signer{{Identity: "a"}}}, CodePolicyInvalid},
		{Policy{Signers: []Signer{{Issuer: "a"}}}, CodePolicyInvalid},
		{Policy{Signers: []Signer{{Identity: "a", IdentityPrefix: "a", Issuer: "b"}}}, CodePolicyInvalid},
		{Policy{Signers: []Signer{{Identity: "a", Issuer: "b", IssuerRegexp: "b"}}}, CodePolicyInvalid},
		{Policy{Signers: []Signer{{IdentityRegexp: "(", Issuer: "b"}}}, CodePolicyInvalid},
		{Policy{Signers: []Signer{{Identity: "a", IssuerRegexp: "["}}}, CodePolicyInvalid},
		{Policy{Signers: []Signer{{Identity: "a", Issuer: "b"}, {}}}, CodePolicyInvalid},
		{Policy{Signers: []Signer{{Identity: "a", Issuer: "b"}}, Channel: "maybe"}, CodePolicyInvalid},
		{Policy{Signers: []Signer{{Identity: "a", Issuer: "b"}}}, ""},
	} {
		wantCode(t, tt.policy.Check(), tt.want)
	}
}

func TestPolicyWarnings(t *testing.T) {
	t.Parallel()
	p := Policy{Signers: []Signer{
		{Identity: "a", Issuer: "b"}, {IdentityRegexp: "^a$", IssuerRegexp: "^b$"}, {IdentityRegexp: "^a", IssuerRegexp: "b$"},
	}}
	if w := p.Warnings(); len(w) != 2 || !strings.Contains(w[0], `"^a"`) || !strings.Contains(w[1], `"b$"`) {
		t.Errorf("warnings %q", w)
	}
}
