package pipeline

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"
	"time"
)

// Item is one package's way through the pipeline: what is known of it so far. Stages add to it, in order; none takes
// away, apart from the stage sign, which makes Bundle and Riders of Brought. It crosses a segment cut as JSON, so it holds what later stages need, and never the package's bytes.
//
// An Item is owned by one goroutine at a time.
type Item struct {
	// ID is the item's key in the queue and in the ledger: see ItemID.
	ID       string `json:"id"`
	Campaign string `json:"campaign"`
	// Source is where a worker reads the package's bytes: a file's path.
	Source string `json:"source"`
	// Filename is the name that the package has in the channel: "numpy-2.1.0-py312h_0.conda".
	Filename string `json:"filename"`
	// Expected is the SHA-256 (lower-case hex) that the submitter gave or saw; "" if the bytes could not be read then.
	Expected string `json:"expected,omitempty"`
	// Retry is how often the item has come back from quarantine, and Tried how many attempts it had had by then.
	Retry int `json:"retry,omitempty"`
	Tried int `json:"tried,omitempty"`
	// Drop is set if an operator gave the item up: whoever takes it records that it is aborted, for this reason.
	Drop *Failure `json:"drop,omitempty"`

	// Package is what the hash stage read.
	Package Package `json:"package,omitzero"`
	// Sources is what the stage sources found; nil if it was not among the campaign's stages.
	Sources *Sources `json:"sources,omitempty"`
	// Brought are the bundles that the submitter brought along, which nobody has verified yet.
	Brought []Bundle `json:"brought,omitempty"`
	// Bundle is the verified Sigstore bundle of the sign stage with the publish attestation, or the one found in the channel.
	Bundle Bundle `json:"bundle,omitempty"`
	// Riders are the verified attestations that go into the sidecar behind it.
	Riders []Rider `json:"riders,omitempty"`
	// Signature says what the bundle says, once it is verified.
	Signature Signature `json:"signature,omitzero"`
	// Sidecar is what the upload stage left in the store.
	Sidecar Sidecar `json:"sidecar,omitzero"`
	// PublishedAt is when an index that shows the record with this sidecar was known to be in the store.
	PublishedAt time.Time `json:"publishedAt,omitzero"`
}

// Package is what the bytes of a package say.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Build   string `json:"build"`
	Subdir  string `json:"subdir"`
	Size    int64  `json:"size"`
	SHA256  string `json:"sha256"` // lower-case hex
	MD5     string `json:"md5"`    // lower-case hex
	// Record is the repodata record (CEP 36): info/index.json's fields with md5, sha256, size and subdir filled in.
	Record json.RawMessage `json:"record,omitempty"`
	// RunExports is the CEP 12 object, "{}" if the package has none.
	RunExports json.RawMessage `json:"runExports,omitempty"`
}

// Signature is what a verified bundle says about who signed, and where that is written.
type Signature struct {
	Identity string `json:"identity"` // the certificate's SAN
	Issuer   string `json:"issuer"`   // the OIDC issuer
	// Claims are the certificate's further Fulcio extensions by their short names ("sourceRepository", "runInvocationURI", …).
	Claims       map[string]string `json:"claims,omitempty"`
	CertSHA256   string            `json:"certSha256"`
	NotAfter     time.Time         `json:"notAfter"`
	SignedAt     time.Time         `json:"signedAt"`     // the earliest verified time
	SignedAtBy   string            `json:"signedAtBy"`   // "rfc3161" or "integrated"
	DSSESig      string            `json:"dsseSig"`      // base64, as in the envelope
	BundleSHA256 string            `json:"bundleSha256"` // of the bundle's bytes
	StatementSHA string            `json:"statementSha256"`
	// TrustedRootSHA256 is the digest of the trust root that the bundle was verified against.
	TrustedRootSHA256 string     `json:"trustedRootSha256,omitempty"`
	Log               []LogEntry `json:"log,omitempty"`
	// Found is true if the bundle was in the channel already and nothing was signed.
	Found bool `json:"found,omitempty"`
}

// LogEntry is one entry in a transparency log.
type LogEntry struct {
	Origin string `json:"origin,omitempty"`
	LogID  string `json:"logId"` // lower-case hex
	Index  int64  `json:"index"`
	Kind   string `json:"kind"` // "hashedrekord 0.0.2", "dsse 0.0.1"
}

// Sidecar is the package's sidecar in the channel (CEP 50).
type Sidecar struct {
	SHA256  string `json:"sha256"` // lower-case hex; attestations_sha256 in the record
	Size    int64  `json:"size"`
	Bundles int    `json:"bundles"`
}

// ItemID is the key of an item: its content and its place. The same package, channel, subdir, name and predicate type
// always give the same ID, so that submitting again enqueues nothing twice. Where the bytes could not be read
// (sha256 is ""), the source's path stands in for them. Attestations that are brought along are content too: with others, it
// is another item.
func ItemID(sha256hex, source, channel, subdir, filename, predicateType string, brought ...Bundle) string {
	content := "sha256:" + sha256hex
	if sha256hex == "" {
		content = "source:" + source
	}
	parts := []string{content, channel, subdir, filename, predicateType}
	for _, b := range brought {
		sum := sha256.Sum256(b)
		parts = append(parts, hex.EncodeToString(sum[:]))
	}
	h := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(h[:16])
}
