package queue

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// SourceOptions are how a segment's items are handed out. The zero value is usable.
type SourceOptions struct {
	// MaxAckPending is how many items of the campaign's segment are out at once, with all workers together, those that
	// wait for their release delay included. It should be at least ten times the workers' concurrency. Default 10000. A
	// consumer that exists is raised to it, and never lowered.
	MaxAckPending int
	// AckWait is how long the queue waits for a sign of life before it hands an item out again. Default 60 s.
	AckWait time.Duration
	// Wait is how long Next waits for items before it returns none. Default 5 s, at least 1 s.
	Wait time.Duration
	// Encoder writes the failed event of messages that cannot be read. Without it they are quarantined without an event.
	Encoder Encoder
	// Malformed, if set, is told the subject of every message that could not be read, after it is quarantined.
	Malformed func(subject string, err error)
}

// CauseMalformed is the cause with which a message that is no item is quarantined.
const CauseMalformed = "queue.malformed"

// malformedDelay is how long a message that is no item waits where it could not be quarantined.
const malformedDelay = 5 * time.Second

// Source hands out the items of a campaign's segment. All sources of the same campaign and segment, in whatever process,
// share one durable consumer, and each item goes to one of them. It is safe for concurrent use and needs no closing.
//
// The campaign MUST be open: ErrPaused, ErrEnding and ErrClosed say that it is not.
func (q *Queue) Source(ctx context.Context, campaign, segment string, o SourceOptions) (pipeline.Source, error) {
	return q.source(ctx, campaign, segment, o, pipeline.StateOpen)
}

// source is Source for a campaign in the given state.
func (q *Queue) source(ctx context.Context, campaign, segment string, o SourceOptions, state pipeline.State) (*source, error) {
	if err := checkSegment(segment); err != nil {
		return nil, err
	}
	c, err := q.inState(ctx, campaign, state)
	if err != nil {
		return nil, err
	}
	name := ConsumerName(campaign, segment)
	cfg := consumerConfig(campaign, segment, o)
	cons, err := q.js.Consumer(ctx, StreamJobs, name)
	if err == nil {
		have := cons.CachedInfo().Config
		if ds := compareConsumer(have, campaign, segment); len(ds) > 0 {
			return nil, &StreamMismatchError{Stream: StreamJobs, Consumer: name, Differences: ds}
		}
		cfg.MaxAckPending = max(cfg.MaxAckPending, have.MaxAckPending)
		if o.AckWait == 0 {
			cfg.AckWait = have.AckWait
		}
		if cfg.MaxAckPending != have.MaxAckPending || cfg.AckWait != have.AckWait {
			cfg.PauseUntil = have.PauseUntil
			cons, err = q.js.UpdateConsumer(ctx, StreamJobs, cfg)
		}
		if err == nil && q.died && have.PauseUntil == nil && state == pipeline.StateOpen { // an abort asks again and again
			cons, err = q.orphans(ctx, cons)
		}
	} else if errors.Is(err, jetstream.ErrConsumerNotFound) {
		cons, err = q.js.CreateOrUpdateConsumer(ctx, StreamJobs, cfg)
	}
	if err != nil {
		return nil, fmt.Errorf("opening consumer %s: %w", name, err)
	}
	if err := q.unhalt(ctx, cons, campaign, state); err != nil {
		return nil, err
	}
	// The ledger's encoder may be nil: then malformed messages leave no event.
	return &source{q: q, cons: cons, c: c, segment: segment, o: o, ledger: &ledger{q: q, c: c, enc: o.Encoder}, log: q.log}, nil
}

// orphanWait is what counts as an item without a sign of life right after its worker's death.
const orphanWait = time.Second

// orphans has the items handed out again at once that the dead process held. It was the server as well, so nobody else holds
// one: there is no need to wait for their signs of life for a whole AckWait. A worker of another process that is connected
// to this server is back by then and tells of its items again; at worst one is handed out twice.
func (q *Queue) orphans(ctx context.Context, cons jetstream.Consumer) (jetstream.Consumer, error) {
	cfg := cons.CachedInfo().Config
	if cons.CachedInfo().NumAckPending == 0 || cfg.AckWait <= orphanWait {
		return cons, nil
	}
	short := cfg
	short.AckWait = orphanWait
	if _, err := q.js.UpdateConsumer(ctx, StreamJobs, short); err != nil {
		return nil, err
	}
	select {
	case <-time.After(orphanWait + orphanWait/2): // the server has looked by then
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return q.js.UpdateConsumer(ctx, StreamJobs, cfg)
}

// inState returns the campaign if it is in the state, and why nothing is handed out otherwise.
func (q *Queue) inState(ctx context.Context, campaign string, state pipeline.State) (*pipeline.Campaign, error) {
	c, _, err := q.Campaigns().Get(ctx, campaign)
	if err != nil || c.State == state {
		return c, err
	}
	switch c.State {
	case pipeline.StatePaused:
		err = ErrPaused
	case pipeline.StateClosed:
		err = ErrClosed
	default:
		err = fmt.Errorf("%w: it is %s", ErrEnding, c.State)
	}
	return nil, fmt.Errorf("taking items of campaign %s: %w", campaign, err)
}

// unhalt sees to it that the consumer is not paused, which it may be after a resume that was interrupted. If the campaign
// was paused at the same moment, the pause holds.
func (q *Queue) unhalt(ctx context.Context, cons jetstream.Consumer, campaign string, state pipeline.State) error {
	name := cons.CachedInfo().Name
	if cons.CachedInfo().Paused {
		if err := q.haltConsumer(ctx, name, false); err != nil {
			return err
		}
	}
	_, err := q.inState(ctx, campaign, state)
	if errors.Is(err, ErrPaused) {
		err = errors.Join(err, q.haltConsumer(ctx, name, true))
	}
	return err
}

type source struct {
	q       *Queue
	cons    jetstream.Consumer
	c       *pipeline.Campaign
	segment string
	o       SourceOptions
	ledger  *ledger
	log     *slog.Logger
}

// Next takes what is there, at most limit items. Only if there is nothing does it wait, for the first item; so no item
// is held here while another worker could have it, and no pull stays open between calls.
func (s *source) Next(ctx context.Context, limit int) ([]pipeline.Delivery, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ds, err := s.ready(ctx, limit)
	// While another worker's Source sets the consumer up, the server may have nobody to answer for a moment. Only if that
	// lasts is it a failure.
	for try := 0; try < 20 && errors.Is(err, nats.ErrNoResponders) && s.q.nc.IsConnected(); try++ {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		ds, err = s.ready(ctx, limit)
	}
	if err != nil || len(ds) > 0 {
		return ds, err
	}
	// The heartbeat tells a lost pull from an empty queue: without it, one that the server forgot would be waited for in vain.
	wait := max(cmp.Or(s.o.Wait, 5*time.Second), time.Second)
	// ctx may end sooner than a heartbeat can be asked for, so it only cancels.
	wctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), wait)
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	b, err := s.cons.Fetch(1, jetstream.FetchContext(wctx), jetstream.FetchHeartbeat(wait/4))
	if err != nil {
		return nil, s.explain(ctx, err)
	}
	for m := range b.Messages() {
		ds = s.deliver(ctx, ds, m)
	}
	if ctx.Err() != nil {
		for _, d := range ds {
			_ = d.Job.Release(0)
		}
		return nil, ctx.Err()
	}
	switch err := b.Error(); {
	case err == nil, len(ds) > 0, errors.Is(err, context.DeadlineExceeded):
	case errors.Is(err, jetstream.ErrNoHeartbeat) && s.q.nc.IsConnected():
		s.log.DebugContext(ctx, "a pull was lost or the server is slow; asking again", "consumer", s.cons.CachedInfo().Name)
	default:
		return nil, s.explain(ctx, err)
	}
	if len(ds) == 0 || limit == 1 {
		return ds, nil
	}
	more, err := s.ready(ctx, limit-len(ds))
	if err != nil {
		s.log.DebugContext(ctx, "taking more items", "consumer", s.cons.CachedInfo().Name, "error", err)
	}
	return append(ds, more...), nil
}

// ready takes what can be had without waiting.
func (s *source) ready(ctx context.Context, limit int) ([]pipeline.Delivery, error) {
	b, err := s.cons.FetchNoWait(limit)
	if err != nil {
		return nil, s.explain(ctx, err)
	}
	var ds []pipeline.Delivery
	for m := range b.Messages() {
		ds = s.deliver(ctx, ds, m)
	}
	if err := b.Error(); err != nil && len(ds) == 0 {
		return nil, s.explain(ctx, err)
	}
	return ds, nil
}

func (s *source) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("taking items of %s: %w", ConsumerName(s.c.Name, s.segment), err)
}

// deliver appends the message's item to ds, or sets the message aside.
func (s *source) deliver(ctx context.Context, ds []pipeline.Delivery, m jetstream.Msg) []pipeline.Delivery {
	it, id, err := s.parse(m)
	attempt := 1
	if md, err := m.Metadata(); err == nil {
		attempt = int(min(md.NumDelivered, 1<<30))
	}
	d := pipeline.Delivery{Item: it, Attempt: attempt, Context: extract(m.Headers()), Job: job{m, newHold(s.q.nc, s.ackWait())}}
	if err != nil {
		d.Item = &pipeline.Item{ID: id, Campaign: s.c.Name}
		d.Job = malformedJob{job{m: m}}
		s.setAside(ctx, d, m, err)
		return ds
	}
	if it.Drop != nil {
		s.drop(ctx, d)
		return ds
	}
	return append(ds, d)
}

// drop completes what whoever dropped the item had begun.
func (s *source) drop(ctx context.Context, d pipeline.Delivery) {
	ctx, cancel := s.q.within(context.WithoutCancel(ctx))
	defer cancel()
	err := error(errors.New("there is nothing to write its event with"))
	if s.ledger.enc != nil {
		err = s.ledger.Settle(ctx, []pipeline.Outcome{{Delivery: d, Kind: OutcomeAborted, Failure: d.Item.Drop}})
	}
	if err != nil {
		s.log.WarnContext(ctx, "cannot record that an item was dropped; it will come again", "item", d.Item.ID, "error", err)
		_ = d.Job.Release(malformedDelay) // if it is lost, it comes a little later
	}
}

// parse reads an item out of a message. It returns the id that the subject gives in any case.
func (s *source) parse(m jetstream.Msg) (*pipeline.Item, string, error) {
	token, _ := strings.CutPrefix(m.Subject(), strings.TrimSuffix(jobFilter(s.segment, s.c.Name), ">"))
	id, retry, err := parseJob(token)
	if err != nil {
		return nil, token, fmt.Errorf("subject %s ends with no item id: %w", m.Subject(), err)
	}
	var it pipeline.Item
	if err := json.Unmarshal(m.Data(), &it); err != nil {
		return nil, id, fmt.Errorf("message on %s is no item: %w", m.Subject(), err)
	}
	if it.ID != id || it.Campaign != s.c.Name || it.Retry != retry {
		return nil, id, fmt.Errorf("message on %s is item %q of campaign %q", m.Subject(), it.ID, it.Campaign)
	}
	if it.Filename == "" {
		return nil, id, fmt.Errorf("item %s has no file name", id)
	}
	return &it, id, nil
}

// setAside quarantines a message that is no item, as it is, and takes it off the queue. If that fails it comes again.
func (s *source) setAside(ctx context.Context, d pipeline.Delivery, m jetstream.Msg, why error) {
	s.log.WarnContext(ctx, "a message in the queue is no item; it goes to quarantine", "subject", m.Subject(), "error", why)
	ctx = context.WithoutCancel(ctx) // bounded by the queue's timeout
	o := pipeline.Outcome{Delivery: d, Kind: pipeline.OutcomeFailed, Failure: &pipeline.Failure{
		Stage: "queue", Cause: CauseMalformed, Message: why.Error(), Attempts: d.Attempt, At: time.Now().UTC(),
		Hint: "something other than Hallmark, or another version of it, has written to the queue",
	}}
	if err := s.ledger.settleMalformed(ctx, o, m.Data()); err != nil {
		s.log.WarnContext(ctx, "cannot quarantine a message; it will come again", "subject", m.Subject(), "error", err)
		_ = d.Job.Release(malformedDelay) // if it is lost, the message comes back a little later
		return
	}
	if s.o.Malformed != nil {
		s.o.Malformed(m.Subject(), why)
	}
}

// job is a message's side of a delivery.
type job struct {
	m    jetstream.Msg
	hold *hold // nil: it does not lapse
}

func (j job) Extend() error {
	j.hold.renew()
	return j.m.InProgress()
}

// Ack does not wait for the server's answer: if it is lost the item comes again and is found to be done. A job whose hold has
// lapsed is not acknowledged: see hold.
func (j job) Ack() error {
	if !j.hold.held() {
		return nil
	}
	return j.m.Ack()
}

// ackAndWait acknowledges and waits until the server has taken note. The server takes notes in order, so that holds for
// every Ack before it too.
func (j job) ackAndWait(ctx context.Context) error {
	if !j.hold.held() {
		return nil
	}
	return j.m.DoubleAck(ctx)
}

// Release uses a delay in every case: a plain Nak is redelivered at once, to the same worker as likely as not.
func (j job) Release(delay time.Duration) error {
	return j.m.NakWithDelay(max(delay, 10*time.Millisecond))
}

// malformedJob ends for good with its reason, which the server tells in an advisory.
type malformedJob struct{ job }

func (j malformedJob) Ack() error { return j.m.TermWithReason(CauseMalformed) }

func (j malformedJob) ackAndWait(context.Context) error { return j.Ack() }

func (j malformedJob) Release(delay time.Duration) error {
	return j.job.Release(max(delay, malformedDelay))
}
