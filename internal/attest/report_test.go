package attest

import (
	"strings"
	"testing"
)

func TestReportStatement(t *testing.T) {
	t.Parallel()
	got, err := ReportStatement("r & d.json", testSHA256, map[string]int{"published": 2})
	want := `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"r & d.json","digest":{"sha256":"` + testSHA256 +
		`"}}],"predicateType":"https://github.com/hallmark-attest/hallmark/attestations/report/v1","predicate":{"published":2}}`
	if err != nil || string(got) != want {
		t.Errorf("%v\n%s", err, got)
	}
	for _, bad := range [][2]string{{"", testSHA256}, {"a/b.json", testSHA256}, {"..", "x"}, {"r.json", strings.ToUpper(testSHA256)}, {"r.json", ""}} {
		if _, err := ReportStatement(bad[0], bad[1], nil); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestVerifyReport(t *testing.T) {
	t.Parallel()
	f := forgeOf(t)
	v := f.verifier(t, nil)
	statement, err := ReportStatement("r.json", testSHA256, nil)
	if err != nil {
		t.Fatal(err)
	}
	bundle := encode(t, f.sign(t, order{statement: statement}))
	by := Signer{Identity: testIdentity, Issuer: testIssuer}
	r, err := v.VerifyReport(bundle, testSHA256, by)
	if err != nil || !r.Verified || r.PredicateType != ReportPredicateType || r.Subject.Filename != "r.json" {
		t.Fatalf("%+v, %v", r, err)
	}
	for want, try := range map[Code]func() error{
		CodeStatementDigestMismatch: func() error { _, err := v.VerifyReport(bundle, strings.Repeat("0", 64), by); return err },
		CodeIdentityMismatch: func() error {
			_, err := v.VerifyReport(bundle, testSHA256, Signer{Identity: "x", Issuer: testIssuer})
			return err
		},
		CodePredicateNotAllowed: func() error { _, err := v.VerifyReport(encode(t, f.sign(t, order{})), testSHA256, by); return err },
		CodeSignature: func() error {
			_, err := v.VerifyReport(encode(t, f.sign(t, order{statement: statement, otherKey: true})), testSHA256, by)
			return err
		},
	} {
		if err := try(); CodeOf(err) != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
