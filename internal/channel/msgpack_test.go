package channel

import (
	"encoding/hex"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vmihailenco/msgpack/v5"
)

func TestNumbersAreExactAndSmall(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"0": "00", "127": "7f", "128": "cc80", "255": "ccff", "256": "cd0100", "65535": "cdffff", "65536": "ce00010000",
		"4294967295": "ceffffffff", "4294967296": "cf0000000100000000", "18446744073709551615": "cfffffffffffffffff",
		"-1": "ff", "-32": "e0", "-33": "d0df", "-128": "d080", "-129": "d1ff7f", "-32768": "d18000", "-32769": "d2ffff7fff",
		"-2147483649": "d3ffffffff7fffffff", "-9223372036854775808": "d38000000000000000",
		"1.5": "cb3ff8000000000000", "1.0": "cb3ff0000000000000", "1e2": "cb4059000000000000",
	} {
		b, err := appendNumber(nil, in)
		if err != nil || hex.EncodeToString(b) != want {
			t.Errorf("%s: %x, %v; want %s", in, b, err, want)
		}
		v, err := decodeValue(b)
		if n, ok := v.(json.Number); err != nil || !ok || string(n) != in && in != "1e2" {
			t.Errorf("%s came back as %v, %v", in, v, err)
		}
	}
	for _, in := range []string{"18446744073709551616", "-9223372036854775809", "1e999"} {
		if b, err := appendNumber(nil, in); err == nil {
			t.Errorf("%s became %x", in, b)
		}
	}
}

func TestAnotherLibraryReadsWhatIsWritten(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 70000)
	list := make([]any, 70000)
	for i := range list {
		list[i] = json.Number("-5")
	}
	big := map[string]any{}
	for i := range 40 {
		big[strings.Repeat("k", i)] = true
	}
	in := map[string]any{
		"nil": nil, "true": true, "false": false, "s": "ü", "s31": strings.Repeat("y", 31), "s32": strings.Repeat("y", 32),
		"s256": strings.Repeat("y", 256), "long": long, "bytes": []byte{1, 2}, "bytes300": make([]byte, 300),
		"list": list, "empty": []any{}, "map": big, "none": map[string]any{},
	}
	b, err := appendValue(nil, in, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := msgpack.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	for i := range list {
		list[i] = int8(-5)
	}
	if d := cmp.Diff(in, out); d != "" {
		t.Error(d)
	}
	again, err := appendValue(nil, in2(in), 0)
	if err != nil || string(again) != string(b) {
		t.Errorf("the same value gave other bytes: %v", err)
	}
}

func in2(in map[string]any) map[string]any {
	out := map[string]any{}
	for k, v := range in {
		out[k] = v
	}
	list := make([]any, 70000)
	for i := range list {
		list[i] = json.Number("-5")
	}
	out["list"] = list
	return out
}

func TestWhatAnotherLibraryWritesIsRead(t *testing.T) {
	t.Parallel()
	in := map[string]any{
		"f32": float32(1.5), "u8": uint8(200), "u64": uint64(math.MaxUint64), "i8": int8(-100), "i16": int16(-1000), "i32": int32(-100000),
		"i64": int64(math.MinInt64), "b": []byte("x"), "s": strings.Repeat("s", 300), "l": []any{nil, true}, "m": map[string]any{"k": "v"},
	}
	b, err := msgpack.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeValue(b)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"f32": json.Number("1.5"), "u8": json.Number("200"), "u64": json.Number("18446744073709551615"), "i8": json.Number("-100"),
		"i16": json.Number("-1000"), "i32": json.Number("-100000"), "i64": json.Number("-9223372036854775808"),
		"b": []byte("x"), "s": in["s"], "l": in["l"], "m": in["m"],
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if n, err := sizeOf(b, 0); err != nil || n != len(b) {
		t.Errorf("size %d of %d, %v", n, len(b), err)
	}
}

func TestDigestsAsOthersWriteThem(t *testing.T) {
	t.Parallel()
	sha := strings.Repeat("0123456789abcdef", 4)
	raw, _ := hex.DecodeString(sha)
	numbers := make([]any, len(raw))
	for i, x := range raw {
		numbers[i] = int(x)
	}
	for name, v := range map[string]any{
		"bytes": raw, "text": sha, "capitals": strings.ToUpper(sha), "text as bytes": []byte(sha), "bytes as text": string(raw), "numbers": numbers,
	} {
		b, err := msgpack.Marshal(map[string]any{"sha256": v})
		if err != nil {
			t.Fatal(err)
		}
		fields, err := splitMap(b)
		if err != nil {
			t.Fatal(err)
		}
		if got := digestField(fields, "sha256"); got != sha {
			t.Errorf("%s: %s", name, got)
		}
	}
	for _, v := range []any{[]any{300}, []any{"x"}, map[string]any{}, true} {
		b, _ := msgpack.Marshal(map[string]any{"sha256": v})
		fields, _ := splitMap(b)
		if got := digestField(fields, "sha256"); got != "" {
			t.Errorf("%v: %s", v, got)
		}
	}
}
