package writers_test

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hallmark-attest/hallmark/internal/store/storetest"
)

// network is a bad one, in front of a good server.
type network struct {
	*httptest.Server
	target    string
	of        int // so many of how many requests meet a fault: see faults
	transport *http.Transport

	mu   sync.Mutex
	rng  *rand.Rand
	done tally
}

// tally counts what went through.
type tally struct {
	requests map[string]int // by kind
	faults   map[string]int // by fault
	lost     map[string]int // conditions that did not hold, as the server said, by kind
}

func (c tally) all(m map[string]int) (n int) {
	for _, v := range m {
		n += v
	}
	return n
}

func newNetwork(t *testing.T, s storetest.S3Server, seed uint64, of int) *network {
	t.Helper()
	n := &network{
		target:    strings.TrimPrefix(s.Endpoint, "http://"),
		of:        of,
		transport: &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true},
		rng:       rand.New(rand.NewPCG(seed, 1<<32)),
		done:      tally{map[string]int{}, map[string]int{}, map[string]int{}},
	}
	n.Server = httptest.NewServer(n)
	t.Cleanup(func() {
		n.Close()
		n.transport.CloseIdleConnections()
	})
	return n
}

func (n *network) tally() tally {
	n.mu.Lock()
	defer n.mu.Unlock()
	return tally{maps.Clone(n.done.requests), maps.Clone(n.done.faults), maps.Clone(n.done.lost)}
}

// faults are what may befall a request, each in so many of network.of.
var faults = []struct {
	name    string
	often   int
	befalls func(r *http.Request) bool
}{
	{"409 that asks to try again", 10, conditional},
	{"409", 10, conditional},
	{"412 without a cause", 15, conditional},
	{"503", 8, always},
	{"503 with Retry-After", 7, always},
	{"connection dropped before", 10, always},
	{"answer lost after the write", 20, conditional},
	{"answer broken off", 10, func(r *http.Request) bool { return r.Method == http.MethodGet }},
}

func always(*http.Request) bool { return true }
func conditional(r *http.Request) bool {
	return r.Method == http.MethodPut && (r.Header.Get("If-Match") != "" || r.Header.Get("If-None-Match") != "")
}

// fault draws one for a request, or none.
func (n *network) fault(r *http.Request) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.done.requests[kind(r)]++
	dice := n.rng.IntN(n.of)
	for _, f := range faults {
		if dice < f.often {
			if !f.befalls(r) {
				return ""
			}
			n.done.faults[f.name]++
			return f.name
		}
		dice -= f.often
	}
	return ""
}

// kind says what a request is about.
func kind(r *http.Request) string {
	base := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	what := "package"
	switch {
	case base == "repodata_shards.msgpack.zst":
		what = "index"
	case strings.Contains(r.URL.Path, "/shards/"):
		what = "shard"
	case strings.HasPrefix(base, "repodata") || base == "run_exports.json":
		what = "document"
	case strings.HasSuffix(base, ".sigs"):
		what = "sidecar"
	case strings.Contains(base, ".sigs."):
		what = "immutable sidecar"
	}
	return r.Method + " " + what
}

func (n *network) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	fault := n.fault(r)
	switch fault {
	case "409 that asks to try again":
		refuse(w, http.StatusConflict, "ConditionalRequestConflict")
		return
	case "409":
		refuse(w, http.StatusConflict, "OperationAborted")
		return
	case "412 without a cause":
		refuse(w, http.StatusPreconditionFailed, "PreconditionFailed")
		return
	case "503 with Retry-After":
		w.Header().Set("Retry-After", "1")
		fallthrough
	case "503":
		refuse(w, http.StatusServiceUnavailable, "SlowDown")
		return
	case "connection dropped before":
		panic(http.ErrAbortHandler)
	}
	out := r.Clone(r.Context())
	out.RequestURI = ""
	out.URL.Scheme, out.URL.Host = "http", n.target // Host stays, for it is signed
	out.Body, out.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	resp, err := n.transport.RoundTrip(out)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || fault == "answer lost after the write" {
		panic(http.ErrAbortHandler)
	}
	if code := resp.StatusCode; r.Method == http.MethodPut && (code == http.StatusPreconditionFailed || code == http.StatusConflict) {
		n.mu.Lock()
		n.done.lost[kind(r)]++
		n.mu.Unlock()
	}
	maps.Copy(w.Header(), resp.Header)
	w.WriteHeader(resp.StatusCode)
	if fault == "answer broken off" {
		w.Write(answer[:len(answer)/2])
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	w.Write(answer)
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>Said by the network.</Message></Error>`, code)
}

// log says what it cost.
func (c tally) log(t *testing.T, packages int, outcomes []outcome) {
	t.Helper()
	var sum outcome
	var slowest time.Duration
	for _, o := range outcomes {
		sum.Packages += o.Packages
		sum.Updates += o.Updates
		sum.Outages += o.Outages
		slowest = max(slowest, o.Elapsed)
	}
	n := c.all(c.requests)
	t.Logf("%d packages, %d uploads, %d updates by %d writers in %s: %d requests, %.2f per package; %d faults; %d calls made again after an outage",
		packages, sum.Packages, sum.Updates, len(outcomes), slowest.Round(time.Second/10), n, float64(n)/float64(packages), c.all(c.faults), sum.Outages)
	for what, m := range map[string]map[string]int{"requests": c.requests, "faults": c.faults, "conditions that did not hold": c.lost} {
		line := what + ":"
		for _, k := range slices.Sorted(maps.Keys(m)) {
			line += fmt.Sprintf(" %s %d;", k, m[k])
		}
		t.Log(line)
	}
}
