package sign

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sigstore/sigstore-go/pkg/root"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/hallmark-attest/hallmark/internal/attest"
)

// TestOverConnections signs over real connections with the signer's own transport, some of which the servers cut.
func TestOverConnections(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c := f.config(t, 2)
	c.Transport = nil
	var cut atomic.Int64
	serve := func(host string) string {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if cut.Add(1)%7 == 0 {
				panic(http.ErrAbortHandler) // closes the connection
			}
			r.URL.Host = host
			resp, err := f.RoundTrip(r)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			w.WriteHeader(resp.StatusCode)
			_, _ = io.Copy(w, resp.Body)
		}))
		t.Cleanup(srv.Close)
		return srv.URL
	}
	at := func(services []root.Service, host string) []root.Service {
		base := must(url.Parse(serve(host)))(t)
		for i := range services {
			u := must(url.Parse(services[i].URL))(t)
			u.Scheme, u.Host = base.Scheme, base.Host
			services[i].URL = u.String()
		}
		return services
	}
	c.Trust.Current().SigningConfig.WithFulcioCertificateAuthorityURLs(at(c.Trust.Current().SigningConfig.FulcioCertificateAuthorityURLs(), fulcioHost)...)
	c.Trust.Current().SigningConfig.WithTimestampAuthorityURLs(at(c.Trust.Current().SigningConfig.TimestampAuthorityURLs(), tsaHost)...)
	c.Trust.Current().SigningConfig.WithRekorLogURLs(at(c.Trust.Current().SigningConfig.RekorLogURLs(), rekorHost)...)
	s := newSigner(t, c)
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() {
			b, err := s.Sign(t.Context(), testStatement(t))
			if err != nil {
				t.Error(err)
				return
			}
			verified(t, f, b)
		})
	}
	wg.Wait()
	if st := s.Stats(); st.Retries == 0 || st.LogEntries != 30 {
		t.Errorf("stats %+v: want 30 log entries and some retries", st)
	}
}

// TestSpans: each request has a span below the caller's, and tells the third party nothing of it.
func TestSpans(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.fault = func(service string, n int, r *http.Request) (*http.Response, error) {
		if r.Header.Get("Traceparent") != "" {
			t.Errorf("%s was told of the trace", service)
		}
		if service == serviceRekor && n == 1 {
			return answer(503, ""), nil
		}
		return nil, nil
	}
	spans := tracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("test")
	ctx, parent := tracer.Start(t.Context(), "sign")
	if _, err := newSigner(t, f.config(t, 2)).Sign(ctx, testStatement(t)); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range spans.Ended() {
		if s.Parent().SpanID() != parent.SpanContext().SpanID() {
			t.Errorf("span %s is not the caller's child", s.Name())
		}
		names = append(names, s.Name())
	}
	if diff := cmp.Diff([]string{"fulcio POST", "tsa POST", "rekor POST", "rekor POST"}, names); diff != "" {
		t.Errorf("spans: -want +got:\n%s", diff)
	}
}

var _ Verifier = (*attest.Verifier)(nil)
