package identity

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"
	"unicode"
)

const (
	programTimeout = time.Minute     // the programs try again by themselves
	programGrace   = 2 * time.Second // for what the program left behind, after its end
	maxComplaint   = 4 << 10         // of what it wrote to stderr; the end of it says why
	maxReason      = 300             // of that in an error
)

// Program runs a CI system's own program for each token: that is how the system hands them out. The program gets this
// process's environment, a minute, and room for one token.
type Program struct {
	name, path, audience, hint string
	args                       []string
	timeout, grace             time.Duration
}

// NewBuildkite asks the buildkite-agent at path, which a Buildkite job finds in its PATH. The audience defaults to
// DefaultAudience. Tokens live for five minutes.
func NewBuildkite(path, audience string) *Program {
	if audience == "" {
		audience = DefaultAudience
	}
	return &Program{name: "Buildkite", path: path, audience: audience, timeout: programTimeout, grace: programGrace,
		args: []string{"oidc", "request-token", "--audience", audience}, hint: hintBuildkite}
}

// NewCircleCI asks the circleci program at path, which a CircleCI job finds in its PATH. The audience defaults to
// DefaultAudience. (The tokens in CIRCLE_OIDC_TOKEN and CIRCLE_OIDC_TOKEN_V2 are for another audience, the organization,
// and Sigstore refuses them.)
func NewCircleCI(path, audience string) *Program {
	if audience == "" {
		audience = DefaultAudience
	}
	claims, _ := json.Marshal(map[string]string{"aud": audience}) // strings always encode
	return &Program{name: "CircleCI", path: path, audience: audience, timeout: programTimeout, grace: programGrace,
		args: []string{"run", "oidc", "get", "--claims", string(claims)}, hint: hintCircleCI}
}

func (p *Program) String() string { return p.name }

// Token runs the program. If its complaint names one of the HTTP statuses by which a server refuses, or it does not
// exist, the error matches ErrRefused, otherwise ErrUnavailable. The program is killed when ctx ends.
func (p *Program) Token(ctx context.Context) (Token, error) {
	raw, err := p.run(ctx)
	if err != nil {
		if cerr := ctx.Err(); cerr != nil {
			return Token{}, cerr
		}
		return Token{}, fmt.Errorf("asking %s for an identity token (audience %s): %w", p, p.audience, err)
	}
	return parsed(raw, p, time.Now())
}

func (p *Program) run(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.path, p.args...)
	out, complaint := &atMost{limit: maxToken + 1}, &lastOf{limit: maxComplaint}
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = out, complaint, p.grace
	err := cmd.Run()
	switch {
	case err == nil:
		return out.data.String(), nil
	case out.overflowed:
		return "", fmt.Errorf("%s printed more than a token: %w", p.path, ErrMalformed)
	case ctx.Err() != nil:
		return "", fmt.Errorf("%w: %s gave none in %s", ErrUnavailable, p.path, p.timeout)
	}
	exit, ran := errors.AsType[*exec.ExitError](err)
	switch {
	case !ran && scarce(err):
		return "", fmt.Errorf("%w: %w", ErrUnavailable, err)
	case !ran:
		return "", fmt.Errorf("%w: %w; %s", ErrRefused, err, p.hint)
	}
	reason := complaint.reason(out.data.String())
	if reason == "" {
		reason = "it did not say why"
	}
	if refusal.MatchString(reason) {
		return "", fmt.Errorf("%w: %s: %s (%s); %s", ErrRefused, p.path, exit, reason, p.hint)
	}
	return "", fmt.Errorf("%w: %s: %s (%s)", ErrUnavailable, p.path, exit, reason)
}

// scarce reports whether a program did not start for want of what there may be later: file descriptors, processes, memory.
func scarce(err error) bool {
	for _, e := range [...]error{syscall.EMFILE, syscall.ENFILE, syscall.EAGAIN, syscall.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

var (
	// refusal finds the statuses that asking again does not change.
	refusal = regexp.MustCompile(`\b(400|401|403|404|422)\b`)
	// tokenLike finds what may be a JWT: two parts that begin as a JSON object does in base64.
	tokenLike = regexp.MustCompile(`eyJ[\w-]+\.eyJ[\w-]+(\.[\w-]*)?`)
	// colours are what a terminal would act on.
	colours = regexp.MustCompile("\x1b\\[[0-9;]*[A-Za-z]")
)

// atMost keeps so many bytes, and ends the writer at more.
type atMost struct {
	data       bytes.Buffer // not embedded: its ReadFrom would take all
	limit      int
	overflowed bool
}

func (b *atMost) Write(p []byte) (int, error) {
	if b.data.Len()+len(p) > b.limit {
		b.overflowed = true
		return 0, io.ErrShortWrite
	}
	return b.data.Write(p)
}

// lastOf keeps the last so many bytes.
type lastOf struct {
	data  []byte
	limit int
}

func (b *lastOf) Write(p []byte) (int, error) {
	b.data = append(b.data, p[max(0, len(p)-b.limit):]...)
	b.data = b.data[max(0, len(b.data)-b.limit):]
	return len(p), nil
}

// reason is the last line, fit for an error: short, in plain characters, and without what may be a credential: a token,
// what the program printed, or the value of an environment variable that is named like one.
func (b *lastOf) reason(printed string) string {
	text := colours.ReplaceAllString(strings.ToValidUTF8(string(b.data), ""), "")
	if printed = strings.TrimSpace(printed); len(printed) >= 8 {
		text = strings.ReplaceAll(text, printed, redacted)
	}
	for _, entry := range os.Environ() {
		name, value, _ := strings.Cut(entry, "=")
		if len(value) >= 8 && secretName.MatchString(name) {
			text = strings.ReplaceAll(text, value, redacted)
		}
	}
	text = strings.TrimSpace(tokenLike.ReplaceAllString(text, redacted))
	text = text[strings.LastIndexByte(text, '\n')+1:]
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, text)
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + "…"
	}
	return text
}

var secretName = regexp.MustCompile(`(?i)TOKEN|SECRET|PASSWORD|KEY|CREDENTIAL`)
