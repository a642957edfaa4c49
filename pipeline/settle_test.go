package pipeline

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// faulty is a ledger with faults in front of another one.
type faulty struct {
	Ledger
	down    atomic.Bool
	refuses func(Outcome) bool
}

func (l *faulty) Settle(ctx context.Context, os []Outcome) error {
	if l.down.Load() {
		return errors.New("no servers available")
	}
	var e UnsettledError
	var rest []Outcome
	for _, o := range os {
		if l.refuses != nil && l.refuses(o) {
			e.Refused = append(e.Refused, Refusal{o, errors.New("event of 70000 bytes")})
		} else {
			rest = append(rest, o)
		}
	}
	if err := l.Ledger.Settle(ctx, rest); err != nil {
		return err
	}
	if e.Refused != nil {
		e.Err = errors.New("refused")
		return &e
	}
	return nil
}

// While the queue is out for an hour nothing is given back or done again: what is signed stays signed once.
func TestAnOutageOfTheLedgerIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemory(300)
		l := &faulty{Ledger: q}
		l.down.Store(true)
		var signed atomic.Int64
		sign := step("sign", 100, func(context.Context, *Item) error { signed.Add(1); return nil })
		res, drain := start(t, &Runner{Source: q, Ledger: l, Steps: []Step{sign}, MaxInFlight: 100})
		time.Sleep(time.Hour)
		if n := signed.Load(); n != 100 || len(q.settled()) != 0 {
			t.Errorf("%d signed, %d recorded in the outage, with 100 places", n, len(q.settled()))
		}
		l.down.Store(false)
		time.Sleep(10 * time.Second)
		if n := len(q.settled()); n != 300 || signed.Load() != 300 {
			t.Errorf("%d signed, %d recorded 10 s after the outage", signed.Load(), n)
		}
		drain()
		if err := <-res; err != nil {
			t.Fatal(err)
		}
		for _, j := range q.handed {
			if len(j.released) > 0 {
				t.Fatalf("item %s was given back", j.item.ID)
			}
		}
	})
}

// An outcome that can never be recorded sets its item aside, and holds up no other.
func TestARefusedOutcomeIsSetAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemory(20)
		bad := []string{"i0003", "i0004", "i0005"}
		l := &faulty{Ledger: q, refuses: func(o Outcome) bool {
			return slices.Contains(bad, o.Delivery.Item.ID) && (o.Kind != OutcomeFailed || o.Delivery.Item.ID == "i0005")
		}}
		res, drain := start(t, &Runner{Source: q, Ledger: l, Steps: []Step{step("sign", 4, ok)}})
		time.Sleep(time.Minute)
		drain()
		<-res
		for id, o := range q.settled() {
			if slices.Contains(bad, id) != (o.Kind == OutcomeFailed) {
				t.Errorf("%s is %s", id, o.Kind)
			}
			if o.Kind == OutcomeFailed && (o.Failure.Cause != CauseRefused || o.Failure.Stage != "ledger" || o.Failure.Hint == "" || o.Failure.Message != "recording that the item is published: event of 70000 bytes") {
				t.Errorf("%s: %+v", id, o.Failure)
			}
		}
		if n := len(q.settled()); n != 19 {
			t.Errorf("%d recorded", n)
		}
		for _, j := range q.handed {
			if j.item.ID == "i0005" && len(j.released) != 1 {
				t.Errorf("what cannot even be set aside was given back %d times", len(j.released))
			}
		}
	})
}
