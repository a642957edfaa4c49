package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/pipeline/event"
	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// crashed is a job whose worker dies after the outcome is recorded and before the acknowledgement leaves it.
type crashed struct{ pipeline.Job }

func (crashed) Ack() error                  { return nil }
func (crashed) Release(time.Duration) error { return nil }

func settle(t *testing.T, l pipeline.Ledger, os ...pipeline.Outcome) {
	t.Helper()
	if err := l.Settle(t.Context(), os); err != nil {
		t.Fatal(err)
	}
}

// An item may end differently the second time, after a crash between its outcome and its acknowledgement. Whatever the two
// ends are, it counts once.
func TestSecondOutcomeDoesNotCount(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{}) // one for all: campaigns do not see each other
	type want struct{ published, skipped, aborted, failed uint64 }
	const p, s, f, a = pipeline.OutcomePublished, pipeline.OutcomeSkipped, pipeline.OutcomeFailed, OutcomeAborted
	for _, tc := range []struct {
		first, second pipeline.OutcomeKind
		want          want
	}{
		{p, p, want{published: 1}},
		{p, s, want{published: 1}},
		{p, f, want{published: 1}},
		{p, a, want{published: 1}},
		{s, p, want{skipped: 1}},
		{s, s, want{skipped: 1}},
		{s, f, want{skipped: 1}},
		{s, a, want{skipped: 1}},
		{f, f, want{failed: 1}},
		{f, p, want{published: 1}}, // it leaves quarantine
		{f, s, want{skipped: 1}},
		{f, a, want{aborted: 1}},
		{a, f, want{aborted: 1}},
		{a, a, want{aborted: 1}},
		{a, p, want{aborted: 1}},
		{a, s, want{aborted: 1}},
	} {
		// Of the two ends, each may come before the package's name and subdir, which are in the events' subjects, are known.
		for mask := range 4 {
			if tc.first == p && mask&1 != 0 || tc.second == p && mask&2 != 0 {
				continue // who publishes knows
			}
			i, c, n := i, campaign(fmt.Sprintf("%s-%s-%d", tc.first, tc.second, mask)), mask
			t.Run(c.Name, func(t *testing.T) {
				t.Parallel()
				i.create(t, c)
				i.enqueue(t, c, items(3), EnqueueResult{Queued: 3})
				src := i.source(t, c, "hash", SourceOptions{AckWait: 500 * time.Millisecond})
				l := i.Ledger(c, encoder{})
				ds := take(t, src, 3)
				one := outcome(ds[0], tc.first)
				one.Delivery.Job = crashed{ds[0].Job}
				if n&1 != 0 {
					one = early(one)
				}
				settle(t, l, one, outcome(ds[1], p), outcome(ds[2], s))
				again := take(t, src, 1)[0]
				if again.Item.ID != ds[0].Item.ID || again.Attempt != 2 {
					t.Fatalf("%s came, attempt %d", again.Item.ID, again.Attempt)
				}
				two := outcome(again, tc.second)
				if n&2 != 0 {
					two = early(two)
				}
				settle(t, l, two)
				cs := i.quietCounts(t, c, oneSegment, func(n Counts) bool { return n.Waiting() == 0 })
				got := want{cs.Published - 1, cs.Skipped - 1, cs.Aborted, cs.Failed}
				if got != tc.want {
					t.Errorf("counts %+v, want %+v", got, tc.want)
				}
			})
		}
	}
}

// The first time its job has gone on to the next segment; then the worker dies. The second time the file is gone.
func TestItemThatHasCrossedIsNotSetAside(t *testing.T) {
	t.Parallel()
	segments := []string{"hash", "sign"}
	for _, second := range []pipeline.OutcomeKind{pipeline.OutcomeFailed, pipeline.OutcomeSkipped, OutcomeAborted, pipeline.OutcomeCrossed} {
		i := open(t, t.TempDir(), Options{})
		c := campaign("crossed")
		i.create(t, c)
		i.enqueue(t, c, items(1), EnqueueResult{Queued: 1})
		src := i.source(t, c, "hash", SourceOptions{AckWait: 300 * time.Millisecond})
		l := i.Ledger(c, encoder{})
		d := take(t, src, 1)[0]
		o := outcome(d, pipeline.OutcomeCrossed)
		o.Next = "sign"
		o.Delivery.Job = crashed{d.Job}
		settle(t, l, o)
		o = outcome(take(t, src, 1)[0], second)
		o.Next = "sign"
		settle(t, l, o)
		n := i.quietCounts(t, c, segments, func(n Counts) bool { return n.Waiting() == 1 })
		if n.Done() != 0 || n.Segments[1].Pending != 1 {
			t.Errorf("%s: counts %+v", second, n)
		}
	}
}

func TestCrossing(t *testing.T) {
	t.Parallel()
	segments := []string{"hash", "sign", "upload"}
	i := open(t, t.TempDir(), Options{})
	c := campaign("cut")
	i.create(t, c)
	i.enqueue(t, c, items(40), EnqueueResult{Queued: 40})
	l := i.Ledger(c, encoder{})
	balanced := func(pending ...uint64) {
		t.Helper()
		i.quietCounts(t, c, segments, func(n Counts) bool {
			return n.Segments[0].Pending+n.Segments[0].InFlight == pending[0] &&
				n.Segments[1].Pending+n.Segments[1].InFlight == pending[1] && n.Segments[2].Pending+n.Segments[2].InFlight == pending[2]
		})
	}
	balanced(40, 0, 0)
	move := func(from, to string, n int, ev ...string) {
		t.Helper()
		var os []pipeline.Outcome
		for _, d := range take(t, i.source(t, c, from, SourceOptions{}), n) {
			d.Item.Package.SHA256 += "+" + from
			o := outcome(d, pipeline.OutcomeCrossed)
			o.Next, o.Events = to, ev
			os = append(os, o)
		}
		settle(t, l, os...)
	}
	move("hash", "sign", 30)
	balanced(10, 30, 0)
	move("sign", "upload", 20, "signed")
	balanced(10, 10, 20)
	if n, _ := i.count(t.Context(), StreamEvents, eventFilter("signed", c.Name)); n != 20 {
		t.Errorf("%d signed events", n)
	}
	var os []pipeline.Outcome
	for k, d := range take(t, i.source(t, c, "upload", SourceOptions{}), 20) {
		if d.Item.Package.SHA256 != "+hash+sign" {
			t.Errorf("the item lost what the stages found: %+v", d.Item)
		}
		os = append(os, outcome(d, []pipeline.OutcomeKind{"published", "failed"}[k%2]))
	}
	settle(t, l, os...)
	balanced(10, 10, 0)

	// A failed item starts over and goes through every cut again.
	for e, err := range i.Quarantined(t.Context(), c.Name) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Failure.Cause != "test.failed" || e.Item.Package.SHA256 != "+hash+sign" {
			t.Errorf("entry %+v", e)
		}
		if err := i.Requeue(t.Context(), c, "hash", e); err != nil {
			t.Fatal(err)
		}
	}
	balanced(20, 10, 0)
	move("hash", "sign", 20)
	move("sign", "upload", 30, "signed")
	balanced(0, 0, 30)
	os = nil
	for _, d := range take(t, i.source(t, c, "upload", SourceOptions{}), 30) {
		os = append(os, outcome(d, pipeline.OutcomePublished))
	}
	settle(t, l, os...)
	n := i.quietCounts(t, c, segments, func(n Counts) bool { return n.Waiting() == 0 })
	if n.Published != 40 || n.Failed != 0 || n.Enqueued != 40 {
		t.Errorf("counts %+v", n)
	}
}

func TestUnrecordedOutcomesAreListed(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	c := campaign("unrecorded")
	i.create(t, c)
	its := items(6)
	its[1].Filename = "unencodable.conda"
	i.enqueue(t, c, its, EnqueueResult{Queued: 6})
	ds := take(t, i.source(t, c, "hash", SourceOptions{}), 6)
	var os []pipeline.Outcome
	for _, d := range ds {
		os = append(os, outcome(d, pipeline.OutcomePublished))
	}
	os[2].Kind = "nonsense"
	os[3].Kind, os[3].Failure = pipeline.OutcomeFailed, nil
	os[4].Kind, os[4].Next = pipeline.OutcomeCrossed, "not a segment"
	err := i.Ledger(c, encoder{}).Settle(t.Context(), os)
	if err == nil || !strings.Contains(err.Error(), "4 of 6") {
		t.Errorf("got %v", err)
	}
	unsettled, ok := errors.AsType[*pipeline.UnsettledError](err)
	if !ok {
		t.Fatalf("got %T", err)
	}
	ids := func(os []pipeline.Outcome) (out []string) {
		for _, o := range os {
			out = append(out, o.Delivery.Item.ID)
		}
		return out
	}
	if d := cmp.Diff([]string{ds[1].Item.ID, ds[2].Item.ID, ds[3].Item.ID, ds[4].Item.ID}, ids(refusals(unsettled.Refused))); d != "" || len(unsettled.Outcomes) != 0 {
		t.Error(d, unsettled.Outcomes)
	}
	i.quietCounts(t, c, oneSegment, func(n Counts) bool { return n.Published == 2 && n.Waiting() == 4 })

	// Nothing is recorded once the context has ended.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = i.Ledger(c, encoder{}).Settle(ctx, os[:1])
	if unsettled, ok = errors.AsType[*pipeline.UnsettledError](err); !ok || !errors.Is(err, context.Canceled) || len(unsettled.Outcomes) != 1 {
		t.Errorf("got %v", err)
	}

	// What cannot be told in an event can be set aside all the same.
	os[1].Kind, os[1].Failure = pipeline.OutcomeFailed, &pipeline.Failure{Stage: "ledger", Cause: pipeline.CauseRefused, Message: "m"}
	if err := i.Ledger(c, encoder{}).Settle(t.Context(), os[1:2]); err != nil {
		t.Error(err)
	}
	i.quietCounts(t, c, oneSegment, func(n Counts) bool { return n.Published == 2 && n.Failed == 1 && n.Waiting() == 3 })
}

func TestLedgerNeedsTheOutcomesEvent(t *testing.T) {
	t.Parallel()
	l := &ledger{c: campaign("c"), enc: fixed{}}
	e := l.prepare(pipeline.Outcome{Kind: pipeline.OutcomePublished, Delivery: pipeline.Delivery{Item: &pipeline.Item{ID: "x"}}})
	if e.err == nil {
		t.Error("an item could be acknowledged without a published event")
	}
	l.enc = fixed{{Subject: "elsewhere.x", ID: "x"}}
	if e := l.prepare(e.o); e.err == nil {
		t.Error("an event outside the stream is taken")
	}
}

type fixed []event.Message

func (f fixed) Encode(*pipeline.Campaign, pipeline.Outcome) ([]event.Message, error) { return f, nil }

func TestAbort(t *testing.T) {
	t.Parallel()
	segments := []string{"hash", "sign"}
	i := open(t, t.TempDir(), Options{})
	c := campaign("abort")
	i.create(t, c)
	i.enqueue(t, c, items(700), EnqueueResult{Queued: 700})
	l := i.Ledger(c, encoder{})
	var os []pipeline.Outcome
	for k, d := range take(t, i.source(t, c, "hash", SourceOptions{}), 20) {
		o := outcome(d, []pipeline.OutcomeKind{"skipped", "crossed"}[k%2])
		o.Next = "sign"
		os = append(os, o)
	}
	settle(t, l, os...)
	n, err := i.Abort(t.Context(), c, segments, encoder{})
	if err != nil || n != 690 {
		t.Errorf("aborted %d, %v", n, err)
	}
	got := i.quietCounts(t, c, segments, func(n Counts) bool { return n.Waiting() == 0 })
	if got.Aborted != 690 || got.Skipped != 10 {
		t.Errorf("counts %+v", got)
	}
	if err := i.Campaigns().Close(t.Context(), c.Name); err != nil {
		t.Error(err)
	}
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	msg := func(subject, id, expect string) *nats.Msg {
		m := nats.NewMsg(subject)
		if id != "" {
			m.Header.Set("Nats-Msg-Id", id)
		}
		if expect != "" {
			m.Header.Set("Nats-Expected-Last-Subject-Sequence", "0")
			m.Header.Set(headerExpectSubject, expect)
		}
		return m
	}
	for _, step := range []struct {
		msgs []*nats.Msg
		want []error
	}{
		{[]*nats.Msg{msg("attest.v1.a", "1", ""), msg("attest.v1.b", "2", "")}, []error{nil, nil}},
		// by id, by subject, by the rival's subject, and one that is new
		{[]*nats.Msg{msg("attest.v1.a", "1", ""), msg("attest.v1.b", "3", ""), msg("attest.v1.c", "4", "attest.v1.a"), msg("attest.v1.d", "5", "attest.v1.c")},
			[]error{errAlready, errAlready, errOverruled, nil}},
		{[]*nats.Msg{msg("attest.v1.a", "", "")}, []error{errAlready}},
	} {
		got := i.publish(t.Context(), step.msgs)
		if d := cmp.Diff(step.want, got, cmp.Comparer(func(a, b error) bool { return a == b })); d != "" {
			t.Error(d)
		}
	}
}

// The guards rest on the form of the real encoder's subjects.
func TestWithTheRealEncoder(t *testing.T) {
	t.Parallel()
	var enc Encoder = &event.Encoder{Source: "https://hallmark.example/worker"}
	i := open(t, t.TempDir(), Options{})
	c := campaign("real")
	i.create(t, c)
	i.enqueue(t, c, items(1), EnqueueResult{Queued: 1})
	src := i.source(t, c, "hash", SourceOptions{AckWait: 300 * time.Millisecond})
	l := i.Ledger(c, enc)
	d := take(t, src, 1)[0]
	o := outcome(d, pipeline.OutcomeSkipped)
	o.Delivery.Job = crashed{d.Job}
	settle(t, l, o)
	d = take(t, src, 1)[0]
	o = early(outcome(d, pipeline.OutcomeFailed))
	o.Delivery.Job = crashed{d.Job}
	settle(t, l, o)
	settle(t, l, early(outcome(take(t, src, 1)[0], pipeline.OutcomeSkipped)))
	n := i.quietCounts(t, c, oneSegment, func(n Counts) bool { return n.Waiting() == 0 })
	if n.Skipped != 1 || n.Failed != 0 {
		t.Errorf("counts %+v", n)
	}
	if m, ok := strings.CutSuffix(unknownFilter("skipped", c.Name), "*"); !ok || m != strings.Replace(event.Subject("skipped", c.Name, "*", "", "", ""), "%2A", "*", 1)[:len(m)] {
		t.Errorf("unknown tokens are written otherwise: %s", m)
	}
}

// Not parallel: it sets the process's tracer.
func TestEveryItemHasATraceOfItsOwn(t *testing.T) {
	rec := tracetest.NewSpanRecorder()
	tp := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(rec))
	oldTP, oldP := otel.GetTracerProvider(), otel.GetTextMapPropagator()
	otel.SetTracerProvider(tp)
	otel.SetTextMapPropagator(propagation.TraceContext{})
	defer func() {
		otel.SetTracerProvider(oldTP)
		otel.SetTextMapPropagator(oldP)
	}()
	i := open(t, t.TempDir(), Options{})
	c := campaign("traced")
	i.create(t, c)
	ctx, submit := tp.Tracer("test").Start(t.Context(), "submit")
	if _, err := i.Enqueue(ctx, c, "hash", Items(items(2)...)); err != nil {
		t.Fatal(err)
	}
	submit.End()
	sent := map[trace.TraceID]bool{}
	for _, s := range rec.Ended() {
		if s.Name() != "send JOBS" {
			continue
		}
		if s.Parent().IsValid() || len(s.Links()) != 1 || s.Links()[0].SpanContext.TraceID() != submit.SpanContext().TraceID() {
			t.Errorf("span %+v is no root with a link to its submitter", s)
		}
		sent[s.SpanContext().TraceID()] = true
	}
	if len(sent) != 2 {
		t.Errorf("%d traces", len(sent))
	}
	var os []pipeline.Outcome
	for _, d := range take(t, i.source(t, c, "hash", SourceOptions{}), 2) {
		o := outcome(d, pipeline.OutcomeCrossed)
		o.Next = "sign"
		os = append(os, o)
	}
	settle(t, i.Ledger(c, encoder{}), os...)
	for _, d := range take(t, i.source(t, c, "sign", SourceOptions{}), 2) {
		if !sent[trace.SpanContextFromContext(d.Context).TraceID()] {
			t.Error("the trace does not cross with the item")
		}
	}
	m, err := i.js.Stream(t.Context(), StreamJobs)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := m.GetMsg(t.Context(), 1)
	if err != nil || len(raw.Header["traceparent"]) != 1 {
		t.Errorf("headers %v, %v", raw.Header, err)
	}
}

func refusals(rs []pipeline.Refusal) []pipeline.Outcome {
	out := make([]pipeline.Outcome, len(rs))
	for i, r := range rs {
		out[i] = r.Outcome
	}
	return out
}
