package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Options are how Open finds or creates the streams. For each number the zero value means: the default where a stream
// is created, and whatever it has where it exists. A value that is given must be the stream's.
type Options struct {
	// Replicas of each stream: 1 (default) or 3.
	Replicas int
	// JobsMaxBytes, EventsMaxBytes and QuarantineMaxBytes bound the streams on disk, per replica. Default: no bound but
	// the server's. Space that is bounded here is reserved there.
	JobsMaxBytes, EventsMaxBytes, QuarantineMaxBytes int64
	// EventsMaxAge is how long events are kept. Default: for ever; they are the ledger.
	EventsMaxAge time.Duration
	// Died is the embedded server's: see Server.Died.
	Died bool
	// Stuck is the embedded server's: see Server.Stuck. Default: never.
	Stuck func() bool
	// Timeout bounds each request to the server. Default 10 s.
	Timeout time.Duration
	// Log defaults to slog.Default().
	Log *slog.Logger
}

// Queue is the pipeline's streams. It is safe for concurrent use. It does not own the connection and needs no closing.
type Queue struct {
	nc       *nats.Conn
	js       jetstream.JetStream
	kv       jetstream.KeyValue // campaigns
	suspects jetstream.KeyValue
	budgets  jetstream.KeyValue
	died     bool
	stuck    func() bool
	// replicated: counts may come from a replica that is behind.
	replicated atomic.Bool
	log        *slog.Logger
	timeout    time.Duration
}

// Open creates the streams and the buckets where they do not exist, and checks them where they do. A stream
// with other settings is left as it is: the error is a *StreamMismatchError (see Check and Migrate). Where all exist, Open needs no permission
// but to ask for their info.
func Open(ctx context.Context, nc *nats.Conn, o Options) (*Queue, error) {
	q, err := attach(nc, o)
	if err != nil {
		return nil, err
	}
	for _, cfg := range streams(o) {
		if err := q.ensureStream(ctx, cfg); err != nil {
			return nil, away(err)
		}
	}
	places := map[string]*jetstream.KeyValue{BucketCampaigns: &q.kv, BucketSuspects: &q.suspects, BucketBudgets: &q.budgets}
	for _, cfg := range buckets(o) {
		if *places[cfg.Bucket], err = q.ensureBucket(ctx, cfg); err != nil {
			return nil, away(err)
		}
	}
	return q, nil
}

// away marks an error as the server's absence, if it is that.
func away(err error) error {
	e, _ := errors.AsType[*jetstream.APIError](err)
	if mayPassLater(err) || errors.Is(err, context.DeadlineExceeded) || e != nil && e.Code == 503 { // 503: no leader
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	return err
}

// Died reports whether the server died with the last worker: see Server.Died.
func (q *Queue) Died() bool { return q.died }

func (q *Queue) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, q.timeout)
}

// count is the number of messages in the stream under the filter, exactly as the answering server has them, without a
// scan and without a consumer: a batched direct get (of the first message only) comes with the number that follow it.
// The server computes it from its index of subjects.
//
// With replicas a follower may answer, a moment behind the leader; so would a consumer, which lives on one of them.
func (q *Queue) count(ctx context.Context, stream, filter string) (uint64, error) {
	return q.countFrom(ctx, stream, filter, 1)
}

// countFrom is count from a sequence number on.
func (q *Queue) countFrom(ctx context.Context, stream, filter string, from uint64) (uint64, error) {
	ctx, cancel := q.within(ctx)
	defer cancel()
	req, _ := json.Marshal(map[string]any{"seq": from, "next_by_subj": filter, "batch": 1})
	m, err := q.nc.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+stream, req)
	if err != nil {
		return 0, fmt.Errorf("counting %s in %s: %w", filter, stream, err)
	}
	if st := m.Header.Get("Status"); st == "404" {
		return 0, nil
	} else if st != "" {
		return 0, fmt.Errorf("counting %s in %s: server answers %s %s", filter, stream, st, m.Header.Get("Description"))
	}
	n, err := strconv.ParseUint(m.Header.Get("Nats-Num-Pending"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("counting %s in %s: %w", filter, stream, err)
	}
	return n + 1, nil
}

// stored is a message as a stream holds it.
type stored struct {
	Sequence uint64 `json:"seq"`
	Header   []byte `json:"hdrs"`
	Data     []byte `json:"data"`
}

// exists reports whether the stream holds a message on the subject: see last.
func (q *Queue) exists(ctx context.Context, stream, subject string) (bool, error) {
	m, err := q.last(ctx, stream, subject)
	return m != nil, err
}

// last returns the newest message on the subject, which may have wildcards, or nil. It asks the stream's leader. What has
// replicas is otherwise answered by any of them, also by one that is still catching up after it was away: decisions, about
// outcomes above all, MUST NOT hang on that.
func (q *Queue) last(ctx context.Context, stream, subject string) (*stored, error) {
	var resp struct {
		Error   *jetstream.APIError `json:"error"`
		Message *stored             `json:"message"`
	}
	err := q.ask(ctx, "$JS.API.STREAM.MSG.GET."+stream, map[string]any{"last_by_subj": subject}, &resp)
	switch {
	case err != nil:
	case resp.Error != nil && resp.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return nil, nil
	case resp.Error != nil:
		err = resp.Error
	case resp.Message == nil || resp.Message.Sequence == 0:
		err = errors.New("answer has neither a message nor an error")
	}
	if err != nil {
		return nil, fmt.Errorf("looking for %s in %s: %w", subject, stream, err)
	}
	return resp.Message, nil
}

// key is a key of a bucket as its leader has it; nil if it is not there.
func (q *Queue) key(ctx context.Context, bucket, key string) (*stored, error) {
	m, err := q.last(ctx, "KV_"+bucket, "$KV."+bucket+"."+key)
	if err != nil || m == nil {
		return nil, err
	}
	h, err := nats.DecodeHeadersMsg(m.Header)
	if len(m.Header) > 0 && err != nil {
		return nil, fmt.Errorf("reading key %s of bucket %s: %w", key, bucket, err)
	}
	if h.Get("KV-Operation") != "" || h.Get(jetstream.MarkerReasonHeader) != "" { // it was deleted
		return nil, nil
	}
	return m, nil
}

// remove removes the message with the sequence number; one that is not there counts as removed.
func (q *Queue) remove(ctx context.Context, stream string, sequence uint64) error {
	var resp struct {
		Error *jetstream.APIError `json:"error"`
	}
	// no_erase: nothing in it is so secret that it would have to be overwritten on the disk.
	err := q.ask(ctx, "$JS.API.STREAM.MSG.DELETE."+stream, map[string]any{"seq": sequence, "no_erase": true}, &resp)
	if err == nil && resp.Error != nil && !notThere(resp.Error) {
		err = resp.Error
	}
	if err != nil {
		return fmt.Errorf("removing message %d of %s: %w", sequence, stream, err)
	}
	return nil
}

// ask sends a request to the server's API and reads its answer.
func (q *Queue) ask(ctx context.Context, subject string, request, answer any) error {
	ctx, cancel := q.within(ctx)
	defer cancel()
	req, err := json.Marshal(request)
	if err != nil {
		return err
	}
	m, err := q.nc.RequestWithContext(ctx, subject, req)
	if err != nil {
		return err
	}
	return json.Unmarshal(m.Data, answer)
}

// purge removes what the stream holds under the filter below the sequence number.
func (q *Queue) purge(ctx context.Context, stream, filter string, below uint64) error {
	s, err := q.js.Stream(ctx, stream)
	if err == nil {
		ctx, cancel := q.within(ctx)
		defer cancel()
		err = s.Purge(ctx, jetstream.WithPurgeSubject(filter), jetstream.WithPurgeSequence(below))
	}
	if err != nil {
		return fmt.Errorf("purging %s from %s: %w", filter, stream, err)
	}
	return nil
}
