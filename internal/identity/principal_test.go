package identity

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestPrincipal has the claims of each kind of issuer, and what public-good Fulcio makes of them.
func TestPrincipal(t *testing.T) {
	t.Parallel()
	type m = map[string]any
	github := m{"iss": "https://token.actions.githubusercontent.com", "sub": "repo:acme/feedstock:ref:refs/heads/main",
		"job_workflow_ref": "acme/shared/.github/workflows/sign.yml@refs/tags/v1", "workflow_ref": "acme/feedstock/.github/workflows/ci.yml@refs/heads/main",
		"repository": "acme/feedstock", "ref": "refs/heads/main", "sha": "0123", "run_id": "77", "run_attempt": "2"}
	gitlab := m{"iss": "https://gitlab.com", "sub": "project_path:acme/pkgs:ref_type:branch:ref:main",
		"ci_config_ref_uri": "gitlab.com/acme/pkgs//.gitlab-ci.yml@refs/heads/main", "project_path": "acme/pkgs", "ref": "main", "ref_type": "branch",
		"sha": "4567", "job_id": "302"}
	circle := m{"iss": "https://oidc.circleci.com/org/o1", "sub": "org/o1/project/p1/user/u1", "oidc.circleci.com/project-id": "p1",
		"oidc.circleci.com/pipeline-definition-id": "d1", "oidc.circleci.com/vcs-ref": "refs/heads/main",
		"oidc.circleci.com/vcs-origin": "github.com/acme/x", "oidc.circleci.com/workflow-id": "w1", "oidc.circleci.com/job-id": "j1"}
	but := func(claims m, name string, value any) m {
		c := m{}
		for k, v := range claims {
			c[k] = v
		}
		if c[name] = value; value == nil {
			delete(c, name)
		}
		return c
	}
	tests := []struct {
		name   string
		claims m
		want   Principal
		fails  string
	}{
		{name: "GitHub, reusable workflow", claims: github, want: Principal{Rule: "github-workflow",
			Identity: "https://github.com/acme/shared/.github/workflows/sign.yml@refs/tags/v1", Issuer: "https://token.actions.githubusercontent.com",
			Repository: "https://github.com/acme/feedstock", Ref: "refs/heads/main", SHA: "0123",
			Workflow: "https://github.com/acme/feedstock/.github/workflows/ci.yml@refs/heads/main",
			RunURL:   "https://github.com/acme/feedstock/actions/runs/77/attempts/2"}},
		{name: "GitHub, little said", claims: m{"iss": "https://idp", "job_workflow_ref": "a/b/.github/workflows/c.yml@refs/heads/é"}, want: Principal{
			Rule: "github-workflow", Identity: "https://github.com/a/b/.github/workflows/c.yml@refs/heads/%C3%A9", Issuer: "https://idp"}},
		{name: "GitHub, not a text", claims: but(github, "job_workflow_ref", m{"a": 1}), fails: "job_workflow_ref"},
		{name: "GitLab branch", claims: gitlab, want: Principal{Rule: "gitlab-pipeline", Issuer: "https://gitlab.com",
			Identity:   "https://gitlab.com/acme/pkgs//.gitlab-ci.yml@refs/heads/main",
			Workflow:   "https://gitlab.com/acme/pkgs//.gitlab-ci.yml@refs/heads/main",
			Repository: "https://gitlab.com/acme/pkgs", Ref: "refs/heads/main", SHA: "4567", RunURL: "https://gitlab.com/acme/pkgs/-/jobs/302"}},
		{name: "GitLab tag", claims: but(but(gitlab, "ref_type", "tag"), "project_path", nil), want: Principal{Rule: "gitlab-pipeline", Issuer: "https://gitlab.com",
			Identity: "https://gitlab.com/acme/pkgs//.gitlab-ci.yml@refs/heads/main",
			Workflow: "https://gitlab.com/acme/pkgs//.gitlab-ci.yml@refs/heads/main", Ref: "refs/tags/main", SHA: "4567"}},
		{name: "Buildkite", claims: m{"iss": "https://agent.buildkite.com", "sub": "organization:acme:pipeline:pkgs", "organization_slug": "acme",
			"pipeline_slug": "pkgs", "build_number": 9, "job_id": "0184", "build_commit": "89ab"}, want: Principal{Rule: "buildkite-job",
			Identity: "https://buildkite.com/acme/pkgs", Workflow: "https://buildkite.com/acme/pkgs", Issuer: "https://agent.buildkite.com", SHA: "89ab",
			RunURL: "https://buildkite.com/acme/pkgs/builds/9#0184"}},
		{name: "Buildkite without its pipeline", claims: m{"iss": "https://agent.buildkite.com", "sub": "x", "organization_slug": "acme"}, fails: "pipeline_slug"},
		{name: "CircleCI", claims: circle, want: Principal{Rule: "circleci-job", Issuer: "https://oidc.circleci.com/org/o1",
			Identity: "https://circleci.com/api/v2/projects/p1/pipeline-definitions/d1", Workflow: "https://circleci.com/api/v2/projects/p1/pipeline-definitions/d1",
			Repository: "github.com/acme/x", Ref: "refs/heads/main", RunURL: "https://app.circleci.com/workflow/w1/job/j1"}},
		{name: "CircleCI's old tokens", claims: but(circle, "oidc.circleci.com/pipeline-definition-id", nil), fails: "oidc.circleci.com/pipeline-definition-id"},
		{name: "Codefresh", claims: m{"iss": "https://oidc.codefresh.io", "sub": "x", "account_name": "acme", "pipeline_name": "p/q", "account_id": "1", "pipeline_id": "2",
			"workflow_id": "3"}, want: Principal{Rule: "codefresh-workflow", Issuer: "https://oidc.codefresh.io", Identity: "https://g.codefresh.io/acme/p/q:1/2",
			RunURL: "https://g.codefresh.io/build/3"}},
		{name: "SPIFFE", claims: m{"iss": "https://spire.acme", "sub": "spiffe://acme.example/signer"},
			want: Principal{Rule: "spiffe", Identity: "spiffe://acme.example/signer", Issuer: "https://spire.acme"}},
		{name: "Kubernetes", claims: m{"iss": "https://oidc.eks.eu.amazonaws.com/id/A", "sub": "system:serviceaccount:ns:sa",
			"kubernetes.io": m{"namespace": "ns", "serviceaccount": m{"name": "sa"}}}, want: Principal{Rule: "kubernetes",
			Identity: "https://kubernetes.io/namespaces/ns/serviceaccounts/sa", Issuer: "https://oidc.eks.eu.amazonaws.com/id/A"}},
		{name: "Kubernetes, no account", claims: m{"iss": "i", "sub": "s", "kubernetes.io": m{"namespace": "ns"}}, fails: "kubernetes.io/serviceaccount/name"},
		{name: "Google", claims: m{"iss": "https://accounts.google.com", "sub": "1", "email": "signer@acme.iam.gserviceaccount.com", "email_verified": true},
			want: Principal{Rule: "email", Identity: "signer@acme.iam.gserviceaccount.com", Issuer: "https://accounts.google.com"}},
		{name: "a person", claims: m{"iss": issuerSigstore, "sub": "1", "email": "jane@acme.example", "email_verified": "true",
			"federated_claims": m{"connector_id": "https://github.com/login/oauth"}},
			want: Principal{Rule: "email", Identity: "jane@acme.example", Issuer: "https://github.com/login/oauth"}},
		{name: "an unverified address", claims: m{"iss": "i", "sub": "1", "email": "jane@acme.example"}, fails: "has not verified"},
		{name: "anybody", claims: m{"iss": "https://idp", "sub": "https://idp/users/7"}, want: Principal{Rule: "uri", Identity: "https://idp/users/7", Issuer: "https://idp"}},
		{name: "nobody", claims: m{"iss": "https://idp"}, fails: "nobody"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			raw := jwt(t, tt.claims)
			tok, err := Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			got, err := tok.Principal()
			if tt.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fails) || strings.Contains(err.Error(), raw) {
					t.Fatalf("Principal = %+v, %v, want an error with %q", got, err, tt.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func FuzzPrincipal(f *testing.F) {
	f.Add(`{"iss":"https://agent.buildkite.com","sub":"x","organization_slug":"a","pipeline_slug":1e9}`)
	f.Add(`{"job_workflow_ref":"a","kubernetes.io":[],"email_verified":{"a":1},"email":"x"}`)
	f.Add(`{"ci_config_ref_uri":"%zz","ref":7,"federated_claims":"x"}`)
	f.Fuzz(func(t *testing.T, claims string) {
		tok, err := Parse("aa." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".bb")
		if err != nil {
			return
		}
		p, err := tok.Principal()
		if (err == nil) != (p.Identity != "") {
			t.Errorf("%q with the error %v", p.Identity, err)
		}
	})
}
