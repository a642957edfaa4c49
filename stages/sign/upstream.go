package sign

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/hallmark-attest/hallmark/internal/remote"
)

// The services that signing calls, as they are named in errors and causes.
const (
	serviceFulcio = "fulcio"
	serviceTSA    = "tsa"
	serviceRekor  = "rekor"
)

const (
	// upstreamAttempts bounds the requests for one call, the first included. What takes longer to pass is the
	// engine's to wait for, where the operator sees it and the breaker counts it.
	upstreamAttempts = 4
	// upstreamPatience is the longest Retry-After that is waited out here.
	upstreamPatience = 10 * time.Second
	upstreamBackoff  = 250 * time.Millisecond

	maxRequest  = 1 << 20
	maxResponse = 4 << 20
	maxMessage  = 300 // of a server's text in an error
)

// UpstreamError says that a service of Sigstore's did not answer, or not with what was asked for.
type UpstreamError struct {
	Service    string        // "fulcio", "tsa", "rekor"
	Status     int           // the HTTP status; 0 if there was no answer
	RetryAfter time.Duration // the service's wish; 0 if it had none
	Message    string        // the service's words, shortened; never a credential
	Err        error         // why there was no answer
}

func (e *UpstreamError) Error() string {
	switch {
	case e.Status == 0:
		return fmt.Sprintf("%s did not answer: %v", e.Service, e.Err)
	case e.Message == "":
		return fmt.Sprintf("%s answered %d", e.Service, e.Status)
	}
	return fmt.Sprintf("%s answered %d: %s", e.Service, e.Status, e.Message)
}

func (e *UpstreamError) Unwrap() error { return e.Err }

// Temporary says whether the same request may succeed later.
func (e *UpstreamError) Temporary() bool {
	switch e.Status {
	case 0, http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return e.Status >= 500
}

// upstream is the way to one service, as an http.RoundTripper under a client of sigstore-go's or our own. It tries again
// what may pass, honours Retry-After for all callers at once, bounds every answer, and turns each status that the
// client does not expect into an *UpstreamError.
//
// That is its point: sigstore-go 1.3.0's own clients for Fulcio and TSA retry on 429 and 5xx only, sleep for whole
// seconds ignoring Retry-After, also after the last attempt, and then report "read on closed response body" in place of
// what the server said; its Rekor v2 client does not retry at all. They are given this transport and told not to retry.
type upstream struct {
	service  string
	budget   string // its name where there are budgets
	base     http.RoundTripper
	timeout  time.Duration             // one attempt
	expected []int                     // the statuses that the client understands
	check    func(answer []byte) error // may be nil
	retries  *atomic.Int64

	clock *clock

	// notBefore is when the service will take requests again, as a Retry-After said: in nanoseconds since since, by the
	// monotonic clock, so that a wall clock that is set back does not make it hours.
	notBefore atomic.Int64
	since     time.Time
}

// RoundTrip implements http.RoundTripper. Its errors are *UpstreamError, or the request's context's.
func (u *upstream) RoundTrip(req *http.Request) (*http.Response, error) {
	var body []byte
	if req.Body != nil {
		var err error
		body, err = io.ReadAll(io.LimitReader(req.Body, maxRequest))
		_ = req.Body.Close()
		if err != nil {
			return nil, fmt.Errorf("reading the request for %s: %w", u.service, err)
		}
	}
	backoff := upstreamBackoff
	for attempt := 1; ; attempt++ {
		for pausing := true; pausing; pausing = u.pausing() {
			if err := u.waitTurn(req.Context()); err != nil {
				return nil, err
			}
			if err := spend(req.Context(), u.budget); err != nil {
				return nil, err
			}
		}
		resp, failure := u.try(req, body)
		if failure == nil {
			return resp, nil
		}
		if err := req.Context().Err(); err != nil {
			return nil, fmt.Errorf("waiting for %s: %w", u.service, context.Cause(req.Context()))
		}
		if failure.RetryAfter > 0 {
			u.hold(failure.RetryAfter)
			pauseBudget(req.Context(), u.budget, failure.RetryAfter)
		}
		if !failure.Temporary() || attempt == upstreamAttempts || failure.RetryAfter > upstreamPatience {
			return nil, failure
		}
		u.retries.Add(1)
		if err := pause(req.Context(), backoff/2+rand.N(backoff)); err != nil {
			return nil, fmt.Errorf("waiting for %s: %w (it last failed with: %w)", u.service, err, failure)
		}
		backoff *= 2
	}
}

// try makes one request and reads the whole answer, so that an answer that breaks off is a failure like any other.
func (u *upstream) try(req *http.Request, body []byte) (*http.Response, *UpstreamError) {
	ctx, cancel := context.WithTimeout(req.Context(), u.timeout)
	defer cancel()
	r := req.Clone(ctx)
	if body != nil {
		r.Body = io.NopCloser(bytes.NewReader(body))
		r.ContentLength = int64(len(body))
	}
	asked := time.Now()
	resp, err := u.base.RoundTrip(r)
	if err != nil {
		return nil, u.noAnswer(err)
	}
	u.clock.see(u.service, resp.Header, asked, time.Now())
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse+1))
	if err != nil {
		return nil, u.noAnswer(fmt.Errorf("its answer broke off: %w", err))
	}
	if len(data) > maxResponse {
		return nil, &UpstreamError{Service: u.service, Status: resp.StatusCode, Message: "more than 4 MiB"}
	}
	for _, code := range u.expected {
		if resp.StatusCode == code {
			if u.check != nil {
				if err := u.check(data); err != nil {
					return nil, u.noAnswer(fmt.Errorf("its answer is unusable: %w", err))
				}
			}
			resp.Body = io.NopCloser(bytes.NewReader(data))
			return resp, nil
		}
	}
	after, _ := remote.RetryAfter(resp.Header, time.Now())
	return nil, &UpstreamError{Service: u.service, Status: resp.StatusCode, RetryAfter: after, Message: message(data)}
}

func (u *upstream) noAnswer(err error) *UpstreamError {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	return &UpstreamError{Service: u.service, Err: err}
}

// hold keeps every caller from the service for d.
func (u *upstream) hold(d time.Duration) {
	until := int64(time.Since(u.since) + d)
	for {
		old := u.notBefore.Load()
		if old >= until || u.notBefore.CompareAndSwap(old, until) {
			return
		}
	}
}

// pausing says that the service does not want to be asked now.
func (u *upstream) pausing() bool { return u.left() > 0 }

// left is how long the pause that the service asked for still is.
func (u *upstream) left() time.Duration {
	return time.Duration(u.notBefore.Load()) - time.Since(u.since)
}

// waitTurn waits for the time that the service asked for, spreading the callers over a little more than that.
func (u *upstream) waitTurn(ctx context.Context) error {
	wait := u.left()
	if wait <= 0 {
		return nil
	}
	if wait > upstreamPatience {
		return &UpstreamError{Service: u.service, Status: http.StatusTooManyRequests, RetryAfter: wait,
			Message: "it asked for a pause, which is not over"}
	}
	if err := pause(ctx, wait+rand.N(upstreamBackoff)); err != nil {
		return fmt.Errorf("waiting for %s: %w", u.service, err)
	}
	return nil
}

// pause waits for d, or returns why ctx ended.
func pause(ctx context.Context, d time.Duration) error {
	if remote.Pause(ctx, d) != nil {
		return context.Cause(ctx)
	}
	return nil
}

// message makes one short line of printable text of an error's body. Fulcio and Rekor answer JSON with a message.
func message(body []byte) string {
	var m struct {
		Message string `json:"message"`
	}
	text := string(body[:min(len(body), 4096)])
	if json.Unmarshal(body, &m) == nil {
		text = cmp.Or(m.Message, text)
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(text, " "))
	text = strings.Join(strings.Fields(text), " ")
	if r := []rune(text); len(r) > maxMessage {
		text = string(r[:maxMessage]) + "…"
	}
	return text
}

// carrier puts a caller's context on the requests of a client that makes them without one: sigstore-go 1.3.0's for Fulcio
// and TSA. Deadline, cancellation and the span then reach the wire. It is made per call, as the client is.
type carrier struct {
	ctx  context.Context
	next http.RoundTripper
}

func (c carrier) RoundTrip(req *http.Request) (*http.Response, error) {
	return c.next.RoundTrip(req.WithContext(c.ctx))
}
