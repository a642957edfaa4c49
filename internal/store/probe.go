package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Probe proves that the store can do what Hallmark stands on, before anything is built on it: write, refuse a second
// IfNoneMatch, refuse a wrong IfMatch, take a right one, refuse a wrong digest, read back, and delete. It works on one object of random name
// below .hallmark/probe/, which it removes. A few requests; the error names the store and is ErrAuth, ErrUnsupported,
// or what happened.
func Probe(ctx context.Context, s Store) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("probing store %s: %w", s, err)
		}
	}()
	key := hidden + "/probe/" + rand.Text()
	put := func(text string, o PutOptions) (Info, error) {
		sum := sha256.Sum256([]byte(text))
		if o.SHA256 == "" {
			o.SHA256 = hex.EncodeToString(sum[:])
		}
		return s.Put(ctx, key, bytes.NewReader([]byte(text)), int64(len(text)), o)
	}
	first, err := put("first", PutOptions{IfNoneMatch: true})
	if err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	defer func() {
		// Also when the caller has given up: what was made is removed.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		gone := s.Delete(ctx, key)
		if err == nil && gone != nil {
			err = fmt.Errorf("deleting: %w", gone)
		}
	}()

	if _, err := put("other", PutOptions{IfNoneMatch: true}); err == nil {
		return fmt.Errorf("%w: an object was overwritten despite If-None-Match", ErrUnsupported)
	} else if !errors.Is(err, ErrPrecondition) {
		return fmt.Errorf("creating what exists: %w", err)
	}
	second, err := put("second", PutOptions{IfMatch: first.ETag})
	if err != nil {
		return fmt.Errorf("changing with the right If-Match: %w", err)
	}
	if _, err := put("third", PutOptions{IfMatch: first.ETag}); err == nil {
		return fmt.Errorf("%w: an object was overwritten despite an If-Match of an older state", ErrUnsupported)
	} else if !errors.Is(err, ErrPrecondition) {
		return fmt.Errorf("changing with a wrong If-Match: %w", err)
	}

	if _, err := put("fourth", PutOptions{SHA256: strings.Repeat("0", 64)}); err == nil {
		return fmt.Errorf("%w: bytes were taken that do not have the announced SHA-256", ErrUnsupported)
	} else if !errors.Is(err, ErrDigest) {
		return fmt.Errorf("writing with a wrong digest: %w", err)
	}

	r, info, err := s.Get(ctx, key)
	if err != nil {
		return fmt.Errorf("reading back: %w", err)
	}
	defer r.Close()
	got, err := io.ReadAll(io.LimitReader(r, 100))
	if err != nil {
		return fmt.Errorf("reading back: %w", err)
	}
	if string(got) != "second" || info.ETag != second.ETag {
		return fmt.Errorf("read back %q with ETag %s, want %q with ETag %s", got, info.ETag, "second", second.ETag)
	}
	return nil
}
