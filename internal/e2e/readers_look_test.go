package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/vmihailenco/msgpack/v5"
)

// fields is a record as it stands, whoever wrote it. Numbers are float64; bytes, which only shards have, are "0x" and hex.
type fields = map[string]any

// view is all records of a channel on disk, by "subdir/file name", from each of its three forms. It is read with decoders that
// share nothing with Hallmark's own.
type view struct {
	json, zst, shards map[string]fields
}

func look(t testing.TB, channel string) view {
	t.Helper()
	v := view{map[string]fields{}, map[string]fields{}, map[string]fields{}}
	for _, sub := range subdirs(t, channel) {
		dir := filepath.Join(channel, sub)
		v.document(t, v.json, sub, read(t, filepath.Join(dir, "repodata.json")))
		if b, err := os.ReadFile(filepath.Join(dir, "repodata.json.zst")); err == nil {
			v.document(t, v.zst, sub, inflate(t, b))
		}
		b, err := os.ReadFile(filepath.Join(dir, "repodata_shards.msgpack.zst"))
		if err != nil {
			continue
		}
		index := unpack(t, inflate(t, b))
		base, _ := index["info"].(fields)["shards_base_url"].(string)
		for name, digest := range index["shards"].(fields) {
			digest := strings.TrimPrefix(digest.(string), "0x")
			b := read(t, filepath.Join(dir, filepath.FromSlash(base), digest+".msgpack.zst"))
			if d := sha256.Sum256(b); hex.EncodeToString(d[:]) != digest {
				t.Errorf("%s/%s: the shard is not what its digest says", sub, name)
			}
			for file, record := range packagesOf(unpack(t, inflate(t, b))) {
				if record["name"] != name {
					t.Errorf("%s/%s is in the shard of %s", sub, file, name)
				}
				v.shards[sub+"/"+file] = record
			}
		}
	}
	return v
}

func (v view) document(t testing.TB, into map[string]fields, sub string, b []byte) {
	t.Helper()
	var doc fields
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatalf("%s: %v", sub, err)
	}
	for file, record := range packagesOf(doc) {
		into[sub+"/"+file] = record
	}
}

func packagesOf(doc fields) map[string]fields {
	out := map[string]fields{}
	for _, key := range []string{"packages", "packages.conda"} {
		m, _ := doc[key].(fields)
		for file, record := range m {
			out[file] = record.(fields)
		}
	}
	return out
}

func inflate(t testing.TB, b []byte) []byte {
	t.Helper()
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	out, err := d.DecodeAll(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func unpack(t testing.TB, b []byte) fields {
	t.Helper()
	var v any
	d := msgpack.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return plain(v).(fields)
}

// plain makes of what msgpack decodes what JSON would have given, but for bytes.
func plain(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			v[k] = plain(x)
		}
		return v
	case []any:
		for i, x := range v {
			v[i] = plain(x)
		}
		return v
	case []byte:
		return "0x" + hex.EncodeToString(v)
	}
	if n := reflect.ValueOf(v); n.CanInt() {
		return float64(n.Int())
	} else if n.CanUint() {
		return float64(n.Uint())
	}
	return v
}

// agree: the three forms have the same n records, every one of them attested. Digests are bytes in shards; run exports are
// there alone (CEP 21).
func (v view) agree(t testing.TB, n int) {
	t.Helper()
	if len(v.json) != n {
		t.Errorf("%d records, want %d", len(v.json), n)
	}
	if d := cmp.Diff(v.json, v.zst); d != "" {
		t.Errorf("repodata.json and .zst differ: %s", d)
	}
	shards := map[string]fields{}
	for k, record := range v.shards {
		record = maps.Clone(record)
		delete(record, "run_exports")
		for _, f := range []string{"sha256", "md5", "attestations_sha256"} {
			raw, ok := record[f].(string)
			if record[f] = strings.TrimPrefix(raw, "0x"); !ok || record[f] == raw {
				t.Errorf("%s: %s is no bytes: %q", k, f, raw)
			}
		}
		shards[k] = record
	}
	plain := map[string]fields{}
	for k, record := range v.json {
		plain[k] = maps.Clone(record)
		delete(plain[k], "run_exports")
	}
	if d := cmp.Diff(plain, shards); d != "" {
		t.Errorf("repodata.json and shards differ: %s", d)
	}
}

// difference is one way in which a foreign writer's records differ from what was there before.
type difference struct {
	form  string // json or shards
	ext   string // .conda or .tar.bz2
	field string
	what  string // dropped, added or changed
}

func (d difference) String() string {
	return strings.Join([]string{d.form, d.ext, d.field, d.what}, " ")
}

// differ tells how records changed, with an example of each difference. Records that came or went are field "".
func differ(before, after view) map[difference]string {
	out := map[difference]string{}
	for form, pair := range map[string][2]map[string]fields{"json": {before.json, after.json}, "shards": {before.shards, after.shards}} {
		for _, key := range slices.Sorted(maps.Keys(pair[0])) {
			ext := ".conda"
			if strings.HasSuffix(key, ".tar.bz2") {
				ext = ".tar.bz2"
			}
			was, is := pair[0][key], pair[1][key]
			if is == nil {
				out[difference{form, ext, "", "dropped"}] = key
				continue
			}
			for f := range was {
				switch x, ok := is[f]; {
				case !ok:
					out[difference{form, ext, f, "dropped"}] = fmt.Sprintf("%s: %v", key, was[f])
				case !cmp.Equal(was[f], x):
					out[difference{form, ext, f, "changed"}] = fmt.Sprintf("%s: %v is %v", key, was[f], x)
				}
			}
			for f, x := range is {
				if _, ok := was[f]; !ok {
					out[difference{form, ext, f, "added"}] = fmt.Sprintf("%s: %v", key, x)
				}
			}
		}
		for key := range pair[1] {
			if pair[0][key] == nil {
				out[difference{form, filepath.Ext(key), "", "added"}] = key
			}
		}
	}
	return out
}

// expect fails for differences that are not known, and for known ones that are none any more.
func expect(t testing.TB, got map[difference]string, known map[difference]string) {
	t.Helper()
	for d, example := range got {
		if _, ok := known[d]; !ok {
			t.Errorf("%s, as in %s", d, example)
		}
	}
	for d, reason := range known {
		if _, ok := got[d]; !ok {
			t.Errorf("no longer: %s (%s)", d, reason)
		}
	}
}

func hexSHA256(b []byte) string {
	d := sha256.Sum256(b)
	return hex.EncodeToString(d[:])
}
