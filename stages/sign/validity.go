package sign

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/hallmark-attest/hallmark/internal/attest"
)

// trusted makes sure that the trust root knows a certificate's authority: an authority that is newer than the root at hand
// is found in one that is fetched anew.
func (s *KeylessSigner) trusted(ctx context.Context, c *certificate) error {
	t := s.config.Trust.Current()
	err := trusts(t, c.leaf)
	if err != nil {
		fresh, refreshErr := s.config.Trust.Refresh(ctx, t)
		switch {
		case fresh != t:
			t, err = fresh, trusts(fresh, c.leaf)
		case ctx.Err() != nil:
			return refreshErr
		case refreshErr != nil:
			err = fmt.Errorf("%w (and the trust root cannot be fetched anew: %w)", err, refreshErr)
		}
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	c.trusted = t.Root
	return nil
}

// trusts says why a root does not trust the authority that issued a certificate. It looks at a time when the certificate is
// valid whatever our clock says; it is the chain that is in question.
func trusts(t *attest.Trust, leaf *x509.Certificate) error {
	_, err := verify.VerifyLeafCertificate(leaf.NotBefore, leaf, t.Root.Material)
	return err
}

// outsideValidity is an ErrOutsideValidity with what to do about it.
type outsideValidity struct {
	at    time.Time
	cert  *certificate
	early time.Duration // how long before the certificate's life; 0 if after
}

func (e *outsideValidity) Error() string {
	return fmt.Sprintf("%v: %s is not between %s and %s", ErrOutsideValidity, e.at.UTC().Format(time.RFC3339),
		e.cert.leaf.NotBefore.UTC().Format(time.RFC3339), e.cert.leaf.NotAfter.UTC().Format(time.RFC3339))
}

func (e *outsideValidity) Unwrap() error { return ErrOutsideValidity }

// check says whether a signature made at t is within the certificate's life.
func (c *certificate) check(t time.Time) error {
	switch {
	case t.Before(c.leaf.NotBefore):
		return &outsideValidity{t, c, c.leaf.NotBefore.Sub(t)}
	case t.After(c.leaf.NotAfter):
		return &outsideValidity{t, c, 0}
	}
	return nil
}
