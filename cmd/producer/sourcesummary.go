package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/pipeline/event"
	"github.com/hallmark-attest/hallmark/pipeline/queue"
)

// sourceSummary is how a campaign's packages stand by where their sources come from. A package counts once, by the worst of
// its sources, when it is signed or set aside for its sources.
type sourceSummary struct {
	Mode         string `json:"mode"`
	PolicySHA256 string `json:"policySha256,omitempty"`
	Verified     uint64 `json:"verified"`
	Refused      uint64 `json:"refused"` // those set aside included
	Unverified   uint64 `json:"unverified"`
	Unattested   uint64 `json:"unattested"`
}

// sourcesOf counts; it is nil for a campaign that does not look at sources. refused is how many were set aside for theirs.
func sourcesOf(ctx context.Context, q *queue.Queue, c *pipeline.Campaign, signed uint64, causes []cause) (*sourceSummary, error) {
	if c.Sources.Mode == "" {
		return nil, nil
	}
	n, err := q.SourceCounts(ctx, c.Name)
	if err != nil {
		return nil, err
	}
	s := &sourceSummary{Mode: c.Sources.Mode, PolicySHA256: c.Sources.SHA256, Verified: n.Verified, Refused: n.Refused, Unverified: n.Unverified}
	if asked := n.Verified + n.Refused + n.Unverified; signed > asked {
		s.Unattested = signed - asked
	}
	for _, k := range causes {
		if k.Stage == "sources" && strings.HasPrefix(k.Cause, "sources.") {
			s.Refused += uint64(k.Count)
		}
	}
	return s, nil
}

func (s *sourceSummary) text(w io.Writer, indent string) {
	if s != nil {
		fmt.Fprintf(w, "%ssources (%s): %d packages verified, %d refused, %d unverified, %d unattested\n", indent, s.Mode, s.Verified, s.Refused, s.Unverified, s.Unattested)
	}
}

// sourcesLine is what an event says of sources, for people: of those that somebody asks about, who signed or what is wrong.
func sourcesLine(s *event.Sources) string {
	line := ""
	for _, f := range s.List {
		switch f.Outcome {
		case pipeline.SourceVerified:
			line += "  " + f.URL + ": " + strings.Join(f.Publishers, ", ") + " (log " + f.Log + ")"
		case pipeline.SourceRefused, pipeline.SourceUnverified:
			line += "  " + f.URL + ": " + f.Cause
		}
	}
	if s.More > 0 {
		line += fmt.Sprintf("  and %d more", s.More)
	}
	return strings.ReplaceAll(line, "\n", " ")
}
