package prefix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/remote"
	"github.com/hallmark-attest/hallmark/internal/strictjson"
)

// Package is what to upload.
type Package struct {
	Filename string
	Subdir   string
	Size     int64  // in bytes
	SHA256   string // 64 lower-case hex digits
	// Body gives the bytes; as many times as it takes, a part at a time. It is not read after Upload has returned.
	Body io.ReaderAt
}

// Match is how a sidecar holds a bundle.
type Match string

const (
	// SameBytes: one element is the bundle byte for byte.
	SameBytes Match = "bytes"
	// SameJSON: one element is the bundle written otherwise: the same names and values, numbers as they are written.
	SameJSON Match = "json"
)

var sha256Hex = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Upload sends a package and its bundle, in one request. The caller MUST have verified the bundle. Done again, it changes
// nothing: where the server says that the file exists (409, which may also follow an upload of ours whose answer was lost),
// the served bytes are read and compared. existed is true then: whether they have this bundle is for Sidecar to tell.
//
// A token that is refused (401) is asked for anew, once. What may pass is tried again, Config.Attempts times in all, as
// long as the server does not ask for more than 15 seconds of rest.
//
// Errors: *Conflict; ErrArgument, ErrDigest, ErrRejected and ErrUnsettled, which are this package's; ErrIdentity,
// ErrForbidden and ErrChannel, which may be every package's; ctx's; else Transient says yes.
func (c *Client) Upload(ctx context.Context, p Package, bundle []byte) (existed bool, err error) {
	bundle = bytes.TrimSpace(bundle)
	if err := c.check(p, bundle); err != nil {
		return false, fmt.Errorf("%w: %w", ErrArgument, err)
	}
	return c.send(ctx, p, bundle)
}

func (c *Client) check(p Package, bundle []byte) error {
	if _, err := c.served(p.Subdir, p.Filename, ""); err != nil {
		return err
	}
	switch {
	case p.Body == nil || p.Size <= 0:
		return errors.New("the package has no bytes")
	case !sha256Hex.MatchString(p.SHA256):
		return errors.New("the package's SHA-256 is not 64 lower-case hex digits")
	case len(bundle) > attest.MaxBundle:
		return fmt.Errorf("the bundle has %d bytes, more than %d", len(bundle), attest.MaxBundle)
	}
	if _, err := strictjson.DecodeObject(bundle); err != nil { // an array, say: that is what a sidecar is
		return fmt.Errorf("the bundle %w", err)
	}
	return nil
}

// send posts until the server has the package, or says why not.
func (c *Client) send(ctx context.Context, p Package, bundle []byte) (existed bool, err error) {
	answer, err := c.persist(ctx, func(token Token) error { return c.post(ctx, p, bundle, token) })
	if answer != nil && answer.Status == http.StatusConflict {
		return true, c.settle(ctx, p, answer)
	}
	return false, err
}

// persist makes a request until it is done or refused for good, with a new token once if the first one is refused. answer is
// the last answer, if the error is one.
func (c *Client) persist(ctx context.Context, request func(Token) error) (answer *StatusError, err error) {
	delay := c.backoff
	var refused Token
	for attempt := 1; ; attempt++ {
		token, terr := c.token(ctx, refused)
		_, passes := Transient(terr)
		switch {
		case terr != nil && !passes:
			return nil, errors.Join(err, terr) // err: the refusal that made us ask anew
		case terr != nil:
			answer, err = nil, terr
		default:
			err = request(token)
			answer, _ = errors.AsType[*StatusError](err)
		}
		if terr == nil && answer != nil && answer.Status == http.StatusUnauthorized && refused == (Token{}) {
			refused = token
			attempt--
			continue
		}
		after, ok := Transient(err)
		if !ok || attempt >= c.attempts || after > maxPause {
			return answer, err
		}
		now, then := next(delay, after)
		delay = then
		if perr := c.pause(ctx, now); perr != nil {
			return nil, errors.Join(perr, err)
		}
	}
}

func (c *Client) token(ctx context.Context, refused Token) (Token, error) {
	if c.tokens == nil {
		return Token{}, fmt.Errorf("uploading takes a token: %w", ErrIdentity)
	}
	return c.tokens.Token(ctx, refused)
}

// post makes one request. When it returns, nothing reads p.Body any more.
func (c *Client) post(ctx context.Context, p Package, bundle []byte, token Token) error {
	doing := fmt.Sprintf("uploading %s/%s", p.Subdir, p.Filename)
	f := newForm(p, bundle)
	within, cancel := c.within(ctx, f.size)
	defer cancel()
	resp, err := c.submit(within, doing, f, f.size, f.contentType(), token)
	if err == nil {
		err = answered(doing, resp, token)
	} else if ferr := f.failed(); ferr != nil {
		err = fmt.Errorf("%s: %w", doing, ferr)
	} else {
		err = remote.Unreached(ctx, doing, err)
	}
	// A transport may go on sending after an early answer.
	cancel()
	<-f.done
	return err
}

// submit makes a request for an upload.
func (c *Client) submit(ctx context.Context, doing string, body io.Reader, size int64, contentType string, token Token) (*http.Response, error) {
	u := c.server
	u.Path = "/api/v1/upload/" + c.channel
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	req.ContentLength = size // known, so nothing is chunked
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Authorization", "Bearer "+token.raw)
	req.Header.Set("User-Agent", userAgent)
	return c.sender.Do(req)
}

// answered says what the answer to an upload means. It closes it.
func answered(doing string, resp *http.Response, token Token) error {
	defer resp.Body.Close()
	var kind error
	switch code := resp.StatusCode; {
	case code/100 == 2:
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection serves again
		return nil
	case code/100 == 3:
		kind = ErrChannel
	case code == http.StatusUnauthorized:
		kind = ErrIdentity
	case code == http.StatusForbidden:
		kind = ErrForbidden
	case code == http.StatusNotFound:
		kind = ErrChannel
	case code == http.StatusConflict:
		kind = ErrUnsettled
	case code == http.StatusBadRequest, code == http.StatusRequestEntityTooLarge, code == http.StatusUnprocessableEntity:
		kind = ErrRejected
	}
	return status(doing, resp, kind, token.redact)
}

// settle finds out what a 409 means: it is nil if the served bytes are ours. A file may be served a while after it exists.
func (c *Client) settle(ctx context.Context, p Package, answer *StatusError) error {
	return c.await(ctx, func() (bool, error) {
		exists, err := c.Compare(ctx, p.Subdir, p.Filename, p.Size, p.SHA256)
		if err == nil && !exists {
			return false, answer
		}
		_, passes := Transient(err)
		return !passes, err
	})
}

// await does look until it says that it is done, or until patience is at its end, and returns what it said last.
func (c *Client) await(ctx context.Context, look func() (done bool, err error)) error {
	delay, left := c.backoff, c.patience
	for {
		done, err := look()
		if done || ctx.Err() != nil {
			return err
		}
		after, _ := Transient(err)
		now, then := next(delay, after)
		if after >= left {
			return err
		}
		delay, left = then, left-now
		if perr := c.pause(ctx, now); perr != nil {
			return errors.Join(perr, err)
		}
	}
}
