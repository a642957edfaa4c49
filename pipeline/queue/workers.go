package queue

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
)

// WorkerStatus is how one worker gets on with one segment of a campaign. Times are by this machine's clock.
type WorkerStatus struct {
	ID      string `json:"id"`
	Segment string `json:"segment"`
	// InFlight is how many items it holds. Those that are in no stage wait to be recorded.
	InFlight int64         `json:"inFlight"`
	Stages   []StageStatus `json:"stages"`
}

// StageStatus is where the items of one stage are: see pipeline.StageTally.
type StageStatus struct {
	Name     string    `json:"name"`
	Ready    int64     `json:"ready"`
	Running  int64     `json:"running"`
	Retrying int64     `json:"retrying"`
	LastDone time.Time `json:"lastDone,omitzero"`
	Trouble  *Trouble  `json:"trouble,omitempty"`
}

// Trouble is the newest transient error of a stage: see pipeline.Trouble. The message is one line without secrets.
type Trouble struct {
	Cause   string    `json:"cause"`
	Message string    `json:"message"`
	At      time.Time `json:"at"`
	Since   time.Time `json:"since,omitzero"`
	NextTry time.Time `json:"nextTry,omitzero"`
	Paused  bool      `json:"paused"`
}

// Answers are what the workers of a campaign say.
type Answers struct {
	// Workers are sorted by segment, then by id. A worker that serves two segments is there twice.
	Workers []WorkerStatus
	// Unread is how many answers were none: not readable, beyond the bounds, or a second one of the same worker.
	Unread int
}

// ErrNoAnswer says that somebody listens where workers are asked, or nobody knows whether, and no answer came in time:
// the workers are busy or cut off, or the server does not let this user ask.
var ErrNoAnswer = errors.New("no worker answered in time")

// defaultWait is how long Workers collects answers.
const defaultWait = 500 * time.Millisecond

// maxAnswers bounds what Workers reads.
const maxAnswers = 4096

// Workers asks the campaign's workers how they get on, and collects what comes within wait (default 500 ms), since
// nobody knows how many there are. If the server knows of none that listens, it returns at once with no workers and no
// error. Answers that cannot be read are counted and otherwise ignored. It needs permission to publish on
// hallmark.v1.status.<campaign>, and to subscribe to an inbox.
func (q *Queue) Workers(ctx context.Context, campaign string, wait time.Duration) (Answers, error) {
	var out Answers
	wait = cmp.Or(wait, defaultWait)
	fail := func(err error) (Answers, error) {
		return Answers{}, fmt.Errorf("asking the workers of campaign %s: %w", campaign, err)
	}
	inbox := q.nc.NewInbox()
	sub, err := q.nc.SubscribeSync(inbox)
	if err != nil {
		return fail(err)
	}
	defer func() { _ = sub.Unsubscribe() }() // it fails only where the connection is closed
	if err := sub.SetPendingLimits(maxAnswers, 32<<20); err != nil {
		return fail(err)
	}
	if err := q.nc.PublishRequest(statusSubject(campaign), inbox, nil); err != nil {
		return fail(err)
	}
	collect, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	seen := map[[2]string]bool{}
	for range maxAnswers {
		m, err := sub.NextMsgWithContext(collect)
		switch {
		case err == nil:
		case errors.Is(err, nats.ErrNoResponders):
			return out, nil
		case ctx.Err() != nil:
			return fail(context.Cause(ctx))
		case errors.Is(err, nats.ErrSlowConsumer):
			out.Unread++
			continue
		case collect.Err() != nil:
			if len(seen) == 0 && out.Unread == 0 {
				return fail(fmt.Errorf("%w (%v)", ErrNoAnswer, wait))
			}
			return out.sorted(), nil
		default:
			return fail(err)
		}
		w, err := readAnswer(m.Data, campaign, time.Now().UTC().Truncate(time.Millisecond))
		key := [2]string{w.ID, w.Segment}
		if err != nil || seen[key] {
			out.Unread++
			continue
		}
		seen[key] = true
		out.Workers = append(out.Workers, w)
	}
	return out.sorted(), nil
}

func (a Answers) sorted() Answers {
	slices.SortFunc(a.Workers, func(x, y WorkerStatus) int {
		return cmp.Or(cmp.Compare(x.Segment, y.Segment), cmp.Compare(x.ID, y.ID))
	})
	return a
}

// readAnswer reads what somebody answered about the campaign at the time now.
func readAnswer(data []byte, campaign string, now time.Time) (WorkerStatus, error) {
	if len(data) > maxStatus {
		return WorkerStatus{}, fmt.Errorf("%w: %d bytes", errNotAnAnswer, len(data))
	}
	var a answer
	if err := json.Unmarshal(data, &a); err != nil {
		return WorkerStatus{}, fmt.Errorf("%w: %w", errNotAnAnswer, err)
	}
	if a.Campaign != campaign {
		return WorkerStatus{}, fmt.Errorf("%w: it is about campaign %.100q", errNotAnAnswer, a.Campaign)
	}
	return a.status(now)
}
