package event

import (
	"time"

	"github.com/hallmark-attest/hallmark/pipeline"
)

// Sources is what was found about who published a package's sources. The counts are of all its URL sources; List has the first
// of them, those that matter most first, and More is how many it leaves out.
type Sources struct {
	Mode       string    `json:"mode"` // of the campaign: "report" or "require"
	CheckedAt  time.Time `json:"checkedAt"`
	Verified   int       `json:"verified"`
	Refused    int       `json:"refused"`
	Unverified int       `json:"unverified"`
	Unattested int       `json:"unattested"`
	List       []Source  `json:"list,omitempty"`
	More       int       `json:"more,omitempty"`
}

// Source is what was found about one source. URLs are without credentials and query.
type Source struct {
	URL    string `json:"url,omitempty"`
	SHA256 string `json:"sha256,omitempty"` // as the recipe declares it
	// Outcome is "verified", "refused" or "unverified", or "unattested" if nobody asks who has published it.
	Outcome string `json:"outcome"`
	// AskedBy is "recipe" or "policy"; Publishers are those asked for.
	AskedBy    string         `json:"askedBy,omitempty"`
	Publishers []string       `json:"publishers,omitempty"`
	Signers    []SourceSigner `json:"signers,omitempty"` // of a verified source
	// Log is "checked" if the transparency log confirms every signer, "unchecked" if it could not be asked for some.
	Log string `json:"log,omitempty"`
	// From is where the attestations came from: the "package" itself, or "upstream".
	From string `json:"from,omitempty"`
	// Cause is the stable code of why it is not verified.
	Cause    string   `json:"cause,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

// SourceSigner is what the certificate of an attestation of a source says.
type SourceSigner struct {
	Identity      string `json:"identity"`
	Issuer        string `json:"issuer"`
	PredicateType string `json:"predicateType,omitempty"`
	Log           string `json:"log"` // as Source.Log
}

var sourceTypes = map[string]string{
	SourcesVerified: TypeSourcesVerified, SourcesRefused: TypeSourcesRefused, SourcesUnverified: TypeSourcesUnverified,
}

// withSources adds the event about an item's sources to those of an item that is signed: there, since a package that is not
// has no attestation to tell of, and once, since an item is signed once.
func withSources(names []string, s *pipeline.Sources) []string {
	if s == nil {
		return names
	}
	about := ""
	switch s.Outcome() {
	case pipeline.SourceVerified:
		about = SourcesVerified
	case pipeline.SourceRefused:
		about = SourcesRefused
	case pipeline.SourceUnverified:
		about = SourcesUnverified
	}
	var out []string
	for _, n := range names {
		out = append(out, n)
		if n == Signed && about != "" {
			out = append(out, about)
		}
	}
	return out
}

// readSources is the item's account as subscribers see it: its texts come from recipes and certificates.
func readSources(s *pipeline.Sources) *Sources {
	if s == nil {
		return nil
	}
	out := &Sources{Mode: s.Mode, CheckedAt: s.CheckedAt.UTC(), Verified: s.Verified, Refused: s.Refused, Unverified: s.Unverified,
		Unattested: s.Unattested, More: s.More}
	for _, f := range s.List {
		x := Source{SHA256: f.SHA256, Outcome: f.Outcome, AskedBy: f.AskedBy, Publishers: f.Publishers, Log: f.Log, From: f.From, Cause: f.Cause}
		if f.URL != "" {
			x.URL = cleanURL(f.URL)
		}
		for _, g := range f.Signers {
			x.Signers = append(x.Signers, SourceSigner(g))
		}
		for _, w := range f.Warnings {
			x.Warnings = append(x.Warnings, scrub(w, ""))
		}
		out.List = append(out.List, x)
	}
	return out
}
