// Package publish is the stage that makes packages visible: items whose package and sidecar are in the store flow in;
// they flow out once the index shows them: the shards, and repodata.json too where the subdir is small. The documents of a
// large subdir follow at their own cadence.
//
//	Item{Package, Sidecar} ──▶ wait for others ──▶ one index update for all ──▶ Item{PublishedAt}
//
// An index update costs about the same for one package as for a thousand. So the items of a subdir that arrive together,
// or while an update is under way, share the next one.
package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hallmark-attest/hallmark/internal/channel"
	"github.com/hallmark-attest/hallmark/internal/store"
	"github.com/hallmark-attest/hallmark/pipeline"
)

// Concurrency is how many items are in the stage at once, where nothing else is said: enough to fill an update.
const Concurrency = 1024

// Defaults of Options.
const (
	DefaultBatch = 1000
	DefaultBytes = 16 << 20
	DefaultQuiet = 200 * time.Millisecond
	// DefaultInterval and DefaultIdle are when the documents of a large subdir are merged: this long after the last time, or
	// after the last update.
	DefaultInterval = 10 * time.Minute
	DefaultIdle     = 5 * time.Second
)

// The stage's causes.
const (
	CauseUnsigned    = "package.unsigned"  // fatal: an item without a sidecar came this far
	CauseConflict    = "channel.conflict"  // permanent: the index has other bytes under the name
	CauseRemoved     = "channel.removed"   // permanent: the channel took the package out
	CauseInvalid     = "channel.invalid"   // permanent: the record cannot be in a channel
	CauseNoSidecar   = "channel.sidecar"   // permanent: the sidecar is not in the store
	CauseMalformed   = "channel.malformed" // fatal: the index cannot be read, and so not updated; permanent: a shard or sidecar
	CauseContended   = "channel.contended" // transient
	CauseDenied      = "store.denied"      // fatal
	CauseUnsupported = "store.unsupported" // fatal
	CauseUnavailable = "store.unavailable" // transient
	CauseClosed      = "publish.closed"    // transient: the worker is ending
)

// Index is what the stage writes to: a *channel.Channel.
type Index interface {
	// Update is channel.Channel.Update.
	Update(ctx context.Context, subdir string, entries []channel.Entry) (changed int, refused []error, err error)
	// CatchUp is channel.Channel.CatchUp.
	CatchUp(ctx context.Context, subdirs ...string) error
}

// Options of a Stage; the zero value is fit for use.
type Options struct {
	// Batch is the greatest number of items in one update. Default DefaultBatch.
	Batch int
	// Bytes is the greatest sum of the records of the items in one update; a larger record goes alone. Default DefaultBytes.
	Bytes int
	// Quiet is how long the first item of a subdir waits for others before there is an update; negative for not at all.
	// Whatever arrives during an update waits for the next one, which follows at once. Default DefaultQuiet.
	Quiet time.Duration
	// Interval is how long the documents of a subdir that is written to all the time (repodata.json and what else is merged
	// from its shards) stay behind at most. Default DefaultInterval.
	Interval time.Duration
	// Idle is how long after the last update they are merged anyway. Default DefaultIdle.
	Idle time.Duration
	// Log hears of merges that failed; they are tried again. Default slog.Default().
	Log *slog.Logger
}

// Stage publishes. It is safe for concurrent use.
type Stage struct {
	index   Index
	options Options
	open    context.Context // ends when the stage is closed
	closing context.CancelFunc

	mu      sync.Mutex
	subdirs map[string]*queue  // those that have a writer
	mergers map[string]*merger // those whose documents may be behind
	writers sync.WaitGroup
}

// queue is what waits for a subdir's index. It exists as long as its writer does.
type queue struct {
	waiting []*request
	bytes   int           // of their records
	full    chan struct{} // gets a value when a whole batch waits
}

type request struct {
	ctx   context.Context
	entry channel.Entry
	done  chan error // has room for the answer
}

func (r *request) size() int { return len(r.entry.Record) + len(r.entry.RunExports) }

var _ pipeline.Stage = (*Stage)(nil)

// New makes the stage with default options.
func New(x Index) *Stage { return NewWith(x, Options{}) }

// NewWith makes the stage.
func NewWith(x Index, o Options) *Stage {
	if o.Batch <= 0 {
		o.Batch = DefaultBatch
	}
	if o.Bytes <= 0 {
		o.Bytes = DefaultBytes
	}
	if o.Quiet == 0 {
		o.Quiet = DefaultQuiet
	}
	if o.Interval <= 0 {
		o.Interval = DefaultInterval
	}
	if o.Idle <= 0 {
		o.Idle = DefaultIdle
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	s := &Stage{index: x, options: o, subdirs: map[string]*queue{}, mergers: map[string]*merger{}}
	s.open, s.closing = context.WithCancel(context.Background())
	return s
}

// String implements pipeline.Stage.
func (*Stage) String() string { return "publish" }

// Run implements pipeline.Stage. It needs the item's Filename, Package (Subdir, Record, RunExports) and Sidecar, and sets
// PublishedAt. It returns when the index that shows the item is in the store, or when ctx ends; then the item may be
// published all the same.
func (s *Stage) Run(ctx context.Context, it *pipeline.Item) error {
	pkg := &it.Package
	if it.Sidecar.SHA256 == "" {
		return pipeline.Fatal(CauseUnsigned, "the stages sign and upload have to come before publish",
			fmt.Errorf("%s/%s has no sidecar: an unsigned package is never published", pkg.Subdir, it.Filename))
	}
	r := &request{ctx: ctx, done: make(chan error, 1), entry: channel.Entry{
		Filename: it.Filename, Record: pkg.Record, RunExports: pkg.RunExports, AttestationsSHA256: it.Sidecar.SHA256,
	}}
	if !s.enqueue(pkg.Subdir, r) {
		return pipeline.Alone(CauseClosed, 0, errors.New("the worker is ending"))
	}
	select {
	case err := <-r.done:
		if err != nil {
			return classify(fmt.Errorf("publishing %s/%s: %w", pkg.Subdir, it.Filename, err))
		}
		it.PublishedAt = time.Now().UTC()
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close refuses further items and waits until nothing runs any more: every item that waits gets its answer, or has been
// given up by its caller. Documents that are behind stay so: whoever ends a campaign calls Channel.CatchUp. It implements
// io.Closer; the error is always nil.
func (s *Stage) Close() error {
	s.mu.Lock()
	s.closing()
	s.mu.Unlock()
	s.writers.Wait()
	return nil
}

// enqueue hands a request to its subdir's writer, and starts one where there is none.
func (s *Stage) enqueue(subdir string, r *request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open.Err() != nil {
		return false
	}
	q := s.subdirs[subdir]
	if q == nil {
		q = &queue{full: make(chan struct{}, 1)}
		s.subdirs[subdir] = q
		s.writers.Go(func() { s.write(subdir, q) })
	}
	q.waiting = append(q.waiting, r)
	q.bytes += r.size()
	if len(q.waiting) >= s.options.Batch || q.bytes >= s.options.Bytes {
		select {
		case q.full <- struct{}{}:
		default:
		}
	}
	return true
}

// write is a subdir's writer: it ends when nothing waits. So a stage that has nothing to do has no goroutine.
func (s *Stage) write(subdir string, q *queue) {
	if s.options.Quiet > 0 {
		t := time.NewTimer(s.options.Quiet)
		select {
		case <-t.C:
		case <-q.full:
		case <-s.open.Done():
		}
		t.Stop()
	}
	for batch := s.take(subdir, q); batch != nil; batch = s.take(subdir, q) {
		s.update(subdir, batch)
		s.behind(subdir)
	}
}

// take gives the next batch: the oldest requests that somebody still waits for. If there are none, the writer is struck
// off in the same breath, so that the next request starts another; the result is nil.
func (s *Stage) take(subdir string, q *queue) []*request {
	s.mu.Lock()
	defer s.mu.Unlock()
	var batch []*request
	bytes := 0
	for len(q.waiting) > 0 && len(batch) < s.options.Batch {
		r := q.waiting[0]
		if r.ctx.Err() == nil {
			if bytes += r.size(); bytes > s.options.Bytes && len(batch) > 0 {
				break
			}
			batch = append(batch, r)
		}
		q.waiting[0] = nil
		q.waiting = q.waiting[1:]
		q.bytes -= r.size()
	}
	if batch == nil {
		delete(s.subdirs, subdir)
	}
	return batch
}

// update does one update. It goes on as long as one of its callers waits: one that leaves does not fail the others.
func (s *Stage) update(subdir string, batch []*request) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(batch[0].ctx)) // the trace of the first; nobody's end
	defer cancel()
	var mu sync.Mutex
	left := len(batch)
	entries := make([]channel.Entry, len(batch))
	for i, r := range batch {
		entries[i] = r.entry
		stop := context.AfterFunc(r.ctx, func() {
			mu.Lock()
			defer mu.Unlock()
			if left--; left == 0 {
				cancel()
			}
		})
		defer stop()
	}
	refused, err := s.call(ctx, subdir, entries)
	if n := len(batch); n > 1 && errors.As(err, new(*panicked)) {
		s.update(subdir, batch[:n/2]) // until the one is alone that makes it panic
		s.update(subdir, batch[n/2:])
		return
	}
	for i, r := range batch {
		answer := err
		if answer == nil && refused != nil {
			answer = refusal(refused[i])
		}
		r.done <- answer
	}
}

// panicked is a panic of the index as an error: the writer's goroutine is not one of the engine's, which do the same.
type panicked struct{ value any }

func (p *panicked) Error() string { return fmt.Sprintf("panic: %v", p.value) }

func (s *Stage) call(ctx context.Context, subdir string, entries []channel.Entry) (refused []error, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicked{p}
		}
	}()
	_, refused, err = s.index.Update(ctx, subdir, entries)
	if err == nil && refused != nil && len(refused) != len(entries) {
		err = fmt.Errorf("%d answers for %d entries", len(refused), len(entries))
	}
	return refused, err
}

const hintMalformed = "somebody has to look at the object in the channel; nothing was written over it"

// refusal says what the engine does about an item that cannot be in the index while others can.
func refusal(err error) error {
	switch err.(type) {
	case nil:
		return nil
	case *channel.Conflict:
		return pipeline.Permanent(CauseConflict, "what is published is never overwritten: raise the build number and build again", err)
	case *channel.Removed:
		return pipeline.Permanent(CauseRemoved, "the channel lists the file as removed; raise the build number, or take it off that list first", err)
	case *channel.Unsigned:
		return pipeline.Permanent(CauseNoSidecar, "its sidecar was taken away after it was uploaded; submit it again", err)
	case *channel.Malformed:
		return pipeline.Permanent(CauseMalformed, hintMalformed, err)
	}
	return pipeline.Permanent(CauseInvalid, "", err)
}

// classify says what the engine does about an error of the channel or its store.
func classify(err error) error {
	if _, ok := errors.AsType[*pipeline.Error](err); ok {
		return err
	}
	if _, ok := errors.AsType[*panicked](err); ok {
		return pipeline.Permanent("internal.panic", "this is a defect in Hallmark: please report it with the log", err)
	}
	if _, ok := errors.AsType[*channel.Invalid](err); ok { // the subdir
		return pipeline.Permanent(CauseInvalid, "", err)
	}
	if _, ok := errors.AsType[*channel.Malformed](err); ok {
		return pipeline.Fatal(CauseMalformed, hintMalformed, err)
	}
	after, _ := store.Transient(err)
	switch {
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
