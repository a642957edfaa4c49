package telemetry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/hallmark-attest/hallmark/pipeline"
)

// Meters counts what a runner does. It is a pipeline.Observer. Safe for concurrent use.
type Meters struct {
	items    metric.Int64Counter
	duration metric.Float64Histogram
	retries  metric.Int64Counter
	meter    metric.Meter
	inFlight metric.Int64ObservableGauge
	paused   metric.Int64ObservableGauge
}

var _ pipeline.Observer = (*Meters)(nil)

// NewMeters makes the instruments with the global meter provider. Where metrics are off, counting costs next to nothing.
func NewMeters() (*Meters, error) {
	m := &Meters{meter: otel.Meter(Scope)}
	var errs [5]error
	m.items, errs[0] = m.meter.Int64Counter(MetricItems, metric.WithUnit("{item}"),
		metric.WithDescription("Items that left a segment, by outcome and by the stage that decided it."))
	m.duration, errs[1] = m.meter.Float64Histogram(MetricStageDuration, metric.WithUnit("s"),
		metric.WithDescription("How long a stage took over an item, by how it ended."),
		metric.WithExplicitBucketBoundaries(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300))
	m.retries, errs[2] = m.meter.Int64Counter(MetricRetries, metric.WithUnit("{retry}"),
		metric.WithDescription("Attempts that follow a transient error, by its cause."))
	m.inFlight, errs[3] = m.meter.Int64ObservableGauge(MetricInFlight, metric.WithUnit("{item}"),
		metric.WithDescription("Items between the queue and the ledger."))
	m.paused, errs[4] = m.meter.Int64ObservableGauge(MetricPaused, metric.WithUnit("{campaign}"),
		metric.WithDescription("Campaigns whose stage is held back by an outage."))
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("making the pipeline's metrics: %w", err)
	}
	return m, nil
}

// StageDone implements pipeline.Observer.
func (m *Meters) StageDone(ctx context.Context, stage string, _ *pipeline.Item, took time.Duration, err *pipeline.Error) {
	as := []attribute.KeyValue{attribute.String(AttrStage, stage), attribute.String(AttrOutcome, OutcomeDone)}
	if err != nil {
		as[1] = attribute.String(AttrOutcome, err.Kind.String())
		as = append(as, attribute.String(AttrErrorType, err.Cause))
	}
	m.duration.Record(ctx, took.Seconds(), metric.WithAttributes(as...))
}

// Retrying implements pipeline.Observer.
func (m *Meters) Retrying(ctx context.Context, stage string, _ *pipeline.Item, err *pipeline.Error, _ time.Duration) {
	cause := ""
	if err != nil {
		cause = err.Cause
	}
	m.retries.Add(ctx, 1, metric.WithAttributes(attribute.String(AttrStage, stage), attribute.String(AttrErrorType, cause)))
}

// Settled implements pipeline.Observer.
func (m *Meters) Settled(o pipeline.Outcome) {
	as := []attribute.KeyValue{attribute.String(AttrOutcome, string(o.Kind))}
	if o.Delivery.Item != nil {
		as = append(as, attribute.String(AttrCampaign, o.Delivery.Item.Campaign))
	}
	if o.Failure != nil {
		as = append(as, attribute.String(AttrStage, o.Failure.Stage), attribute.String(AttrErrorType, o.Failure.Cause))
	}
	ctx := o.Delivery.Context
	if ctx == nil {
		ctx = context.Background()
	}
	m.items.Add(ctx, 1, metric.WithAttributes(as...))
}

// Tally is what a runner counts: a *pipeline.Tally.
type Tally interface {
	InFlight() int64
	Stages() []pipeline.StageTally
}

// Watch has the tallies read whenever metrics are collected, until stop is called: how many items are in flight, and which
// stages are paused. all MUST return at once.
func (m *Meters) Watch(all func() []Tally) (stop func() error, err error) {
	r, err := m.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		var inFlight int64
		type stage struct{ name, cause string }
		paused := map[stage]int64{}
		for _, t := range all() {
			inFlight += t.InFlight()
			for _, s := range t.Stages() {
				if s.Trouble != nil && s.Trouble.Paused {
					paused[stage{s.Stage, s.Trouble.Err.Cause}]++
				}
			}
		}
		o.ObserveInt64(m.inFlight, inFlight)
		for s, n := range paused {
			o.ObserveInt64(m.paused, n, metric.WithAttributes(attribute.String(AttrStage, s.name), attribute.String(AttrErrorType, s.cause)))
		}
		return nil
	}, m.inFlight, m.paused)
	if err != nil {
		return nil, fmt.Errorf("observing what is in flight: %w", err)
	}
	return r.Unregister, nil
}
