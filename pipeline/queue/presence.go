package queue

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/pipeline/event"
)

// statusSchema is the version of what a worker answers. Within it fields are only added.
const statusSchema = "hallmark.worker/1"

// Bounds of an answer. With these, the largest one that a worker can give is below maxStatus.
const (
	maxStatus  = 64 << 10 // bytes
	maxStages  = 12
	maxMessage = 512 // bytes, of an error's text
	maxCause   = 200 // bytes
	maxCount   = 1 << 40
	maxMillis  = 100 * 365 * 24 * int64(time.Hour/time.Millisecond)
)

// statusSubject is where the workers of a campaign are asked how they get on.
func statusSubject(campaign string) string { return "hallmark.v1.status." + Token(campaign) }

// Tally is what a worker's runner counts: a *pipeline.Tally.
type Tally interface {
	InFlight() int64
	Stages() []pipeline.StageTally
}

// Presence is a worker's work on one segment of one campaign, for whoever asks (see Workers).
type Presence struct {
	// Worker is the process's id: see WorkerID.
	Worker   string
	Campaign *pipeline.Campaign
	Segment  string
	Tally    Tally
}

// WorkerID returns a new id for a worker: host name, process id and a few random characters.
func WorkerID() string {
	host, err := os.Hostname()
	if err != nil || !workerID.MatchString(host) {
		host = "unknown"
	}
	return fmt.Sprintf("%.200s-%d-%s", host, os.Getpid(), strings.ToLower(rand.Text()[:6]))
}

var (
	workerID  = regexp.MustCompile(`^[!-~]{1,250}$`)
	causeCode = regexp.MustCompile(`^[!-~]{0,200}$`)
)

// Present lets the worker answer whoever asks for the campaign's workers, until leave is called; after leave has
// returned, nothing is answered and the tally not read any more. Nothing is sent unless somebody asks, and nothing is
// stored. It needs permission to subscribe to hallmark.v1.status.<campaign> and to answer to inboxes. That the server
// denies it is heard of by the connection's error handler only.
func (q *Queue) Present(p Presence) (leave func(), err error) {
	if !workerID.MatchString(p.Worker) {
		return nil, fmt.Errorf("presence: worker id %q: want 1 to 250 printable ASCII characters without blanks", p.Worker)
	}
	if err := checkSegment(p.Segment); err != nil {
		return nil, fmt.Errorf("presence: %w", err)
	}
	if n := len(p.Tally.Stages()); n == 0 || n > maxStages {
		return nil, fmt.Errorf("presence: %d stages, want 1 to %d", n, maxStages)
	}
	d := &desk{Presence: p, log: q.log}
	sub, err := q.nc.Subscribe(statusSubject(p.Campaign.Name), d.hear)
	if err == nil {
		err = sub.SetPendingLimits(256, 1<<20)
	}
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", statusSubject(p.Campaign.Name), err)
	}
	return func() {
		_ = sub.Unsubscribe() // it fails only where the connection is closed, and the subscription with it
		d.close()
	}, nil
}

// desk answers for a presence until it is closed. The client may still be about to hand it a message then.
type desk struct {
	Presence
	log    *slog.Logger
	mu     sync.Mutex
	closed bool
}

func (d *desk) hear(m *nats.Msg) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || m.Reply == "" {
		return
	}
	data, err := json.Marshal(d.answer(time.Now()))
	if err == nil {
		err = m.Respond(data)
	}
	if err != nil {
		d.log.Debug("answering how this worker gets on", "error", err)
	}
}

func (d *desk) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
}

// answer is a worker's status on the wire. Times are milliseconds before or after the answer, so that clocks that differ
// do not matter.
type answer struct {
	Schema   string        `json:"schema"`
	Campaign string        `json:"campaign"`
	Worker   string        `json:"worker"`
	Segment  string        `json:"segment"`
	InFlight int64         `json:"inFlight"`
	Stages   []answerStage `json:"stages"`
}

type answerStage struct {
	Name     string         `json:"name"`
	Ready    int64          `json:"ready"`
	Running  int64          `json:"running"`
	Retrying int64          `json:"retrying"`
	DoneAgo  *int64         `json:"doneAgo,omitempty"`
	Trouble  *answerTrouble `json:"trouble,omitempty"`
}

type answerTrouble struct {
	Cause   string `json:"cause"`
	Message string `json:"message"`
	Ago     int64  `json:"ago"`
	Lasts   *int64 `json:"lasts,omitempty"`
	RetryIn *int64 `json:"retryIn,omitempty"`
	Paused  bool   `json:"paused,omitempty"`
}

func (p *Presence) answer(now time.Time) answer {
	a := answer{Schema: statusSchema, Campaign: p.Campaign.Name, Worker: p.Worker, Segment: p.Segment, InFlight: p.Tally.InFlight()}
	since := func(t time.Time) *int64 {
		if t.IsZero() {
			return nil
		}
		ms := max(now.Sub(t).Milliseconds(), 0)
		return &ms
	}
	for _, s := range p.Tally.Stages() {
		as := answerStage{Name: s.Stage, Ready: max(s.Ready, 0), Running: max(s.Running, 0), Retrying: s.Retrying, DoneAgo: since(s.LastDone)}
		if t := s.Trouble; t != nil {
			text := event.Clean(t.Err.Error(), t.Source, filepath.Dir(t.Source), p.Campaign.To)
			as.Trouble = &answerTrouble{Cause: t.Err.Cause, Message: oneLine(text), Ago: *since(t.At), Lasts: since(t.Since), Paused: t.Paused}
			if !causeCode.MatchString(t.Err.Cause) {
				as.Trouble.Cause = "unnamed"
			}
			if !t.NextTry.IsZero() {
				ms := max(t.NextTry.Sub(now).Milliseconds(), 0)
				as.Trouble.RetryIn = &ms
			}
		}
		a.Stages = append(a.Stages, as)
	}
	return a
}

// oneLine makes a text fit for one line of a terminal: nothing but printable characters, and at most maxMessage bytes.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	const mark = "…"
	if len(s) <= maxMessage {
		return s
	}
	n := maxMessage - len(mark)
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + mark
}

var errNotAnAnswer = errors.New("not a worker's answer")

// status reads an answer that came at the time now. Whatever is beyond the bounds is an error: whoever may publish on the
// server can answer.
func (a *answer) status(now time.Time) (WorkerStatus, error) {
	ok := a.Schema == statusSchema && workerID.MatchString(a.Worker) && segmentName.MatchString(a.Segment) &&
		inCount(a.InFlight) && len(a.Stages) > 0 && len(a.Stages) <= maxStages
	w := WorkerStatus{ID: a.Worker, Segment: a.Segment, InFlight: a.InFlight}
	before := func(ms *int64) time.Time {
		if ms == nil {
			return time.Time{}
		}
		ok = ok && *ms >= 0 && *ms <= maxMillis
		return now.Add(-time.Duration(*ms) * time.Millisecond)
	}
	for _, s := range a.Stages {
		ok = ok && segmentName.MatchString(s.Name) && inCount(s.Ready) && inCount(s.Running) && inCount(s.Retrying)
		st := StageStatus{Name: s.Name, Ready: s.Ready, Running: s.Running, Retrying: s.Retrying, LastDone: before(s.DoneAgo)}
		if t := s.Trouble; t != nil {
			ok = ok && causeCode.MatchString(t.Cause)
			st.Trouble = &Trouble{Cause: t.Cause, Message: oneLine(t.Message), At: before(&t.Ago), Since: before(t.Lasts), Paused: t.Paused}
			if t.RetryIn != nil {
				ok = ok && *t.RetryIn >= 0 && *t.RetryIn <= maxMillis
				st.Trouble.NextTry = now.Add(time.Duration(*t.RetryIn) * time.Millisecond)
			}
		}
		if !ok { // in time: what is out of bounds goes no further
			break
		}
		w.Stages = append(w.Stages, st)
	}
	if !ok {
		return WorkerStatus{}, errNotAnAnswer
	}
	return w, nil
}

func inCount(n int64) bool { return n >= 0 && n <= maxCount }
