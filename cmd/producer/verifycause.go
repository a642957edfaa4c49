package main

import (
	"errors"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/channel"
	"github.com/hallmark-attest/hallmark/internal/conda"
	"github.com/hallmark-attest/hallmark/internal/store"
)

// The causes that verify itself finds, beside the codes of attest. They are stable.
const (
	causeUnreachable = "upstream.unreachable" // no answer, or one that may pass
	causeDenied      = "upstream.denied"      // 401 or 403
	causeUnusable    = "upstream.unusable"    // another answer that is no file
	causeNoIndex     = "index.missing"
	causeIndex       = "index.unreadable"
	causeUnindexed   = "package.unindexed"  // no record of it
	causeMissing     = "package.missing"    // a record or a sidecar, and no package
	causeDigest      = "package.digest"     // other bytes than the record's
	causeUnattested  = "package.unattested" // no attestation is advertised, none is there
)

// causeError is a refusal that verify finds itself.
type causeError struct {
	code, hint string
	err        error
}

func (e *causeError) Error() string { return e.err.Error() }
func (e *causeError) Unwrap() error { return e.err }

// causeOf gives an error's cause and hint, and whether it leaves open if the package verifies.
func causeOf(err error) (code, hint string, open bool) {
	if e, ok := errors.AsType[*causeError](err); ok {
		return e.code, e.hint, false
	}
	if e, ok := errors.AsType[*attest.Error](err); ok {
		return string(e.Code), e.Hint, false
	}
	if e, ok := errors.AsType[*conda.Error](err); ok {
		return e.Code, e.Hint, false
	}
	if _, ok := store.Transient(err); ok {
		return causeUnreachable, "run the same command again", true
	}
	switch {
	case errors.Is(err, store.ErrAuth):
		return causeDenied, "some hosts answer so for what they do not have: check the URL, and --subdir for a package's name", true
	case errors.As(err, new(*channel.Malformed)):
		return causeIndex, "", false
	case errors.Is(err, store.ErrUnsupported):
		return causeUnusable, "", true
	}
	return "", "", false
}
