package queue

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// The server takes at most 1000 messages in an atomic batch.
	maxBatch = 1000
	// maxBatchBytes bounds what one batch makes the server hold before it is stored.
	maxBatchBytes = 8 << 20
	// asyncPending is how many single publishes wait for their acknowledgement at once.
	asyncPending = 512
)

// Error codes of the server.
const (
	codeWrongLastSequence = 10071
	codeStoreFailed       = 10077
	codeNoResources       = 10023
	codeNoStorage         = 10047
	codeNotAvailable      = 10008
	codeSequenceNotFound  = 10043
	codeDeleteFailed      = 10057
)

// notThere reads an error of the server to the removal of a message: that it is not there.
func notThere(e *jetstream.APIError) bool {
	switch e.ErrorCode {
	case jetstream.JSErrCodeMessageNotFound, codeSequenceNotFound:
		return true
	case codeDeleteFailed: // for any reason, and a denial is one
		return slices.Contains([]string{"no message found", "deleted message", "stream store EOF"}, e.Description)
	}
	return false
}

// errAlready: the stream has a message on this subject, or with this id. errOverruled: the message's condition does not
// hold, another outcome of the same item stands. errFull: there is no room for it now.
var (
	errAlready   = errors.New("recorded already")
	errOverruled = errors.New("another outcome is recorded")
	errFull      = errors.New("the queue is full")
)

// verdict reads an error of the server.
func verdict(err error) error {
	e, ok := errors.AsType[*jetstream.APIError](err)
	if !ok {
		return err
	}
	switch {
	// The code says only that storing failed, and the text why. "maximum bytes exceeded" has the same code: taking that
	// for a duplicate would lose the message.
	case e.ErrorCode == codeStoreFailed && strings.Contains(e.Description, "per subject exceeded"):
		return errAlready
	case e.ErrorCode == codeWrongLastSequence:
		return errOverruled
	case e.ErrorCode == codeStoreFailed && strings.Contains(e.Description, "exceeded"), e.ErrorCode == codeNoResources, e.ErrorCode == codeNoStorage:
		return fmt.Errorf("%w: %w", errFull, err)
	}
	return err
}

// publish stores the messages, all of which MUST be for one stream that allows atomic batches. The result has one entry
// per message: nil (stored now), errAlready, errOverruled, or why it is not known to be stored.
func (q *Queue) publish(ctx context.Context, msgs []*nats.Msg) []error {
	errs := make([]error, 0, len(msgs))
	for len(msgs) > 0 {
		n, size := 0, 0
		for n < len(msgs) && n < maxBatch && (n == 0 || size+msgs[n].Size() <= maxBatchBytes) {
			size += msgs[n].Size()
			n++
		}
		errs = append(errs, q.publishBatch(ctx, msgs[:n])...)
		msgs = msgs[n:]
	}
	return errs
}

// publishBatch stores the messages as one atomic batch, which is one fsync. One duplicate makes the server refuse all of
// them; then, and whenever it is not certain what became of the batch, they go one by one, which tells for each.
func (q *Queue) publishBatch(ctx context.Context, msgs []*nats.Msg) []error {
	if len(msgs) > 1 {
		err := q.atomic(ctx, msgs)
		if err == nil {
			return make([]error, len(msgs))
		}
		q.log.DebugContext(ctx, "atomic batch not taken; publishing one by one", "messages", len(msgs), "reason", err)
	}
	return q.publishEach(ctx, msgs)
}

const (
	headerBatchID     = "Nats-Batch-Id"
	headerBatchSeq    = "Nats-Batch-Sequence"
	headerBatchCommit = "Nats-Batch-Commit"
)

// atomic publishes 2 to maxBatch messages so that all are stored or none (ADR-50).
func (q *Queue) atomic(ctx context.Context, msgs []*nats.Msg) error {
	ctx, cancel := q.within(ctx)
	defer cancel()
	id := rand.Text()
	defer func() {
		for _, m := range msgs {
			m.Header.Del(headerBatchID)
			m.Header.Del(headerBatchSeq)
			m.Header.Del(headerBatchCommit)
		}
	}()
	for i, m := range msgs {
		first, last := i == 0, i == len(msgs)-1
		if m.Header == nil {
			m.Header = nats.Header{}
		}
		m.Header.Set(headerBatchID, id)
		m.Header.Set(headerBatchSeq, strconv.Itoa(i+1))
		if last {
			m.Header.Set(headerBatchCommit, "1")
		}
		if !first && !last {
			if err := q.nc.PublishMsg(m); err != nil {
				return err
			}
			continue
		}
		r, err := q.nc.RequestMsgWithContext(ctx, m)
		if err != nil {
			return err
		}
		if first && len(r.Data) == 0 {
			continue // the server takes the batch
		}
		var ack struct {
			Error *jetstream.APIError `json:"error"`
			Batch string              `json:"batch"`
			Count int                 `json:"count"`
		}
		if err := json.Unmarshal(r.Data, &ack); err != nil {
			return fmt.Errorf("reading the answer to a batch: %w", err)
		}
		switch {
		case ack.Error != nil:
			return ack.Error
		case first:
			return errors.New("server stores messages singly: it does not know atomic batches")
		case ack.Batch != id || ack.Count != len(msgs):
			return fmt.Errorf("server committed %d of %d messages of a batch", ack.Count, len(msgs))
		}
	}
	return nil
}

// publishEach stores the messages one by one, many at once in flight.
func (q *Queue) publishEach(ctx context.Context, msgs []*nats.Msg) []error {
	errs := make([]error, len(msgs))
	futures := make([]jetstream.PubAckFuture, len(msgs))
	for i, m := range msgs {
		m.Reply = ""
		futures[i], errs[i] = q.js.PublishMsgAsync(m, jetstream.WithStallWait(q.timeout))
	}
	for i, f := range futures {
		if f == nil {
			continue
		}
		select {
		case ack := <-f.Ok():
			if ack.Duplicate {
				errs[i] = errAlready
			}
		case err := <-f.Err():
			errs[i] = verdict(err)
		case <-ctx.Done():
			errs[i] = ctx.Err()
		}
	}
	return errs
}
