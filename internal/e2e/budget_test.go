package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// counter is a proxy before the services of the shared Sigstore that notes when each is asked.
type counter struct {
	mu    sync.Mutex
	times map[string][]time.Time
	env   []string // sends signers here
}

func newCounter(t *testing.T, services ...string) *counter {
	t.Helper()
	c := &counter{times: map[string][]time.Time{}}
	config, err := os.ReadFile(stack.SigningConfig)
	if err != nil {
		t.Fatal(err)
	}
	text := string(config)
	for _, name := range services {
		target, err := url.Parse(stack.URLs[name])
		if err != nil || target.Host == "" {
			t.Fatalf("the private Sigstore has no %s: %v", name, stack.URLs)
		}
		target.Path = ""
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c.mu.Lock()
			c.times[name] = append(c.times[name], time.Now())
			c.mu.Unlock()
			(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(target) }}).ServeHTTP(w, r)
		}))
		t.Cleanup(proxy.Close)
		if !strings.Contains(text, target.String()) {
			t.Fatalf("the signing config does not name %s", target)
		}
		text = strings.ReplaceAll(text, target.String(), proxy.URL)
	}
	file := filepath.Join(t.TempDir(), "signing_config.json")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	c.env = append(slices.Clone(stack.env), "HALLMARK_SIGNING_CONFIG="+file)
	return c
}

func (c *counter) of(service string) []time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.times[service])
}

// most is the largest number of times in any window.
func most(times []time.Time, window time.Duration) int {
	n, first := 0, 0
	for i, u := range times {
		for !times[first].After(u.Add(-window)) {
			first++
		}
		n = max(n, i-first+1)
	}
	return n
}

// TestRateBudget: two workers share a budget of requests to the log and to the timestamp authority, as these see it; one of
// them ends; then the budget is taken away while they work. With HALLMARK_LONG it goes on for more than a minute, what
// is looked at is the minute that the budget is for, and the one that ends is killed.
func TestRateBudget(t *testing.T) {
	t.Parallel()
	n, slow, window := 60, 24, 5*time.Second
	if os.Getenv("HALLMARK_LONG") != "" {
		n, slow, window = 200, 160, time.Minute
	}
	const perMinute = 120
	// No more than three at once, and two and a quarter seconds' worth more for a lease (see pipeline/queue): for a minute
	// that is the budget itself, and 5 % for what the network and a busy machine add.
	limit := min(3+int((window.Seconds()+2)*118/62), perMinute) * 105 / 100
	packages := samples(t, n, 71)
	p := newPlace(t)
	upstreams := newCounter(t, "rekor", "tsa", "fulcio")
	address := freeAddress(t)
	nats := "nats://" + address
	server := startWorker(t, stack.env, "--listen", address, "--state", p.state, "--stages", "hash")
	waitForServer(t, nats)
	run(t, programs.producer, "campaign", "rate", "--nats", nats, "--deployment", "timestamp=150").want(t, 0)
	args := []string{"submit", "--json", "--nats", nats, "--to", p.channel, "--channel-url", channelURL, "--campaign", "slow", "--rate", fmt.Sprintf("rekor=%d", perMinute),
		"--certificate-identity", stack.Identity, "--certificate-oidc-issuer", stack.Issuer, "--cut", "sign,upload"}
	run(t, programs.producer, append(args, packages...)...).want(t, 0)
	sign := startWorker(t, upstreams.env, "--nats", nats, "--stages", "sign", "--max-items", "16")
	second := startWorker(t, upstreams.env, "--nats", nats, "--stages", "sign", "--max-items", "16")
	upload := startWorker(t, stack.env, "--nats", nats, "--stages", "upload,publish")

	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	until := func(k int) {
		t.Helper()
		for range 20 * 300 {
			if len(upstreams.of("rekor")) >= k {
				return
			}
			<-tick.C
		}
		t.Fatalf("the log was asked %d times in five minutes, want %d", len(upstreams.of("rekor")), k)
	}
	until(slow / 2)
	type budgets struct {
		Budgets []struct {
			Upstream           string
			PerMinute, Granted int
			Takers             []struct{ Worker string }
		}
	}
	b := decode[budgets](t, run(t, programs.producer, "campaign", "rate", "--json", "--nats", nats, "slow").want(t, 0)).Budgets
	if len(b) != 1 || b[0].Upstream != "rekor" || b[0].PerMinute != perMinute || len(b[0].Takers) != 2 || b[0].Granted < min(slow, perMinute)/2 {
		t.Errorf("in the middle the budgets are %+v", b)
	}
	if os.Getenv("HALLMARK_LONG") != "" {
		_ = second.cmd.Process.Kill() // its items come again after a minute
	} else {
		second.stop(t)
	}
	until(slow)
	rekor, tsa := upstreams.of("rekor"), upstreams.of("tsa")
	t.Logf("the log was asked %d times in %v, at most %d times in any %v; timestamp authority %d, at most %d", len(rekor),
		rekor[len(rekor)-1].Sub(rekor[0]).Round(time.Millisecond), most(rekor, window), window, len(tsa), most(tsa, window))
	if k := most(rekor, window); k > limit {
		t.Errorf("the log was asked %d times within %v, want at most %d", k, window, limit)
	}
	if k := most(tsa, window); k > limit*5/4+1 {
		t.Errorf("the timestamp authority was asked %d times within %v", k, window)
	}
	r := run(t, programs.producer, "campaign", "rate", "--nats", nats, "slow", "rekor=none").want(t, 0)
	if !strings.Contains(r.stdout, "nothing is limited") {
		t.Errorf("without a budget it says %s", r.stdout)
	}
	run(t, programs.producer, "campaign", "rate", "--nats", nats, "--deployment", "timestamp=none").want(t, 0)
	st := waitForStatus(t, nats, "slow", func(c campaign) bool { return c.Waiting == 0 })
	if st.Published != n {
		t.Errorf("%+v", st)
	}
	check(t, p.channel, n, subdirs(t, p.channel)...)
	for _, w := range []*workerProcess{sign, upload, server} {
		w.stop(t)
	}
}
