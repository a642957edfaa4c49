package queue

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/hallmark-attest/hallmark/pipeline"
)

// tally is a worker's tally that stands still.
type tally struct {
	inFlight int64
	stages   []pipeline.StageTally
}

func (t tally) InFlight() int64               { return t.inFlight }
func (t tally) Stages() []pipeline.StageTally { return t.stages }

func (i *instance) present(tb testing.TB, p Presence) (leave func()) {
	tb.Helper()
	leave, err := i.Present(p)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(leave)
	return leave
}

// another is a second connection to the instance's server: another process.
func (i *instance) another(tb testing.TB) *instance {
	tb.Helper()
	nc, err := i.server.Connect(ConnectOptions{Log: quiet})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(nc.Close)
	q, err := Open(tb.Context(), nc, Options{Log: quiet})
	if err != nil {
		tb.Fatal(err)
	}
	return &instance{q, i.server, nc}
}

func (i *instance) flush(tb testing.TB) {
	tb.Helper()
	if err := i.nc.Flush(); err != nil {
		tb.Fatal(err)
	}
}

// ask asks for the campaign's workers until as many answer as wanted.
func (i *instance) ask(tb testing.TB, campaign string, wait time.Duration) Answers {
	tb.Helper()
	a, err := i.Workers(tb.Context(), campaign, wait)
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

func TestWorkersAnswer(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	c := campaign("rebuild")
	began := time.Now()
	hashing, signing, rude := i.another(t), i.another(t), i.another(t)
	hashing.present(t, Presence{Worker: "b-1-x", Campaign: c, Segment: "hash", Tally: tally{3, []pipeline.StageTally{{Stage: "hash", Ready: 1, Running: 2}}}})
	signing.present(t, Presence{Worker: "a-2-y", Campaign: c, Segment: "sign", Tally: tally{250, []pipeline.StageTally{
		{Stage: "sign", Ready: 4, Running: 212, Retrying: 30, LastDone: began.Add(-time.Hour), Trouble: &pipeline.Trouble{
			Err:    &pipeline.Error{Cause: "upstream.unavailable", Err: errors.New("signing /srv/jo doe/pkgs/x-1-0.conda:\n Rekor answers 503 to https://u:secret@rekor.example/api?sig=abcdef\n\x1b[31mnow")},
			Source: "/srv/jo doe/pkgs/x-1-0.conda", At: began.Add(-time.Second), Since: began.Add(-time.Minute), NextTry: began.Add(time.Minute)}},
		{Stage: "upload", Running: 1},
	}}})
	// Another campaign's worker is not asked; one whose name would be a wildcard neither.
	i.present(t, Presence{Worker: "c-3-z", Campaign: campaign("other"), Segment: "hash", Tally: tally{0, []pipeline.StageTally{{Stage: "hash"}}}})

	rubbish := [][]byte{nil, []byte("hello"), []byte(`{}`), []byte(`{"schema":"hallmark.worker/1","campaign":"rebuild"}`), []byte(`[1,2]`),
		[]byte(`{"schema":"hallmark.worker/1","campaign":"rebuild","worker":"w","segment":"hash","stages":[{"name":"hash","running":-1}]}`),
		[]byte(`{"schema":"hallmark.worker/1","campaign":"other","worker":"w","segment":"hash","stages":[{"name":"hash"}]}`),
		append([]byte(`{"schema":"hallmark.worker/1","campaign":"rebuild","worker":"w","segment":"hash","stages":[{"name":"hash"}]}`), bytes.Repeat([]byte(" "), maxStatus)...),
		bytes.Repeat([]byte("["), maxStatus),
	}
	if _, err := rude.nc.Subscribe(statusSubject("rebuild"), func(m *nats.Msg) {
		for _, b := range rubbish {
			_ = m.Respond(b)
		}
	}); err != nil {
		t.Fatal(err)
	}
	for _, w := range []*instance{hashing, signing, rude, i} {
		w.flush(t)
	}

	got := i.ask(t, "rebuild", time.Second)
	took := time.Since(began)
	if got.Unread != len(rubbish) {
		t.Errorf("%d answers not read, want %d", got.Unread, len(rubbish))
	}
	want := []WorkerStatus{
		{ID: "b-1-x", Segment: "hash", InFlight: 3, Stages: []StageStatus{{Name: "hash", Ready: 1, Running: 2}}},
		{ID: "a-2-y", Segment: "sign", InFlight: 250, Stages: []StageStatus{
			{Name: "sign", Ready: 4, Running: 212, Retrying: 30, LastDone: began.Add(-time.Hour), Trouble: &Trouble{Cause: "upstream.unavailable",
				Message: "signing x-1-0.conda: Rekor answers 503 to https://rekor.example/api [31mnow",
				At:      began.Add(-time.Second), Since: began.Add(-time.Minute), NextTry: began.Add(time.Minute)}},
			{Name: "upload", Running: 1}}},
	}
	near := cmp.Comparer(func(x, y time.Time) bool { return x.IsZero() == y.IsZero() && x.Sub(y).Abs() <= took+time.Millisecond })
	if d := cmp.Diff(want, got.Workers, near); d != "" {
		t.Error(d)
	}
}

// Where nobody listens, the server says so, and nobody has to wait.
func TestNoWorkers(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	a, err := i.Workers(t.Context(), "rebuild", time.Hour)
	if err != nil || len(a.Workers) != 0 || a.Unread != 0 {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestWorkersLeave(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	p := Presence{Worker: WorkerID(), Campaign: campaign("rebuild"), Segment: "hash", Tally: tally{0, []pipeline.StageTally{{Stage: "hash"}}}}
	leave := i.present(t, p)
	if a := i.ask(t, "rebuild", 200*time.Millisecond); len(a.Workers) != 1 || a.Workers[0].ID != p.Worker {
		t.Errorf("%+v", a)
	}
	leave()
	leave()
	if a := i.ask(t, "rebuild", time.Hour); len(a.Workers) != 0 {
		t.Errorf("after it left: %+v", a)
	}
	// Also when the connection is gone.
	other := i.another(t)
	leave = other.present(t, p)
	other.nc.Close()
	leave()
}

// The tally is never read once leave has returned.
func TestLeaveWaitsForAnAnswer(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	var ended atomic.Bool
	slow := &slowTally{read: make(chan struct{}), ended: &ended}
	leave := i.present(t, Presence{Worker: "w", Campaign: campaign("rebuild"), Segment: "hash", Tally: slow})
	slow.armed.Store(true)
	if err := i.nc.PublishRequest(statusSubject("rebuild"), i.nc.NewInbox(), nil); err != nil {
		t.Fatal(err)
	}
	<-slow.read
	leave()
	if !ended.Load() {
		t.Error("leave returned while the tally was read")
	}
	// A message that the client had in its hands already: reading would close a closed channel.
	d := &desk{Presence: Presence{Campaign: campaign("rebuild"), Tally: slow}, log: quiet}
	d.close()
	d.hear(&nats.Msg{Reply: "r"})
}

type slowTally struct {
	armed atomic.Bool
	read  chan struct{}
	ended *atomic.Bool
}

func (*slowTally) InFlight() int64 { return 0 }
func (s *slowTally) Stages() []pipeline.StageTally {
	if s.armed.Load() {
		close(s.read)
		<-time.After(20 * time.Millisecond) // gives a leave that does not wait the time to be wrong
		s.ended.Store(true)
	}
	return []pipeline.StageTally{{Stage: "hash"}}
}

// Somebody listens and says nothing: that is not "no workers".
func TestSilentWorkers(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	if _, err := i.nc.Subscribe(statusSubject("rebuild"), func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	if _, err := i.Workers(t.Context(), "rebuild", 30*time.Millisecond); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := i.Workers(ctx, "rebuild", time.Hour); !errors.Is(err, context.Canceled) || errors.Is(err, ErrNoAnswer) {
		t.Errorf("%v", err)
	}
}

// The permissions that docs/operating.md names are enough, and without them it is not taken for "no workers".
func TestPresencePermissions(t *testing.T) {
	t.Parallel()
	user := func(name string, p server.Permissions) *server.User {
		return &server.User{Username: name, Password: name, Permissions: &p}
	}
	allow := func(subjects ...string) *server.SubjectPermission { return &server.SubjectPermission{Allow: subjects} }
	none := &server.SubjectPermission{Deny: []string{">"}}
	s, err := server.NewServer(&server.Options{DontListen: true, NoSigs: true, Users: []*server.User{
		user("worker", server.Permissions{Publish: none, Subscribe: allow("hallmark.v1.status.*"), Response: &server.ResponsePermission{MaxMsgs: 1, Expires: time.Minute}}),
		user("operator", server.Permissions{Publish: allow("hallmark.v1.status.*"), Subscribe: allow("_INBOX.>")}),
		user("stranger", server.Permissions{Publish: none, Subscribe: allow("_INBOX.>")}),
	}})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not start")
	}
	as := func(name string) *instance {
		nc, err := nats.Connect("", nats.InProcessServer(s), nats.UserInfo(name, name), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return &instance{Queue: &Queue{nc: nc, log: quiet}, nc: nc}
	}
	worker, operator, stranger := as("worker"), as("operator"), as("stranger")
	worker.present(t, Presence{Worker: "w", Campaign: campaign("rebuild"), Segment: "hash", Tally: tally{0, []pipeline.StageTally{{Stage: "hash"}}}})
	worker.flush(t)
	if a := operator.ask(t, "rebuild", 200*time.Millisecond); len(a.Workers) != 1 {
		t.Errorf("the operator gets %+v", a)
	}
	if _, err := stranger.Workers(t.Context(), "rebuild", 100*time.Millisecond); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("the stranger gets %v", err)
	}
}

// A worker that answers more than once counts once.
func TestWorkersCountOnce(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	p := Presence{Worker: "w", Campaign: campaign("rebuild"), Segment: "hash", Tally: tally{0, []pipeline.StageTally{{Stage: "hash", Running: 1}}}}
	i.present(t, p)
	i.present(t, p)
	p.Segment = "sign"
	i.present(t, p)
	if a := i.ask(t, "rebuild", 200*time.Millisecond); len(a.Workers) != 2 || a.Unread != 1 {
		t.Errorf("%+v", a)
	}
}

func TestPresenceIsChecked(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	good := Presence{Worker: "w", Campaign: campaign("rebuild"), Segment: "hash", Tally: tally{0, []pipeline.StageTally{{Stage: "hash"}}}}
	for name, change := range map[string]func(*Presence){
		"worker":      func(p *Presence) { p.Worker = "two words" },
		"segment":     func(p *Presence) { p.Segment = "a.b" },
		"no stages":   func(p *Presence) { p.Tally = tally{} },
		"many stages": func(p *Presence) { p.Tally = tally{0, make([]pipeline.StageTally, maxStages+1)} },
	} {
		p := good
		change(&p)
		if _, err := i.Present(p); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if id := WorkerID(); !workerID.MatchString(id) || id == WorkerID() {
		t.Errorf("worker id %q", id)
	}
}

// The largest answer that a worker can give is one that is read.
func TestLargestAnswer(t *testing.T) {
	t.Parallel()
	var stages []pipeline.StageTally
	now := time.Now()
	for n := range maxStages {
		stages = append(stages, pipeline.StageTally{Stage: fmt.Sprintf("s%063d", n), Ready: maxCount, Running: maxCount, Retrying: maxCount, LastDone: now.Add(-90 * 365 * 24 * time.Hour),
			Trouble: &pipeline.Trouble{Err: &pipeline.Error{Cause: strings.Repeat("<", maxCause), Err: errors.New(strings.Repeat("<", 10*maxMessage))},
				At: now.Add(-time.Hour), Since: now.Add(-90 * 365 * 24 * time.Hour), NextTry: now.Add(90 * 365 * 24 * time.Hour)}})
	}
	p := Presence{Worker: strings.Repeat("w", 250), Campaign: campaign(strings.Repeat("c", 64)), Segment: strings.Repeat("s", 64), Tally: tally{maxCount, stages}}
	data, err := json.Marshal(p.answer(now))
	if err != nil {
		t.Fatal(err)
	}
	w, err := readAnswer(data, p.Campaign.Name, now)
	if err != nil || len(w.Stages) != maxStages {
		t.Fatalf("%d bytes: %v", len(data), err)
	}
	if m := w.Stages[0].Trouble.Message; len(m) > maxMessage || !strings.HasSuffix(m, "<…") {
		t.Errorf("message %q", m)
	}
	// One character more is too much.
	for what, change := range map[string]func(*answer){
		"version":  func(a *answer) { a.Schema = "hallmark.worker/2" },
		"worker":   func(a *answer) { a.Worker += "w" },
		"segment":  func(a *answer) { a.Segment += "s" },
		"inFlight": func(a *answer) { a.InFlight++ },
		"stages":   func(a *answer) { a.Stages = append(a.Stages, a.Stages[0]) },
		"none":     func(a *answer) { a.Stages = nil },
		"name":     func(a *answer) { a.Stages[3].Name += "s" },
		"ready":    func(a *answer) { a.Stages[3].Ready++ },
		"running":  func(a *answer) { a.Stages[3].Running++ },
		"retrying": func(a *answer) { a.Stages[3].Retrying = -1 },
		"cause":    func(a *answer) { a.Stages[3].Trouble.Cause += "<" },
		"escape":   func(a *answer) { a.Stages[3].Trouble.Cause = "\x1b[2J" },
		"doneAgo":  func(a *answer) { *a.Stages[3].DoneAgo = maxMillis + 1 },
		"ago":      func(a *answer) { a.Stages[3].Trouble.Ago = -1 },
		"retryIn":  func(a *answer) { *a.Stages[3].Trouble.RetryIn = 1 << 62 },
	} {
		a := p.answer(now)
		change(&a)
		if w, err := a.status(now); err == nil {
			t.Errorf("%s: taken as %+v", what, w)
		}
	}
}

func TestOneLine(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ü", maxMessage)
	for in, want := range map[string]string{
		"":                        "",
		"  a \n\tb\r\x00c\u202e ": "a b c",
		"a\xffb":                  "a b",
		long:                      strings.Repeat("ü", (maxMessage-3)/2) + "…",
	} {
		if got := oneLine(in); got != want || len(got) > maxMessage {
			t.Errorf("oneLine(%.20q) = %q", in, got)
		}
	}
}

func FuzzReadAnswer(f *testing.F) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	p := Presence{Worker: "w", Campaign: campaign("rebuild"), Segment: "hash", Tally: tally{1, []pipeline.StageTally{{Stage: "hash", Running: 1, LastDone: now,
		Trouble: &pipeline.Trouble{Err: &pipeline.Error{Cause: "x", Err: errors.New("y")}, At: now, Since: now, NextTry: now}}}}}
	seed, err := json.Marshal(p.answer(now))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte(`{"schema":"hallmark.worker/1","campaign":"rebuild","worker":"w","segment":"hash","stages":[{"name":"hash","doneAgo":9e99}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		w, err := readAnswer(data, "rebuild", now)
		if err != nil {
			if !reflect.DeepEqual(w, WorkerStatus{}) {
				t.Errorf("an error and %+v", w)
			}
			return
		}
		out, err := json.Marshal(w) // what status prints
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range w.Stages {
			if s.Trouble != nil && (len(s.Trouble.Message) > maxMessage || !utf8.ValidString(s.Trouble.Message)) {
				t.Errorf("message %q", s.Trouble.Message)
			}
		}
		if bytes.ContainsRune(out, '\x1b') {
			t.Errorf("%q", out)
		}
	})
}
