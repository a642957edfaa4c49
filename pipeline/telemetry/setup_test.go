package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	lognoop "go.opentelemetry.io/otel/log/noop"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

// environment clears what the outside may have set and puts the global providers back afterwards.
func environment(t *testing.T, set map[string]string) {
	t.Helper()
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "OTEL_") {
			t.Setenv(name, "")
		}
	}
	for k, v := range set {
		t.Setenv(k, v)
	}
	otel.SetTracerProvider(tracenoop.NewTracerProvider())
	otel.SetMeterProvider(metricnoop.NewMeterProvider())
	otel.SetLoggerProvider(lognoop.NewLoggerProvider())
	t.Cleanup(func() {
		otel.SetTracerProvider(tracenoop.NewTracerProvider())
		otel.SetMeterProvider(metricnoop.NewMeterProvider())
		otel.SetLoggerProvider(lognoop.NewLoggerProvider())
	})
}

func TestWanted(t *testing.T) {
	for _, tc := range []struct {
		env                   map[string]string
		traces, metrics, logs string
	}{
		{nil, off, off, off},
		{map[string]string{"OTEL_SERVICE_NAME": "x", "OTEL_TRACES_SAMPLER": "always_on"}, off, off, off},
		{map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, automatic, automatic, automatic},
		{map[string]string{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:1"}, off, automatic, off},
		{map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_LOGS_EXPORTER": "none"}, automatic, automatic, off},
		{map[string]string{"OTEL_TRACES_EXPORTER": "console", "OTEL_METRICS_EXPORTER": "prometheus", "OTEL_LOGS_EXPORTER": "otlp"}, toConsole, automatic, automatic},
		{map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"}, off, off, off},
	} {
		environment(t, tc.env)
		if a, b, c := wanted("TRACES"), wanted("METRICS"), wanted("LOGS"); a != tc.traces || b != tc.metrics || c != tc.logs {
			t.Errorf("%v: traces %q, metrics %q, logs %q", tc.env, a, b, c)
		}
		for k := range tc.env {
			t.Setenv(k, "")
		}
	}
}

// TestOffByDefault: with no variable set, nothing is recorded and nothing is sent.
func TestOffByDefault(t *testing.T) {
	environment(t, nil)
	shutdown, err := Setup(t.Context(), "hallmark", "1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	_, span := otel.Tracer("x").Start(t.Context(), "x")
	if span.IsRecording() || span.SpanContext().IsValid() {
		t.Error("a span is recorded")
	}
	if err := shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	// The propagators are there all the same: a trace that others started goes on.
	h := propagation.MapCarrier{"traceparent": "00-01020300000000000000000000000000-0405060000000000-01"}
	if !trace.SpanContextFromContext(otel.GetTextMapPropagator().Extract(t.Context(), h)).IsValid() {
		t.Error("no propagator")
	}
}

// TestConsole: each signal alone, and each with the service's name and version.
func TestConsole(t *testing.T) {
	for _, signal := range []string{"TRACES", "METRICS", "LOGS"} {
		environment(t, map[string]string{"OTEL_" + signal + "_EXPORTER": "console"})
		var out bytes.Buffer
		shutdown, err := setup(t.Context(), "hallmark", "1.2.3", &out)
		if err != nil {
			t.Fatal(err)
		}
		ctx, span := otel.Tracer("x").Start(t.Context(), "mark TRACES")
		span.End()
		m, err := NewMeters()
		if err != nil {
			t.Fatal(err)
		}
		m.StageDone(ctx, "mark METRICS", nil, time.Second, nil)
		Logger(&bytes.Buffer{}, slog.LevelInfo, true).InfoContext(ctx, "mark LOGS", "token", "sekrit")
		if err := shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{"TRACES", "METRICS", "LOGS"} {
			if got := strings.Contains(out.String(), "mark "+s); got != (s == signal) {
				t.Errorf("%s on the console: has %s: %t\n%s", signal, s, got, out.String())
			}
		}
		for _, want := range []string{"service.name", "hallmark", "service.version", "1.2.3"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s on the console: no %s", signal, want)
			}
		}
		if strings.Contains(out.String(), "sekrit") {
			t.Error("a secret in an OTEL log record")
		}
		t.Setenv("OTEL_"+signal+"_EXPORTER", "")
	}
}

// TestOTLP: an endpoint alone turns the signals on; they arrive there.
func TestOTLP(t *testing.T) {
	paths := make(chan string, 100)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { paths <- r.URL.Path }))
	defer s.Close()
	environment(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": s.URL, "OTEL_SERVICE_NAME": "other"})
	shutdown, err := Setup(t.Context(), "hallmark", "1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	ctx, span := otel.Tracer("x").Start(t.Context(), "x")
	span.End()
	m, err := NewMeters()
	if err != nil {
		t.Fatal(err)
	}
	m.StageDone(ctx, "x", nil, time.Second, nil)
	Logger(&bytes.Buffer{}, slog.LevelInfo, true).InfoContext(ctx, "x")
	if err := shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(paths)
	seen := map[string]bool{}
	for p := range paths {
		seen[p] = true
	}
	for _, p := range []string{"/v1/traces", "/v1/metrics", "/v1/logs"} {
		if !seen[p] {
			t.Errorf("nothing came to %s: %v", p, seen)
		}
	}
}

func TestSetupRefuses(t *testing.T) {
	for name, env := range map[string]map[string]string{
		"unknown exporter": {"OTEL_TRACES_EXPORTER": "pigeon"},
		"unknown protocol": {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "pigeon"},
		"second one bad":   {"OTEL_TRACES_EXPORTER": "console", "OTEL_METRICS_EXPORTER": "pigeon"},
	} {
		environment(t, env)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if shutdown, err := setup(ctx, "hallmark", "1", &bytes.Buffer{}); err == nil || shutdown != nil {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
		for k := range env {
			t.Setenv(k, "")
		}
	}
}

func TestLogger(t *testing.T) {
	environment(t, nil)
	var out bytes.Buffer
	log := Logger(&out, slog.LevelInfo, true)
	ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}}))
	log.DebugContext(ctx, "not this")
	log.With("id_token", "s1", "campaign", "c").WithGroup("http").InfoContext(ctx, "sent Bearer s2s2 to https://u:s3@h/",
		"Authorization", "s4", "url", "https://h/x?a=b&X-Amz-Signature=s5s5&c=d", slog.Group("g", "client_secret", "s6", "n", 7),
		"error", errText("id eyJhbGciOi.s7s7.s7"), "accessKey", 8, "key", "linux-64/x.conda")
	var got map[string]any
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	delete(got, "time")
	want := `{"campaign":"c","http":{"Authorization":"[masked]","accessKey":"[masked]","error":"id [masked]","g":{"client_secret":"[masked]","n":7},` +
		`"key":"linux-64/x.conda","span_id":"0200000000000000","trace_id":"01000000000000000000000000000000","url":"https://h/x?a=b&X-Amz-Signature=[masked]&c=d"},` +
		`"id_token":"[masked]","level":"INFO","msg":"sent [masked] to https://[masked]@h/"}`
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(got); err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(b.String()) != want {
		t.Errorf("got  %s\nwant %s", b.String(), want)
	}

	out.Reset()
	Logger(&out, slog.LevelWarn, false).Warn("plain", "n", 1)
	if !strings.Contains(out.String(), "level=WARN msg=plain n=1\n") {
		t.Errorf("text form: %s", out.String())
	}
}

type errText string

func (e errText) Error() string { return string(e) }
