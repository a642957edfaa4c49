package pipeline

import (
	"context"
	"time"
)

// Observer hears what the runner does. Its methods are called concurrently and MUST return quickly.
type Observer interface {
	// StageDone: a stage took so long over an item, and ended with err (nil if done).
	StageDone(ctx context.Context, stage string, it *Item, took time.Duration, err *Error)
	// Retrying: a transient error will be met by another attempt after the delay.
	Retrying(ctx context.Context, stage string, it *Item, err *Error, delay time.Duration)
	// Settled: the outcome is recorded and the job acknowledged.
	Settled(o Outcome)
}

// Observers tells each of several observers, in order.
func Observers(os ...Observer) Observer { return observers(os) }

type observers []Observer

func (os observers) StageDone(ctx context.Context, stage string, it *Item, took time.Duration, err *Error) {
	for _, o := range os {
		o.StageDone(ctx, stage, it, took, err)
	}
}

func (os observers) Retrying(ctx context.Context, stage string, it *Item, err *Error, delay time.Duration) {
	for _, o := range os {
		o.Retrying(ctx, stage, it, err, delay)
	}
}

func (os observers) Settled(o Outcome) {
	for _, x := range os {
		x.Settled(o)
	}
}
