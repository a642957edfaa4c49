package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/prefix"
	"github.com/hallmark-attest/hallmark/pipeline"
)

// Receiver takes packages: a *prefix.Client.
type Receiver interface {
	Upload(ctx context.Context, p prefix.Package, bundle []byte) (existed bool, err error)
	Reader
}

// Reader reads what is served: a *prefix.Client.
type Reader interface {
	Compare(ctx context.Context, subdir, filename string, size int64, sha256hex string) (exists bool, err error)
	Sidecar(ctx context.Context, subdir, filename string) (sidecar []byte, found bool, err error)
	Await(ctx context.Context, subdir, filename string, holds func(sidecar []byte) bool) (sidecar []byte, err error)
}

// Upload is the stage upload. It is safe for concurrent use.
type Upload struct {
	server Receiver
	accept Accept
	took   atomic.Bool // the server has taken a package: the rights are there
}

var _ pipeline.Stage = (*Upload)(nil)

// NewUpload makes the stage.
func NewUpload(s Receiver, a Accept) *Upload { return &Upload{server: s, accept: a} }

// String implements pipeline.Stage.
func (*Upload) String() string { return "upload" }

// Run implements pipeline.Stage. It needs the item's Source, Filename, Package (Subdir, Size, SHA256), Bundle and
// Signature. Where the package is there already, with these bytes, and with another bundle of the campaign's signer (of a
// run that was killed before the server served what it had taken), the item gets that one. Done again, it changes nothing.
func (s *Upload) Run(ctx context.Context, it *pipeline.Item) error {
	bundle, there, err := s.bundle(ctx, it)
	if err != nil || there {
		return err
	}
	pkg := &it.Package
	f, err := open(it)
	if err != nil {
		return err
	}
	defer f.Close()
	existed, err := s.server.Upload(ctx, prefix.Package{Filename: it.Filename, Subdir: pkg.Subdir, Size: pkg.Size, SHA256: pkg.SHA256, Body: f}, bundle)
	if err != nil {
		if refused(err) && s.took.Load() {
			return pipeline.Permanent(CauseForbidden, "the server takes other packages with this token: does the channel take packages of this kind?", err)
		}
		return classify(err)
	}
	if !existed {
		s.took.Store(true)
		it.Bundle = bundle
		return nil
	}
	if _, err := s.server.Await(ctx, pkg.Subdir, it.Filename, func(sidecar []byte) bool {
		if _, match := prefix.Held(sidecar, bundle); match != "" {
			it.Bundle = bundle
			return true
		}
		return s.accept(sidecar, it)
	}); errors.Is(err, prefix.ErrUnattested) {
		return unattested(it, err)
	} else if err != nil {
		return classify(err)
	}
	return nil
}

// bundle gives the bytes that were verified. there says that the server serves them and the package already, so that
// nothing needs to be sent; it is asked for a bundle that was found there.
func (s *Upload) bundle(ctx context.Context, it *pipeline.Item) (bundle []byte, there bool, err error) {
	if err := signed(it); err != nil {
		return nil, false, err
	}
	pkg, sig := &it.Package, &it.Signature
	intact := digest(it.Bundle) == sig.BundleSHA256
	if sig.Found {
		sidecar, found, err := s.server.Sidecar(ctx, pkg.Subdir, it.Filename)
		if err != nil {
			return nil, false, classify(err)
		}
		if held := holding(sidecar, sig.BundleSHA256); found && held != nil {
			exists, err := s.server.Compare(ctx, pkg.Subdir, it.Filename, pkg.Size, pkg.SHA256)
			if err != nil {
				return nil, false, classify(err)
			}
			if exists {
				it.Bundle = pipeline.Bundle(held)
				return held, true, nil
			}
			return held, false, nil
		}
	}
	if !intact {
		return nil, false, pipeline.Permanent(CauseBundle, "submit it again, to be signed again",
			fmt.Errorf("the bundle of %s/%s is not the one that was verified", pkg.Subdir, it.Filename))
	}
	return it.Bundle, false, nil
}

// signed refuses an item that no verified bundle came with.
func signed(it *pipeline.Item) error {
	sig := &it.Signature
	if len(bytes.TrimSpace(it.Bundle)) == 0 || sig.BundleSHA256 == "" || sig.Identity == "" || sig.CertSHA256 == "" {
		return pipeline.Fatal(CauseUnsigned, "the stage sign has to come before upload and publish",
			fmt.Errorf("%s/%s has no verified bundle: an unsigned package is never uploaded", it.Package.Subdir, it.Filename))
	}
	return nil
}

// holding gives the bundle of a sidecar with a digest; nil if there is none.
func holding(sidecar []byte, sha256hex string) json.RawMessage {
	bundles, err := attest.Split(sidecar)
	if err != nil {
		return nil
	}
	for _, b := range bundles {
		if digest(b) == sha256hex {
			return b
		}
	}
	return nil
}

func digest(b []byte) string {
	d := sha256.Sum256(bytes.TrimSpace(b))
	return hex.EncodeToString(d[:])
}

// open opens the item's source. Its bytes are compared as they are sent.
func open(it *pipeline.Item) (*os.File, error) {
	f, err := os.Open(it.Source)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, pipeline.Permanent(CauseMissing, "the file was there when it was hashed: put it back, and run again", fmt.Errorf("opening the package: %w", err))
	case err != nil:
		return nil, pipeline.Transient(CauseUnreadable, 0, fmt.Errorf("opening the package: %w", err))
	}
	info, err := f.Stat()
	if err == nil && info.Size() != it.Package.Size {
		err = changed(fmt.Errorf("%s has %d bytes now, not %d", it.Source, info.Size(), it.Package.Size))
	} else if err != nil {
		err = pipeline.Transient(CauseUnreadable, 0, fmt.Errorf("looking at the package: %w", err))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
