package channel

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallmark-attest/hallmark/internal/store"
)

func TestPublishIsWhatClientsRead(t *testing.T) {
	t.Parallel()
	m := newMemory()
	c := New(m, Options{Now: clock()})
	var entries []Entry
	for i := range 5 {
		entries = append(entries,
			newPack("numpy", fmt.Sprintf("2.%d", i), ".conda").upload(t, c, "linux-64", 0),
			newPack("a-b_c", fmt.Sprintf("1!%d+x", i), ".tar.bz2").upload(t, c, "linux-64", 0))
	}
	if n := update(t, c, "linux-64", entries...); n != len(entries) {
		t.Errorf("changed %d of %d", n, len(entries))
	}
	get := func(k string) []byte { return m.get(t, k) }
	if n := agree(t, get, "linux-64"); n != len(entries) {
		t.Errorf("%d records, want %d", n, len(entries))
	}
	if n := agree(t, get, "noarch"); n != 0 {
		t.Errorf("noarch has %d records", n)
	}
	check(t, m.export(t), len(entries), "linux-64", "noarch")

	// Once more, by a process that remembers nothing: not one byte changes, nothing is written.
	before, writes := m.state(), len(m.writes)
	c = New(m, Options{Now: clock()})
	for _, e := range entries {
		f, err := c.Find(t.Context(), "linux-64", e.Filename)
		if err != nil || !f.Exists || !f.Indexed || f.Record.AttestationsSHA256 != e.AttestationsSHA256 || f.Record.SHA256 != f.ObjectSHA256 {
			t.Errorf("find %s: %+v, %v", e.Filename, f, err)
		}
	}
	for i := range 5 {
		newPack("numpy", fmt.Sprintf("2.%d", i), ".conda").upload(t, c, "linux-64", 0)
	}
	if n := update(t, c, "linux-64", entries...); n != 0 {
		t.Errorf("the second time changed %d", n)
	}
	if d := cmp.Diff(before, m.state()); d != "" {
		t.Error(d)
	}
	if len(m.writes) != writes {
		t.Errorf("the second time wrote %q", m.writes[writes:])
	}
}

func TestUpdateWritesInOrder(t *testing.T) {
	t.Parallel()
	m := newMemory()
	c := New(m, Options{})
	e := newPack("a", "1", ".conda").upload(t, c, "noarch", 0)
	update(t, c, "noarch", e)
	var got []string
	for _, k := range m.writes {
		if strings.HasPrefix(k, "noarch/shards/") {
			k = "noarch/shards/"
		}
		got = append(got, strings.TrimPrefix(k, "noarch/"))
	}
	want := []string{"a-1-h0_0.conda", "a-1-h0_0.conda.sigs." + e.AttestationsSHA256, "a-1-h0_0.conda.sigs",
		"shards/", "repodata_shards.msgpack.zst", "repodata.json", "repodata.json.zst",
		"current_repodata.json", "current_repodata.json.zst", "run_exports.json", "repodata_merged.msgpack.zst"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for k, want := range map[string]store.PutOptions{
		"a-1-h0_0.conda": {IfNoneMatch: true, ContentType: "application/octet-stream", CacheControl: "public, max-age=31536000, immutable"},
		"a-1-h0_0.conda.sigs." + e.AttestationsSHA256: {IfNoneMatch: true, ContentType: "application/json", CacheControl: "public, max-age=31536000, immutable"},
		"a-1-h0_0.conda.sigs":                         {IfNoneMatch: true, ContentType: "application/json", CacheControl: "no-cache"},
		"repodata.json":                               {IfNoneMatch: true, ContentType: "application/json", CacheControl: "public, max-age=60"},
		"repodata.json.zst":                           {IfNoneMatch: true, ContentType: "application/zstd", CacheControl: "public, max-age=60"},
		"current_repodata.json":                       {IfNoneMatch: true, ContentType: "application/json", CacheControl: "public, max-age=60"},
		"current_repodata.json.zst":                   {IfNoneMatch: true, ContentType: "application/zstd", CacheControl: "public, max-age=60"},
		"repodata_shards.msgpack.zst":                 {IfNoneMatch: true, ContentType: "application/zstd", CacheControl: "public, max-age=60"},
	} {
		got := m.objects["noarch/"+k].options
		got.SHA256 = ""
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", k, d)
		}
	}
}

// TestWriters has several Channels, as in several processes, write into one subdir at the same time.
func TestWriters(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(t *testing.T) (store.Store, func(string) []byte){
		"memory": func(t *testing.T) (store.Store, func(string) []byte) {
			m := newMemory()
			m.noDigests = true
			return m, func(k string) []byte { return m.get(t, k) }
		},
		"directory": openDirectory,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, get := open(t)
			const writers, each, rounds = 8, 6, 2
			var wg sync.WaitGroup
			for w := range writers {
				wg.Go(func() {
					c := New(s, Options{})
					for r := range rounds {
						var entries []Entry
						for i := range each {
							// Half of the packages are every writer's, half are its own; all are of few names.
							v := fmt.Sprintf("%d.%d", r, i)
							if i%2 == 0 {
								v = fmt.Sprintf("%d.%d.%d", r, i, w+10)
							}
							entries = append(entries, newPack(fmt.Sprintf("n%d", i%3), v, ".conda").upload(t, c, "linux-64", w))
						}
						if _, refused, err := c.Update(t.Context(), "linux-64", entries); err != nil || refused != nil {
							t.Errorf("writer %d: %v %v", w, refused, err)
						}
					}
				})
			}
			wg.Wait()
			if t.Failed() {
				return
			}
			want := rounds * each / 2 * (writers + 1)
			if n := agree(t, get, "linux-64"); n != want {
				t.Errorf("%d records, want %d", n, want)
			}
			var sidecar []json.RawMessage
			if err := json.Unmarshal(get("linux-64/n1-0.1-h0_0.conda.sigs"), &sidecar); err != nil {
				t.Fatal(err)
			}
			seen := map[string]bool{}
			for _, b := range sidecar {
				seen[string(b)] = true
			}
			if len(sidecar) != writers || len(seen) != writers {
				t.Errorf("the sidecar has %d bundles, %d distinct; %d writers added one each", len(sidecar), len(seen), writers)
			}
		})
	}
}

func TestExistingBytesStay(t *testing.T) {
	t.Parallel()
	m := newMemory()
	p := newPack("a", "1", ".conda")
	hot := fmt.Sprintf(`{ "build":"h0_0",  "depends": ["hotfixed <2"], "sha256":"%s", "name":"a", "z\u0061":1.50, "indexed_timestamp": 5}`, p.sha256())
	other := `{"name":"b","weird":[1.0,1e2,"\u00e9"],"size":18446744073709551615}`
	m.set("linux-64/repodata.json", fmt.Appendf(nil, `{"info": {"subdir":"linux-64", "x": 1},
 "packages.conda": {"b-1-0.conda": %s, "a-1-h0_0.conda": %s},
 "removed": [ "a-0-0.conda" ], "signatures":{"k": 1}}`, other, hot))
	c := New(m, Options{Now: clock()})
	if n := update(t, c, "linux-64", p.upload(t, c, "linux-64", 0)); n != 1 {
		t.Errorf("changed %d", n)
	}
	got := string(m.get(t, "linux-64/repodata.json"))
	att := digest(m.get(t, "linux-64/a-1-h0_0.conda.sigs"))
	want := `{"info":{"subdir":"linux-64", "x": 1},
"packages.conda":{
"a-1-h0_0.conda":` + strings.Replace(hot, `"build"`, `"attestations_sha256":"`+att+`","build"`, 1) + `,
"b-1-0.conda":` + other + `
},
"removed":[ "a-0-0.conda" ],
"signatures":{"k": 1},
"packages":{}}
`
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	v := look(t, func(k string) []byte { return m.get(t, k) }, "linux-64")
	if got := fmt.Sprint(v.shards["a-1-h0_0.conda"]["depends"]); got != "[hotfixed <2]" {
		t.Errorf("the shard has depends %s", got)
	}
	if got := v.shards["b-1-0.conda"]["size"]; got != uint64(18446744073709551615) {
		t.Errorf("the shard has size %v", got)
	}
	if v.shards["a-1-h0_0.conda"]["run_exports"] == nil || v.json["a-1-h0_0.conda"]["run_exports"] != nil {
		t.Error("run_exports belongs into shards, not into repodata.json")
	}

	// A second bundle changes attestations_sha256 and not a byte more, in both.
	e := p.upload(t, c, "linux-64", 1)
	if n := update(t, c, "linux-64", e); n != 1 {
		t.Errorf("changed %d", n)
	}
	if d := cmp.Diff(strings.Replace(got, att, e.AttestationsSHA256, 1), string(m.get(t, "linux-64/repodata.json"))); d != "" {
		t.Error(d)
	}
	next := look(t, func(k string) []byte { return m.get(t, k) }, "linux-64")
	for k, r := range next.shards {
		delete(r, attestations)
		delete(v.shards[k], attestations)
	}
	if d := cmp.Diff(v.shards, next.shards); d != "" {
		t.Error(d)
	}
}

func TestEntriesThatCannotBe(t *testing.T) {
	t.Parallel()
	m := newMemory()
	c := New(m, Options{Now: clock()})
	ctx := t.Context()
	first := newPack("a", "1", ".conda")
	update(t, c, "linux-64", first.upload(t, c, "linux-64", 0))
	raw := m.get(t, "linux-64/repodata.json")
	m.set("linux-64/repodata.json", bytes.Replace(raw, []byte(`"removed":[]`), []byte(`"removed":["gone-1-h0_0.conda"]`), 1))
	if _, err := c.Monolith(ctx, "linux-64"); err != nil { // takes over what somebody else wrote
		t.Fatal(err)
	}

	other := pack{first.filename, []byte("other bytes")}
	if _, err := c.PutPackage(ctx, "linux-64", other.filename, bytes.NewReader(other.bytes), int64(len(other.bytes)), other.sha256()); !isA[*Conflict](err) {
		t.Errorf("other bytes under the same name: %v", err)
	}
	if got := m.get(t, "linux-64/"+first.filename); string(got) != string(first.bytes) {
		t.Error("the package was overwritten")
	}
	if existed, err := c.PutPackage(ctx, "linux-64", first.filename, bytes.NewReader(first.bytes), int64(len(first.bytes)), first.sha256()); err != nil || !existed {
		t.Errorf("the same bytes again: %v %v", existed, err)
	}
	if _, err := c.PutPackage(ctx, "linux-64", "b-1-0.conda", bytes.NewReader(first.bytes), int64(len(first.bytes)), other.sha256()); !errors.Is(err, store.ErrDigest) {
		t.Errorf("bytes that have another digest: %v", err)
	}

	good := newPack("good", "1", ".conda").upload(t, c, "linux-64", 0)
	gone := newPack("gone", "1", ".conda").upload(t, c, "linux-64", 0)
	conflict := Entry{Filename: first.filename, Record: other.record("linux-64"), AttestationsSHA256: first.upload(t, c, "linux-64", 0).AttestationsSHA256}
	unsigned := newPack("unsigned", "1", ".conda")
	broken := newPack("broken", "1", ".conda").upload(t, c, "linux-64", 0)
	m.set("linux-64/broken-1-h0_0.conda.sigs", []byte(`{"not":"an array"}`))
	elsewhere := newPack("c", "1", ".conda").upload(t, c, "linux-64", 0)
	elsewhere.Record = newPack("c", "1", ".conda").record("noarch")
	misnamed := newPack("d", "1", ".conda").upload(t, c, "linux-64", 0)
	misnamed.Filename = "d-2-h0_0.conda"
	twice := good
	twice.Record = bytes.Replace(good.Record, []byte(newPack("good", "1", ".conda").sha256()), []byte(other.sha256()), 1)
	huge := newPack("huge", "1", ".conda").upload(t, c, "linux-64", 0)
	huge.Record = bytes.Replace(huge.Record, []byte(`"build_number":0`), []byte(`"build_number":18446744073709551616`), 1)
	entries := []Entry{conflict, good, gone, {Filename: unsigned.filename, Record: unsigned.record("linux-64"), AttestationsSHA256: other.sha256()},
		broken, elsewhere, misnamed, twice, good, {Filename: "../../x.conda", Record: good.Record}, {Filename: "x-1-0.conda", Record: []byte("[")}, huge}
	n, refused, err := c.Update(ctx, "linux-64", entries)
	if err != nil || n != 1 {
		t.Fatalf("changed %d, %v", n, err)
	}
	var kinds []string
	for _, err := range refused {
		kinds = append(kinds, strings.TrimPrefix(fmt.Sprintf("%T", err), "*channel."))
	}
	want := []string{"Conflict", "<nil>", "Removed", "Unsigned", "Malformed", "Invalid", "Invalid", "Conflict", "<nil>", "Invalid", "Invalid", "Invalid"}
	if d := cmp.Diff(want, kinds); d != "" {
		t.Errorf("%s\n%v", d, refused)
	}
	got := slices.Sorted(maps.Keys(look(t, func(k string) []byte { return m.get(t, k) }, "linux-64").json))
	if d := cmp.Diff([]string{"a-1-h0_0.conda", "good-1-h0_0.conda"}, got); d != "" {
		t.Error(d)
	}
	agree(t, func(k string) []byte { return m.get(t, k) }, "linux-64")
	for _, subdir := range []string{"", "..", "a/b", "Linux"} {
		if _, _, err := c.Update(ctx, subdir, nil); !isA[*Invalid](err) {
			t.Errorf("subdir %q: %v", subdir, err)
		}
	}
}

func isA[E error](err error) bool { _, ok := errors.AsType[E](err); return ok }

// TestCutOff has a writer die after each of its writes in turn. Find never says that a record is there which is not, and
// doing it again completes it.
func TestCutOff(t *testing.T) {
	t.Parallel()
	p, q := newPack("a", "2", ".conda"), newPack("a", "1", ".conda")
	for cut := range 12 {
		m := newMemory()
		base := New(m, Options{Now: clock()})
		update(t, base, "noarch", q.upload(t, base, "noarch", 0))
		dead := errors.New("the power is off")
		var left atomic.Int64
		left.Store(int64(cut))
		m.before = func(op, key string) error {
			if op == "put" && left.Add(-1) < 0 {
				return dead
			}
			return nil
		}
		c := New(m, Options{Now: clock()})
		ctx := t.Context()
		died := func() bool {
			if _, err := c.PutPackage(ctx, "noarch", p.filename, bytes.NewReader(p.bytes), int64(len(p.bytes)), p.sha256()); err != nil {
				return true
			}
			s, err := c.AddBundle(ctx, "noarch", p.filename, p.bundle(0))
			if err != nil {
				return true
			}
			_, _, err = c.Update(ctx, "noarch", []Entry{{Filename: p.filename, Record: p.record("noarch"), AttestationsSHA256: s.SHA256}})
			return err != nil
		}()
		if died != (cut < 10) { // package, sidecar twice, shard, index, repodata.json and current_repodata.json with .zst, base
			t.Fatalf("cut after %d writes: died %v", cut, died)
		}
		m.before = nil
		c = New(m, Options{Now: clock()})
		f, err := c.Find(ctx, "noarch", p.filename)
		if err != nil || f.Indexed != (cut > 4) { // package, sidecar twice, shard, index
			t.Errorf("cut after %d writes: %+v, %v", cut, f, err)
		}
		update(t, c, "noarch", p.upload(t, c, "noarch", 0))
		if n := agree(t, func(k string) []byte { return m.get(t, k) }, "noarch"); n != 2 {
			t.Errorf("cut after %d writes: %d records in the end", cut, n)
		}
	}
}

// TestLostAnswers has every write take place and its answer get lost.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	m := newMemory()
	var mu sync.Mutex
	told := map[string]bool{}
	m.after = func(key string) error {
		mu.Lock()
		defer mu.Unlock()
		if told[key] {
			return nil
		}
		told[key] = true
		return store.ErrPrecondition // what the retry of an SDK makes of it
	}
	c := New(m, Options{Now: clock()})
	p := newPack("a", "1", ".conda")
	update(t, c, "linux-64", p.upload(t, c, "linux-64", 0))
	if n := agree(t, func(k string) []byte { return m.get(t, k) }, "linux-64"); n != 1 {
		t.Errorf("%d records", n)
	}
}

// TestSidecarNeverGoesBack has a bundle added between any two operations of an update.
func TestSidecarNeverGoesBack(t *testing.T) {
	t.Parallel()
	for at := int64(0); ; at++ {
		m := newMemory()
		c, other := New(m, Options{}), New(m, Options{})
		p := newPack("a", "1", ".conda")
		e := p.upload(t, c, "noarch", 0)
		ran := m.interrupt(at, func() { update(t, other, "noarch", p.upload(t, other, "noarch", 1)) })
		update(t, c, "noarch", e)
		m.before = nil
		agree(t, func(k string) []byte { return m.get(t, k) }, "noarch")
		if t.Failed() {
			t.Fatalf("a bundle added before operation %d", at)
		}
		if !ran.Load() {
			if at < 8 {
				t.Fatalf("an update took only %d operations", at)
			}
			return
		}
	}
}

func TestContention(t *testing.T) {
	t.Parallel()
	m := newMemory()
	c := New(m, Options{Attempts: 3})
	e := newPack("a", "1", ".conda").upload(t, c, "noarch", 0)
	m.before = func(op, key string) error {
		if op == "put" && strings.HasSuffix(key, "repodata.json") {
			return store.ErrPrecondition
		}
		return nil
	}
	if _, _, err := c.Update(t.Context(), "noarch", []Entry{e}); !errors.Is(err, ErrContended) {
		t.Error(err)
	}
	m.before = func(op, key string) error { return store.ErrAuth }
	if _, _, err := c.Update(t.Context(), "noarch", []Entry{e}); !errors.Is(err, store.ErrAuth) {
		t.Error(err)
	}
}

func TestTimestamps(t *testing.T) {
	t.Parallel()
	m := newMemory()
	now := time.Date(2026, 3, 4, 5, 6, 7, 8e6, time.UTC)
	c := New(m, Options{Now: func() time.Time { return now }})
	p := newPack("a", "1", ".conda")
	e := p.upload(t, c, "noarch", 0)
	e.Record = bytes.Replace(e.Record, []byte(`"license"`), []byte(`"indexed_timestamp":1,"attestations_sha256":"forged","run_exports":{},"license"`), 1)
	update(t, c, "noarch", e)
	now = now.Add(time.Hour)
	update(t, c, "noarch", p.upload(t, c, "noarch", 1))
	v := look(t, func(k string) []byte { return m.get(t, k) }, "noarch")
	if got := v.json[p.filename]["indexed_timestamp"]; got != 1772600767008.0 {
		t.Errorf("indexed_timestamp %v", got)
	}
	if got := v.index["info"].(map[string]any)["created_at"]; got != "2026-03-04T06:06:07.008Z" {
		t.Errorf("created_at %v", got)
	}
	agree(t, func(k string) []byte { return m.get(t, k) }, "noarch")
}

// TestNoBundleIsLost has another bundle added between any two operations of AddBundle, to a package with and without a
// sidecar.
func TestNoBundleIsLost(t *testing.T) {
	t.Parallel()
	p := newPack("a", "1", ".conda")
	for _, first := range []bool{false, true} {
		for at := int64(0); ; at++ {
			m := newMemory()
			c := New(m, Options{})
			want := []string{string(p.bundle(1)), string(p.bundle(2))}
			if first {
				p.upload(t, c, "noarch", 0)
				want = append(want, string(p.bundle(0)))
			}
			ran := m.interrupt(at, func() {
				if _, err := New(m, Options{}).AddBundle(t.Context(), "noarch", p.filename, p.bundle(2)); err != nil {
					t.Error(err)
				}
			})
			s, err := c.AddBundle(t.Context(), "noarch", p.filename, p.bundle(1))
			if err != nil {
				t.Fatal(err)
			}
			m.before = nil
			if !ran.Load() {
				break
			}
			var got []json.RawMessage
			if err := json.Unmarshal(m.get(t, "noarch/"+p.filename+".sigs"), &got); err != nil {
				t.Fatal(err)
			}
			var text []string
			for _, b := range got {
				text = append(text, string(b))
			}
			slices.Sort(text)
			slices.Sort(want)
			if d := cmp.Diff(want, text); d != "" {
				t.Fatalf("another bundle before operation %d: %s", at, d)
			}
			if s.Bundles != len(want) || digest(m.get(t, "noarch/"+p.filename+".sigs."+s.SHA256)) != s.SHA256 {
				t.Errorf("another bundle before operation %d: %+v", at, s)
			}
		}
	}
}
