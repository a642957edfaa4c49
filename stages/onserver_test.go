package stages

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hallmark-attest/hallmark/internal/attest"
	attestations "github.com/hallmark-attest/hallmark/internal/github"
	"github.com/hallmark-attest/hallmark/internal/prefix"
	"github.com/hallmark-attest/hallmark/pipeline"
)

// TestOnServer: a channel on a server, and GitHub's store, change what is done, and not the list.
func TestOnServer(t *testing.T) {
	t.Parallel()
	c := &pipeline.Campaign{To: "https://prefix.dev/x", StoreGitHub: true}
	if got := strings.Join(Of(c), ","); got != "hash,sign,upload,publish" {
		t.Error(got)
	}
	if got := strings.Join(Steps(c), ","); got != "hash,sign,upload,github,publish" {
		t.Error(got)
	}
	if got := Steps(&pipeline.Campaign{}); slices.Contains(got, "github") || slices.Contains(Names(), "github") {
		t.Error(got)
	}
	p := Parts{Campaign: c, Server: new(prefix.Client), GitHub: new(attestations.Attestations), Verifier: new(attest.Verifier)}
	for _, tt := range []struct {
		names string
		parts func(*Parts)
		want  string // "": an error
	}{
		{"hash", func(*Parts) {}, "*hash.Stage"},
		{"upload", func(*Parts) {}, "*server.Upload,*github.Stage"},
		{"publish", func(*Parts) {}, "*server.Publish"},
		{"upload,publish", func(p *Parts) { p.GitHub = nil }, ""},
		{"upload,publish", func(p *Parts) { p.Verifier = nil }, ""},
		{"upload,publish", func(p *Parts) { p.Server = nil }, ""},
	} {
		p := p
		tt.parts(&p)
		steps, err := Build(strings.Split(tt.names, ","), p, nil)
		var got []string
		for _, s := range steps {
			got = append(got, fmt.Sprintf("%T", s.Stage))
		}
		if strings.Join(got, ",") != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s: %v, %v", tt.names, got, err)
		}
	}
}
