package telemetry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/hallmark-attest/hallmark/pipeline"
)

func TestMeters(t *testing.T) {
	environment(t, nil)
	reader := sdkmetric.NewManualReader()
	otel.SetMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
	m, err := NewMeters()
	if err != nil {
		t.Fatal(err)
	}
	it := &pipeline.Item{ID: "0a", Campaign: "c", Filename: "x-1-0.conda"}
	transient := &pipeline.Error{Kind: pipeline.KindTransient, Cause: "rekor.unavailable", Err: errors.New("503")}
	m.StageDone(t.Context(), "sign", it, 3*time.Second, transient)
	m.Retrying(t.Context(), "sign", it, transient, time.Second)
	m.StageDone(t.Context(), "sign", it, 2*time.Second, nil)
	m.StageDone(t.Context(), "sign", it, 2*time.Second, nil)
	m.Settled(pipeline.Outcome{Delivery: pipeline.Delivery{Item: it}, Kind: pipeline.OutcomePublished})
	m.Settled(pipeline.Outcome{Delivery: pipeline.Delivery{Item: it}, Kind: pipeline.OutcomeFailed, Failure: &pipeline.Failure{Stage: "hash", Cause: "package.truncated"}})
	stop, err := m.Watch(func() []Tally { return []Tally{tally{40, false}, tally{2, true}} })
	if err != nil {
		t.Fatal(err)
	}
	got := collect(t, reader)
	want := map[string]string{
		"hallmark.items{hallmark.campaign=c,hallmark.outcome=published}":                                               "1",
		"hallmark.items{error.type=package.truncated,hallmark.campaign=c,hallmark.outcome=failed,hallmark.stage=hash}": "1",
		"hallmark.stage.duration{error.type=rekor.unavailable,hallmark.outcome=transient,hallmark.stage=sign}":         "1 in 3s",
		"hallmark.stage.duration{hallmark.outcome=done,hallmark.stage=sign}":                                           "2 in 4s",
		"hallmark.retries{error.type=rekor.unavailable,hallmark.stage=sign}":                                           "1",
		"hallmark.items.in_flight{}": "42",
		"hallmark.stage.paused{error.type=rekor.unavailable,hallmark.stage=sign}": "1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if _, ok := collect(t, reader)["hallmark.items.in_flight{}"]; ok {
		t.Error("still observed after stop")
	}
}

type tally struct {
	n      int64
	paused bool
}

func (t tally) InFlight() int64 { return t.n }
func (t tally) Stages() []pipeline.StageTally {
	return []pipeline.StageTally{{Stage: "hash"}, {Stage: "sign", Trouble: &pipeline.Trouble{Paused: t.paused, Err: &pipeline.Error{Cause: "rekor.unavailable"}}}}
}

func encoded(as []attribute.KeyValue) string {
	parts := make([]string, len(as))
	for i, a := range as {
		parts[i] = string(a.Key) + "=" + a.Value.String()
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}

func collect(t *testing.T, reader *sdkmetric.ManualReader) map[string]string {
	t.Helper()
	var rm metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &rm); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, sm := range rm.ScopeMetrics {
		for _, m := range sm.Metrics {
			switch d := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range d.DataPoints {
					got[m.Name+"{"+encoded(p.Attributes.ToSlice())+"}"] = fmt.Sprint(p.Value)
				}
			case metricdata.Gauge[int64]:
				for _, p := range d.DataPoints {
					got[m.Name+"{"+encoded(p.Attributes.ToSlice())+"}"] = fmt.Sprint(p.Value)
				}
			case metricdata.Histogram[float64]:
				for _, p := range d.DataPoints {
					got[m.Name+"{"+encoded(p.Attributes.ToSlice())+"}"] = fmt.Sprintf("%d in %vs", p.Count, p.Sum)
				}
			}
		}
	}
	return got
}

// TestTransport: the request goes out as it is; the span tells neither its query nor its credentials.
func TestTransport(t *testing.T) {
	environment(t, nil)
	spans := tracetest.NewInMemoryExporter()
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)))
	var got *http.Request
	var body []byte
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		if r.URL.Query().Get("sig") == "sekrit-2" {
			http.Error(w, "no", http.StatusServiceUnavailable)
		}
	}))
	defer s.Close()
	ctx, parent := otel.Tracer("x").Start(t.Context(), "parent")
	member, err := baggage.NewMember("who", "sekrit-4")
	if err != nil {
		t.Fatal(err)
	}
	bag, err := baggage.New(member)
	if err != nil {
		t.Fatal(err)
	}
	ctx = baggage.ContextWithBaggage(ctx, bag)

	client := &http.Client{Transport: Transport(nil, "rekor")}
	for _, query := range []string{"sig=sekrit-1", "sig=sekrit-2"} {
		u := strings.Replace(s.URL, "//", "//user:sekrit-3@", 1) + "/t/sekrit-5/a%2Bb?" + query + "#sekrit-6"
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, u, bytes.NewBufferString("body"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer sekrit-7")
		before := req.URL.String()
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if req.URL.String() != before || resp.Request.URL.String() != before {
			t.Errorf("the caller's request became %s, the response's %s", req.URL, resp.Request.URL)
		}
		if got.URL.RawQuery != query || got.URL.EscapedPath() != "/t/sekrit-5/a%2Bb" || string(body) != "body" || got.Header.Get("Authorization") != "Bearer sekrit-7" {
			t.Errorf("what arrived: %s %q", got.URL, body)
		}
		if tp := got.Header.Get("Traceparent"); !strings.Contains(tp, parent.SpanContext().TraceID().String()) || got.Header.Get("Baggage") != "" {
			t.Errorf("traceparent %q, baggage %q", tp, got.Header.Get("Baggage"))
		}
	}
	all := spans.GetSpans()
	if len(all) != 2 {
		t.Fatalf("%d spans", len(all))
	}
	for _, span := range all {
		if span.Name != "rekor POST" || span.Parent.SpanID() != parent.SpanContext().SpanID() {
			t.Errorf("span %q of %v", span.Name, span.Parent)
		}
		if text := fmt.Sprintf("%+v", span); strings.Contains(text, "sekrit") || !strings.Contains(text, AttrUpstream) || !strings.Contains(text, "url.full") {
			t.Errorf("span: %s", text)
		}
	}
}

// TestUntold: strangers get what was to be sent, and the span is there all the same.
func TestUntold(t *testing.T) {
	environment(t, nil)
	spans := tracetest.NewInMemoryExporter()
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)))
	var got http.Header
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header }))
	defer s.Close()
	ctx, _ := otel.Tracer("x").Start(t.Context(), "parent")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: Untold(nil, "prefix")}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got.Get("Traceparent") != "" || got.Get("Baggage") != "" {
		t.Errorf("sent: %v", got)
	}
	if all := spans.GetSpans(); len(all) != 1 || all[0].Name != "prefix GET" {
		t.Errorf("spans: %v", all)
	}
}

func TestTransportError(t *testing.T) {
	environment(t, nil)
	spans := tracetest.NewInMemoryExporter()
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)))
	down := errors.New("down")
	rt := Transport(roundTripper(func(*http.Request) (*http.Response, error) { return nil, down }), "s3")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1/?sig=sekrit", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rt.RoundTrip(req); !errors.Is(err, down) {
		t.Errorf("error %v", err)
	}
	if n := len(spans.GetSpans()); n != 1 {
		t.Errorf("%d spans", n)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
