package sign

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/pipeline"
)

const (
	slsa        = "https://slsa.dev/provenance/v1"
	vulns       = "https://in-toto.io/attestation/vulns/v0.1"
	builder     = "https://github.com/acme/builder/.github/workflows/build.yml@refs/heads/main"
	otherSHA256 = "1111111111111111111111111111111111111111111111111111111111111111"
)

// statementOf is an in-toto statement about files with these digests.
func statementOf(predicateType string, sha256 ...string) []byte {
	subjects := make([]string, len(sha256))
	for i, s := range sha256 {
		subjects[i] = fmt.Sprintf(`{"name":"file %d","digest":{"sha256":%q}}`, i, s)
	}
	return fmt.Appendf(nil, `{"_type":%q,"subject":[%s],"predicateType":%q,"predicate":{"buildDefinition":{}}}`,
		attest.StatementType, strings.Join(subjects, ","), predicateType)
}

// signAs has somebody else sign.
func (f *fake) signAs(t *testing.T, identity string, statement []byte) pipeline.Bundle {
	t.Helper()
	f.mu.Lock()
	before := f.identity
	f.identity = identity
	f.mu.Unlock()
	b := must(newSigner(t, f.config(t, 2)).Sign(t.Context(), statement))(t)
	f.mu.Lock()
	f.identity = before
	f.mu.Unlock()
	return b
}

func signer(identity string) attest.Signer {
	return attest.Signer{Identity: identity, Issuer: testIssuer}
}

// testPolicy accepts publish attestations of two signers, and provenance of a third.
func testPolicy(change func(*attest.Policy)) *attest.Policy {
	p := &attest.Policy{Signers: []attest.Signer{signer(testIdentity), signer("https://other")}, TargetChannel: testChannel,
		Predicates: []attest.Predicate{{Type: attest.PredicateType}, {Type: slsa, Extra: true, Signers: []attest.Signer{signer(builder)}}}}
	if change != nil {
		change(p)
	}
	return p
}

func requireSLSA(p *attest.Policy) { p.Predicates[1].Extra = false }

// TestBrought goes through what items come with, under a policy: what becomes of it, and whether anything is signed.
func TestBrought(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	verifier := must(attest.NewVerifier(f.trust()))(t)
	var (
		own        = f.signAs(t, testIdentity, testStatement(t))
		others     = f.signAs(t, "https://other", testStatement(t))
		mallorys   = f.signAs(t, "https://mallory", testStatement(t))
		provenance = f.signAs(t, builder, statementOf(slsa, otherSHA256, testSHA256))
		spaced     = pipeline.Bundle(bytes.Replace(provenance, []byte(":"), []byte(" : "), 1))
		forged     = f.signAs(t, testIdentity, statementOf(slsa, testSHA256))
		ofAnother  = f.signAs(t, builder, statementOf(slsa, otherSHA256))
		scan       = f.signAs(t, builder, statementOf(vulns, testSHA256))
		elsewhere  = f.signAs(t, testIdentity, must(attest.Statement(testFile, testSHA256, "https://conda.localhost/upstream"))(t))
	)
	many := make([]pipeline.Bundle, pipeline.MaxRiders+2)
	for i := range many {
		many[i] = provenance
	}
	list := func(b ...pipeline.Bundle) []pipeline.Bundle { return b }
	for _, tt := range []struct {
		name     string
		policy   *attest.Policy // nil: none, which accepts the campaign's signer alone
		noSign   bool
		anybody  bool // the campaign names no signer
		alone    bool
		as       string
		brought  []pipeline.Bundle
		bundle   pipeline.Bundle
		riders   []pipeline.Bundle // before
		want     pipeline.Bundle   // nil: it is signed here
		ride     []pipeline.Bundle // after
		identity string
		kind     pipeline.Kind // of the refusal
		cause    string
		says     string
		signed   int
	}{
		{name: "nothing", policy: testPolicy(nil), identity: testIdentity, signed: 1},
		{name: "the signer's own", policy: testPolicy(nil), brought: list(own), want: own, identity: testIdentity},
		{name: "by another whom the policy accepts", policy: testPolicy(nil), brought: list(others), want: others, identity: "https://other"},
		{name: "by another, without a policy", brought: list(others), cause: CauseRefused, says: "https://other"},
		{name: "by nobody of the policy's", policy: testPolicy(nil), brought: list(mallorys), cause: CauseRefused, says: "https://mallory"},
		{name: "one good and one that is not", policy: testPolicy(nil), brought: list(own, mallorys), cause: CauseRefused, says: "attestation 2 of 2"},
		{name: "two that are", policy: testPolicy(nil), brought: list(others, own), want: others, ride: list(own), identity: "https://other"},
		{name: "one twice", policy: testPolicy(nil), brought: list(others, others), want: others, identity: "https://other"},
		{name: "provenance, and it is signed here", policy: testPolicy(nil), brought: list(provenance), ride: list(provenance), identity: testIdentity, signed: 1},
		{name: "provenance with its white space", policy: testPolicy(nil), brought: list(spaced, own), want: own, ride: list(spaced), identity: testIdentity},
		{name: "provenance by who may only publish", policy: testPolicy(nil), brought: list(forged), cause: CauseRefused, says: builder},
		{name: "provenance of another package", policy: testPolicy(nil), brought: list(ofAnother), cause: CauseRefused, says: "none of the statement's 1 subjects"},
		{name: "provenance, without a policy", brought: list(provenance), cause: CauseUnnamed, says: slsa},
		{name: "a type that the policy does not name", policy: testPolicy(nil), brought: list(own, scan), cause: CauseUnnamed, says: vulns},
		{name: "no bundle", policy: testPolicy(nil), brought: list(pipeline.Bundle("{}")), cause: CauseRefused, says: "bundle"},
		{name: "too many", policy: testPolicy(nil), brought: many, cause: CauseTooMuch, says: "18"},
		{name: "too large", policy: testPolicy(nil), brought: list(make(pipeline.Bundle, pipeline.MaxAttestations+1)), cause: CauseTooMuch, says: "262145"},
		{name: "a required type is missing", policy: testPolicy(requireSLSA), brought: list(own), cause: CauseRequiring, says: slsa},
		{name: "a required type is missing, and nothing is signed for it", policy: testPolicy(requireSLSA), cause: CauseRequiring, says: slsa},
		{name: "a required type", policy: testPolicy(requireSLSA), brought: list(provenance), ride: list(provenance), identity: testIdentity, signed: 1},
		{name: "a required type in the channel", policy: testPolicy(requireSLSA), riders: list(provenance), ride: list(provenance), identity: testIdentity, signed: 1},
		{name: "in the channel, and another one brought", policy: testPolicy(nil), bundle: own, brought: list(others), want: others, identity: "https://other"},
		{name: "in the channel, and provenance brought", policy: testPolicy(nil), bundle: own, brought: list(provenance), want: own, ride: list(provenance), identity: testIdentity},
		{name: "provenance where the publish attestation should be", policy: testPolicy(nil), bundle: provenance, cause: CauseRefused, says: slsa},
		{name: "for a server, with provenance", policy: testPolicy(nil), alone: true, brought: list(own, provenance), cause: CauseNoPlace, says: "one attestation"},
		{name: "for a server", policy: testPolicy(nil), alone: true, brought: list(others), want: others, identity: "https://other"},
		{name: "nothing brought, nothing signed", policy: testPolicy(nil), noSign: true, cause: CauseMissing, says: testFile},
		{name: "provenance alone brought, nothing signed", policy: testPolicy(nil), noSign: true, brought: list(provenance), cause: CauseMissing},
		{name: "brought, nothing signed", policy: testPolicy(nil), noSign: true, brought: list(provenance, others), want: others, ride: list(provenance), identity: "https://other"},
		{name: "another worker than the campaign's signer", policy: testPolicy(nil), as: "https://other", kind: pipeline.KindFatal, cause: "identity.mismatch", says: testIdentity},
		{name: "whoever the policy accepts", policy: testPolicy(nil), anybody: true, identity: testIdentity, signed: 1},
		{name: "whoever the policy accepts, and it does not", policy: testPolicy(nil), anybody: true, as: "https://mallory", kind: pipeline.KindFatal, cause: "identity.mismatch", says: "mallory"},
		{name: "the policy does not accept the campaign's signer", policy: testPolicy(func(p *attest.Policy) { p.Signers = p.Signers[1:] }), kind: pipeline.KindFatal, cause: "identity.mismatch", says: "https://other"},
		{name: "the policy asks for a claim", policy: testPolicy(func(p *attest.Policy) { p.Claims = attest.Claims{"buildTrigger": {Exact: "push"}} }), kind: pipeline.KindFatal, cause: "policy.refused", says: "buildTrigger"},
		{name: "for another channel", policy: testPolicy(nil), brought: list(elsewhere), cause: CauseRefused, says: "upstream"},
		{name: "for another channel, which is ignored", policy: testPolicy(func(p *attest.Policy) { p.Channel = attest.ChannelIgnore }), brought: list(elsewhere), want: elsewhere, identity: testIdentity},
		{name: "for another channel, with a warning", policy: testPolicy(func(p *attest.Policy) { p.Channel = attest.ChannelWarn }), brought: list(elsewhere), want: elsewhere, identity: testIdentity, says: "upstream"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			o := testOptions()
			o.Policy, o.NoSign, o.Alone, o.Log = tt.policy, tt.noSign, tt.alone, slog.New(slog.NewTextHandler(&log, nil))
			if tt.anybody {
				o.Identity, o.Issuer = "", ""
			}
			st := &stub{identity: testIdentity, issuer: testIssuer, bundle: own}
			if tt.as != "" {
				st.identity = tt.as
			}
			stage := New(st, verifier, o)
			if tt.noSign {
				stage = New(nil, verifier, o)
			}
			it := testItem()
			it.Brought, it.Bundle = tt.brought, tt.bundle
			for _, r := range tt.riders {
				it.Riders = append(it.Riders, pipeline.Rider{Bundle: r})
			}
			before := string(must(json.Marshal(it))(t))
			err := stage.Run(t.Context(), it)
			if st.signed != tt.signed {
				t.Errorf("signed %d times, want %d", st.signed, tt.signed)
			}
			if tt.cause != "" {
				kind := tt.kind
				if kind == pipeline.KindTransient {
					kind = pipeline.KindPermanent
				}
				wantError(t, err, kind, tt.cause)
				if e := pipeline.Classify(err); e == nil || e.Hint == "" || !strings.Contains(e.Error(), tt.says) {
					t.Errorf("error %v does not say %q, or has no hint", err, tt.says)
				}
				if after := string(must(json.Marshal(it))(t)); after != before {
					t.Errorf("the item was changed: %s", cmp.Diff(before, after))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := tt.want
			if want == nil {
				want = own
			}
			if !bytes.Equal(it.Bundle, want) || it.Signature.Identity != tt.identity || it.Brought != nil {
				t.Errorf("bundle %.40s… of %s, brought %d", it.Bundle, it.Signature.Identity, len(it.Brought))
			}
			if !strings.Contains(log.String(), tt.says) {
				t.Errorf("the log does not say %q: %s", tt.says, log.String())
			}
			var ride []pipeline.Bundle
			for _, r := range it.Riders {
				ride = append(ride, r.Bundle)
				if len(r.SHA256) != 64 || r.Identity == "" || r.Issuer != testIssuer || r.PredicateType == "" {
					t.Errorf("incomplete rider: %+v", r)
				}
			}
			if d := cmp.Diff(tt.ride, ride); d != "" {
				t.Errorf("riders: -want +got: %s", d)
			}
			// Across a cut, or done again: the same.
			var again pipeline.Item
			if err := json.Unmarshal(must(json.Marshal(it))(t), &again); err != nil {
				t.Fatal(err)
			}
			if err := stage.Run(t.Context(), &again); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(it, &again); d != "" {
				t.Errorf("done again: -want +got: %s", d)
			}
		})
	}
}

// TestSignedByAnotherThanItSays: what is made here is by the campaign's signer, also where the policy would accept another.
func TestSignedByAnotherThanItSays(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	o := testOptions()
	o.Policy = testPolicy(nil)
	st := &stub{identity: testIdentity, issuer: testIssuer, bundle: f.signAs(t, "https://other", testStatement(t))}
	it := testItem()
	wantError(t, New(st, must(attest.NewVerifier(f.trust()))(t), o).Run(t.Context(), it), pipeline.KindFatal, "identity.mismatch")
	if it.Bundle != nil {
		t.Error("the item got the bundle")
	}
}
