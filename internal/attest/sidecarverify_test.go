package attest

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
)

const (
	slsaType  = "https://slsa.dev/provenance/v1"
	vulnsType = "https://in-toto.io/attestation/vulns/v0.1"
	builder   = "https://github.com/acme/builder/.github/workflows/build.yml@refs/heads/main"
)

// provenance is a statement of another predicate type about the package.
func provenance(predicateType, subjects string) []byte {
	return fmt.Appendf(nil, `{"_type":%q,"subject":%s,"predicateType":%q,"predicate":{"buildDefinition":{}}}`, StatementType, subjects, predicateType)
}

func subjectOf(name, sha256hex string) string {
	return fmt.Sprintf(`{"name":%q,"digest":{"sha256":%q}}`, name, sha256hex)
}

// riderPolicy requires the publish attestation by one signer, and lets provenance ride along by another.
func riderPolicy() Policy {
	p := allow(testIdentity, testIssuer)
	p.TargetChannel = testChannel
	p.Predicates = []Predicate{{Type: PredicateType}, {Type: slsaType, Extra: true, Signers: allow(builder, testIssuer).Signers}}
	return p
}

func by(identity string, statement []byte) order {
	return order{identities: []string{identity}, statement: statement}
}

func TestVerifyAny(t *testing.T) {
	t.Parallel()
	f := forgeOf(t)
	v := f.verifier(t, nil)
	ours := "[" + subjectOf(testFile, testSHA256) + "]"
	other := strings.Repeat("0", 64)
	for _, tt := range []struct {
		name   string
		order  order
		change func(*protobundle.Bundle)
		want   Code
	}{
		{"publish", order{}, nil, ""},
		{"publish by the rider's signer", by(builder, nil), nil, CodeIdentityMismatch},
		{"publish, other channel", order{statement: must(Statement(testFile, testSHA256, testChannel+"2"))}, nil, CodeStatementTargetChannel},
		{"provenance", by(builder, provenance(slsaType, ours)), nil, ""},
		{"provenance, v0.1 statement", by(builder, bytes.Replace(provenance(slsaType, ours), []byte("/v1"), []byte("/v0.1"), 1)), nil, ""},
		{"provenance, one of several subjects", by(builder, provenance(slsaType, "["+subjectOf("a", other)+","+subjectOf("noarch/x", testSHA256)+"]")), nil, ""},
		{"provenance, more digests", by(builder, provenance(slsaType, `[{"digest":{"sha512":"00","sha256":"`+testSHA256+`"}}]`)), nil, ""},
		{"provenance by the publisher", by(testIdentity, provenance(slsaType, ours)), nil, CodeIdentityMismatch},
		{"provenance, other issuer", order{identities: []string{builder}, issuer: githubIssuer, statement: provenance(slsaType, ours)}, nil, CodeIssuerMismatch},
		{"provenance of another package", by(builder, provenance(slsaType, "["+subjectOf(testFile, other)+"]")), nil, CodeStatementDigestMismatch},
		{"provenance, digest under another algorithm", by(builder, provenance(slsaType, `[{"name":"x","digest":{"sha512":"`+testSHA256+`"}}]`)), nil, CodeStatementDigestMismatch},
		{"provenance, digest in capitals", by(builder, provenance(slsaType, "["+subjectOf(testFile, strings.ToUpper(testSHA256))+"]")), nil, CodeStatementDigestMismatch},
		{"provenance of nothing", by(builder, provenance(slsaType, "[]")), nil, CodeStatementSubjectCount},
		{"provenance, subject is none", by(builder, provenance(slsaType, "["+subjectOf(testFile, testSHA256)+",1]")), nil, CodeStatementMalformed},
		{"provenance, no digest", by(builder, provenance(slsaType, `[{"name":"x"}]`)), nil, CodeStatementDigestSet},
		{"provenance, key twice", by(builder, bytes.Replace(provenance(slsaType, ours), []byte("{"), []byte(`{"subject":[],`), 1)), nil, CodeStatementMalformed},
		{"no statement", by(builder, []byte(`{"_type":"x"}`)), nil, CodeStatementType},
		{"no predicate type", by(builder, []byte(`{"_type":"`+StatementType+`"}`)), nil, CodeStatementPredicateType},
		{"type not named", by(builder, provenance(vulnsType, ours)), nil, CodePredicateNotAllowed},
		{"type of the same name but for a slash", by(builder, provenance(slsaType+"/", ours)), nil, CodePredicateNotAllowed},
		{"type changed afterwards", by(builder, provenance(vulnsType, ours)), func(b *protobundle.Bundle) {
			b.GetDsseEnvelope().Payload = provenance(slsaType, ours)
		}, CodeLog},
		{"not logged", order{identities: []string{builder}, statement: provenance(slsaType, ours), noLog: true}, nil, CodeLog},
		{"another key", order{identities: []string{builder}, statement: provenance(slsaType, ours), otherKey: true}, nil, CodeSignature},
		{"expired", order{identities: []string{builder}, statement: provenance(slsaType, ours), expired: true}, nil, CodeCertificate},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := f.sign(t, tt.order)
			if tt.change != nil {
				tt.change(b)
			}
			r, err := v.VerifyAny(encode(t, b), testSubject(), riderPolicy())
			wantCode(t, err, tt.want)
			if (r != nil) != (tt.want == "") {
				t.Fatalf("result %+v beside %v", r, err)
			}
			if r != nil && (!r.Verified || r.Subject.SHA256 != testSHA256 || r.PredicateType == "") {
				t.Errorf("result %+v", r)
			}
		})
	}
	// Verify is for publish attestations, whatever else the policy names.
	_, err := v.Verify(encode(t, f.sign(t, by(testIdentity, provenance(slsaType, ours)))), testSubject(), riderPolicy())
	wantCode(t, err, CodeStatementPredicateType)
}

func must(data []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return data
}

func TestVerifySidecar(t *testing.T) {
	t.Parallel()
	f := forgeOf(t)
	v := f.verifier(t, nil)
	ours := "[" + subjectOf(testFile, testSHA256) + "]"
	bundle := func(o order, change ...func(*protobundle.Bundle)) string {
		b := f.sign(t, o)
		for _, c := range change {
			c(b)
		}
		return string(encode(t, b))
	}
	publish := bundle(order{})
	rider := bundle(by(builder, provenance(slsaType, ours)))
	badRider := bundle(by("https://mallory.example/x", provenance(slsaType, ours)))
	stranger := bundle(by("https://mallory.example/x", nil))
	unknown := bundle(by(builder, provenance(vulnsType, ours)))
	garbled := bundle(by(testIdentity, []byte("not a statement")))
	file := bundle(order{}, func(b *protobundle.Bundle) {
		b.Content = &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{Signature: []byte("x")}}
	})
	keyed := bundle(order{}, func(b *protobundle.Bundle) {
		b.VerificationMaterial.Content = &protobundle.VerificationMaterial_PublicKey{PublicKey: &protocommon.PublicKeyIdentifier{Hint: "x"}}
	})
	newer := strings.Replace(publish, "bundle.v0.3", "bundle.v0.9", 1)
	twice := `{"mediaType":"",` + publish[1:]
	large := publish[:len(publish)-1] + strings.Repeat(" ", MaxBundle) + "}"
	strict := riderPolicy()
	strict.Predicates[1].Extra = false

	const (
		yes, no, ignored, broken, unused = VerdictAccepted, VerdictRefused, VerdictIgnored, VerdictMalformed, VerdictUnused
	)
	for _, tt := range []struct {
		name     string
		elements []string
		policy   Policy
		want     Code
		verdicts []Verdict
		codes    []Code // of the elements
		missing  []string
	}{
		{"one", []string{publish}, riderPolicy(), "", []Verdict{yes}, []Code{""}, nil},
		{"with a rider", []string{rider, publish}, riderPolicy(), "", []Verdict{yes, yes}, []Code{"", ""}, nil},
		{"the rider is refused", []string{publish, badRider}, riderPolicy(), "", []Verdict{yes, no}, []Code{"", CodeIdentityMismatch}, nil},
		{"a type that is not named", []string{unknown, publish}, riderPolicy(), "", []Verdict{ignored, yes}, []Code{CodePredicateNotAllowed, ""}, nil},
		{"a stranger's beside ours", []string{stranger, publish, stranger}, riderPolicy(), "", []Verdict{no, yes, no}, []Code{CodeIdentityMismatch, "", CodeIdentityMismatch}, nil},
		{"a bundle that is no attestation", []string{file, publish}, riderPolicy(), "", []Verdict{no, yes}, []Code{CodeEnvelopeMissing, ""}, nil},
		{"a bundle without a certificate", []string{keyed, publish}, riderPolicy(), "", []Verdict{no, yes}, []Code{CodeNoCertificate, ""}, nil},
		{"a statement that is none", []string{publish, garbled}, riderPolicy(), "", []Verdict{yes, no}, []Code{"", CodeStatementMalformed}, nil},
		{"twice the same", []string{publish, publish}, riderPolicy(), "", []Verdict{yes, yes}, []Code{"", ""}, nil},

		{"only a stranger's", []string{stranger}, riderPolicy(), CodeSidecarNoMatch, []Verdict{no}, []Code{CodeIdentityMismatch}, []string{PredicateType}},
		{"only a rider", []string{rider}, riderPolicy(), CodeSidecarMissing, []Verdict{yes}, []Code{""}, []string{PredicateType}},
		{"only what is not named", []string{unknown}, riderPolicy(), CodeSidecarMissing, []Verdict{ignored}, []Code{CodePredicateNotAllowed}, []string{PredicateType}},
		{"only a statement that is none", []string{garbled}, riderPolicy(), CodeSidecarNoMatch, []Verdict{no}, []Code{CodeStatementMalformed}, []string{PredicateType}},
		{"two required, both there", []string{publish, rider}, strict, "", []Verdict{yes, yes}, []Code{"", ""}, nil},
		{"two required, one there", []string{publish}, strict, CodeSidecarMissing, []Verdict{yes}, []Code{""}, []string{slsaType}},
		{"two required, one refused", []string{publish, badRider}, strict, CodeSidecarNoMatch, []Verdict{yes, no}, []Code{"", CodeIdentityMismatch}, []string{slsaType}},
		{"two required, none there", []string{unknown}, strict, CodeSidecarMissing, []Verdict{ignored}, []Code{CodePredicateNotAllowed}, []string{PredicateType, slsaType}},

		{"no bundle", nil, riderPolicy(), CodeSidecarMalformed, nil, nil, nil},
		{"an element that is none", []string{publish, "{}"}, riderPolicy(), CodeSidecarMalformed, []Verdict{unused, broken}, []Code{CodeSidecarMalformed, CodeBundleMalformed}, nil},
		{"an element of an unknown version", []string{publish, newer}, riderPolicy(), CodeSidecarMalformed, []Verdict{unused, broken}, []Code{CodeSidecarMalformed, CodeBundleMalformed}, nil},
		{"an element with a name twice", []string{twice, publish}, riderPolicy(), CodeSidecarMalformed, []Verdict{broken, unused}, []Code{CodeBundleMalformed, CodeSidecarMalformed}, nil},
		{"an element that is too large", []string{publish, large}, riderPolicy(), CodeSidecarMalformed, []Verdict{unused, broken}, []Code{CodeSidecarMalformed, CodeBundleTooLarge}, nil},
		{"an element that is a text", []string{publish, `"x"`}, riderPolicy(), CodeSidecarMalformed, nil, nil, nil},
		{"an array in it", []string{"[" + publish + "]"}, riderPolicy(), CodeSidecarMalformed, nil, nil, nil},
		{"too large", []string{publish, strings.Repeat(" ", MaxSidecar) + publish}, riderPolicy(), CodeSidecarTooLarge, nil, nil, nil},
		{"an empty policy", []string{publish}, Policy{}, CodePolicyEmpty, nil, nil, nil},
		{"a policy that does not know its channel", []string{publish}, Policy{Signers: allow(testIdentity, testIssuer).Signers, Channel: ChannelRequire}, CodePolicyChannel, nil, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, err := VerifySidecar([]byte("["+strings.Join(tt.elements, ",")+"]"), v, testSubject(), tt.policy)
			wantCode(t, err, tt.want)
			var verdicts []Verdict
			var codes []Code
			for i, e := range r.Elements {
				verdicts = append(verdicts, e.Verdict)
				codes = append(codes, CodeOf(e.Err))
				if e.Index != i || string(e.Bundle) != strings.TrimSpace(tt.elements[i]) {
					t.Errorf("element %d is %d, %.40s", i, e.Index, e.Bundle)
				}
				if (e.Verdict == VerdictAccepted) != (e.Result != nil) || (e.Verdict == VerdictAccepted) != (e.Err == nil) {
					t.Errorf("element %d is %s with %v and %v", i, e.Verdict, e.Result, e.Err)
				}
			}
			if diff := gocmp.Diff(tt.verdicts, verdicts) + gocmp.Diff(tt.codes, codes) + gocmp.Diff(tt.missing, r.Missing); diff != "" {
				t.Error(diff)
			}
			for _, m := range r.Missing {
				if !strings.Contains(err.Error(), m) {
					t.Errorf("the error does not name %s: %v", m, err)
				}
			}
		})
	}

	r, err := VerifySidecar([]byte("["+stranger+","+rider+","+publish+"]"), v, testSubject(), riderPolicy())
	if err != nil {
		t.Fatal(err)
	}
	if e, ok := r.Accepted(PredicateType); !ok || e.Index != 2 || e.Extra || e.Result.PredicateType != PredicateType {
		t.Errorf("publish: %+v", e)
	}
	if e, ok := r.Accepted(slsaType); !ok || e.Index != 1 || !e.Extra || e.PredicateType != slsaType {
		t.Errorf("rider: %+v", e)
	}
	if e, ok := r.Accepted(vulnsType); ok {
		t.Errorf("vulns: %+v", e)
	}
	if !slices.ContainsFunc(r.Elements, func(e Element) bool {
		return e.Verdict == VerdictRefused && e.PredicateType == PredicateType && !e.Extra
	}) {
		t.Errorf("the stranger's: %+v", r.Elements[0])
	}
	_, err = VerifySidecar([]byte("["+publish+"]"), v, Subject{"noarch/" + testFile, testSHA256}, riderPolicy())
	wantCode(t, err, CodeFilename)
}

func TestCheckSidecar(t *testing.T) {
	t.Parallel()
	data := []byte(`[{"a":1}]`)
	large := bytes.Repeat([]byte(" "), MaxSidecar+1)
	for _, tt := range []struct {
		sidecar []byte
		value   string
		want    Code
	}{
		{data, hexSHA256(data), ""},
		{data, strings.ToUpper(hexSHA256(data)), CodeSidecarDigest},
		{data, hexSHA256(data)[1:], CodeSidecarDigest},
		{data, hexSHA256(data) + "0", CodeSidecarDigest},
		{data, "", CodeSidecarDigest},
		{data, "../../" + hexSHA256(data)[6:], CodeSidecarDigest},
		{append(data, '\n'), hexSHA256(data), CodeSidecarDigest},
		{nil, hexSHA256(data), CodeSidecarDigest},
		{large, hexSHA256(large), CodeSidecarTooLarge},
	} {
		wantCode(t, CheckSidecar(tt.sidecar, tt.value), tt.want)
	}
}

func FuzzVerifySidecar(f *testing.F) {
	forge := forgeOf(f)
	v := forge.verifier(f, nil)
	publish := encode(f, forge.sign(f, order{}))
	rider := encode(f, forge.sign(f, by(builder, provenance(slsaType, "["+subjectOf(testFile, testSHA256)+"]"))))
	f.Add(fmt.Appendf(nil, "[%s,%s]", publish, rider))
	f.Add(fmt.Appendf(nil, "[%s,{}]", publish))
	f.Add([]byte("[]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := VerifySidecar(data, v, testSubject(), riderPolicy())
		if err != nil && CodeOf(err) == "" {
			t.Errorf("an error without a code: %v", err)
		}
		if e, ok := r.Accepted(PredicateType); (err == nil) != ok || ok && e.Result.Identity != testIdentity {
			t.Errorf("%v, and %+v", err, r)
		}
	})
}
