package command

import (
	"net/http"

	"github.com/hallmark-attest/hallmark/internal/store"
	"github.com/hallmark-attest/hallmark/pipeline/telemetry"
)

// Traced is the transport to a store, with a span for each request.
func Traced(upstream string) http.RoundTripper {
	return telemetry.Transport(store.NewTransport(), upstream)
}
