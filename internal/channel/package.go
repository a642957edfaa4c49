package channel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/hallmark-attest/hallmark/internal/store"
)

// lookFirst is the size from which it is cheaper to ask whether a package is there than to send it in vain.
const lookFirst = 1 << 20

func digest(b []byte) string {
	d := sha256.Sum256(b)
	return hex.EncodeToString(d[:])
}

// PutPackage writes a package of size bytes with the SHA-256 sha256hex (lower-case hex). The store refuses other bytes
// with store.ErrDigest. existed is true if the package was there with the same bytes. If it is there with other bytes,
// the error is a *Conflict and nothing changes.
func (c *Channel) PutPackage(ctx context.Context, subdir, filename string, body io.ReaderAt, size int64, sha256hex string) (existed bool, err error) {
	if err := checkPlace(subdir, filename); err != nil {
		return false, err
	}
	if !isDigest(sha256hex) {
		return false, &Invalid{Subdir: subdir, Filename: filename, Err: fmt.Errorf("sha256 %q: want 64 lower-case hex digits", sha256hex)}
	}
	key := packageKey(subdir, filename)
	same := func() (bool, error) {
		have, _, found, err := c.objectDigest(ctx, key)
		if err != nil || !found {
			return false, err
		}
		if have != sha256hex {
			return false, &Conflict{Subdir: subdir, Filename: filename, Where: "package", Have: have, Want: sha256hex}
		}
		return true, nil
	}
	if size >= lookFirst {
		if ok, err := same(); ok || err != nil {
			return ok, err
		}
	}
	o := asPackage
	o.SHA256 = sha256hex
	for a := c.attempts(); ; {
		if !a.next(ctx) {
			return false, fmt.Errorf("writing %s: %w", key, a.err)
		}
		_, err := c.store.Put(ctx, key, body, size, o)
		if err == nil {
			return false, nil
		}
		if !errors.Is(err, store.ErrPrecondition) {
			return false, fmt.Errorf("writing %s: %w", key, err)
		}
		if ok, err := same(); ok || err != nil {
			return ok, err
		}
		// Neither there nor to be created: another write to the key is under way.
	}
}

// objectDigest gives the SHA-256 of what is under key: as the store knows it, else by reading the object.
func (c *Channel) objectDigest(ctx context.Context, key string) (sha256hex string, info store.Info, found bool, err error) {
	info, found, err = c.head(ctx, key)
	if err != nil || !found {
		return "", info, false, err
	}
	if info.SHA256 != "" {
		return info.SHA256, info, true, nil
	}
	r, info, err := c.store.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return "", info, false, nil
	}
	if err != nil {
		return "", info, false, fmt.Errorf("reading %s: %w", key, err)
	}
	defer r.Close()
	h := sha256.New()
	buffer := c.buffers.Get().(*[]byte)
	defer c.buffers.Put(buffer)
	// Only its Read is wanted: a file's WriteTo would make a buffer of its own for each of a million sidecars.
	if info.Size, err = io.CopyBuffer(h, struct{ io.Reader }{r}, *buffer); err != nil {
		return "", info, false, fmt.Errorf("reading %s: %w", key, err)
	}
	return hex.EncodeToString(h.Sum(nil)), info, true, nil
}
