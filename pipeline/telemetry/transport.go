package telemetry

import (
	"context"
	"net/http"
	"net/url"
	"regexp"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Transport wraps base (nil is http.DefaultTransport) so that each request has a span "<upstream> <METHOD>" and counts in
// OpenTelemetry's HTTP client metrics. upstream is the service's name in the configuration ("fulcio", "rekor", "s3").
//
// Spans hold the URL without query, fragment and credentials, and with a channel token in the path ("/t/<token>/") masked:
// signed URLs and token endpoints never appear. The request that is sent is the caller's, with a traceparent header added
// (and no baggage: upstreams are strangers). Safe for concurrent use if base is.
func Transport(base http.RoundTripper, upstream string) http.RoundTripper {
	return transport(base, upstream, propagation.TraceContext{})
}

// Untold is Transport for the servers of strangers that count every header: none is added to what is sent.
func Untold(base http.RoundTripper, upstream string) http.RoundTripper {
	return transport(base, upstream, propagation.NewCompositeTextMapPropagator())
}

func transport(base http.RoundTripper, upstream string, told propagation.TextMapPropagator) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return &outer{otelhttp.NewTransport(&inner{base},
		otelhttp.WithPropagators(told),
		otelhttp.WithSpanNameFormatter(func(_ string, r *http.Request) string { return upstream + " " + r.Method }),
		otelhttp.WithSpanOptions(trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attribute.String(AttrUpstream, upstream))),
	)}
}

// outer shows the instrumentation a URL without secrets; inner puts the true one back.
type outer struct{ instrumented http.RoundTripper }

type inner struct{ base http.RoundTripper }

type trueURL struct{}

var pathToken = regexp.MustCompile(`/t/[^/]+/`)

func (o *outer) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL == nil {
		return o.instrumented.RoundTrip(r)
	}
	shown := r.WithContext(context.WithValue(r.Context(), trueURL{}, r.URL))
	shown.URL = &url.URL{Scheme: r.URL.Scheme, Host: r.URL.Host, Path: pathToken.ReplaceAllString(r.URL.Path, "/t/"+Masked+"/")}
	resp, err := o.instrumented.RoundTrip(shown)
	if resp != nil {
		resp.Request = r
	}
	return resp, err
}

func (i *inner) RoundTrip(r *http.Request) (*http.Response, error) {
	u, ok := r.Context().Value(trueURL{}).(*url.URL)
	if !ok {
		return i.base.RoundTrip(r)
	}
	sent := *r
	sent.URL = u
	return i.base.RoundTrip(&sent)
}
