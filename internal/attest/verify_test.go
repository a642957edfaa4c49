package attest

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
)

func testSubject() Subject { return Subject{testFile, testSHA256} }

func TestVerify(t *testing.T) {
	t.Parallel()
	f := forgeOf(t)
	policy := allow(testIdentity, testIssuer)
	policy.TargetChannel = testChannel
	for name, tt := range map[string]struct {
		order    order
		by, kind string
		origin   string
	}{
		"rekor v2":                   {order{}, SignedAtRFC3161, "hashedrekord 0.0.2", rekor2Host},
		"rekor v1":                   {order{rekor1: true}, "", "dsse 0.0.1", "rekor.localhost - 123"},
		"rekor v1 without timestamp": {order{rekor1: true, noTimestamp: true}, SignedAtIntegrated, "dsse 0.0.1", "rekor.localhost - 123"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := encode(t, f.sign(t, tt.order))
			r, err := f.verifier(t, nil).Verify(append([]byte(" \n"), append(b, '\n')...), testSubject(), policy)
			if err != nil {
				t.Fatal(err)
			}
			if !r.Verified || r.Identity != testIdentity || r.Issuer != testIssuer || r.Subject != testSubject() ||
				r.TargetChannel == nil || *r.TargetChannel != testChannel || r.TrustedRootSHA256 != "forged" {
				t.Errorf("result %+v", r)
			}
			if r.BundleSHA256 != hexSHA256(b) {
				t.Error("BundleSHA256 counts surrounding white space")
			}
			if r.Claims["sourceRepository"] != "https://github.com/acme/feedstock" || r.Claims["buildTrigger"] != "push" || len(r.Claims) != 2 {
				t.Errorf("claims %v", r.Claims)
			}
			if tt.by != "" && r.SignedAtBy != tt.by {
				t.Errorf("SignedAtBy %q, want %q", r.SignedAtBy, tt.by)
			}
			if age := time.Since(r.SignedAt); age < -time.Minute || age > 5*time.Minute || r.SignedAt.Location() != time.UTC {
				t.Errorf("SignedAt %v", r.SignedAt)
			}
			if len(r.Log) != 1 || r.Log[0].Kind != tt.kind || r.Log[0].Origin != tt.origin {
				t.Errorf("log %+v", r.Log)
			}
		})
	}
}

// TestVerifyFaults breaks each part in turn. What is not broken is right, so that a check that is taken out lets the
// bundle through, or to a later check with another code.
func TestVerifyFaults(t *testing.T) {
	t.Parallel()
	f := forgeOf(t)
	envelope := func(b *protobundle.Bundle) *protodsse.Envelope { return b.GetDsseEnvelope() }
	entry := func(b *protobundle.Bundle) *protorekor.TransparencyLogEntry {
		return b.VerificationMaterial.TlogEntries[0]
	}
	otherSignature := func(b *protobundle.Bundle) []byte { return f.sign(t, order{}).GetDsseEnvelope().Signatures[0].Sig }
	for name, tt := range map[string]struct {
		order   order
		change  func(b *protobundle.Bundle)
		trust   func(m *material)
		raw     func(b []byte) []byte
		subject *Subject
		policy  *Policy
		want    Code
	}{
		"no signer":           {policy: &Policy{}, want: CodePolicyEmpty},
		"file name":           {subject: &Subject{"noarch/" + testFile, testSHA256}, want: CodeFilename},
		"digest upper case":   {subject: &Subject{testFile, strings.ToUpper(testSHA256)}, want: CodeDigest},
		"too large":           {raw: func(b []byte) []byte { return append(b, bytes.Repeat([]byte("x"), MaxBundle)...) }, want: CodeBundleTooLarge},
		"nothing":             {raw: func([]byte) []byte { return nil }, want: CodeBundleMalformed},
		"cut":                 {raw: func(b []byte) []byte { return b[:len(b)-1] }, want: CodeBundleMalformed},
		"array":               {raw: func(b []byte) []byte { return fmt.Appendf(nil, "[%s]", b) }, want: CodeBundleMalformed},
		"two bundles":         {raw: func(b []byte) []byte { return fmt.Appendf(nil, "%s\n%s", b, b) }, want: CodeBundleMalformed},
		"unknown field":       {raw: func(b []byte) []byte { return fmt.Appendf(nil, `{"x":1,%s`, b[1:]) }, want: CodeBundleMalformed},
		"media type twice":    {raw: func(b []byte) []byte { return fmt.Appendf(nil, `{"mediaType":"",%s`, b[1:]) }, want: CodeBundleMalformed},
		"media type":          {change: func(b *protobundle.Bundle) { b.MediaType = "application/json" }, want: CodeBundleMalformed},
		"version 0.4":         {change: func(b *protobundle.Bundle) { b.MediaType = strings.Replace(b.MediaType, "v0.3", "v0.4", 1) }, want: CodeBundleMalformed},
		"no material":         {change: func(b *protobundle.Bundle) { b.VerificationMaterial = nil }, want: CodeBundleMalformed},
		"no inclusion proof":  {change: func(b *protobundle.Bundle) { entry(b).InclusionProof = nil }, want: CodeBundleMalformed},
		"entry is nonsense":   {change: func(b *protobundle.Bundle) { entry(b).CanonicalizedBody = []byte("{}") }, want: CodeBundleMalformed},
		"certificate garbled": {change: func(b *protobundle.Bundle) { b.VerificationMaterial.GetCertificate().RawBytes = []byte("x") }, want: CodeCertificateMalformed},
		"public key": {change: func(b *protobundle.Bundle) {
			b.VerificationMaterial.Content = &protobundle.VerificationMaterial_PublicKey{PublicKey: &protocommon.PublicKeyIdentifier{Hint: "x"}}
		}, want: CodeNoCertificate},
		"message signature": {change: func(b *protobundle.Bundle) {
			b.Content = &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{Signature: []byte("x")}}
		}, want: CodeEnvelopeMissing},
		"payload type":         {order: order{payloadType: "text/plain"}, want: CodeEnvelopePayloadType},
		"payload type changed": {change: func(b *protobundle.Bundle) { envelope(b).PayloadType += " " }, want: CodeEnvelopePayloadType},
		"no signature":         {change: func(b *protobundle.Bundle) { envelope(b).Signatures = nil }, want: CodeEnvelopeSignatureCount},
		"two signatures": {change: func(b *protobundle.Bundle) {
			envelope(b).Signatures = append(envelope(b).Signatures, envelope(b).Signatures[0])
		}, want: CodeEnvelopeSignatureCount},
		"no log entry":       {order: order{noLog: true}, want: CodeLog},
		"unknown log":        {trust: func(m *material) { m.logs = forgeOf(t).virtual.RekorLogs() }, want: CodeLog},
		"unknown log v1":     {order: order{rekor1: true}, trust: func(m *material) { delete(m.logs, onlyKey(forgeOf(t).virtual.RekorLogs())) }, want: CodeLog},
		"log id":             {change: func(b *protobundle.Bundle) { entry(b).LogId.KeyId = []byte("x") }, want: CodeLog},
		"log index":          {change: func(b *protobundle.Bundle) { entry(b).LogIndex = 1 }, want: CodeLog},
		"log index v1":       {order: order{rekor1: true}, change: func(b *protobundle.Bundle) { entry(b).LogIndex = 1 }, want: CodeLog},
		"integrated time v1": {order: order{rekor1: true}, change: func(b *protobundle.Bundle) { entry(b).IntegratedTime-- }, want: CodeLog},
		"set v1":             {order: order{rekor1: true}, change: func(b *protobundle.Bundle) { entry(b).InclusionPromise.SignedEntryTimestamp[9] ^= 1 }, want: CodeLog},
		"checkpoint":         {change: func(b *protobundle.Bundle) { swap(&entry(b).InclusionProof.Checkpoint.Envelope, "\n1\n", "\n2\n") }, want: CodeLog},
		"checkpoint v1":      {order: order{rekor1: true}, change: func(b *protobundle.Bundle) { swap(&entry(b).InclusionProof.Checkpoint.Envelope, "\n42\n", "\n43\n") }, want: CodeLog},
		"inclusion hash v1":  {order: order{rekor1: true}, change: func(b *protobundle.Bundle) { entry(b).InclusionProof.RootHash[0] ^= 1 }, want: CodeLog},
		"proof's index":      {change: func(b *protobundle.Bundle) { entry(b).InclusionProof.LogIndex++ }, want: CodeLog},
		"proof's size":       {change: func(b *protobundle.Bundle) { entry(b).InclusionProof.TreeSize++ }, want: CodeLog},
		"proof's root":       {change: func(b *protobundle.Bundle) { entry(b).InclusionProof.RootHash = []byte("x") }, want: CodeLog},
		"entry of another": {change: func(b *protobundle.Bundle) {
			b.VerificationMaterial.TlogEntries = f.sign(t, order{}).VerificationMaterial.TlogEntries
		}, want: CodeLog},
		"entry of another v1": {order: order{rekor1: true}, change: func(b *protobundle.Bundle) {
			b.VerificationMaterial.TlogEntries = f.sign(t, order{rekor1: true}).VerificationMaterial.TlogEntries
		}, want: CodeLog},
		"entry twice": {change: func(b *protobundle.Bundle) {
			b.VerificationMaterial.TlogEntries = append(b.VerificationMaterial.TlogEntries, entry(b))
		}, want: CodeLog},
		"kind":           {change: func(b *protobundle.Bundle) { entry(b).KindVersion.Kind = "dsse" }, want: CodeLog},
		"kind's version": {change: func(b *protobundle.Bundle) { entry(b).KindVersion.Version = "0.0.1" }, want: CodeLog},
		"body of another": {change: func(b *protobundle.Bundle) {
			entry(b).CanonicalizedBody = f.sign(t, order{}).VerificationMaterial.TlogEntries[0].CanonicalizedBody
		}, want: CodeLog},
		"body, signature": {change: func(b *protobundle.Bundle) {
			changeBody(t, entry(b), func(e *body) { e.Signature.Content = otherSignature(b) })
		}, want: CodeLog},
		"body, certificate": {change: func(b *protobundle.Bundle) {
			other := f.sign(t, order{}).VerificationMaterial.GetCertificate()
			changeBody(t, entry(b), func(e *body) { e.Signature.Verifier.GetX509Certificate().RawBytes = other.RawBytes })
		}, want: CodeLog},
		"body, digest":         {change: func(b *protobundle.Bundle) { changeBody(t, entry(b), func(e *body) { e.Data.Digest[0] ^= 1 }) }, want: CodeLog},
		"statement changed":    {change: func(b *protobundle.Bundle) { envelope(b).Payload = append(envelope(b).Payload, ' ') }, want: CodeLog},
		"statement changed v1": {order: order{rekor1: true}, change: func(b *protobundle.Bundle) { envelope(b).Payload = append(envelope(b).Payload, ' ') }, want: CodeLog},
		"signature changed":    {change: func(b *protobundle.Bundle) { envelope(b).Signatures[0].Sig = otherSignature(b) }, want: CodeLog},
		"certificate swapped": {change: func(b *protobundle.Bundle) {
			b.VerificationMaterial.Content = f.sign(t, order{}).VerificationMaterial.Content
		}, want: CodeLog},
		"no timestamp": {order: order{noTimestamp: true}, want: CodeTimestamp},
		"timestamp of another": {change: func(b *protobundle.Bundle) {
			b.VerificationMaterial.TimestampVerificationData = f.sign(t, order{}).VerificationMaterial.TimestampVerificationData
		}, want: CodeTimestamp},
		"unknown authority":     {trust: func(m *material) { m.tsas = nil }, want: CodeTimestamp},
		"no promise, no stamp":  {order: order{rekor1: true, noTimestamp: true}, change: func(b *protobundle.Bundle) { entry(b).InclusionPromise = nil }, want: CodeTimestamp},
		"expired":               {order: order{expired: true}, want: CodeCertificate},
		"self-signed":           {order: order{selfSigned: true, noSCT: true}, want: CodeCertificate},
		"other authority":       {trust: func(m *material) { m.cas = forgeOf(t).virtual.FulcioCertificateAuthorities() }, want: CodeCertificate},
		"no SCT":                {order: order{noSCT: true}, want: CodeCertificateSCT},
		"SCT not by the log":    {order: order{badSCT: true}, want: CodeCertificateSCT},
		"other CT log":          {trust: func(m *material) { m.ctlogs = forgeOf(t).virtual.CTLogs() }, want: CodeCertificateSCT},
		"signed by another key": {order: order{otherKey: true}, want: CodeSignature},
		"two identities":        {order: order{identities: []string{testIdentity, "https://evil.example"}}, want: CodeCertificateMalformed},
		"no identity":           {order: order{identities: []string{}}, want: CodeCertificateMalformed},
		"no issuer":             {order: order{noIssuer: true}, policy: &Policy{Signers: []Signer{{Identity: testIdentity, IssuerRegexp: ".*"}}}, want: CodeIssuerMismatch},
		"other identity":        {policy: new(allow("https://github.com/acme/feedstock", testIssuer)), want: CodeIdentityMismatch},
		"other issuer":          {policy: new(allow(testIdentity, testIssuer+"/")), want: CodeIssuerMismatch},
		"other file":            {subject: &Subject{"foo-1.0-h0_1.conda", testSHA256}, want: CodeStatementSubjectName},
		"other digest":          {subject: &Subject{testFile, strings.Repeat("0", 64)}, want: CodeStatementDigestMismatch},
		"other channel":         {policy: &Policy{Signers: allow(testIdentity, testIssuer).Signers, TargetChannel: testChannel + "2"}, want: CodeStatementTargetChannel},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := f.sign(t, tt.order)
			if tt.change != nil {
				tt.change(b)
			}
			data := encode(t, b)
			if tt.raw != nil {
				data = tt.raw(data)
			}
			subject, policy := testSubject(), allow(testIdentity, testIssuer)
			if tt.subject != nil {
				subject = *tt.subject
			}
			if tt.policy != nil {
				policy = *tt.policy
			}
			r, err := f.verifier(t, tt.trust).Verify(data, subject, policy)
			wantCode(t, err, tt.want)
			if r != nil {
				t.Errorf("a result beside the error: %+v", r)
			}
		})
	}
}

// TestVerifyStatements signs statements that are wrong, properly.
func TestVerifyStatements(t *testing.T) {
	t.Parallel()
	f := forgeOf(t)
	v := f.verifier(t, nil)
	policy := allow(testIdentity, testIssuer)
	for _, tt := range statementFaults() {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := v.Verify(encode(t, f.sign(t, order{statement: []byte(tt.statement)})), testSubject(), policy)
			wantCode(t, err, tt.want)
		})
	}
}

func TestVerifyTargetChannel(t *testing.T) {
	t.Parallel()
	f := forgeOf(t)
	v := f.verifier(t, nil)
	st, err := Statement(testFile, testSHA256, "")
	if err != nil {
		t.Fatal(err)
	}
	named, unnamed := encode(t, f.sign(t, order{})), encode(t, f.sign(t, order{statement: st}))
	for _, tt := range []struct {
		bundle  []byte
		channel string
		mode    ChannelMode
		want    Code
		warns   int
	}{
		{named, "", "", "", 0},
		{named, testChannel, ChannelRequire, "", 0},
		{named, "https://CONDA.localhost:443/acme", ChannelRequire, "", 0},
		{named, "https://conda.localhost/Acme", ChannelRequire, CodeStatementTargetChannel, 0},
		{named, "http://conda.localhost/acme", ChannelRequire, CodeStatementTargetChannel, 0},
		{named, "https://conda.localhost/other", "", CodeStatementTargetChannel, 0},
		{named, "https://conda.localhost/other", ChannelWarn, "", 1},
		{named, "https://conda.localhost/other", ChannelIgnore, "", 0},
		{unnamed, testChannel, "", CodeStatementTargetChannel, 0},
		{unnamed, testChannel, ChannelWarn, "", 1},
		{unnamed, testChannel, ChannelIgnore, "", 0},
		{unnamed, "", "", "", 0},
		{named, testChannel, "perhaps", CodePolicyInvalid, 0},
	} {
		p := allow(testIdentity, testIssuer)
		p.TargetChannel, p.Channel = tt.channel, tt.mode
		r, err := v.Verify(tt.bundle, testSubject(), p)
		wantCode(t, err, tt.want)
		if r != nil && len(r.Warnings) != tt.warns {
			t.Errorf("%s %s: warnings %q", tt.channel, tt.mode, r.Warnings)
		}
	}
}

// TestVerifySpareParts: what the trust root does not know does no harm beside what it does, and is not reported.
func TestVerifySpareParts(t *testing.T) {
	t.Parallel()
	f := forgeOf(t)
	b := f.sign(t, order{})
	spare := f.sign(t, order{rekor1: true}).VerificationMaterial.TlogEntries[0]
	spare.LogId.KeyId = []byte("a log that nobody knows")
	b.VerificationMaterial.TlogEntries = append(b.VerificationMaterial.TlogEntries, spare)
	stamps := b.VerificationMaterial.TimestampVerificationData
	stamps.Rfc3161Timestamps = append(stamps.Rfc3161Timestamps, &protocommon.RFC3161SignedTimestamp{SignedTimestamp: []byte("x")})
	r, err := f.verifier(t, nil).Verify(encode(t, b), testSubject(), allow(testIdentity, testIssuer))
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Log) != 1 || r.Log[0].Origin != rekor2Host {
		t.Errorf("log %+v", r.Log)
	}
}

// TestVerifyWithoutCTLog: a private Sigstore may have no CT log.
func TestVerifyWithoutCTLog(t *testing.T) {
	t.Parallel()
	f := forgeOf(t)
	v := f.verifier(t, func(m *material) { m.ctlogs = nil })
	if _, err := v.Verify(encode(t, f.sign(t, order{noSCT: true})), testSubject(), allow(testIdentity, testIssuer)); err != nil {
		t.Error(err)
	}
}

func TestNewVerifierUnusable(t *testing.T) {
	t.Parallel()
	m := forgeOf(t).material()
	for _, tr := range []*TrustRoot{
		nil, {}, {Material: &root.BaseTrustedMaterial{}},
		{Material: &material{cas: m.cas}}, {Material: &material{logs: m.logs}},
	} {
		_, err := NewVerifier(tr)
		wantCode(t, err, CodeTrustUnusable)
	}
}

func TestVerifyConcurrently(t *testing.T) {
	t.Parallel()
	f := forgeOf(t)
	v := f.verifier(t, nil)
	b := encode(t, f.sign(t, order{}))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				if _, err := v.Verify(b, testSubject(), allow(testIdentity, testIssuer)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestInspect(t *testing.T) {
	t.Parallel()
	f := forgeOf(t)
	// A bundle that would not verify at all.
	r, err := Inspect(encode(t, f.sign(t, order{selfSigned: true, noSCT: true, otherKey: true})))
	if err != nil {
		t.Fatal(err)
	}
	if r.SignedAtBy != SignedAtRFC3161 || time.Since(r.SignedAt).Abs() > time.Hour {
		t.Errorf("it claims to be signed at %v by %q", r.SignedAt, r.SignedAtBy)
	}
	if r.Verified || r.TrustedRootSHA256 != "" {
		t.Errorf("an inspected bundle looks verified: %+v", r)
	}
	if r.Identity != testIdentity || r.Issuer != testIssuer || r.Subject != testSubject() || *r.TargetChannel != testChannel ||
		len(r.Log) != 1 || r.Log[0].Kind != "hashedrekord 0.0.2" {
		t.Errorf("result %+v", r)
	}
	r, err = Inspect(encode(t, f.sign(t, order{statement: []byte(`{"_type":"x"}`)})))
	if err != nil || len(r.Warnings) != 1 || r.Identity != testIdentity {
		t.Errorf("another statement: %+v, %v", r, err)
	}
	_, err = Inspect([]byte("[]"))
	wantCode(t, err, CodeBundleMalformed)
}
