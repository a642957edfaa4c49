// Command engine measures what the queue and the runner cost, with stages that do nothing: items flow through a real
// JetStream, embedded or in server processes of their own, and figures flow out.
//
//	go run ./deploy/bench/engine [-small 10000] [-large 100000] [-done 10000] [-arms embedded,server,server-default,cluster,cluster-default] [-json FILE]
//
// For each arm it fills a queue with the small and with the large number of items, in one segment and in three, measures
// processes while these wait, and takes the first -done items to their end. So its figures are
//
//   - cost per item, and per hop (what two more segments add, halved): processor time of worker and servers, wall time,
//     bytes that the servers wrote;
//   - memory with so many items waiting: resident, of the servers' and of the worker's process, and the worker's heap;
//   - time per item with the large number waiting, over that with the small one. Near 1 is the aim.
//
// In the arm embedded the server is in the worker's process. The arms are: embedded (syncs always, as it ever does), server
// and cluster (three replicas; sync_interval: always), and the same with NATS's default of two minutes. Compare within one
// run only. What the kernel tells of processes it tells on Linux alone. A million items:
//
//	go run ./deploy/bench/engine -large 1000000
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
)

type options struct {
	small, large, done int
	arms, json, dir    string
	child              string
}

// arm is a kind of server. No servers: the embedded one.
type arm struct {
	Name    string
	Servers int
	Always  bool
}

var arms = []arm{{"embedded", 0, true}, {"server", 1, true}, {"server-default", 1, false}, {"cluster", 3, true}, {"cluster-default", 3, false}}

func main() {
	var o options
	flag.IntVar(&o.small, "small", 10_000, "items that wait, few")
	flag.IntVar(&o.large, "large", 100_000, "items that wait, many")
	flag.IntVar(&o.done, "done", 10_000, "how many of them are taken to their end")
	flag.StringVar(&o.arms, "arms", "embedded,server,server-default,cluster", "which servers: embedded, server, server-default, cluster, cluster-default")
	flag.StringVar(&o.json, "json", "", "write the figures here too")
	flag.StringVar(&o.dir, "dir", "", "folder on the disk to measure (default: a temporary one)")
	flag.StringVar(&o.child, "child", "", "for the program's own use: be the worker's process")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := error(nil)
	if o.child != "" {
		err = work(ctx, o.child)
	} else {
		err = run(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "engine:", err)
		os.Exit(1)
	}
}

// Result is one measurement.
type Result struct {
	Arm      string `json:"arm"`
	Segments int    `json:"segments"`
	Waiting  int    `json:"waiting"` // items enqueued
	Done     int    `json:"done"`    // of these, taken to their end
	Figures
	// Of the servers' processes; zero for the embedded one, which is part of the worker's. Memory is that with all waiting,
	// of the largest of the servers; time and bytes are all servers', while items were taken to their end.
	ServerRSS   int64   `json:"serverRSS"`
	ServerCPU   float64 `json:"serverCPUSeconds"`
	ServerWrote int64   `json:"serverWrote"`
	Stored      int64   `json:"stored"` // bytes on the disk at the end, of all servers
}

// perItem is a figure of the run, for one item, in microseconds.
func (r *Result) perItem(seconds float64) float64 { return seconds / float64(r.Done) * 1e6 }

func run(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp(o.dir, "hallmark-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var chosen []arm
	for name := range strings.SplitSeq(o.arms, ",") {
		i := slices.IndexFunc(arms, func(a arm) bool { return a.Name == name })
		if i < 0 {
			return fmt.Errorf("no arm %q", name)
		}
		chosen = append(chosen, arms[i])
	}
	bin := filepath.Join(dir, "nats-server")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", bin, "github.com/nats-io/nats-server/v2").CombinedOutput(); err != nil {
		return fmt.Errorf("building the NATS server: %w\n%s", err, out)
	}
	var all []Result
	for _, a := range chosen {
		for _, m := range []struct{ segments, waiting int }{{1, o.small}, {3, o.small}, {1, o.large}} {
			fmt.Fprintf(os.Stderr, "%s, %d waiting, %d segments\n", a.Name, m.waiting, m.segments)
			r, err := measure(ctx, a, bin, filepath.Join(dir, fmt.Sprintf("%s-%d-%d", a.Name, m.segments, m.waiting)), task{Segments: m.segments, Items: m.waiting, Done: min(o.done, m.waiting)})
			if err != nil {
				return fmt.Errorf("%s, %d items waiting, %d segments: %w", a.Name, m.waiting, m.segments, err)
			}
			all = append(all, r)
		}
	}
	if o.json != "" {
		data, err := json.MarshalIndent(struct {
			Schema  string   `json:"schema"`
			CPUs    int      `json:"cpus"`
			Go      string   `json:"go"`
			Results []Result `json:"results"`
		}{"hallmark.bench.engine/1", runtime.NumCPU(), runtime.Version(), all}, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(o.json, append(data, '\n'), 0o644); err != nil {
			return err
		}
	}
	return report(os.Stdout, all)
}

// report prints the table, and the ratios below it.
func report(w io.Writer, all []Result) error {
	fmt.Fprintf(w, "%d processors, %s, %s. Times are per item, bytes with all items waiting.\n\n", runtime.NumCPU(), runtime.Version(), runtime.GOOS)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "arm\tsegments\twaiting\tenqueue µs\twall µs\tworker CPU µs\tserver CPU µs\twritten B\tserver RSS MB\tworker RSS MB\tworker heap MB\t")
	for _, r := range all {
		written := r.ServerWrote
		if r.ServerRSS == 0 {
			written = r.Wrote
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%s\t%d\t%d\t\n", r.Arm, r.Segments, r.Waiting, r.EnqueueSeconds/float64(r.Waiting)*1e6,
			r.perItem(r.Seconds), r.perItem(r.CPU), r.perItem(r.ServerCPU), float64(written)/float64(r.Done), megabytes(r.ServerRSS), r.RSS>>20, r.Heap>>20)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for i := 0; i+2 < len(all); i += 3 {
		one, three, large := all[i], all[i+1], all[i+2]
		hop := func(f func(Result) float64) float64 { return (three.perItem(f(three)) - one.perItem(f(one))) / 2 }
		fmt.Fprintf(w, "%s: a hop costs %.0f µs wall, %.0f µs CPU; per item at %d waiting over that at %d: CPU %.2f, wall %.2f, enqueueing %.2f\n", one.Arm,
			hop(func(r Result) float64 { return r.Seconds }), hop(func(r Result) float64 { return r.CPU + r.ServerCPU }), large.Waiting, one.Waiting,
			large.perItem(large.CPU+large.ServerCPU)/one.perItem(one.CPU+one.ServerCPU),
			large.perItem(large.Seconds)/one.perItem(one.Seconds),
			large.EnqueueSeconds/float64(large.Waiting)/(one.EnqueueSeconds/float64(one.Waiting)))
	}
	return nil
}

func megabytes(n int64) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n >> 20)
}
