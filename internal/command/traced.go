package command

import (
	"net/http"
	"time"

	"github.com/hallmark-attest/hallmark/pipeline/telemetry"
)

// Traced is a transport for an upstream that is called by hundreds of items at once, with a span for each call.
func Traced(upstream string) http.RoundTripper {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConns = 0 // no bound but the host's
	t.MaxIdleConnsPerHost = 128
	t.IdleConnTimeout = 90 * time.Second
	return telemetry.Transport(t, upstream)
}
