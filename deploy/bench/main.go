// Command bench measures packages per second through all stages, with a real private Sigstore on this machine, beside a
// loop of cosign attest-blob over the same packages at equal concurrency, in one run.
//
//	go run ./deploy/bench [-n 1000] [-concurrency 256] [-cosign 300] [-rekor v2|v1]
//
// Machines are shared and noisy: the ratio is what counts. Both sides share the cores with the servers.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/conda/condatest"
)

const channelURL = "https://conda.example.org/bench"

type options struct {
	n, concurrency, cosign int
	rekor, dir             string
	inside                 bool
}

func main() {
	var o options
	flag.IntVar(&o.n, "n", 1000, "packages")
	flag.IntVar(&o.concurrency, "concurrency", 256, "signatures at once, on both sides")
	flag.IntVar(&o.cosign, "cosign", 300, "how many of the packages cosign signs; its rate is taken from these")
	flag.StringVar(&o.rekor, "rekor", "v2", "transparency log: v2 or v1")
	flag.StringVar(&o.dir, "dir", "", "working folder (default: a temporary one)")
	flag.BoolVar(&o.inside, "inside", false, "for the program's own use: run inside the private Sigstore's environment")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	f := prepare
	if o.inside {
		f = measure
	}
	if err := f(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// prepare builds everything and runs measure inside a private Sigstore.
func prepare(ctx context.Context, o options) error {
	if o.dir == "" {
		dir, err := os.MkdirTemp("", "hallmark-bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		o.dir = dir
	}
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "building the producer, the private Sigstore and cosign; the first time takes some minutes")
	bin := func(name string) string { return filepath.Join(dir, name) }
	for _, args := range [][]string{
		{"build", "-o", bin("producer"), "./cmd/producer"},
		{"build", "-o", bin("bench"), "./deploy/bench"},
		{"build", "-C", "deploy/sigstore", "-o", bin("sigstore"), "."},
		{"build", "-C", "deploy/sigstore/rekor1", "-o", bin("rekor1"), "."},
		{"build", "-C", ".ci/cosign", "-o", bin("cosign"), "github.com/sigstore/cosign/v3/cmd/cosign"},
	} {
		if out, err := exec.CommandContext(ctx, "go", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	c := exec.CommandContext(ctx, bin("sigstore"), "up", "--rekor", o.rekor, bin("instance"), "--", bin("bench"), "-inside", "-dir", dir,
		"-n", strconv.Itoa(o.n), "-concurrency", strconv.Itoa(o.concurrency), "-cosign", strconv.Itoa(o.cosign), "-rekor", o.rekor)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	return c.Run()
}

type summary struct {
	Published int `json:"published"`
	Stages    []struct {
		Name string  `json:"name"`
		Done int64   `json:"done"`
		Mean float64 `json:"meanSeconds"`
	} `json:"stages"`
}

func measure(ctx context.Context, o options) error {
	var packages []string
	for _, spec := range condatest.Samples(o.n, 1) {
		p, err := condatest.Write(filepath.Join(o.dir, "packages"), spec)
		if err != nil {
			return err
		}
		packages = append(packages, p)
	}
	ours, took, err := publish(ctx, o, packages)
	if err != nil {
		return err
	}
	if ours.Published != o.n {
		return fmt.Errorf("%d of %d packages published", ours.Published, o.n)
	}
	rate := float64(o.n) / took.Seconds()
	fmt.Printf("hallmark: %d packages hashed, signed, uploaded and published in %.1f s: %.1f/s (Rekor %s, %d signatures at once)\n", o.n, took.Seconds(), rate, o.rekor, o.concurrency)
	for _, s := range ours.Stages {
		fmt.Printf("  %-8s %8.1f ms an item on average\n", s.Name, s.Mean*1000)
	}
	m := min(o.cosign, o.n)
	theirs, err := cosign(ctx, o, packages[:m])
	if err != nil {
		return err
	}
	cosignRate := float64(m) / theirs.Seconds()
	fmt.Printf("cosign attest-blob: %d packages signed in %.1f s: %.1f/s (%d at once)\n", m, theirs.Seconds(), cosignRate, o.concurrency)
	fmt.Printf("ratio: %.1f\n", rate/cosignRate)
	return nil
}

// publish times one run of the producer, from start to exit.
func publish(ctx context.Context, o options, packages []string) (s summary, took time.Duration, err error) {
	list := filepath.Join(o.dir, "packages.txt")
	if err := os.WriteFile(list, []byte(strings.Join(packages, "\n")+"\n"), 0o644); err != nil {
		return s, 0, err
	}
	c := exec.CommandContext(ctx, filepath.Join(o.dir, "producer"), "publish", "--json", "--files-from", list,
		"--to", filepath.Join(o.dir, "channel"), "--channel-url", channelURL, "--state", filepath.Join(o.dir, "state"),
		"--concurrency", fmt.Sprintf("sign=%d", o.concurrency))
	c.Stderr = os.Stderr
	start := time.Now()
	out, err := c.Output()
	took = time.Since(start)
	if err != nil {
		return s, took, fmt.Errorf("producer publish: %w", err)
	}
	return s, took, json.Unmarshal(out, &s)
}

// cosign times a loop of cosign attest-blob, as many processes at once as Hallmark had signatures.
func cosign(ctx context.Context, o options, packages []string) (time.Duration, error) {
	var statements []string
	for _, p := range packages {
		b, err := os.ReadFile(p)
		if err != nil {
			return 0, err
		}
		st, err := attest.Statement(filepath.Base(p), sha256hex(b), channelURL)
		if err != nil {
			return 0, err
		}
		file := filepath.Join(o.dir, filepath.Base(p)+".statement")
		if err := os.WriteFile(file, st, 0o644); err != nil {
			return 0, err
		}
		statements = append(statements, file)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(o.concurrency)
	start := time.Now()
	for _, st := range statements {
		g.Go(func() error {
			c := exec.CommandContext(ctx, filepath.Join(o.dir, "cosign"), "attest-blob", "--statement", st, "--yes",
				"--signing-config", os.Getenv("HALLMARK_SIGNING_CONFIG"), "--trusted-root", os.Getenv("HALLMARK_TRUSTED_ROOT"),
				"--bundle", st+".sigstore.json")
			var errb bytes.Buffer
			c.Stderr = &errb
			if err := c.Run(); err != nil {
				return fmt.Errorf("cosign attest-blob: %w\n%s", err, errb.String())
			}
			return nil
		})
	}
	err := g.Wait()
	return time.Since(start), err
}

func sha256hex(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}
