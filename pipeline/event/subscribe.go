package event

import (
	"context"
	"errors"
	"iter"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Stream is the JetStream stream that holds the events.
const Stream = "EVENTS"

// Filter says which events a subscriber wants; the server does the filtering. The zero value is all events, from the
// oldest that the stream holds, and then those to come.
type Filter struct {
	// Campaign, Channel (host and path, as in the subject), Subdir and Name each select one value; "" is any.
	Campaign, Channel, Subdir, Name string
	// Events selects kinds of events (Signed, Published, …); none is all.
	Events []string
	// FromSequence starts at this place in the stream: a subscriber resumes with the last Event.Sequence it has dealt with,
	// plus one.
	FromSequence uint64
	// Since starts at what was stored from this time on. It is ignored where FromSequence is set.
	Since time.Time
	// New starts with what is stored after Subscribe began. It is ignored where FromSequence or Since is set.
	New bool
	// ReplayOnly ends after what the stream held when Subscribe began.
	ReplayOnly bool
}

func (f Filter) onlyNew() bool { return f.New && f.FromSequence == 0 && f.Since.IsZero() }

// subjects returns the filter as NATS subjects that do not overlap.
func (f Filter) subjects() []string {
	token := func(s string) string {
		if s == "" {
			return "*"
		}
		return escape(s)
	}
	tail := "." + token(f.Campaign) + "." + token(f.Channel) + "." + token(f.Subdir) + "." + token(f.Name) + ".*"
	if len(f.Events) == 0 {
		return []string{Prefix + ".*" + tail}
	}
	var out []string
	for _, e := range f.Events {
		out = append(out, Prefix+"."+token(e)+tail)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Subscribe replays the events that match and then follows the stream. Events come in the stream's order, none is
// missed and none comes twice within one call, also across lost connections and server restarts. (The same event may be
// in the stream twice, reported by two campaigns; its ID is the same.)
//
// It leaves nothing behind on the server but a consumer in memory, which goes when the iteration ends.
//
// The iteration ends when ctx ends or the caller breaks off. A message that is no event yields a nil Event and a
// *MalformedError, and the iteration goes on; every other error is the last thing it yields: the stream does not exist, the
// filter is refused, the first answer does not come (a server that denies permission does not answer), the connection was
// closed for good. Between events, an outage is waited out.
func Subscribe(ctx context.Context, js jetstream.JetStream, f Filter) iter.Seq2[*Event, error] {
	return func(yield func(*Event, error) bool) {
		s := subscription{js: js, filter: f, yield: yield}
		for failures := 0; ; failures++ {
			before := s.seen
			again, err := s.follow(ctx)
			switch {
			case ctx.Err() != nil || !again && err == nil:
				return
			case err != nil && (!s.began || final(err)):
				yield(nil, err)
				return
			}
			if s.seen != before {
				failures = 0
			}
			if failures == 0 {
				continue
			}
			t := time.NewTimer(min(50*time.Millisecond<<min(failures, 10), 5*time.Second))
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return
			}
		}
	}
}

// subscription is the state of one iteration.
type subscription struct {
	js     jetstream.JetStream
	filter Filter
	yield  func(*Event, error) bool

	began bool   // the server has accepted the filter once
	last  uint64 // stream sequence of the last message seen
	seen  uint64 // messages seen
	total uint64 // messages to see, for ReplayOnly
}

// errReset says that the consumer must be made anew, after the last message seen.
var errReset = errors.New("the consumer has lost its place")

// follow iterates over one consumer of the server. It returns true if the iteration can go on with another.
func (s *subscription) follow(ctx context.Context) (again bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	// Nothing is acknowledged, so what was on the way when a connection broke is gone, and a reconnection starts over.
	if nc := s.js.Conn(); nc != nil {
		status := nc.StatusChanged(nats.RECONNECTING, nats.CLOSED)
		defer nc.RemoveStatusListener(status)
		done := make(chan struct{})
		go func() {
			defer close(done)
			select {
			case <-status:
				cancel(errReset)
			case <-ctx.Done():
			}
		}()
		defer func() { cancel(nil); <-done }()
		if nc.IsClosed() {
			return false, nats.ErrConnectionClosed
		}
	}

	create, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	cons, err := s.js.CreateConsumer(create, Stream, s.config())
	if err != nil {
		return true, err
	}
	info := cons.CachedInfo()
	defer func() {
		bye, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer stop()
		if nc := s.js.Conn(); nc == nil || nc.IsConnected() {
			_ = s.js.DeleteConsumer(bye, Stream, info.Name) // otherwise the server removes it when it has been idle
		}
	}()
	if !s.began {
		s.began, s.total = true, info.NumPending
		if s.filter.onlyNew() {
			s.last = info.Delivered.Stream // a consumer made after an outage must not take "new" anew
		}
	}
	if s.filter.ReplayOnly && info.NumPending == 0 {
		return false, nil
	}
	it, err := cons.Messages(jetstream.PullMaxMessages(256), jetstream.PullExpiry(5*time.Second),
		jetstream.PullHeartbeat(time.Second), jetstream.WithMessagesErrOnMissingHeartbeat(true))
	if err != nil {
		return true, err
	}
	defer it.Stop()

	for delivered := uint64(1); ; delivered++ {
		msg, err := it.Next(jetstream.NextContext(ctx))
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return true, err
		}
		md, err := msg.Metadata()
		if err != nil {
			return true, err
		}
		if md.Sequence.Consumer != delivered {
			return true, errReset
		}
		s.last = md.Sequence.Stream
		s.seen++
		ev, err := Decode(msg.Subject(), msg.Headers(), msg.Data())
		if err != nil {
			err = &MalformedError{Sequence: md.Sequence.Stream, Stored: md.Timestamp.UTC(), Subject: msg.Subject(), Err: err}
		} else {
			ev.Sequence, ev.Stored = md.Sequence.Stream, md.Timestamp.UTC()
		}
		if !s.yield(ev, err) {
			return false, nil
		}
		if s.filter.ReplayOnly && (md.NumPending == 0 || s.seen >= s.total) {
			return false, nil
		}
	}
}

// config is an ordered consumer's: in memory, nothing acknowledged, placed after the last message seen.
func (s *subscription) config() jetstream.ConsumerConfig {
	cfg := jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckNonePolicy, MaxDeliver: 1, MemoryStorage: true, Replicas: 1, InactiveThreshold: time.Minute,
		DeliverPolicy: jetstream.DeliverAllPolicy,
	}
	// One subject goes into the request's own subject, where a server's permissions can see it.
	if subjects := s.filter.subjects(); len(subjects) == 1 {
		cfg.FilterSubject = subjects[0]
	} else {
		cfg.FilterSubjects = subjects
	}
	switch {
	case s.last > 0:
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, s.last+1
	case s.filter.FromSequence > 0:
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, s.filter.FromSequence
	case !s.filter.Since.IsZero():
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &s.filter.Since
	case s.filter.New && !s.began:
		cfg.DeliverPolicy = jetstream.DeliverNewPolicy
	}
	return cfg
}

// final reports whether waiting cannot help.
func final(err error) bool {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		return api.Code >= 400 && api.Code < 500 && !errors.Is(err, jetstream.ErrConsumerNotFound)
	}
	return errors.Is(err, nats.ErrConnectionClosed)
}
