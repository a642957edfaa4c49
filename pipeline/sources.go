package pipeline

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// What became of a source.
const (
	SourceVerified   = "verified"   // everybody who was asked for has published it
	SourceRefused    = "refused"    // it was looked at, and is not what was asked for
	SourceUnverified = "unverified" // it could not be looked at: an upstream did not answer
	SourceUnattested = "unattested" // nobody asks who has published it
)

// SourcePolicy is what a campaign asks of its packages' sources, frozen with it. The zero value asks nothing, and then the
// stage sources is not among the campaign's stages. To the engine it is text.
type SourcePolicy struct {
	Mode string `json:"mode,omitempty"` // "report" or "require"
	// Text is the policy file's; it may be empty. SHA256 is its digest (lower-case hex), to compare and to check by.
	Text   string `json:"policy,omitempty"`
	SHA256 string `json:"policySha256,omitempty"`
}

// NewSourcePolicy makes the policy of a mode and a policy file's text. Mode "" or "off" is the zero value.
func NewSourcePolicy(mode, text string) SourcePolicy {
	if mode == "" || mode == "off" {
		return SourcePolicy{}
	}
	p := SourcePolicy{Mode: mode, Text: text}
	if text != "" {
		p.SHA256 = p.digest()
	}
	return p
}

func (p SourcePolicy) digest() string {
	sum := sha256.Sum256([]byte(p.Text))
	return hex.EncodeToString(sum[:])
}

// Check refuses a mode that there is not, and a text that is not the one that was frozen: less would be asked than the
// campaign says.
func (p SourcePolicy) Check() error {
	switch {
	case p == SourcePolicy{}:
		return nil
	case p.Mode != "report" && p.Mode != "require":
		return fmt.Errorf("the mode for sources is %q, not report or require", p.Mode)
	case p.Text == "" && p.SHA256 != "", p.Text != "" && p.SHA256 != p.digest():
		return errors.New("the policy for sources does not have the digest that the campaign says")
	}
	return nil
}

// Sources is what was found about who published the sources of a package. The counts are of all its URL sources; List has
// the first of them, those that matter most first, and More is how many it leaves out.
type Sources struct {
	Mode       string          `json:"mode"` // of the campaign: "report" or "require"
	CheckedAt  time.Time       `json:"checkedAt"`
	Verified   int             `json:"verified"`
	Refused    int             `json:"refused"`
	Unverified int             `json:"unverified"`
	Unattested int             `json:"unattested"`
	List       []SourceFinding `json:"list,omitempty"`
	More       int             `json:"more,omitempty"`
}

// Outcome is the package's: the worst of its sources that anybody asks about, and SourceUnattested if nobody does.
func (s *Sources) Outcome() string {
	switch {
	case s.Refused > 0:
		return SourceRefused
	case s.Unverified > 0:
		return SourceUnverified
	case s.Verified > 0:
		return SourceVerified
	default:
		return SourceUnattested
	}
}

// SourceFinding is what was found about one source, cut to what is worth keeping of every package. It has no credentials, and of
// URLs no query.
type SourceFinding struct {
	URL     string `json:"url,omitempty"`    // "" if the recipe could not be read
	SHA256  string `json:"sha256,omitempty"` // as the recipe declares it, lower-case hex
	Outcome string `json:"outcome"`          // one of Source*
	// AskedBy is who asks who has published it: "recipe" or "policy". Publishers are those asked for.
	AskedBy    string   `json:"askedBy,omitempty"`
	Publishers []string `json:"publishers,omitempty"`
	// Signers are who has signed, of a verified source.
	Signers []SourceSigner `json:"signers,omitempty"`
	// Log is "checked" if the transparency log has confirmed every one of them, else "unchecked".
	Log string `json:"log,omitempty"`
	// From is where the bundles came from: "package" or "upstream".
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
	Log           string `json:"log"` // as SourceFinding.Log
}
