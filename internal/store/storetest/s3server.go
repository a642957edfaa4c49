package storetest

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/hallmark-attest/hallmark/internal/store"
)

// S3Server is a running S3 server with one empty bucket.
type S3Server struct {
	Endpoint string // http://127.0.0.1:PORT
	Region   string
	Bucket   string
	Access   string // access key id
	Secret   string // secret access key
	Root     string // directory behind the server; the bucket is a folder in it
}

// Open opens the bucket as a store, below a prefix.
func (s S3Server) Open(ctx context.Context, prefix string) (*store.S3, error) {
	return store.NewS3(ctx, s.Config(prefix))
}

// Config is how the bucket is reached.
func (s S3Server) Config(prefix string) store.S3Config {
	return store.S3Config{
		Bucket: s.Bucket, Prefix: prefix, Region: s.Region, Endpoint: s.Endpoint,
		Credentials: &store.Credentials{AccessKeyID: s.Access, SecretAccessKey: s.Secret},
	}
}

// Env is what a program needs in its environment to use the server by "s3://" and Bucket.
func (s S3Server) Env() []string {
	return []string{
		"AWS_ACCESS_KEY_ID=" + s.Access,
		"AWS_SECRET_ACCESS_KEY=" + s.Secret,
		"AWS_SESSION_TOKEN=",
		"AWS_REGION=" + s.Region,
		"AWS_ENDPOINT_URL_S3=" + s.Endpoint,
		"AWS_EC2_METADATA_DISABLED=true",
	}
}

// StartS3 builds deploy/s3 (about two minutes the first time on a machine, then the build cache has it), starts it on a
// directory of its own in memory where there is one, and stops it when the test ends. With -short the test is skipped, and
// says so; nothing else skips it.
func StartS3(t testing.TB) S3Server {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: tests against a real S3 server are left out")
	}
	program, err := serverProgram(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := S3Server{
		Region: "us-east-1",
		Bucket: "channel",
		Access: "test" + rand.Text()[:12],
		Secret: rand.Text(),
		Root:   memoryDir(t),
	}
	if err := s.start(t, program); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *S3Server) start(t testing.TB, program string) error {
	cmd := exec.Command(program, "--root", s.Root, "--bucket", s.Bucket, "--region", s.Region)
	cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID="+s.Access, "AWS_SECRET_ACCESS_KEY="+s.Secret)
	cmd.SysProcAttr = dieWithParent()
	var said syncBuffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}

	// The death signal is sent when the thread that started the process ends, so that thread is kept until the test's end.
	started, stop, ended := make(chan error), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		<-stop
		cmd.Process.Kill()
		cmd.Wait()
	}()
	if err := <-started; err != nil {
		<-ended
		return fmt.Errorf("starting the S3 server: %w", err)
	}
	t.Cleanup(func() {
		close(stop)
		<-ended
		if t.Failed() {
			t.Logf("the S3 server said:\n%s", said.String())
		}
	})
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("the S3 server did not become ready: %w\n%s", err, said.String())
	}
	var ready struct{ Endpoint string }
	if err := json.Unmarshal(line, &ready); err != nil {
		return fmt.Errorf("the S3 server said %q: %w", line, err)
	}
	s.Endpoint = ready.Endpoint
	return nil
}

// syncBuffer is written by the process's output and read by the test.
type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// serverProgram builds the server once per state of its module and keeps it in the temporary directory, named by the hash of its source and
// sums, so that every test binary of every package uses the same one.
var serverProgram = onceContext(func(ctx context.Context) (string, error) {
	module, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/hallmark-attest/hallmark").Output()
	if err != nil {
		return "", fmt.Errorf("looking for the module's folder: %w", err)
	}
	source := filepath.Join(strings.TrimSpace(string(module)), "deploy", "s3")
	state := sha256.New()
	io.WriteString(state, runtime.Version())
	for _, name := range []string{"go.mod", "go.sum", "main.go"} {
		b, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			return "", fmt.Errorf("reading the S3 server's source: %w", err)
		}
		fmt.Fprintf(state, "%s %d\n", name, len(b))
		state.Write(b)
	}
	program := filepath.Join(os.TempDir(), fmt.Sprintf("hallmark-s3-%d-%s", os.Getuid(), hex.EncodeToString(state.Sum(nil))[:16]))
	if fi, err := os.Lstat(program); err == nil && fi.Mode().IsRegular() && ownedByUs(fi) {
		return program, nil
	}
	// Built beside its place and renamed, so that a test binary which runs at the same time never starts half a program.
	half := program + "." + rand.Text()
	defer os.Remove(half)
	build := exec.CommandContext(ctx, "go", "build", "-C", source, "-o", half, ".")
	build.Env = append(os.Environ(), "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the S3 server in %s: %w\n%s", source, err, out)
	}
	return program, os.Rename(half, program)
})

// onceContext is sync.OnceValues for a function that takes a context. A failure because a context ended is not kept.
func onceContext(f func(context.Context) (string, error)) func(context.Context) (string, error) {
	var mu sync.Mutex
	var done bool
	var value string
	var err error
	return func(ctx context.Context) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		if !done {
			value, err = f(ctx)
			done = ctx.Err() == nil
		}
		return value, err
	}
}
