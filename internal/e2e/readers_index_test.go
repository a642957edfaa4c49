package e2e

import (
	"encoding/json"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hallmark-attest/hallmark/internal/conda/condatest"
)

// indexer is a way of running another project's indexer over a folder, and how the records that it writes are known to differ
// from Hallmark's, each with the reason.
type indexer struct {
	name  string
	run   func(t testing.TB, dir string) result
	known map[difference]string
}

func rattlerIndex(options string) func(testing.TB, string) result {
	return func(t testing.TB, dir string) result { return script(t, "run_rattler_index.py", nil, dir, options) }
}

func condaIndex(flags ...string) func(testing.TB, string) result {
	return func(t testing.TB, dir string) result {
		return script(t, "run_conda_index.py", nil, slices.Concat(flags, []string{dir})...)
	}
}

const (
	noRunExports  = "rattler makes shards of what repodata.json has, where Hallmark has no run exports: CEP 21 has them in shards"
	ownRunExports = "rattler has run exports of .conda packages in repodata.json too, tells no empty ones, and reads none of .tar.bz2 packages"
	onlyPackages  = "conda-index 0.13.0 makes records of the packages alone, and knows no attestations_sha256 and no indexed_timestamp: to index a Hallmark channel with it un-advertises every attestation"
	noPlatform    = "conda-index leaves out the old fields arch and platform"
)

var condaIndexJSON = map[difference]string{
	{"json", ".conda", "attestations_sha256", "dropped"}:   onlyPackages,
	{"json", ".tar.bz2", "attestations_sha256", "dropped"}: onlyPackages,
	{"json", ".conda", "indexed_timestamp", "dropped"}:     onlyPackages,
	{"json", ".tar.bz2", "indexed_timestamp", "dropped"}:   onlyPackages,
	{"json", ".conda", "arch", "dropped"}:                  noPlatform,
	{"json", ".conda", "platform", "dropped"}:              noPlatform,
}

// everywhere has the differences of repodata.json for shards too.
func everywhere(known map[difference]string) map[difference]string {
	out := maps.Clone(known)
	for d, reason := range known {
		d.form = "shards"
		out[d] = reason
	}
	return out
}

// indexers: rattler keeps attestations_sha256 and indexed_timestamp; that nothing else is in the tables is what says so.
var indexers = []indexer{
	{"rattler", rattlerIndex(`{}`), map[difference]string{
		{"shards", ".conda", "run_exports", "dropped"}:   noRunExports,
		{"shards", ".tar.bz2", "run_exports", "dropped"}: noRunExports,
	}},
	{"rattler from scratch", rattlerIndex(`{"force": true}`), map[difference]string{
		{"json", ".conda", "run_exports", "added"}:       ownRunExports,
		{"shards", ".conda", "run_exports", "changed"}:   ownRunExports,
		{"shards", ".conda", "run_exports", "dropped"}:   ownRunExports,
		{"shards", ".tar.bz2", "run_exports", "dropped"}: ownRunExports,
	}},
	{"conda-index", condaIndex("--zst", "--write-shards", "--run-exports", "--current-repodata", "--channeldata"), everywhere(condaIndexJSON)},
	{"conda-index without shards", condaIndex("--zst"), condaIndexJSON},
}

func (x indexer) indexes(t *testing.T, channel string, ours view) {
	dir := copied(t, channel)
	x.run(t, dir).want(t, 0)
	theirs := look(t, dir)
	expect(t, differ(ours, theirs), x.known)
	rattlerSees(t, dir, theirs)
	if x.name == "conda-index" {
		runExports(t, dir, channel, ours)
	}
}

// runExports: what conda-index finds in the packages is what Hallmark has in its shards and its run_exports.json.
func runExports(t *testing.T, dir, channel string, ours view) {
	found := 0
	for _, sub := range subdirs(t, dir) {
		var doc fields
		if err := json.Unmarshal(read(t, filepath.Join(dir, sub, "run_exports.json")), &doc); err != nil {
			t.Fatal(err)
		}
		for file, entry := range packagesOf(doc) {
			found++
			if d := cmp.Diff(entry["run_exports"], ours.shards[sub+"/"+file]["run_exports"]); d != "" {
				t.Errorf("%s: %s", file, d)
			}
		}
		var own fields
		if err := json.Unmarshal(read(t, filepath.Join(channel, sub, "run_exports.json")), &own); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(packagesOf(doc), packagesOf(own)); d != "" {
			t.Errorf("%s: the two run_exports.json differ: %s", sub, d)
		}
	}
	if found != len(ours.shards) {
		t.Errorf("conda-index has run exports of %d packages, want %d", found, len(ours.shards))
	}
}

// TestReadersOfListedRunExports: old packages have a list for run exports. Hallmark publishes what CEP 21 says, which rattler reads;
// the packages themselves rattler's indexer refuses, and conda-index's shards of them rattler's gateway.
func TestReadersOfListedRunExports(t *testing.T) {
	t.Parallel()
	readers(t)
	old := condatest.Spec{Name: "old", Version: "1", Build: "0", Subdir: "noarch", RunExports: json.RawMessage(`["old >=1"]`)}
	p := newPlace(t)
	run(t, programs.producer, p.publish(write(t, []condatest.Spec{old})...)...).want(t, 0)
	ours := look(t, p.channel)
	if d := cmp.Diff(fields{"weak": []any{"old >=1"}}, ours.shards["noarch/old-1-0.conda"]["run_exports"]); d != "" {
		t.Error(d)
	}
	rattlerSees(t, p.channel, ours)

	const refusal = "expected a sequence"
	if r := rattlerIndex(`{"force": true}`)(t, copied(t, p.channel)); r.code == 0 || !strings.Contains(r.stderr, refusal) {
		t.Errorf("rattler's indexer reads a list now (exit %d): %s", r.code, r.stderr)
	}
	dir := copied(t, p.channel)
	condaIndex("--write-shards")(t, dir).want(t, 0)
	srv := serve(t, dir)
	ask := reading{Channel: srv.URL, Platforms: platforms, Source: sources["shards"].options, Cache: t.TempDir()}
	if r := script(t, "read_rattler.py", ask); r.code == 0 || !strings.Contains(r.stderr, refusal) {
		t.Errorf("rattler reads a list in a shard now (exit %d): %s", r.code, r.stderr)
	}
}

// TestReadersOfChannelsOfOthers: Hallmark publishes into channels that others have indexed, from the start or in between. All that
// was there stays, field by field, and what is new is there in every form.
func TestReadersOfChannelsOfOthers(t *testing.T) {
	t.Parallel()
	readers(t)
	const foreigners, early = 10, 4
	foreign, signed := listless(condatest.Samples(foreigners, 63)), listless(condatest.Samples(20, 64)[10:])
	healed := map[difference]string{
		{"json", ".conda", "attestations_sha256", "added"}:   "publishing again advertises again what conda-index dropped",
		{"json", ".tar.bz2", "attestations_sha256", "added"}: "the same",
	}
	for _, x := range []struct {
		indexer
		heals map[difference]string // what publishing again what was there before adds
	}{
		{indexer{name: "rattler", run: rattlerIndex(`{}`)}, nil},
		{indexer{name: "rattler without shards", run: rattlerIndex(`{"write_shards": false}`)}, nil},
		{indexer{name: "conda-index", run: condaIndex("--zst", "--write-shards")}, everywhere(healed)},
		{indexer{name: "conda-index without shards", run: condaIndex()}, healed},
	} {
		for _, mixed := range []bool{false, true} {
			name, there := "first "+x.name+", then Hallmark", foreigners
			if mixed {
				name, there = "Hallmark, "+x.name+", Hallmark", foreigners+early
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				p := newPlace(t)
				if mixed {
					run(t, programs.producer, p.publish(write(t, signed[:early])...)...).want(t, 0)
				}
				for _, s := range foreign {
					if _, err := condatest.Write(filepath.Join(p.channel, s.Subdir), s); err != nil {
						t.Fatal(err)
					}
				}
				x.run(t, p.channel).want(t, 0)
				before := look(t, p.channel)
				if len(before.json) != there {
					t.Fatalf("%d records before, want %d", len(before.json), there)
				}
				sum := decode[campaign](t, run(t, programs.producer, p.publish(write(t, signed)...)...).want(t, 0))
				if sum.Published+sum.Skipped != len(signed) || sum.Failed != 0 {
					t.Errorf("%+v", sum)
				}
				after := look(t, p.channel)

				got := differ(before, after)
				maps.DeleteFunc(got, func(d difference, _ string) bool { return d.field == "" && d.what == "added" })
				known := map[difference]string{}
				if mixed {
					known = x.heals
				}
				expect(t, got, known)
				if len(after.json) != foreigners+len(signed) {
					t.Errorf("%d records in repodata.json, want %d", len(after.json), foreigners+len(signed))
				}
				for _, s := range signed {
					key := s.Subdir + "/" + s.Filename()
					side := read(t, filepath.Join(p.channel, filepath.FromSlash(key)+".sigs"))
					if n := len(bundles(t, side)); n != 1 {
						t.Errorf("%s has %d attestations", key, n)
					}
					if want := "0x" + hexSHA256(side); after.shards[key]["attestations_sha256"] != want {
						t.Errorf("%s: the shard advertises %v, not %s", key, after.shards[key]["attestations_sha256"], want)
					}
					for form, records := range map[string]map[string]fields{"repodata.json": after.json, ".zst": after.zst} {
						if records[key]["attestations_sha256"] != hexSHA256(side) {
							t.Errorf("%s: %s advertises %v", key, form, records[key]["attestations_sha256"])
						}
					}
				}
				if len(after.shards) != len(after.json) {
					t.Errorf("%d records in shards, %d in repodata.json", len(after.shards), len(after.json))
				}
				rattlerSees(t, p.channel, after)
			})
		}
	}
}
