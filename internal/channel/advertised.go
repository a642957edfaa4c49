package channel

import (
	"context"
	"errors"
	"fmt"

	"github.com/hallmark-attest/hallmark/internal/attest"
)

// AdvertisedSidecar reads the sidecar that a record advertises, as a client must (CEP 50, client requirements 1 to 4):
// the digest is checked before it becomes part of a key, the immutable object is read up to attest.MaxSidecar bytes, and
// its bytes are hashed before anybody parses them. Whatever is wrong with it is an error: a sidecar that is advertised
// and cannot be had is not the same as none. The codes of attest tell which: CodeSidecarDigest, CodeSidecarAbsent and
// CodeSidecarTooLarge.
func (c *Channel) AdvertisedSidecar(ctx context.Context, subdir, filename, sha256 string) ([]byte, error) {
	if err := checkPlace(subdir, filename); err != nil {
		return nil, err
	}
	if err := attest.CheckAttestationsSHA256(sha256); err != nil {
		return nil, &Invalid{Subdir: subdir, Filename: filename, Err: err}
	}
	key := sigsOf(subdir, filename, sha256)
	b, found, err := c.readSidecar(ctx, key)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, &Malformed{Key: key, Err: &attest.Error{Code: attest.CodeSidecarAbsent,
			Err:  errors.New("the record advertises this sidecar, and it is not there"),
			Hint: "the channel has to serve it for as long as the package (CEP 50)"}}
	}
	if err := attest.CheckSidecar(b, sha256); err != nil {
		return nil, &Malformed{Key: key, Err: err}
	}
	return b, nil
}

// ServedSidecar reads what is served beside a package under its name with a suffix: ".sigs", the mutable sidecar (CEP 50), or
// ".v0.sigs" as prefix.dev has it. Nothing binds these bytes to the index; the signatures in them are all there is. found is
// false if there is none. It reads up to attest.MaxSidecar bytes; more are CodeSidecarTooLarge.
func (c *Channel) ServedSidecar(ctx context.Context, subdir, filename, suffix string) (sidecar []byte, found bool, err error) {
	if err := checkPlace(subdir, filename); err != nil {
		return nil, false, err
	}
	return c.readSidecar(ctx, packageKey(subdir, filename)+suffix)
}

func (c *Channel) readSidecar(ctx context.Context, key string) (b []byte, found bool, err error) {
	b, _, found, err = c.read(ctx, key, attest.MaxSidecar)
	if m, ok := asMalformed(err); ok { // it is too large, which alone read finds
		return nil, false, &Malformed{Key: key, Err: &attest.Error{Code: attest.CodeSidecarTooLarge, Err: fmt.Errorf("the sidecar: %w", m.Err)}}
	}
	return b, found, err
}
