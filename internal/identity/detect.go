package identity

import (
	"io"
	"net/http"
	"os"
	"strings"
)

// Options say where Detect may look. The zero value looks at the process's environment.
type Options struct {
	// Only, unless it is "", names the one kind of source to use, whatever else there is: one of Kinds.
	Only string
	// Token is a token given explicitly, with a flag.
	Token string
	// TokenFile is a file to read tokens from, given explicitly.
	TokenFile string
	// Audience is what providers are asked for. Defaults to DefaultAudience.
	Audience string
	// Issuer and ClientID are the sign-in service of the interactive source. Default to the public-good Sigstore's.
	Issuer, ClientID string
	// Interactive says that a person is there who may be asked to sign in (stdin and stderr are terminals).
	Interactive bool
	// In and Out are where the person is. Default to os.Stdin and os.Stderr.
	In  io.Reader
	Out io.Writer
	// Getenv defaults to os.Getenv.
	Getenv func(string) string
	// Transport carries the requests to identity providers. Defaults to http.DefaultTransport; for Google's metadata
	// server, to one without a proxy.
	Transport http.RoundTripper

	// For tests: a program's path by its name, the mounted token, and the file that names the machine's maker.
	lookPath         func(string) (string, error)
	mounted, product string
}

// Survey is what Look found.
type Survey struct {
	// Source gives the tokens.
	Source Source
	// Kind is the source's kind: one of Kinds.
	Kind string
	// Looked is what was looked at, in order; the last one was found.
	Looked []Finding
}

// Finding is one kind of source, and whether it is there.
type Finding struct {
	Kind  string
	Found bool
	// Why says what makes it so: "SIGSTORE_ID_TOKEN is not set".
	Why string
}

// Detect picks the source of identity tokens, as Look does.
func Detect(o Options) (Source, error) {
	s, err := Look(o)
	if err != nil {
		return nil, err
	}
	return s.Source, nil
}

// Look picks the source of identity tokens and says how it came to it. It makes no request, runs no program and reads no
// token. The first that is there is taken, in this order: from what was given for this run, over what the environment
// made for this very job or workload, to what the machine is, and last a person.
//
//	token     a token given with a flag
//	file      a file given with a flag; read anew for each token
//	variable  HALLMARK_ID_TOKEN, or SIGSTORE_ID_TOKEN (GitLab's id_tokens and others set it)
//	github    a GitHub Actions job with the permission "id-token: write"
//	buildkite a Buildkite job, by its buildkite-agent
//	circleci  a CircleCI job, by its circleci program
//	mounted   /var/run/sigstore/cosign/oidc-token, where Kubernetes projects a token for Sigstore
//	spiffe    the workload API that SPIFFE_ENDPOINT_SOCKET names
//	google    the service account of a machine of Google Cloud; never for a job of a CI system that is recognised, which
//	          would sign as the machine that it happens to run on
//	sign-in   a person at a terminal, by browser or, where there is none, by a code for another device
//
// With Options.Only, one more can be had: "device" is a sign-in by a code, also where there is a browser.
//
// If there is none, the error is a *MissingError, which matches ErrNoIdentity and lists what was looked at.
func Look(o Options) (Survey, error) {
	l := newLooker(o)
	var s Survey
	hint := ""
	for _, p := range places() {
		if o.Only != p.kind && (o.Only != "" || p.onlyAsked) {
			continue
		}
		found := p.look(l)
		if found.err != nil {
			return Survey{}, found.err
		}
		if found.why != "" {
			s.Looked = append(s.Looked, Finding{Kind: p.kind, Found: found.source != nil, Why: found.why})
		}
		if found.source != nil {
			s.Source, s.Kind = found.source, p.kind
			return s, nil
		}
		if hint == "" {
			hint = found.hint
		}
	}
	if hint == "" {
		hint = hintNowhere
	}
	return Survey{}, &MissingError{Looked: s.Looked, Hint: hint}
}

// Kinds are the kinds of sources, in the order in which Look looks for them.
func Kinds() []string {
	var kinds []string
	for _, p := range places() {
		kinds = append(kinds, p.kind)
	}
	return kinds
}

// MissingError says where Detect looked for an identity in vain, and what to do about it. It matches ErrNoIdentity.
type MissingError struct {
	Looked []Finding
	Hint   string
}

func (e *MissingError) Error() string {
	whys := make([]string, len(e.Looked))
	for i, f := range e.Looked {
		whys[i] = f.Why
	}
	return ErrNoIdentity.Error() + " (" + strings.Join(whys, "; ") + ")"
}

// Is matches ErrNoIdentity.
func (e *MissingError) Is(target error) bool { return target == ErrNoIdentity }

func (o Options) person() (in io.Reader, out io.Writer) {
	in, out = o.In, o.Out
	if in == nil {
		in = os.Stdin
	}
	if out == nil {
		out = os.Stderr
	}
	return in, out
}
