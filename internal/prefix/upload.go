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

// Uploaded is what the server serves of a package that it has.
type Uploaded struct {
	// Existed says that the file was there before the request that settled it: from before, or from a request of this very
	// call whose answer was lost.
	Existed bool
	// Match is how the served sidecar holds the bundle.
	Match Match
	// SidecarSHA256, SidecarSize and Bundles describe the sidecar as it was served.
	SidecarSHA256 string
	SidecarSize   int64
	Bundles       int
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

// Upload sends a package and its bundle, in one request, and returns when the server serves the bundle in the file's
// sidecar. The caller MUST have verified the bundle. Done again, it changes nothing: where the server says that the file
// exists (409, which may also follow an upload of ours whose answer was lost), the served bytes are read and compared.
//
// A token that is refused (401) is asked for anew, once. What may pass is tried again, Config.Attempts times in all, as
// long as the server does not ask for more than 15 seconds of rest.
//
// Errors: *Conflict; ErrArgument, ErrDigest, ErrRejected, ErrUnsettled and ErrUnattested, which are this package's;
// ErrIdentity, ErrForbidden and ErrChannel, which may be every package's; ctx's; else Transient says yes.
func (c *Client) Upload(ctx context.Context, p Package, bundle []byte) (Uploaded, error) {
	bundle = bytes.TrimSpace(bundle)
	if err := c.check(p, bundle); err != nil {
		return Uploaded{}, fmt.Errorf("%w: %w", ErrArgument, err)
	}
	existed := false
	if c.skip {
		found, err := c.find(ctx, p.Subdir, p.Filename, p.Size)
		if err != nil {
			return Uploaded{}, err
		}
		if existed = found.Exists; existed {
			if err := p.same(found); err != nil {
				return Uploaded{}, err
			}
		}
	}
	if !existed {
		var err error
		if existed, err = c.send(ctx, p, bundle); err != nil {
			return Uploaded{}, err
		}
	}
	up, err := c.confirm(ctx, p, bundle, existed)
	up.Existed = existed
	return up, err
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

// same compares what is served.
func (p Package) same(f Found) error {
	if f.Size == p.Size && f.SHA256 == p.SHA256 {
		return nil
	}
	return &Conflict{Subdir: p.Subdir, Filename: p.Filename, Ours: p.SHA256, Theirs: f.SHA256, TheirSize: f.Size}
}

// send posts until the server has the package, or says why not.
func (c *Client) send(ctx context.Context, p Package, bundle []byte) (existed bool, err error) {
	delay := c.backoff
	var refused Token
	for attempt := 1; ; attempt++ {
		token, terr := c.token(ctx, refused)
		if _, passes := Transient(terr); passes {
			return false, terr
		} else if terr != nil {
			return false, errors.Join(err, terr) // err: the refusal that made us ask anew
		}
		err = c.post(ctx, p, bundle, token)
		answer, _ := errors.AsType[*StatusError](err)
		switch {
		case err == nil:
			return false, nil
		case answer != nil && answer.Status == http.StatusUnauthorized && refused == Token{}:
			refused = token
			attempt--
			continue
		case answer != nil && answer.Status == http.StatusConflict:
			return true, c.settle(ctx, p, answer)
		}
		after, ok := Transient(err)
		if !ok || attempt >= c.attempts || after > maxPause {
			return false, err
		}
		now, then := next(delay, after)
		delay = then
		if perr := c.pause(ctx, now); perr != nil {
			return false, errors.Join(perr, err)
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
	u := c.server
	u.Path = "/api/v1/upload/" + c.channel
	req, err := http.NewRequestWithContext(within, http.MethodPost, u.String(), f)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	req.ContentLength = f.size // known, so nothing is chunked
	req.Header.Set("Content-Type", f.contentType())
	req.Header.Set("Authorization", "Bearer "+token.raw)
	req.Header.Set("User-Agent", userAgent)
	resp, err := c.sender.Do(req)
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
		found, err := c.find(ctx, p.Subdir, p.Filename, p.Size)
		if err != nil {
			_, passes := Transient(err)
			return !passes, err
		}
		if !found.Exists {
			return false, answer
		}
		return true, p.same(found)
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
