package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	mrand "math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// house is everything that runs, and what is known of it.
type house struct {
	plan
	rng *mrand.Rand

	bin      map[string]string
	sigstore *process
	s3       *process
	nodes    []*node
	workers  []*process
	proxies  []*proxy // of HTTP servers

	rekor                 *proxy
	stackDir, trustedRoot string
	identity, issuer      string
	env                   []string // of commands and workers: everything by way of the proxies
	direct                []string // of the checks afterwards: no proxy
	natsURL               string
	bucket                string // the folder behind the S3 server

	did    map[string]int // what was done to whom
	kills  atomic.Int64   // of workers
	stops  atomic.Int64   // of workers and of the private Sigstore, each long enough for a client to give up
	broken []string
	totals totals
}

// totals are the figures of all campaigns.
type totals struct {
	campaigns, packages, entries, duplicates int
	began                                    time.Time
}

// signing and uploading are how many items are in these stages of a worker at once: few, so that a campaign lasts long enough
// for something to happen to it.
const signing, uploading = 8, 8

// node is one server of the NATS cluster, with the wires that lead to it.
type node struct {
	process
	health string  // where it says whether all that it holds is up to date
	client *wire   // from workers and commands
	routes []*wire // from the other nodes, and to them
}

func open(ctx context.Context, p plan) (h *house, err error) {
	h = &house{plan: p, rng: mrand.New(mrand.NewPCG(p.seed, 1)), bin: map[string]string{}, did: map[string]int{}, totals: totals{began: time.Now()}}
	defer func() {
		if err != nil {
			h.close()
		}
	}()
	for _, dir := range []string{"bin", "log", "s3"} {
		if err := os.MkdirAll(filepath.Join(p.dir, dir), 0o755); err != nil {
			return h, err
		}
	}
	for _, step := range []func(context.Context) error{h.build, h.startSigstore, h.startS3, h.startNATS, h.startWorkers} {
		if err := step(ctx); err != nil {
			return h, err
		}
	}
	return h, nil
}

func (h *house) path(elem ...string) string {
	return filepath.Join(append([]string{h.dir}, elem...)...)
}

func (h *house) logOf(name string) string { return h.path("log", name+".log") }

func (h *house) build(ctx context.Context) error {
	fmt.Println("building the commands and the servers; the first time takes some minutes")
	builds := map[string][]string{
		"producer":    {"./cmd/producer"},
		"worker":      {"./cmd/worker"},
		"nats-server": {"github.com/nats-io/nats-server/v2"},
		"sigstore":    {"-C", "deploy/sigstore", "."},
		"s3":          {"-C", "deploy/s3", "."},
		"cosign":      {"-C", ".ci/cosign", "github.com/sigstore/cosign/v3/cmd/cosign"},
	}
	const checker = "../shared/tools/channelcheck" // an independent reader of channels, where it is there
	if _, err := os.Stat(filepath.Join(root(), checker)); err == nil {
		builds["channelcheck"] = []string{"-C", checker, "."}
	}
	for _, name := range slices.Sorted(maps.Keys(builds)) {
		h.bin[name] = h.path("bin", name)
		args := builds[name]
		flags, target := args[:len(args)-1], args[len(args)-1]
		c := exec.CommandContext(ctx, "go", slices.Concat([]string{"build"}, flags, []string{"-o", h.bin[name], target})...)
		c.Dir = root()
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("building %s: %w\n%s", name, err, out)
		}
	}
	return nil
}

// root is the folder of the repository, from wherever in it the program is run.
func root() string {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/hallmark-attest/hallmark").Output()
	if err != nil {
		return "."
	}
	return strings.TrimSpace(string(out))
}

func (h *house) startSigstore(ctx context.Context) error {
	h.stackDir = h.path("sigstore")
	ready := filepath.Join(h.stackDir, "ready")
	h.sigstore = &process{name: "sigstore", program: h.bin["sigstore"], log: h.logOf("sigstore"),
		args: []string{"up", "--json", "--checkpoint-interval", "500ms", h.stackDir},
		ready: func(ctx context.Context) error {
			return until(ctx, time.Minute, func(context.Context) error { _, err := os.Stat(ready); return err })
		}}
	if err := h.sigstore.start(ctx); err != nil {
		return err
	}
	b, err := os.ReadFile(h.sigstore.log)
	if err != nil {
		return err
	}
	var s struct {
		TrustedRoot   string            `json:"trusted_root"`
		SigningConfig string            `json:"signing_config"`
		Identity      string            `json:"identity"`
		Issuer        string            `json:"issuer"`
		URLs          map[string]string `json:"urls"`
	}
	at := bytes.IndexByte(b, '{')
	if at < 0 {
		return fmt.Errorf("the private Sigstore does not say what it is: %s", b)
	}
	if err := json.NewDecoder(bytes.NewReader(b[at:])).Decode(&s); err != nil {
		return fmt.Errorf("reading what the private Sigstore says: %w", err)
	}
	h.trustedRoot, h.identity, h.issuer = s.TrustedRoot, s.Identity, s.Issuer
	config, err := os.ReadFile(s.SigningConfig)
	if err != nil {
		return err
	}
	for _, name := range []string{"fulcio", "rekor", "tsa"} {
		base := s.URLs[name]
		if scheme, rest, ok := strings.Cut(base, "://"); ok {
			host, _, _ := strings.Cut(rest, "/")
			base = scheme + "://" + host
		}
		p, err := newProxy(name, base, h.seed)
		if err != nil {
			return err
		}
		h.proxies = append(h.proxies, p)
		if name == "rekor" {
			h.rekor = p
		}
		if !bytes.Contains(config, []byte(base)) {
			return fmt.Errorf("the signing config does not name %s", base)
		}
		config = bytes.ReplaceAll(config, []byte(base), []byte(p.url))
	}
	proxied := h.path("signing_config.json")
	if err := os.WriteFile(proxied, config, 0o644); err != nil {
		return err
	}
	env, err := os.ReadFile(filepath.Join(h.stackDir, "env"))
	if err != nil {
		return err
	}
	for l := range strings.Lines(string(env)) {
		if kv, ok := strings.CutPrefix(strings.TrimSpace(l), "export "); ok && strings.HasPrefix(kv, "ACTIONS_") {
			k, v, _ := strings.Cut(kv, "=")
			h.env = append(h.env, k+"="+strings.Trim(v, `'"`))
		}
	}
	h.env = append(h.env, "HALLMARK_TRUSTED_ROOT="+h.trustedRoot, "HALLMARK_SIGNING_CONFIG="+proxied)
	return nil
}

func (h *house) startS3(ctx context.Context) error {
	addr, err := freeAddress()
	if err != nil {
		return err
	}
	keys := []string{"AWS_ACCESS_KEY_ID=chaos", "AWS_SECRET_ACCESS_KEY=" + rand.Text()}
	h.bucket = h.path("s3", "channel")
	h.s3 = &process{name: "s3", program: h.bin["s3"], log: h.logOf("s3"), env: keys,
		args: []string{"--root", h.path("s3"), "--addr", addr, "--bucket", "channel"},
		ready: func(ctx context.Context) error {
			return until(ctx, 30*time.Second, func(ctx context.Context) error {
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/healthz", nil)
				if err != nil {
					return err
				}
				resp, err := http.DefaultClient.Do(req)
				if err == nil {
					resp.Body.Close()
				}
				return err
			})
		}}
	if err := h.s3.start(ctx); err != nil {
		return err
	}
	p, err := newProxy("s3", "http://"+addr, h.seed)
	if err != nil {
		return err
	}
	h.proxies = append(h.proxies, p)
	keys = append(keys, "AWS_REGION=us-east-1", "AWS_EC2_METADATA_DISABLED=true")
	h.direct = append(slices.Clone(keys), "AWS_ENDPOINT_URL_S3=http://"+addr)
	h.env = append(append(h.env, keys...), "AWS_ENDPOINT_URL_S3="+p.url)
	return nil
}

// startNATS starts three servers. What goes to one of them, from clients and from the others, goes over wires.
func (h *house) startNATS(ctx context.Context) error {
	const n = 3
	var clients, clusters []string
	for i := range n {
		c, err := freeAddress()
		if err != nil {
			return err
		}
		r, err := freeAddress()
		if err != nil {
			return err
		}
		w, err := newWire(fmt.Sprintf("clients to n%d", i+1), c)
		if err != nil {
			return err
		}
		clients, clusters = append(clients, c), append(clusters, r)
		h.nodes = append(h.nodes, &node{client: w})
	}
	var urls []string
	for i, nd := range h.nodes {
		name := fmt.Sprintf("n%d", i+1)
		var routes []string
		for j := range n {
			if i == j {
				continue
			}
			w, err := newWire(fmt.Sprintf("n%d to n%d", i+1, j+1), clusters[j])
			if err != nil {
				return err
			}
			h.nodes[i].routes, h.nodes[j].routes = append(h.nodes[i].routes, w), append(h.nodes[j].routes, w)
			routes = append(routes, "nats-route://"+w.addr())
		}
		monitor, err := freeAddress()
		if err != nil {
			return err
		}
		nd.health = "http://" + monitor + "/healthz"
		config := fmt.Sprintf(`server_name: %s
listen: %s
http: %s
client_advertise: "%s"
jetstream { store_dir: "%s", sync_interval: always, max_file_store: 4G }
cluster { name: chaos, listen: "%s", no_advertise: true, routes: [%s] }
`, name, clients[i], monitor, nd.client.addr(), h.path(name), clusters[i], strings.Join(routes, ", "))
		file := h.path(name + ".conf")
		if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
			return err
		}
		nd.process = process{name: name, program: h.bin["nats-server"], args: []string{"-c", file}, log: h.logOf(name), ready: listens(clients[i])}
		urls = append(urls, "nats://"+nd.client.addr())
	}
	for _, nd := range h.nodes {
		if err := nd.start(ctx); err != nil {
			return err
		}
	}
	h.natsURL = strings.Join(urls, ",")
	return nil
}

// healed waits until every NATS server has what the others have, for some time at most. Three replicas stand the loss of one: while
// another one is still catching up, the loss of the third is not theirs to stand.
func (h *house) healed(ctx context.Context) error {
	for _, nd := range h.nodes {
		if err := until(ctx, 2*time.Minute, func(ctx context.Context) error {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, nd.health, nil)
			if err != nil {
				return err
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				b, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
				return fmt.Errorf("%s: %s", resp.Status, b)
			}
			return nil
		}); err != nil {
			return fmt.Errorf("NATS server %s does not catch up with the others: %w (its log is %s)", nd.name, err, nd.log)
		}
	}
	return nil
}

func (h *house) startWorkers(ctx context.Context) error {
	// The first one creates the streams, which takes a moment after the cluster has found itself.
	if err := until(ctx, time.Minute, func(ctx context.Context) error {
		_, said, err := output(ctx, h.env, h.bin["producer"], "status", "--json", "--nats", h.natsURL, "--replicas", "3")
		if err != nil {
			return fmt.Errorf("%w: %s", err, said)
		}
		return nil
	}); err != nil {
		return fmt.Errorf("the NATS cluster does not get ready: %w", err)
	}
	for i := range h.plan.workers {
		name := fmt.Sprintf("worker%d", i+1)
		w := &process{name: name, program: h.bin["worker"], env: h.env, log: h.logOf(name),
			args: []string{"--nats", h.natsURL, "--replicas", "3", "--log-level", "INFO",
				"--concurrency", fmt.Sprintf("sign=%d;upload=%d", signing, uploading)}}
		h.workers = append(h.workers, w)
		if err := w.start(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (h *house) close() {
	for _, w := range h.workers {
		w.end(30 * time.Second)
	}
	for _, nd := range h.nodes {
		nd.end(10 * time.Second)
		nd.client.close()
	}
	for _, nd := range h.nodes {
		for _, w := range nd.routes {
			w.close()
		}
	}
	for _, p := range []*process{h.s3, h.sigstore} {
		if p != nil {
			p.end(20 * time.Second)
		}
	}
	for _, p := range h.proxies {
		p.close()
	}
}

// fail notes an invariant that did not hold.
func (h *house) fail(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	h.broken = append(h.broken, s)
	fmt.Println("BROKEN:", s)
}

// report prints the figures of all campaigns.
func (h *house) report() error {
	t := h.totals
	fmt.Printf("\nseed %d, %d campaigns of %d packages in %s\n", h.seed, t.campaigns, h.packages, time.Since(t.began).Round(time.Second))
	fmt.Println("done to processes and connections:")
	for _, k := range slices.Sorted(maps.Keys(h.did)) {
		fmt.Printf("  %5d  %s\n", h.did[k], k)
	}
	fmt.Println("done to requests:")
	for _, p := range h.proxies {
		p.mu.Lock()
		n := 0
		for _, c := range p.counts {
			n += c
		}
		fmt.Printf("  %-7s %d of %d requests met a fault; %d were carried out and not answered\n", p.name, n, p.total, p.lost.Load())
		for _, k := range slices.Sorted(maps.Keys(p.counts)) {
			fmt.Printf("  %5d  %s\n", p.counts[k], k)
		}
		p.mu.Unlock()
	}
	fmt.Printf("packages: %d published, each once, with the bytes that were submitted\n", t.packages)
	fmt.Printf("log entries: %d, of which %d double\n", t.entries, t.duplicates)
	if len(h.broken) > 0 {
		for _, s := range h.broken {
			fmt.Println("BROKEN:", s)
		}
		return fmt.Errorf("%d %w", len(h.broken), errBroken)
	}
	fmt.Println("every invariant held")
	return nil
}

// exitCode is the exit code in the error of a program that ran; -1 if it did not.
func exitCode(err error) int {
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return e.ExitCode()
	}
	if err == nil {
		return 0
	}
	return -1
}
