// Package upload is the stage that writes to the store: a package's file and its verified bundle flow in; the package
// object, the immutable and the mutable sidecar flow out, in that order, and the item knows its sidecar.
//
//	Item{Source, Package, Bundle, Signature, Riders} ──▶ PutPackage ──▶ AddBundle ──▶ Item{Sidecar}
//
// Nothing that is in the channel is overwritten, and no package goes in without a bundle.
package upload

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/hallmark-attest/hallmark/internal/channel"
	"github.com/hallmark-attest/hallmark/internal/source"
	"github.com/hallmark-attest/hallmark/internal/store"
	"github.com/hallmark-attest/hallmark/pipeline"
)

// Concurrency is how many items are uploaded at once, where nothing else is said.
const Concurrency = 64

// The stage's causes.
const (
	CauseUnsigned    = "package.unsigned"  // fatal: an item without a verified bundle came this far
	CauseMissing     = "source.missing"    // permanent: the file is gone
	CauseUnreadable  = "source.unreadable" // transient: the file cannot be opened
	CauseChanged     = "package.changed"   // permanent: the file has other bytes than those that were signed
	CauseBundle      = "bundle.changed"    // permanent: the bundle has other bytes than those that were verified
	CauseConflict    = "channel.conflict"  // permanent: the channel has other bytes under the name
	CauseInvalid     = "channel.invalid"   // permanent: the name cannot be in a channel, or the sidecar is full
	CauseMalformed   = "channel.malformed" // permanent: the sidecar in the channel is none
	CauseContended   = "channel.contended" // transient
	CauseDenied      = "store.denied"      // fatal
	CauseUnsupported = "store.unsupported" // fatal
	CauseUnavailable = "store.unavailable" // transient
)

// Channel is where the stage writes: a *channel.Channel.
type Channel interface {
	PutPackage(ctx context.Context, subdir, filename string, body io.ReaderAt, size int64, sha256hex string) (existed bool, err error)
	AddBundle(ctx context.Context, subdir, filename string, bundles ...[]byte) (channel.Sidecar, error)
}

// Stage uploads. It is safe for concurrent use.
type Stage struct{ channel Channel }

var _ pipeline.Stage = (*Stage)(nil)

// New makes the stage.
func New(c Channel) *Stage { return &Stage{channel: c} }

// String implements pipeline.Stage.
func (*Stage) String() string { return "upload" }

// Run implements pipeline.Stage. It needs the item's Source, Filename, Package (Subdir, Size, SHA256), Bundle,
// Signature and Riders, and sets Sidecar. Done again, it writes nothing.
func (s *Stage) Run(ctx context.Context, it *pipeline.Item) error {
	bundle, err := s.bundle(it)
	if err != nil {
		return err
	}
	bundles := [][]byte{bundle}
	for i, r := range it.Riders {
		if r.SHA256 == "" || digest(r.Bundle) != r.SHA256 {
			return changedBundle(fmt.Errorf("attestation %d of %d that rides along with %s/%s is not the one that was verified", i+1, len(it.Riders), it.Package.Subdir, it.Filename))
		}
		bundles = append(bundles, r.Bundle)
	}
	pkg := &it.Package
	if err := s.put(ctx, it); err != nil {
		return err
	}
	side, err := s.channel.AddBundle(ctx, pkg.Subdir, it.Filename, bundles...)
	if err != nil {
		return classify(fmt.Errorf("adding the attestation of %s/%s: %w", pkg.Subdir, it.Filename, err))
	}
	it.Sidecar = pipeline.Sidecar{SHA256: side.SHA256, Size: side.Size, Bundles: side.Bundles}
	return nil
}

// put opens the source and puts the package. The size is compared here, since the store reads as many bytes as it is
// told; the digest is compared by the store.
func (s *Stage) put(ctx context.Context, it *pipeline.Item) error {
	pkg := &it.Package
	f, err := os.Open(it.Source)
	if source.Away(err) {
		return pipeline.Transient(source.Cause, 0, fmt.Errorf("opening the package: %w", err))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return pipeline.Permanent(CauseMissing, "the file was there when it was hashed: put it back, and retry", fmt.Errorf("opening the package: %w", err))
	}
	if err != nil {
		return pipeline.Transient(CauseUnreadable, 0, fmt.Errorf("opening the package: %w", err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return pipeline.Transient(CauseUnreadable, 0, fmt.Errorf("looking at the package: %w", err))
	}
	if info.Size() != pkg.Size {
		return changed(fmt.Errorf("%s has %d bytes now, not %d", it.Source, info.Size(), pkg.Size))
	}
	if _, err := s.channel.PutPackage(ctx, pkg.Subdir, it.Filename, f, pkg.Size, pkg.SHA256); err != nil {
		return classify(fmt.Errorf("uploading %s/%s: %w", pkg.Subdir, it.Filename, err))
	}
	return nil
}

// bundle gives the bytes that were verified.
func (s *Stage) bundle(it *pipeline.Item) ([]byte, error) {
	sig := &it.Signature
	if len(bytes.TrimSpace(it.Bundle)) == 0 || sig.BundleSHA256 == "" || sig.Identity == "" || sig.CertSHA256 == "" {
		return nil, pipeline.Fatal(CauseUnsigned, "the stage sign has to come before upload",
			fmt.Errorf("%s/%s has no verified bundle: an unsigned package is never uploaded", it.Package.Subdir, it.Filename))
	}
	if digest(it.Bundle) != sig.BundleSHA256 {
		return nil, changedBundle(fmt.Errorf("the bundle of %s/%s is not the one that was verified", it.Package.Subdir, it.Filename))
	}
	return it.Bundle, nil
}

func changedBundle(err error) error {
	return pipeline.Permanent(CauseBundle, "submit it again, to be signed again", err)
}

func digest(b []byte) string {
	d := sha256.Sum256(bytes.TrimSpace(b))
	return hex.EncodeToString(d[:])
}

func changed(err error) error {
	return pipeline.Permanent(CauseChanged, "the file was changed after it was signed: submit it again", err)
}

// classify says what the engine does about an error of the channel or its store.
func classify(err error) error {
	if _, ok := errors.AsType[*channel.Conflict](err); ok {
		return pipeline.Permanent(CauseConflict, "what is published is never overwritten: raise the build number and build again", err)
	}
	if _, ok := errors.AsType[*channel.Invalid](err); ok {
		return pipeline.Permanent(CauseInvalid, "", err)
	}
	if _, ok := errors.AsType[*channel.Malformed](err); ok {
		return pipeline.Permanent(CauseMalformed, "somebody has to look at the object in the channel; nothing was written over it", err)
	}
	after, _ := store.Transient(err)
	switch {
	case errors.Is(err, store.ErrDigest):
		return changed(err)
	case errors.Is(err, store.ErrKey):
		return pipeline.Permanent(CauseInvalid, "", err)
	case errors.Is(err, store.ErrAuth):
		return pipeline.Fatal(CauseDenied, "do the credentials allow reading and writing below the channel?", err)
	case errors.Is(err, store.ErrUnsupported):
		return pipeline.Fatal(CauseUnsupported, "use a store with conditional writes", err)
	case errors.Is(err, channel.ErrContended):
		return pipeline.Alone(CauseContended, 0, err)
	case errors.Is(err, context.Canceled):
		return err
	}
	return pipeline.Transient(CauseUnavailable, after, err)
}
