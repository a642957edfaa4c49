package identity

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Principal is whom Sigstore's certificate authority (Fulcio) certifies the bearer of a token to be, worked out here from
// the token's claims by the rules that public-good Fulcio has for each kind of issuer (its config/identity/config.yaml).
// The authority has the last word: a private one may have other rules.
type Principal struct {
	Rule     string // the rule that was applied, by Fulcio's name for it: "github-workflow", "email"
	Identity string // the certificate's subject alternative name; "" if there is none to be had from the claims
	Issuer   string // the issuer that the certificate names

	// What a CI job's token says of the job; "" where it says nothing.
	Repository string // its URL
	Ref        string // "refs/heads/main"
	SHA        string // the commit
	Workflow   string // the workflow's or pipeline's definition: URL and ref
	RunURL     string
}

// The issuers whose tokens are read by a rule of their own.
const (
	issuerSigstore  = "https://oauth2.sigstore.dev/auth"
	issuerBuildkite = "https://agent.buildkite.com"
	issuerCircleCI  = "https://oidc.circleci.com"
	issuerCodefresh = "https://oidc.codefresh.io"
)

// Principal works out whom the token's bearer would be certified as. It fails where the certificate authority would: if a
// claim that the rule needs is missing. Errors never quote the token.
func (t Token) Principal() (Principal, error) {
	c, err := claimsOf(t.Raw)
	if err != nil {
		return Principal{}, err
	}
	p := Principal{Issuer: t.Issuer}
	switch {
	case c.has("job_workflow_ref"):
		p.github(c)
	case c.has("ci_config_ref_uri"):
		p.gitlab(c)
	case t.Issuer == issuerBuildkite:
		p.buildkite(c)
	case t.Issuer == issuerCircleCI || strings.HasPrefix(t.Issuer, issuerCircleCI+"/org/"):
		p.circleCI(c)
	case t.Issuer == issuerCodefresh:
		p.codefresh(c)
	case strings.HasPrefix(t.Subject, "spiffe://"):
		p.Rule, p.Identity = "spiffe", t.Subject
	case c.has("kubernetes.io"):
		p.Rule = "kubernetes"
		p.Identity = c.fill("https://kubernetes.io/namespaces/%s/serviceaccounts/%s", "kubernetes.io/namespace", "kubernetes.io/serviceaccount/name")
	case c.has("email"):
		p.Rule, p.Identity = "email", c.text("email")
		if t.Issuer == issuerSigstore && c.has("federated_claims/connector_id") {
			p.Issuer = c.text("federated_claims/connector_id") // who vouched for the person there
		}
		if !slices.Contains([]any{true, "true"}, c.value("email_verified")) {
			return Principal{}, errors.New("the token's issuer has not verified the e-mail address: no certificate is given for it")
		}
	default:
		p.Rule, p.Identity = "uri", t.Subject
	}
	if len(c.missing) > 0 {
		return Principal{}, fmt.Errorf("the token has no claim %s, which its certificate is made from", strings.Join(c.missing, ", "))
	}
	if p.Identity == "" {
		return Principal{}, errors.New("the token says nobody's name: neither a subject nor an e-mail address")
	}
	return p, nil
}

func (p *Principal) github(c *claims) {
	const site = "https://github.com/"
	p.Rule = "github-workflow"
	p.Identity = c.fill(site+"%s", "job_workflow_ref")
	p.Repository = c.optional(site+"%s", "repository")
	p.Ref, p.SHA = c.text("ref"), c.text("sha")
	p.Workflow = c.optional(site+"%s", "workflow_ref")
	p.RunURL = c.optional(site+"%s/actions/runs/%s/attempts/%s", "repository", "run_id", "run_attempt")
}

func (p *Principal) gitlab(c *claims) {
	site := strings.TrimSuffix(p.Issuer, "/") + "/"
	p.Rule = "gitlab-pipeline"
	p.Identity = c.fill("https://%s", "ci_config_ref_uri")
	p.Workflow = p.Identity
	p.Repository = c.optional(site+"%s", "project_path")
	p.SHA = c.text("sha")
	if p.Ref = c.text("ref"); p.Ref != "" {
		if c.text("ref_type") == "branch" {
			p.Ref = "refs/heads/" + p.Ref
		} else {
			p.Ref = "refs/tags/" + p.Ref
		}
	}
	p.RunURL = c.optional(site+"%s/-/jobs/%s", "project_path", "job_id")
}

func (p *Principal) buildkite(c *claims) {
	const site = "https://buildkite.com/"
	p.Rule = "buildkite-job"
	p.Identity = c.fill(site+"%s/%s", "organization_slug", "pipeline_slug")
	p.Workflow = p.Identity
	p.SHA = c.text("build_commit")
	p.RunURL = c.optional(site+"%s/%s/builds/%s#%s", "organization_slug", "pipeline_slug", "build_number", "job_id")
}

func (p *Principal) circleCI(c *claims) {
	const api, claim = "https://circleci.com/api/v2/", "oidc.circleci.com~"
	p.Rule = "circleci-job"
	p.Identity = c.fill(api+"projects/%s/pipeline-definitions/%s", claim+"project-id", claim+"pipeline-definition-id")
	p.Workflow = p.Identity
	p.Repository = c.text(claim + "vcs-origin")
	p.Ref = c.text(claim + "vcs-ref")
	p.RunURL = c.optional("https://app.circleci.com/workflow/%s/job/%s", claim+"workflow-id", claim+"job-id")
}

func (p *Principal) codefresh(c *claims) {
	site := strings.TrimSuffix(c.text("platform_url"), "/")
	if site == "" {
		site = "https://g.codefresh.io"
	}
	p.Rule = "codefresh-workflow"
	p.Identity = c.fill(site+"/%s/%s:%s/%s", "account_name", "pipeline_name", "account_id", "pipeline_id")
	p.Repository, p.Ref = c.text("scm_repo_url"), c.text("scm_ref")
	p.RunURL = c.optional(site+"/build/%s", "workflow_id")
}

// claims are a token's, with what was looked for in vain.
type claims struct {
	object  map[string]any
	missing []string
}

func claimsOf(raw string) (*claims, error) {
	if _, err := Parse(raw); err != nil { // bounds and form
		return nil, err
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(strings.TrimSpace(raw), ".")[1])
	if err != nil {
		return nil, fmt.Errorf("its claims are not base64url: %w", ErrMalformed)
	}
	c := &claims{}
	d := json.NewDecoder(strings.NewReader(string(payload)))
	d.UseNumber()
	if d.Decode(&c.object) != nil {
		return nil, fmt.Errorf("its claims are not a JSON object: %w", ErrMalformed)
	}
	return c, nil
}

// value finds a claim by its path: names of nested objects, joined with slashes. A name's own slash is written "~".
func (c *claims) value(path string) any {
	var v any = c.object
	for name := range strings.SplitSeq(path, "/") {
		object, _ := v.(map[string]any)
		v = object[strings.ReplaceAll(name, "~", "/")]
	}
	return v
}

func (c *claims) has(path string) bool { v := c.value(path); return v != nil && v != "" }

// text is a claim as text; "" if there is none, or nothing that is one text.
func (c *claims) text(path string) string {
	switch v := c.value(path).(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	}
	return ""
}

// fill puts claims into a format, and notes those that are missing.
func (c *claims) fill(format string, paths ...string) string {
	values := make([]any, len(paths))
	for i, path := range paths {
		if values[i] = c.text(path); values[i] == "" {
			c.missing = append(c.missing, strings.ReplaceAll(path, "~", "/"))
		}
	}
	return canonical(fmt.Sprintf(format, values...))
}

// optional is fill for what the certificate can do without: "" unless all claims are there.
func (c *claims) optional(format string, paths ...string) string {
	for _, path := range paths {
		if c.text(path) == "" {
			return ""
		}
	}
	values := make([]any, len(paths))
	for i, path := range paths {
		values[i] = c.text(path)
	}
	return canonical(fmt.Sprintf(format, values...))
}

// canonical writes a URL as a certificate has it: the authority parses it and writes it anew.
func canonical(address string) string {
	if u, err := url.Parse(address); err == nil {
		return u.String()
	}
	return address
}
