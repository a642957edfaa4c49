package identity

import (
	"io"
	"net/http"
	"os"
	"strings"
)

// Options say where Detect may look. The zero value looks at the process's environment.
type Options struct {
	// Token is a token given explicitly, with a flag.
	Token string
	// TokenFile is a file to read tokens from, given explicitly.
	TokenFile string
	// Audience is what GitHub Actions is asked for. Defaults to DefaultAudience.
	Audience string
	// Issuer and ClientID are the sign-in service of the interactive source. Default to the public-good Sigstore's.
	Issuer, ClientID string
	// Interactive says that a person is there who may be asked to sign in with a browser (stdin and stderr are terminals).
	Interactive bool
	// In and Out are where the person is. Default to os.Stdin and os.Stderr.
	In  io.Reader
	Out io.Writer
	// Getenv defaults to os.Getenv.
	Getenv func(string) string
	// Transport carries the requests to identity providers. Defaults to http.DefaultTransport.
	Transport http.RoundTripper
}

// variables are read in this order.
var variables = [...]string{"HALLMARK_ID_TOKEN", "SIGSTORE_ID_TOKEN"}

// Detect picks the source of identity tokens: the explicit token, the explicit file, the environment variables
// HALLMARK_ID_TOKEN and SIGSTORE_ID_TOKEN, GitHub Actions, and last, if a person is there, a sign-in. It makes no
// request and reads no token. If there is none, its error matches ErrNoIdentity and lists what was looked for.
func Detect(o Options) (Source, error) {
	getenv := o.Getenv
	if getenv == nil {
		getenv = os.Getenv
	}
	if o.Token != "" {
		return NewStatic(o.Token, "the token given on the command line"), nil
	}
	if o.TokenFile != "" {
		return &File{Path: o.TokenFile}, nil
	}
	looked := []string{"no token or token file was given"}
	for _, name := range variables {
		if getenv(name) != "" {
			return &Variable{Name: name, Getenv: getenv}, nil
		}
		looked = append(looked, name+" is not set")
	}
	requestURL, requestToken := getenv(githubURL), getenv(githubToken)
	hint := "in CI, set SIGSTORE_ID_TOKEN or give a token file; on a desk, run in a terminal to sign in with a browser"
	switch {
	case requestURL != "" && requestToken != "":
		return NewGitHub(requestURL, requestToken, o.Audience, o.Transport)
	case getenv("GITHUB_ACTIONS") == "true":
		looked = append(looked, "the GitHub Actions job has no "+githubURL)
		hint = `give the GitHub Actions job the permission "id-token: write"`
	default:
		looked = append(looked, "not in a GitHub Actions job")
	}
	if o.Interactive {
		in, out := o.In, o.Out
		if in == nil {
			in = os.Stdin
		}
		if out == nil {
			out = os.Stderr
		}
		return NewInteractive(o.Issuer, o.ClientID, in, out, o.Transport), nil
	}
	looked = append(looked, "no terminal to sign in from")
	return nil, &MissingError{Looked: looked, Hint: hint}
}

// MissingError says where Detect looked for an identity in vain, and what to do about it. It matches ErrNoIdentity.
type MissingError struct {
	Looked []string
	Hint   string
}

func (e *MissingError) Error() string {
	return ErrNoIdentity.Error() + " (" + strings.Join(e.Looked, "; ") + ")"
}

// Is matches ErrNoIdentity.
func (e *MissingError) Is(target error) bool { return target == ErrNoIdentity }
