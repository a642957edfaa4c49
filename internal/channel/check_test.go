package channel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// disagreements are the codes that Check gives, each with what it is about.
func disagreements(t *testing.T, c *Channel, subdir string) []string {
	t.Helper()
	var out []string
	for d, err := range c.Check(t.Context(), subdir, CheckOptions{}, nil) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, d.Code+" "+strings.TrimPrefix(d.Key, subdir+"/"))
	}
	return out
}

// TestCheck has one thing wrong at a time.
func TestCheck(t *testing.T) {
	t.Parallel()
	p, q := newPack("a", "1", ".conda"), newPack("b", "1", ".tar.bz2")
	p1, q1 := p.filename, q.filename
	for name, tt := range map[string]struct {
		harm func(m *memory, e Entry)
		want []string
	}{
		"nothing": {func(*memory, Entry) {}, nil},
		"a package is gone": {func(m *memory, _ Entry) { m.remove("s/" + p1) },
			[]string{"package.missing " + p1}},
		"a package of another size": {func(m *memory, _ Entry) { m.set("s/"+p1, []byte("x")) },
			[]string{"package.size " + p1}},
		"a package of other bytes": {func(m *memory, _ Entry) { m.set("s/"+p1, bytes.ToUpper(p.bytes)) },
			[]string{"package.digest " + p1}},
		"a package that nobody indexed": {func(m *memory, _ Entry) { m.set("s/c-1-0.conda", []byte("x")) },
			[]string{"package.unindexed c-1-0.conda"}},
		"no immutable sidecar": {func(m *memory, e Entry) { m.remove("s/" + p1 + ".sigs." + e.AttestationsSHA256) },
			[]string{"sidecar.missing " + p1 + ".sigs.*"}},
		"no mutable sidecar": {func(m *memory, _ Entry) { m.remove("s/" + p1 + ".sigs") },
			[]string{"sidecar.missing " + p1 + ".sigs"}},
		"a stale sidecar": {func(m *memory, _ Entry) { m.set("s/"+p1+".sigs", []byte("[{}]")) },
			[]string{"sidecar.stale " + p1 + ".sigs"}},
		"an immutable sidecar that changed": {func(m *memory, e Entry) { m.set("s/"+p1+".sigs."+e.AttestationsSHA256, []byte("[{}]")) },
			[]string{"sidecar.digest " + p1 + ".sigs.*"}},
		"a sidecar that no record shows": {func(m *memory, _ Entry) { m.set("s/"+q1+".sigs", []byte("[{}]")) },
			[]string{"sidecar.unadvertised " + q1 + ".sigs"}},
		"no index": {func(m *memory, _ Entry) { m.remove("s/repodata_shards.msgpack.zst") },
			[]string{"index.unreadable repodata_shards.msgpack.zst"}},
		"a broken index": {func(m *memory, _ Entry) { m.set("s/repodata_shards.msgpack.zst", []byte("x")) },
			[]string{"index.unreadable repodata_shards.msgpack.zst"}},
		"a broken shard": {func(m *memory, _ Entry) { m.each("s/shards/", func(k string, _ []byte) { m.set(k, []byte("x")) }) },
			[]string{"shard.unreadable shards/*", "shard.unreadable shards/*"}},
		"no repodata.json": {func(m *memory, _ Entry) { m.remove("s/repodata.json") },
			[]string{"repodata.unreadable repodata.json", "record.missing repodata.json", "record.missing repodata.json"}},
		"a broken repodata.json": {func(m *memory, _ Entry) { m.set("s/repodata.json", []byte(`{"packages":{`)) },
			[]string{"repodata.unreadable repodata.json", "zst.differs repodata.json.zst", "record.missing repodata.json", "record.missing repodata.json"}},
		"no zst": {func(m *memory, _ Entry) { m.remove("s/repodata.json.zst") },
			[]string{"zst.differs repodata.json.zst"}},
		"a zst of something else": {func(m *memory, _ Entry) { m.set("s/repodata.json.zst", []byte("x")) },
			[]string{"zst.differs repodata.json.zst"}},
		"a hotfix in one": {func(m *memory, _ Entry) { m.swap("s/repodata.json", `"license":"MIT"`, `"license":"BSD"`) },
			[]string{"zst.differs repodata.json.zst", "current.differs current_repodata.json", "record.differs repodata.json",
				"current.differs current_repodata.json", "record.differs repodata.json"}},
		"current_repodata.json is an old one": {func(m *memory, _ Entry) {
			m.set("s/current_repodata.json", []byte(`{"packages.conda":{"a-1-h0_0.conda":{"name":"a"},"gone-1-0.conda":{}}}`))
		}, []string{"zst.differs current_repodata.json.zst", "current.differs current_repodata.json", "current.differs current_repodata.json"}},
		"no current_repodata.json": {func(m *memory, _ Entry) {
			delete(m.objects, "s/current_repodata.json")
			delete(m.objects, "s/current_repodata.json.zst")
		}, nil},
		"run_exports differ": {func(m *memory, _ Entry) { m.swap("s/run_exports.json", `x >=1`, `x >=2`) },
			[]string{"run_exports.differ run_exports.json", "run_exports.differ run_exports.json"}},
		"an old orphan": {func(m *memory, _ Entry) { m.set("s/shards/"+strings.Repeat("0", 64)+".msgpack.zst", []byte("x")) },
			[]string{"shard.orphan shards/*"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMemory()
			c := New(m, Options{Now: clock()})
			e := p.upload(t, c, "s", 0)
			if _, err := c.PutPackage(t.Context(), "s", q1, bytes.NewReader(q.bytes), int64(len(q.bytes)), q.sha256()); err != nil {
				t.Fatal(err)
			}
			update(t, c, "s", e, Entry{Filename: q1, Record: q.record("s"), RunExports: e.RunExports})
			m.now = func() time.Time { return time.Now().Add(-2 * DefaultGrace) }
			tt.harm(m, e)
			got := disagreements(t, New(m, Options{}), "s")
			for i, g := range got {
				if at := strings.Index(g, "shards/"); at > 0 {
					got[i] = g[:at] + "shards/*"
				}
				if at := strings.Index(g, ".sigs."); at > 0 {
					got[i] = g[:at] + ".sigs.*"
				}
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestCheckVerifies: whoever asks hears of every record, with its advertised sidecar.
func TestCheckVerifies(t *testing.T) {
	t.Parallel()
	m := newMemory()
	c := New(m, Options{Now: clock()})
	p, q := newPack("a", "1", ".conda"), newPack("b", "1", ".conda")
	e := p.upload(t, c, "s", 0)
	if _, err := c.PutPackage(t.Context(), "s", q.filename, bytes.NewReader(q.bytes), int64(len(q.bytes)), q.sha256()); err != nil {
		t.Fatal(err)
	}
	update(t, c, "s", e, Entry{Filename: q.filename, Record: q.record("s"), RunExports: e.RunExports})
	var got []string
	for d, err := range c.Check(t.Context(), "s", CheckOptions{Verify: func(filename, sha256 string, sidecar []byte) error {
		if filename == p.filename && sha256 == p.sha256() && digest(sidecar) == e.AttestationsSHA256 {
			return errors.New("not theirs")
		}
		if filename == q.filename && sha256 == q.sha256() && sidecar == nil {
			return errors.New("unsigned")
		}
		return nil
	}}, nil) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, d.Code+" "+d.Detail)
	}
	if d := cmp.Diff([]string{"sidecar.refused not theirs", "sidecar.refused unsigned"}, got); d != "" {
		t.Error(d)
	}
}

func (m *memory) remove(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, key)
}

func (m *memory) each(prefix string, f func(key string, b []byte)) {
	for k, b := range m.state() {
		if strings.HasPrefix(k, prefix) {
			f(k, []byte(b))
		}
	}
}

func (m *memory) swap(key, old, new string) {
	m.mu.Lock()
	b := m.objects[key].b
	m.mu.Unlock()
	if !bytes.Contains(b, []byte(old)) {
		panic(fmt.Sprintf("%s does not hold %s: %s", key, old, b))
	}
	m.set(key, bytes.ReplaceAll(b, []byte(old), []byte(new)))
}

func TestRemove(t *testing.T) {
	t.Parallel()
	for _, purge := range []bool{false, true} {
		m := newMemory()
		c := New(m, Options{Now: clock()})
		p, q := newPack("a", "1", ".conda"), newPack("a", "2", ".conda")
		e := p.upload(t, c, "s", 0)
		p.upload(t, c, "s", 1) // a second immutable sidecar
		update(t, c, "s", e, q.upload(t, c, "s", 0))
		got, err := c.Remove(t.Context(), "s", []string{p.filename, "zz-1-0.conda"}, purge)
		if err != nil {
			t.Fatal(err)
		}
		if !got[0].Removed || !got[0].Listed || got[1].Removed || got[1].Listed || len(got[0].Deleted) != map[bool]int{true: 4}[purge] {
			t.Errorf("purge %v: %+v", purge, got)
		}
		if purge && (got[0].Deleted[0] != "s/"+p.filename+".sigs" || got[0].Deleted[3] != "s/"+p.filename) {
			t.Errorf("deleted in the order %q", got[0].Deleted)
		}
		if n := agree(t, func(k string) []byte { return m.get(t, k) }, "s"); n != 1 {
			t.Errorf("%d records", n)
		}
		if !bytes.Contains(m.get(t, "s/repodata.json"), []byte(`"removed":["a-1-h0_0.conda"]`)) {
			t.Error("repodata.json does not list it as removed")
		}
		if d := disagreements(t, c, "s"); d != nil {
			t.Error(d)
		}
		// It does not come back, also where a process knows nothing.
		_, refused, err := New(m, Options{Now: clock()}).Update(t.Context(), "s", []Entry{p.upload(t, c, "s", 0)})
		if err != nil || refused == nil || !isA[*Removed](refused[0]) {
			t.Errorf("%v %v", refused, err)
		}
		writes := len(m.writes)
		if got, err = c.Remove(t.Context(), "s", []string{p.filename}, false); err != nil || got[0].Removed || !got[0].Listed || len(m.writes) != writes {
			t.Errorf("once more: %+v %v, wrote %q", got, err, m.writes[writes:])
		}
	}
}

func TestCollect(t *testing.T) {
	t.Parallel()
	m := newMemory()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	m.now = func() time.Time { return now }
	c := New(m, Options{Now: m.now})
	for i := range 4 {
		update(t, c, "s", newPack("a", fmt.Sprint(i), ".conda").upload(t, c, "s", 0))
	}
	shards := func() (n int) {
		m.each("s/shards/", func(string, []byte) { n++ })
		return n
	}
	if shards() != 4 {
		t.Fatalf("%d shards", shards())
	}
	collect := func(want Collected) {
		t.Helper()
		got, err := c.Collect(t.Context(), "s", DefaultGrace)
		got.Bytes = 0
		if err != nil || got != want {
			t.Errorf("%+v %v, want %+v", got, err, want)
		}
	}
	collect(Collected{Used: 1, Waiting: 3})
	now = now.Add(DefaultGrace - time.Hour)
	update(t, c, "s", newPack("a", "9", ".conda").upload(t, c, "s", 0)) // one more that is unused, from now on
	collect(Collected{Used: 1, Waiting: 4})
	now = now.Add(time.Hour)
	collect(Collected{Used: 1, Waiting: 1, Deleted: 3})
	now = now.Add(DefaultGrace)
	collect(Collected{Used: 1, Deleted: 1})
	if shards() != 1 {
		t.Errorf("%d shards are left", shards())
	}
	if n := agree(t, func(k string) []byte { return m.get(t, k) }, "s"); n != 5 {
		t.Errorf("%d records", n)
	}
	if d := disagreements(t, c, "s"); d != nil {
		t.Error(d)
	}
}

// TestCollectAndAWriter has a name's shard become again what it was, between any two operations of a Collect that is about
// to delete it.
func TestCollectAndAWriter(t *testing.T) {
	t.Parallel()
	p, q := newPack("a", "1", ".conda"), newPack("a", "2", ".conda")
	for at := int64(0); ; at++ {
		m := newMemory()
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		m.now = func() time.Time { return now }
		o := Options{Now: m.now}
		c, other := New(m, o), New(m, o)
		update(t, c, "s", p.upload(t, c, "s", 0))
		update(t, c, "s", q.upload(t, c, "s", 0))
		if _, err := c.Collect(t.Context(), "s", DefaultGrace); err != nil {
			t.Fatal(err)
		}
		now = now.Add(2 * DefaultGrace)
		ran := m.interrupt(at, func() {
			s := other.subdir("s")
			if _, err := other.changeIndex(t.Context(), s, without(other, q.filename)); err != nil {
				t.Error(err)
			}
		})
		if _, err := c.Collect(t.Context(), "s", DefaultGrace); err != nil {
			t.Fatal(err)
		}
		m.before = nil
		x, err := New(m, o).loadIndex(t.Context(), c.subdir("s"), 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := New(m, o).loadShard(t.Context(), x, "a"); err != nil {
			t.Fatalf("a writer before operation %d: %v", at, err)
		}
		if !ran.Load() {
			if at < 6 {
				t.Fatalf("only %d operations", at)
			}
			return
		}
	}
}

// without takes a file out of its shard as if it had never been there.
func without(c *Channel, file string) func(context.Context, *shardIndex) (map[string]*shard, func(), error) {
	return func(ctx context.Context, x *shardIndex) (map[string]*shard, func(), error) {
		name, err := packageName(file)
		if err != nil {
			return nil, nil, err
		}
		old, err := c.loadShard(ctx, x, name)
		if err != nil {
			return nil, nil, err
		}
		n := *old
		n.records = map[section][]member{}
		for in, ms := range old.records {
			n.records[in] = slices.DeleteFunc(slices.Clone(ms), func(m member) bool { return m.key == file })
		}
		return map[string]*shard{name: &n}, nil, nil
	}
}

// TestMonolithReadsWhatChanged: a merge reads the shards of the names that changed, and no others.
func TestMonolithReadsWhatChanged(t *testing.T) {
	t.Parallel()
	m := newMemory()
	o := Options{Now: clock(), Small: -1}
	c := New(m, o)
	var entries []Entry
	for i := range 60 {
		entries = append(entries, newPack(fmt.Sprintf("n%d", i), "1", ".conda").upload(t, c, "s", 0))
	}
	update(t, c, "s", entries...)
	if _, ok := m.state()["s/repodata.json"]; ok {
		t.Fatal("a subdir whose documents are to follow has them at once")
	}
	if w, err := c.Monolith(t.Context(), "s"); err != nil || !w {
		t.Fatal(w, err)
	}
	c = New(m, o)
	update(t, c, "s", newPack("n7", "2", ".conda").upload(t, c, "s", 0), newPack("new", "1", ".conda").upload(t, c, "s", 0))
	if n := bytes.Count(m.get(t, "s/repodata.json"), []byte("sha256\":")); n != 120 {
		t.Errorf("%d digests before the merge", n)
	}
	c = New(m, o)
	var shards atomic.Int64
	m.before = func(op, key string) error {
		if op == "get" && strings.HasPrefix(key, "s/shards/") {
			shards.Add(1)
		}
		return nil
	}
	if w, err := c.Monolith(t.Context(), "s"); err != nil || !w {
		t.Fatal(w, err)
	}
	if n := shards.Load(); n != 3 { // n7 before and after, new
		t.Errorf("read %d shards", n)
	}
	m.before = nil
	if n := agree(t, func(k string) []byte { return m.get(t, k) }, "s"); n != 62 {
		t.Errorf("%d records", n)
	}
	if d := disagreements(t, c, "s"); d != nil {
		t.Error(d)
	}
	writes := len(m.writes)
	if w, err := New(m, o).Monolith(t.Context(), "s"); err != nil || w || len(m.writes) != writes {
		t.Errorf("once more: %v %v, wrote %q", w, err, m.writes[writes:])
	}
}

// TestUnsortedRepodata: records of others come in any order.
func TestUnsortedRepodata(t *testing.T) {
	t.Parallel()
	m := newMemory()
	m.set("s/repodata.json", []byte(`{"packages.conda":{"c-1-0.conda":{"name":"c"},"a-1-0.conda":{"name":"a"}},"packages":{"z-1-0.tar.bz2":{"name":"z"},"y-1-0.tar.bz2":{"name":"y"}}}`))
	c := New(m, Options{Now: clock()})
	update(t, c, "s", newPack("b", "1", ".conda").upload(t, c, "s", 0))
	want := []string{"a-1-0.conda", "b-1-h0_0.conda", "c-1-0.conda", "y-1-0.tar.bz2", "z-1-0.tar.bz2"}
	at := -1
	for _, f := range want {
		i := bytes.Index(m.get(t, "s/repodata.json"), []byte(f))
		if i < 0 || f != "y-1-0.tar.bz2" && i < at {
			t.Errorf("%s at %d", f, i)
		}
		at = i
	}
	if n := agree(t, func(k string) []byte { return m.get(t, k) }, "s"); n != 5 {
		t.Errorf("%d records", n)
	}
}

// TestARecordWithoutAName: an empty key is a key like any other, and comes first.
func TestARecordWithoutAName(t *testing.T) {
	t.Parallel()
	m := newMemory()
	c := New(m, Options{Now: clock()})
	p := newPack("a", "1", ".conda")
	m.set("s/repodata.json", fmt.Appendf(nil, `{"packages.conda":{"":{"name":"x"},%q:%s}}`, p.filename, p.record("s")))
	update(t, c, "s", p.upload(t, c, "s", 0), newPack("b", "1", ".conda").upload(t, c, "s", 0))
	var keys []string
	for piece, err := range walk(bytes.NewReader(m.get(t, "s/repodata.json"))) {
		if err != nil {
			t.Fatal(err)
		}
		if piece.kind == record {
			keys = append(keys, piece.key)
		}
	}
	if d := cmp.Diff([]string{"", "a-1-h0_0.conda", "b-1-h0_0.conda"}, keys); d != "" {
		t.Error(d)
	}
}

// TestWhatOthersWriteIsTakenOver: somebody else rewrites repodata.json, and not the shards.
func TestWhatOthersWriteIsTakenOver(t *testing.T) {
	t.Parallel()
	m := newMemory()
	c := New(m, Options{Now: clock()})
	p, q, r := newPack("a", "1", ".conda"), newPack("b", "1", ".conda"), newPack("c", "1", ".conda")
	update(t, c, "s", p.upload(t, c, "s", 0), q.upload(t, c, "s", 0), r.upload(t, c, "s", 0))
	m.swap("s/repodata.json", "\n"+`"c-1-h0_0.conda":`, "\n"+`"foreign-1-0.conda":{"name":"foreign","x":[1]},`+"\n"+`"c-1-h0_0.conda":`)
	m.swap("s/repodata.json", `"removed":[]`, `"removed":["b-1-h0_0.conda","c-1-h0_0.conda"]`)
	b := m.get(t, "s/repodata.json")
	from := bytes.Index(b, []byte(`"b-1-h0_0.conda":{`))
	b = slices.Concat(b[:from], b[from+bytes.IndexByte(b[from:], '\n')+1:]) // b is listed and gone, c is listed and there
	m.set("s/repodata.json", b)
	m.swap("s/repodata.json", "a & b", "hot & fixed")

	update(t, c, "s", newPack("d", "1", ".conda").upload(t, c, "s", 0))
	v := look(t, func(k string) []byte { return m.get(t, k) }, "s")
	for f, want := range map[string]bool{"a-1-h0_0.conda": true, "b-1-h0_0.conda": false, "c-1-h0_0.conda": true, "d-1-h0_0.conda": true, "foreign-1-0.conda": true} {
		if (v.shards[f] != nil) != want || (v.json[f] != nil) != want {
			t.Errorf("%s: shards %v, repodata.json %v", f, v.shards[f] != nil, v.json[f] != nil)
		}
	}
	if got := fmt.Sprint(v.json["a-1-h0_0.conda"]["depends"]); !strings.Contains(got, "hot & fixed") {
		t.Errorf("the hotfix is gone: %s", got)
	}
	if got := fmt.Sprint(v.shards["foreign-1-0.conda"]["x"]); got != "[1]" {
		t.Errorf("the foreign record has x %s", got)
	}
	_, refused, err := c.Update(t.Context(), "s", []Entry{q.upload(t, c, "s", 0)})
	if err != nil || refused == nil || !isA[*Removed](refused[0]) {
		t.Errorf("%v %v", refused, err)
	}
}

// TestAHotfixOfAShard reaches repodata.json.
func TestAHotfixOfAShard(t *testing.T) {
	t.Parallel()
	m := newMemory()
	c := New(m, Options{Now: clock()})
	p := newPack("a", "1", ".conda")
	update(t, c, "s", p.upload(t, c, "s", 0))
	s := c.subdir("s")
	if _, err := c.changeIndex(t.Context(), s, func(ctx context.Context, x *shardIndex) (map[string]*shard, func(), error) {
		sh, err := c.loadShard(ctx, x, "a")
		if err != nil {
			return nil, nil, err
		}
		raw, at, _ := sh.record(p.filename)
		fields, err := splitMap(raw)
		fields = setMember(fields, "license", appendString(nil, "hotfixed"))
		return map[string]*shard{"a": sh.with(map[section][]member{at.section: {packMember(at.key, joinMap(nil, fields))}})}, nil, err
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Monolith(t.Context(), "s"); err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(m.get(t, "s/repodata.json"), []byte(`"license":"hotfixed"`)) {
		t.Error("the hotfix did not come through")
	}
	if d := disagreements(t, c, "s"); d != nil {
		t.Error(d)
	}
}

// TestV3: a record that older clients would misread goes below v3 (CEP 48).
func TestV3(t *testing.T) {
	t.Parallel()
	m := newMemory()
	c := New(m, Options{Now: clock()})
	p := newPack("a", "1", ".conda")
	e := p.upload(t, c, "s", 0)
	e.Record = bytes.Replace(e.Record, []byte("a & b"), []byte(`b[when=\"__unix\"]`), 1)
	update(t, c, "s", newPack("b", "1", ".conda").upload(t, c, "s", 0), e)
	for range 2 {
		doc, err := decodeObject(m.get(t, "s/repodata.json"))
		if err != nil {
			t.Fatal(err)
		}
		if doc["v3"].(map[string]any)["conda"].(map[string]any)["a-1-h0_0"].(map[string]any)["attestations_sha256"] == nil {
			t.Errorf("v3 is %v", doc["v3"])
		}
		if doc["packages.conda"].(map[string]any)["a-1-h0_0.conda"] != nil {
			t.Error("it is in packages.conda too")
		}
		if got := fmt.Sprint(doc["info"].(map[string]any)["repodata_revisions"]); got != "map[v3:map[]]" {
			t.Errorf("repodata_revisions: %s", got)
		}
		if f, err := c.Find(t.Context(), "s", p.filename); err != nil || !f.Indexed {
			t.Errorf("%+v %v", f, err)
		}
		if d := disagreements(t, c, "s"); d != nil {
			t.Error(d)
		}
		e.AttestationsSHA256 = p.upload(t, c, "s", 1).AttestationsSHA256 // a second bundle
		update(t, c, "s", e)
	}
	for spec, want := range map[string]bool{"a": false, "a >=1": false, "a[version='>1']": false, "a[build=x]": false,
		"a[extras=[x]]": true, "a[version=1,when=__unix]": true, "a[flags=x]": true} {
		if got := needsV3(map[string]any{"depends": []any{spec}}); got != want {
			t.Errorf("%s: %v", spec, got)
		}
	}
	if !needsV3(map[string]any{"extra_depends": map[string]any{"test": []any{"x"}}}) || needsV3(map[string]any{"extra_depends": map[string]any{}}) {
		t.Error("extra_depends")
	}
	got, err := c.Remove(t.Context(), "s", []string{p.filename}, false)
	if err != nil || !got[0].Removed {
		t.Errorf("%+v %v", got, err)
	}
	if bytes.Contains(m.get(t, "s/repodata.json"), []byte(`"a-1-h0_0":`)) {
		t.Error("it is still there")
	}
}

// TestAdopt: sidecars that are in the store are advertised, and adopting again changes nothing.
func TestAdopt(t *testing.T) {
	t.Parallel()
	m := newMemory()
	c := New(m, Options{Now: clock()})
	p, q := newPack("a", "1", ".conda"), newPack("b", "1", ".conda")
	update(t, c, "s", p.upload(t, c, "s", 0), q.upload(t, c, "s", 0))
	// An indexer that knows nothing of sidecars.
	for _, pk := range []pack{p, q} {
		e := pk.upload(t, c, "s", 0)
		m.swap("s/repodata.json", `"attestations_sha256":"`+e.AttestationsSHA256+`",`, "")
	}
	for k := range m.state() {
		if strings.HasPrefix(k, "s/shards/") || strings.HasPrefix(k, "s/repodata_") {
			m.remove(k)
		}
	}
	c = New(m, Options{Now: clock()})
	got, err := c.Adopt(t.Context(), "s")
	if err != nil || got != (Adopted{Names: 2, Sharded: true, Sidecars: 2}) {
		t.Errorf("%+v %v", got, err)
	}
	for _, d := range disagreements(t, c, "s") {
		if !strings.HasPrefix(d, "run_exports") {
			t.Error(d)
		}
	}
	writes := len(m.writes)
	got, err = New(m, Options{Now: clock()}).Adopt(t.Context(), "s")
	if err != nil || got != (Adopted{Names: 2}) || len(m.writes) != writes {
		t.Errorf("%+v %v, wrote %q", got, err, m.writes[writes:])
	}
}

func TestSpill(t *testing.T) {
	t.Parallel()
	for _, room := range []int{1, 500, 1 << 20} {
		s := newSpill(t.TempDir(), room)
		for i := range 200 {
			if err := s.add(fmt.Sprintf("k%03d", (i*77)%100), fmt.Appendf(nil, "v%d", i)); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			var got []string
			for e, err := range s.all() {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, e.key+string(e.value))
			}
			if len(got) != 200 || !slices.IsSortedFunc(got, func(a, b string) int { return strings.Compare(a[:4], b[:4]) }) {
				t.Errorf("room %d: %q", room, got)
			}
			if got[0] != "k000v0" || got[1] != "k000v100" {
				t.Errorf("room %d: the one that was added first comes second: %q", room, got[:2])
			}
		}
		s.close()
	}
}

// TestAFullDisk is this machine's trouble, and no malformed document.
func TestAFullDisk(t *testing.T) {
	t.Parallel()
	m := newMemory()
	c := New(m, Options{Now: clock()})
	update(t, c, "s", newPack("a", "1", ".conda").upload(t, c, "s", 0))
	d, err := newDraft(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	d.remove() // no byte can be written to it any more
	x := &monolith{c: c, s: c.subdir("s"), dir: t.TempDir()}
	if err := x.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	err = x.merge(t.Context(), &merging{delta: newDelta(x.dir), settle: settleRecord}, repodataName, "", d)
	if !isDisk(err) || isA[*Malformed](err) {
		t.Errorf("a merge: %T %v", err, err)
	}
	c = New(m, Options{Now: clock(), Scratch: "/nonexistent"})
	if _, err := c.ChannelData(t.Context(), []string{"s"}); !isDisk(err) {
		t.Errorf("channeldata.json: %T %v", err, err)
	}
	s := newSpill("/nonexistent", 1)
	if err := s.add("a", nil); !isDisk(err) {
		t.Errorf("sorting: %v", err)
	}
}
