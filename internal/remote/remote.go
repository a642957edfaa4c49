// Package remote is what clients of services on the network share. Answers and failures of a service flow in; errors that
// tell what may pass from what is for good, and how long to wait, flow out.
package remote

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// StatusError is an answer that is not the one hoped for. It matches Kind.
type StatusError struct {
	Service string // who answered: "the server", "GitHub"
	Doing   string
	Status  int
	Said    string        // what the answer says, in one short text without credentials; may be empty
	After   time.Duration // how long to wait, as the service wants it; 0 if it did not say
	Kind    error         // the client's sentinel that fits; nil: it may pass
}

func (e *StatusError) Error() string {
	s := fmt.Sprintf("%s: %s answered %d", e.Doing, e.Service, e.Status)
	if e.Said != "" {
		s += fmt.Sprintf(" (%s)", e.Said)
	}
	if e.Kind != nil {
		s += ": " + e.Kind.Error()
	}
	return s
}

// Unwrap gives the sentinel.
func (e *StatusError) Unwrap() error { return e.Kind }

// Outage is a failure that may pass: of the network, or of what a service serves.
type Outage struct{ Err error }

func (e *Outage) Error() string { return e.Err.Error() }
func (e *Outage) Unwrap() error { return e.Err }

// Unreached makes the error for a request without an answer. It does not show the URL that was asked, which may be as good
// as a credential. The end of ctx, which is the caller's, is no outage.
func Unreached(ctx context.Context, doing string, err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if cerr := ctx.Err(); cerr != nil {
		return fmt.Errorf("%s: %w", doing, cerr)
	}
	return &Outage{Err: fmt.Errorf("%s: %w", doing, err)}
}

// Transient tells whether trying again may help and, if the service said so, after how long.
func Transient(err error) (after time.Duration, ok bool) {
	if err == nil || errors.Is(err, context.Canceled) {
		return 0, false
	}
	if s, ok := errors.AsType[*StatusError](err); ok {
		return s.After, s.Kind == nil
	}
	if _, ok := errors.AsType[*Outage](err); ok {
		return 0, true
	}
	return 0, errors.Is(err, context.DeadlineExceeded)
}

// RetryAfter reads the header Retry-After, seconds or a date (RFC 9110, section 10.2.3): from now on, at most an hour. said
// is false, and after 0, if there is none that can be read.
func RetryAfter(h http.Header, now time.Time) (after time.Duration, said bool) {
	v := h.Get("Retry-After")
	if seconds, err := strconv.ParseUint(v, 10, 32); err == nil {
		after, said = time.Duration(seconds)*time.Second, true
	} else if at, err := http.ParseTime(v); err == nil {
		after, said = at.Sub(now), true
	}
	return min(max(after, 0), time.Hour), said
}

// Pause waits for d, or returns ctx.Err() once ctx has ended.
func Pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Unmoved is a client that follows no redirects: what it sends is a credential, or under one, and goes where it was sent or
// nowhere. timeout bounds a request with its answer; 0 is none.
func Unmoved(t http.RoundTripper, timeout time.Duration) *http.Client {
	return &http.Client{Transport: t, Timeout: timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}
