package prefix

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/remote"
	"github.com/hallmark-attest/hallmark/internal/strictjson"
)

// Found is what the channel serves under a package's name.
type Found struct {
	Exists bool
	Size   int64
	SHA256 string // of the served bytes, which were read for it
}

// Find reads what the channel serves under a name. It reads the whole file, in pieces, since what is said about a file is
// not what is served. Errors are ErrForbidden, ErrRejected, ErrArgument, ctx's, or such that Transient says yes.
func (c *Client) Find(ctx context.Context, subdir, filename string) (Found, error) {
	return c.find(ctx, subdir, filename, -1)
}

// find is Find, which does not read a file of another size than size, unless that is negative.
func (c *Client) find(ctx context.Context, subdir, filename string, size int64) (Found, error) {
	doing := fmt.Sprintf("looking for %s/%s in the channel", subdir, filename)
	u, err := c.served(subdir, filename, "")
	if err != nil {
		return Found{}, fmt.Errorf("%s: %w: %w", doing, ErrArgument, err)
	}
	within, cancel := c.within(ctx, max(size, 1<<30))
	defer cancel()
	resp, err := c.get(within, ctx, doing, u)
	if err != nil || resp == nil {
		return Found{}, err
	}
	defer resp.Body.Close()
	if size >= 0 && resp.ContentLength >= 0 && resp.ContentLength != size {
		return Found{Exists: true, Size: resp.ContentLength}, nil
	}
	body := io.Reader(resp.Body)
	if size >= 0 {
		body = io.LimitReader(body, size+1) // one more tells that it is another
	}
	sum := sha256.New()
	n, err := io.Copy(sum, body)
	if err != nil {
		return Found{}, remote.Unreached(ctx, doing, err)
	}
	f := Found{Exists: true, Size: n}
	if size < 0 || n <= size {
		f.SHA256 = hex.EncodeToString(sum.Sum(nil))
	}
	return f, nil
}

// Sidecar gives what the channel serves as a package's sidecar, FILE.v0.sigs: a JSON array of bundles that passed
// attest.Split. found is false if there is none. What cannot be read as one counts as an outage of what serves it.
func (c *Client) Sidecar(ctx context.Context, subdir, filename string) (sidecar []byte, found bool, err error) {
	doing := fmt.Sprintf("reading the served sidecar of %s/%s", subdir, filename)
	u, err := c.served(subdir, filename, ".v0.sigs")
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w: %w", doing, ErrArgument, err)
	}
	within, cancel := c.within(ctx, attest.MaxSidecar)
	defer cancel()
	resp, err := c.get(within, ctx, doing, u)
	if err != nil || resp == nil {
		return nil, false, err
	}
	defer resp.Body.Close()
	sidecar, err = io.ReadAll(io.LimitReader(resp.Body, attest.MaxSidecar+1))
	if err != nil {
		return nil, false, remote.Unreached(ctx, doing, err)
	}
	if _, err := attest.Split(sidecar); err != nil {
		return nil, false, &remote.Outage{Err: fmt.Errorf("%s: %w", doing, err)}
	}
	return sidecar, true, nil
}

// confirm waits until the served sidecar holds the bundle.
func (c *Client) confirm(ctx context.Context, p Package, bundle []byte, existed bool) (up Uploaded, err error) {
	missing := func(what string) error {
		err := fmt.Errorf("waiting for the attestation of %s/%s: %s", p.Subdir, p.Filename, what)
		if existed {
			return fmt.Errorf("%w: %w", err, ErrUnattested)
		}
		return &remote.Outage{Err: err}
	}
	err = c.await(ctx, func() (bool, error) {
		sidecar, found, err := c.Sidecar(ctx, p.Subdir, p.Filename)
		switch {
		case err != nil:
			_, passes := Transient(err)
			return !passes, err
		case !found:
			return false, missing("no sidecar is served")
		}
		elements, err := attest.Split(sidecar)
		if err != nil {
			return false, missing(err.Error())
		}
		match := held(elements, bundle)
		if match == "" {
			return false, missing(fmt.Sprintf("the served sidecar has %d attestations and not this one", len(elements)))
		}
		sum := sha256.Sum256(sidecar)
		up = Uploaded{Match: match, SidecarSHA256: hex.EncodeToString(sum[:]), SidecarSize: int64(len(sidecar)), Bundles: len(elements)}
		return true, nil
	})
	return up, err
}

// held tells how one of the elements is the bundle; "" if none is.
func held(elements []json.RawMessage, bundle []byte) Match {
	for _, e := range elements {
		if bytes.Equal(e, bundle) {
			return SameBytes
		}
	}
	want, err := strictjson.DecodeObject(bundle)
	if err != nil {
		return ""
	}
	for _, e := range elements {
		if got, err := strictjson.DecodeObject(e); err == nil && reflect.DeepEqual(got, want) {
			return SameJSON
		}
	}
	return ""
}

// get asks for a file of the channel, with the token where there is one, since a channel may be private; a token that may
// publish only is refused, so it is then asked for without. The answer is nil where there is no such file. within, a child
// of ctx, bounds the request.
func (c *Client) get(within, ctx context.Context, doing, u string) (*http.Response, error) {
	var token Token
	if c.tokens != nil {
		var err error
		if token, err = c.tokens.Token(ctx, Token{}); err != nil && !errors.Is(err, ErrIdentity) {
			return nil, fmt.Errorf("%s: %w", doing, err)
		}
	}
	for {
		req, err := http.NewRequestWithContext(within, http.MethodGet, u, nil)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", doing, err)
		}
		req.Header.Set("User-Agent", userAgent)
		req.Header.Set("Accept-Encoding", "identity") // the size is compared
		req.Header.Set("Cache-Control", "no-cache")
		if token != (Token{}) {
			req.Header.Set("Authorization", "Bearer "+token.raw)
		}
		resp, err := c.reader.Do(req)
		if err != nil {
			return nil, remote.Unreached(ctx, doing, err)
		}
		var kind error
		switch code := resp.StatusCode; {
		case code == http.StatusOK:
			return resp, nil
		case code == http.StatusNotFound:
			resp.Body.Close()
			return nil, nil
		case (code == http.StatusUnauthorized || code == http.StatusForbidden) && token != Token{}:
			resp.Body.Close()
			token = Token{}
			continue
		case code == http.StatusUnauthorized || code == http.StatusForbidden:
			kind = ErrForbidden
		case !transientStatus(code) && code/100 == 4:
			kind = ErrRejected
		}
		err = status(doing, resp, kind, token.redact)
		resp.Body.Close()
		return nil, err
	}
}
