package queue

import (
	"context"
	"maps"
	"slices"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// carrier lets a propagator read and write NATS headers. NATS compares keys by their exact case, so the HTTP carrier,
// which writes "Traceparent", does not do.
type carrier nats.Header

func (c carrier) Get(k string) string { return nats.Header(c).Get(k) }
func (c carrier) Set(k, v string)     { nats.Header(c).Set(k, v) }
func (c carrier) Keys() []string      { return slices.Collect(maps.Keys(c)) }

func inject(ctx context.Context, h nats.Header) {
	otel.GetTextMapPropagator().Inject(ctx, carrier(h))
}

func extract(h nats.Header) context.Context {
	return otel.GetTextMapPropagator().Extract(context.Background(), carrier(h))
}

// startSend starts the span that an item's trace begins with. Every item has a trace of its own (one trace of a million
// spans is of no use to anybody); what the submitter's context has is linked.
func startSend(ctx context.Context, tracer trace.Tracer, campaign, id string) (context.Context, trace.Span) {
	opts := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindProducer), trace.WithNewRoot()}
	if trace.SpanContextFromContext(ctx).IsValid() {
		opts = append(opts, trace.WithLinks(trace.LinkFromContext(ctx)))
	}
	ctx, span := tracer.Start(ctx, "send "+StreamJobs, opts...)
	if span.IsRecording() {
		span.SetAttributes(
			attribute.String("messaging.system", "nats"),
			attribute.String("messaging.operation.name", "send"),
			attribute.String("messaging.operation.type", "send"),
			attribute.String("messaging.destination.name", StreamJobs),
			attribute.String("messaging.destination.template", "job.{segment}.{campaign}.{id}"),
			attribute.String("messaging.message.id", id),
			attribute.String("hallmark.campaign", campaign))
	}
	return ctx, span
}

func tracer() trace.Tracer { return otel.Tracer("github.com/hallmark-attest/hallmark/pipeline/queue") }
