package channel

import (
	"bytes"
	"encoding/json"
	"errors"
	"iter"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vmihailenco/msgpack/v5"
)

// FuzzRepodata: whatever can be read has the same meaning when it is written, and is then written the same again.
func FuzzRepodata(f *testing.F) {
	for _, s := range []string{"", " \n", "{}", "[]", "{", `{"packages":null,"packages.conda":{}}`, `{"packages":{"a":{}},"packages":{}}`,
		`{"packages":{"a":{},"\u0061":{}}}`, `{"packages":{"a":[]}}`, `{"removed":["a"],"x":[1,{"y":"\"}"}]}`, `{"removed":{}}`,
		"\xef\xbb\xbf{}", `{"v3":{"conda":{"b":{},"a":{}},"whl":null},"packages":{"b":{},"a":{}}}`, `{"info":{"repodata_revisions":{"v3":{"n_packages":1}}}}`, `{"packages":{"a\\":{"b":"c\\\"}"}}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		write := func(b []byte, pieces iter.Seq2[piece, error]) ([]byte, error) {
			d := newDelta(t.TempDir())
			defer d.close()
			var out bytes.Buffer
			err := (&merging{delta: d, listRemoved: true, settle: settleRecord, amend: announceV3}).merge(pieces, &out)
			return out.Bytes(), err
		}
		out, err := write(b, walk(bytes.NewReader(b)))
		if errors.Is(err, errUnsorted) {
			out, err = write(b, sorted(t.TempDir(), walk(bytes.NewReader(b))))
		}
		if err != nil {
			return
		}
		again, err := write(out, walk(bytes.NewReader(out)))
		if err != nil {
			t.Fatalf("cannot read what was written: %v\n%s", err, out)
		}
		if !bytes.Equal(again, out) {
			t.Fatal("written again, it differs")
		}
		var before, after map[string]any
		if len(bytes.TrimSpace(b)) == 0 {
			b = []byte("{}")
		}
		if json.Unmarshal(b, &before) != nil || json.Unmarshal(out, &after) != nil {
			t.Fatal("no longer JSON")
		}
		for _, k := range []string{"packages", "packages.conda", "v3"} {
			if _, ok := before[k]; before[k] == nil && (ok || k != "v3") {
				before[k] = map[string]any{}
			}
		}
		if m, ok := before["v3"].(map[string]any); ok {
			for k, v := range m {
				if v == nil {
					m[k] = map[string]any{}
				}
			}
		}
		delete(before, "info") // see TestV3
		delete(after, "info")
		if d := cmp.Diff(before, after); d != "" {
			t.Fatal(d)
		}
	})
}

func FuzzShard(f *testing.F) {
	for _, v := range []any{
		map[string]any{"packages": map[string]any{"a-1-0.tar.bz2": map[string]any{"name": "a", "sha256": []byte{1}}}, "packages.conda": map[string]any{}, "removed": []string{"x"}},
		map[string]any{"packages": nil, "x": 1.5}, []any{}, map[int]int{1: 2}, nil,
	} {
		b, err := msgpack.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add(bytes.Repeat([]byte{0x91}, 100000))
	f.Add([]byte{0x81, 0xa1, 'x', 0xdd, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseShard(b)
		if err != nil {
			return
		}
		out := s.encode()
		again, err := parseShard(out)
		if err != nil {
			t.Fatalf("cannot read what was written: %v", err)
		}
		if !bytes.Equal(again.encode(), out) {
			t.Fatal("written again, it differs")
		}
		for in, ms := range s.records {
			if len(again.records[in]) != len(ms) {
				t.Fatal("records were lost")
			}
		}
		_, _ = s.removed()
		for _, packed := range s.files() {
			fields, err := splitMap(packed)
			if err != nil {
				continue // kept as it is, but nothing can be said of it
			}
			digestField(fields, "sha256")
			if raw, exports, err := unpackRecord(packed); err == nil && (!json.Valid(raw) || exports != nil && !json.Valid(exports)) {
				t.Fatalf("not JSON: %q %q", raw, exports)
			}
			sha := strings.Repeat("ab", 32)
			next, err := splitMap(joinMap(nil, setMember(fields, attestations, appendDigest(nil, sha))))
			if err != nil || digestField(next, attestations) != sha {
				t.Fatalf("%v: it says %q", err, digestField(next, attestations))
			}
			if len(next) < len(fields) || len(next) > len(fields)+1 {
				t.Fatalf("%d fields became %d", len(fields), len(next))
			}
		}
	})
}

func FuzzShardIndex(f *testing.F) {
	for _, v := range []any{
		map[string]any{"version": 1, "info": map[string]any{"base_url": "", "shards_base_url": "./shards/"}, "shards": map[string]any{"a": make([]byte, 32)}},
		map[string]any{"info": map[string]any{"shards_base_url": "../../x/"}, "shards": map[string]any{}},
		map[string]any{"version": 2}, map[string]any{"shards": map[string]any{"a": []byte{1}}},
	} {
		b, err := msgpack.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := parseShardIndex("linux-64", b)
		if err != nil {
			return
		}
		for _, h := range x.shards {
			if k := x.key(h); strings.HasPrefix(k, "/") || strings.Contains("/"+k+"/", "/../") {
				t.Fatalf("a shard at %s", k)
			}
		}
		n, raw := x.with("linux-64", map[string]hash{"new": {1}}, clock()())
		again, err := parseShardIndex("linux-64", raw)
		if err != nil {
			t.Fatalf("cannot read what was written: %v", err)
		}
		if d := cmp.Diff(n.shards, again.shards); d != "" || len(again.shards) < len(x.shards) {
			t.Fatal(d)
		}
		if again.folder != x.folder {
			t.Fatalf("the shards moved from %s to %s", x.folder, again.folder)
		}
	})
}

// FuzzSetJSON: a field that is put into a record leaves the others as they were.
func FuzzSetJSON(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":1}`, `{ "z" : "attestations_sha256" }`, `{"attestations_sha256": null , "b":{}}`, `{"attestations_sha25\u0036":"x"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if !json.Valid(b) {
			return
		}
		ms, err := splitObject(b)
		if err != nil || sortMembers(append([]member{}, ms...)) != nil {
			return
		}
		out := setJSON(b, ms, attestations, []byte(`"new"`))
		var before, after map[string]any
		if err := json.Unmarshal(b, &before); err != nil {
			return // invalid for another reason: too deep
		}
		if err := json.Unmarshal(out, &after); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		before[attestations] = "new"
		if d := cmp.Diff(before, after); d != "" {
			t.Fatal(d)
		}
	})
}
