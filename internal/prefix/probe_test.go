package prefix_test

import (
	"errors"
	"testing"

	"github.com/hallmark-attest/hallmark/internal/prefix"
	"github.com/hallmark-attest/hallmark/internal/prefix/prefixtest"
)

// TestProbe: what an upload would be answered, without one.
func TestProbe(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	if err := b.client.Probe(t.Context()); err != nil {
		t.Error(err)
	}
	for code, want := range map[int]error{401: prefix.ErrIdentity, 403: prefix.ErrForbidden, 404: prefix.ErrChannel, 302: prefix.ErrChannel} {
		b.server.Fail(prefixtest.Fault{On: prefixtest.Probe, Status: code})
		if err := b.client.Probe(t.Context()); !errors.Is(err, want) {
			t.Errorf("%d: %v", code, err)
		}
	}
	for _, code := range []int{400, 409, 413} {
		b.server.Fail(prefixtest.Fault{On: prefixtest.Probe, Status: code})
		if err := b.client.Probe(t.Context()); err != nil {
			t.Errorf("%d: %v", code, err)
		}
	}
	b.server.Fail(prefixtest.Fault{On: prefixtest.Probe, Status: 503}, prefixtest.Fault{On: prefixtest.Probe})
	if err := b.client.Probe(t.Context()); err != nil || len(b.paused()) != 2 {
		t.Errorf("an outage: %v, paused %v", err, b.paused())
	}
	b.connect(t, func(c *prefix.Config) { c.Channel = "another" })
	if err := b.client.Probe(t.Context()); !errors.Is(err, prefix.ErrChannel) {
		t.Errorf("another channel: %v", err)
	}
	b.connect(t, func(c *prefix.Config) { c.Tokens = nil })
	if err := b.client.Probe(t.Context()); !errors.Is(err, prefix.ErrIdentity) {
		t.Errorf("no token: %v", err)
	}
	if n := len(b.server.Requests(prefixtest.Upload)); n != 0 {
		t.Errorf("%d uploads", n)
	}
}
