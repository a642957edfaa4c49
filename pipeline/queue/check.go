package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Conn is a connection to a NATS server, for those that only pass it on.
type Conn = nats.Conn

// Report is what a server has of the queue, beside what this version wants.
type Report struct {
	// Server is the version of the server that answers, Cluster the name of its cluster; "" if it is none.
	Server  string `json:"server"`
	Cluster string `json:"cluster,omitempty"`
	// Assets are the streams, the buckets, and the consumers of campaigns, in this order.
	Assets []Asset `json:"assets"`
}

// Findings is how many differences there are, missing assets included.
func (r *Report) Findings() int {
	n := 0
	for _, a := range r.Assets {
		n += len(a.Findings)
		if a.Missing {
			n++
		}
	}
	return n
}

// Kinds of assets.
const (
	AssetStream   = "stream"
	AssetBucket   = "bucket"
	AssetConsumer = "consumer"
)

// Asset is a stream, bucket or consumer.
type Asset struct {
	Kind     string `json:"kind"`
	Name     string `json:"name"`
	Replicas int    `json:"replicas,omitempty"`
	// Messages are those stored; of a consumer, those that are not acknowledged.
	Messages uint64 `json:"messages"`
	// Behind are the replicas that are not up to date, or not there. While items move, that one is a moment behind means nothing.
	Behind []string `json:"behind,omitempty"`
	// Missing says that it does not exist; Open and Migrate create it.
	Missing  bool      `json:"missing,omitempty"`
	Created  bool      `json:"created,omitempty"` // by Migrate
	Findings []Finding `json:"findings,omitempty"`
	// Changed are the differences that Migrate removed.
	Changed []Finding `json:"changed,omitempty"`
}

// Finding is a difference, and what is to be known about it.
type Finding struct {
	Difference
	// Manual says why Migrate leaves it alone and what a person can do; "" if Migrate changes it.
	Manual string `json:"manual,omitempty"`
	// After says what is left to look after once it is changed.
	After string `json:"after,omitempty"`
	// Error is the server's answer where it refused the change.
	Error string `json:"error,omitempty"`
}

// asset is what a stream, or the one under a bucket, has to be like.
type asset struct {
	kind, name string
	want       jetstream.StreamConfig
	bucket     jetstream.KeyValueConfig // of a bucket
}

// assets are what Open ensures.
func assets(o Options) []asset {
	var out []asset
	for _, s := range streams(o) {
		out = append(out, asset{kind: AssetStream, name: s.Name, want: s})
	}
	for _, b := range buckets(o) {
		out = append(out, asset{kind: AssetBucket, name: b.Bucket, want: bucketStream(b), bucket: b})
	}
	return out
}

// surveyed is an asset as it was found.
type surveyed struct {
	asset
	info    *jetstream.StreamInfo // nil if it does not exist
	changes []change
}

// survey looks at every stream and bucket. Where the number of replicas is left open, it wants the largest that any has.
func (q *Queue) survey(ctx context.Context, o Options) ([]surveyed, error) {
	var err error
	if o.Replicas, err = q.replicas(ctx, o.Replicas); err != nil {
		return nil, err
	}
	var out []surveyed
	for _, a := range assets(o) {
		s := surveyed{asset: a}
		stream, err := q.js.Stream(ctx, a.want.Name)
		if err == nil {
			s.info = stream.CachedInfo()
			s.changes = changes(s.info.Config, a.want)
			spare(s.changes, s.info.Config, a.want, s.info.State)
		} else if !errors.Is(err, jetstream.ErrStreamNotFound) {
			return nil, fmt.Errorf("looking at stream %s: %w", a.want.Name, err)
		}
		out = append(out, s)
	}
	return out, nil
}

// Check compares what the server has with what this version wants, and changes nothing. Of the options, the numbers and
// the replicas are looked at; replicas that are left open are those that the best stream has.
func Check(ctx context.Context, nc *Conn, o Options) (*Report, error) {
	q, err := attach(nc, o)
	if err != nil {
		return nil, err
	}
	return q.check(ctx, o)
}

func (q *Queue) check(ctx context.Context, o Options) (*Report, error) {
	r := &Report{Server: q.nc.ConnectedServerVersion(), Cluster: q.nc.ConnectedClusterName()}
	found, err := q.survey(ctx, o)
	if err != nil {
		return nil, err
	}
	for _, s := range found {
		a := Asset{Kind: s.kind, Name: s.name, Missing: s.info == nil}
		if s.info != nil {
			a.Replicas, a.Messages = s.info.Config.Replicas, s.info.State.Msgs
			a.Behind = behind(s.info.Cluster, a.Replicas)
		}
		for _, c := range s.changes {
			a.Findings = append(a.Findings, Finding{Difference: c.Difference, Manual: c.manual})
		}
		r.Assets = append(r.Assets, a)
	}
	consumers, err := q.consumers(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range consumers {
		a := Asset{Kind: AssetConsumer, Name: c.Name, Messages: c.NumPending + uint64(max(c.NumAckPending, 0))}
		if c.Cluster != nil {
			a.Replicas = 1 + len(c.Cluster.Replicas)
			a.Behind = behind(c.Cluster, r.Assets[0].Replicas) // as many as JOBS has
		}
		for _, c := range consumerChanges(c.Config, c.campaign, c.segment) {
			a.Findings = append(a.Findings, Finding{Difference: c.Difference, Manual: c.manual, After: c.after})
		}
		r.Assets = append(r.Assets, a)
	}
	return r, nil
}

// behind are the peers of a stream or consumer that do not have all of it.
func behind(cl *jetstream.ClusterInfo, replicas int) []string {
	if cl == nil || replicas < 2 {
		return nil
	}
	var out []string
	for _, p := range cl.Replicas {
		if !p.Current || p.Offline || p.Lag > 0 {
			out = append(out, p.Name)
		}
	}
	for range replicas - 1 - len(cl.Replicas) {
		out = append(out, "(none)")
	}
	if cl.Leader == "" {
		out = append(out, "(leader)")
	}
	slices.Sort(out)
	return out
}

type consumer struct {
	*jetstream.ConsumerInfo
	campaign, segment string
}

// consumers are those of campaigns' segments, in order of their names.
func (q *Queue) consumers(ctx context.Context) ([]consumer, error) {
	s, err := q.js.Stream(ctx, StreamJobs)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing consumers: %w", err)
	}
	var out []consumer
	l := s.ListConsumers(ctx)
	for info := range l.Info() {
		if segment, campaign, ok := strings.Cut(info.Name, "@"); ok {
			out = append(out, consumer{info, campaign, segment})
		}
	}
	if err := l.Err(); err != nil {
		return nil, fmt.Errorf("listing consumers: %w", err)
	}
	slices.SortFunc(out, func(a, b consumer) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// attach makes a Queue of a connection, without a look at the streams.
func attach(nc *nats.Conn, o Options) (*Queue, error) {
	q := &Queue{nc: nc, died: o.Died, stuck: o.Stuck, log: cmp.Or(o.Log, slog.Default()), timeout: cmp.Or(o.Timeout, 10*time.Second)}
	if q.stuck == nil {
		q.stuck = func() bool { return false }
	}
	js, err := jetstream.New(nc,
		jetstream.WithDefaultTimeout(q.timeout),
		jetstream.WithPublishAsyncMaxPending(asyncPending),
		jetstream.WithPublishAsyncTimeout(q.timeout))
	if err != nil {
		return nil, fmt.Errorf("opening the queue: %w", err)
	}
	q.js = timed{js, q.timeout}
	return q, nil
}
