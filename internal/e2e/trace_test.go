package e2e

import (
	"encoding/json"
	"io"
	"strings"
	"testing"
)

// TestTraces: one trace for each item, from the submission through every stage and upstream call; nothing secret in it.
func TestTraces(t *testing.T) {
	t.Parallel()
	packages := samples(t, 3, 51)
	p := newPlace(t)
	r := runEnv(t, append(append([]string{}, stack.env...), "OTEL_TRACES_EXPORTER=console"), programs.producer, p.publish(packages...)...).want(t, 0)
	decode[campaign](t, r) // stdout is still the result alone

	spans := map[string]map[string]int{} // names by trace
	rest := r.stderr
	for {
		i := strings.Index(rest, "{")
		if i < 0 {
			break
		}
		d := json.NewDecoder(strings.NewReader(rest[i:]))
		var s struct {
			Name        string
			SpanContext struct{ TraceID string }
		}
		if err := d.Decode(&s); err != nil && err != io.EOF {
			rest = rest[i+1:]
			continue
		}
		rest = rest[i+int(d.InputOffset()):]
		if s.SpanContext.TraceID != "" {
			if spans[s.SpanContext.TraceID] == nil {
				spans[s.SpanContext.TraceID] = map[string]int{}
			}
			spans[s.SpanContext.TraceID][s.Name]++
		}
	}
	items := 0
	for id, names := range spans {
		if names["send JOBS"] == 0 {
			continue // the certificate was fetched before there were items
		}
		items++
		for _, want := range []string{"send JOBS", "process hash", "hash", "sign", "tsa POST", "rekor POST", "upload", "publish"} {
			if names[want] != 1 {
				t.Errorf("trace %s has %d spans %q: %v", id, names[want], want, names)
			}
		}
	}
	if items != len(packages) {
		t.Errorf("%d traces of items for %d packages", items, len(packages))
	}
	for _, kv := range stack.env {
		if k, v, _ := strings.Cut(kv, "="); strings.HasSuffix(k, "TOKEN") && strings.Contains(r.stderr, v) {
			t.Errorf("the value of %s is in the traces", k)
		}
	}
	if strings.Contains(r.stderr, "eyJ") {
		t.Error("a token is in the traces")
	}
}
