package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// streams are the streams that Open ensures. Numbers that the caller left open are 0 here.
func streams(o Options) []jetstream.StreamConfig {
	return []jetstream.StreamConfig{{
		Name:        StreamJobs,
		Description: "One message per item and segment, kept until the campaign is closed",
		Subjects:    []string{"job.>"},
		// Limits and not WorkQueue: an acknowledgement deletes nothing, so it costs no fsync, and a subject stays taken
		// after its item is done.
		Retention: jetstream.LimitsPolicy, Storage: jetstream.FileStorage,
		Discard: jetstream.DiscardNew, DiscardNewPerSubject: true, MaxMsgsPerSubject: 1,
		MaxBytes: o.JobsMaxBytes, Replicas: o.Replicas,
		AllowDirect: true, AllowAtomicPublish: true,
	}, {
		Name:        StreamEvents,
		Description: "The public record of attestations and the ledger of outcomes",
		Subjects:    []string{"attest.>"},
		// Not compressed: with S2, nats-server 2.15.2 can leave a block behind that it cannot read ("s2: corrupt input") when
		// it is killed, on all replicas at once, and the stream is gone with it. deploy/chaos has seen it.
		Retention: jetstream.LimitsPolicy, Storage: jetstream.FileStorage, Compression: jetstream.NoCompression,
		Discard: jetstream.DiscardNew, DiscardNewPerSubject: true, MaxMsgsPerSubject: 1,
		MaxBytes: o.EventsMaxBytes, MaxAge: o.EventsMaxAge, Replicas: o.Replicas, Duplicates: time.Hour,
		DenyDelete: true, DenyPurge: true,
		AllowDirect: true, AllowAtomicPublish: true,
	}, {
		Name:        StreamQuarantine,
		Description: "Items that failed for good, with the reason; the last failure of each",
		Subjects:    []string{"quarantine.>"},
		Retention:   jetstream.LimitsPolicy, Storage: jetstream.FileStorage,
		Discard: jetstream.DiscardOld, MaxMsgsPerSubject: 1,
		MaxBytes: o.QuarantineMaxBytes, Replicas: o.Replicas,
		AllowDirect: true,
	}}
}

func (q *Queue) ensureStream(ctx context.Context, want jetstream.StreamConfig) error {
	s, err := q.js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if want.Replicas, err = q.replicas(ctx, want.Replicas); err != nil {
			return err
		}
		create := want
		create.MaxBytes = cmp.Or(want.MaxBytes, -1)
		s, err = q.js.CreateStream(ctx, create)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // somebody was first
			s, err = q.js.Stream(ctx, want.Name)
		}
	}
	if err != nil {
		return fmt.Errorf("opening stream %s: %w", want.Name, err)
	}
	if s.CachedInfo().Config.Replicas > 1 {
		q.replicated.Store(true)
	}
	ds := compare(s.CachedInfo().Config, want)
	if len(ds) == 1 && ds[0].Setting == "compression" {
		// The one difference that is worth mending unasked: see streams. What is stored stays as it is, what comes is safe.
		cfg := s.CachedInfo().Config
		cfg.Compression = want.Compression
		if _, err := q.js.UpdateStream(ctx, cfg); err == nil {
			ds = nil
		} else {
			q.log.WarnContext(ctx, "cannot turn the compression of a stream off", "stream", want.Name, "error", err)
		}
	}
	if len(ds) > 0 {
		return &StreamMismatchError{Stream: want.Name, Differences: ds}
	}
	return nil
}

// campaignHistory is how many revisions of a campaign the bucket keeps, for looking back.
const campaignHistory = 8

// suspectLife is how long a note about an item is kept that nobody removed.
const suspectLife = 7 * 24 * time.Hour

// buckets are the key-value buckets that Open ensures. Replicas are 0 where the caller left them open.
func buckets(o Options) []jetstream.KeyValueConfig {
	return []jetstream.KeyValueConfig{
		{Bucket: BucketCampaigns, Description: "Campaigns and their state", History: campaignHistory, Storage: jetstream.FileStorage, Replicas: o.Replicas},
		{Bucket: BucketSuspects, Description: "Items that come again and again, while they are worked on", History: 1, TTL: suspectLife, Storage: jetstream.FileStorage, Replicas: o.Replicas},
		{Bucket: BucketBudgets, Description: "Rate budgets of the deployment and of campaigns", History: 1, Storage: jetstream.FileStorage, Replicas: o.Replicas},
	}
}

// bucketStream is what the stream under a bucket has to be like.
func bucketStream(b jetstream.KeyValueConfig) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: "KV_" + b.Bucket, Subjects: []string{"$KV." + b.Bucket + ".>"},
		Retention: jetstream.LimitsPolicy, Storage: b.Storage, Discard: jetstream.DiscardNew,
		MaxMsgsPerSubject: int64(b.History), MaxAge: b.TTL, Replicas: b.Replicas,
		DenyDelete: true, AllowRollup: true, AllowDirect: true,
	}
}

// replicas is how many a new stream gets: as many as are asked for, else as many as the other streams have. A version that
// brings a new bucket to a cluster must not leave it with one replica.
func (q *Queue) replicas(ctx context.Context, asked int) (int, error) {
	if asked != 0 {
		return asked, nil
	}
	most := 1
	for _, a := range assets(Options{}) {
		s, err := q.js.Stream(ctx, a.want.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("asking for stream %s: %w", a.want.Name, err)
		}
		most = max(most, s.CachedInfo().Config.Replicas)
	}
	return most, nil
}

func (q *Queue) ensureBucket(ctx context.Context, want jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	kv, err := q.js.KeyValue(ctx, want.Bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		if want.Replicas, err = q.replicas(ctx, want.Replicas); err != nil {
			return nil, err
		}
		kv, err = q.js.CreateKeyValue(ctx, want)
		if errors.Is(err, jetstream.ErrBucketExists) { // somebody was first
			kv, err = q.js.KeyValue(ctx, want.Bucket)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("opening bucket %s: %w", want.Bucket, err)
	}
	s, err := q.js.Stream(ctx, bucketStream(want).Name)
	if err != nil {
		return nil, fmt.Errorf("opening bucket %s: %w", want.Bucket, err)
	}
	if ds := compare(s.CachedInfo().Config, bucketStream(want)); len(ds) > 0 {
		return nil, &StreamMismatchError{Stream: bucketStream(want).Name, Differences: ds}
	}
	return kv, nil
}
