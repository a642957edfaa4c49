package sources

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/hallmark-attest/hallmark/internal/provenance"
	"github.com/hallmark-attest/hallmark/pipeline"
)

// What an item keeps of its sources at most: it is in a message of every cut, and in events. A package has one source or a
// few; those beyond are counted.
const (
	maxSources    = 16
	maxPublishers = 8        // of one source; signers likewise
	maxWarnings   = 4        // of one source
	maxText       = 600      // bytes
	maxKept       = 32 << 10 // bytes of JSON, all together
)

// found makes of a report what the item keeps.
func found(mode provenance.Mode, outcomes []provenance.Outcome, at time.Time) *pipeline.Sources {
	s := &pipeline.Sources{Mode: string(mode), CheckedAt: at.UTC()}
	for _, o := range outcomes {
		k := kept(o)
		switch k.Outcome {
		case pipeline.SourceVerified:
			s.Verified++
		case pipeline.SourceRefused:
			s.Refused++
		case pipeline.SourceUnverified:
			s.Unverified++
		default:
			s.Unattested++
		}
		s.List = append(s.List, k)
	}
	slices.SortStableFunc(s.List, func(a, b pipeline.SourceFinding) int { return cmp.Compare(weight(a), weight(b)) })
	keep, size := 0, 0
	for ; keep < min(len(s.List), maxSources); keep++ {
		data, err := json.Marshal(s.List[keep]) // its length is what counts: each "<" takes six bytes
		if size += len(data); err != nil || size > maxKept {
			break
		}
	}
	s.List, s.More = slices.Clip(s.List[:keep]), len(s.List)-keep
	return s
}

// weight orders sources by what matters most to whoever reads.
func weight(s pipeline.SourceFinding) int {
	return slices.Index([]string{pipeline.SourceRefused, pipeline.SourceUnverified, pipeline.SourceVerified, pipeline.SourceUnattested}, s.Outcome)
}

func kept(o provenance.Outcome) pipeline.SourceFinding {
	s := pipeline.SourceFinding{URL: clip(o.URL), SHA256: o.SHA256, Outcome: string(o.Status), AskedBy: o.AskedBy, Log: o.Log, From: o.From, Cause: o.Cause}
	if o.Status == provenance.StatusNone {
		s.Outcome = pipeline.SourceUnattested
	}
	for _, p := range o.Publishers[:min(len(o.Publishers), maxPublishers)] {
		s.Publishers = append(s.Publishers, clip(p))
	}
	for _, g := range o.Signers[:min(len(o.Signers), maxPublishers)] {
		s.Signers = append(s.Signers, pipeline.SourceSigner{Identity: clip(g.Identity), Issuer: clip(g.Issuer), PredicateType: clip(g.PredicateType), Log: g.Log})
	}
	for _, w := range o.Warnings[:min(len(o.Warnings), maxWarnings)] {
		s.Warnings = append(s.Warnings, clip(w))
	}
	return s
}

func clip(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText], "") + "…"
}
