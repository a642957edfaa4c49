package telemetry

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// WatchBudgets has all read whenever metrics are collected, until stop is called: how many requests wait for a rate budget, by
// upstream. all MUST return at once.
func (m *Meters) WatchBudgets(all func() map[string]int64) (stop func() error, err error) {
	waiting, err := m.meter.Int64ObservableGauge(MetricBudgetWaiting, metric.WithUnit("{request}"),
		metric.WithDescription("Requests that wait for a rate budget."))
	if err != nil {
		return nil, fmt.Errorf("making the metric of rate budgets: %w", err)
	}
	r, err := m.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for upstream, n := range all() {
			o.ObserveInt64(waiting, n, metric.WithAttributes(attribute.String(AttrUpstream, upstream)))
		}
		return nil
	}, waiting)
	if err != nil {
		return nil, fmt.Errorf("observing what waits for a rate budget: %w", err)
	}
	return r.Unregister, nil
}
