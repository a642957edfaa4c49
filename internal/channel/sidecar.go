package channel

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hallmark-attest/hallmark/internal/attest"
)

// Sidecar says what a package's sidecar is.
type Sidecar struct {
	SHA256  string // lower-case hex: attestations_sha256
	Size    int64  // bytes
	Bundles int    // how many bundles it has
}

// AddBundle puts one or more bundles, in their order, behind those that the package's sidecar has and returns the sidecar
// that holds them (CEP 50). A bundle that is there already is not added again. The caller MUST have verified the bundles.
//
// The immutable sidecar is written first, then the mutable one, over exactly the state that the new one continues.
// Whoever loses that race reads again and appends to what the winner wrote, so that no bundle is ever lost; the immutable
// sidecar of a lost race stays behind, advertised by nobody.
//
// Errors: *Invalid for a bundle that is none or a sidecar that would grow too large; *Malformed if the sidecar in the
// store is not one; else those of the store.
func (c *Channel) AddBundle(ctx context.Context, subdir, filename string, bundles ...[]byte) (Sidecar, error) {
	if len(bundles) == 0 {
		return Sidecar{}, &Invalid{Subdir: subdir, Filename: filename, Err: errors.New("there is no bundle to add to its sidecar")}
	}
	if err := checkPlace(subdir, filename); err != nil {
		return Sidecar{}, err
	}
	key := sigsKey(subdir, filename)
	for a := c.attempts(); ; {
		if !a.next(ctx) {
			return Sidecar{}, fmt.Errorf("adding a bundle to %s: %w", key, a.err)
		}
		old, info, found, err := c.read(ctx, key, attest.MaxSidecar)
		if err != nil {
			return Sidecar{}, err
		}
		if found {
			if _, err := attest.Split(old); err != nil {
				return Sidecar{}, &Malformed{Key: key, Err: err}
			}
		}
		next, added := old, false
		for _, bundle := range bundles {
			one := false
			if next, one, err = attest.Append(next, bundle); err != nil {
				return Sidecar{}, &Invalid{Subdir: subdir, Filename: filename, Err: fmt.Errorf("adding a bundle to its sidecar: %w", err)}
			}
			added = added || one
		}
		elements, err := attest.Split(next)
		if err != nil {
			return Sidecar{}, &Malformed{Key: key, Err: err}
		}
		s := Sidecar{SHA256: digest(next), Size: int64(len(next)), Bundles: len(elements)}
		// Also where nothing was added: whoever wrote the mutable one may not have written this.
		if _, err := c.create(ctx, sigsOf(subdir, filename, s.SHA256), next, asSidecar); err != nil {
			return Sidecar{}, err
		}
		if !added {
			c.sigs.put(key, info.ETag, s.SHA256)
			return s, nil
		}
		etag := ""
		if found {
			etag = info.ETag
		}
		info, won, err := c.put(ctx, key, next, over(asSigs, etag))
		if err != nil {
			return Sidecar{}, err
		}
		if won {
			c.sigs.put(key, info.ETag, s.SHA256)
			return s, nil
		}
	}
}

// Sidecar reads a package's current sidecar, of at most attest.MaxSidecar bytes. found is false if it has none.
func (c *Channel) Sidecar(ctx context.Context, subdir, filename string) (sidecar []byte, found bool, err error) {
	b, _, found, err := c.DatedSidecar(ctx, subdir, filename)
	return b, found, err
}

// DatedSidecar is Sidecar, and says when the store last got another one, by the store's clock and in its resolution (S3:
// seconds, rounded down).
func (c *Channel) DatedSidecar(ctx context.Context, subdir, filename string) (sidecar []byte, modified time.Time, found bool, err error) {
	if err := checkPlace(subdir, filename); err != nil {
		return nil, time.Time{}, false, err
	}
	b, info, found, err := c.read(ctx, sigsKey(subdir, filename), attest.MaxSidecar)
	return b, info.Modified, found, err
}

// currentSidecar gives the digest of a package's mutable sidecar, whose immutable twin is in the store when it returns;
// "" if it has none. known is a digest whose immutable sidecar the caller knows to be there.
func (c *Channel) currentSidecar(ctx context.Context, subdir, filename, known string) (string, error) {
	key := sigsKey(subdir, filename)
	info, found, err := c.head(ctx, key)
	if err != nil || !found {
		return "", err
	}
	sha := info.SHA256
	if sha == "" {
		sha = c.sigs.get(key, info.ETag)
	}
	if sha != "" && sha == known {
		return sha, nil
	}
	// Somebody else has been here, or the store knows no digests.
	b, info, found, err := c.read(ctx, key, attest.MaxSidecar)
	if err != nil || !found {
		return "", err
	}
	if sha = digest(b); sha == known {
		c.sigs.put(key, info.ETag, sha)
		return sha, nil
	}
	// What a record advertises must exist under its immutable name, and be a sidecar.
	if elements, err := attest.Split(b); err != nil {
		return "", &Malformed{Key: key, Err: err}
	} else if len(elements) == 0 {
		return "", nil // CEP 50: advertised if and only if it has a bundle
	}
	if _, err := c.create(ctx, sigsOf(subdir, filename, sha), b, asSidecar); err != nil {
		return "", err
	}
	c.sigs.put(key, info.ETag, sha)
	return sha, nil
}

// sigsCache remembers the digests of mutable sidecars by their ETags, for stores that know none. It forgets everything
// when it is full.
type sigsCache struct {
	mu sync.Mutex
	m  map[string][2]string
}

const maxSigsCache = 1 << 16

func (s *sigsCache) get(key, etag string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.m[key]; e[0] == etag && etag != "" {
		return e[1]
	}
	return ""
}

func (s *sigsCache) put(key, etag, sha string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil || len(s.m) >= maxSigsCache {
		s.m = map[string][2]string{}
	}
	s.m[key] = [2]string{etag, sha}
}
