package attest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestSplit(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		sidecar string
		want    []string
	}{
		{"[]", nil},
		{" [ \n] \n", nil},
		{`[{}]`, []string{`{}`}},
		{"[{ \"a\" : [1, {\"]\":\"}\"}] } ,\r\n\t{}]\n", []string{`{ "a" : [1, {"]":"}"}] }`, `{}`}},
		{`[{"a":"\"},{\\"},{"b":"\u005c\\\\"}]`, []string{`{"a":"\"},{\\"}`, `{"b":"\u005c\\\\"}`}},
	} {
		elements, err := Split([]byte(tt.sidecar))
		if err != nil || len(elements) != len(tt.want) {
			t.Errorf("%s: %d elements, %v", tt.sidecar, len(elements), err)
			continue
		}
		for i, want := range tt.want {
			if string(elements[i]) != want {
				t.Errorf("%s: element %d is %s", tt.sidecar, i, elements[i])
			}
		}
	}
	for sidecar, want := range map[string]Code{
		"": CodeSidecarMalformed, " ": CodeSidecarMalformed, "{}": CodeSidecarMalformed, "null": CodeSidecarMalformed,
		"[": CodeSidecarMalformed, "[{}": CodeSidecarMalformed, "[{},]": CodeSidecarMalformed, "[{}{}]": CodeSidecarMalformed,
		"[1]": CodeSidecarMalformed, "[{},[]]": CodeSidecarMalformed, "[null]": CodeSidecarMalformed, `["{}"]`: CodeSidecarMalformed,
		"[{}][{}]": CodeSidecarMalformed, "[{}]x": CodeSidecarMalformed, "[{}]\x00": CodeSidecarMalformed, "\ufeff[{}]": CodeSidecarMalformed,
		"[" + strings.Repeat("{},", maxElements) + "{}]": CodeSidecarMalformed,
		"[" + strings.Repeat(" ", MaxSidecar) + "]":      CodeSidecarTooLarge,
	} {
		_, err := Split([]byte(sidecar))
		if wantCode(t, err, want); t.Failed() {
			t.Fatalf("%.40q", sidecar)
		}
	}
}

func TestAppend(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		sidecar, bundle, want string
		added                 bool
	}{
		{"", " {\"b\" : 1}\n", `[{"b" : 1}]`, true},
		{"[]", "{}", "[{}]", true},
		{" [ ] \n", "{}", " [{} ] \n", true},
		{`[{"a":1}]`, `{"b":1}`, `[{"a":1},{"b":1}]`, true},
		{"[\n  {\"z\":1, \"a\":\"<>\\u0026\"}\n]\n", `{"b":1}`, "[\n  {\"z\":1, \"a\":\"<>\\u0026\"},{\"b\":1}\n]\n", true},
		{"[ {\"a\":1}, {\"b\":2} ]\n", "\t{\"a\":1}\n", "[ {\"a\":1}, {\"b\":2} ]\n", false},
		{`[{"a":1}]`, `{"a": 1}`, `[{"a":1},{"a": 1}]`, true}, // other bytes are another element
		{`[{"a":1},{"a":1}]`, `{"b":1}`, `[{"a":1},{"a":1},{"b":1}]`, true},
	} {
		sidecar := []byte(tt.sidecar)
		next, added, err := Append(sidecar, []byte(tt.bundle))
		if err != nil || added != tt.added || string(next) != tt.want {
			t.Errorf("%s + %s: %s, %v, %v", tt.sidecar, tt.bundle, next, added, err)
		}
		if string(sidecar) != tt.sidecar {
			t.Errorf("%s was changed to %s", tt.sidecar, sidecar)
		}
	}
	full := "[" + strings.Repeat(`{"a":"`+strings.Repeat("x", 1<<10)+`"},`, 4060) + `{}]` // 4.19 MB of 4.194 MB
	for _, tt := range []struct {
		sidecar, bundle string
		want            Code
	}{
		{"", "", CodeBundleMalformed}, {"", "[]", CodeBundleMalformed}, {"", "[{}]", CodeBundleMalformed},
		{"", "{}{}", CodeBundleMalformed}, {"", "{", CodeBundleMalformed}, {"", "null", CodeBundleMalformed},
		{"", `{"a":1,"a":1}`, CodeBundleMalformed}, {"", `{"a":[{"b":1,"b":1}]}`, CodeBundleMalformed},
		{"", "{},{}", CodeBundleMalformed}, {"", "{}]", CodeBundleMalformed}, {"", "{\"\xff\":1}", CodeBundleMalformed},
		{"", `{"a":"` + strings.Repeat("x", MaxBundle) + `"}`, CodeBundleTooLarge},
		{"{}", "{}", CodeSidecarMalformed}, {"[1]", "{}", CodeSidecarMalformed}, {"[{}]]", "{}", CodeSidecarMalformed}, {"\n", "{}", CodeSidecarMalformed},
		{full, `{"a":"` + strings.Repeat("y", 1<<16) + `"}`, CodeSidecarTooLarge},
		{"[" + strings.Repeat("{},", maxElements-1) + "{}]", `{"a":1}`, CodeSidecarMalformed},
	} {
		next, added, err := Append([]byte(tt.sidecar), []byte(tt.bundle))
		if wantCode(t, err, tt.want); t.Failed() || added || next != nil {
			t.Fatalf("%.40s + %.40s: %.40s, %v, %v", tt.sidecar, tt.bundle, next, added, err)
		}
	}
}

func TestAppendRealBundle(t *testing.T) {
	t.Parallel()
	sidecar := corpus(t, actionlintFile+".v0.sigs")
	b := encode(t, forgeOf(t).sign(t, order{}))
	next, added, err := Append(sidecar, b)
	if err != nil || !added {
		t.Fatal(added, err)
	}
	was, err := Split(sidecar)
	if err != nil {
		t.Fatal(err)
	}
	is, err := Split(next)
	if err != nil || len(is) != 2 || !bytes.Equal(is[0], was[0]) || !bytes.Equal(is[1], b) {
		t.Errorf("%d elements, %v", len(is), err)
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	f := forgeOf(t)
	v := f.verifier(t, nil)
	policy := allow(testIdentity, testIssuer)
	good, bad := encode(t, f.sign(t, order{})), encode(t, f.sign(t, order{noTimestamp: true}))
	other := encode(t, f.sign(t, order{identities: []string{testIdentity + "2"}}))
	sidecar := fmt.Appendf(nil, "[ {} ,%s,\n%s, %s,%s]\n", bad, other, good, good)

	b, r, err := Find(sidecar, v, testSubject(), policy)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, good) || !r.Verified || r.BundleSHA256 != hexSHA256(good) {
		t.Errorf("found %s", b)
	}
	want := []Code{CodeBundleMalformed, CodeTimestamp, CodeIdentityMismatch}
	if len(r.Refused) != len(want) {
		t.Fatalf("refused %+v", r.Refused)
	}
	for i, code := range want {
		if r.Refused[i].Index != i {
			t.Errorf("refused %d has the index %d", i, r.Refused[i].Index)
		}
		wantCode(t, r.Refused[i].Err, code)
	}

	_, r, err = Find(fmt.Appendf(nil, "[%s,%s]", bad, other), v, testSubject(), policy)
	wantCode(t, err, CodeSidecarNoMatch)
	if r != nil || !strings.Contains(err.Error(), string(CodeTimestamp)) || !strings.Contains(err.Error(), string(CodeIdentityMismatch)) {
		t.Errorf("result %v, error %v", r, err)
	}
	for sidecar, want := range map[string]Code{"": CodeSidecarNoMatch, "[]": CodeSidecarNoMatch, "{}": CodeSidecarMalformed} {
		_, _, err := Find([]byte(sidecar), v, testSubject(), policy)
		wantCode(t, err, want)
	}
	_, _, err = Find(sidecar, v, testSubject(), Policy{})
	wantCode(t, err, CodePolicyEmpty)
	_, _, err = Find(sidecar, v, Subject{}, policy)
	wantCode(t, err, CodeFilename)
}

func FuzzSplitAppend(f *testing.F) {
	f.Add([]byte(`[ {"a":"]}\"\\"} , {}]`+"\n"), []byte(`{"b":1}`))
	f.Add([]byte(""), []byte(" {} "))
	f.Add([]byte("[]"), []byte("{}"))
	f.Add([]byte("[{}]"), []byte("{}"))
	f.Fuzz(func(t *testing.T, sidecar, bundle []byte) {
		before, err := Split(sidecar)
		if err == nil {
			// The elements are what encoding/json, too, takes for them.
			var list []json.RawMessage
			if err := json.Unmarshal(sidecar, &list); err != nil || len(list) != len(before) {
				t.Fatalf("%d elements; encoding/json: %d, %v", len(before), len(list), err)
			}
			for i := range list {
				if !bytes.Equal(bytes.Trim(list[i], jsonSpace), before[i]) {
					t.Fatalf("element %d is %s; encoding/json: %s", i, before[i], list[i])
				}
			}
		}
		next, added, err := Append(sidecar, bundle)
		if err != nil {
			if _, ok := errors.AsType[*Error](err); !ok {
				t.Fatalf("an error without a code: %v", err)
			}
			return
		}
		after, err := Split(next)
		if err != nil {
			t.Fatalf("Append made what Split refuses: %v", err)
		}
		if !added {
			if !bytes.Equal(next, sidecar) {
				t.Fatal("nothing added, but other bytes")
			}
			return
		}
		if len(after) != len(before)+1 {
			t.Fatalf("%d elements after %d", len(after), len(before))
		}
		for i := range before {
			if !bytes.Equal(after[i], before[i]) {
				t.Fatalf("element %d was changed", i)
			}
		}
		if last := after[len(before)]; !bytes.Equal(last, bytes.Trim(bundle, jsonSpace)) {
			t.Fatalf("the new element is %s", last)
		}
		if again, added, err := Append(next, bundle); err != nil || added || !bytes.Equal(again, next) {
			t.Fatalf("a second time: %v, %v", added, err)
		}
	})
}
