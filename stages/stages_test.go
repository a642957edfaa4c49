package stages

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/conda"
	"github.com/hallmark-attest/hallmark/internal/provenance"
	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/stages/sign"
)

type checker struct{}

func (checker) Check(context.Context, conda.Files, provenance.Policy) (provenance.Report, error) {
	return provenance.Report{}, nil
}

// TestListOfACampaign: sources is between hash and sign, and only where the campaign looks at them.
func TestListOfACampaign(t *testing.T) {
	t.Parallel()
	without, with := &pipeline.Campaign{}, &pipeline.Campaign{Sources: pipeline.NewSourcePolicy("require", "")}
	if got := strings.Join(Of(with), ","); got != "hash,sources,sign,upload,publish" || !slices.Equal(Of(with), Names()) {
		t.Error(got)
	}
	if got := strings.Join(Of(without), ","); got != "hash,sign,upload,publish" {
		t.Error(got)
	}
	for _, tt := range []struct {
		c           *pipeline.Campaign
		names, want string
	}{
		{with, "hash,sources", "hash,sources"}, {without, "hash,sources", "hash"}, {without, "sources", ""}, {without, "sources,sign", "sign"},
	} {
		if got := strings.Join(In(tt.c, strings.Split(tt.names, ",")), ","); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.names, got, tt.want)
		}
	}
	for names, ok := range map[string]bool{
		"hash": true, "hash,sources": true, "hash,sign": true, "sources": true, "sources,sign": true, "hash,sources,sign,upload,publish": true,
		"hash,upload": false, "sign,sources": false, "sources,upload": false, "paint": false, "": false, "hash,hash": false, "upload,publish,publish": false,
	} {
		if err := Check(strings.Split(names, ",")); (err == nil) != ok {
			t.Errorf("%q: %v", names, err)
		}
	}
}

// TestBuild: the steps that are asked for, if they are a run of the campaign's, with what they need.
func TestBuild(t *testing.T) {
	t.Parallel()
	without, with := &pipeline.Campaign{}, &pipeline.Campaign{Sources: pipeline.NewSourcePolicy("report", "")}
	broken := &pipeline.Campaign{Sources: pipeline.SourcePolicy{Mode: "report", Text: "hosts: 7"}}
	for _, tt := range []struct {
		c     *pipeline.Campaign
		names string
		parts Parts
		want  string // "": an error
	}{
		{with, "hash,sources", Parts{Sources: checker{}}, "[hash sources]"},
		{with, "sources", Parts{Sources: checker{}}, "[sources]"},
		{with, "sources", Parts{}, ""},
		{broken, "sources", Parts{Sources: checker{}}, ""},
		{without, "sources", Parts{Sources: checker{}}, ""},
		{without, "hash", Parts{}, "[hash]"},
		{with, "hash,sign", Parts{Sources: checker{}}, ""},
		{with, "sources,sign", Parts{Sources: checker{}}, ""}, // no signer
		{with, "", Parts{}, ""},
	} {
		tt.parts.Campaign = tt.c
		steps, err := Build(strings.Split(tt.names, ","), tt.parts, map[string]int{"sources": 7, "upload": 3})
		var names []string
		for _, s := range steps {
			names = append(names, s.String())
			if s.String() == "sources" && s.Concurrency != 7 {
				t.Errorf("concurrency %d", s.Concurrency)
			}
		}
		if got := fmt.Sprint(names); got != tt.want && !(tt.want == "" && err != nil) {
			t.Errorf("%s: %s, %v", tt.names, got, err)
		}
	}
	if _, err := Build([]string{"hash"}, Parts{Campaign: without}, map[string]int{"paint": 1}); err == nil {
		t.Error("the concurrency of a stage that does not exist")
	}
}

type noted struct{ ran *int }

func (noted) String() string { return "sign" }

func (n noted) Run(context.Context, *pipeline.Item) error { *n.ran++; return nil }

// TestSignedOnlyIfSourced: where a campaign requires it, nothing is signed whose sources were not found to be right.
func TestSignedOnlyIfSourced(t *testing.T) {
	t.Parallel()
	ran := 0
	st := sourced{noted{&ran}}
	for _, bad := range []*pipeline.Sources{nil, {}, {Mode: "report"}, {Mode: "require", Refused: 1}, {Mode: "require", Unverified: 1}} {
		if e := pipeline.Classify(st.Run(t.Context(), &pipeline.Item{Sources: bad})); e == nil || e.Kind != pipeline.KindPermanent || e.Cause != "sources.unchecked" {
			t.Errorf("%+v: %v", bad, e)
		}
	}
	if ran != 0 {
		t.Error("it was signed")
	}
	if err := st.Run(t.Context(), &pipeline.Item{Sources: &pipeline.Sources{Mode: "require", Unattested: 1}}); err != nil || ran != 1 || st.String() != "sign" {
		t.Error(err, ran)
	}
	if _, err := newSign(Parts{Campaign: &pipeline.Campaign{Sources: pipeline.SourcePolicy{Mode: "insist"}}, Signer: &sign.KeylessSigner{}, Verifier: &attest.Verifier{}}); err == nil {
		t.Error("a mode that a later version may have: nothing may be signed by one that does not know it")
	}
	for mode, want := range map[string]bool{"require": true, "report": false, "": false} {
		built, err := newSign(Parts{Campaign: &pipeline.Campaign{Sources: pipeline.NewSourcePolicy(mode, "")}, Signer: &sign.KeylessSigner{}, Verifier: &attest.Verifier{}})
		if _, is := built.(sourced); err != nil || is != want {
			t.Errorf("mode %q: %T, %v", mode, built, err)
		}
	}
}
