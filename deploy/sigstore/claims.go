package main

import (
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"net/mail"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// What a token says when nothing else is asked for.
const (
	defaultAudience   = "sigstore"
	defaultRepository = "acme/feedstock"
	defaultWorkflow   = "publish.yml"
	defaultRef        = "refs/heads/main"
	defaultEmail      = "dev@example.org"
	defaultLifetime   = 5 * time.Minute // as GitHub's
	maxLifetime       = 24 * time.Hour
)

// ask is which identity a token is wanted for.
type ask struct {
	audience                  string
	repository, workflow, ref string        // a workflow's identity
	email                     string        // not empty: a person's instead
	lifetime                  time.Duration // may be negative: a token that is over already
}

var (
	repositoryForm = regexp.MustCompile(`^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$`)
	workflowForm   = regexp.MustCompile(`^(\.github/workflows/)?[A-Za-z0-9_.-]+\.ya?ml$`)
	refForm        = regexp.MustCompile(`^refs/[A-Za-z0-9_./-]+$`)
)

// askOf reads query parameters: audience, repository (owner/name), workflow (file name or path), ref, lifetime
// (seconds, down to minus one hour, up to 24 hours), and kind=email with email. An empty value is the default.
func askOf(q url.Values) (ask, error) {
	or := func(name, or string) string {
		if v := q.Get(name); v != "" {
			return v
		}
		return or
	}
	a := ask{
		audience: or("audience", defaultAudience), repository: or("repository", defaultRepository),
		workflow: or("workflow", defaultWorkflow), ref: or("ref", defaultRef), lifetime: defaultLifetime,
	}
	for _, c := range []struct {
		name, value string
		form        *regexp.Regexp
	}{{"repository", a.repository, repositoryForm}, {"workflow", a.workflow, workflowForm}, {"ref", a.ref, refForm}} {
		if !c.form.MatchString(c.value) {
			return ask{}, fmt.Errorf("%s %q does not match %s", c.name, c.value, c.form)
		}
	}
	a.workflow = ".github/workflows/" + strings.TrimPrefix(a.workflow, ".github/workflows/")
	switch kind := or("kind", "workflow"); kind {
	case "workflow":
		if q.Get("email") != "" {
			return ask{}, fmt.Errorf("email without kind=email")
		}
	case "email":
		a.email = or("email", defaultEmail)
		if addr, err := mail.ParseAddress(a.email); err != nil || addr.Address != a.email {
			return ask{}, fmt.Errorf("email %q is no address", a.email)
		}
	default:
		return ask{}, fmt.Errorf("kind %q is neither workflow nor email", kind)
	}
	if v := q.Get("lifetime"); v != "" {
		n, err := strconv.Atoi(v)
		a.lifetime = time.Duration(n) * time.Second
		if err != nil || n < -3600 || n > int(maxLifetime.Seconds()) {
			return ask{}, fmt.Errorf("lifetime %q is not a number of seconds from -3600 to 86400", v)
		}
	}
	return a, nil
}

// workflowPath is the workflow as GitHub names it, owner/name/path@ref. The certificate's identity is https://github.com/ before it.
func (a ask) workflowPath() string { return a.repository + "/" + a.workflow + "@" + a.ref }

// workflowClaims are the claims of a GitHub Actions token that Fulcio's GitHub templates read.
// Source: https://docs.github.com/en/actions/reference/security/oidc
func (a ask) workflowClaims(run string) map[string]any {
	owner, _, _ := strings.Cut(a.repository, "/")
	commit := sha1.Sum([]byte(a.repository + "@" + a.ref)) // any 40 digits, but the same ones for the same ref
	sha := hex.EncodeToString(commit[:])
	refType := "branch"
	if strings.HasPrefix(a.ref, "refs/tags/") {
		refType = "tag"
	}
	return map[string]any{
		"sub":                   "repo:" + a.repository + ":ref:" + a.ref,
		"repository":            a.repository,
		"repository_id":         number(a.repository),
		"repository_owner":      owner,
		"repository_owner_id":   number(owner),
		"repository_visibility": "public",
		"actor":                 owner,
		"actor_id":              number(owner),
		"event_name":            "push",
		"ref":                   a.ref,
		"ref_type":              refType,
		"ref_protected":         "false",
		"base_ref":              "",
		"head_ref":              "",
		"sha":                   sha,
		"workflow":              "publish",
		"workflow_ref":          a.workflowPath(),
		"workflow_sha":          sha,
		"job_workflow_ref":      a.workflowPath(),
		"job_workflow_sha":      sha,
		"run_id":                run,
		"run_number":            "1",
		"run_attempt":           "1",
		"runner_environment":    "github-hosted",
	}
}

func (a ask) personClaims() map[string]any {
	return map[string]any{"sub": number(a.email), "email": a.email, "email_verified": true}
}

// number makes the numeric identifier of a name: any, but always the same one.
func number(name string) string {
	h := fnv.New32a()
	h.Write([]byte(name))
	return strconv.FormatUint(uint64(h.Sum32()), 10)
}
