package pipeline

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

// An item that comes for the suspectAfter-th time may be what killed the workers that had it. From then on it is noted
// before work on it begins and the note removed when it leaves, so a note that is found says that a worker died with it.
//
// When a worker dies, all that it held come again, and one of them is the poison. So the noted ones are tried among
// themselves, aloneGroup at a time with nothing else in flight; those that a worker dies with once more are tried one by
// one, and one that takes poisonAfter workers with it is set aside. The others come through on the way. A worker that has
// not lived for a while tries none: one that dies again and again right after its start accuses nobody.
const (
	suspectAfter = 3
	aloneGroup   = 16
	poisonAfter  = 4
)

// CausePoison is the cause of an item that took several workers with it.
const CausePoison = "item.poison"

// probation is Runner.Probation's default.
const probation = 10 * time.Second

// suspectDelay is how long a suspect waits in the queue that cannot be tried yet.
const suspectDelay = 5 * time.Second

// Suspects notes which items were being worked on, beyond the death of a worker. It is asked about items only that have
// been handed out several times. Safe for concurrent use.
type Suspects interface {
	// Deaths returns with how many deaths each of the items is noted; 0 for those that are not.
	Deaths(ctx context.Context, ids []string) (map[string]int, error)
	// Note notes the item with so many deaths, in case that this one is its next. It is on the disk when Note returns.
	Note(ctx context.Context, id string, deaths int) error
	// Clear removes the item's note.
	Clear(ctx context.Context, id string) error
}

// sift notes the suspects among what has boarded, and parts them: those that go on with all others, and those that a worker
// died with and that have to be tried alone, after so many deaths. What is poison has been set aside.
func (x *run) sift(ctx context.Context, fs []*flight) (plain, alone []*flight) {
	var ids []string
	suspect := func(f *flight) bool { return x.Suspects != nil && (x.Suspicious || f.d.Attempt >= suspectAfter) }
	for _, f := range fs {
		if suspect(f) {
			ids = append(ids, f.d.Item.ID)
		}
	}
	if len(ids) == 0 {
		return fs, nil
	}
	deaths, err := x.Suspects.Deaths(ctx, ids)
	if err != nil {
		x.log.Warn("cannot ask what killed earlier workers; the items will be handed out again", "items", len(ids), "error", err)
	}
	for _, f := range fs {
		if !suspect(f) {
			plain = append(plain, f)
			continue
		}
		n := deaths[f.d.Item.ID]
		switch {
		case err != nil:
			x.land(f, suspectDelay)
		case n >= poisonAfter:
			x.log.ErrorContext(f.ctx, "an item is set aside: workers die with it", "item", f.d.Item.ID, "package", f.d.Item.Filename, "deaths", n)
			f.noted = true
			o := x.outcome(f, OutcomeFailed)
			o.Failure = x.failure(f, x.Steps[0].String(), &Error{Cause: CausePoison,
				Hint: "look at the package and at the workers' memory; then retry it from quarantine",
				Err:  fmt.Errorf("%d workers ended without a word while they had this item, the last ones with nothing else", n)})
			x.settle <- o
		case n > 0:
			f.deaths = n
			alone = append(alone, f)
		case x.note(ctx, f, 1):
			plain = append(plain, f)
		}
	}
	return plain, alone
}

// note notes the flight's item. If it cannot, the item goes back to the queue.
func (x *run) note(ctx context.Context, f *flight, deaths int) bool {
	if err := x.Suspects.Note(ctx, f.d.Item.ID, deaths); err != nil {
		x.log.Warn("cannot note an item that comes again and again", "item", f.d.Item.ID, "error", err)
		x.land(f, suspectDelay)
		return false
	}
	f.noted = true
	return true
}

// clear removes the flight's note, if there is one.
func (x *run) clear(f *flight) {
	if !f.noted {
		return
	}
	f.noted = false
	if err := x.Suspects.Clear(context.WithoutCancel(f.ctx), f.d.Item.ID); err != nil {
		x.log.Warn("a note about an item stays; if it comes again it is taken for a suspect", "item", f.d.Item.ID, "error", err)
	}
}

// tryAlone takes some of the suspects through with nothing else in flight, and gives the others back. It returns when they
// are through, and false if ctx ended first.
func (x *run) tryAlone(ctx context.Context, suspects []*flight, in chan<- *flight) bool {
	if lived, least := time.Since(x.began), cmp.Or(x.Probation, probation); lived < least {
		for _, f := range suspects {
			x.land(f, max(least-lived, suspectDelay))
		}
		return true
	}
	// Those with fewer deaths come first: they are the likelier innocents. One with more than one goes by itself.
	slices.SortStableFunc(suspects, func(a, b *flight) int { return cmp.Compare(a.deaths, b.deaths) })
	n := 1
	for n < min(len(suspects), aloneGroup) && suspects[n].deaths == 1 {
		n++
	}
	group := suspects[:n]
	for _, f := range suspects[n:] {
		x.land(f, suspectDelay)
	}
	x.log.Warn("trying items alone that earlier workers died with", "items", len(group), "deaths", group[0].deaths)
	left := func(n int) bool {
		for x.tally.InFlight() > int64(n) {
			select {
			case <-x.left:
			case <-ctx.Done():
				return false
			}
		}
		return true
	}
	if !left(len(group)) {
		for _, f := range group {
			x.land(f, 0)
		}
		return false
	}
	for i, f := range group {
		if !x.note(ctx, f, f.deaths+1) {
			continue
		}
		x.tally.stages[0].ready.Add(1)
		select {
		case in <- f:
			continue
		case <-ctx.Done():
		}
		x.tally.stages[0].ready.Add(-1)
		for _, f := range group[i:] {
			x.land(f, 0)
		}
		return false
	}
	return left(0)
}
