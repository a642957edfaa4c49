package queue

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// timed bounds each request to the server. The client bounds only those whose context has no end: with one that ends in an
// hour it would wait an hour for an answer that went down with the server, or with its leader, that was asked.
type timed struct {
	jetstream.JetStream
	most time.Duration
}

func (t timed) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, t.most)
	defer cancel()
	return t.JetStream.Stream(ctx, name)
}

func (t timed) CreateStream(ctx context.Context, cfg jetstream.StreamConfig) (jetstream.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, t.most)
	defer cancel()
	return t.JetStream.CreateStream(ctx, cfg)
}

func (t timed) UpdateStream(ctx context.Context, cfg jetstream.StreamConfig) (jetstream.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, t.most)
	defer cancel()
	return t.JetStream.UpdateStream(ctx, cfg)
}

func (t timed) Consumer(ctx context.Context, stream, name string) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, t.most)
	defer cancel()
	return t.JetStream.Consumer(ctx, stream, name)
}

func (t timed) CreateConsumer(ctx context.Context, stream string, cfg jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, t.most)
	defer cancel()
	return t.JetStream.CreateConsumer(ctx, stream, cfg)
}

func (t timed) UpdateConsumer(ctx context.Context, stream string, cfg jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, t.most)
	defer cancel()
	return t.JetStream.UpdateConsumer(ctx, stream, cfg)
}

func (t timed) CreateOrUpdateConsumer(ctx context.Context, stream string, cfg jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, t.most)
	defer cancel()
	return t.JetStream.CreateOrUpdateConsumer(ctx, stream, cfg)
}

func (t timed) DeleteConsumer(ctx context.Context, stream, name string) error {
	ctx, cancel := context.WithTimeout(ctx, t.most)
	defer cancel()
	return t.JetStream.DeleteConsumer(ctx, stream, name)
}

func (t timed) KeyValue(ctx context.Context, bucket string) (jetstream.KeyValue, error) {
	ctx, cancel := context.WithTimeout(ctx, t.most)
	defer cancel()
	return t.JetStream.KeyValue(ctx, bucket)
}

func (t timed) CreateKeyValue(ctx context.Context, cfg jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	ctx, cancel := context.WithTimeout(ctx, t.most)
	defer cancel()
	return t.JetStream.CreateKeyValue(ctx, cfg)
}
