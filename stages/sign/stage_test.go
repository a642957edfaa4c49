package sign

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	sigstore "github.com/sigstore/sigstore-go/pkg/sign"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/identity"
	"github.com/hallmark-attest/hallmark/pipeline"
)

func wantError(t *testing.T, err error, kind pipeline.Kind, cause string) {
	t.Helper()
	e, ok := errors.AsType[*pipeline.Error](err)
	if !ok || e.Kind != kind || e.Cause != cause {
		t.Errorf("error %#v: %v\nwant kind %s, cause %s", e, err, kind, cause)
	}
}

// noSecret looks for a token, and for its parts, in an error's texts, at every depth.
func noSecret(t *testing.T, err error, token string) {
	t.Helper()
	var walk func(error)
	walk = func(err error) {
		if err == nil {
			return
		}
		for _, part := range append(strings.Split(token, "."), token) {
			if strings.Contains(err.Error(), part) {
				t.Errorf("the error shows the token: %v", err)
			}
		}
		if u := errors.Unwrap(err); u != nil {
			walk(u)
		}
		if m, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range m.Unwrap() {
				walk(e)
			}
		}
	}
	walk(err)
}

// stub is a signer whose answers a test writes.
type stub struct {
	identity, issuer string
	claims           map[string]string
	identityErr      error
	bundle           []byte
	signErr          error
	signed           int
}

func (s *stub) Identity(context.Context) (string, string, error) {
	return s.identity, s.issuer, s.identityErr
}

func (s *stub) Claims(context.Context) (map[string]string, error) { return s.claims, s.identityErr }

func (s *stub) Sign(context.Context, []byte) ([]byte, error) {
	s.signed++
	return s.bundle, s.signErr
}

func testItem() *pipeline.Item {
	return &pipeline.Item{Filename: testFile, Package: pipeline.Package{SHA256: testSHA256}}
}

func testOptions() Options {
	return Options{ChannelURL: testChannel, Identity: testIdentity, Issuer: testIssuer}
}

// TestStage signs with the services in memory and verifies for real.
func TestStage(t *testing.T) {
	t.Parallel()
	for _, channel := range []string{testChannel, ""} {
		f := newFake(t)
		signer := newSigner(t, f.config(t, 2))
		o := testOptions()
		o.ChannelURL = channel
		stage := New(signer, must(attest.NewVerifier(f.trust()))(t), o)
		it := testItem()
		if err := stage.Run(t.Context(), it); err != nil {
			t.Fatal(err)
		}
		got := it.Signature
		if got.SignedAt.IsZero() || got.NotAfter.IsZero() || len(got.CertSHA256) != 64 || got.DSSESig == "" || len(got.StatementSHA) != 64 {
			t.Errorf("incomplete signature: %+v", got)
		}
		sum := sha256.Sum256(it.Bundle)
		want := pipeline.Signature{Identity: testIdentity, Issuer: testIssuer, SignedAtBy: "rfc3161", BundleSHA256: hex.EncodeToString(sum[:]),
			TrustedRootSHA256: "fake", Log: []pipeline.LogEntry{{Origin: rekorHost, LogID: hex.EncodeToString(f.logID), Kind: "hashedrekord 0.0.2"}},
			SignedAt: got.SignedAt, NotAfter: got.NotAfter, CertSHA256: got.CertSHA256, DSSESig: got.DSSESig, StatementSHA: got.StatementSHA}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("signature: -want +got:\n%s", diff)
		}

		// Across a cut the bytes stay as they are; the second run signs nothing and says the same.
		var crossed pipeline.Item
		if err := json.Unmarshal(must(json.Marshal(it))(t), &crossed); err != nil {
			t.Fatal(err)
		}
		if err := stage.Run(t.Context(), &crossed); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(it, &crossed); diff != "" {
			t.Errorf("second run: -want +got:\n%s", diff)
		}
		// Found in the channel: the same, and marked as such.
		found := testItem()
		found.Bundle = it.Bundle
		if err := stage.Run(t.Context(), found); err != nil || !found.Signature.Found || found.Signature.DSSESig != got.DSSESig {
			t.Errorf("found bundle: %v, %+v", err, found.Signature)
		}
		if n := signer.Stats().LogEntries; n != 1 {
			t.Errorf("%d log entries, want 1", n)
		}
	}
}

// TestStageRefuses goes through what must not pass, and whether anything was signed by then.
func TestStageRefuses(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	good := must(newSigner(t, f.config(t, 2)).Sign(t.Context(), testStatement(t)))(t)
	tests := []struct {
		name   string
		stub   stub
		item   func(*pipeline.Item)
		o      func(*Options)
		kind   pipeline.Kind
		cause  string
		names  []string
		signed int
	}{
		{name: "another identity", stub: stub{identity: "https://mallory", issuer: testIssuer}, kind: pipeline.KindFatal, cause: "identity.mismatch", names: []string{"https://mallory", testIdentity}},
		{name: "another issuer", stub: stub{identity: testIdentity, issuer: "https://evil"}, kind: pipeline.KindFatal, cause: "identity.mismatch", names: []string{"https://evil", testIssuer}},
		{name: "the bundle has another identity", o: func(o *Options) { o.Identity = "https://other" }, stub: stub{identity: "https://other", issuer: testIssuer, bundle: good},
			kind: pipeline.KindFatal, cause: "identity.mismatch", names: []string{"https://other", testIdentity}, signed: 1},
		{name: "the bundle has another issuer", o: func(o *Options) { o.Issuer = "https://other" }, stub: stub{identity: testIdentity, issuer: "https://other", bundle: good},
			kind: pipeline.KindFatal, cause: "identity.mismatch", names: []string{"https://other", testIssuer}, signed: 1},
		{name: "the bundle is nonsense", stub: stub{identity: testIdentity, issuer: testIssuer, bundle: []byte("{}")}, kind: pipeline.KindFatal, cause: "signature.unverifiable", signed: 1},
		{name: "the bundle is for another package", item: func(it *pipeline.Item) { it.Filename = "bar-1.0-h0_0.conda" }, stub: stub{identity: testIdentity, issuer: testIssuer, bundle: good},
			kind: pipeline.KindFatal, cause: "signature.unverifiable", signed: 1},
		{name: "no signer in the campaign", o: func(o *Options) { o.Identity = "" }, stub: stub{issuer: testIssuer, bundle: good}, kind: pipeline.KindFatal, cause: "policy.invalid", signed: 1},
		{name: "no digest", item: func(it *pipeline.Item) { it.Package.SHA256 = "" }, stub: stub{identity: testIdentity, issuer: testIssuer}, kind: pipeline.KindPermanent, cause: "statement.refused"},
		{name: "no package's name", item: func(it *pipeline.Item) { it.Filename = "../x" }, stub: stub{identity: testIdentity, issuer: testIssuer}, kind: pipeline.KindPermanent, cause: "statement.refused"},
		{name: "s3 as the channel", o: func(o *Options) { o.ChannelURL = "s3://bucket" }, stub: stub{identity: testIdentity, issuer: testIssuer}, kind: pipeline.KindFatal, cause: "channel.invalid"},
		{name: "a bundle that came along is for another package", item: func(it *pipeline.Item) { it.Bundle = good; it.Filename = "bar-1.0-h0_0.conda" },
			stub: stub{identity: testIdentity, issuer: testIssuer}, kind: pipeline.KindPermanent, cause: "bundle.refused"},
		{name: "a bundle that came along has another identity", item: func(it *pipeline.Item) { it.Bundle = good }, o: func(o *Options) { o.Identity = "https://other" },
			stub: stub{identity: "https://other", issuer: testIssuer}, kind: pipeline.KindPermanent, cause: "bundle.refused", names: []string{"https://other", testIdentity}},
		{name: "no identity", stub: stub{identityErr: fmt.Errorf("x: %w", identity.ErrNoIdentity)}, kind: pipeline.KindFatal, cause: "identity.missing"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o, it := testOptions(), testItem()
			if tt.o != nil {
				tt.o(&o)
			}
			if tt.item != nil {
				tt.item(it)
			}
			before := string(it.Bundle)
			err := New(&tt.stub, must(attest.NewVerifier(f.trust()))(t), o).Run(t.Context(), it)
			wantError(t, err, tt.kind, tt.cause)
			for _, name := range tt.names {
				if err != nil && !strings.Contains(err.Error(), name) {
					t.Errorf("error %q does not name %q", err, name)
				}
			}
			if tt.stub.signed != tt.signed {
				t.Errorf("signed %d times, want %d", tt.stub.signed, tt.signed)
			}
			if string(it.Bundle) != before || it.Signature.Identity != "" {
				t.Error("a refused bundle was put on the item")
			}
		})
	}
}

// TestStageExpired: should a bundle with a certificate that was over get this far, it is made again; it is no mismatch.
func TestStageExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		c := f.config(t, 2)
		s := newSigner(t, c)
		cert := must(s.certs.get(t.Context()))(t)
		time.Sleep(certLife + time.Minute)
		statement := testStatement(t)
		// Signed past the guard, as sigstore-go by itself would.
		e := must(s.selected(time.Now()))(t)
		b := must(sigstore.Bundle(&sigstore.DSSEData{Data: statement, PayloadType: attest.PayloadType}, cert.keypair, sigstore.BundleOptions{
			Context: t.Context(), CertificateProvider: cert,
			TimestampAuthorities: []*sigstore.TimestampAuthority{sigstore.NewTimestampAuthority(&sigstore.TimestampAuthorityOptions{URL: e.tsas[0], Timeout: -1, Transport: f})},
			TransparencyLogs:     []sigstore.Transparency{e.logs[0]},
		}))(t)
		expired := must(encode(b))(t)
		stage := New(&stub{identity: testIdentity, issuer: testIssuer, bundle: expired}, must(attest.NewVerifier(f.trust()))(t), testOptions())
		wantError(t, stage.Run(t.Context(), testItem()), pipeline.KindTransient, "signature.expired")
	})
}

func TestClassify(t *testing.T) {
	t.Parallel()
	up := func(service string, status int) error {
		return fmt.Errorf("wrapped: %w", &UpstreamError{Service: service, Status: status, RetryAfter: 7 * time.Second, Err: io.ErrUnexpectedEOF})
	}
	tests := []struct {
		err   error
		kind  pipeline.Kind
		cause string
	}{
		{identity.ErrNoIdentity, pipeline.KindFatal, "identity.missing"},
		{identity.ErrExpired, pipeline.KindFatal, "identity.expired"},
		{identity.ErrMalformed, pipeline.KindFatal, "identity.malformed"},
		{identity.ErrRefused, pipeline.KindFatal, "identity.refused"},
		{identity.ErrUnavailable, pipeline.KindTransient, "identity.unavailable"},
		{ErrIdentityChanged, pipeline.KindFatal, "identity.mismatch"},
		{ErrUntrusted, pipeline.KindFatal, "signature.unverifiable"},
		{ErrOutsideValidity, pipeline.KindTransient, "signature.expired"},
		{up("fulcio", 400), pipeline.KindFatal, "identity.refused"},
		{up("fulcio", 401), pipeline.KindFatal, "identity.refused"},
		{up("fulcio", 403), pipeline.KindFatal, "identity.refused"},
		{up("fulcio", 404), pipeline.KindFatal, "fulcio.refused"},
		{up("fulcio", 0), pipeline.KindTransient, "fulcio.unavailable"},
		{up("tsa", 429), pipeline.KindTransient, "tsa.unavailable"},
		{up("tsa", 400), pipeline.KindFatal, "tsa.refused"},
		{up("rekor", 503), pipeline.KindTransient, "rekor.unavailable"},
		{up("rekor", 408), pipeline.KindTransient, "rekor.unavailable"},
		{up("rekor", 409), pipeline.KindTransient, "rekor.conflict"},
		{up("rekor", 422), pipeline.KindFatal, "rekor.refused"},
		{context.Canceled, pipeline.KindTransient, "internal.unclassified"},
		{context.DeadlineExceeded, pipeline.KindTransient, "timeout"},
	}
	for _, tt := range tests {
		got := pipeline.Classify(classify(fmt.Errorf("signing: %w", tt.err)))
		if got.Kind != tt.kind || got.Cause != tt.cause || !errors.Is(got, tt.err) {
			t.Errorf("%v: %s %s, want %s %s", tt.err, got.Kind, got.Cause, tt.kind, tt.cause)
		}
		if tt.kind == pipeline.KindFatal && got.Hint == "" {
			t.Errorf("%v: no hint", tt.err)
		}
		if strings.HasSuffix(got.Cause, ".unavailable") && got.Cause != "identity.unavailable" && got.RetryAfter != 7*time.Second {
			t.Errorf("%v: Retry-After %s was lost", tt.err, got.RetryAfter)
		}
	}
}
