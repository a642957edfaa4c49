package writers_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hallmark-attest/hallmark/internal/channel"
	"github.com/klauspost/compress/zstd"
	"github.com/vmihailenco/msgpack/v5"
)

// foreign is another indexer. What it does is one step: it holds its If-Match by doing so.
type foreign struct {
	m *memory

	adds, hotfixes, removes pack
}

var hotfixed = []string{"hotfixed >=7"}

func (f foreign) must(err error) {
	if err != nil {
		panic(err)
	}
}

// repodata replaces repodata.json, and its .zst too where it is one that knows of it.
func (f foreign) repodata(withZst bool) {
	raw, err := f.m.get(subdir + "/repodata.json")
	f.must(err)
	var top map[string]any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	f.must(dec.Decode(&top))
	records := top["packages.conda"].(map[string]any)
	var added any
	f.must(json.Unmarshal(f.adds.record(), &added))
	records[f.adds.File] = added
	if r, ok := records[f.hotfixes.File].(map[string]any); ok {
		r["depends"] = hotfixed
	}
	delete(records, f.removes.File)
	removed, _ := top["removed"].([]any)
	top["removed"] = append(removed, f.removes.File)
	b, err := json.MarshalIndent(top, "", "  ")
	f.must(err)
	f.m.set(subdir+"/"+f.adds.File, f.adds.bytes())
	f.m.set(subdir+"/repodata.json", b)
	if withZst {
		f.m.set(subdir+"/repodata.json.zst", compressed(b))
	}
}

// shards replaces the shards of the three names and their index.
func (f foreign) shards() {
	raw, err := f.m.get(subdir + "/repodata_shards.msgpack.zst")
	f.must(err)
	index := f.unpacked(raw)
	info, shards := index["info"].(map[string]any), index["shards"].(map[string]any)
	key := func(h string) string { return path.Join(subdir, info["shards_base_url"].(string), h+".msgpack.zst") }
	edit := func(name string, change func(s map[string]any)) {
		s := map[string]any{"packages": map[string]any{}, "packages.conda": map[string]any{}, "removed": []any{}}
		if h, ok := shards[name]; ok {
			b, err := f.m.get(key(fmt.Sprintf("%x", h)))
			f.must(err)
			s = f.unpacked(b)
		}
		change(s)
		b, err := msgpack.Marshal(s)
		f.must(err)
		b = compressed(b)
		d := digest(b)
		f.m.set(key(d), b)
		h, err := hexBytes(d)
		f.must(err)
		shards[name] = h
	}
	edit(f.adds.Name, func(s map[string]any) {
		var r map[string]any
		f.must(json.Unmarshal(f.adds.record(), &r))
		for _, k := range []string{"sha256", "md5"} {
			b, err := hexBytes(r[k].(string))
			f.must(err)
			r[k] = b
		}
		for _, k := range []string{"size", "timestamp", "build_number"} {
			r[k] = int64(r[k].(float64))
		}
		s["packages.conda"].(map[string]any)[f.adds.File] = r
	})
	edit(f.hotfixes.Name, func(s map[string]any) {
		s["packages.conda"].(map[string]any)[f.hotfixes.File].(map[string]any)["depends"] = hotfixed
	})
	edit(f.removes.Name, func(s map[string]any) {
		delete(s["packages.conda"].(map[string]any), f.removes.File)
		s["removed"] = append(s["removed"].([]any), f.removes.File)
	})
	b, err := msgpack.Marshal(index)
	f.must(err)
	f.m.set(subdir+"/"+f.adds.File, f.adds.bytes())
	f.m.set(subdir+"/repodata_shards.msgpack.zst", compressed(b))
}

func (f foreign) unpacked(b []byte) (v map[string]any) {
	raw, err := unzstd(b)
	f.must(err)
	f.must(msgpack.Unmarshal(raw, &v))
	return v
}

func compressed(b []byte) []byte {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(64<<10))
	if err != nil {
		panic(err)
	}
	defer e.Close()
	return e.EncodeAll(b, nil)
}

// scene is a channel, and what one of our writers does while somebody else comes between.
type scene struct {
	t       *testing.T
	m       *memory
	small   int64
	writer  *channel.Channel // has published what is there
	last    *channel.Channel // comes when all is done
	foreign foreign

	ours  map[string]int // bundles by file
	start map[string]object
}

var (
	old   = []pack{newPack("a", "1", ".conda"), newPack("a", "2", ".conda"), newPack("b", "1", ".conda"), newPack("c", "1", ".conda")}
	fresh = []pack{newPack("a", "3", ".conda"), newPack("d", "1", ".conda")}
	again = old[2] // gets a second bundle
)

func newScene(t *testing.T, small int64, f foreign) *scene {
	s := &scene{t: t, m: newMemory(), small: small, foreign: f}
	s.foreign.m = s.m
	s.writer = channel.New(s.m, channel.Options{Small: small})
	s.last = channel.New(s.m, channel.Options{})
	s.begin()
	s.update(s.publish(0, old...))
	s.monolith(s.writer)
	s.start = maps.Clone(s.m.objects)
	return s
}

// begin goes back to the start. ETags are never given out again.
func (s *scene) begin() {
	s.ours = map[string]int{}
	if s.start != nil {
		s.m.before, s.m.objects = nil, maps.Clone(s.start)
		for _, p := range old {
			s.ours[p.File] = 1
		}
	}
}

// unshard leaves of the start what an indexer leaves that makes no shards.
func (s *scene) unshard() {
	for key := range s.start {
		if strings.HasPrefix(key, subdir+"/") && strings.HasSuffix(key, ".msgpack.zst") {
			delete(s.start, key)
		}
	}
}

// publish uploads packages.
func (s *scene) publish(bundle int, packs ...pack) (entries []channel.Entry) {
	s.t.Helper()
	for _, p := range packs {
		e, err := p.upload(s.t.Context(), s.writer, bundle)
		if err != nil {
			s.t.Fatal(err)
		}
		s.ours[p.File]++
		entries = append(entries, e)
	}
	return entries
}

// update puts them into the index. That one was removed meanwhile is no failure.
func (s *scene) update(entries []channel.Entry) {
	s.t.Helper()
	_, refused, err := s.writer.Update(s.t.Context(), subdir, entries)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, err := range refused {
		if _, removed := errors.AsType[*channel.Removed](err); err != nil && !removed {
			s.t.Error(err)
		}
	}
}

func (s *scene) monolith(c *channel.Channel) bool {
	s.t.Helper()
	written, err := c.Monolith(s.t.Context(), subdir)
	if err != nil {
		s.t.Fatal(err)
	}
	return written
}

// settled is what must be so in the end.
func (s *scene) settled(inShards bool) {
	t := s.t
	t.Helper()
	s.m.before = nil
	s.monolith(s.last)
	before := s.m.state()
	if s.monolith(s.last) {
		t.Error("the documents were written twice")
	}
	if now := s.m.state(); !maps.Equal(before, now) {
		t.Errorf("a merge of what has been merged writes something: %d objects, %d before", len(now), len(before))
	}
	rows, shardsRemoved, err := loadShards(s.m.get, map[string]shardOf{})
	if err != nil {
		t.Fatal(err)
	}
	doc, raw, err := loadDocument(s.m.get)
	if err != nil {
		t.Fatal(err)
	}
	if z, err := s.m.get(subdir + "/repodata.json.zst"); err != nil {
		t.Error(err)
	} else if z, err = unzstd(z); err != nil || !bytes.Equal(z, raw) {
		t.Errorf("repodata.json.zst is not that of repodata.json (%v)", err)
	}
	f := s.foreign
	want := []string{f.adds.File}
	for file := range s.ours {
		if file != f.removes.File {
			want = append(want, file)
		}
	}
	slices.Sort(want)
	for what, have := range map[string]map[string]row{"the shards": rows, "repodata.json": doc.rows} {
		if got := slices.Sorted(maps.Keys(have)); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
		for file, r := range have {
			if p, _ := packOf(file); r.SHA256 != digest(p.bytes()) {
				t.Errorf("%s in %s has sha256 %s", file, what, r.SHA256)
			}
			if s.ours[file] == 0 {
				continue
			}
			sigs, err := s.m.get(subdir + "/" + file + ".sigs")
			if err != nil {
				t.Fatal(err)
			}
			if bundles, err := elements(sigs); err != nil || len(bundles) != s.ours[file] || r.Attestations != digest(sigs) {
				t.Errorf("%s in %s advertises %s; its sidecar is %s, with %d bundles (%v)", file, what, r.Attestations, digest(sigs), len(bundles), err)
			}
		}
	}
	for what, list := range map[string][]string{"the shards": shardsRemoved, "repodata.json": doc.removed} {
		if !slices.Equal(list, []string{f.removes.File}) {
			t.Errorf("%s: removed %q, want %q", what, list, f.removes.File)
		}
	}
	if inShards && !slices.Equal(rows[f.hotfixes.File].Depends, hotfixed) {
		t.Errorf("the hotfix is gone from the shards: %q", rows[f.hotfixes.File].Depends)
	}
	if !slices.Equal(doc.rows[f.hotfixes.File].Depends, hotfixed) {
		t.Errorf("the hotfix is gone from repodata.json: %q", doc.rows[f.hotfixes.File].Depends)
	}
}

// TestForeignWriter has another indexer come between any two operations of ours. Nobody's record is lost, what was hotfixed
// stays so, what was removed stays away.
func TestForeignWriter(t *testing.T) {
	t.Parallel()
	step, scenes := number(t, "HALLMARK_FOREIGN", 5), 0 // scenes take turns with the points
	for name, f := range map[string]foreign{
		"OtherNames": {adds: newPack("x", "1", ".conda"), hotfixes: old[0], removes: old[3]},
		"OneName":    {adds: newPack("a", "9", ".conda"), hotfixes: old[0], removes: old[1]},
		"WhatWeSign": {adds: newPack("a", "9", ".conda"), hotfixes: again, removes: old[1]},
		"RemovesIt":  {adds: newPack("a", "9", ".conda"), hotfixes: old[0], removes: again},
	} {
		for _, where := range []string{"Repodata", "RepodataAndZst", "Shards"} {
			for run, small := range map[string]int64{"UpdateAtOnce": 0, "UpdateThenMonolith": -1, "Monolith": -1, "Adoption": 0} {
				if run == "Adoption" && where == "Shards" {
					continue // there are none to replace
				}
				scenes++
				first := scenes % step
				t.Run(name+"/"+where+"/"+run, func(t *testing.T) {
					t.Parallel()
					// In a bubble, since whoever loses a race waits.
					synctest.Test(t, func(t *testing.T) { foreignWriter(t, f, where, run, small, first, step) })
				})
			}
		}
	}
}

func foreignWriter(t *testing.T, f foreign, where, run string, small int64, first, step int) {
	s := newScene(t, small, f)
	if run == "Adoption" {
		s.unshard()
	}
	points := 0
	for n, ended := first, false; !ended; n += step {
		s.begin()
		if n%4 == 3 { // one that remembers nothing
			s.writer = channel.New(s.m, channel.Options{Small: small})
		}
		ended = s.interrupted(n, run == "Monolith", where == "Shards", func() {
			if where == "Shards" {
				s.foreign.shards()
			} else {
				s.foreign.repodata(where == "RepodataAndZst")
			}
		})
		if t.Failed() {
			return
		}
		points = n
	}
	if points < 10 {
		t.Errorf("%d operations: this has proved nothing", points)
	}
}

// interrupted publishes, with act before operation n of Update or of Monolith. ended is true if there were not as many; then
// act came after the last.
func (s *scene) interrupted(n int, monolith, inShards bool, act func()) (ended bool) {
	s.t.Helper()
	entries := append(s.publish(0, fresh...), s.publish(1, again)...)
	run := func() { s.update(entries) }
	if monolith {
		run()
		run = func() { s.monolith(s.writer) }
	}
	at := s.m.interrupt(n, act)
	run()
	if ended = at() == ""; ended {
		act()
	}
	s.settled(inShards)
	if s.t.Failed() {
		s.t.Logf("somebody came before operation %d, %s", n, at())
	}
	return ended
}
