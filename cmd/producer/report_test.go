package main

import (
	"bytes"
	"errors"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/pipeline/event"
	"github.com/hallmark-attest/hallmark/pipeline/queue"
)

// TestReportGolden: an item of each outcome, and some of which not all can be read.
func TestReportGolden(t *testing.T) {
	t.Parallel()
	c := &pipeline.Campaign{Name: "rebuild", State: pipeline.StateClosed, Created: noon.Add(-time.Hour), Changed: noon, Reason: "done & <dusted>",
		To: "/srv/private/channel", ChannelURL: "https://conda.example/forge", Identity: "https://ci.example/w", Issuer: "https://i.example",
		Policy: pipeline.NewPolicy([]byte("{}"))}
	at := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Minute) }
	pkg := func(name, ending string) event.Package {
		return event.Package{Name: name, Version: "1.0", Build: "0", Subdir: "linux-64", Filename: name + "-1.0-0" + ending, Size: 42, SHA256: strings.Repeat("ab", 32)}
	}
	item := &pipeline.Item{ID: "04", Filename: "bad-1.0-0.conda", Source: "/srv/private/build/bad-1.0-0.conda", Expected: strings.Repeat("cd", 32), Retry: 1}
	all := []queue.Standing{
		{ID: "01", Outcome: pipeline.OutcomePublished, At: at(3), Event: &event.Event{Details: event.Details{Package: pkg("numpy", ".conda"),
			Channel:     event.Channel{Sidecar: &event.Sidecar{URL: "https://conda.example/forge/linux-64/x.sigs", SHA256: strings.Repeat("ef", 32)}},
			Attestation: &event.Attestation{Bundle: event.Bundle{SHA256: strings.Repeat("12", 32)}}, SignedAt: &event.SignedAt{Time: at(1)},
			Signer: &event.Signer{Identity: c.Identity, Issuer: c.Issuer}, Log: []event.LogEntry{{LogID: "aa", Index: 17}}, Campaign: event.Campaign{Attempt: 1}}}},
		{ID: "02", Outcome: pipeline.OutcomeSkipped, At: at(-2), Event: &event.Event{Details: event.Details{Package: pkg("scipy", ".tar.bz2"),
			Signer: &event.Signer{Identity: "somebody", Issuer: c.Issuer}, Reason: &event.Reason{Stage: "hash", Cause: "channel.published"}}}},
		{ID: "03", Outcome: queue.OutcomeAborted, At: at(4), Err: errors.New("not an event\nat /srv/private/x")},
		{ID: "04", Outcome: pipeline.OutcomeFailed, At: at(2), Entry: &queue.Entry{Item: item, Failure: pipeline.Failure{Stage: "hash", Cause: "package.truncated",
			Message: "reading /srv/private/build/bad-1.0-0.conda: it ends early", Hint: "build it again", Attempts: 3, TraceID: "0af7", At: at(2)}}},
		{ID: "05", Outcome: queue.OutcomeWaiting, At: at(-5), Item: &pipeline.Item{ID: "05", Filename: "late-1.0-0.conda", Source: "/srv/private/build/late-1.0-0.conda"}},
	}
	r := newReport(c)
	r.Generated, r.Version = noon, "v0"
	var j, table bytes.Buffer
	r.asJSON(&j)
	r.asTable(&table)
	if err := r.items(standingsOf(all)); err != nil {
		t.Fatal(err)
	}
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	golden(t, "report.json", j.Bytes())
	golden(t, "report.text", table.Bytes())
	if strings.Contains(j.String()+table.String(), "private") {
		t.Error("the report tells of this machine's folders")
	}
}

func standingsOf(all []queue.Standing) iter.Seq2[queue.Standing, error] {
	return func(yield func(queue.Standing, error) bool) {
		for _, s := range all {
			if !yield(s, nil) {
				return
			}
		}
	}
}

// TestEmptyReport: no items, and still JSON.
func TestEmptyReport(t *testing.T) {
	t.Parallel()
	r := newReport(&pipeline.Campaign{Name: "none", State: pipeline.StateOpen, Created: noon})
	r.Generated, r.Version = noon, "v0"
	var j bytes.Buffer
	r.asJSON(&j)
	if err := errors.Join(r.items(standingsOf(nil)), r.end()); err != nil {
		t.Fatal(err)
	}
	golden(t, "report-empty.json", j.Bytes())
}

func TestQuarantineFilters(t *testing.T) {
	t.Parallel()
	e := queue.Entry{Item: &pipeline.Item{ID: "0123abcd", Filename: "numpy-2.1.0-0.conda", Package: pipeline.Package{Subdir: "linux-64"}},
		Failure: pipeline.Failure{Stage: "sources", Cause: "sources.digest-mismatch"}}
	for _, tt := range []struct {
		f    filterFlags
		want bool
	}{
		{filterFlags{}, true},
		{filterFlags{Causes: []string{"sources.*"}}, true},
		{filterFlags{Causes: []string{"sources"}}, false},
		{filterFlags{Causes: []string{"package.*", "*.digest-mismatch"}}, true},
		{filterFlags{Stages: []string{"sources"}, Subdirs: []string{"linux-64"}, Names: []string{"numpy-*"}, IDs: []string{"0123"}}, true},
		{filterFlags{Stages: []string{"hash"}, Names: []string{"numpy-*"}}, false},
		{filterFlags{Subdirs: []string{"noarch"}}, false},
		{filterFlags{Names: []string{"scipy-*"}}, false},
		{filterFlags{IDs: []string{"123"}}, false},
	} {
		if err := tt.f.check(); err != nil {
			t.Error(err)
		}
		if got := tt.f.match(e); got != tt.want {
			t.Errorf("%+v: %v", tt.f, got)
		}
	}
	for _, bad := range []filterFlags{{Causes: []string{"["}}, {Names: []string{`\`}}, {IDs: []string{""}}} {
		if bad.check() == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}
