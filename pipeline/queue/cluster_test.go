package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const nodeEnv = "HALLMARK_QUEUE_TEST_NODE" // a configuration file

// runNode is a stock server in a process of its own, so that it can be killed.
func runNode(config string) int {
	o, err := server.ProcessConfigFile(config)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	o.LogFile = config + ".log"
	s, err := server.NewServer(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	s.ConfigureLogger()
	s.Start()
	s.WaitForShutdown() // SIGTERM ends it, as ever
	return 0
}

// cluster is three servers on loopback. Its methods are for one goroutine.
type cluster struct {
	t     *testing.T
	nodes []*clusterNode
}

type clusterNode struct {
	name, config, url string
	cmd               *exec.Cmd // nil while it is away
}

// newCluster starts three servers that sync always.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	dir := t.TempDir()
	ports := freePorts(t, 6)
	var routes []string
	for _, p := range ports[3:] {
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", p))
	}
	c := &cluster{t: t}
	for k := range 3 {
		n := &clusterNode{name: fmt.Sprintf("n%d", k+1), url: fmt.Sprintf("nats://127.0.0.1:%d", ports[k])}
		n.config = filepath.Join(dir, n.name+".conf")
		text := fmt.Sprintf(`server_name: %s
listen: "127.0.0.1:%d"
jetstream { store_dir: %q, sync_interval: always, max_file_store: 2G }
cluster { name: lab, listen: "127.0.0.1:%d", routes: [%s] }
`, n.name, ports[k], filepath.Join(dir, n.name), ports[3+k], strings.Join(routes, ", "))
		if err := os.WriteFile(n.config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c.nodes = append(c.nodes, n)
	}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			if n.cmd != nil {
				c.kill(n)
			}
			if t.Failed() && testing.Verbose() {
				log, _ := os.ReadFile(n.config + ".log")
				lines := strings.Split(strings.TrimSpace(string(log)), "\n")
				t.Logf("the end of the log of %s:\n%s", n.name, strings.Join(lines[max(0, len(lines)-15):], "\n"))
			}
		}
	})
	for _, n := range c.nodes {
		c.start(n)
	}
	return c
}

// freePorts are ports that are free now.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	var out []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // all are held until all are known
		out = append(out, l.Addr().(*net.TCPAddr).Port)
	}
	return out
}

func (c *cluster) urls() string {
	var out []string
	for _, n := range c.nodes {
		out = append(out, n.url)
	}
	return strings.Join(out, ",")
}

func (c *cluster) start(n *clusterNode) {
	c.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), nodeEnv+"="+n.config)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	n.cmd = cmd
}

// kill ends a node without a word.
func (c *cluster) kill(n *clusterNode) {
	c.t.Helper()
	if err := n.cmd.Process.Kill(); err != nil {
		c.t.Error(err)
	}
	_ = n.cmd.Wait() // it was killed
	n.cmd = nil
}

func (c *cluster) node(name string) *clusterNode {
	c.t.Helper()
	for _, n := range c.nodes {
		if n.name == name {
			return n
		}
	}
	c.t.Fatalf("no node %q", name)
	return nil
}

// connect connects to the nodes, which may just be starting.
func (c *cluster) connect(urls string) *nats.Conn {
	c.t.Helper()
	nc, err := Connect(c.t.Context(), urls, ConnectOptions{Log: quiet, Timeout: time.Minute})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(nc.Close)
	return nc
}

// open opens the queue as soon as the cluster has a leader.
func (c *cluster) open(nc *nats.Conn, o Options) *Queue {
	c.t.Helper()
	o.Log = quiet
	o.Timeout = 3 * time.Second // what a node was asked that was killed is never answered
	var q *Queue
	c.soon("opening the queue", func(ctx context.Context) (err error) {
		q, err = Open(ctx, nc, o)
		return err
	})
	return q
}

// soon tries until it succeeds: for at most five minutes, which is far more than a cluster needs for an election.
func (c *cluster) soon(what string, try func(context.Context) error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Minute)
	defer cancel()
	began := time.Now()
	for {
		err := try(ctx)
		if err == nil {
			if d := time.Since(began); d > 2*time.Second {
				c.t.Logf("%s took %.1f s", what, d.Seconds())
			}
			return
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			c.t.Fatalf("%s: %v", what, err)
		}
	}
}

// leader is the node that leads the stream.
func (c *cluster) leader(q *Queue, stream string) *clusterNode {
	c.t.Helper()
	var name string
	c.soon("finding the leader of "+stream, func(ctx context.Context) error {
		s, err := q.js.Stream(ctx, stream)
		if err != nil {
			return err
		}
		if cl := s.CachedInfo().Cluster; cl != nil {
			name = cl.Leader
		}
		if name == "" {
			return errors.New("it has none")
		}
		return nil
	})
	return c.node(name)
}

// home is the node that a client is connected to.
func (c *cluster) home(nc *nats.Conn) *clusterNode {
	c.t.Helper()
	var name string
	c.soon("finding the client's node", func(context.Context) error {
		if name = nc.ConnectedServerName(); name == "" {
			return errors.New("it is not connected")
		}
		return nil
	})
	return c.node(name)
}

// stepDown moves the leader of a stream, or of its consumer, elsewhere.
func (c *cluster) stepDown(q *Queue, stream, consumer string) {
	c.t.Helper()
	subject := "$JS.API.STREAM.LEADER.STEPDOWN." + stream
	if consumer != "" {
		subject = "$JS.API.CONSUMER.LEADER.STEPDOWN." + stream + "." + consumer
	}
	c.soon("moving a leader: "+subject, func(ctx context.Context) error {
		ctx, cancel := q.within(ctx)
		defer cancel()
		m, err := q.nc.RequestWithContext(ctx, subject, nil)
		if err != nil {
			return err
		}
		var resp struct {
			Success bool                `json:"success"`
			Error   *jetstream.APIError `json:"error"`
		}
		if err := json.Unmarshal(m.Data, &resp); err != nil {
			return err
		}
		if !resp.Success {
			return fmt.Errorf("answer %s", m.Data)
		}
		return nil
	})
}

// whole waits until every replica of every stream is up to date.
func (c *cluster) whole(q *Queue) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Minute)
	defer cancel()
	if err := q.settle(ctx); err != nil {
		c.t.Fatal(err)
	}
}

func lastToken(subject string) string { return subject[strings.LastIndexByte(subject, '.')+1:] }

// others are the nodes but one.
func (c *cluster) others(n *clusterNode) []*clusterNode {
	return slices.DeleteFunc(slices.Clone(c.nodes), func(x *clusterNode) bool { return x == n })
}
