package pipeline

import (
	"context"
	"time"
)

// Delivery is one item as the queue handed it out, until it is settled.
type Delivery struct {
	Item *Item
	// Attempt counts how often the queue has handed the item out, from 1.
	Attempt int
	// Context carries the trace that the submitter started; it has no deadline and no cancellation.
	Context context.Context
	// Job settles the delivery.
	Job Job
}

// Job is the queue's side of a delivery. Exactly one of Ack and Release ends it; both may fail silently, which only
// means that the item is handed out again.
type Job interface {
	// Extend tells the queue that the item is still being worked on.
	Extend() error
	// Ack takes the item off the segment. Call it only after the outcome is recorded.
	Ack() error
	// Release gives the item back, to be handed out again after the delay.
	Release(delay time.Duration) error
}

// Source hands out the items of one campaign's segment.
type Source interface {
	// Next waits for items and returns between 1 and limit of them. It returns ctx's error when ctx ends, and an empty
	// slice when it has waited a while in vain.
	Next(ctx context.Context, limit int) ([]Delivery, error)
}

// Outcome is how an item left a segment.
type Outcome struct {
	Delivery Delivery
	// Kind is one of the Outcome* constants.
	Kind OutcomeKind
	// Events are the events that the segment's steps completed, in order ("signed", "published").
	Events []string
	// Next is the segment that the item goes to, for OutcomeCrossed.
	Next string
	// Failure is set for OutcomeFailed and OutcomeSkipped.
	Failure *Failure

	flight *flight // the runner's own, while the item is in flight
}

// OutcomeKind is how an item left a segment.
type OutcomeKind string

const (
	OutcomePublished OutcomeKind = "published" // the last stage is done
	OutcomeSkipped   OutcomeKind = "skipped"   // there was nothing to do
	OutcomeFailed    OutcomeKind = "failed"    // it goes to quarantine
	OutcomeCrossed   OutcomeKind = "crossed"   // it goes on in another segment
)

// Failure says why an item was skipped or set aside. It is what quarantine and the ledger keep.
type Failure struct {
	Stage    string    `json:"stage"`
	Cause    string    `json:"cause"`
	Message  string    `json:"message"`
	Hint     string    `json:"hint,omitempty"`
	Attempts int       `json:"attempts"`
	TraceID  string    `json:"traceId,omitempty"`
	At       time.Time `json:"at"`
}

// Ledger records outcomes.
type Ledger interface {
	// Settle records the outcomes durably, then acknowledges their jobs. Recording an outcome that is there already counts
	// as done. Of those that could not be recorded the error, an *UnsettledError, has the list: their jobs are neither
	// acknowledged nor released, and settling them again completes it. Any other error stands for all of them.
	Settle(ctx context.Context, outcomes []Outcome) error
}

// UnsettledError says which outcomes could not be recorded.
type UnsettledError struct {
	// Outcomes are those of the call that are not recorded, or not known to be; trying again may help.
	Outcomes []Outcome
	// Refused are those that can never be recorded as they are.
	Refused []Refusal
	Err     error
}

// Refusal is an outcome that can never be recorded as it is, and why.
type Refusal struct {
	Outcome Outcome
	Err     error
}

func (e *UnsettledError) Error() string { return e.Err.Error() }
func (e *UnsettledError) Unwrap() error { return e.Err }
