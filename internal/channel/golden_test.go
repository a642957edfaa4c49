package channel

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vmihailenco/msgpack/v5"
)

var rewrite = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	p := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s: %s", name, d)
	}
}

// readable shows msgpack, as another library reads it, as JSON: bytes as {"bytes": hex}.
func readable(t *testing.T, b []byte) []byte {
	t.Helper()
	var v any
	if err := msgpack.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	var show func(v any) any
	show = func(v any) any {
		switch v := v.(type) {
		case []byte:
			return map[string]string{"bytes": fmt.Sprintf("%x", v)}
		case map[string]any:
			for k, e := range v {
				v[k] = show(e)
			}
		case []any:
			for i, e := range v {
				v[i] = show(e)
			}
		}
		return v
	}
	out, err := json.MarshalIndent(show(v), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(out, '\n')
}

func TestGolden(t *testing.T) {
	t.Parallel()
	o := Options{Now: func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC) }}
	m := newMemory()
	c := New(m, o)
	one, two := newPack("numpy", "2.1.0", ".conda"), newPack("numpy", "1!1.9+local", ".tar.bz2")
	update(t, c, "linux-64", one.upload(t, c, "linux-64", 0), two.upload(t, c, "linux-64", 0))
	golden(t, "repodata.json", m.get(t, "linux-64/repodata.json"))
	golden(t, "noarch.json", m.get(t, "noarch/repodata.json"))
	golden(t, "shard_index.txt", readable(t, unzstd(t, m.get(t, "linux-64/repodata_shards.msgpack.zst"))))
	x, err := c.loadIndex(t.Context(), c.subdir("linux-64"), 0)
	if err != nil {
		t.Fatal(err)
	}
	raw := unzstd(t, m.get(t, x.key(x.shards["numpy"])))
	golden(t, "shard.txt", readable(t, raw))

	// The same records give the same bytes, whatever was written before and in whichever order they came.
	other := newMemory()
	c = New(other, o)
	for i := range 20 {
		update(t, c, "win-64", newPack(fmt.Sprintf("x%d", i), "1", ".conda").upload(t, c, "win-64", 0))
	}
	update(t, c, "linux-64", two.upload(t, c, "linux-64", 0))
	update(t, c, "linux-64", one.upload(t, c, "linux-64", 0))
	if d := cmp.Diff(string(m.get(t, "linux-64/repodata.json")), string(other.get(t, "linux-64/repodata.json"))); d != "" {
		t.Error(d)
	}
	for _, k := range []string{"linux-64/repodata.json.zst", "linux-64/repodata_shards.msgpack.zst", x.key(x.shards["numpy"])} {
		if string(other.get(t, k)) != string(m.get(t, k)) {
			t.Errorf("%s differs", k)
		}
	}
}
