// Package telemetry sets up traces, metrics and logs. Environment variables and calls of the pipeline flow in; spans,
// metrics and log records flow out, to wherever the standard OTEL_ variables say, and nowhere if none is set.
//
// Names of spans, attributes and metrics are in names.go and nowhere else.
package telemetry
