package channel

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hallmark-attest/hallmark/internal/conda/match"
	"github.com/hallmark-attest/hallmark/internal/store"
)

// selected gives the records of a document, as their bytes stand in it, by file; and everything else in it.
func selected(t testing.TB, raw []byte) (records map[string]string, others map[string]string) {
	t.Helper()
	records, others = map[string]string{}, map[string]string{}
	for p, err := range walk(bytes.NewReader(raw)) {
		if err != nil {
			t.Fatal(err)
		}
		switch p.kind {
		case record:
			records[(placed{p.section, p.key}).filename()] = string(p.raw)
		case other:
			others[p.key] = string(p.raw)
		}
	}
	return records, others
}

// current gives a subdir's current_repodata.json, after it has been compared with repodata.json.
func current(t testing.TB, m *memory, subdir string) []string {
	t.Helper()
	raw := m.get(t, subdir+"/current_repodata.json")
	if !bytes.Equal(unzstd(t, m.get(t, subdir+"/current_repodata.json.zst")), raw) {
		t.Error("the .zst holds something else")
	}
	if !json.Valid(raw) {
		t.Errorf("it is not JSON: %s", raw)
	}
	have, others := selected(t, raw)
	all, allOthers := selected(t, m.get(t, subdir+"/repodata.json"))
	if d := cmp.Diff(allOthers, others); d != "" {
		t.Errorf("besides the records: %s", d)
	}
	for f, r := range have {
		if all[f] != r {
			t.Errorf("%s is not as in repodata.json: %s", f, cmp.Diff(all[f], r))
		}
	}
	return slices.Sorted(maps.Keys(have))
}

func TestCurrent(t *testing.T) {
	t.Parallel()
	rec := func(name, version, build, more string) string {
		return fmt.Sprintf(`{"name":%q, "version":%q,"build":%q,"build_number":0%s}`, name, version, build, more)
	}
	for _, test := range []struct {
		name string
		doc  string
		want []string
	}{
		{"nothing", ``, []string{}},
		{"newest, with all its builds", `{"packages.conda":{"a-10-0.conda":` + rec("a", "10", "0", "") + `,"a-10-1.conda":` + rec("a", "10", "1", "") +
			`,"a-9-0.conda":` + rec("a", "9", "0", "") + `}}`, []string{"a-10-0.conda", "a-10-1.conda"}},
		{"dependencies to the end, across sections", `{"packages":{"b-1-0.tar.bz2":` + rec("b", "1", "0", `,"depends":["c <2","d"]`) + `,"b-2-0.tar.bz2":` + rec("b", "2", "0", "") +
			`},"packages.conda":{"a-1-0.conda":` + rec("a", "1", "0", `,"depends":["b <2", "__glibc"]`) + `,"c-1-0.conda":` + rec("c", "1", "0", "") + `,"c-2-0.conda":` + rec("c", "2", "0", "") + `}}`,
			[]string{"a-1-0.conda", "b-1-0.tar.bz2", "b-2-0.tar.bz2", "c-1-0.conda", "c-2-0.conda"}},
		{"names that sort into each other", `{"packages.conda":{"a-1-0.conda":` + rec("a", "1", "0", "") + `,"a-b-1-0.conda":` + rec("a-b", "1", "0", `,"depends":["a <2"]`) +
			`,"a-z-0.conda":` + rec("a", "z", "0", "") + `,"a-zz-1-0.conda":` + rec("a-zz", "1", "0", `,"depends":["a z"]`) + `}}`,
			[]string{"a-1-0.conda", "a-b-1-0.conda", "a-z-0.conda", "a-zz-1-0.conda"}},
		{"a record without features stands in", `{"packages.conda":{"a-1-0.conda":` + rec("a", "1", "0", "") + `,"a-2-0.conda":` + rec("a", "2", "0", `,"track_features":"x"`) + `}}`,
			[]string{"a-1-0.conda", "a-2-0.conda"}},
		{"odd records", `{"info":{"subdir":"x"},"packages.conda":{"a-1-0.conda":{"n\u0061me":"\u0061","version":"1","depends":["b\u0020<2",7],"timestamp":1.5e12,"track_features":[]},` +
			`"b-1-0.conda":{"version":"1","build_number":1e3},"b-2-0.conda":` + rec("b", "2", "0", "") + `,"c-1-0.conda":{"name":7,"version":7}},"removed":["z-1-0.conda"],"other":[ 1 ]}`,
			[]string{"a-1-0.conda", "b-1-0.conda", "b-2-0.conda"}},
		{"v3", `{"info":{"repodata_revisions":{"v3":{}}},"packages.conda":{"a-1-0.conda":` + rec("a", "1", "0", "") + `,"a-0-0.conda":` + rec("a", "0", "0", "") + `},"v3":{"conda":{"a-2-0":` +
			rec("a", "2", "0", `,"depends":["b[when=\"python >3\"]"]`) + `,"a-1.5-0":` + rec("a", "1.5", "0", "") + `,"b-1-0":` + rec("b", "1", "0", "") + `},"tar.bz2":{"b-0-0":` + rec("b", "0", "0", "") + `}}}`,
			[]string{"a-1-0.conda", "a-2-0.conda", "b-1-0.conda"}},
		{"unsorted", `{"packages.conda":{"b-1-0.conda":` + rec("b", "1", "0", "") + `,"a-1-0.conda":` + rec("a", "1", "0", "") + `}}`, []string{"a-1-0.conda", "b-1-0.conda"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			m := newMemory()
			m.set("linux-64/repodata.json", []byte(test.doc))
			if _, err := New(m, Options{Now: clock()}).Adopt(t.Context(), "linux-64"); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(test.want, append([]string{}, current(t, m, "linux-64")...)); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestCurrentFollows: it is written when what is in it changes, again when somebody else has written it, and not at all
// where it is to be left out.
func TestCurrentFollows(t *testing.T) {
	t.Parallel()
	const key = "linux-64/current_repodata.json"
	m := newMemory()
	c := New(m, Options{Now: clock()})
	update(t, c, "linux-64", newPack("a", "1", ".conda").upload(t, c, "linux-64", 0))
	update(t, c, "linux-64", newPack("a", "2", ".conda").upload(t, c, "linux-64", 0))
	first := m.objects[key]
	if d := cmp.Diff([]string{"a-2-h0_0.conda"}, current(t, m, "linux-64")); d != "" {
		t.Error(d)
	}
	update(t, c, "linux-64", newPack("a", "1.5", ".conda").upload(t, c, "linux-64", 0))
	if m.objects[key].etag != first.etag {
		t.Error("it was written although nothing changed in it")
	}
	for name, spoil := range map[string]func(){
		"theirs": func() { m.set(key, []byte("{}")) },
		"gone":   func() { delete(m.objects, key) },
		"zst":    func() { m.set(key+".zst", nil) },
	} {
		spoil()
		if written, err := c.Monolith(t.Context(), "linux-64"); err != nil || !written {
			t.Errorf("%s: %v, %v", name, written, err)
		}
		if got := m.objects[key]; !bytes.Equal(got.b, first.b) {
			t.Errorf("%s: %s", name, got.b)
		}
		current(t, m, "linux-64")
	}
	m.set(key, []byte("{}"))
	c = New(m, Options{Now: clock(), CurrentUpTo: -1})
	update(t, c, "linux-64", newPack("b", "1", ".conda").upload(t, c, "linux-64", 0))
	if got := string(m.get(t, key)); got != "{}" {
		t.Errorf("it is to be left alone: %s", got)
	}
	if written, err := c.Monolith(t.Context(), "linux-64"); err != nil || written {
		t.Errorf("once more: %v, %v", written, err)
	}
}

// TestCurrentOfALargeSubdir: a subdir that is large from the beginning gets none; one that has it keeps it.
func TestCurrentOfALargeSubdir(t *testing.T) {
	t.Parallel()
	for _, there := range []bool{false, true} {
		m := newMemory()
		c := New(m, Options{Now: clock(), CurrentUpTo: 100})
		m.set("linux-64/repodata.json", []byte(`{"info":{"subdir":"linux-64"},"packages":{},"packages.conda":{},"removed":[],"repodata_version":1,"x":"a member of somebody else's"}`))
		if there {
			m.set("linux-64/current_repodata.json", []byte("{}"))
		}
		update(t, c, "linux-64", newPack("b", "1", ".conda").upload(t, c, "linux-64", 0))
		got, ok := m.state()["linux-64/current_repodata.json"]
		if ok != there || there && !strings.Contains(got, "b-1-h0_0.conda") {
			t.Errorf("there before: %v, now: %v %s", there, ok, got)
		}
		writes := len(m.writes)
		if w, err := New(m, Options{CurrentUpTo: 100}).Monolith(t.Context(), "linux-64"); err != nil || w || len(m.writes) != writes {
			t.Errorf("once more: %v %v %q", w, err, m.writes[writes:])
		}
	}
}

// TestCurrentRaces has somebody else take out what an update puts in, between any two of its operations.
func TestCurrentRaces(t *testing.T) {
	t.Parallel()
	for at := int64(0); ; at++ {
		m := newMemory()
		c, other := New(m, Options{}), New(m, Options{})
		update(t, c, "noarch", newPack("a", "1", ".conda").upload(t, c, "noarch", 0))
		e := newPack("b", "1", ".conda").upload(t, c, "noarch", 0)
		ran := m.interrupt(at, func() {
			if _, err := other.Remove(t.Context(), "noarch", []string{e.Filename}, false); err != nil {
				t.Error(err)
			}
		})
		if _, _, err := c.Update(t.Context(), "noarch", []Entry{e}); err != nil {
			t.Fatal(err)
		}
		m.before = nil
		all, _ := selected(t, m.get(t, "noarch/repodata.json"))
		if d := cmp.Diff(slices.Sorted(maps.Keys(all)), current(t, m, "noarch")); d != "" {
			t.Fatalf("removed before operation %d: %s", at, d)
		}
		if !ran.Load() {
			return
		}
	}
}

// TestCurrentPytorch compares with conda-index's rules applied to a real channel, when that is there.
func TestCurrentPytorch(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(filepath.Join("..", "..", "..", "shared", "corpus", "repodata", "pytorch-linux-64.json"))
	if err != nil {
		t.Skip("no corpus")
	}
	m := newMemory()
	m.set("linux-64/repodata.json", raw)
	if _, err := New(m, Options{}).Adopt(t.Context(), "linux-64"); err != nil {
		t.Fatal(err)
	}
	lines, err := os.ReadFile(filepath.Join("..", "conda", "match", "testdata", "newest-pytorch.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for line := range strings.Lines(string(lines)) {
		_, key, _ := strings.Cut(strings.TrimSpace(line), " ")
		want = append(want, key)
	}
	slices.Sort(want)
	if d := cmp.Diff(want, current(t, m, "linux-64")); d != "" {
		t.Error(d)
	}
}

// FuzzLine: what the outline has of a record is what encoding/json reads in it.
func FuzzLine(f *testing.F) {
	for _, s := range []string{`{}`, `{"name":"a","depends":["b","c\u0020>1",{"x":"]"}],"build_number":3}`, ` { "version" : "1" , "track_features":[ ] , "timestamp": 1e12 } `,
		`{"n\u0061me":"\"\\","features":" ","track_features":["x"]}`, `{"depends":[]}`, `{"depends":null,"name":null,"timestamp":-1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var fields map[string]any
		if !json.Valid(raw) || json.Unmarshal(raw, &fields) != nil || fields == nil {
			return
		}
		got, err := newLine("x", raw)
		if err != nil {
			t.Fatal(err)
		}
		got.stretch = stretch{5, 1 << 40}
		var back line
		if err := back.read(string(got.append(nil))); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(got.Record, back.Record); d != "" || back.stretch != got.stretch {
			if len(got.Depends)+len(back.Depends) > 0 {
				t.Fatalf("written and read: %s", d)
			}
		}
		if ms, err := splitObject(raw); err != nil || sortMembers(ms) != nil || !isText(raw) {
			return // of two members with one name, either will do
		}
		text := func(key string) string { s, _ := fields[key].(string); return s }
		want := match.Record{Key: "x", Name: text("name"), Version: text("version"), Build: text("build"), BuildNumber: got.BuildNumber, Timestamp: got.Timestamp, Features: got.Features}
		list, _ := fields["depends"].([]any)
		for _, e := range list {
			if s, ok := e.(string); ok {
				want.Depends = append(want.Depends, s)
			}
		}
		if d := cmp.Diff(want, got.Record); d != "" {
			t.Error(d)
		}
		for key, have := range map[string]int64{"build_number": got.BuildNumber, "timestamp": got.Timestamp} {
			if n, _ := fields[key].(float64); n < 1e15 && n > -1e15 && int64(n) != have {
				t.Errorf("%s is %d, want %v", key, have, n)
			}
		}
	})
}

// isText tells whether no byte would be replaced in reading.
func isText(raw []byte) bool { return bytes.Equal(bytes.ToValidUTF8(raw, nil), raw) }

// BenchmarkMerge writes a made-up repodata.json of 50,000 records anew, with and without current_repodata.json.
func BenchmarkMerge(b *testing.B) {
	const names, each = 2500, 20
	var doc bytes.Buffer
	doc.WriteString(`{"info":{"subdir":"linux-64"},"packages":{},"packages.conda":{`)
	for n := range names {
		for v := range each {
			file := fmt.Sprintf("name%04d-1.%02d.0-h%07x_0", n, v, n*v)
			if n+v > 0 {
				doc.WriteByte(',')
			}
			fmt.Fprintf(&doc, `"%s.conda":{"attestations_sha256":"%s","build":"h%07x_0","build_number":0,"depends":["__glibc >=2.17,<3.0.a0","libgcc >=13","name%04d >=1.%02d.0,<2.0a0","name%04d","python >=3.1%d,<3.1%d.0a0"],`+
				`"indexed_timestamp":1760000000000,"license":"Apache-2.0","license_family":"Apache","md5":"%s","name":"name%04d","sha256":"%s","size":%d,"subdir":"linux-64","timestamp":17%011d,"version":"1.%02d.0"}`,
				file, strings.Repeat("ab", 32), n*v, (n+1)%names, v/2, (n*7)%names, v%5, v%5+1, strings.Repeat("cd", 16), n, strings.Repeat("ef", 32), n*v+1000, n*v, v)
		}
	}
	doc.WriteString(`},"removed":[],"repodata_version":1}`)
	for _, without := range []bool{true, false} {
		limit := int64(0)
		if without {
			limit = -1
		}
		b.Run(fmt.Sprintf("without=%v", without), func(b *testing.B) {
			b.SetBytes(int64(doc.Len()))
			b.ReportAllocs()
			for b.Loop() {
				m := &monolith{c: New(newMemory(), Options{CurrentUpTo: limit}), s: &subdir{name: "linux-64"}, dir: b.TempDir(), docs: map[string]store.Info{}}
				m.c.store.(*memory).set("linux-64/repodata.json", doc.Bytes())
				if err := m.look(b.Context()); err != nil {
					b.Fatal(err)
				}
				m.index = newShardIndex("linux-64")
				made, zst, _, err := m.repodata(b.Context(), newDelta(m.dir))
				if err != nil {
					b.Fatal(err)
				}
				current, currentZst, err := m.current(made)
				if err != nil {
					b.Fatal(err)
				}
				if !without {
					b.ReportMetric(float64(current.size)/float64(made.size), "of-repodata")
					b.ReportMetric(float64(m.lines.size)/1e6, "outline-MB")
				}
				for _, d := range []*draft{made, zst, current, currentZst} {
					d.remove()
				}
				m.lines.close()
			}
		})
	}
}
