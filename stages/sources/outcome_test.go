package sources

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hallmark-attest/hallmark/internal/provenance"
	"github.com/hallmark-attest/hallmark/pipeline"
)

// TestFound: what the item keeps of a report: all of it for a usual package, the worst first, and bounded for any.
func TestFound(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	verified := provenance.Outcome{URL: "https://h/v", SHA256: strings.Repeat("a", 64), Status: provenance.StatusVerified, AskedBy: "recipe", Publishers: []string{"github:a/b"},
		Signers: []provenance.Signer{{Identity: "https://github.com/a/b/w@r", Issuer: "https://i", PredicateType: "t", Log: provenance.LogUnchecked}},
		Log:     provenance.LogUnchecked, From: "upstream", Warnings: []string{"the log"}}
	got := found(provenance.ModeReport, []provenance.Outcome{
		{URL: "https://h/n", Status: provenance.StatusNone}, verified,
		{URL: "https://h/u", Status: provenance.StatusUnverified, Cause: "fetch.unavailable", Message: "m", Hint: "h"},
		{URL: "https://h/r", Status: provenance.StatusRefused, AskedBy: "policy", Cause: "attestation.missing"},
	}, now)
	want := &pipeline.Sources{Mode: "report", CheckedAt: now, Verified: 1, Refused: 1, Unverified: 1, Unattested: 1, List: []pipeline.SourceFinding{
		{URL: "https://h/r", Outcome: "refused", AskedBy: "policy", Cause: "attestation.missing"},
		{URL: "https://h/u", Outcome: "unverified", Cause: "fetch.unavailable"},
		{URL: "https://h/v", SHA256: strings.Repeat("a", 64), Outcome: "verified", AskedBy: "recipe", Publishers: []string{"github:a/b"}, Log: "unchecked", From: "upstream",
			Signers: []pipeline.SourceSigner{{Identity: "https://github.com/a/b/w@r", Issuer: "https://i", PredicateType: "t", Log: "unchecked"}}, Warnings: []string{"the log"}},
		{URL: "https://h/n", Outcome: "unattested"},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}

	huge := verified
	huge.URL, huge.Publishers, huge.Warnings = "https://h/"+strings.Repeat("ü", 2000), nil, nil
	for i := range 64 {
		huge.Publishers = append(huge.Publishers, fmt.Sprint(i, strings.Repeat("<", 2000)))
		huge.Warnings = append(huge.Warnings, strings.Repeat("w", 2000))
		huge.Signers = append(huge.Signers, provenance.Signer{Identity: strings.Repeat("i", 2000), Issuer: strings.Repeat("i", 2000)})
	}
	var many []provenance.Outcome
	for range 256 {
		many = append(many, huge)
	}
	many = append(many, provenance.Outcome{URL: "https://h/last", Status: provenance.StatusRefused})
	got = found(provenance.ModeRequire, many, now)
	if got.Verified != 256 || got.Refused != 1 || len(got.List) != 1 || got.More != 256 || got.List[0].URL != "https://h/last" {
		t.Errorf("%d verified, %d refused, %d listed, %d more, first %s", got.Verified, got.Refused, len(got.List), got.More, got.List[0].URL)
	}
	data, err := json.Marshal(got)
	if err != nil || len(data) > maxKept+1024 {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	many = slices.Repeat([]provenance.Outcome{verified}, 256)
	if got = found(provenance.ModeRequire, many, now); got.Verified != 256 || len(got.List) != maxSources || got.More != 256-maxSources {
		t.Errorf("%d verified, %d listed, %d more", got.Verified, len(got.List), got.More)
	}
}

// TestPolicy: the campaign's mode and its policy's text go together, or not at all.
func TestPolicy(t *testing.T) {
	t.Parallel()
	const hosts = "version: 1\nhosts: [{host: pypi.org, publishers: ['github:a/b']}]\n"
	tampered := pipeline.NewSourcePolicy("require", hosts)
	tampered.Text = "version: 1\n"
	if p, err := Policy(tampered); err == nil {
		t.Errorf("another text than the campaign's: %+v", p)
	}
	for _, tt := range []struct {
		mode, text string
		hosts      int
		bad        bool
	}{
		{"report", "", 0, false},
		{"require", hosts, 1, false},
		{"require", "mode: require\n" + hosts, 1, false},
		{"report", "mode: require\n" + hosts, 0, true},
		{"sometimes", "", 0, true},
		{"report", "hosts: 7", 0, true},
	} {
		p, err := Policy(pipeline.NewSourcePolicy(tt.mode, tt.text))
		if (err != nil) != tt.bad || err == nil && (string(p.Mode) != tt.mode || len(p.Hosts) != tt.hosts) {
			t.Errorf("%s, %q: %+v, %v", tt.mode, tt.text, p, err)
		}
	}
}
