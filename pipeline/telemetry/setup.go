package telemetry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/stdout/stdoutlog"
	"go.opentelemetry.io/otel/exporters/stdout/stdoutmetric"
	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
	"go.opentelemetry.io/otel/propagation"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// Setup makes OpenTelemetry's global providers what the standard environment variables ask for, and W3C trace context and
// baggage the propagators. Call it once, at the start of a process; call shutdown before it ends, with a context that
// bounds how long what is left may take to be sent.
//
// A signal is off unless OTEL_{TRACES,METRICS,LOGS}_EXPORTER (otlp, console, none; for metrics prometheus too) or an endpoint
// (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_{TRACES,METRICS,LOGS}_ENDPOINT) asks for it; OTEL_SDK_DISABLED=true turns all
// off. The console is stderr, because stdout is for results. Sampling is OTEL_TRACES_SAMPLER's: for a campaign of
// many packages set it to parentbased_traceidratio. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES override service and version.
//
// An unusable variable is an error; an unreachable endpoint is not: it never holds up the pipeline.
func Setup(ctx context.Context, service, version string) (shutdown func(context.Context) error, err error) {
	return setup(ctx, service, version, os.Stderr)
}

func setup(ctx context.Context, service, version string, console io.Writer) (shutdown func(context.Context) error, err error) {
	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))
	var ends []func(context.Context) error
	stop := func(ctx context.Context) error {
		var errs []error
		for _, end := range ends {
			errs = append(errs, end(ctx))
		}
		ends = nil
		return errors.Join(errs...)
	}
	traces, metrics, logs := wanted("TRACES"), wanted("METRICS"), wanted("LOGS")
	if traces == off && metrics == off && logs == off {
		return stop, nil
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, stop(ctx))
		}
	}()
	res, err := resource.New(ctx, resource.WithTelemetrySDK(),
		resource.WithAttributes(attribute.String("service.name", service), attribute.String("service.version", version)),
		resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("reading OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}

	if traces != off {
		var exp sdktrace.SpanExporter
		if traces == toConsole {
			exp, err = stdouttrace.New(stdouttrace.WithWriter(console))
		} else {
			exp, err = autoexport.NewSpanExporter(ctx)
		}
		if err != nil {
			return nil, fmt.Errorf("setting up traces: %w", err)
		}
		p := sdktrace.NewTracerProvider(sdktrace.WithResource(res), sdktrace.WithBatcher(exp))
		ends = append(ends, p.Shutdown)
		otel.SetTracerProvider(p)
	}
	if metrics != off {
		var reader sdkmetric.Reader
		if metrics == toConsole {
			var exp sdkmetric.Exporter
			if exp, err = stdoutmetric.New(stdoutmetric.WithWriter(console)); err == nil {
				reader = sdkmetric.NewPeriodicReader(exp)
			}
		} else {
			reader, err = autoexport.NewMetricReader(ctx)
		}
		if err != nil {
			return nil, fmt.Errorf("setting up metrics: %w", err)
		}
		p := sdkmetric.NewMeterProvider(sdkmetric.WithResource(res), sdkmetric.WithReader(reader))
		ends = append(ends, p.Shutdown)
		otel.SetMeterProvider(p)
	}
	if logs != off {
		var exp sdklog.Exporter
		if logs == toConsole {
			exp, err = stdoutlog.New(stdoutlog.WithWriter(console))
		} else {
			exp, err = autoexport.NewLogExporter(ctx)
		}
		if err != nil {
			return nil, fmt.Errorf("setting up logs: %w", err)
		}
		p := sdklog.NewLoggerProvider(sdklog.WithResource(res), sdklog.WithProcessor(sdklog.NewBatchProcessor(exp)))
		ends = append(ends, p.Shutdown)
		otel.SetLoggerProvider(p)
	}
	return stop, nil
}

// What the environment wants of a signal.
const (
	off       = ""
	toConsole = "console"
	automatic = "automatic" // as autoexport reads the variables
)

func wanted(signal string) string {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return off
	}
	switch exporter := os.Getenv("OTEL_" + signal + "_EXPORTER"); exporter {
	case "none":
		return off
	case "console":
		return toConsole
	case "":
		if cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT"), os.Getenv("OTEL_EXPORTER_OTLP_"+signal+"_ENDPOINT")) == "" {
			return off
		}
	}
	return automatic
}
