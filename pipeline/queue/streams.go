package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Difference is one setting of a stream that is not what the pipeline needs.
type Difference struct {
	Setting, Have, Want string
}

// StreamMismatchError says that a stream exists with other settings. Nothing has been changed.
type StreamMismatchError struct {
	Stream      string
	Differences []Difference
}

func (e *StreamMismatchError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "stream %s exists with other settings:", e.Stream)
	for i, d := range e.Differences {
		if i > 0 {
			b.WriteByte(';')
		}
		fmt.Fprintf(&b, " %s is %s, want %s", d.Setting, d.Have, d.Want)
	}
	return b.String()
}

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

// compare lists what of have is not as wanted.
func compare(have, want jetstream.StreamConfig) []Difference {
	var ds []Difference
	add := func(setting string, differ bool, h, w any) {
		if differ {
			ds = append(ds, Difference{setting, fmt.Sprint(h), fmt.Sprint(w)})
		}
	}
	add("subjects", !slices.Equal(have.Subjects, want.Subjects), have.Subjects, want.Subjects)
	add("retention", have.Retention != want.Retention, have.Retention, want.Retention)
	add("storage", have.Storage != want.Storage, have.Storage, want.Storage)
	add("discard", have.Discard != want.Discard, have.Discard, want.Discard)
	add("discard_new_per_subject", have.DiscardNewPerSubject != want.DiscardNewPerSubject, have.DiscardNewPerSubject, want.DiscardNewPerSubject)
	add("max_msgs_per_subject", have.MaxMsgsPerSubject != want.MaxMsgsPerSubject, have.MaxMsgsPerSubject, want.MaxMsgsPerSubject)
	add("compression", have.Compression != want.Compression, have.Compression, want.Compression)
	add("deny_delete", have.DenyDelete != want.DenyDelete, have.DenyDelete, want.DenyDelete)
	add("deny_purge", have.DenyPurge != want.DenyPurge, have.DenyPurge, want.DenyPurge)
	add("allow_direct", have.AllowDirect != want.AllowDirect, have.AllowDirect, want.AllowDirect)
	add("allow_atomic", have.AllowAtomicPublish != want.AllowAtomicPublish, have.AllowAtomicPublish, want.AllowAtomicPublish)
	add("max_bytes", want.MaxBytes != 0 && have.MaxBytes != want.MaxBytes, have.MaxBytes, want.MaxBytes)
	add("max_age", want.MaxAge != 0 && have.MaxAge != want.MaxAge, have.MaxAge, want.MaxAge)
	add("duplicate_window", want.Duplicates != 0 && have.Duplicates != want.Duplicates, have.Duplicates, want.Duplicates)
	add("num_replicas", want.Replicas != 0 && have.Replicas != want.Replicas, have.Replicas, want.Replicas)
	// Settings that the pipeline never asks for and that would lose messages.
	add("max_msgs", have.MaxMsgs > 0, have.MaxMsgs, "unlimited")
	add("sealed", have.Sealed, have.Sealed, false)
	add("no_ack", have.NoAck, have.NoAck, false)
	add("max_age", want.Name != StreamEvents && have.MaxAge != 0, have.MaxAge, "unlimited")
	return ds
}

func (q *Queue) ensureStream(ctx context.Context, want jetstream.StreamConfig) error {
	s, err := q.js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		create := want
		create.Replicas = cmp.Or(want.Replicas, 1)
		create.MaxBytes = cmp.Or(want.MaxBytes, -1)
		s, err = q.js.CreateStream(ctx, create)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // somebody was first
			s, err = q.js.Stream(ctx, want.Name)
		}
	}
	if err != nil {
		return fmt.Errorf("opening stream %s: %w", want.Name, err)
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

func (q *Queue) ensureBucket(ctx context.Context, want jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	kv, err := q.js.KeyValue(ctx, want.Bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		create := want
		create.Replicas = cmp.Or(want.Replicas, 1)
		kv, err = q.js.CreateKeyValue(ctx, create)
		if errors.Is(err, jetstream.ErrBucketExists) { // somebody was first
			kv, err = q.js.KeyValue(ctx, want.Bucket)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("opening bucket %s: %w", want.Bucket, err)
	}
	st, err := kv.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("opening bucket %s: %w", want.Bucket, err)
	}
	var ds []Difference
	if st.TTL() != want.TTL {
		life := "unlimited"
		if want.TTL > 0 {
			life = want.TTL.String()
		}
		ds = append(ds, Difference{"max_age", st.TTL().String(), life})
	}
	if r := st.Config().Replicas; want.Replicas != 0 && r != want.Replicas {
		ds = append(ds, Difference{"num_replicas", fmt.Sprint(r), fmt.Sprint(want.Replicas)})
	}
	if st.Config().Storage != want.Storage {
		ds = append(ds, Difference{"storage", st.Config().Storage.String(), want.Storage.String()})
	}
	if len(ds) > 0 {
		return nil, &StreamMismatchError{Stream: "KV_" + want.Bucket, Differences: ds}
	}
	return kv, nil
}
