package queue

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Defaults of a segment's consumer.
const (
	defaultAckWait       = time.Minute
	defaultMaxAckPending = 10000
)

// consumerConfig is what the consumer of a campaign's segment is like when it is made.
func consumerConfig(campaign, segment string, o SourceOptions) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable:       ConsumerName(campaign, segment),
		Description:   "Items of campaign " + campaign + " in segment " + segment,
		FilterSubject: jobFilter(segment, campaign),
		DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       cmp.Or(o.AckWait, defaultAckWait),
		// The server never gives up on an item: an outage of any length sets nothing aside. No BackOff either, which
		// would replace AckWait and add to the delay of a release.
		MaxDeliver:    -1,
		MaxAckPending: cmp.Or(o.MaxAckPending, defaultMaxAckPending),
	}
}

// consumerChange is a difference of a consumer and what is done about it.
type consumerChange struct {
	Difference
	set    func(*jetstream.ConsumerConfig)
	manual string
	// after says what is left to do once it is changed; "" for nothing.
	after string
}

// consumerChanges lists what of the consumer of a campaign's segment would lose items or hold them up. How many items may be
// out is not looked at, as long as it is any: workers raise it to what they need.
func consumerChanges(have jetstream.ConsumerConfig, campaign, segment string) []consumerChange {
	want := consumerConfig(campaign, segment, SourceOptions{})
	var cs []consumerChange
	add := func(setting string, differ bool, h, w any, set func(*jetstream.ConsumerConfig)) {
		if !differ {
			return
		}
		c := consumerChange{Difference: Difference{setting, fmt.Sprint(h), fmt.Sprint(w)}, set: set}
		if set == nil {
			c.manual = byNewConsumer
		}
		cs = append(cs, c)
	}
	type cfg = jetstream.ConsumerConfig
	filter := have.FilterSubject
	if len(have.FilterSubjects) > 0 {
		filter = strings.Join(have.FilterSubjects, " ")
	}
	// The server would change it, but what the old filter passed over is never handed out by this consumer.
	add("filter_subject", filter != want.FilterSubject, filter, want.FilterSubject, nil)
	add("deliver_policy", have.DeliverPolicy != want.DeliverPolicy, have.DeliverPolicy, want.DeliverPolicy, nil)
	add("deliver_subject", have.DeliverSubject != "", have.DeliverSubject, "none", nil)
	add("ack_policy", have.AckPolicy != want.AckPolicy, have.AckPolicy, want.AckPolicy, nil)
	add("mem_storage", have.MemoryStorage, true, false, nil)
	add("ack_wait", have.AckWait != want.AckWait, have.AckWait, want.AckWait, func(c *cfg) { c.AckWait = want.AckWait })
	add("max_ack_pending", have.MaxAckPending == 0, have.MaxAckPending, want.MaxAckPending, func(c *cfg) { c.MaxAckPending = want.MaxAckPending })
	add("max_deliver", have.MaxDeliver > 0, have.MaxDeliver, "unlimited", func(c *cfg) { c.MaxDeliver = -1 })
	if len(cs) > 0 && cs[len(cs)-1].Setting == "max_deliver" {
		cs[len(cs)-1].after = "items that had been handed out that often come no more: if any is missing at the end, remove the consumer (nats consumer rm) with the campaign's workers stopped"
	}
	add("backoff", len(have.BackOff) > 0, have.BackOff, "none", func(c *cfg) { c.BackOff = nil; c.AckWait = want.AckWait })
	add("num_replicas", have.Replicas != 0, have.Replicas, "the stream's", func(c *cfg) { c.Replicas = 0 })
	add("inactive_threshold", have.InactiveThreshold != 0, have.InactiveThreshold, "none", func(c *cfg) { c.InactiveThreshold = 0 })
	add("headers_only", have.HeadersOnly, true, false, func(c *cfg) { c.HeadersOnly = false })
	add("rate_limit_bps", have.RateLimit != 0, have.RateLimit, "none", func(c *cfg) { c.RateLimit = 0 })
	add("max_batch", have.MaxRequestBatch != 0, have.MaxRequestBatch, "none", func(c *cfg) { c.MaxRequestBatch = 0 })
	add("max_expires", have.MaxRequestExpires != 0, have.MaxRequestExpires, "none", func(c *cfg) { c.MaxRequestExpires = 0 })
	add("max_bytes", have.MaxRequestMaxBytes != 0, have.MaxRequestMaxBytes, "none", func(c *cfg) { c.MaxRequestMaxBytes = 0 })
	add("priority_groups", len(have.PriorityGroups) > 0, have.PriorityGroups, "none", func(c *cfg) { c.PriorityGroups, c.PriorityPolicy = nil, jetstream.PriorityPolicyNone })
	return cs
}

// compareConsumer lists what keeps a Source from working with the consumer. It chooses the acknowledgement wait itself.
func compareConsumer(have jetstream.ConsumerConfig, campaign, segment string) []Difference {
	var ds []Difference
	for _, c := range consumerChanges(have, campaign, segment) {
		if c.Setting != "ack_wait" {
			ds = append(ds, c.Difference)
		}
	}
	return ds
}
