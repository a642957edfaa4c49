package prefix

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/hallmark-attest/hallmark/internal/identity"
	"github.com/hallmark-attest/hallmark/internal/remote"
)

var (
	// ErrIdentity says that the server does not accept who we are: 401, also with a token minted anew, or no token minted.
	// No package will pass.
	ErrIdentity = errors.New("the channel's server does not accept the identity or token")
	// ErrForbidden says that we are known and may not do this (403): no rights to the channel, or a kind of package that
	// the channel does not take.
	ErrForbidden = errors.New("the channel's server forbids it")
	// ErrChannel says that there is no such channel (404), or that the server is another one (a redirect). No package will
	// pass.
	ErrChannel = errors.New("there is no such channel on the server")
	// ErrRejected says that the server does not take this package or bundle (400, 413, 422).
	ErrRejected = errors.New("the channel's server rejects it")
	// ErrDigest says that the package's bytes are not those of its size and SHA-256. They did not get through.
	ErrDigest = errors.New("the package's bytes have changed")
	// ErrUnsettled says that the server answered 409 for a file that it did not serve in all the time that was waited.
	ErrUnsettled = errors.New("the server says that the file exists, and does not serve it")
	// ErrUnattested says that the file's sidecar did not show the bundle in all the time that was waited.
	ErrUnattested = errors.New("the channel does not serve this attestation")
	// ErrArgument says that what was given cannot be uploaded at all: a bad file name, subdir, digest, size or bundle.
	ErrArgument = errors.New("not a package and a bundle to upload")
)

// Conflict says that the channel serves other bytes under the name. It is never settled by overwriting.
type Conflict struct {
	Subdir, Filename string
	Ours             string // SHA-256
	Theirs           string // SHA-256; "" if the sizes differ, and so it was not read
	TheirSize        int64
}

func (e *Conflict) Error() string {
	theirs := e.Theirs
	if theirs == "" {
		theirs = fmt.Sprintf("%d bytes", e.TheirSize)
	}
	return fmt.Sprintf("the channel has other bytes under %s/%s: %s, not %s", e.Subdir, e.Filename, theirs, e.Ours)
}

// StatusError is an answer that is not the one hoped for. It matches the sentinel that fits, if one does.
type StatusError = remote.StatusError

// Transient tells whether trying again may help and, if the server said so, after how long.
func Transient(err error) (after time.Duration, ok bool) {
	if err == nil || errors.Is(err, context.Canceled) {
		return 0, false
	}
	for _, decided := range [...]error{ErrIdentity, ErrForbidden, ErrChannel, ErrRejected, ErrDigest, ErrUnsettled, ErrUnattested, ErrArgument} {
		if errors.Is(err, decided) {
			return 0, false
		}
	}
	after, ok = remote.Transient(err)
	return after, ok || errors.Is(err, identity.ErrUnavailable)
}

// status makes the error for an answer, whose body it reads a little of. redact takes the credentials out that were sent.
func status(doing string, resp *http.Response, kind error, redact func(string) string) *StatusError {
	after, _ := remote.RetryAfter(resp.Header, time.Now())
	return &StatusError{Service: "the server", Doing: doing, Status: resp.StatusCode, Said: said(resp.Body, redact), After: after, Kind: kind}
}

// said reads the beginning of an answer's text for a message.
func said(body io.Reader, redact func(string) string) string {
	const most = 300
	// More than is shown is read, so that a credential which begins in what is shown is seen whole.
	raw, _ := io.ReadAll(io.LimitReader(body, 64<<10))
	text := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(redact(string(raw)), "?"))
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

const redacted = "[redacted]"
