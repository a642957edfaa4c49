package event

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/trace"

	"github.com/hallmark-attest/hallmark/pipeline"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var at = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func testCampaign() *pipeline.Campaign {
	return &pipeline.Campaign{Name: "rebuild-2026", To: "s3://private-bucket/forge", ChannelURL: "https://conda.example.org/forge",
		Identity: "https://github.com/example/forge/.github/workflows/build.yml@refs/heads/main", Issuer: "https://token.actions.githubusercontent.com"}
}

func testBundle() pipeline.Bundle {
	statement := `{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://schemas.conda.org/attestations-publish-1.schema.json"}`
	return fmt.Appendf(nil, `{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","dsseEnvelope":{"payload":%q}}`,
		base64.StdEncoding.EncodeToString([]byte(statement)))
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// testItem is an item that is through all stages.
func testItem() *pipeline.Item {
	b := testBundle()
	return &pipeline.Item{
		ID: "0123456789abcdef0123456789abcdef", Campaign: "rebuild-2026",
		Source: "/srv/builder/output/linux-64/ruamel.yaml-1!0.18.6+b2-py312h_0.conda", Filename: "ruamel.yaml-1!0.18.6+b2-py312h_0.conda",
		Package: pipeline.Package{Name: "ruamel.yaml", Version: "1!0.18.6+b2", Build: "py312h_0", Subdir: "linux-64", Size: 268460,
			SHA256: strings.Repeat("ab", 32), MD5: strings.Repeat("cd", 16)},
		Bundle: b,
		Signature: pipeline.Signature{
			Identity: testCampaign().Identity, Issuer: testCampaign().Issuer,
			Claims: map[string]string{"sourceRepository": "https://github.com/example/forge",
				"buildConfigURI":   testCampaign().Identity,
				"runInvocationURI": "https://github.com/example/forge/actions/runs/7/attempts/1"},
			CertSHA256: strings.Repeat("11", 32), NotAfter: at.Add(10 * time.Minute), SignedAt: at, SignedAtBy: "rfc3161",
			DSSESig: "MEUCIQDsig==", BundleSHA256: digest(b), StatementSHA: strings.Repeat("22", 32), TrustedRootSHA256: strings.Repeat("33", 32),
			Log: []pipeline.LogEntry{{Origin: "log2026-1.rekor.example.org", LogID: strings.Repeat("44", 32), Index: 1234567, Kind: "hashedrekord 0.0.2"}},
		},
		Sidecar:     pipeline.Sidecar{SHA256: strings.Repeat("55", 32), Size: 10240, Bundles: 1},
		PublishedAt: at.Add(42 * time.Second),
	}
}

// testSources are two sources: one verified, one that nobody asks about.
func testSources() *pipeline.Sources {
	return &pipeline.Sources{Mode: "require", CheckedAt: at.Add(-3 * time.Second), Verified: 1, Unattested: 1, List: []pipeline.SourceFinding{
		{URL: "https://files.pythonhosted.org/packages/source/r/ruamel.yaml/ruamel_yaml-0.18.6.tar.gz", SHA256: strings.Repeat("66", 32),
			Outcome: pipeline.SourceVerified, AskedBy: "recipe", Publishers: []string{"github:example/ruamel"}, Log: "checked", From: "upstream",
			Signers: []pipeline.SourceSigner{{Identity: "https://github.com/example/ruamel/.github/workflows/release.yml@refs/tags/0.18.6",
				Issuer: "https://token.actions.githubusercontent.com", PredicateType: "https://docs.pypi.org/attestations/publish/v1", Log: "checked"}}},
		{URL: "https://downloads.example.org/extra.patch", SHA256: strings.Repeat("77", 32), Outcome: pipeline.SourceUnattested},
	}}
}

// riding is an item with a provenance attestation that rides along.
func riding() *pipeline.Item {
	it := testItem()
	it.Sidecar.Bundles = 2
	b := pipeline.Bundle(`{"mediaType": "of another maker"}`)
	it.Riders = []pipeline.Rider{{PredicateType: "https://slsa.dev/provenance/v1", Identity: "https://github.com/example/builder/.github/workflows/build.yml@refs/heads/main",
		Issuer: "https://token.actions.githubusercontent.com", SHA256: digest(b), Bundle: b}}
	return it
}

func spanContext() context.Context {
	return trace.ContextWithSpanContext(context.Background(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1, 2, 3}, SpanID: trace.SpanID{4, 5, 6}, TraceFlags: trace.FlagsSampled}))
}

func testEncoder() *Encoder {
	return &Encoder{Source: "urn:hallmark:forge", Version: "1.2.3", Now: func() time.Time { return at.Add(time.Hour) }}
}

// outcomes are one of each kind.
func outcomes() map[string]pipeline.Outcome {
	delivery := func(it *pipeline.Item) pipeline.Delivery {
		return pipeline.Delivery{Item: it, Attempt: 2, Context: spanContext()}
	}
	early := &pipeline.Item{ID: "fedcba9876543210fedcba9876543210", Campaign: "rebuild-2026", Source: "/srv/builder/output/broken-1.0-0.conda",
		Filename: "broken-1.0-0.conda", Expected: strings.Repeat("ef", 32)}
	skipped := testItem()
	skipped.Signature.Found = true
	published := testItem()
	published.Sources = testSources()
	failure := func(stage, cause, message, hint string) *pipeline.Failure {
		return &pipeline.Failure{Stage: stage, Cause: cause, Message: message, Hint: hint, Attempts: 2, TraceID: strings.Repeat("0a", 16), At: at.Add(time.Minute)}
	}
	return map[string]pipeline.Outcome{
		"published": {Delivery: delivery(published), Kind: pipeline.OutcomePublished, Events: []string{Signed, Published}},
		"riders":    {Delivery: delivery(riding()), Kind: pipeline.OutcomeCrossed, Events: []string{Signed}},
		"skipped": {Delivery: delivery(skipped), Kind: pipeline.OutcomeSkipped,
			Failure: failure("publish", "channel.published", "already published with these bytes", "")},
		"failed": {Delivery: delivery(early), Kind: pipeline.OutcomeFailed,
			Failure: failure("hash", "package.truncated", "opening /srv/builder/output/broken-1.0-0.conda: unexpected end of file", "build it again")},
		"aborted": {Delivery: pipeline.Delivery{Item: early}, Kind: OutcomeAborted,
			Failure: failure("", "operator.aborted", "given up: superseded by broken 1.1", "")},
	}
}

// goldenEvent is a golden file's form: the whole message, its data readable.
type goldenEvent struct {
	Subject string              `json:"subject"`
	MsgID   string              `json:"msgId"`
	Header  map[string][]string `json:"header"`
	Data    json.RawMessage     `json:"data"`
}

func TestGoldenEvents(t *testing.T) {
	t.Parallel()
	for kind, o := range outcomes() {
		ms, err := testEncoder().Encode(testCampaign(), o)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		if want := max(len(withSources(o.Events, o.Delivery.Item.Sources)), 1); len(ms) != want {
			t.Fatalf("%s: %d events, want %d", kind, len(ms), want)
		}
		for _, m := range ms {
			tokens, err := ParseSubject(m.Subject)
			if err != nil {
				t.Fatal(err)
			}
			got, err := marshal(goldenEvent{m.Subject, m.ID, m.Header, m.Data})
			if err != nil {
				t.Fatal(err)
			}
			got = indent(t, got)
			file := filepath.Join("testdata", tokens.Event+".golden.json")
			if kind == "riders" {
				file = filepath.Join("testdata", tokens.Event+"-riders.golden.json")
			}
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", file, diff)
			}
		}
	}
}

func indent(t *testing.T, b []byte) []byte {
	t.Helper()
	var out strings.Builder
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(json.RawMessage(b)); err != nil {
		t.Fatal(err)
	}
	return []byte(out.String())
}

// TestCDEventsSchema holds every event against the rules of CDEvents 0.5.1's schemas: what is required, and that there
// is nothing beside it (additionalProperties is false everywhere but in customData).
func TestCDEventsSchema(t *testing.T) {
	t.Parallel()
	content := map[string][]string{TypeSigned: {"signature"}, TypePublished: {}, TypeSkipped: {}, TypeFailed: {}, TypeAborted: {}, TypeSourcesVerified: {}}
	for kind, o := range outcomes() {
		ms, err := testEncoder().Encode(testCampaign(), o)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		for _, m := range ms {
			typ := m.Header["ce-type"][0]
			top := object(t, m.Data)
			onlyKeys(t, typ, top, []string{"context", "subject"}, "customData", "customDataContentType")
			c := object(t, top["context"])
			onlyKeys(t, typ, c, []string{"specversion", "id", "source", "type", "timestamp"}, "schemaUri", "chainId")
			s := object(t, top["subject"])
			onlyKeys(t, typ, s, []string{"id", "content"})
			want, ok := content[typ]
			if !ok {
				t.Errorf("unexpected type %s", typ)
			}
			onlyKeys(t, typ, object(t, s["content"]), want)
			object(t, top["customData"]) // an object, not base64
			for name, v := range c {
				if text := str(t, v); text == "" {
					t.Errorf("%s: context.%s is empty", typ, name)
				}
			}
			if str(t, s["id"]) == "" {
				t.Errorf("%s: subject.id is empty", typ)
			}
			if _, err := time.Parse(time.RFC3339, str(t, c["timestamp"])); err != nil {
				t.Error(err)
			}
			for attr, field := range map[string]json.RawMessage{"ce-id": c["id"], "ce-source": c["source"], "ce-type": c["type"], "ce-time": c["timestamp"]} {
				if m.Header[attr][0] != str(t, field) {
					t.Errorf("%s: %s %q, data says %s", typ, attr, m.Header[attr], field)
				}
			}
		}
	}
}

func object(t *testing.T, b []byte) map[string]json.RawMessage {
	t.Helper()
	var m map[string]json.RawMessage
	if err := json.Unmarshal(b, &m); err != nil || m == nil {
		t.Fatalf("not an object: %s (%v)", b, err)
	}
	return m
}

func str(t *testing.T, b []byte) string {
	t.Helper()
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatalf("not a string: %s", b)
	}
	return s
}

func onlyKeys(t *testing.T, typ string, m map[string]json.RawMessage, required []string, optional ...string) {
	t.Helper()
	allowed := map[string]bool{}
	for _, k := range required {
		allowed[k] = true
		if _, ok := m[k]; !ok {
			t.Errorf("%s: %q is missing", typ, k)
		}
	}
	for _, k := range optional {
		allowed[k] = true
	}
	for k := range m {
		if !allowed[k] {
			t.Errorf("%s: %q is not allowed", typ, k)
		}
	}
}

// TestIDs: the same fact has one id, however often it is told; other facts have others. Entries of different
// campaigns never share a message id, because the stream would drop the second.
func TestIDs(t *testing.T) {
	t.Parallel()
	encode := func(change func(*pipeline.Campaign, *pipeline.Item)) []Message {
		c, it := testCampaign(), testItem()
		change(c, it)
		e := testEncoder()
		e.Now = time.Now
		ms, err := e.Encode(c, pipeline.Outcome{Delivery: pipeline.Delivery{Item: it}, Kind: pipeline.OutcomeFailed,
			Events: []string{Signed, Published}, Failure: &pipeline.Failure{Cause: "x"}})
		if err != nil {
			t.Fatal(err)
		}
		return ms
	}
	base := encode(func(*pipeline.Campaign, *pipeline.Item) {})
	for name, tc := range map[string]struct {
		change func(*pipeline.Campaign, *pipeline.Item)
		same   [3]bool // signed, published, failed
	}{
		"nothing":  {func(*pipeline.Campaign, *pipeline.Item) {}, [3]bool{true, true, true}},
		"package":  {func(_ *pipeline.Campaign, it *pipeline.Item) { it.Package.SHA256 = strings.Repeat("00", 32) }, [3]bool{}},
		"bundle":   {func(_ *pipeline.Campaign, it *pipeline.Item) { it.Signature.BundleSHA256 = strings.Repeat("00", 32) }, [3]bool{}},
		"channel":  {func(c *pipeline.Campaign, _ *pipeline.Item) { c.ChannelURL += "x" }, [3]bool{}},
		"campaign": {func(c *pipeline.Campaign, _ *pipeline.Item) { c.Name += "x" }, [3]bool{true, true, false}},
	} {
		for i, m := range encode(tc.change) {
			if got := m.Header["ce-id"][0] == base[i].Header["ce-id"][0]; got != tc.same[i] {
				t.Errorf("another %s: event %d has the same id: %t, want %t", name, i, got, tc.same[i])
			}
			if got := m.ID == base[i].ID; got != (name == "nothing") {
				t.Errorf("another %s: event %d has the same message id: %t", name, i, got)
			}
		}
	}
}

// TestServersSidecar: on a server that keeps its own index, sidecars have one name, whose bytes may change.
func TestServersSidecar(t *testing.T) {
	t.Parallel()
	c := testCampaign()
	c.To = c.ChannelURL
	ms, err := testEncoder().Encode(c, outcomes()["published"])
	if err != nil {
		t.Fatal(err)
	}
	var e struct{ CustomData Details }
	if err := json.Unmarshal(ms[len(ms)-1].Data, &e); err != nil {
		t.Fatal(err)
	}
	const want = "https://conda.example.org/forge/linux-64/ruamel.yaml-1%210.18.6%2Bb2-py312h_0.conda.v0.sigs"
	if d := e.CustomData; d.Channel.Sidecar.URL != want || d.Attestation.Bundle.URL != want || d.Channel.Sidecar.SHA256 == "" || !d.Channel.Visible {
		t.Errorf("%+v", e.CustomData)
	}
}

// TestNothingLeaks: neither paths of the machine, nor the place written to, nor credentials are in any part of an event.
func TestNothingLeaks(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 100)
	for name, tc := range map[string]struct {
		change func(*pipeline.Campaign, *pipeline.Item, *pipeline.Failure)
		leaks  []string
	}{
		"source in the error": {func(_ *pipeline.Campaign, it *pipeline.Item, f *pipeline.Failure) {
			it.Source = "/srv/al ice/my packages/a-1-0.conda"
			f.Message = "reading " + it.Source + ": no such file; tried /srv/al ice/my packages and /var/tmp/hallmark-123/part.bin"
			f.Hint = "look at " + it.Source
		}, []string{"/srv", "al ice", "my packages", "/var/tmp", "hallmark-123"}},
		"no channel URL": {func(c *pipeline.Campaign, _ *pipeline.Item, f *pipeline.Failure) {
			c.To, c.ChannelURL, c.NoTargetChannel = "/srv/alice/channel", "", true
			f.Message = "writing /srv/alice/channel/linux-64/repodata.json"
		}, []string{"/srv", "alice", "http:", "https://conda"}},
		"channel URL is no URL of the web": {func(c *pipeline.Campaign, _ *pipeline.Item, _ *pipeline.Failure) {
			c.ChannelURL = "file:///srv/alice/channel"
		}, []string{"/srv", "alice"}},
		"credentials in the channel URL": {func(c *pipeline.Campaign, _ *pipeline.Item, _ *pipeline.Failure) {
			c.ChannelURL = "https://user:hunter2@conda.example.org/t/forge?token=" + long
		}, []string{"hunter2", "user:", long}},
		"bucket": {func(c *pipeline.Campaign, _ *pipeline.Item, f *pipeline.Failure) {
			f.Message = "putting s3://private-bucket/forge/linux-64/x: denied"
		}, []string{"private-bucket"}},
		"tokens in the error": {func(_ *pipeline.Campaign, _ *pipeline.Item, f *pipeline.Failure) {
			f.Message = "PUT https://u:p4ss@s3.example.org/b/k?X-Amz-Signature=" + long + ": 403; Authorization: Bearer sekrit; id token eyJhbGciOi.eyJzdWIi.sig; api_token=tok123"
			f.Hint = `set {"password": "correcthorsebatterystaple"} or ghp_0123456789abcdef0123`
		}, []string{long, "p4ss", "sekrit", "eyJ", "tok123", "correcthorse", "ghp_"}},
	} {
		c, it, f := testCampaign(), testItem(), &pipeline.Failure{Stage: "upload", Cause: "store.denied", At: at}
		tc.change(c, it, f)
		ms, err := testEncoder().Encode(c, pipeline.Outcome{Delivery: pipeline.Delivery{Item: it}, Kind: pipeline.OutcomeFailed,
			Events: []string{Signed, Published}, Failure: f})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, m := range ms {
			all := m.Subject + m.ID + fmt.Sprint(m.Header) + string(m.Data)
			for _, leak := range append(tc.leaks, it.Source, filepath.Dir(it.Source)) {
				if strings.Contains(strings.ReplaceAll(all, testCampaign().Identity, ""), leak) {
					t.Errorf("%s: %q in %s", name, leak, all)
				}
			}
		}
	}
}

func TestScrubKeepsWhatMatters(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"verifying signature: certificate has no SAN",
		"getting token: unauthorized",
		"rekor answered 503 for https://rekor.example.org/api/v1/log/entries: try again",
		"digest 0123 is not 4567; media type application/json, 3/4 done, n/a",
		"basic constraints missing",
	} {
		if got := scrub(s, "/x/y.conda", "/x"); got != s {
			t.Errorf("scrub(%q) = %q", s, got)
		}
	}
}

// TestSizeCap: whatever the item and the error hold, an event fits, and failures can always be told.
func TestSizeCap(t *testing.T) {
	t.Parallel()
	huge := strings.Repeat("ü<\n", 30_000)
	it := testItem()
	it.Signature.Log = make([]pipeline.LogEntry, 3000)
	it.Signature.Claims = map[string]string{"sourceRepository": huge, "buildConfigURI": huge}
	it.Filename, it.Package.Name, it.Package.Version = huge, huge, huge
	for _, kind := range []pipeline.OutcomeKind{pipeline.OutcomeFailed, pipeline.OutcomeSkipped} {
		ms, err := testEncoder().Encode(testCampaign(), pipeline.Outcome{Delivery: pipeline.Delivery{Item: it}, Kind: kind,
			Failure: &pipeline.Failure{Stage: huge, Cause: huge, Message: huge, Hint: huge}})
		if err != nil {
			t.Fatal(err)
		}
		m := ms[0]
		if len(m.Data) > MaxSize || len(m.Subject) > 2000 {
			t.Errorf("%s: %d bytes of data, subject %d", kind, len(m.Data), len(m.Subject))
		}
		if _, err := Decode(m.Subject, m.Header, m.Data); err != nil {
			t.Error(err)
		}
	}
	// An attestation is told with all it has, or not at all.
	it = testItem()
	it.Signature.Claims = map[string]string{"sourceRepository": huge}
	it.Filename = strings.Repeat("x", 2*MaxSize)
	if _, err := testEncoder().Encode(testCampaign(), pipeline.Outcome{Delivery: pipeline.Delivery{Item: it}, Events: []string{Signed}}); err == nil {
		t.Error("an event beyond the cap was encoded")
	}
}

func TestEncodeRefuses(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Encoder, *pipeline.Outcome){
		"unknown event":           func(_ *Encoder, o *pipeline.Outcome) { o.Events = []string{"blessed"} },
		"no digest":               func(_ *Encoder, o *pipeline.Outcome) { o.Delivery.Item.Package.SHA256 = "" },
		"no bundle":               func(_ *Encoder, o *pipeline.Outcome) { o.Delivery.Item.Signature.BundleSHA256 = "" },
		"no signature":            func(_ *Encoder, o *pipeline.Outcome) { o.Delivery.Item.Signature.DSSESig = "" },
		"no item":                 func(_ *Encoder, o *pipeline.Outcome) { o.Delivery.Item = nil },
		"source is a bare name":   func(e *Encoder, _ *pipeline.Outcome) { e.Source = "worker-7" },
		"source with credentials": func(e *Encoder, _ *pipeline.Outcome) { e.Source = "https://u:p@example.org/" },
	} {
		e, o := testEncoder(), pipeline.Outcome{Delivery: pipeline.Delivery{Item: testItem()}, Kind: pipeline.OutcomePublished, Events: []string{Signed}}
		change(e, &o)
		if ms, err := e.Encode(testCampaign(), o); err == nil {
			t.Errorf("%s: encoded %v", name, ms)
		}
	}
	ms, err := (&Encoder{}).Encode(testCampaign(), pipeline.Outcome{Delivery: pipeline.Delivery{Item: testItem()}, Kind: pipeline.OutcomeCrossed})
	if err != nil || len(ms) != 0 {
		t.Errorf("a crossing without events: %v, %v", ms, err)
	}
}

// TestBundleThatChanged: nothing is said of bytes that are not the verified ones.
func TestBundleThatChanged(t *testing.T) {
	t.Parallel()
	it := testItem()
	it.Bundle = pipeline.Bundle(strings.Replace(string(it.Bundle), "v0.3", "v9.9", 1))
	ms, err := testEncoder().Encode(testCampaign(), pipeline.Outcome{Delivery: pipeline.Delivery{Item: it}, Events: []string{Signed}})
	if err != nil {
		t.Fatal(err)
	}
	ev, err := Decode(ms[0].Subject, ms[0].Header, ms[0].Data)
	if err != nil {
		t.Fatal(err)
	}
	want := &Attestation{StatementSHA256: it.Signature.StatementSHA,
		Bundle: Bundle{SHA256: it.Signature.BundleSHA256, URL: ev.Details.Channel.Sidecar.URL}}
	if diff := cmp.Diff(want, ev.Details.Attestation); diff != "" {
		t.Error(diff)
	}
}
