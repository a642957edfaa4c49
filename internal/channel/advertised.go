package channel

import (
	"context"
	"fmt"

	"github.com/hallmark-attest/hallmark/internal/attest"
)

// AdvertisedSidecar reads the sidecar that a record advertises, as a client must (CEP 50, client requirements 1 to 4):
// the digest is checked before it becomes part of a key, the immutable object is read up to attest.MaxSidecar bytes, and
// its bytes are hashed before anybody parses them. Whatever is wrong with it is an error: a sidecar that is advertised
// and cannot be had is not the same as none.
func (c *Channel) AdvertisedSidecar(ctx context.Context, subdir, filename, sha256 string) ([]byte, error) {
	if err := checkPlace(subdir, filename); err != nil {
		return nil, err
	}
	if !isDigest(sha256) {
		return nil, &Invalid{Subdir: subdir, Filename: filename, Err: fmt.Errorf("attestations_sha256 %.80q is not 64 lower-case hex digits", sha256)}
	}
	key := sigsOf(subdir, filename, sha256)
	b, _, found, err := c.read(ctx, key, attest.MaxSidecar)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, &Malformed{Key: key, Err: fmt.Errorf("the record advertises this sidecar, and it is not there")}
	}
	if have := digest(b); have != sha256 {
		return nil, &Malformed{Key: key, Err: fmt.Errorf("its bytes have sha256 %s", have)}
	}
	return b, nil
}
