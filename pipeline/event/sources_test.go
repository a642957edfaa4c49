package event

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hallmark-attest/hallmark/pipeline"
)

// TestSourcesEvent: a signed item tells of its sources once, by the worst of them, if anybody asks about any; a failed one
// has them in its own event.
func TestSourcesEvent(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		sources *pipeline.Sources
		want    string
	}{
		{nil, ""},
		{&pipeline.Sources{Mode: "report"}, ""},
		{&pipeline.Sources{Mode: "report", Unattested: 3}, ""},
		{&pipeline.Sources{Mode: "report", Unattested: 3, Verified: 1}, SourcesVerified},
		{&pipeline.Sources{Mode: "report", Verified: 1, Unverified: 1}, SourcesUnverified},
		{&pipeline.Sources{Mode: "report", Verified: 1, Unverified: 1, Refused: 1}, SourcesRefused},
	} {
		it := testItem()
		it.Sources = tt.sources
		o := pipeline.Outcome{Delivery: pipeline.Delivery{Item: it, Attempt: 1}, Kind: pipeline.OutcomePublished, Events: []string{Signed, Published}}
		ms, err := testEncoder().Encode(testCampaign(), o)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range ms {
			e, err := Decode(m.Subject, m.Header, m.Data)
			if err != nil {
				t.Fatal(err)
			}
			if (e.Details.Sources == nil) != (tt.sources == nil) {
				t.Errorf("%s: sources %+v", e.Tokens.Event, e.Details.Sources)
			}
			got = append(got, e.Tokens.Event)
		}
		want := strings.Fields(Signed + " " + tt.want + " " + Published)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%+v: events %v, want %v", tt.sources, got, want)
		}
		o.Kind, o.Events, o.Failure = pipeline.OutcomeFailed, nil, &pipeline.Failure{Stage: "sources", Cause: "sources.publisher.mismatch"}
		if ms, err = testEncoder().Encode(testCampaign(), o); err != nil || len(ms) != 1 {
			t.Fatalf("%d events, %v", len(ms), err)
		}
		if e, err := Decode(ms[0].Subject, ms[0].Header, ms[0].Data); err != nil || (e.Details.Sources == nil) != (tt.sources == nil) {
			t.Errorf("failed: %v", err)
		}
	}
}

// TestSourcesAreBounded: however much a recipe says, the event fits, its counts stay and what is left out is counted; no
// secret of a URL gets through.
func TestSourcesAreBounded(t *testing.T) {
	t.Parallel()
	it := testItem()
	f := pipeline.SourceFinding{URL: "https://u:hunter2@h.example/f.tgz?token=hunter2", Outcome: pipeline.SourceRefused, Cause: "publisher.mismatch",
		Warnings: []string{"see https://u:hunter2@h.example/f?token=hunter2"}}
	it.Sources = &pipeline.Sources{Mode: "report", Refused: 20, List: []pipeline.SourceFinding{f}, More: 19}
	o := pipeline.Outcome{Delivery: pipeline.Delivery{Item: it}, Kind: pipeline.OutcomePublished, Events: []string{Signed}}
	ms, err := testEncoder().Encode(testCampaign(), o)
	if err != nil || len(ms) != 2 || strings.Contains(string(ms[0].Data), "hunter2") || !strings.Contains(string(ms[0].Data), "https://h.example/f.tgz") {
		t.Fatalf("%v: %s", err, ms)
	}
	for range 40 {
		for range 8 {
			f.Publishers = append(f.Publishers, strings.Repeat("p", 600))
		}
		it.Sources.List = append(it.Sources.List, f)
	}
	if ms, err = testEncoder().Encode(testCampaign(), o); err != nil {
		t.Fatal(err)
	}
	for _, m := range ms {
		e, err := Decode(m.Subject, m.Header, m.Data)
		if err != nil || len(m.Data) > MaxSize {
			t.Fatalf("%d bytes, %v", len(m.Data), err)
		}
		if s := e.Details.Sources; s.Refused != 20 || len(s.List) != 0 || s.More != 60 {
			t.Errorf("%+v", s)
		}
		if e.Details.Signer.SourceRepository == "" {
			t.Error("the certificate's claims went before the list of sources")
		}
	}
}
