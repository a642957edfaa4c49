package strictjson

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestDecode(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`{"b":1e400,"a":-0.10,"\u0041":"\ud83d\ude00\\ud800"}`: `{"A":"😀\\ud800","a":-0.10,"b":1e400}`,
		"  {} \n":                       `{}`,
		`{"a":{"x":[true,false,null]}}`: `{"a":{"x":[true,false,null]}}`,
		`{"<&>":"<&>"}`:                 `{"<&>":"<&>"}`,
	} {
		v, err := Decode([]byte(in))
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		var got bytes.Buffer
		e := json.NewEncoder(&got)
		e.SetEscapeHTML(false)
		if err := e.Encode(v); err != nil || got.String() != want+"\n" {
			t.Errorf("%s: got %s, want %s: %v", in, got.String(), want, err)
		}
	}
	for _, in := range []string{
		"", "{", `{"a"`, `{"a":`, `{"a":1`, `{"a":1,}`, `{a:1}`, `{"a":1 "b":2}`, "[1,]", "[1 2]", "01", "1.", "+1", ".5", "NaN", "Infinity", "-Infinity", "'a'",
		`{"a":1}{"b":2}`, `{} x`, `{"a":1,"a":1}`, `{"a":1,"\u0061":2}`, `{"x":[{"k":1,"k":2}]}`, "\ufeff{}", "{\"a\":\"\xc3\"}",
		`"\ud800"`, `"\udc00"`, `"\ud800\ud800"`, `"\ud800x\udc00"`, `"\uD83D"`, "\"\x01\"", `"\x"`, `"\u12"`, `/* */ {}`,
		strings.Repeat("[", MaxDepth+2) + strings.Repeat("]", MaxDepth+2), strings.Repeat("[", 1<<20),
	} {
		if v, err := Decode([]byte(in)); err == nil {
			t.Errorf("%.60q passes as %v", in, v)
		}
	}
}

func TestDecodeObject(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"[]": "is an array", `"a"`: "is a string", "1": "is a number", "true": "is a boolean", "null": "is null",
	} {
		if _, err := DecodeObject([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", in, err, want)
		}
	}
	if o, err := DecodeObject([]byte(`{"a":1}`)); err != nil || o["a"] != json.Number("1") {
		t.Errorf("%v, %v", o, err)
	}
}

// FuzzDecode: what passes means the same to encoding/json.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{"a":[1,"x",null]}`, `{"a":1,"a":2}`, `"\ud83d\ude00"`, `[[[]]]`, `{"a":1e400}`, "\xff"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		v, err := Decode(raw)
		if err != nil {
			return
		}
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		var std any
		if err := d.Decode(&std); err != nil || !reflect.DeepEqual(v, std) {
			t.Fatalf("%q is %v here and %v there (%v)", raw, v, std, err)
		}
	})
}
