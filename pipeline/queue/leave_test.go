package queue

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/hallmark-attest/hallmark/pipeline"
)

// Three deaths: after the item was set aside; after it was published and before it left quarantine; and then its file is
// gone. It is published, and nowhere else.
func TestPublishedItemLeavesQuarantineWhateverComesThen(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	c := campaign("thrice")
	i.create(t, c)
	i.enqueue(t, c, items(1), EnqueueResult{Queued: 1})
	src := i.source(t, c, "hash", SourceOptions{AckWait: 300 * time.Millisecond})
	l := i.Ledger(c, encoder{})
	die := func(kind pipeline.OutcomeKind) pipeline.Outcome {
		o := outcome(take(t, src, 1)[0], kind)
		o.Delivery.Job = crashed{o.Delivery.Job}
		settle(t, l, o)
		return o
	}
	set := die(pipeline.OutcomeFailed)
	die(pipeline.OutcomePublished)
	m, err := quarantineMessage(c.Name, set, nil) // as if the worker had died before it took it out
	if err != nil {
		t.Fatal(err)
	}
	if err := i.publishEach(t.Context(), []*nats.Msg{m})[0]; err != nil {
		t.Fatal(err)
	}
	settle(t, l, outcome(take(t, src, 1)[0], pipeline.OutcomeFailed))
	n := i.quietCounts(t, c, oneSegment, func(n Counts) bool { return n.Waiting() == 0 })
	if n.Published != 1 || n.Failed != 0 {
		t.Errorf("counts %+v", n)
	}
}

// The worker of the first segment dies after it handed the item on; the second segment sets the item aside; then the first
// one hands it on again. It stays set aside: nothing else is left of it.
func TestHandingOnAgainDoesNotTakeItOutOfQuarantine(t *testing.T) {
	t.Parallel()
	segments := []string{"hash", "sign"}
	i := open(t, t.TempDir(), Options{})
	c := campaign("handed-on")
	i.create(t, c)
	i.enqueue(t, c, items(1), EnqueueResult{Queued: 1})
	src := i.source(t, c, "hash", SourceOptions{AckWait: 300 * time.Millisecond})
	l := i.Ledger(c, encoder{})
	o := outcome(take(t, src, 1)[0], pipeline.OutcomeCrossed)
	o.Next = "sign"
	o.Delivery.Job = crashed{o.Delivery.Job}
	settle(t, l, o)
	settle(t, l, outcome(take(t, i.source(t, c, "sign", SourceOptions{}), 1)[0], pipeline.OutcomeFailed))
	o = outcome(take(t, src, 1)[0], pipeline.OutcomeCrossed)
	o.Next = "sign"
	settle(t, l, o)
	n := i.quietCounts(t, c, segments, func(n Counts) bool { return n.Waiting() == 0 })
	if n.Failed != 1 || !n.Balanced() {
		t.Errorf("counts %+v", n)
	}
}
