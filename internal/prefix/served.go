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

// Compare reads what the channel serves under a name, and compares it: exists is true, and err nil, if it is a file of this
// size, in bytes, and SHA-256, lower-case hex. It reads the whole file, in pieces, since what is said about a file is not
// what is served; not one whose size is another. Errors are *Conflict, ErrForbidden, ErrRejected, ErrArgument, ctx's, or such
// that Transient says yes.
func (c *Client) Compare(ctx context.Context, subdir, filename string, size int64, sha256hex string) (exists bool, err error) {
	f, err := c.find(ctx, subdir, filename, size)
	if err != nil || f == nil {
		return false, err
	}
	if f.size != size || f.sha256 != sha256hex {
		return true, &Conflict{Subdir: subdir, Filename: filename, Ours: sha256hex, Theirs: f.sha256, TheirSize: f.size}
	}
	return true, nil
}

// found is a served file; without a digest if its size is not the one that was asked for.
type found struct {
	size   int64
	sha256 string
}

// find reads a file if it has the size; nil if there is none.
func (c *Client) find(ctx context.Context, subdir, filename string, size int64) (*found, error) {
	doing := fmt.Sprintf("looking for %s/%s in the channel", subdir, filename)
	u, err := c.served(subdir, filename, "")
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", doing, ErrArgument, err)
	}
	within, cancel := c.within(ctx, size)
	defer cancel()
	resp, err := c.get(within, ctx, doing, u)
	if err != nil || resp == nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.ContentLength >= 0 && resp.ContentLength != size {
		return &found{size: resp.ContentLength}, nil
	}
	sum := sha256.New()
	n, err := io.Copy(sum, io.LimitReader(resp.Body, size+1)) // one more tells that it is another
	if err != nil {
		return nil, remote.Unreached(ctx, doing, err)
	}
	f := &found{size: n}
	if n <= size {
		f.sha256 = hex.EncodeToString(sum.Sum(nil))
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

// Await waits until the served sidecar of a package has what is looked for, for Config.Patience. holds is given the sidecar,
// which has passed attest.Split, and says whether it has found it.
//
// The error is ErrUnattested if the server answered all the time, with a sidecar that does not have it or with none:
// where the package is served, too, it has been uploaded without it. Other errors are those of Sidecar, or *Outage.
func (c *Client) Await(ctx context.Context, subdir, filename string, holds func(sidecar []byte) bool) (sidecar []byte, err error) {
	missing := func(what string) error {
		return fmt.Errorf("waiting for the attestation of %s/%s: %s: %w", subdir, filename, what, ErrUnattested)
	}
	err = c.await(ctx, func() (bool, error) {
		served, found, err := c.Sidecar(ctx, subdir, filename)
		switch {
		case err != nil:
			_, passes := Transient(err)
			return !passes, err
		case !found:
			return false, missing("no sidecar is served")
		}
		if !holds(served) {
			return false, missing("the served sidecar does not have it")
		}
		sidecar = served
		return true, nil
	})
	return sidecar, err
}

// Held finds a bundle in a sidecar, and tells how it is there; "" if it is not.
func Held(sidecar, bundle []byte) (json.RawMessage, Match) {
	bundles, err := attest.Split(sidecar)
	if err != nil {
		return nil, ""
	}
	bundle = bytes.TrimSpace(bundle)
	for _, b := range bundles {
		if bytes.Equal(b, bundle) {
			return b, SameBytes
		}
	}
	want, err := strictjson.DecodeObject(bundle)
	if err != nil {
		return nil, ""
	}
	for _, b := range bundles {
		if got, err := strictjson.DecodeObject(b); err == nil && reflect.DeepEqual(got, want) {
			return b, SameJSON
		}
	}
	return nil, ""
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
