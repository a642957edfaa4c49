package command

import (
	"context"
	"errors"
	"strings"

	"github.com/hallmark-attest/hallmark/internal/identity"
	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/pipeline/queue"
	"github.com/hallmark-attest/hallmark/stages/sign"
)

// Exit codes of every command.
const (
	ExitComplete    = 0   // all that was asked is done
	ExitFailed      = 1   // it is not
	ExitUsage       = 2   // wrong arguments or configuration; nothing was begun
	ExitQuarantined = 3   // finished, with items set aside
	ExitIdentity    = 4   // no identity, or one that is refused
	ExitUpstream    = 5   // an upstream pushed back; safe to run again
	ExitInterrupted = 130 // ctrl-C or SIGTERM; safe to run again
)

// Error is an error with all that a person at a terminal needs: what happened, to which item, and what to do about it.
type Error struct {
	Code int
	Err  error
	Item string // the package, campaign or file concerned; may be empty
	Hint string // may be empty
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Usage says that arguments or configuration are wrong.
func Usage(hint string, err error) error { return &Error{Code: ExitUsage, Err: err, Hint: hint} }

// Outage reports whether an error is about an upstream or the queue's server that may answer later.
func Outage(err error) bool {
	return err != nil && (errors.Is(err, queue.ErrAway) || describe(err).Code == ExitUpstream)
}

// describe finds the exit code, the item and the hint of any error.
func describe(err error) Error {
	if e, ok := errors.AsType[*Error](err); ok {
		d := *e
		d.Err = err
		return d
	}
	if e, ok := errors.AsType[*identity.MissingError](err); ok {
		return Error{Code: ExitIdentity, Err: err, Hint: e.Hint}
	}
	if e, ok := errors.AsType[*pipeline.Error](err); ok && e.Kind == pipeline.KindFatal && strings.HasPrefix(e.Cause, "identity.") {
		return Error{Code: ExitIdentity, Err: err, Hint: e.Hint} // the stage knows more than the sentinel says
	}
	for _, e := range []error{identity.ErrNoIdentity, identity.ErrExpired, identity.ErrMalformed, identity.ErrRefused} {
		if errors.Is(err, e) {
			return Error{Code: ExitIdentity, Err: err, Hint: "get a fresh token, for the audience sigstore"}
		}
	}
	if errors.Is(err, identity.ErrUnavailable) {
		return Error{Code: ExitUpstream, Err: err, Hint: "run the same command again"}
	}
	if e, ok := errors.AsType[*sign.UpstreamError](err); ok {
		d := Error{Code: ExitUpstream, Err: err, Hint: "run the same command again: it goes on where this run stopped"}
		if !e.Temporary() {
			d.Code, d.Hint = ExitIdentity, "check that the Sigstore instance accepts this identity, and that its configuration files belong to it"
		}
		return d
	}
	if e, ok := errors.AsType[*pipeline.Error](err); ok {
		d := Error{Code: ExitFailed, Err: err, Hint: e.Hint}
		if e.Kind == pipeline.KindTransient {
			d.Code = ExitUpstream
		}
		return d
	}
	if errors.Is(err, context.Canceled) {
		return Error{Code: ExitInterrupted, Err: err}
	}
	return Error{Code: ExitFailed, Err: err}
}
