package queue

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Difference is one setting of a stream, bucket or consumer that is not what the pipeline needs.
type Difference struct {
	Setting string `json:"setting"`
	Have    string `json:"have"`
	Want    string `json:"want"`
}

func (d Difference) String() string {
	return fmt.Sprintf("%s is %s, want %s", d.Setting, d.Have, d.Want)
}

// StreamMismatchError says that a stream (that of a bucket is called KV_ and its name) or a consumer exists with other
// settings. Nothing has been changed; Migrate changes what can be changed in place.
type StreamMismatchError struct {
	Stream      string
	Consumer    string // "" where the stream itself is meant
	Differences []Difference
}

func (e *StreamMismatchError) Error() string {
	var b strings.Builder
	what := "stream " + e.Stream
	if e.Consumer != "" {
		what = "consumer " + e.Consumer + " of stream " + e.Stream
	}
	fmt.Fprintf(&b, "%s exists with other settings:", what)
	for i, d := range e.Differences {
		if i > 0 {
			b.WriteByte(';')
		}
		b.WriteByte(' ')
		b.WriteString(d.String())
	}
	b.WriteString(" (`producer queue migrate` changes what can be changed in place)")
	return b.String()
}

// What cannot be changed in place, and what to do about it.
const (
	byNewStream   = "the server cannot change this in place: with all workers stopped, back the stream up, remove it, and restore it with this setting (nats stream backup, rm, restore --config)"
	byNewConsumer = "the server cannot change this in place: with the campaign's workers stopped, remove the consumer (nats consumer rm); the next worker makes a new one, is handed every item again, and finds what is done"
)

// change is a difference and what is done about it: set changes it in place, and where that cannot be done, or would remove
// messages, manual says what a person can do.
type change struct {
	Difference
	set    func(*jetstream.StreamConfig)
	manual string
}

// changes lists what of have is not as wanted.
func changes(have, want jetstream.StreamConfig) []change {
	var cs []change
	add := func(setting string, differ bool, h, w any, set func(*jetstream.StreamConfig)) {
		if !differ {
			return
		}
		c := change{Difference: Difference{setting, fmt.Sprint(h), fmt.Sprint(w)}, set: set}
		if set == nil {
			c.manual = byNewStream
		}
		cs = append(cs, c)
	}
	type cfg = jetstream.StreamConfig
	// where is set as far as the condition holds.
	where := func(ok bool, set func(*cfg)) func(*cfg) {
		if !ok {
			return nil
		}
		return set
	}
	bound := func(n int64) string {
		if n <= 0 {
			return "unlimited"
		}
		return fmt.Sprint(n)
	}
	age := func(d time.Duration) string {
		if d <= 0 {
			return "unlimited"
		}
		return d.String()
	}
	add("subjects", !slices.Equal(have.Subjects, want.Subjects), have.Subjects, want.Subjects, func(c *cfg) { c.Subjects = want.Subjects })
	add("retention", have.Retention != want.Retention, have.Retention, want.Retention,
		where(have.Retention != jetstream.WorkQueuePolicy && want.Retention != jetstream.WorkQueuePolicy, func(c *cfg) { c.Retention = want.Retention }))
	add("storage", have.Storage != want.Storage, have.Storage, want.Storage, nil)
	add("persist_mode", have.PersistMode != want.PersistMode, have.PersistMode, want.PersistMode, nil)
	add("discard", have.Discard != want.Discard, have.Discard, want.Discard, func(c *cfg) { c.Discard = want.Discard })
	add("discard_new_per_subject", have.DiscardNewPerSubject != want.DiscardNewPerSubject, have.DiscardNewPerSubject, want.DiscardNewPerSubject,
		func(c *cfg) { c.DiscardNewPerSubject = want.DiscardNewPerSubject })
	add("max_msgs_per_subject", have.MaxMsgsPerSubject != want.MaxMsgsPerSubject, bound(have.MaxMsgsPerSubject), bound(want.MaxMsgsPerSubject),
		func(c *cfg) { c.MaxMsgsPerSubject = want.MaxMsgsPerSubject })
	add("compression", have.Compression != want.Compression, have.Compression, want.Compression, func(c *cfg) { c.Compression = want.Compression })
	add("deny_delete", have.DenyDelete != want.DenyDelete, have.DenyDelete, want.DenyDelete, where(want.DenyDelete, func(c *cfg) { c.DenyDelete = true }))
	add("deny_purge", have.DenyPurge != want.DenyPurge, have.DenyPurge, want.DenyPurge, where(want.DenyPurge, func(c *cfg) { c.DenyPurge = true }))
	add("allow_rollup_hdrs", have.AllowRollup != want.AllowRollup, have.AllowRollup, want.AllowRollup, func(c *cfg) { c.AllowRollup = want.AllowRollup })
	add("allow_direct", want.AllowDirect && !have.AllowDirect, have.AllowDirect, want.AllowDirect, func(c *cfg) { c.AllowDirect = true })
	add("allow_atomic", want.AllowAtomicPublish && !have.AllowAtomicPublish, have.AllowAtomicPublish, want.AllowAtomicPublish, func(c *cfg) { c.AllowAtomicPublish = true })
	add("max_bytes", want.MaxBytes != 0 && have.MaxBytes != want.MaxBytes, bound(have.MaxBytes), bound(want.MaxBytes), func(c *cfg) { c.MaxBytes = want.MaxBytes })
	// Only events may be kept for a time, and only if the caller says so; 0 leaves theirs as it is.
	add("max_age", have.MaxAge != want.MaxAge && (want.MaxAge != 0 || want.Name != StreamEvents), age(have.MaxAge), age(want.MaxAge), func(c *cfg) { c.MaxAge = want.MaxAge })
	add("duplicate_window", want.Duplicates != 0 && have.Duplicates != want.Duplicates, have.Duplicates, want.Duplicates, func(c *cfg) { c.Duplicates = want.Duplicates })
	add("num_replicas", want.Replicas != 0 && have.Replicas != want.Replicas, have.Replicas, want.Replicas, func(c *cfg) { c.Replicas = want.Replicas })
	// Settings that the pipeline never asks for and that would lose or refuse messages.
	add("max_msgs", have.MaxMsgs > 0, bound(have.MaxMsgs), "unlimited", func(c *cfg) { c.MaxMsgs = -1 })
	add("max_msg_size", have.MaxMsgSize > 0, bound(int64(have.MaxMsgSize)), "unlimited", func(c *cfg) { c.MaxMsgSize = -1 })
	add("max_consumers", have.MaxConsumers > 0, bound(int64(have.MaxConsumers)), "unlimited", func(c *cfg) { c.MaxConsumers = -1 })
	add("sealed", have.Sealed, have.Sealed, false, nil)
	add("no_ack", have.NoAck, have.NoAck, false, func(c *cfg) { c.NoAck = false })
	add("mirror", have.Mirror != nil, "set", "none", nil)
	add("subject_transform", have.SubjectTransform != nil, "set", "none", func(c *cfg) { c.SubjectTransform = nil })
	return cs
}

// compare lists what of have is not as wanted.
func compare(have, want jetstream.StreamConfig) []Difference {
	var ds []Difference
	for _, c := range changes(have, want) {
		ds = append(ds, c.Difference)
	}
	return ds
}

// spare makes those of the changes manual that would remove messages from a stream in this state.
func spare(cs []change, have, want jetstream.StreamConfig, state jetstream.StreamState) {
	for i := range cs {
		c := &cs[i]
		if c.set == nil {
			continue
		}
		switch {
		case c.Setting == "max_msgs_per_subject" && state.Msgs > state.NumSubjects && (have.MaxMsgsPerSubject <= 0 || want.MaxMsgsPerSubject < have.MaxMsgsPerSubject):
			c.manual = fmt.Sprintf("it would remove messages: %d subjects have %d; purge those that are not needed first (nats stream purge --subject --keep)", state.NumSubjects, state.Msgs)
		case c.Setting == "max_bytes" && want.Discard == jetstream.DiscardOld && want.MaxBytes > 0 && state.Bytes > uint64(want.MaxBytes):
			c.manual = fmt.Sprintf("it would remove messages: the stream has %d bytes", state.Bytes)
		// Notes about suspects go away by themselves in any case.
		case c.Setting == "max_age" && want.MaxAge > 0 && want.Name != "KV_"+BucketSuspects && state.Msgs > 0 && time.Since(state.FirstTime) > want.MaxAge:
			c.manual = fmt.Sprintf("it would remove messages: the oldest is of %s", state.FirstTime.UTC().Format(time.RFC3339))
		}
		if c.manual != "" {
			c.set = nil
		}
	}
}
