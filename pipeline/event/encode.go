package event

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"

	"github.com/hallmark-attest/hallmark/pipeline"
)

// DefaultSource is the CloudEvents source where a deployment has not named its own.
const DefaultSource = "urn:hallmark"

// OutcomeAborted is the outcome of an item that an operator gave up. No stage produces it.
const OutcomeAborted pipeline.OutcomeKind = Aborted

// namespace is the UUIDv5 namespace of event ids. It MUST NOT change: ids are compared across releases.
var namespace = uuid.MustParse("6f0c63d5-1f0a-5c3c-9a55-0d7f0c5e2c11")

// Encoder turns outcomes into events. The zero value works. It is safe for concurrent use as long as its fields are not
// changed.
type Encoder struct {
	// Source is a URI that names the deployment and stays the same; never a host's name. Defaults to DefaultSource.
	Source string
	// Version is Hallmark's own, for the verification's details.
	Version string
	// Now is the clock for what has no time of its own. Defaults to time.Now.
	Now func() time.Time
}

// Encode returns the events of an outcome, in order: one for each of o.Events, one for the sources of a signed item if
// anybody asked about them, and one more if the item was skipped, failed or aborted. An item that crossed to another segment has none beyond o.Events.
//
// The same outcome always gives the same ids. Encode fails if the item lacks what an event must say (a signed item
// without a digest, bundle or signature), for an event that has no type, and never for a skipped or failed item of a
// valid campaign.
func (e *Encoder) Encode(c *pipeline.Campaign, o pipeline.Outcome) ([]Message, error) {
	it := o.Delivery.Item
	if it == nil {
		return nil, errors.New("encoding an outcome without an item")
	}
	source := cmp.Or(e.Source, DefaultSource)
	if u, err := url.Parse(source); err != nil || u.Scheme == "" || u.User != nil {
		return nil, errors.New("the event source is not a URI without credentials")
	}
	names := withSources(o.Events, it.Sources)
	switch o.Kind {
	case pipeline.OutcomeSkipped, pipeline.OutcomeFailed, OutcomeAborted:
		names = append(names[:len(names):len(names)], string(o.Kind))
	}
	if len(names) == 0 {
		return nil, nil
	}
	n := &notice{Encoder: e, source: source, campaign: c, outcome: o, item: it, url: publicURL(c.ChannelURL)}
	if n.url != "" {
		n.channel = c.ChannelName() // the place written to would tell of a machine or of a private bucket
		if i := strings.LastIndexByte(n.channel, '@'); i >= 0 {
			n.channel = n.channel[i+1:]
		}
	}
	n.bundle = readBundle(it)
	out := make([]Message, 0, len(names))
	for _, name := range names {
		m, err := n.message(name)
		if err != nil {
			return nil, fmt.Errorf("encoding event %s of %s: %w", name, it.Filename, err)
		}
		out = append(out, m)
	}
	return out, nil
}

// notice is what the events of one outcome have in common.
type notice struct {
	*Encoder
	source   string
	campaign *pipeline.Campaign
	outcome  pipeline.Outcome
	item     *pipeline.Item
	url      string // the channel's public URL, "" if it has none
	channel  string // its short name, "" likewise
	bundle   bundleFacts
}

func (n *notice) message(name string) (Message, error) {
	it := n.item
	var typ string
	var at time.Time
	complete := true
	switch name {
	case Signed:
		typ, at = TypeSigned, it.Signature.SignedAt
	case Published:
		typ, at = TypePublished, it.PublishedAt
	case SourcesVerified, SourcesRefused, SourcesUnverified:
		typ, at = sourceTypes[name], it.Sources.CheckedAt
	case Skipped:
		typ, complete = TypeSkipped, false
	case Failed:
		typ, complete = TypeFailed, false
	case Aborted:
		typ, complete = TypeAborted, false
	default:
		return Message{}, fmt.Errorf("no such event: %q", name)
	}
	if complete {
		if it.Package.SHA256 == "" || it.Package.Name == "" {
			return Message{}, errors.New("the package's digest and name are not known")
		}
		if it.Signature.BundleSHA256 == "" || name == Signed && it.Signature.DSSESig == "" {
			return Message{}, errors.New("there is no verified bundle")
		}
	} else if f := n.outcome.Failure; f != nil {
		at = f.At
	}
	if at.IsZero() {
		at = n.now()
	}
	at = at.UTC()

	key := []string{typ, cmp.Or(it.Package.SHA256, it.ID), it.Signature.BundleSHA256, n.campaign.Channel()}
	if (name == Signed || name == Published) && len(it.Riders) > 0 {
		// The same package with other riders is another fact.
		riders := make([]string, len(it.Riders))
		for i, r := range it.Riders {
			riders[i] = r.SHA256
		}
		slices.Sort(riders)
		key = append(append(key, "riders"), riders...)
	}
	if !complete || sourceTypes[name] != "" {
		key = append(key, n.campaign.Name)
	}
	var d cdevent
	d.Context.SpecVersion = SpecVersion
	d.Context.ID = newID(key...)
	d.Context.Source = n.source
	d.Context.Type = typ
	d.Context.Timestamp = at
	d.Context.ChainID = newID("chain", n.campaign.Name, it.ID)
	d.Context.SchemaURI = Schema
	d.Subject.ID = purl(it, n.channel)
	if name == Signed {
		d.Subject.Content.Signature = it.Signature.DSSESig
	}
	d.CustomDataContentType = "application/json"
	d.CustomData = n.details(name)
	data, err := fit(&d)
	if err != nil {
		return Message{}, err
	}

	h := map[string][]string{
		"ce-specversion":   {"1.0"},
		"ce-type":          {typ},
		"ce-source":        {headerValue(n.source)},
		"ce-id":            {d.Context.ID},
		"ce-subject":       {headerValue(d.Subject.ID)},
		"ce-time":          {at.Format(time.RFC3339Nano)},
		"ce-dataschema":    {Schema},
		"ce-correlationid": {headerValue(n.campaign.Name)},
		"ce-causationid":   {headerValue(it.ID)},
		"content-type":     {"application/json"},
	}
	if ctx := n.outcome.Delivery.Context; ctx != nil {
		if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
			h["traceparent"] = []string{fmt.Sprintf("00-%s-%s-%02x", sc.TraceID(), sc.SpanID(), byte(sc.TraceFlags()&trace.FlagsSampled))}
		}
	}
	return Message{
		Subject: Subject(name, n.campaign.Name, n.channel, it.Package.Subdir, it.Package.Name, it.ID),
		ID:      d.Context.ID + "/" + n.campaign.Name,
		Header:  h,
		Data:    data,
	}, nil
}

func (n *notice) details(name string) Details {
	it := n.item
	p, sig := it.Package, it.Signature
	d := Details{
		Package: Package{Ecosystem: "conda", Name: p.Name, Version: p.Version, Build: p.Build, Subdir: p.Subdir,
			Filename: it.Filename, Size: p.Size, SHA256: p.SHA256, DigestSource: "recomputed"},
		Channel:  Channel{URL: n.url, Visible: name == Published},
		Campaign: Campaign{ID: n.campaign.Name, Attempt: n.outcome.Delivery.Attempt},
	}
	if p.SHA256 == "" {
		d.Package.SHA256, d.Package.DigestSource = it.Expected, ""
		if it.Expected != "" {
			d.Package.DigestSource = "declared"
		}
	}
	d.Sources = readSources(it.Sources)
	sidecar := sidecarURL(n.url, p.Subdir, it.Filename, it.Sidecar.SHA256)
	if n.campaign.OnServer() && sidecar != "" {
		sidecar = strings.TrimSuffix(sidecar, ".sigs."+it.Sidecar.SHA256) + ".v0.sigs" // a server has no other names
	}
	if it.Sidecar.SHA256 != "" {
		d.Channel.Sidecar = &Sidecar{URL: sidecar, SHA256: it.Sidecar.SHA256, Size: it.Sidecar.Size, Bundles: it.Sidecar.Bundles}
	}
	if sig.BundleSHA256 != "" {
		n.signature(&d, sidecar)
	}
	if f := n.outcome.Failure; f != nil && (name == Skipped || name == Failed || name == Aborted) {
		dirs := []string{filepath.Dir(it.Source), n.campaign.To}
		d.Reason = &Reason{Stage: f.Stage, Cause: clip(f.Cause, 200), Message: scrub(f.Message, it.Source, dirs...), Hint: scrub(f.Hint, it.Source, dirs...),
			Attempts: f.Attempts, TraceID: f.TraceID}
	}
	return d
}

// signature adds what the verified bundle says.
func (n *notice) signature(d *Details, sidecar string) {
	it, sig := n.item, n.item.Signature
	d.Attestation = &Attestation{PredicateType: n.bundle.predicateType, StatementSHA256: sig.StatementSHA,
		Bundle: Bundle{MediaType: n.bundle.mediaType, URL: sidecar, SHA256: sig.BundleSHA256, Size: n.bundle.size}}
	for _, r := range it.Riders {
		if it.Sidecar.SHA256 == "" {
			break // they are not there yet
		}
		d.Riders = append(d.Riders, Rider{PredicateType: clip(r.PredicateType, 500), Identity: r.Identity, Issuer: r.Issuer,
			Bundle: Bundle{URL: sidecar, SHA256: r.SHA256, Size: int64(len(bytes.TrimSpace(r.Bundle)))}})
	}
	d.Signer = &Signer{Identity: sig.Identity, Issuer: sig.Issuer, CertSHA256: sig.CertSHA256,
		SourceRepository: sig.Claims["sourceRepository"], BuildConfig: sig.Claims["buildConfigURI"], RunURI: sig.Claims["runInvocationURI"]}
	if !sig.NotAfter.IsZero() {
		t := sig.NotAfter.UTC()
		d.Signer.NotAfter = &t
	}
	for _, l := range sig.Log {
		d.Log = append(d.Log, LogEntry(l))
	}
	if !sig.SignedAt.IsZero() {
		d.SignedAt = &SignedAt{Time: sig.SignedAt.UTC(), By: sig.SignedAtBy}
	}
	d.Verification = &Verification{Result: "verified", TrustedRootSHA256: sig.TrustedRootSHA256, Tool: "hallmark", Version: n.Version}
	switch {
	case it.Sidecar.SHA256 == "":
	case sig.Found:
		d.Supersedes = &Supersedes{Mode: "unchanged"}
	case it.Sidecar.Bundles > 1:
		d.Supersedes = &Supersedes{Mode: "appended"}
	default:
		d.Supersedes = &Supersedes{Mode: "created"}
	}
}

func (n *notice) now() time.Time {
	if n.Now != nil {
		return n.Now()
	}
	return time.Now()
}

// fit marshals d and, where it is larger than MaxSize, takes away what a subscriber can do without: the error's text
// first, then the list of sources, the certificate's claims, the log entries and the riders; for an item that carries no attestation all labels that
// came from outside are then cut. What is still too large is an error.
func fit(d *cdevent) ([]byte, error) {
	drop := []func(){
		func() {
			if r := d.CustomData.Reason; r != nil {
				r.Message, r.Hint = clip(r.Message, 256), clip(r.Hint, 256)
			}
		},
		func() {
			if s := d.CustomData.Sources; s != nil {
				s.List, s.More = nil, s.More+len(s.List)
			}
		},
		func() {
			if s := d.CustomData.Signer; s != nil {
				s.SourceRepository, s.BuildConfig, s.RunURI = "", "", ""
			}
		},
		func() { d.CustomData.Log = nil },
		func() { d.CustomData.Riders = nil },
		func() {
			if d.Subject.Content.Signature == "" && d.CustomData.Reason != nil {
				p := &d.CustomData.Package
				for _, s := range []*string{&p.Name, &p.Version, &p.Build, &p.Subdir, &p.Filename, &p.SHA256, &d.Subject.ID,
					&d.CustomData.Reason.Stage, &d.CustomData.Channel.URL} {
					*s = clip(*s, 1024)
				}
				d.CustomData.Attestation, d.CustomData.Signer, d.CustomData.Channel.Sidecar = nil, nil, nil
			}
		},
	}
	for i := 0; ; i++ {
		data, err := marshal(d)
		if err != nil {
			return nil, err
		}
		if len(data) <= MaxSize {
			return data, nil
		}
		if i == len(drop) {
			return nil, fmt.Errorf("%d bytes, at most %d fit into an event", len(data), MaxSize)
		}
		drop[i]()
	}
}

// marshal leaves '&' in URLs readable.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

func newID(parts ...string) string {
	return uuid.NewSHA1(namespace, []byte(strings.Join(parts, "\x00"))).String()
}

// headerValue encodes a CloudEvents attribute as the HTTP and NATS bindings want it in a header: what is not printable
// ASCII, the blank, '"' and '%' are percent-encoded.
func headerValue(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// bundleFacts are what only the bundle's bytes say; zero where they do not.
type bundleFacts struct {
	mediaType, predicateType string
	size                     int64
}

func readBundle(it *pipeline.Item) (f bundleFacts) {
	raw := bytes.TrimSpace(it.Bundle)
	if len(raw) == 0 || it.Signature.BundleSHA256 == "" {
		return f
	}
	// Only of the bytes that were verified is anything said.
	if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:]) != it.Signature.BundleSHA256 {
		return f
	}
	f.size = int64(len(raw))
	var b struct {
		MediaType    string `json:"mediaType"`
		DSSEEnvelope struct {
			Payload string `json:"payload"`
		} `json:"dsseEnvelope"`
	}
	if json.Unmarshal(raw, &b) != nil {
		return f
	}
	f.mediaType = clip(b.MediaType, 200)
	payload, err := base64.StdEncoding.DecodeString(b.DSSEEnvelope.Payload)
	if err != nil {
		return f
	}
	var s struct {
		PredicateType string `json:"predicateType"`
	}
	if json.Unmarshal(payload, &s) == nil {
		f.predicateType = clip(s.PredicateType, 500)
	}
	return f
}
