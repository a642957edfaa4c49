package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/prefix"
	"github.com/hallmark-attest/hallmark/pipeline"
)

// Publish is the stage publish: what is served is read back and compared. It is safe for concurrent use.
type Publish struct {
	server      Reader
	sidecarOnly bool
}

var _ pipeline.Stage = (*Publish)(nil)

// NewPublish makes the stage. sidecarOnly leaves the package's bytes unread.
func NewPublish(s Reader, sidecarOnly bool) *Publish {
	return &Publish{server: s, sidecarOnly: sidecarOnly}
}

// String implements pipeline.Stage.
func (*Publish) String() string { return "publish" }

// Run implements pipeline.Stage. It needs the item's Filename, Package, Bundle and Signature, and sets Sidecar and
// PublishedAt once the server serves the package and its bundle. A server that writes bundles anew serves other bytes that
// say the same: then these are the item's.
func (s *Publish) Run(ctx context.Context, it *pipeline.Item) error {
	if err := signed(it); err != nil {
		return err
	}
	pkg := &it.Package
	if !s.sidecarOnly {
		if err := s.compare(ctx, it); err != nil {
			return err
		}
	}
	var held json.RawMessage
	sidecar, err := s.server.Await(ctx, pkg.Subdir, it.Filename, func(sidecar []byte) bool {
		held, _ = prefix.Held(sidecar, it.Bundle)
		return held != nil
	})
	if errors.Is(err, prefix.ErrUnattested) {
		// Only where the package is served is it certain that it lacks its attestation.
		if cerr := s.compare(ctx, it); cerr != nil {
			return cerr
		}
		return unattested(it, err)
	}
	if err != nil {
		return classify(err)
	}
	bundles, err := attest.Split(sidecar)
	if err != nil {
		return classify(err)
	}
	it.Bundle, it.Signature.BundleSHA256 = pipeline.Bundle(held), digest(held)
	it.Sidecar = pipeline.Sidecar{SHA256: sum256(sidecar), Size: int64(len(sidecar)), Bundles: len(bundles)}
	it.PublishedAt = time.Now().UTC()
	return nil
}

// compare reads the served package.
func (s *Publish) compare(ctx context.Context, it *pipeline.Item) error {
	pkg := &it.Package
	exists, err := s.server.Compare(ctx, pkg.Subdir, it.Filename, pkg.Size, pkg.SHA256)
	if err != nil {
		return classify(err)
	}
	if !exists {
		return pipeline.Alone(CauseUnserved, 0, fmt.Errorf("%s/%s is uploaded, and the server does not serve it yet", pkg.Subdir, it.Filename))
	}
	return nil
}

// sum256 is over all the bytes, as they were served.
func sum256(b []byte) string {
	d := sha256.Sum256(b)
	return hex.EncodeToString(d[:])
}
