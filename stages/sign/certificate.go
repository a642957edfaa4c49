package sign

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	sigstore "github.com/sigstore/sigstore-go/pkg/sign"

	"github.com/hallmark-attest/hallmark/internal/attest"
)

// certificate is a key and the certificate for it, which never part: a signature takes both from one certificate value.
// Nothing in it changes, so that any number of signatures may share it.
type certificate struct {
	keypair          sigstore.Keypair
	leaf             *x509.Certificate
	identity, issuer string
	claims           map[string]string // what else it says, by attest's names
	trusted          *attest.TrustRoot // the root that knows its authority; set before it is shared

	// renewAt is when it should be renewed; until usableUntil it still serves if that fails. What lies between there and
	// its end is for the request to the timestamp authority (or to a log that gives the time), retries included.
	renewAt, usableUntil time.Time
}

// newCertificate reads a certificate that was asked for at the given time. A certificate's life counts from then, whatever
// our clock says, unless the clock says that it ends sooner: a clock that is behind would use it for too long, and one that
// is ahead would renew it with every signature. Wall-clock time is used, so that a machine's sleep counts.
func newCertificate(keypair sigstore.Keypair, der []byte, asked time.Time) (*certificate, error) {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate: %w", err)
	}
	if key, ok := keypair.GetPublicKey().(*ecdsa.PublicKey); !ok || !key.Equal(leaf.PublicKey) {
		return nil, errors.New("the certificate is for another key")
	}
	who, issuer, claims, err := attest.Certified(leaf)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate's identity: %w", err)
	}
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	if life <= 0 {
		return nil, errors.New("the certificate was never valid")
	}
	asked = asked.Round(0)
	end := asked.Add(life)
	if leaf.NotAfter.Before(end) && leaf.NotAfter.After(asked) {
		end = leaf.NotAfter
	}
	return &certificate{
		keypair: keypair, leaf: leaf, identity: who, issuer: issuer, claims: claims,
		renewAt:     end.Add(-min(max(time.Minute, life/5), life/2)),
		usableUntil: end.Add(-min(30*time.Second, life/5)),
	}, nil
}

// log says which certificate it is, and until when it serves.
func (c *certificate) log(l *slog.Logger) *slog.Logger {
	return l.With("identity", c.identity, "good_until", c.usableUntil.UTC().Format(time.RFC3339))
}

// GetCertificate implements sigstore-go's CertificateProvider.
func (c *certificate) GetCertificate(_ context.Context, keypair sigstore.Keypair, _ *sigstore.CertificateProviderOptions) ([]byte, error) {
	if keypair != c.keypair {
		return nil, errors.New("the certificate is for another key")
	}
	return c.leaf.Raw, nil
}

// renewalPause is how long a failed renewal is not tried again while the old certificate still serves.
const renewalPause = 5 * time.Second

// certificates keeps one certificate for all signatures and renews it when somebody needs it: nothing runs in the
// background. One caller at a time renews; the others go on with the old certificate while it serves, and else wait.
type certificates struct {
	// issue gets a new certificate, with a new key.
	issue func(context.Context) (*certificate, error)
	// late, if it is set, hears of a renewal that failed while the old certificate still serves: nobody else does.
	late func(old *certificate, err error)

	current atomic.Pointer[certificate]

	mu      sync.Mutex
	renewal *renewal  // the one that is going on
	pauseTo time.Time // after a failed one
}

type renewal struct {
	done      chan struct{}
	err       error // set before done is closed
	abandoned bool  // its caller's context ended, which says nothing about the next one
}

// get returns a certificate that is good for a signature now.
func (s *certificates) get(ctx context.Context) (*certificate, error) {
	for {
		c := s.current.Load()
		now := time.Now()
		if c != nil && now.Before(c.renewAt) {
			return c, nil
		}
		serves := c != nil && now.Before(c.usableUntil)

		s.mu.Lock()
		if s.current.Load() != c { // renewed meanwhile
			s.mu.Unlock()
			continue
		}
		if serves && (s.renewal != nil || now.Before(s.pauseTo)) {
			s.mu.Unlock()
			return c, nil
		}
		if r := s.renewal; r != nil {
			s.mu.Unlock()
			select {
			case <-r.done:
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
			if r.err != nil && !r.abandoned {
				return nil, r.err
			}
			continue
		}
		r := &renewal{done: make(chan struct{}), err: errors.New("the renewal panicked")}
		s.renewal = r
		s.mu.Unlock()

		fresh, err := s.renew(ctx, r)
		if err != nil && serves && ctx.Err() == nil {
			if s.late != nil {
				s.late(c, err)
			}
			return c, nil
		}
		return fresh, err
	}
}

// renew gets a certificate and puts it in the old one's place, and tells those who wait for r.
func (s *certificates) renew(ctx context.Context, r *renewal) (fresh *certificate, err error) {
	defer func() { // also if issue panics: nobody must wait for ever
		s.mu.Lock()
		defer s.mu.Unlock()
		s.renewal = nil
		if fresh == nil {
			s.pauseTo = time.Now().Add(renewalPause)
		}
		r.abandoned = ctx.Err() != nil
		close(r.done)
	}()
	fresh, err = s.issue(ctx)
	if err == nil {
		s.current.Store(fresh)
	}
	r.err = err
	return fresh, err
}

// discard takes a certificate out of use, if it still is in use.
func (s *certificates) discard(c *certificate) { s.current.CompareAndSwap(c, nil) }
