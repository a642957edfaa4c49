package sign

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
)

func TestSelectServices(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	const (
		fulcio = `"caUrls":[{"url":"https://old.localhost","majorApiVersion":1,"validFor":{"start":"2021-01-01T00:00:00Z","end":"2022-01-01T00:00:00Z"},"operator":"a"},
			{"url":"https://fulcio.localhost","majorApiVersion":1,"validFor":{"start":"2022-01-01T00:00:00Z"},"operator":"a"}]`
		v1    = `{"url":"https://v1.localhost","majorApiVersion":1,"validFor":{"start":"2022-01-01T00:00:00Z"},"operator":"a"}`
		v2    = `{"url":"https://v2.localhost","majorApiVersion":2,"validFor":{"start":"2025-01-01T00:00:00Z","end":"2026-12-01T00:00:00Z"},"operator":"a"}`
		v2b   = `{"url":"https://v2b.localhost","majorApiVersion":2,"validFor":{"start":"2026-01-01T00:00:00Z"},"operator":"b"}`
		next  = `{"url":"https://next.localhost","majorApiVersion":2,"validFor":{"start":"2027-01-01T00:00:00Z"},"operator":"a"}`
		tsa   = `"tsaUrls":[{"url":"https://tsa.localhost/ts","majorApiVersion":1,"validFor":{"start":"2022-01-01T00:00:00Z"},"operator":"a"}],"tsaConfig":{"selector":"ANY"}`
		anyOf = `"rekorTlogConfig":{"selector":"ANY"}`
		all   = `"rekorTlogConfig":{"selector":"ALL"}`
	)
	logs := func(l ...string) string { return `"rekorTlogUrls":[` + strings.Join(l, ",") + `]` }
	tests := []struct {
		name    string
		parts   []string
		force   uint32
		rekors  []string
		version uint32
		until   string
		fails   string
	}{
		{name: "v1 only", parts: []string{fulcio, logs(v1), anyOf, tsa}, rekors: []string{"https://v1.localhost"}, version: 1},
		{name: "highest", parts: []string{fulcio, logs(v1, v2), anyOf, tsa}, rekors: []string{"https://v2.localhost"}, version: 2, until: "2026-12-01"},
		{name: "forced v1", parts: []string{fulcio, logs(v1, v2), anyOf, tsa}, force: 1, rekors: []string{"https://v1.localhost"}, version: 1},
		{name: "forced v2", parts: []string{fulcio, logs(v1), anyOf, tsa}, force: 2, fails: "transparency log"},
		{name: "forced v3", parts: []string{fulcio, logs(v1), anyOf, tsa}, force: 3, fails: "unknown Rekor version 3"},
		{name: "not yet valid", parts: []string{fulcio, logs(v1, next), anyOf, tsa}, rekors: []string{"https://v1.localhost"}, version: 1},
		{name: "all logs", parts: []string{fulcio, logs(v2, v2b), all, tsa}, rekors: []string{"https://v2.localhost", "https://v2b.localhost"}, version: 2, until: "2026-12-01"},
		{name: "v2 without timestamps", parts: []string{fulcio, logs(v2), anyOf}, fails: "no timestamp authority"},
		{name: "v1 without timestamps", parts: []string{fulcio, logs(v1), anyOf}, rekors: []string{"https://v1.localhost"}, version: 1},
		{name: "no selector", parts: []string{fulcio, logs(v1), tsa}, fails: "transparency log"},
		{name: "no selector for timestamps", parts: []string{fulcio, logs(v1), anyOf, strings.Split(tsa, `,"tsaConfig"`)[0]}, fails: "timestamp authority"},
		{name: "no log", parts: []string{fulcio, anyOf, tsa}, fails: "transparency log"},
		{name: "no authority", parts: []string{logs(v1), anyOf, tsa}, fails: "certificate authority"},
		{name: "nothing", fails: "certificate authority"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			json := strings.Join(append([]string{`{"mediaType":"` + root.SigningConfigMediaType02 + `"`}, tt.parts...), ",") + "}"
			s, err := selectServices(must(root.NewSigningConfigFromJSON([]byte(json)))(t), tt.force, now)
			if tt.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fails) {
					t.Fatalf("error %v, want %q", err, tt.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(s.rekors)
			if s.fulcio != "https://fulcio.localhost" || !slices.Equal(s.rekors, tt.rekors) || s.rekorVersion != tt.version {
				t.Errorf("chose %+v", s)
			}
			if got := s.until.Format(time.DateOnly); tt.until != "" && got != tt.until || tt.until == "" && !s.until.IsZero() {
				t.Errorf("until %s, want %q", s.until, tt.until)
			}
		})
	}
}

// TestServicesAreChosenAgain when one of them ends during a campaign: the log moves to its next shard.
func TestServicesAreChosenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		c := f.config(t, 0)
		logs := c.Trust.Current().SigningConfig.RekorLogURLs()
		logs[1].ValidityPeriodEnd = time.Now().Add(time.Hour) // v2
		c.Trust.Current().SigningConfig.WithRekorLogURLs(logs...)
		s := newSigner(t, c)
		if s.RekorVersion() != 2 {
			t.Fatalf("RekorVersion = %d, want 2", s.RekorVersion())
		}
		time.Sleep(time.Hour + time.Second)
		if _, err := s.Sign(t.Context(), testStatement(t)); err != nil {
			t.Fatal(err)
		}
		if s.RekorVersion() != 1 {
			t.Errorf("RekorVersion = %d after the v2 log ended, want 1", s.RekorVersion())
		}
	})
}
