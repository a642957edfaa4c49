package identity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/hallmark-attest/hallmark/internal/remote"
)

const (
	askAttempts = 4
	askTimeout  = 15 * time.Second // one attempt
	askPatience = 30 * time.Second // the longest wait between two
)

// wait is what a provider wants to be left alone for; 0 if it did not say.
type wait = time.Duration

// persist asks a provider for a token, up to askAttempts times as long as it is unavailable, with growing pauses between.
func persist(ctx context.Context, provider fmt.Stringer, audience string, ask func(context.Context) (string, wait, error)) (Token, error) {
	delay := 500 * time.Millisecond
	for attempt := 1; ; attempt++ {
		raw, after, err := ask(ctx)
		if err == nil {
			return parsed(raw, provider, time.Now())
		}
		err = fmt.Errorf("asking %s for an identity token (audience %s): %w", provider, audience, err)
		if !errors.Is(err, ErrUnavailable) || attempt == askAttempts || after > askPatience {
			return Token{}, err
		}
		if cerr := remote.Pause(ctx, max(after, delay/2+rand.N(delay))); cerr != nil {
			return Token{}, errors.Join(cerr, err)
		}
		delay *= 2
	}
}

// fetch makes one request and returns the body of a 200, at most 2*maxToken bytes of it. Its errors are ctx's, or match
// ErrUnavailable or ErrRefused; those for an answer that is not 200 are a *statusError. They never show the address.
func fetch(client *http.Client, req *http.Request) ([]byte, wait, error) {
	resp, err := client.Do(req)
	if err != nil {
		if cerr := req.Context().Err(); cerr != nil {
			return nil, 0, cerr
		}
		if u, ok := errors.AsType[*url.Error](err); ok { // without the URL, whose path and query are the runner's business
			err = u.Err
		}
		return nil, 0, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer resp.Body.Close()
	switch code := resp.StatusCode; {
	case code == http.StatusOK:
	case code == http.StatusTooManyRequests || code >= 500:
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		return nil, wait(min(max(seconds, 0), 3600)) * time.Second, &statusError{code, ErrUnavailable}
	default:
		return nil, 0, &statusError{code, ErrRefused}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 2*maxToken))
	if err != nil {
		return nil, 0, fmt.Errorf("%w: reading its answer: %w", ErrUnavailable, err)
	}
	return body, 0, nil
}

// statusError is an HTTP status that brought no token.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string { return fmt.Sprintf("%v: it answered %d", e.err, e.status) }
func (e *statusError) Unwrap() error { return e.err }
