package pipeline

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Bounds of what an item carries along, so that its message, with a record of usual size, stays well below NATS's default
// limit of 1 MiB.
const (
	// MaxAttestations bounds the bytes of all bundles of an item together; a usual one has 10 kB.
	MaxAttestations = 256 << 10
	// MaxRiders bounds how many attestations ride along with a publish attestation.
	MaxRiders = 16
)

// Bundle is the bytes of one Sigstore bundle. They are what is verified, digested and published, so they MUST cross a
// queue unchanged: encoding/json, which takes white space out of raw JSON and escapes characters in it, gets those that it
// would change in base64.
type Bundle []byte

// MarshalJSON implements json.Marshaler: the bundle as it is where that keeps every byte, else a text in base64.
func (b Bundle) MarshalJSON() ([]byte, error) {
	if b == nil {
		return []byte("null"), nil
	}
	if b.stable() {
		return b, nil
	}
	return json.Marshal([]byte(b))
}

func (b Bundle) stable() bool {
	if len(b) == 0 || b[0] != '{' || !json.Valid(b) {
		return false
	}
	var compact, escaped bytes.Buffer
	if json.Compact(&compact, b) != nil || compact.Len() != len(b) {
		return false
	}
	json.HTMLEscape(&escaped, compact.Bytes())
	return bytes.Equal(escaped.Bytes(), b)
}

// UnmarshalJSON implements json.Unmarshaler.
func (b *Bundle) UnmarshalJSON(data []byte) error {
	switch {
	case string(data) == "null":
		*b = nil
	case len(data) > 0 && data[0] == '{':
		*b = slices.Clone(data)
	case len(data) > 0 && data[0] == '"':
		var text string
		if err := json.Unmarshal(data, &text); err != nil {
			return err
		}
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return fmt.Errorf("a bundle in base64: %w", err)
		}
		*b = raw
	default:
		return errors.New("a bundle is an object, or a text in base64")
	}
	return nil
}

// Rider is a verified attestation that goes into the sidecar behind the publish attestation: of another predicate type, or a
// further publish attestation.
type Rider struct {
	PredicateType string `json:"predicateType"`
	Identity      string `json:"identity"` // the certificate's SAN
	Issuer        string `json:"issuer"`   // the OIDC issuer
	SHA256        string `json:"sha256"`   // of the bundle's bytes without surrounding white space, lower-case hex
	Bundle        Bundle `json:"bundle"`
}

// AttestationBytes is how many bytes of bundles the item carries, of MaxAttestations.
func (it *Item) AttestationBytes() int {
	n := len(it.Bundle)
	for _, b := range it.Brought {
		n += len(b)
	}
	for _, r := range it.Riders {
		n += len(r.Bundle)
	}
	return n
}

// Carries says whether the item has the bundle among those that were brought along or ride along.
func (it *Item) Carries(b Bundle) bool {
	same := func(o Bundle) bool { return bytes.Equal(bytes.TrimSpace(o), bytes.TrimSpace(b)) }
	return slices.ContainsFunc(it.Brought, same) || slices.ContainsFunc(it.Riders, func(r Rider) bool { return same(r.Bundle) })
}

// Policy is a campaign's policy as it was frozen. What it says is for the stages to read; here it is a text.
type Policy struct {
	Text   string `json:"text"`
	SHA256 string `json:"sha256"` // of Text, lower-case hex
}

// NewPolicy freezes a policy's text.
func NewPolicy(text []byte) *Policy {
	sum := sha256.Sum256(text)
	return &Policy{Text: string(text), SHA256: hex.EncodeToString(sum[:])}
}

// Check refuses a policy whose text is not the one that was frozen.
func (p *Policy) Check() error {
	if p.Text == "" {
		return errors.New("the campaign's policy is empty")
	}
	if NewPolicy([]byte(p.Text)).SHA256 != p.SHA256 {
		return errors.New("the campaign's policy is not the one that was frozen: its digest is another")
	}
	return nil
}

// PolicySHA256 is the digest of the campaign's policy; "" if it has none.
func (c *Campaign) PolicySHA256() string {
	if c.Policy == nil {
		return ""
	}
	return c.Policy.SHA256
}
