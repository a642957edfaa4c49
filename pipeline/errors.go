package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Kind says what the engine must do with an error. A stage classifies once, where the SDK that raised it is known.
type Kind int

const (
	// KindTransient: try again. Every error that is not an *Error counts as transient, so that an unforeseen failure
	// never sets a package aside for good.
	KindTransient Kind = iota
	// KindPermanent: this package can never pass; it goes to quarantine and the campaign goes on.
	KindPermanent
	// KindSkip: there is nothing to do; the ledger says so, and why.
	KindSkip
	// KindFatal: this worker can do nothing for any item (its identity is not the campaign's, its configuration is wrong).
	// The item goes back to the queue untouched and the run ends with this error.
	KindFatal
)

func (k Kind) String() string {
	switch k {
	case KindPermanent:
		return "permanent"
	case KindSkip:
		return "skip"
	case KindFatal:
		return "fatal"
	default:
		return "transient"
	}
}

// Error is an error that says what the engine must do about it.
type Error struct {
	Kind Kind
	// Cause is a stable code for programs and for grouping: "package.truncated", "channel.conflict", "rekor.unavailable".
	Cause string
	// Err is what happened, wrapped with what was being done.
	Err error
	// Hint tells a person what to do about it; may be empty.
	Hint string
	// RetryAfter is the upstream's own wish for a transient error; 0 if it had none. It holds for the whole stage, or, if the
	// error is Alone, for the item.
	RetryAfter time.Duration
	// Alone says that a transient error is this item's own and tells nothing of others: it is no sign of an outage.
	Alone bool
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.Cause
	}
	return e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// Permanent says that this package can never pass, and why.
func Permanent(cause, hint string, err error) error {
	return &Error{Kind: KindPermanent, Cause: cause, Hint: hint, Err: err}
}

// Transient says that an upstream failed in a way that may pass; after is its Retry-After, or 0.
func Transient(cause string, after time.Duration, err error) error {
	return &Error{Kind: KindTransient, Cause: cause, RetryAfter: after, Err: err}
}

// Alone says that something failed for this item which may pass, and that others are not concerned: another writer was
// first, the file is just being written, one of many upstreams is out. after is an upstream's Retry-After, or 0.
func Alone(cause string, after time.Duration, err error) error {
	return &Error{Kind: KindTransient, Cause: cause, RetryAfter: after, Alone: true, Err: err}
}

// Skip says that there is nothing to do for this item; cause is the stable code of the reason.
func Skip(cause, format string, args ...any) error {
	return &Error{Kind: KindSkip, Cause: cause, Err: fmt.Errorf(format, args...)}
}

// Fatal says that this worker can do nothing for any item of the campaign.
func Fatal(cause, hint string, err error) error {
	return &Error{Kind: KindFatal, Cause: cause, Hint: hint, Err: err}
}

// Classify returns err as an *Error: as it is where a stage classified it, else as a transient one with the cause
// "internal.unclassified" ("timeout" for a deadline). It returns nil for nil.
func Classify(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		if e == err {
			return e
		}
		c := *e
		c.Err = err // keep what the wrappers said
		return &c
	}
	cause := "internal.unclassified"
	if errors.Is(err, context.DeadlineExceeded) {
		cause = "timeout"
	}
	return &Error{Kind: KindTransient, Cause: cause, Err: err}
}
