package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hallmark-attest/hallmark/internal/channel"
	"github.com/hallmark-attest/hallmark/internal/store"
)

// server is the project's S3 server (deploy/s3) with one bucket, whose objects are files below root.
type server struct {
	root, bucket string
	config       store.S3Config
	env          []string // for programs that open s3://bucket
	stop         func()
}

// startS3 builds the server and starts it on a folder.
func startS3(ctx context.Context, dir string) (*server, error) {
	program := filepath.Join(dir, "s3-server")
	say("building the S3 server; the first time takes some minutes")
	build := exec.CommandContext(ctx, "go", "build", "-C", "deploy/s3", "-o", program, ".")
	build.Env = append(os.Environ(), "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building deploy/s3 (this mode runs at the repository's root): %w\n%s", err, out)
	}
	s := &server{root: filepath.Join(dir, "s3"), bucket: "channel"}
	if err := cmpErr(os.RemoveAll(s.root), os.Mkdir(s.root, 0o755)); err != nil {
		return nil, err
	}
	const region = "us-east-1"
	access, secret := "bench"+rand.Text()[:12], rand.Text()
	c := exec.CommandContext(ctx, program, "--root", s.root, "--bucket", s.bucket, "--region", region)
	c.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID="+access, "AWS_SECRET_ACCESS_KEY="+secret)
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 5 * time.Second
	var said bytes.Buffer
	c.Stderr = &said
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, err
	}
	s.stop = func() {
		_ = c.Process.Signal(os.Interrupt)
		_ = c.Wait()
	}
	var ready struct{ Endpoint string }
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &ready)
	}
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("the S3 server did not become ready: %w\n%s", err, tail(said.Bytes()))
	}
	s.config = store.S3Config{Bucket: s.bucket, Region: region, Endpoint: ready.Endpoint,
		Credentials: &store.Credentials{AccessKeyID: access, SecretAccessKey: secret}}
	s.env = []string{"AWS_ACCESS_KEY_ID=" + access, "AWS_SECRET_ACCESS_KEY=" + secret, "AWS_SESSION_TOKEN=", "AWS_REGION=" + region,
		"AWS_ENDPOINT_URL_S3=" + ready.Endpoint, "AWS_EC2_METADATA_DISABLED=true"}
	return s, nil
}

// measureS3 measures Hallmark alone against an S3 server, for its requests.
func measureS3(ctx context.Context, self string, d Directory, o options, r *Report, additions [][]channel.Entry) error {
	s, err := startS3(ctx, d.root)
	if err != nil {
		return err
	}
	defer s.stop()
	st, err := store.NewS3(ctx, s.config)
	if err != nil {
		return err
	}
	f, err := os.Open(d.in("repodata.json"))
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := st.Put(ctx, subdir+"/repodata.json", f, r.RepodataBytes, store.PutOptions{}); err != nil {
		return err
	}
	t := hallmark(self, "s3://"+s.bucket, s.env, d, o)
	t.place = func(ctx context.Context, round int, entries []channel.Entry) error {
		return putAdditions(ctx, channel.New(st, channel.Options{}), d, round, entries)
	}
	t.reset = func(context.Context) error { return nil }
	t.result = Directory{s.root}
	r.Notes = []string{"on an S3 server on this machine, which does not flush; bytes with those of HTTP; without the peers, and so without the goals"}
	return runTool(ctx, t, r, additions, o.names)
}

// putAdditions puts a round's packages and sidecars into a channel, as the upload stage does.
func putAdditions(ctx context.Context, ch *channel.Channel, d Directory, round int, entries []channel.Entry) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for _, e := range entries {
		g.Go(func() error {
			file := d.in("additions", fmt.Sprint(round), e.Filename)
			b, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			var record struct{ SHA256 string }
			if err := json.Unmarshal(e.Record, &record); err != nil {
				return err
			}
			if _, err := ch.PutPackage(ctx, subdir, e.Filename, bytes.NewReader(b), int64(len(b)), record.SHA256); err != nil {
				return err
			}
			sidecar, err := ch.AddBundle(ctx, subdir, e.Filename, bundle(e.Filename, record.SHA256))
			if err == nil && sidecar.SHA256 != e.AttestationsSHA256 {
				err = fmt.Errorf("the sidecar of %s is %s, want %s", e.Filename, sidecar.SHA256, e.AttestationsSHA256)
			}
			return err
		})
	}
	return g.Wait()
}
