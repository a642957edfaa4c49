package github

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/hallmark-attest/hallmark/internal/remote"
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
type StatusError = remote.StatusError

// service is what errors call it.
const service = "GitHub"

// limited is a refusal for being too many, and so without effect.
type limited struct{ *StatusError }

func (e *limited) Unwrap() error { return e.StatusError }

// Transient tells whether trying again may help and, if GitHub said so, after how long.
func Transient(err error) (after time.Duration, ok bool) { return remote.Transient(err) }

// refusal makes the error for an answer. Limits are told from rights by what comes with a 403 ("Rate limits for the REST
// API"): Retry-After, nothing remaining, or a message about a secondary limit, which asks for a minute.
func (a *Attestations) refusal(doing string, resp *http.Response) error {
	e := &StatusError{Service: service, Doing: doing, Status: resp.StatusCode, Said: message(resp.Body, strings.TrimSpace(a.token()))}
	tooMany := resp.StatusCode == http.StatusTooManyRequests
	if s, err := strconv.ParseInt(resp.Header.Get("Retry-After"), 10, 32); err == nil {
		tooMany = tooMany || resp.StatusCode == http.StatusForbidden
		e.After = time.Duration(s) * time.Second
	} else if resp.Header.Get("X-RateLimit-Remaining") == "0" && (tooMany || resp.StatusCode == http.StatusForbidden) {
		tooMany = true
		if reset, err := strconv.ParseInt(resp.Header.Get("X-RateLimit-Reset"), 10, 64); err == nil {
			e.After = time.Unix(reset, 0).Sub(a.now())
		}
	} else if tooMany || resp.StatusCode == http.StatusForbidden && strings.Contains(strings.ToLower(e.Said), "secondary rate limit") {
		tooMany = true
		e.After = time.Minute
	}
	e.After = min(max(e.After, 0), time.Hour)
	if tooMany {
		e.After = max(e.After, time.Second)
		return &limited{e}
	}
	switch code := resp.StatusCode; {
	case code == http.StatusUnauthorized:
		e.Kind = ErrIdentity
	case code == http.StatusForbidden:
		e.Kind = ErrForbidden
	case code == http.StatusNotFound, code/100 == 3: // a repository that was renamed or moved redirects
		e.Kind = ErrNotFound
	case code/100 == 4 && code != http.StatusRequestTimeout:
		e.Kind = ErrRejected
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
