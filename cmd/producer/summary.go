package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/hallmark-attest/hallmark/internal/command"
	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/pipeline/queue"
)

// summary is how a campaign stands: the result of publish and, for each campaign, of status.
type summary struct {
	Schema     string    `json:"schema"`
	Campaign   string    `json:"campaign"`
	State      string    `json:"state"`
	Created    time.Time `json:"created"`
	Changed    time.Time `json:"changed,omitzero"` // when the state was changed last
	Reason     string    `json:"reason,omitempty"` // what for, as whoever changed it said
	To         string    `json:"to"`
	ChannelURL string    `json:"channelURL,omitempty"`
	Identity   string    `json:"identity"`
	Issuer     string    `json:"issuer"`
	// PolicySHA256 is the digest of the frozen policy, if there is one. NoSign: the campaign signs nothing.
	PolicySHA256 string `json:"policySha256,omitempty"`
	NoSign       bool   `json:"noSign,omitempty"`

	Enqueued  uint64 `json:"enqueued"`
	Signed    uint64 `json:"signed"` // have a complete attestation; not an outcome
	Published uint64 `json:"published"`
	Skipped   uint64 `json:"skipped"`
	Failed    uint64 `json:"failed"` // in quarantine
	Aborted   uint64 `json:"aborted"`
	Waiting   uint64 `json:"waiting"` // have no outcome

	// Sources is absent for a campaign that does not look at sources.
	Sources *sourceSummary `json:"sources,omitempty"`

	Segments []segment `json:"segments,omitempty"`
	// WorkersError is why it is not known which workers there are; WorkersUnread is how many answers were none.
	WorkersError  string `json:"workersError,omitempty"`
	WorkersUnread int    `json:"workersUnread,omitempty"`
	// Budgets hold for the campaign: its own, and the deployment's. BudgetsError is why they are not known.
	Budgets      []queue.BudgetState `json:"budgets,omitempty"`
	BudgetsError string              `json:"budgetsError,omitempty"`
	// PerMinute is how many items were finished in the last minute; Left is how long the rest takes at that rate, in
	// seconds. Both are absent where they mean nothing.
	PerMinute uint64 `json:"perMinute,omitempty"`
	Left      uint64 `json:"secondsLeft,omitempty"`

	Duplicates  int                 `json:"duplicates,omitempty"`
	Stages      []command.StageTime `json:"stages,omitempty"`
	Interrupted bool                `json:"interrupted,omitempty"`
	Causes      []cause             `json:"causes,omitempty"`
	Failures    []failure           `json:"failures,omitempty"`
}

type segment struct {
	Name        string `json:"name"`
	Pending     uint64 `json:"pending"`
	InFlight    uint64 `json:"inFlight"`
	Redelivered uint64 `json:"redelivered"`
	// Workers are those that serve the segment now, and Stages what they say together, for each stage of the segment.
	// Both are absent where nobody was asked: in publish's result, for a closed campaign, and if WorkersError says why.
	Workers []queue.WorkerStatus `json:"workers,omitzero"`
	Stages  []queue.StageStatus  `json:"stages,omitzero"`
}

type cause struct {
	Stage string `json:"stage"`
	Cause string `json:"cause"`
	Count int    `json:"count"`
	Hint  string `json:"hint,omitempty"`
}

type failure struct {
	Item     string `json:"item"`
	Filename string `json:"filename"`
	Source   string `json:"source"`
	pipeline.Failure
}

// maxFailures bounds how many failures a summary lists one by one; the causes count all.
const maxFailures = 1000

func summarise(ctx context.Context, q *queue.Queue, c *pipeline.Campaign) (*summary, error) {
	counts, err := tallied(ctx, q, c)
	if err != nil {
		return nil, err
	}
	s := &summary{Schema: "hallmark.campaign/1", Campaign: c.Name, State: string(c.State), Created: c.Created, Changed: c.Changed, Reason: c.Reason, To: c.To, ChannelURL: c.ChannelURL,
		Identity: c.Identity, Issuer: c.Issuer, PolicySHA256: c.PolicySHA256(), NoSign: c.NoSign, Enqueued: counts.Enqueued, Signed: counts.Signed, Published: counts.Published, Skipped: counts.Skipped,
		Failed: counts.Failed, Aborted: counts.Aborted, Waiting: counts.Open()}
	for _, g := range counts.Segments {
		s.Segments = append(s.Segments, segment{Name: g.Name, Pending: g.Pending, InFlight: g.InFlight, Redelivered: g.Redelivered})
	}
	byCause := map[[2]string]*cause{}
	for e, err := range q.Quarantined(ctx, c.Name) {
		if err != nil {
			return nil, err
		}
		at := [2]string{e.Failure.Stage, e.Failure.Cause}
		k := byCause[at]
		if k == nil {
			k = &cause{Stage: e.Failure.Stage, Cause: e.Failure.Cause, Hint: e.Failure.Hint}
			byCause[at] = k
		}
		k.Count++
		if len(s.Failures) < maxFailures {
			f := failure{Failure: e.Failure}
			if e.Item != nil {
				f.Item, f.Filename, f.Source = e.Item.ID, e.Item.Filename, e.Item.Source
			}
			s.Failures = append(s.Failures, f)
		}
	}
	for _, k := range byCause {
		s.Causes = append(s.Causes, *k)
	}
	slices.SortFunc(s.Causes, func(a, b cause) int {
		return cmp.Or(b.Count-a.Count, cmp.Compare(a.Cause, b.Cause), cmp.Compare(a.Stage, b.Stage))
	})
	if s.Sources, err = sourcesOf(ctx, q, c, s.Signed, s.Causes); err != nil {
		return nil, err
	}
	slices.SortFunc(s.Failures, func(a, b failure) int {
		return cmp.Or(cmp.Compare(a.Cause, b.Cause), cmp.Compare(a.Filename, b.Filename))
	})
	return s, nil
}

// signers says whose attestations the packages have that were published already.
func (s *summary) signers() string {
	if s.PolicySHA256 != "" {
		return "whom the policy accepts"
	}
	return s.Identity
}

// text writes the result of publish.
func (s *summary) text(w io.Writer) {
	switch {
	case s.Aborted > 0:
		fmt.Fprintf(w, "campaign %s: %d published, %d skipped, %d set aside, %d aborted, %d not done yet\n", s.Campaign, s.Published, s.Skipped, s.Failed, s.Aborted, s.Waiting)
	case s.Interrupted:
		fmt.Fprintf(w, "campaign %s: %d published, %d skipped, %d set aside, %d not done yet\n", s.Campaign, s.Published, s.Skipped, s.Failed, s.Waiting)
	case s.Published == 0 && s.Failed == 0 && s.Skipped > 0:
		fmt.Fprintf(w, "campaign %s: all %d packages were published already, signed by %s; nothing was changed\n", s.Campaign, s.Skipped, s.signers())
	default:
		fmt.Fprintf(w, "campaign %s: %d published, %d skipped (published already), %d set aside\n", s.Campaign, s.Published, s.Skipped, s.Failed)
	}
	s.Sources.text(w, "")
	if s.Duplicates > 0 {
		fmt.Fprintf(w, "%d arguments named a package that was named already\n", s.Duplicates)
	}
	for _, f := range s.Failures {
		fmt.Fprintf(w, "set aside: %s\n  cause: %s (%s)\n", cmp.Or(f.Source, f.Filename, f.Item), f.Message, f.Cause)
		if f.Hint != "" {
			fmt.Fprintf(w, "  hint:  %s\n", f.Hint)
		}
	}
	if n := int64(s.Failed) - int64(len(s.Failures)); n > 0 {
		fmt.Fprintf(w, "and %d more\n", n)
	}
}
