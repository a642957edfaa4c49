package attest

import (
	"strings"
	"testing"

	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	rekortiles "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"github.com/sigstore/sigstore-go/pkg/root"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/hallmark-attest/hallmark/internal/strictjson"
)

type body = rekortiles.HashedRekordLogEntryV002

// changeBody changes what a Rekor v2 entry says, and leaves its proof as it is.
func changeBody(t *testing.T, entry *protorekor.TransparencyLogEntry, change func(*body)) {
	t.Helper()
	var e rekortiles.Entry
	if err := protojson.Unmarshal(entry.CanonicalizedBody, &e); err != nil {
		t.Fatal(err)
	}
	change(e.Spec.GetHashedRekordV002())
	var err error
	if entry.CanonicalizedBody, err = protojson.Marshal(&e); err != nil {
		t.Fatal(err)
	}
}

// swap replaces old, which has to be there.
func swap(s *string, old, with string) {
	if !strings.Contains(*s, old) {
		panic("the test's text to replace is not there: " + old)
	}
	*s = strings.Replace(*s, old, with, 1)
}

func onlyKey(m map[string]*root.TransparencyLog) string {
	for k := range m {
		return k
	}
	return ""
}

type statementFault struct {
	name, statement string
	want            Code
}

// statementFaults are statements of which one part is wrong; "" is what is right nevertheless.
func statementFaults() []statementFault {
	right := `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"` + testFile + `","digest":{"sha256":"` + testSHA256 +
		`"}}],"predicateType":"https://schemas.conda.org/attestations-publish-1.schema.json","predicate":{"targetChannel":"` + testChannel + `"}}`
	subject := `{"name":"` + testFile + `","digest":{"sha256":"` + testSHA256 + `"}}`
	with := func(old, new string) string {
		if !strings.Contains(right, old) {
			panic("not in the statement: " + old)
		}
		return strings.Replace(right, old, new, 1)
	}
	predicate := `{"targetChannel":"` + testChannel + `"}`
	digest := `{"sha256":"` + testSHA256 + `"}`
	return []statementFault{
		{"right", right, ""},
		{"null predicate", with(predicate, "null"), ""},
		{"no predicate", with(`,"predicate":`+predicate, ""), ""},
		{"more in the predicate", with(predicate, `{"targetChannel":"`+testChannel+`","x":1}`), ""},
		{"blanks", strings.ReplaceAll(right, ":{", ": {"), ""},
		{"not JSON", "foo", CodeStatementMalformed},
		{"empty", " ", CodeStatementMalformed},
		{"array", "[" + right + "]", CodeStatementMalformed},
		{"something after it", right + "{}", CodeStatementMalformed},
		{"type twice", with(`{"_type"`, `{"_type":"https://in-toto.io/Statement/v1","_type"`), CodeStatementMalformed},
		{"subject twice", with(`,"predicateType"`, `,"subject":[`+subject+`],"predicateType"`), CodeStatementMalformed},
		{"digest twice", with(digest, `{"sha256":"`+testSHA256+`","sha256":"`+testSHA256+`"}`), CodeStatementMalformed},
		{"type v0.1", with("Statement/v1", "Statement/v0.1"), CodeStatementType},
		{"predicate type", with("publish-1", "publish-2"), CodeStatementPredicateType},
		{"predicate type's case", with("schemas.conda.org", "Schemas.conda.org"), CodeStatementPredicateType},
		{"no subject", with("["+subject+"]", "[]"), CodeStatementSubjectCount},
		{"two subjects", with("["+subject+"]", "["+subject+","+subject+"]"), CodeStatementSubjectCount},
		{"other name", with(testFile, "bar-1.0-h0_0.conda"), CodeStatementSubjectName},
		{"name with subdir", with(testFile, "noarch/"+testFile), CodeStatementSubjectName},
		{"no digest", with(digest, "{}"), CodeStatementDigestSet},
		{"sha512 as well", with(digest, `{"sha256":"`+testSHA256+`","sha512":"00"}`), CodeStatementDigestSet},
		{"digest upper case", with(testSHA256, strings.ToUpper(testSHA256)), CodeStatementDigestSet},
		{"digest short", with(testSHA256, testSHA256[1:]), CodeStatementDigestSet},
		{"other digest", with(testSHA256, strings.Repeat("0", 64)), CodeStatementDigestMismatch},
		{"empty predicate", with(predicate, "{}"), CodeStatementPredicate},
		{"channel is no string", with(predicate, `{"targetChannel":1}`), CodeStatementPredicate},
		{"trailing slash", with(testChannel, testChannel+"/"), CodeStatementPredicate},
		{"channel is no URL", with(testChannel, "acme"), CodeStatementPredicate},
	}
}

func TestParseStatement(t *testing.T) {
	t.Parallel()
	for _, tt := range statementFaults() {
		c, err := parseStatement([]byte(tt.statement))
		switch tt.name {
		case "other name", "other digest", "name with subdir": // the form is right
			wantCode(t, err, "")
		default:
			wantCode(t, err, tt.want)
		}
		if tt.name == "right" && (c.Subject != testSubject() || c.TargetChannel == nil || *c.TargetChannel != testChannel) {
			t.Errorf("read %+v", c)
		}
	}
	// Only what encoding/json would let through: sigstore-go refuses these by itself.
	for statement, want := range map[string]Code{
		`{"_TYPE":"https://in-toto.io/Statement/v1"}`: CodeStatementType,
		`{"_type":"\xff"}`:                            CodeStatementMalformed,
		`{"_type":` + strings.Repeat("[", strictjson.MaxDepth+1) + strings.Repeat("]", strictjson.MaxDepth+1) + "}": CodeStatementMalformed,
		`{"_type":"https://in-toto.io/Statement/v1"`:                                                                CodeStatementMalformed,
		`{"_type" "https://in-toto.io/Statement/v1"}`:                                                               CodeStatementMalformed,
		`{"a":1,}`: CodeStatementMalformed,
	} {
		_, err := parseStatement([]byte(statement))
		wantCode(t, err, want)
	}
}
