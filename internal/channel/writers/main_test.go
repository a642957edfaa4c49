package writers_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/hallmark-attest/hallmark/internal/channel"
	"github.com/hallmark-attest/hallmark/internal/store"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
)

const subdir = "linux-64"

// orderVariable has an order in it where the test binary is to be a writer.
const orderVariable = "HALLMARK_WRITERS_ORDER"

// order says what a writer process does.
type order struct {
	Writer int
	Plans  []plan // one after the other

	Dir      string // the directory store; else the S3 store at
	Endpoint string
	Bucket   string
	Prefix   string
	Access   string
	Secret   string

	Small    int64
	Monolith int  // after every so many batches; 0 for never
	Last     bool // Monolith at the end
	Announce bool // say so before and after every write
}

// outcome is what a writer says at its end.
type outcome struct {
	Packages int           // uploaded, with one bundle each
	Updates  int           // batches
	Changed  int           // entries that changed something
	Outages  int           // calls that ended with a transient error, and were made again
	Elapsed  time.Duration // ns
}

func TestMain(m *testing.M) {
	raw := os.Getenv(orderVariable)
	if raw == "" {
		goleak.VerifyTestMain(m)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	var o order
	err := json.Unmarshal([]byte(raw), &o)
	var done outcome
	if err == nil {
		done, err = o.carryOut(ctx)
	}
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(done)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "writer %d: %v\n", o.Writer, err)
		os.Exit(1)
	}
}

// command is the process that carries out an order.
func (o order) command(t *testing.T) *exec.Cmd {
	t.Helper()
	raw, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), orderVariable+"="+string(raw))
	cmd.SysProcAttr = dieWithParent()
	return cmd
}

func (o order) open(ctx context.Context) (store.Store, error) {
	if o.Dir != "" {
		return store.NewDir(o.Dir)
	}
	return store.NewS3(ctx, store.S3Config{
		Bucket: o.Bucket, Prefix: o.Prefix, Region: "us-east-1", Endpoint: o.Endpoint,
		Credentials: &store.Credentials{AccessKeyID: o.Access, SecretAccessKey: o.Secret},
	})
}

func (o order) carryOut(ctx context.Context) (done outcome, err error) {
	start := time.Now()
	s, err := o.open(ctx)
	if err != nil {
		return done, err
	}
	if o.Announce {
		s = announcing{s}
	}
	c := channel.New(s, channel.Options{Small: o.Small})
	batches := 0
	for _, p := range o.Plans {
		for _, batch := range p.batches(o.Writer) {
			if err := o.publish(ctx, c, batch, &done); err != nil {
				return done, err
			}
			if batches++; o.Monolith > 0 && batches%o.Monolith == 0 {
				if err := o.monolith(ctx, c, &done); err != nil {
					return done, err
				}
			}
		}
	}
	if o.Last {
		err = o.monolith(ctx, c, &done)
	}
	done.Elapsed = time.Since(start)
	return done, err
}

// publish does what the stages do with some packages. An outage is met as the engine meets it: by doing the same again.
func (o order) publish(ctx context.Context, c *channel.Channel, batch []pack, done *outcome) error {
	entries := make([]channel.Entry, len(batch))
	outages := make([]int, len(batch))
	g, ctx2 := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i, p := range batch {
		g.Go(func() error {
			return retry(&outages[i], func() (err error) {
				entries[i], err = p.upload(ctx2, c, o.Writer)
				return err
			})
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, n := range outages {
		done.Outages += n
	}
	done.Packages += len(batch)
	done.Updates++
	return retry(&done.Outages, func() error {
		n, refused, err := c.Update(ctx, subdir, entries)
		done.Changed += n
		return errors.Join(append(refused, err)...)
	})
}

func (o order) monolith(ctx context.Context, c *channel.Channel, done *outcome) error {
	return retry(&done.Outages, func() error {
		_, err := c.Monolith(ctx, subdir)
		return err
	})
}

func retry(outages *int, f func() error) error {
	for {
		err := f()
		if _, transient := store.Transient(err); err == nil || !transient {
			return err
		}
		*outages++
	}
}

// announcing says on standard output what it is about to write and what it has written.
type announcing struct{ store.Store }

func (a announcing) Put(ctx context.Context, key string, body io.ReaderAt, size int64, o store.PutOptions) (store.Info, error) {
	fmt.Println("put", key)
	info, err := a.Store.Put(ctx, key, body, size, o)
	fmt.Println("had", key)
	return info, err
}

// number is an environment variable's, or another.
func number(t *testing.T, variable string, otherwise int) int {
	t.Helper()
	v := os.Getenv(variable)
	if v == "" {
		return otherwise
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: want a positive number", variable, v)
	}
	return n
}

// chance is the seed, and says so.
func chance(t *testing.T) uint64 {
	t.Helper()
	seed := uint64(number(t, "HALLMARK_SEED", int(time.Now().UnixNano()>>10&0x7fffffff)))
	t.Logf("HALLMARK_SEED=%d", seed)
	return seed
}

func (p pack) upload(ctx context.Context, c *channel.Channel, n int) (channel.Entry, error) {
	b := p.bytes()
	if _, err := c.PutPackage(ctx, subdir, p.File, bytes.NewReader(b), int64(len(b)), digest(b)); err != nil {
		return channel.Entry{}, err
	}
	s, err := c.AddBundle(ctx, subdir, p.File, p.bundle(n))
	return channel.Entry{Filename: p.File, Record: p.record(), RunExports: json.RawMessage(`{"weak":["x >=1"]}`), AttestationsSHA256: s.SHA256}, err
}
