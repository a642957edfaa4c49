package conda

import (
	"encoding/json"
	"errors"
	"testing"
)

func TestRunExports(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                                   `{}`,
		"{}":                                 `{}`,
		"[]":                                 `{"weak":[]}`,
		`["b >=1", "a <2"]`:                  `{"weak":["b >=1","a <2"]}`, // the order is the package's
		`{"weak": ["a"], "strong": ["<b>"]}`: `{"strong":["<b>"],"weak":["a"]}`,
		`{"schema_version": 2, "weak": null, "noarch": ["n"], "strong_constrains": ["s"], "weak_constrains": ["w"], "other": {"x": 1}}`: `{"noarch":["n"],"strong_constrains":["s"],"weak_constrains":["w"]}`,
		" \n[\"a\"]\n": `{"weak":["a"]}`,
	} {
		got, err := RunExports([]byte(in))
		if err != nil || string(got) != want {
			t.Errorf("%s: got %s, want %s: %v", in, got, want, err)
		}
	}
	for _, in := range []string{
		" ", "null", `"a"`, "1", "[1]", "[null]", `{"weak": "a"}`, `{"weak": {"a": 1}}`, `{"strong": [["a"]]}`, `{"weak": ["a"], "weak": ["b"]}`,
		`["a"] ["b"]`, `["a"`, "[\"\xff\"]", `["\ud800"]`, `{"weak": ["a"],}`, "[NaN]", "\ufeff[]",
	} {
		got, err := RunExports([]byte(in))
		if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeRunExportsInvalid || got != nil {
			t.Errorf("%q: %s, %v", in, got, err)
		}
	}
}

func FuzzRunExports(f *testing.F) {
	for _, s := range []string{`["a"]`, `{"weak": ["a >=1"], "strong": []}`, `{"x": 1}`, `[1]`, `{"weak": ["\ud83d\ude00"]}`, ``} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		out, err := RunExports(raw)
		if err != nil {
			if _, ok := errors.AsType[*Error](err); !ok {
				t.Fatalf("untyped: %v", err)
			}
			return
		}
		again, err := RunExports(out)
		if err != nil || string(again) != string(out) {
			t.Fatalf("%s becomes %s: %v", out, again, err)
		}
		var m map[string][]string
		if err := json.Unmarshal(out, &m); err != nil {
			t.Fatal(err)
		}
	})
}
