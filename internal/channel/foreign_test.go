package channel

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/vmihailenco/msgpack/v5"
)

// compress is another's compressor.
func compress(t testing.TB, b []byte) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	return e.EncodeAll(b, nil)
}

func packed(t testing.TB, v any) []byte {
	t.Helper()
	b, err := msgpack.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return compress(t, b)
}

// TestShardsOfOthers: shards beside repodata.json, as conda-index has them; an index without version, as rattler-index
// writes it; names, fields and shards that are none of ours.
func TestShardsOfOthers(t *testing.T) {
	t.Parallel()
	m := newMemory()
	p, q := newPack("a", "1", ".conda"), newPack("a", "2", ".conda")
	record := map[string]any{"name": "a", "version": "2", "sha256": q.sha256(), "weird": []any{1.5, nil}, "depends": []string{"hot <1"}}
	shard := packed(t, map[string]any{"packages": map[string]any{}, "packages.conda": map[string]any{q.filename: record}, "removed": []string{"a-0-0.conda"}, "v9": 1})
	m.set("linux-64/"+digest(shard)+".msgpack.zst", shard)
	other := strings.Repeat("ab", 32)
	m.set("linux-64/repodata_shards.msgpack.zst", packed(t, map[string]any{
		"info":   map[string]any{"base_url": "https://x.example/", "subdir": "linux-64", "note": "mine", "created_at": "long ago"},
		"shards": map[string]any{"a": digest(shard), "b": other}, "extra": true,
	}))
	m.set("linux-64/repodata.json", fmt.Appendf(nil, `{"packages.conda":{%q:{"name":"a","version":"2","depends":["hot <1"],"weird":[1.5,null],"sha256":%q}}}`, q.filename, q.sha256()))
	c := New(m, Options{Now: func() time.Time { return time.Date(2026, 1, 1, 0, 0, 3, 0, time.UTC) }})
	update(t, c, "linux-64", p.upload(t, c, "linux-64", 0), q.upload(t, c, "linux-64", 0))

	var index map[string]any
	if err := msgpack.Unmarshal(unzstd(t, m.get(t, "linux-64/repodata_shards.msgpack.zst")), &index); err != nil {
		t.Fatal(err)
	}
	hash := fmt.Sprintf("%x", index["shards"].(map[string]any)["a"])
	var got map[string]any
	if err := msgpack.Unmarshal(unzstd(t, m.get(t, "linux-64/"+hash+".msgpack.zst")), &got); err != nil {
		t.Fatal(err)
	}
	records := got["packages.conda"].(map[string]any)
	att := records[q.filename].(map[string]any)[attestations].([]byte)
	if digest(m.get(t, "linux-64/"+q.filename+".sigs")) != fmt.Sprintf("%x", att) {
		t.Errorf("advertises %x", att)
	}
	want := map[string]any{"name": "a", "version": "2", "sha256": q.sha256(), "weird": []any{1.5, nil}, "depends": []any{"hot <1"}, attestations: att, "run_exports": map[string]any{"weak": []any{"x >=1"}}}
	if d := cmp.Diff(want, records[q.filename]); d != "" {
		t.Error(d)
	}
	delete(got, "packages.conda")
	if d := cmp.Diff(map[string]any{"packages": map[string]any{}, "removed": []any{"a-0-0.conda"}, "v9": int8(1)}, got); d != "" {
		t.Error(d)
	}
	if records[p.filename] == nil {
		t.Error("the new record is missing")
	}
	delete(index["shards"].(map[string]any), "a")
	if d := cmp.Diff(map[string]any{
		"version": int8(1), "extra": true, "shards": map[string]any{"b": other},
		"info": map[string]any{"base_url": "https://x.example/", "subdir": "linux-64", "note": "mine", "created_at": "2026-01-01T00:00:03.000Z", "shards_base_url": ""},
	}, index); d != "" {
		t.Error(d)
	}

	// b's shard is not there: nothing of b can be published, all else can, and nothing is half done.
	before := m.state()
	e := newPack("b", "1", ".conda").upload(t, c, "linux-64", 0)
	n, refused, err := c.Update(t.Context(), "linux-64", []Entry{e})
	if err != nil || n != 0 || refused == nil || !isA[*Malformed](refused[0]) {
		t.Errorf("%d, %v, %v", n, refused, err)
	}
	for k, v := range m.state() {
		if !strings.Contains(k, "b-1-h0_0") && before[k] != v {
			t.Errorf("%s was changed", k)
		}
	}
}

// TestAChannelThatHadNoShards: clients that find a shard index look no further, so every record has to be in it at once.
func TestAChannelThatHadNoShards(t *testing.T) {
	t.Parallel()
	for _, p := range []string{"pytorch-linux-64.json", "conda-forge-numpy-linux-64.json"} {
		b, err := os.ReadFile("../../../shared/corpus/repodata/" + p)
		if errors.Is(err, os.ErrNotExist) {
			t.Log(p + " is not here")
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		m := newMemory()
		m.set("linux-64/repodata.json", b)
		c := New(m, Options{Now: clock()})
		before := map[string]any{}
		for r, err := range c.Records(t.Context(), "linux-64") {
			if err != nil {
				t.Fatal(err)
			}
			before[r.Filename] = meaning(t, r.Raw)
		}
		if len(before) < 5 {
			t.Fatalf("%s: %d records", p, len(before))
		}
		e := newPack("new", "1", ".conda").upload(t, c, "linux-64", 0)
		update(t, c, "linux-64", e)
		v := look(t, func(k string) []byte { return m.get(t, k) }, "linux-64")
		if len(v.shards) != len(before)+1 || len(v.json) != len(before)+1 {
			t.Errorf("%s: %d in shards, %d in repodata.json, %d before", p, len(v.shards), len(v.json), len(before))
		}
		after := map[string]any{}
		for r, err := range New(m, Options{}).Records(t.Context(), "linux-64") {
			if err != nil {
				t.Fatal(err)
			}
			after[r.Filename] = meaning(t, r.Raw)
		}
		delete(after, e.Filename)
		if d := cmp.Diff(before, after); d != "" {
			t.Error(d)
		}
	}
}

// TestAChannelThatHadShardsAlone gets a repodata.json with all of them.
func TestAChannelThatHadShardsAlone(t *testing.T) {
	t.Parallel()
	m := newMemory()
	c := New(m, Options{Now: clock()})
	var entries []Entry
	for i := range 5 {
		entries = append(entries, newPack(fmt.Sprintf("n%d", i), "1", ".conda").upload(t, c, "linux-64", 0))
	}
	update(t, c, "linux-64", entries...)
	want := string(m.get(t, "linux-64/repodata.json"))
	if err := m.Delete(t.Context(), "linux-64/repodata.json", "linux-64/repodata.json.zst"); err != nil {
		t.Fatal(err)
	}
	c = New(m, Options{Now: clock()})
	update(t, c, "linux-64", entries[0])
	if d := cmp.Diff(want, string(m.get(t, "linux-64/repodata.json"))); d != "" {
		t.Error(d)
	}
	agree(t, func(k string) []byte { return m.get(t, k) }, "linux-64")
}

func TestWhatCannotBeReadIsNotWrittenOver(t *testing.T) {
	t.Parallel()
	for name, objects := range map[string]map[string][]byte{
		"repodata.json is cut off": {"noarch/repodata.json": []byte(`{"packages":{`)},
		"a name twice":             {"noarch/repodata.json": []byte(`{"packages":{"a":{},"a":{}}}`)},
		"the index is no zstd":     {"noarch/repodata_shards.msgpack.zst": []byte("x")},
		"shards are elsewhere":     {"noarch/repodata_shards.msgpack.zst": packed(t, map[string]any{"info": map[string]any{"shards_base_url": "https://x.example/"}})},
		"shards are outside":       {"noarch/repodata_shards.msgpack.zst": packed(t, map[string]any{"info": map[string]any{"shards_base_url": "../../"}})},
		"a later version":          {"noarch/repodata_shards.msgpack.zst": packed(t, map[string]any{"version": 2})},
		"a record without JSON":    {"noarch/repodata.json": []byte(`{"packages":{"a-1-0.tar.bz2":{"size":1e999}}}`)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMemory()
			for k, b := range objects {
				m.set(k, b)
			}
			c := New(m, Options{Now: clock()})
			e := newPack("a", "1", ".conda").upload(t, c, "noarch", 0)
			if _, _, err := c.Update(t.Context(), "noarch", []Entry{e}); !isA[*Malformed](err) {
				t.Errorf("got %v", err)
			}
			for k, b := range objects {
				if k != "noarch/repodata.json" || name != "a record without JSON" {
					if got := m.get(t, k); !bytes.Equal(got, b) {
						t.Errorf("%s was changed", k)
					}
				}
			}
		})
	}
}

func TestEmptyFileIsAnEmptyRepodata(t *testing.T) {
	t.Parallel()
	m := newMemory()
	m.set("noarch/repodata.json", nil)
	c := New(m, Options{Now: clock()})
	update(t, c, "noarch", newPack("a", "1", ".conda").upload(t, c, "noarch", 0))
	if n := agree(t, func(k string) []byte { return m.get(t, k) }, "noarch"); n != 1 {
		t.Errorf("%d records", n)
	}
}

func TestSomebodysNoarchIsLeftAlone(t *testing.T) {
	t.Parallel()
	m := newMemory()
	m.set("noarch/repodata.json", []byte(`{"packages":{}}`))
	c := New(m, Options{Now: clock()})
	update(t, c, "linux-64", newPack("a", "1", ".conda").upload(t, c, "linux-64", 0))
	for k := range m.state() {
		if strings.HasPrefix(k, "noarch/") && k != "noarch/repodata.json" {
			t.Errorf("wrote %s", k)
		}
	}
}

// TestAnOldRecordWithAnMD5Alone is the package's, if the MD5 is.
func TestAnOldRecordWithAnMD5Alone(t *testing.T) {
	t.Parallel()
	p := newPack("a", "1", ".conda")
	fields, err := decodeObject(p.record("noarch"))
	if err != nil {
		t.Fatal(err)
	}
	for md5, ok := range map[string]bool{fields["md5"].(string): true, strings.Repeat("0", 32): false} {
		m := newMemory()
		m.set("noarch/repodata.json", fmt.Appendf(nil, `{"packages.conda":{%q:{"name":"a","md5":%q}}}`, p.filename, md5))
		c := New(m, Options{Now: clock()})
		_, refused, err := c.Update(t.Context(), "noarch", []Entry{p.upload(t, c, "noarch", 0)})
		if err != nil || (refused == nil) != ok {
			t.Errorf("%s: %v %v", md5, refused, err)
		}
	}
}

// TestFindIsCheap: many calls for a channel ask the store for little more than the packages themselves.
func TestFindIsCheap(t *testing.T) {
	t.Parallel()
	m := newMemory()
	c := New(m, Options{Now: clock()})
	var entries []Entry
	for i := range 200 {
		entries = append(entries, newPack(fmt.Sprintf("n%d", i%7), fmt.Sprint(i), ".conda").upload(t, c, "linux-64", 0))
	}
	update(t, c, "linux-64", entries...)
	var mu sync.Mutex
	asked := map[string]int{}
	m.before = func(op, key string) error {
		mu.Lock()
		defer mu.Unlock()
		if strings.HasSuffix(key, ".conda") {
			key = "package"
		}
		asked[op+" "+key]++
		return nil
	}
	c = New(m, Options{Revalidate: time.Hour})
	for range 2 {
		for _, e := range entries {
			f, err := c.Find(t.Context(), "linux-64", e.Filename)
			if err != nil || !f.Indexed || f.Record.AttestationsSHA256 != e.AttestationsSHA256 || f.ObjectSHA256 != f.Record.SHA256 {
				t.Fatalf("%s: %+v %v", e.Filename, f, err)
			}
		}
	}
	sum := 0
	for k, n := range asked {
		if k != "head package" {
			sum += n
		}
	}
	if asked["head package"] != 400 || sum > 10 {
		t.Errorf("asked %v", asked)
	}
	for name, ok := range map[string]bool{"n0-5000-h0_0.conda": true, "zz-1-0.conda": true, "nonsense": false, "../x-1-0.conda": false} {
		f, err := c.Find(t.Context(), "linux-64", name)
		if (err == nil) != ok || f.Exists || f.Indexed {
			t.Errorf("%s: %+v %v", name, f, err)
		}
	}
	// Without shards nothing is known, until the next Update.
	if err := m.Delete(t.Context(), "linux-64/repodata_shards.msgpack.zst"); err != nil {
		t.Fatal(err)
	}
	f, err := New(m, Options{}).Find(t.Context(), "linux-64", entries[0].Filename)
	if err != nil || f.Indexed || !f.Exists {
		t.Errorf("without shards: %+v %v", f, err)
	}
}

func TestRecords(t *testing.T) {
	t.Parallel()
	m := newMemory()
	c := New(m, Options{Now: clock()})
	for range c.Records(t.Context(), "linux-64") {
		t.Error("a record of nothing")
	}
	e := newPack("a", "1", ".conda").upload(t, c, "linux-64", 0)
	update(t, c, "linux-64", e)
	n := 0
	for r, err := range c.Records(t.Context(), "linux-64") {
		if err != nil || r.Filename != e.Filename || r.AttestationsSHA256 != e.AttestationsSHA256 || !json.Valid(r.Raw) {
			t.Errorf("%+v %v", r, err)
		}
		n++
	}
	if n != 1 {
		t.Errorf("%d records", n)
	}
	for _, err := range c.Records(t.Context(), "../x") {
		if !isA[*Invalid](err) {
			t.Error(err)
		}
	}
}

func TestCancelledWhileWaitingForItsTurn(t *testing.T) {
	t.Parallel()
	m := newMemory()
	c := New(m, Options{})
	c.subdir("noarch").turn <- struct{}{} // another update runs
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := c.Update(ctx, "noarch", nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	<-c.subdir("noarch").turn
}

// TestZstFollows has repodata.json change between any two operations of an update.
func TestZstFollows(t *testing.T) {
	t.Parallel()
	for at := int64(0); ; at++ {
		m := newMemory()
		c, other := New(m, Options{}), New(m, Options{})
		p, q := newPack("a", "1", ".conda").upload(t, c, "noarch", 0), newPack("b", "1", ".conda").upload(t, c, "noarch", 0)
		ran := m.interrupt(at, func() { update(t, other, "noarch", q) })
		update(t, c, "noarch", p)
		m.before = nil
		v := look(t, func(k string) []byte { return m.get(t, k) }, "noarch")
		if got := slices.Sorted(maps.Keys(v.json)); ran.Load() && len(got) != 2 || len(v.json) != len(v.shards) {
			t.Errorf("%q in repodata.json, %d in shards", got, len(v.shards))
		}
		if t.Failed() {
			t.Fatalf("an update before operation %d", at)
		}
		if !ran.Load() {
			return
		}
	}
}

// TestASidecarOfAnotherTool: it is advertised as it is, once it is there under its immutable name too.
func TestASidecarOfAnotherTool(t *testing.T) {
	t.Parallel()
	for _, noDigests := range []bool{false, true} {
		m := newMemory()
		m.noDigests = noDigests
		c := New(m, Options{Now: clock()})
		p := newPack("a", "1", ".conda")
		e := p.upload(t, c, "noarch", 0)
		longer := fmt.Appendf(nil, "[%s,\n %s]\n", p.bundle(0), p.bundle(7))
		m.set("noarch/"+p.filename+".sigs", longer)
		update(t, c, "noarch", e)
		agree(t, func(k string) []byte { return m.get(t, k) }, "noarch")
		if f, err := c.Find(t.Context(), "noarch", p.filename); err != nil || f.Record.AttestationsSHA256 != digest(longer) {
			t.Errorf("%+v %v", f, err)
		}
	}
}

func TestARecordOfOtherBytes(t *testing.T) {
	t.Parallel()
	m := newMemory()
	p := newPack("a", "1", ".conda")
	doc := fmt.Appendf(nil, `{"packages.conda":{%q:{"name":"a","sha256":%q}}}`, p.filename, strings.Repeat("0", 64))
	m.set("noarch/repodata.json", doc)
	c := New(m, Options{Now: clock()})
	_, refused, err := c.Update(t.Context(), "noarch", []Entry{p.upload(t, c, "noarch", 0)})
	if err != nil || refused == nil {
		t.Fatal(refused, err)
	}
	if e, ok := errors.AsType[*Conflict](refused[0]); !ok || e.Where != "record" || e.Want != p.sha256() || e.Have != strings.Repeat("0", 64) {
		t.Error(refused[0])
	}
	was, _ := selected(t, doc)
	if got, _ := selected(t, m.get(t, "noarch/repodata.json")); !maps.Equal(got, was) {
		t.Errorf("repodata.json's records were changed to %s", got)
	}
}

func TestAShardThatIsNotItsName(t *testing.T) {
	t.Parallel()
	m := newMemory()
	c := New(m, Options{Now: clock()})
	p, q := newPack("a", "1", ".conda"), newPack("a", "2", ".conda")
	update(t, c, "noarch", p.upload(t, c, "noarch", 0))
	for k := range m.state() {
		if strings.HasPrefix(k, "noarch/shards/") {
			m.set(k, packed(t, map[string]any{"packages": map[string]any{}, "packages.conda": map[string]any{}}))
		}
	}
	c = New(m, Options{Now: clock()})
	_, refused, err := c.Update(t.Context(), "noarch", []Entry{q.upload(t, c, "noarch", 0)})
	if err != nil || refused == nil || !isA[*Malformed](refused[0]) {
		t.Errorf("%v %v", refused, err)
	}
	if _, err := c.Find(t.Context(), "noarch", p.filename); !isA[*Malformed](err) {
		t.Error(err)
	}
}

// meaning is what a record says, however it is written.
func meaning(t *testing.T, raw []byte) any {
	t.Helper()
	v, err := decodeObject(raw)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
