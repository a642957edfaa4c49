package server

import (
	"context"
	"errors"
	"time"

	"github.com/hallmark-attest/hallmark/internal/prefix"
	"github.com/hallmark-attest/hallmark/pipeline"
)

// Prior finds what the server has of a package already. It is safe for concurrent use.
type Prior struct {
	server  Reader
	accept  Accept
	created time.Time
	first   bool
}

// NewPrior makes a Prior for a campaign that was created then. With skipExisting, the package is looked for, beside its
// sidecar, before it is signed; without, other bytes under its name are found when it is uploaded.
func NewPrior(s Reader, a Accept, created time.Time, skipExisting bool) *Prior {
	return &Prior{server: s, accept: a, created: created, first: skipExisting}
}

// Find looks for the item's package. It returns
//   - nil, with nothing set, if it is not served, or with no attestation of the campaign's signer;
//   - nil, with Bundle and Signature set, if it is served with one that was signed since the campaign began: by a run that was
//     cut off before it could say so;
//   - a skip if it is served with these bytes, and was signed before the campaign began;
//   - a permanent error if other bytes are served under its name and, where the package is looked for first, if it is served
//     without such an attestation: that cannot be added to it.
func (p *Prior) Find(ctx context.Context, it *pipeline.Item) error {
	pkg := &it.Package
	if p.first {
		if exists, err := p.server.Compare(ctx, pkg.Subdir, it.Filename, pkg.Size, pkg.SHA256); err != nil {
			return classify(err)
		} else if !exists {
			return nil
		}
		// A sidecar may be served later than its package.
		_, err := p.server.Await(ctx, pkg.Subdir, it.Filename, func(sidecar []byte) bool { return p.accept(sidecar, it) })
		if errors.Is(err, prefix.ErrUnattested) {
			return unattested(it, err)
		} else if err != nil {
			return classify(err)
		}
		return p.done(it)
	}
	sidecar, found, err := p.server.Sidecar(ctx, pkg.Subdir, it.Filename)
	if err != nil {
		return classify(err)
	}
	if !found || !p.accept(sidecar, it) {
		return nil
	}
	exists, err := p.server.Compare(ctx, pkg.Subdir, it.Filename, pkg.Size, pkg.SHA256)
	if err != nil {
		return classify(err)
	}
	if !exists {
		return nil // not yet, or not any more: it is uploaded with what was found
	}
	return p.done(it)
}

// done skips what was signed before the campaign began: a campaign begins on a whole second, and signs nothing before.
func (p *Prior) done(it *pipeline.Item) error {
	if sig := &it.Signature; sig.SignedAt.Before(p.created) {
		return pipeline.Skip("channel.published", "already published with these bytes, signed by %s at %s", sig.Identity, sig.SignedAt.UTC().Format(time.RFC3339))
	}
	return nil
}
