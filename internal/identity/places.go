package identity

import (
	"os"
	"os/exec"
	"slices"
	"strings"
)

const (
	// mountedToken is where Sigstore's clients look for a token that Kubernetes projects into a pod.
	mountedToken = "/var/run/sigstore/cosign/oidc-token"
	// productName says what machine this is. Google's say "Google Compute Engine", or "Google".
	productName = "/sys/class/dmi/id/product_name"
	// googleVariable is where Google's own clients are told of another metadata server.
	googleVariable = "GCE_METADATA_HOST"
)

// variables hold tokens. They are read in this order.
var variables = [...]string{"HALLMARK_ID_TOKEN", "SIGSTORE_ID_TOKEN"}

// What to do about an identity that is missing.
const (
	hintNowhere = "in CI, set SIGSTORE_ID_TOKEN or give a token file; on a desk, run in a terminal to sign in with a browser"
	hintGitHub  = `give the GitHub Actions job the permission "id-token: write"`
	hintGitLab  = `give the GitLab job a token, in .gitlab-ci.yml: "id_tokens: {SIGSTORE_ID_TOKEN: {aud: sigstore}}"` +
		` (the CI_JOB_TOKEN that each job has does not serve)`
	hintBuildkite = "make buildkite-agent and its job variables reach the command: in a container, with the Docker plugin's mount-buildkite-agent: true"
	hintCircleCI  = "run in a CircleCI job, where the circleci program can ask for a token; a fork's job gets none unless the project passes secrets to forks"
	hintSPIFFE    = spiffeSocket + " is unix:///path of the agent's socket, which must be mounted into the container"
	hintGoogle    = "run on Google Cloud with a service account attached, or set " + googleVariable
	hintFile      = "give the file's name with --identity-token-file or HALLMARK_IDENTITY_TOKEN_FILE"
	hintVariable  = "set SIGSTORE_ID_TOKEN to an OIDC token for the audience sigstore"
	hintMounted   = "project a service account token with the audience sigstore to " + mountedToken
	hintSignIn    = "run in a terminal"
)

// place is where one kind of source is looked for.
type place struct {
	kind      string
	onlyAsked bool // not looked at unless Options.Only says so
	look      func(*looker) found
}

// found is what a look gave: a source, or none with a hint if it seems that there should be one. Why speaks of either; if it
// is "", there is nothing to say.
type found struct {
	source    Source
	why, hint string
	err       error
}

// looker is the environment, as Options has it.
type looker struct {
	Options
	getenv func(string) string
	ci     string // the CI system whose job this is
}

func newLooker(o Options) *looker {
	l := &looker{Options: o, getenv: o.Getenv}
	if l.getenv == nil {
		l.getenv = os.Getenv
	}
	if l.lookPath == nil {
		l.lookPath = exec.LookPath
	}
	if l.mounted == "" {
		l.mounted = mountedToken
	}
	if l.product == "" {
		l.product = productName
	}
	for _, system := range []struct{ name, variable string }{
		{"GitHub Actions", "GITHUB_ACTIONS"}, {"GitLab CI", "GITLAB_CI"}, {"Buildkite", "BUILDKITE"}, {"CircleCI", "CIRCLECI"},
	} {
		if l.getenv(system.variable) == "true" {
			l.ci = system.name
			break
		}
	}
	return l
}

func places() []place {
	return []place{
		{kind: "token", look: (*looker).token},
		{kind: "file", look: (*looker).file},
		{kind: "variable", look: (*looker).variable},
		{kind: "github", look: (*looker).github},
		{kind: "buildkite", look: func(l *looker) found {
			return l.program("Buildkite", "buildkite-agent", hintBuildkite, NewBuildkite)
		}},
		{kind: "circleci", look: func(l *looker) found { return l.program("CircleCI", "circleci", hintCircleCI, NewCircleCI) }},
		{kind: "mounted", look: (*looker).mountedFile},
		{kind: "spiffe", look: (*looker).spiffe},
		{kind: "google", look: (*looker).google},
		{kind: "sign-in", look: (*looker).signIn},
		{kind: "device", onlyAsked: true, look: (*looker).signIn},
	}
}

func (l *looker) token() found {
	if l.Token == "" {
		return found{} // programs without such a flag need not hear of it
	}
	return found{source: NewStatic(l.Token, "the token given on the command line"), why: "it was given"}
}

func (l *looker) file() found {
	if l.TokenFile != "" {
		return found{source: &File{Path: l.TokenFile}, why: "it was given"}
	}
	return found{why: "no token file was given", hint: l.asked("file", hintFile)}
}

func (l *looker) variable() found {
	for _, name := range variables {
		if l.getenv(name) != "" {
			return found{source: &Variable{Name: name, Getenv: l.getenv}, why: name + " is set"}
		}
	}
	f := found{why: strings.Join(variables[:], " and ") + " are not set", hint: l.asked("variable", hintVariable)}
	if l.ci == "GitLab CI" {
		f.why, f.hint = f.why+" in this GitLab CI job", hintGitLab
	}
	return f
}

func (l *looker) github() found {
	requestURL, requestToken := l.getenv(githubURL), l.getenv(githubToken)
	switch {
	case requestURL != "" && requestToken != "":
		s, err := NewGitHub(requestURL, requestToken, l.Audience, l.Transport)
		if err != nil {
			return found{err: err}
		}
		return found{source: s, why: githubURL + " is set"}
	case l.ci == "GitHub Actions":
		return found{why: "the GitHub Actions job has no " + githubURL, hint: hintGitHub}
	}
	return found{why: "not in a GitHub Actions job", hint: l.asked("github", hintGitHub)}
}

func (l *looker) program(system, name, hint string, make func(path, audience string) *Program) found {
	if l.ci != system && l.Only == "" {
		return found{why: "not in a " + system + " job"}
	}
	path, err := l.lookPath(name)
	if err != nil {
		return found{why: "the " + system + " job has no program " + name + " in its PATH", hint: hint}
	}
	return found{source: make(path, l.Audience), why: "in a " + system + " job"}
}

func (l *looker) mountedFile() found {
	if info, err := os.Stat(l.mounted); err != nil || info.IsDir() {
		return found{why: "there is no " + l.mounted, hint: l.asked("mounted", hintMounted)}
	}
	return found{source: &File{Path: l.mounted}, why: "it is there"}
}

func (l *looker) spiffe() found {
	endpoint := l.getenv(spiffeSocket)
	if endpoint == "" {
		return found{why: spiffeSocket + " is not set", hint: l.asked("spiffe", hintSPIFFE)}
	}
	s, err := NewSPIFFE(endpoint, l.Audience)
	if err != nil {
		return found{err: err}
	}
	return found{source: s, why: spiffeSocket + " is set"}
}

func (l *looker) google() found {
	asked := l.Only == "google"
	why := l.onGoogle()
	switch {
	case why == "" && !asked:
		return found{why: "not on Google Cloud", hint: l.asked("google", hintGoogle)}
	case l.ci != "" && !asked:
		return found{why: "a " + l.ci + " job does not sign as the machine of Google Cloud that it runs on"}
	case why == "":
		why = "it was chosen"
	}
	s, err := NewGoogle(l.getenv(googleVariable), l.Audience, l.Transport)
	if err != nil {
		return found{err: err}
	}
	return found{source: s, why: why}
}

// onGoogle says how it is seen that this runs on Google Cloud, without a request: elsewhere the metadata server's name
// would be looked up in vain, which takes long.
func (l *looker) onGoogle() string {
	for _, name := range []string{googleVariable, "K_SERVICE", "CLOUD_RUN_JOB"} { // the latter two: Cloud Run has no DMI
		if l.getenv(name) != "" {
			return name + " is set"
		}
	}
	if f, err := os.Open(l.product); err == nil {
		defer f.Close()
		name := make([]byte, len("Google"))
		if n, _ := f.Read(name); string(name[:n]) == "Google" {
			return "the machine is Google's"
		}
	}
	return ""
}

func (l *looker) signIn() found {
	asked := slices.Contains([]string{"sign-in", "device"}, l.Only)
	if !l.Interactive {
		hint := ""
		if asked {
			hint = hintSignIn
		}
		return found{why: "no terminal to sign in from", hint: hint}
	}
	in, out := l.person()
	s := NewInteractive(l.Issuer, l.ClientID, in, out, l.Transport)
	s.device = l.Only == "device"
	return found{source: s, why: "a person is at the terminal"}
}

// asked is the hint, if this kind of source was asked for.
func (l *looker) asked(kind, hint string) string {
	if l.Only == kind {
		return hint
	}
	return ""
}
