// Command s3 serves a directory over the S3 protocol: versitygw, a real server with conditional writes, checked signatures and
// checked checksums, as one process on loopback. What flows in: a directory and S3 requests. What flows out: one JSON line
// on stdout when it is ready, then answers.
//
// It is for tests and demonstrations. It does not flush to disk; for durable storage without S3, name a directory to Hallmark itself.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"
)

// health answers without a signature once requests are served.
const health = "/healthz"

// Ready is the line on stdout.
type Ready struct {
	Endpoint string `json:"endpoint"`
	Bucket   string `json:"bucket,omitempty"`
	Region   string `json:"region"`
}

type options struct {
	root, addr, bucket, region string
	access, secret             string
	out                        *os.File
}

func main() {
	var o options
	flag.StringVar(&o.root, "root", "", "directory that holds the buckets, one folder each; its file system must take extended attributes")
	flag.StringVar(&o.addr, "addr", "127.0.0.1:0", "address to listen on; port 0 takes a free one")
	flag.StringVar(&o.bucket, "bucket", "", "bucket to make at start if it is missing")
	flag.StringVar(&o.region, "region", "us-east-1", "region that the server says it is in")
	flag.Parse()
	// The server's library prints remarks to os.Stdout, which is for our one line.
	o.out, os.Stdout = os.Stdout, os.Stderr
	o.access, o.secret = os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY")

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "s3:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	switch {
	case flag.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	case o.root == "":
		return errors.New("--root is missing: the directory that holds the buckets")
	case o.access == "" || o.secret == "":
		return errors.New("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be set: what clients must sign with")
	}
	root, err := filepath.Abs(o.root)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(root, o.bucket), 0o755); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(o.addr)
	if err != nil {
		return fmt.Errorf("reading --addr: %w", err)
	}
	for attempt := 0; ; attempt++ {
		addr := o.addr
		if port == "0" {
			if addr, err = free(host); err != nil {
				return err
			}
		}
		err := serve(ctx, addr, root, o)
		// The server takes no listener, so between our look at a free port and its start somebody else may take it.
		if port != "0" || attempt == 5 || !errors.Is(err, syscall.EADDRINUSE) {
			return err
		}
	}
}

func free(host string) (string, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// serve runs until ctx ends or the server fails.
func serve(ctx context.Context, addr, root string, o options) error {
	backend, err := posix.New(root, meta.XattrMeta{}, posix.PosixOpts{
		CopyObjectThreshold: 5 << 30, // zero refuses every copy
	})
	if err != nil {
		return fmt.Errorf("opening %s: %w", root, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 1)
	go func() {
		failed <- embedgw.RunVersityGW(ctx, backend, &embedgw.Config{
			RootUserAccess: o.access,
			RootUserSecret: o.secret,
			Region:         o.region,
			Ports:          []string{addr},
			MaxConnections: 4096, MaxRequests: 4096,
			MultipartMaxParts: 10_000,
			HealthPath:        health,
			KeepAlive:         true,
			Quiet:             true,
		})
	}()
	endpoint := "http://" + addr
	ready := make(chan error, 1)
	go func() { ready <- answers(ctx, endpoint+health) }()
	for {
		select {
		case err := <-failed:
			cancel()
			if ready != nil {
				<-ready
			}
			return err
		case err := <-ready:
			ready = nil
			if err == nil {
				err = json.NewEncoder(o.out).Encode(Ready{Endpoint: endpoint, Bucket: o.bucket, Region: o.region})
			}
			if err != nil && ctx.Err() == nil {
				cancel()
				<-failed
				return err
			}
		}
	}
}

// answers waits until the URL answers 200.
func answers(ctx context.Context, url string) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
