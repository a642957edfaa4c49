package queue

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// replayed is one message of a stream with its place.
type replayed struct {
	msg jetstream.Msg
	*jetstream.MsgMetadata
}

// replayPatience is how long replay waits for the next message before it asks whether there is one.
const replayPatience = time.Second

// replay yields what the stream holds under the filter now, in order; what is stored meanwhile is left out, and so is what is
// removed before it is read. Messages may be had without their data. The first error ends it.
func (q *Queue) replay(ctx context.Context, stream, filter string, data bool) iter.Seq2[replayed, error] {
	return func(yield func(replayed, error) bool) {
		err := func() error {
			end, err := q.last(ctx, stream, filter)
			if err != nil || end == nil {
				return err
			}
			cons, err := q.js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{
				FilterSubjects: []string{filter}, InactiveThreshold: 30 * time.Second, HeadersOnly: !data,
			})
			if err != nil {
				return err
			}
			it, err := cons.Messages()
			if err != nil {
				return err
			}
			defer it.Stop()
			for at := uint64(0); ; {
				m, err := next(ctx, it)
				if errors.Is(err, nats.ErrTimeout) {
					// Others may have removed what was still to come.
					n, err := q.countFrom(ctx, stream, filter, at+1)
					if err != nil || n == 0 {
						return err
					}
					continue
				}
				if err != nil {
					return err
				}
				md, err := m.Metadata()
				if err != nil {
					return err
				}
				if at = md.Sequence.Stream; at > end.Sequence {
					return nil
				}
				if !yield(replayed{m, md}, nil) || at == end.Sequence || md.NumPending == 0 {
					return nil
				}
			}
		}()
		if err != nil {
			yield(replayed{}, fmt.Errorf("reading %s of %s: %w", filter, stream, err))
		}
	}
}

// next waits for the next message, for a while: then its error is nats.ErrTimeout.
func next(ctx context.Context, it jetstream.MessagesContext) (jetstream.Msg, error) {
	wait, cancel := context.WithTimeout(ctx, replayPatience)
	defer cancel()
	m, err := it.Next(jetstream.NextContext(wait))
	if err != nil && ctx.Err() == nil && wait.Err() != nil {
		return nil, nats.ErrTimeout
	}
	return m, err
}
