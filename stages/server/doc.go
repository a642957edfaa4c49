// Package server has what is done to a package whose channel is on a server that keeps its own index, prefix.dev's or one
// that speaks as it does, in the place of the stages upload and publish: items with a verified bundle flow in; they flow out
// once the server serves the package's bytes and the bundle in its sidecar.
//
//	Item{Source, Package, Bundle, Signature} ──Upload──▶ one request with both ──Publish──▶ what is served, read back ──▶ Item{Sidecar, PublishedAt}
//
// Prior is what the stage hash asks, so that nothing is signed and sent twice. Nothing that is served is overwritten.
package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/hallmark-attest/hallmark/internal/prefix"
	"github.com/hallmark-attest/hallmark/pipeline"
)

// Concurrency of Upload and Publish, where nothing else is said: how many items are in each at once. What is published waits
// for the server to serve it.
const (
	UploadConcurrency  = 16
	PublishConcurrency = 64
)

// The causes, beside those of the stages for a store.
const (
	CauseUnsigned    = "package.unsigned"   // fatal: an item without a verified bundle came this far
	CauseMissing     = "source.missing"     // permanent: the file is gone
	CauseUnreadable  = "source.unreadable"  // transient: the file cannot be opened
	CauseChanged     = "package.changed"    // permanent: the file has other bytes than those that were signed
	CauseBundle      = "bundle.changed"     // permanent: the bundle has other bytes than those that were verified
	CauseConflict    = "channel.conflict"   // permanent: the channel has other bytes under the name
	CauseInvalid     = "channel.invalid"    // permanent: the name cannot be in a channel
	CauseRejected    = "upload.rejected"    // permanent: the server does not take this package or bundle
	CauseUnsettled   = "upload.unsettled"   // permanent: the server has a file of this name and does not serve it
	CauseUnattested  = "channel.unattested" // permanent: the server has the package without an attestation of the campaign's signer
	CauseUnserved    = "server.unserved"    // transient, alone: the package that was uploaded is not served yet
	CauseUnavailable = "server.unavailable" // transient
	CauseForbidden   = "identity.forbidden" // fatal; permanent, if the server takes other packages of this worker
	CauseIdentity    = "identity.upload"    // fatal: the server does not accept the token
	CauseUnknown     = "channel.unknown"    // fatal: there is no such channel
)

// Accept looks into a served sidecar for an attestation of an item by its campaign's signer. If there is one, it sets the
// item's Bundle and Signature, with Found, and returns true.
type Accept func(sidecar []byte, it *pipeline.Item) bool

// classify says what the engine does about an error of the server.
func classify(err error) error {
	if _, ok := errors.AsType[*prefix.Conflict](err); ok {
		return pipeline.Permanent(CauseConflict, "what is published is never overwritten: raise the build number and build again", err)
	}
	after, _ := prefix.Transient(err)
	switch {
	case errors.Is(err, prefix.ErrDigest):
		return changed(err)
	case errors.Is(err, prefix.ErrArgument):
		return pipeline.Permanent(CauseInvalid, "", err)
	case errors.Is(err, prefix.ErrRejected):
		return pipeline.Permanent(CauseRejected, "the server's own words are in the message", err)
	case errors.Is(err, prefix.ErrUnsettled):
		return pipeline.Permanent(CauseUnsettled, "look whether the file is in the channel; when the server serves it, or has deleted it, run again", err)
	case errors.Is(err, prefix.ErrUnattested):
		return pipeline.Permanent(CauseUnattested, "the server takes an attestation only together with a new file: delete the package from the channel, and run again", err)
	case errors.Is(err, prefix.ErrIdentity):
		return pipeline.Fatal(CauseIdentity, "check the token to upload with (--upload-token-file, PREFIX_API_KEY), or the channel's trusted publisher: it is another one than the token to sign with", err)
	case errors.Is(err, prefix.ErrForbidden):
		return pipeline.Fatal(CauseForbidden, "the token needs the right to upload to this channel, and the channel to take packages of this kind", err)
	case errors.Is(err, prefix.ErrChannel):
		return pipeline.Fatal(CauseUnknown, "create the channel on the server, or give the right one by --to", err)
	case errors.Is(err, context.Canceled):
		return err
	}
	return pipeline.Transient(CauseUnavailable, after, err)
}

func changed(err error) error {
	return pipeline.Permanent(CauseChanged, "the file was changed after it was signed: submit it again", err)
}

// unattested says what the package in the channel lacks.
func unattested(it *pipeline.Item, err error) error {
	return classify(fmt.Errorf("%s/%s is in the channel with these bytes, and without an attestation of the campaign's signer: %w",
		it.Package.Subdir, it.Filename, err))
}

// refused tells an answer of 403.
func refused(err error) bool {
	answer, ok := errors.AsType[*prefix.StatusError](err)
	return ok && answer.Status == http.StatusForbidden
}
