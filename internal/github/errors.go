package github

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
)

var (
	// ErrArgument says that what was given is no repository, or no bundle.
	ErrArgument = errors.New("nothing to store")
	// ErrIdentity says that GitHub does not accept the token (401), or that there is none.
	ErrIdentity = errors.New("GitHub does not accept the token")
	// ErrForbidden says that the token may not do this (403).
	ErrForbidden = errors.New(`GitHub forbids it: does the job have the permission "attestations: write"?`)
	// ErrNotFound says that there is no such repository for this token, or that it has no attestations (404): private
	// repositories have them on some plans only.
	ErrNotFound = errors.New("GitHub has no such repository, or no attestations for it")
	// ErrRejected says that GitHub does not take the bundle.
	ErrRejected = errors.New("GitHub rejects the attestation")
)

// StatusError is an answer that is not the one hoped for. It matches the sentinel that fits, if one does.
type StatusError struct {
	Doing  string
	Status int
	Said   string        // what GitHub's answer has as its message
	After  time.Duration // how long to wait, at most an hour; 0 if nothing was said
	kind   error         // nil: it may pass

	limited bool // refused for being too many, and so without effect
}

func (e *StatusError) Error() string {
	s := fmt.Sprintf("%s: GitHub answered %d", e.Doing, e.Status)
	if e.Said != "" {
		s += fmt.Sprintf(" (%s)", e.Said)
	}
	if e.kind != nil {
		s += ": " + e.kind.Error()
	}
	return s
}

// Unwrap gives the sentinel.
func (e *StatusError) Unwrap() error { return e.kind }

// outage is a failure that may pass.
type outage struct{ err error }

func (e *outage) Error() string { return e.err.Error() }
func (e *outage) Unwrap() error { return e.err }

// Transient tells whether trying again may help and, if GitHub said so, after how long.
func Transient(err error) (after time.Duration, ok bool) {
	if err == nil || errors.Is(err, context.Canceled) {
		return 0, false
	}
	if s, ok := errors.AsType[*StatusError](err); ok {
		return s.After, s.kind == nil
	}
	if _, ok := errors.AsType[*outage](err); ok {
		return 0, true
	}
	return 0, errors.Is(err, context.DeadlineExceeded)
}

// refusal makes the error for an answer. Limits are told from rights by what comes with a 403 ("Rate limits for the REST
// API"): Retry-After, nothing remaining, or a message about a secondary limit, which asks for a minute.
func (a *Attestations) refusal(doing string, resp *http.Response) *StatusError {
	e := &StatusError{Doing: doing, Status: resp.StatusCode, Said: message(resp.Body, strings.TrimSpace(a.token()))}
	limited := resp.StatusCode == http.StatusTooManyRequests
	if s, err := strconv.ParseInt(resp.Header.Get("Retry-After"), 10, 32); err == nil {
		limited = limited || resp.StatusCode == http.StatusForbidden
		e.After = time.Duration(s) * time.Second
	} else if resp.Header.Get("X-RateLimit-Remaining") == "0" && (limited || resp.StatusCode == http.StatusForbidden) {
		limited = true
		if reset, err := strconv.ParseInt(resp.Header.Get("X-RateLimit-Reset"), 10, 64); err == nil {
			e.After = time.Unix(reset, 0).Sub(a.now())
		}
	} else if limited || resp.StatusCode == http.StatusForbidden && strings.Contains(strings.ToLower(e.Said), "secondary rate limit") {
		limited = true
		e.After = time.Minute
	}
	e.After = min(max(e.After, 0), time.Hour)
	if limited {
		e.After, e.limited = max(e.After, time.Second), true
		return e
	}
	switch code := resp.StatusCode; {
	case code == http.StatusUnauthorized:
		e.kind = ErrIdentity
	case code == http.StatusForbidden:
		e.kind = ErrForbidden
	case code == http.StatusNotFound, code/100 == 3: // a repository that was renamed or moved redirects
		e.kind = ErrNotFound
	case code/100 == 4 && code != http.StatusRequestTimeout:
		e.kind = ErrRejected
	}
	return e
}

// message reads the "message" of an error of the API, without the token.
func message(body io.Reader, token string) string {
	raw, _ := io.ReadAll(io.LimitReader(body, 64<<10))
	var said struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(raw, &said) != nil || token == "" {
		return ""
	}
	text := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ReplaceAll(said.Message, token, "[redacted]"))
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:300], "") + "…"
	}
	return text
}

// unreached makes the error for a request without an answer, without its URL, which may be a signed one. The end of ctx,
// which is the caller's, is no outage.
func unreached(ctx context.Context, doing string, err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if cerr := ctx.Err(); cerr != nil {
		return fmt.Errorf("%s: %w", doing, cerr)
	}
	return &outage{err: fmt.Errorf("%s: %w", doing, err)}
}
