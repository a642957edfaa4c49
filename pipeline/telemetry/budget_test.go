package telemetry

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
)

func TestWatchBudgets(t *testing.T) {
	environment(t, nil)
	reader := sdkmetric.NewManualReader()
	otel.SetMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
	m, err := NewMeters()
	if err != nil {
		t.Fatal(err)
	}
	stop, err := m.WatchBudgets(func() map[string]int64 { return map[string]int64{"rekor": 40} })
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"hallmark.budget.waiting{hallmark.upstream=rekor}": "40"}, collect(t, reader)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if got := collect(t, reader); len(got) != 0 {
		t.Errorf("still observed after stop: %v", got)
	}
}
