package event

import (
	"encoding/json"
	"time"
)

// SpecVersion is the CDEvents specification whose schemas the events follow: the newest released one. It has
// artifact.signed and artifact.published at 0.3.0.
const SpecVersion = "0.5.1"

// Schema names the contract for customData; it changes with the major version of the data.
const Schema = "urn:hallmark:schema:attestation:1"

// The events, as they are called in subjects.
const (
	Signed    = "signed"    // the bundle is verified and durably stored
	Published = "published" // the channel's index shows the package with its sidecar
	Skipped   = "skipped"   // there was nothing to do
	Failed    = "failed"    // the package is in quarantine
	Aborted   = "aborted"   // an operator gave the package up
)

// The events that tell of a package whose attestation is complete and whose sources were looked at, if anybody asks who has
// published them. What was found is in Details.Sources, also of the other events.
const (
	SourcesVerified   = "sourcesverified"   // everybody who was asked for has published them
	SourcesRefused    = "sourcesrefused"    // some are not what was asked for; the campaign only reports that
	SourcesUnverified = "sourcesunverified" // for some an upstream did not answer; the campaign only reports that
)

// The events' CloudEvents types, which are their CDEvents types.
const (
	TypeSigned    = "dev.cdevents.artifact.signed.0.3.0"
	TypePublished = "dev.cdevents.artifact.published.0.3.0"
	TypeSkipped   = "dev.cdeventsx.hallmark-attestation.skipped.0.1.0"
	TypeFailed    = "dev.cdeventsx.hallmark-attestation.failed.0.1.0"
	TypeAborted   = "dev.cdeventsx.hallmark-attestation.aborted.0.1.0"

	TypeSourcesVerified   = "dev.cdeventsx.hallmark-attestation.sourcesverified.0.1.0"
	TypeSourcesRefused    = "dev.cdeventsx.hallmark-attestation.sourcesrefused.0.1.0"
	TypeSourcesUnverified = "dev.cdeventsx.hallmark-attestation.sourcesunverified.0.1.0"
)

// MaxSize bounds an event's data, in bytes.
const MaxSize = 64 << 10

// cdevent is an event's data: CDEvents specification 0.5.1, "CDEvents context" and "subject". Its schemas refuse
// other fields.
type cdevent struct {
	Context struct {
		SpecVersion string    `json:"specversion"`
		ID          string    `json:"id"`
		Source      string    `json:"source"`
		Type        string    `json:"type"`
		Timestamp   time.Time `json:"timestamp"`
		ChainID     string    `json:"chainId,omitempty"`
		SchemaURI   string    `json:"schemaUri,omitempty"`
	} `json:"context"`
	Subject struct {
		ID      string `json:"id"`
		Content struct {
			Signature string `json:"signature,omitempty"`
		} `json:"content"`
	} `json:"subject"`
	CustomDataContentType string  `json:"customDataContentType"`
	CustomData            Details `json:"customData"`
}

// Details is an event's customData. Fields whose value is not known are absent. Digests are lower-case hex, sizes bytes,
// times UTC.
type Details struct {
	Package     Package      `json:"package"`
	Channel     Channel      `json:"channel"`
	Attestation *Attestation `json:"attestation,omitempty"`
	// Riders are the attestations that went into the sidecar behind Attestation.
	Riders       []Rider       `json:"riders,omitempty"`
	Signer       *Signer       `json:"signer,omitempty"`
	Log          []LogEntry    `json:"log,omitempty"`
	SignedAt     *SignedAt     `json:"signedAt,omitempty"`
	Verification *Verification `json:"verification,omitempty"`
	Supersedes   *Supersedes   `json:"supersedes,omitempty"`
	// Sources is what was found about who published the package's sources; absent if the campaign does not look at them, or
	// did not get that far.
	Sources  *Sources `json:"sources,omitempty"`
	Campaign Campaign `json:"campaign"`
	// Reason says why, for skipped, failed and aborted.
	Reason *Reason `json:"reason,omitempty"`
}

// Package identifies the package: by SHA256; all else is a label.
type Package struct {
	Ecosystem string `json:"ecosystem"` // "conda"
	Name      string `json:"name,omitempty"`
	Version   string `json:"version,omitempty"`
	Build     string `json:"build,omitempty"`
	Subdir    string `json:"subdir,omitempty"`
	Filename  string `json:"filename"`
	Size      int64  `json:"size,omitempty"`
	SHA256    string `json:"sha256,omitempty"`
	// DigestSource is "recomputed" if SHA256 was computed from the package's bytes, "declared" if it is only what the
	// submitter said.
	DigestSource string `json:"digestSource,omitempty"`
}

// Channel is where the package is published.
type Channel struct {
	URL string `json:"url,omitempty"`
	// Visible is true if the channel's index is known to show the package with this sidecar: in published, never in signed.
	Visible bool     `json:"visible"`
	Sidecar *Sidecar `json:"sidecar,omitempty"`
}

// Sidecar is the package's sidecar (CEP 50) as it was left. URL is the content-addressed name, whose bytes never change.
type Sidecar struct {
	URL     string `json:"url,omitempty"`
	SHA256  string `json:"sha256"`
	Size    int64  `json:"size"`
	Bundles int    `json:"bundles"`
}

// Attestation is the CEP 27 attestation that the event is about.
type Attestation struct {
	PredicateType   string `json:"predicateType,omitempty"`
	StatementSHA256 string `json:"statementSha256,omitempty"`
	Bundle          Bundle `json:"bundle"`
}

// Bundle is the Sigstore bundle: the element of the JSON array at URL whose bytes have this digest.
type Bundle struct {
	MediaType string `json:"mediaType,omitempty"`
	URL       string `json:"url,omitempty"`
	SHA256    string `json:"sha256"`
	Size      int64  `json:"size,omitempty"`
}

// Rider is an attestation that went into the sidecar behind the publish attestation, verified by the campaign's policy.
type Rider struct {
	PredicateType string `json:"predicateType"`
	Identity      string `json:"identity"` // subject alternative name
	Issuer        string `json:"issuer"`   // OIDC issuer
	Bundle        Bundle `json:"bundle"`
}

// Signer is what the signing certificate says.
type Signer struct {
	Identity         string     `json:"identity"` // subject alternative name
	Issuer           string     `json:"issuer"`   // OIDC issuer
	CertSHA256       string     `json:"certSha256,omitempty"`
	NotAfter         *time.Time `json:"notAfter,omitempty"`
	SourceRepository string     `json:"sourceRepository,omitempty"`
	BuildConfig      string     `json:"buildConfig,omitempty"`
	RunURI           string     `json:"runUri,omitempty"`
}

// LogEntry is one entry in a transparency log.
type LogEntry struct {
	Origin string `json:"origin,omitempty"`
	LogID  string `json:"logId,omitempty"`
	Index  int64  `json:"index"`
	Kind   string `json:"kind,omitempty"`
}

// SignedAt is the earliest verified time of the signature and what vouches for it: "rfc3161" or "integrated".
type SignedAt struct {
	Time time.Time `json:"time"`
	By   string    `json:"by,omitempty"`
}

// Verification says that the sender verified the bundle, and how. A subscriber that does not trust the sender verifies
// again.
type Verification struct {
	Result            string `json:"result"` // "verified"
	TrustedRootSHA256 string `json:"trustedRootSha256,omitempty"`
	Tool              string `json:"tool"`
	Version           string `json:"version,omitempty"`
}

// Supersedes says what became of the sidecar: "created", "appended" to (earlier bundles are unchanged) or "unchanged"
// (the bundle was there already).
type Supersedes struct {
	Mode string `json:"mode"`
}

// Campaign is the campaign that the item belongs to; Attempt counts how often the queue handed the item out.
type Campaign struct {
	ID      string `json:"id"`
	Attempt int    `json:"attempt,omitempty"`
}

// Reason says why an item was skipped or set aside. Cause is a stable code; Message and Hint are for people, without
// paths, queries or credentials, cut at 4 KiB.
type Reason struct {
	Stage    string `json:"stage,omitempty"`
	Cause    string `json:"cause"`
	Message  string `json:"message,omitempty"`
	Hint     string `json:"hint,omitempty"`
	Attempts int    `json:"attempts,omitempty"`
	TraceID  string `json:"traceId,omitempty"`
}

// Event is one event as a subscriber sees it. Its JSON form is the sequence, the time, the subject and the data as it
// came.
type Event struct {
	// Sequence is the event's place in the stream, from 1; 0 if it did not come from there. To resume, subscribe from
	// Sequence+1.
	Sequence uint64 `json:"sequence,omitempty"`
	// Stored is when the stream stored it.
	Stored time.Time `json:"stored,omitzero"`
	// Subject is the NATS subject, Tokens its parts.
	Subject string `json:"subject"`
	Tokens  Tokens `json:"-"`

	// ID and Source together identify the event: an event that comes again has both again.
	ID     string `json:"id"`
	Source string `json:"source"`
	Type   string `json:"type"`
	// Time is when it happened: the signature's verified time, the publication, the failure.
	Time time.Time `json:"time"`
	// PURL labels the package; Details.Package.SHA256 identifies it.
	PURL string `json:"-"`
	// ChainID joins the events of one item.
	ChainID string `json:"-"`
	// Signature is the base64 DSSE signature, for signed.
	Signature   string  `json:"-"`
	Traceparent string  `json:"traceparent,omitempty"`
	Details     Details `json:"-"`
	// Data is the CDEvent as it came.
	Data json.RawMessage `json:"data"`
}
