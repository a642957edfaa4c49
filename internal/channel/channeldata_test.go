package channel

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hallmark-attest/hallmark/internal/conda"
	"github.com/hallmark-attest/hallmark/internal/store"
	"github.com/klauspost/compress/zstd"
)

// realPack makes a .conda that can be looked into.
func realPack(t testing.TB, name, version, subdir string, info map[string]string) pack {
	t.Helper()
	p := newPack(name, version, ".conda")
	files := maps.Clone(info)
	if files == nil {
		files = map[string]string{}
	}
	files["info/index.json"] = fmt.Sprintf(`{"name":%q,"version":%q,"build":"h0_0","build_number":0,"subdir":%q}`, name, version, subdir)
	var tarball bytes.Buffer
	z, err := zstd.NewWriter(&tarball)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	for _, f := range slices.Sorted(maps.Keys(files)) {
		if err := w.WriteHeader(&tar.Header{Name: f, Mode: 0o644, Size: int64(len(files[f])), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(files[f])); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	a := zip.NewWriter(&archive)
	stem := strings.TrimSuffix(p.filename, ".conda")
	for _, e := range []struct {
		name string
		b    []byte
	}{{"metadata.json", []byte(`{"conda_pkg_format_version":2}`)}, {"pkg-" + stem + ".tar.zst", nil}, {"info-" + stem + ".tar.zst", tarball.Bytes()}} {
		f, err := a.CreateHeader(&zip.FileHeader{Name: e.name, Method: zip.Store})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(e.b); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	p.bytes = archive.Bytes()
	return p
}

func merged(t testing.TB, c *Channel, subdirs ...string) bool {
	t.Helper()
	written, err := c.ChannelData(t.Context(), subdirs)
	if err != nil {
		t.Fatal(err)
	}
	return written
}

// entries gives the entries of a channel's document, as their bytes stand in it.
func entries(t testing.TB, m *memory) map[string]string {
	t.Helper()
	raw := m.get(t, "channeldata.json")
	if !json.Valid(raw) {
		t.Errorf("it is not JSON: %s", raw)
	}
	records, _ := selected(t, raw)
	return records
}

func TestChannelData(t *testing.T) {
	t.Parallel()
	m := newMemory()
	c := New(m, Options{Now: clock()})
	link := map[string]string{
		"info/about.json":                   `{"home":"https://a.example","summary":"first\nline","dev_url":["https://dev.example"],"license":"no"}`,
		"info/paths.json":                   `{"paths":[{"_path":"bin/.a-post-link.sh"},{"_path":"lib/x","prefix_placeholder":"/p","file_mode":"binary"},{"_path":"etc/conda/activate.d/x.sh"}]}`,
		"info/recipe/rendered_recipe.yaml":  "finalized_sources:\n- url: https://src.example/a.tar.gz\n",
		"info/recipe/unknown/not-this.yaml": "x",
	}
	update(t, c, "linux-64", realPack(t, "a", "1.10", "linux-64", link).upload(t, c, "linux-64", 0), realPack(t, "b", "1", "linux-64", nil).upload(t, c, "linux-64", 0))
	none := realPack(t, "a", "1.9", "noarch", nil).upload(t, c, "noarch", 0)
	none.RunExports = json.RawMessage(`{}`)
	none.Record = bytes.Replace(none.Record, []byte("1700000000123"), []byte("1800000000999"), 1)
	update(t, c, "noarch", none)
	if !merged(t, c, "linux-64", "noarch") {
		t.Error("nothing was written")
	}
	const falses = `"activate.d":false,"binary_prefix":false,"deactivate.d":false,"license":"MIT","post_link":false,"pre_link":false,"pre_unlink":false,"run_exports":{%s},"subdirs":[%s],"text_prefix":false,"timestamp":%d,"version":%q}`
	b := `{` + fmt.Sprintf(falses, `"1":{"weak":["x >=1"]}`, `"linux-64"`, 1700000000, "1")
	want := `{"channeldata_version":1,
"packages":{
"a":{"activate.d":true,"binary_prefix":true,"deactivate.d":false,"dev_url":"https://dev.example","home":"https://a.example","license":"no","post_link":true,"pre_link":false,"pre_unlink":false,"run_exports":{"1.10":{"weak":["x >=1"]}},"source_url":"https://src.example/a.tar.gz","subdirs":["linux-64","noarch"],"summary":"first line","text_prefix":false,"timestamp":1800000000,"version":"1.10"},
"b":` + b + `
},
"subdirs":["linux-64","noarch"]}
`
	if d := cmp.Diff(want, string(m.get(t, "channeldata.json"))); d != "" {
		t.Error(d)
	}
	got := m.objects["channeldata.json"].options
	got.SHA256 = ""
	if d := cmp.Diff(store.PutOptions{IfNoneMatch: true, ContentType: "application/json", CacheControl: "public, max-age=60"}, got); d != "" {
		t.Error(d)
	}

	// Once more, by a process that remembers nothing, and after a signature: nothing is written, no package is read.
	c = New(m, Options{Now: clock()})
	writes := len(m.writes)
	if merged(t, c, "linux-64", "noarch") || merged(t, c) || len(m.writes) != writes {
		t.Errorf("the second time wrote %q", m.writes[writes:])
	}
	var reads atomic.Int64
	m.before = func(op, key string) error {
		if op == "range" {
			reads.Add(1)
		}
		return nil
	}
	update(t, c, "linux-64", realPack(t, "a", "1.10", "linux-64", link).upload(t, c, "linux-64", 1))
	if merged(t, c, "linux-64") || reads.Load() != 0 {
		t.Errorf("a signature: %d reads", reads.Load())
	}

	// What somebody else put in stays, and an entry of which nothing changes stays byte for byte.
	theirs := strings.Replace(want, `"b":{`, "\"aa\": {\n  \"subdirs\" : [\"win-64\"], \"version\":\"7\"},\n\"b\": {\n \"x\\u0079\": 1.50,\"home\":\"https://b.example\",", 1)
	theirs = strings.Replace(theirs, `{"channeldata_version":1,`, `{"more":[ 1 ],"channeldata_version":1,`, 1)
	theirs = strings.Replace(theirs, `["linux-64","noarch"]}`+"\n", `["linux-64","noarch","win-64"]}`, 1)
	m.set("channeldata.json", []byte(theirs))
	update(t, c, "linux-64", realPack(t, "b", "2", "linux-64", map[string]string{"info/about.json": `{"summary":"new"}`}).upload(t, c, "linux-64", 0),
		realPack(t, "0", "1", "linux-64", nil).upload(t, c, "linux-64", 0), realPack(t, "z", "1", "linux-64", nil).upload(t, c, "linux-64", 0))
	if !merged(t, c, "linux-64") {
		t.Error("nothing was written")
	}
	one := func(version string) string {
		return `{` + fmt.Sprintf(falses, `"`+version+`":{"weak":["x >=1"]}`, `"linux-64"`, 1700000000, version)
	}
	want = strings.Replace(theirs, "\"packages\":{\n", "\"packages\":{\n\"0\":"+one("1")+",\n", 1)
	want = want[:strings.Index(want, `"b": {`)] + `"b":{` + strings.Replace(strings.Replace(fmt.Sprintf(falses, `"1":{"weak":["x >=1"]},"2":{"weak":["x >=1"]}`, `"linux-64"`, 1700000000, "2"),
		`"license"`, `"home":"https://b.example","license"`, 1), `"text_prefix"`, `"summary":"new","text_prefix"`, 1)
	want = strings.TrimSuffix(want, "}") + `,"xy":1.50},` + "\n\"z\":" + one("1") + "\n},\n" + `"subdirs":["linux-64","noarch","win-64"]}` + "\n"
	want = strings.Replace(want, `{"more":[ 1 ],"channeldata`, "{\"more\":[ 1 ],\n\"channeldata", 1)
	want = strings.Replace(want, `"aa": {`, `"aa":{`, 1)
	if d := cmp.Diff(want, string(m.get(t, "channeldata.json"))); d != "" {
		t.Error(d)
	}
	if n := reads.Load(); n != 3 {
		t.Errorf("%d reads, want one for each entry", n)
	}

	// What is removed goes.
	if _, err := c.Remove(t.Context(), "linux-64", []string{"b-1-h0_0.conda", "b-2-h0_0.conda", "a-1.10-h0_0.conda"}, false); err != nil {
		t.Fatal(err)
	}
	if !merged(t, c, "linux-64") {
		t.Error("nothing was written")
	}
	now := entries(t, m)
	if d := cmp.Diff([]string{"0", "a", "aa", "z"}, slices.Sorted(maps.Keys(now))); d != "" {
		t.Error(d)
	}
	var a map[string]any
	if err := json.Unmarshal([]byte(now["a"]), &a); err != nil || a["version"] != "1.9" || fmt.Sprint(a["subdirs"], a["run_exports"]) != "[noarch] map[]" {
		t.Errorf("%s, %v", now["a"], err)
	}
	// A document that is gone is made anew of all that is asked for.
	delete(m.objects, "channeldata.json")
	merged(t, c, "noarch")
	merged(t, c, "linux-64")
	if d := cmp.Diff([]string{"0", "a", "z"}, slices.Sorted(maps.Keys(entries(t, m)))); d != "" {
		t.Error(d)
	}
}

// TestChannelDataOfWhatCannotBeRead: what is not there says nothing; what cannot be read now is read the next time.
func TestChannelDataOfWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	const about = `{"home":"https://x.example"}`
	prepare := func(t *testing.T) (*memory, *Channel) {
		m := newMemory()
		c := New(m, Options{Now: clock()})
		info := map[string]string{"info/about.json": about, "info/paths.json": `{"paths":[{"_path":"etc/conda/deactivate.d/x"}]}`}
		update(t, c, "noarch", realPack(t, "a", "1", "noarch", info).upload(t, c, "noarch", 0), newPack("damaged", "1", ".conda").upload(t, c, "noarch", 0),
			realPack(t, "half", "1", "noarch", map[string]string{"info/about.json": about, "info/paths.json": `[`}).upload(t, c, "noarch", 0),
			realPack(t, "gone", "1", "noarch", info).upload(t, c, "noarch", 0))
		delete(m.objects, "noarch/gone-1-h0_0.conda")
		m.set("channeldata.json", []byte(`{"subdirs":["noarch"],"packages":{"gone":{"binary_prefix":true,"home":"https://old.example"}}}`))
		return m, c
	}
	summary := func(t *testing.T, m *memory) []string {
		var out []string
		for _, raw := range entries(t, m) {
			var e map[string]any
			if err := json.Unmarshal([]byte(raw), &e); err != nil {
				t.Error(err)
			}
			out = append(out, fmt.Sprintln(e["version"], e["home"], e["deactivate.d"], e["binary_prefix"]))
		}
		slices.Sort(out)
		return out
	}
	want := []string{"1 <nil> false false\n", "1 https://old.example false true\n", "1 https://x.example false false\n", "1 https://x.example true false\n"}

	m, c := prepare(t)
	merged(t, c, "noarch")
	if d := cmp.Diff(want, summary(t, m)); d != "" {
		t.Error(d)
	}
	writes := len(m.writes)
	if merged(t, c, "noarch") || len(m.writes) != writes {
		t.Error("once more for what will never be there")
	}

	m, c = prepare(t)
	m.before = func(op, key string) error {
		if op == "range" && strings.Contains(key, "noarch/a-1") {
			return errors.New("the store is tired")
		}
		return nil
	}
	merged(t, c, "noarch")
	if e := entries(t, m); len(e) != 3 || e["a"] != "" {
		t.Errorf("without the one that could not be read: %v", e)
	}
	m.before = nil
	if !merged(t, c, "noarch") {
		t.Error("it was not looked at again")
	}
	if d := cmp.Diff(want, summary(t, m)); d != "" {
		t.Error(d)
	}

	m, c = prepare(t)
	was := string(m.get(t, "channeldata.json"))
	outage := errors.New("the store is away")
	m.before = func(op, key string) error {
		if op == "range" {
			return outage
		}
		return nil
	}
	if _, err := c.ChannelData(t.Context(), []string{"noarch"}); !errors.Is(err, outage) {
		t.Errorf("an outage: %v", err)
	}
	if got := string(m.get(t, "channeldata.json")); got != was {
		t.Errorf("an outage wrote %s", got)
	}

	m, _ = prepare(t)
	for k := range m.state() {
		if strings.HasPrefix(k, "noarch/shards/") && strings.Contains(string(unzstd(t, m.get(t, k))), "damaged") {
			m.set(k, []byte("x"))
		}
	}
	c = New(m, Options{Now: clock()})
	merged(t, c, "noarch")
	if e := entries(t, m); len(e) != 3 || e["damaged"] != "" {
		t.Errorf("without the one whose shard is broken: %v", e)
	}
}

// TestChannelDataElsewhere: what an entry says of subdirs without shards stays, and a newer version there as well.
func TestChannelDataElsewhere(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ old, want string }{
		{`{"version":"3","home":"h","timestamp":9,"run_exports":{"3":{"weak":["y"]},"1":{"weak":["z"]}},"subdirs":["win-64","noarch"]}`,
			`{"version":"3","home":"h","timestamp":1700000000,"run_exports":{"3":{"weak":["y"]},"1":{"weak":["x >=1"]}},"subdirs":["noarch","win-64"],"summary":null,"license":null}`},
		{`{"version":"0.3","home":"h","timestamp":1900000000,"run_exports":{},"subdirs":["win-64"]}`,
			`{"version":"1","home":"new","timestamp":1900000000,"run_exports":{"1":{"weak":["x >=1"]}},"subdirs":["noarch","win-64"],"summary":"s","license":"MIT"}`},
		{`{"version":"3","home":"h","timestamp":1900000000,"run_exports":{"3":{"weak":["y"]}},"subdirs":["noarch"]}`,
			`{"version":"1","home":"new","timestamp":1700000000,"run_exports":{"1":{"weak":["x >=1"]}},"subdirs":["noarch"],"summary":"s","license":"MIT"}`},
	} {
		m := newMemory()
		c := New(m, Options{Now: clock()})
		update(t, c, "noarch", realPack(t, "a", "1", "noarch", map[string]string{"info/about.json": `{"home":"new","summary":"s"}`}).upload(t, c, "noarch", 0))
		m.set("channeldata.json", []byte(`{"packages":{"a":`+test.old+`},"subdirs":["win-64"]}`))
		merged(t, c, "noarch")
		var want, got map[string]any
		if err := errors.Join(json.Unmarshal([]byte(test.want), &want), json.Unmarshal([]byte(entries(t, m)["a"]), &got)); err != nil {
			t.Fatal(err)
		}
		for key := range want {
			if d := cmp.Diff(want[key], got[key]); d != "" {
				t.Errorf("%s of %s: %s", key, test.old, d)
			}
		}
	}
}

func TestChannelDataThatIsNone(t *testing.T) {
	t.Parallel()
	for _, doc := range []string{"{", "[]", `{"channeldata_version":2}`, `{"packages.conda":{}}`, `{"v3":{}}`, `{"subdirs":{}}`, `{"packages":{"a":{"subdirs":1}}}`,
		`{"packages":{"a":{"run_exports":[]}}}`, `{"packages":{"0":{},"0":{}}}`, `{"packages":{"a":1}}`} {
		m := newMemory()
		c := New(m, Options{Now: clock()})
		update(t, c, "noarch", newPack("a", "1", ".conda").upload(t, c, "noarch", 0))
		m.set("channeldata.json", []byte(doc))
		if _, err := c.ChannelData(t.Context(), []string{"noarch"}); !isA[*Malformed](err) {
			t.Errorf("%s: %v", doc, err)
		}
		if got := string(m.get(t, "channeldata.json")); got != doc {
			t.Errorf("%s: it was changed to %s", doc, got)
		}
	}
	m := newMemory()
	c := New(m, Options{})
	if written, err := c.ChannelData(t.Context(), []string{"noarch"}); written || err != nil || len(m.writes) > 0 {
		t.Errorf("an empty store: %v, %v", written, err)
	}
	if _, err := c.ChannelData(t.Context(), []string{".."}); !isA[*Invalid](err) {
		t.Error(err)
	}
	m.set("channeldata.json", nil) // empty, and out of order
	update(t, c, "noarch", newPack("a", "1", ".conda").upload(t, c, "noarch", 0))
	merged(t, c, "noarch")
	m.set("channeldata.json", []byte(`{"packages":{"z":{"subdirs":["s"]},"b":{"subdirs":["s"]}},"subdirs":["noarch","s"]}`))
	update(t, c, "noarch", newPack("c", "1", ".conda").upload(t, c, "noarch", 0))
	merged(t, c)
	if d := cmp.Diff([]string{"b", "c", "z"}, slices.Sorted(maps.Keys(entries(t, m)))); d != "" {
		t.Error(d)
	}
}

// TestChannelDataRaces has others publish, and write the document, before each operation in turn; and every process die
// after each of its writes.
func TestChannelDataRaces(t *testing.T) {
	t.Parallel()
	var first string
	for at := int64(0); ; at++ {
		m := newMemory()
		c, other := New(m, Options{Now: clock()}), New(m, Options{Now: clock()})
		update(t, c, "noarch", newPack("a", "1", ".conda").upload(t, c, "noarch", 0))
		ran := m.interrupt(at, func() {
			update(t, other, "noarch", newPack("a", "2", ".conda").upload(t, other, "noarch", 0))
			update(t, other, "linux-64", newPack("b", "1", ".conda").upload(t, other, "linux-64", 0))
			merged(t, other, "noarch", "linux-64")
		})
		merged(t, c, "noarch")
		m.before = nil
		if !ran.Load() {
			if at < 6 {
				t.Fatalf("only %d operations", at)
			}
			break
		}
		got := string(m.get(t, "channeldata.json"))
		if first == "" {
			first = got
		}
		if d := cmp.Diff(first, got); d != "" || len(entries(t, m)) != 2 {
			t.Fatalf("before operation %d: %s", at, d)
		}
		if merged(t, c, "noarch", "linux-64") {
			t.Errorf("before operation %d: it was not done", at)
		}
	}
	dead := errors.New("the power is off")
	for cut := range 3 {
		m := newMemory()
		c := New(m, Options{Now: clock()})
		update(t, c, "noarch", newPack("a", "1", ".conda").upload(t, c, "noarch", 0))
		var left atomic.Int64
		left.Store(int64(cut))
		m.before = func(op, _ string) error {
			if op == "put" && left.Add(-1) < 0 {
				return dead
			}
			return nil
		}
		if _, err := c.ChannelData(t.Context(), []string{"noarch"}); (err != nil) != (cut < 2) {
			t.Errorf("cut after %d writes: %v", cut, err)
		}
		m.before = nil
		merged(t, c, "noarch")
		if len(entries(t, m)) != 1 {
			t.Errorf("cut after %d writes", cut)
		}
	}
}

// TestChannelDataOfSamples compares with what conda-index 0.13.0 (--channeldata) makes of real packages, when they are
// there. It differs from CEP 38 in one thing: its timestamp is that of the last version that it looked at, not the greatest.
func TestChannelDataOfSamples(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../../shared/corpus/packages/*")
	if err != nil || len(files) == 0 {
		t.Skip("no corpus")
	}
	m := newMemory()
	c := New(m, Options{})
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(f)
		p, err := conda.Read(t.Context(), bytes.NewReader(b), int64(len(b)), name)
		if err != nil && strings.HasPrefix(name, "ca-certificates") { // somebody packed it again with another program
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.PutPackage(t.Context(), p.Subdir, name, bytes.NewReader(b), int64(len(b)), p.SHA256); err != nil {
			t.Fatal(err)
		}
		update(t, c, p.Subdir, Entry{Filename: name, Record: p.Record, RunExports: p.RunExports})
	}
	merged(t, c, "noarch", "osx-64")
	var want, got map[string]any
	raw, err := os.ReadFile("testdata/channeldata/conda-index.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(json.Unmarshal(raw, &want), json.Unmarshal(m.get(t, "channeldata.json"), &got)); err != nil {
		t.Fatal(err)
	}
	packages, _ := want["packages"].(map[string]any)
	for _, name := range []string{"clobber-1", "clobber-2", "clobber-3"} {
		packages[name].(map[string]any)["timestamp"] = 1707750772.0 // version 0.1.0's, which is the later one
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// FuzzChannelData: a channeldata.json of somebody else's is refused and left alone, or what is made of it can be read, and
// is what it is to be the second time.
func FuzzChannelData(f *testing.F) {
	for _, s := range []string{"", "{}", "{", `{"channeldata_version":1,"packages":{"a":{"subdirs":["noarch","x"],"version":"3","timestamp":5,"run_exports":{"1":{},"3":{"weak":[]}}}},"subdirs":["x","noarch"]}`,
		`{"packages":{"b":{},"a":{"version":null,"subdirs":null,"run_exports":null,"timestamp":1e99}}}`, `{"subdirs":["noarch"],"packages":{"a":{"subdirs":["noarch"],"x":"\ud800"}}}`,
		`{"subdirs":["..","x","x",""],"packages":null,"x":{}}`, `{"packages":{"a":{"x":1,"x":2}}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		m := newMemory()
		c := New(m, Options{Now: clock(), CurrentUpTo: -1})
		update(t, c, "noarch", newPack("a", "1", ".conda").upload(t, c, "noarch", 0), newPack("aa", "2", ".conda").upload(t, c, "noarch", 0))
		m.set("channeldata.json", doc)
		_, err := c.ChannelData(t.Context(), []string{"noarch"})
		if err != nil {
			if !isA[*Malformed](err) || !bytes.Equal(m.get(t, "channeldata.json"), doc) {
				t.Fatal(err)
			}
			return
		}
		var got struct {
			Version  int                       `json:"channeldata_version"`
			Packages map[string]map[string]any `json:"packages"`
			Subdirs  []string                  `json:"subdirs"`
		}
		if err := json.Unmarshal(m.get(t, "channeldata.json"), &got); err != nil || got.Version != 1 || !slices.Contains(got.Subdirs, "noarch") {
			t.Fatalf("%v: %s", err, m.get(t, "channeldata.json"))
		}
		for _, name := range []string{"a", "aa"} {
			for _, key := range append(flags[:], "run_exports", "subdirs", "timestamp", "version") {
				if _, ok := got.Packages[name][key]; !ok {
					t.Errorf("%s has no %s: %v", name, key, got.Packages[name])
				}
			}
		}
		was := string(m.get(t, "channeldata.json"))
		if written, err := New(m, Options{CurrentUpTo: -1}).ChannelData(t.Context(), []string{"noarch"}); err != nil || written {
			t.Errorf("once more: %v, %v", written, err)
		}
		if err := m.Delete(t.Context(), "noarch/"+seenName); err != nil {
			t.Fatal(err)
		}
		if written, err := c.ChannelData(t.Context(), nil); err != nil || written {
			t.Errorf("all anew: %v, %v: %s", written, err, cmp.Diff(was, string(m.get(t, "channeldata.json"))))
		}
	})
}
