package e2e

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hallmark-attest/hallmark/internal/conda/condatest"
)

// reading is what .ci/readers/read_rattler.py is asked.
type reading struct {
	Channel   string         `json:"channel"`
	Platforms []string       `json:"platforms"`
	Source    map[string]any `json:"source"`
	Cache     string         `json:"cache"`
	Solve     []string       `json:"solve,omitempty"`
	Prefix    string         `json:"prefix,omitempty"`
	Verify    map[string]any `json:"verify,omitempty"`
}

// read is what it answers.
type readingResult struct {
	Records  []fields
	Solution []string
	Verified map[string]string
}

// sources are the three ways in which rattler can read a subdir, with what it must have asked the server for and what not.
var sources = map[string]struct {
	options   map[string]any
	asks      string
	never     []string
	runExport bool
}{
	"shards":            {map[string]any{}, "/shards/", []string{"repodata.json"}, true},
	"repodata.json.zst": {map[string]any{"sharded_enabled": false}, "/repodata.json.zst", []string{"shards"}, false},
	"repodata.json":     {map[string]any{"sharded_enabled": false, "zstd_enabled": false, "bz2_enabled": false}, "/repodata.json", []string{"shards", ".zst"}, false},
}

var platforms = []string{"linux-64", "osx-arm64", "win-64", "noarch"}

// rattlerReads: whichever way it reads, rattler has every record as it stands, solves, installs, and accepts the attestations.
func rattlerReads(t *testing.T, channel string, ours view) {
	for name, s := range sources {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := serve(t, channel)
			dir := t.TempDir()
			ask := reading{
				Channel: srv.URL, Platforms: platforms, Source: s.options, Cache: filepath.Join(dir, "cache"),
				Solve: []string{"kit-app"}, Prefix: filepath.Join(dir, "prefix"),
				Verify: map[string]any{"trusted_root": stack.TrustedRoot, "identity": stack.Identity, "issuer": stack.Issuer, "channel_check": "ignore"},
			}
			got := decode[readingResult](t, script(t, "read_rattler.py", ask).want(t, 0))

			form := ours.json
			if s.runExport {
				form = ours.shards
			}
			sameRecords(t, srv.URL, got.Records, form)
			if len(srv.asked(s.asks)) == 0 {
				t.Errorf("rattler did not ask for %s", s.asks)
			}
			for _, n := range s.never {
				if r := srv.asked(n); len(r) > 0 {
					t.Errorf("rattler asked for %s: %v", n, r)
				}
			}
			slices.Sort(got.Solution)
			if d := cmp.Diff(kitSolution, got.Solution); d != "" {
				t.Error(d)
			}
			installed(t, ask.Prefix, kitInstalled)
			for _, file := range kitSolution {
				if got.Verified[file] != stack.Identity {
					t.Errorf("%s: rattler says of the attestation: %q", file, got.Verified[file])
				}
			}

			// Another signer, and another channel than the attested one, are refused.
			for field, wrong := range map[string]string{"identity": stack.Identity + "x", "channel_check": "require"} {
				ask.Verify = maps.Clone(ask.Verify)
				was := ask.Verify[field]
				ask.Verify[field] = wrong
				for file, who := range decode[readingResult](t, script(t, "read_rattler.py", ask).want(t, 0)).Verified {
					if !strings.Contains(who, "Error") {
						t.Errorf("%s: with %s %q rattler says %q", file, field, wrong, who)
					}
				}
				ask.Verify[field] = was
			}
		})
	}
}

// sameRecords compares what rattler's API and its records tell with the records as they stand.
func sameRecords(t *testing.T, url string, got []fields, want map[string]fields) {
	t.Helper()
	read := map[string]fields{}
	for _, r := range got {
		read[r["subdir"].(string)+"/"+r["fn"].(string)] = r
	}
	if d := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(read))); d != "" {
		t.Fatal(d)
	}
	for key, record := range want {
		w, r := maps.Clone(record), read[key]
		for _, f := range []string{"sha256", "md5", "attestations_sha256"} {
			if s, ok := w[f].(string); ok {
				w[f] = strings.TrimPrefix(s, "0x")
			}
		}
		api := fields{"sha256": w["sha256"], "md5": w["md5"], "size": w["size"], "file_name": r["fn"], "attestations_sha256": w["attestations_sha256"], "noarch": w["noarch"]}
		if d := cmp.Diff(api, r["api"].(fields)); d != "" {
			t.Errorf("%s: the API tells otherwise: %s", key, d)
		}
		if r["url"] != url+"/"+key || r["channel"] != url+"/" {
			t.Errorf("%s: %v of %v", key, r["url"], r["channel"])
		}
		for _, f := range []string{"api", "url", "fn", "channel"} {
			delete(r, f)
		}
		if exports, ok := w["run_exports"].(fields); ok { // of which rattler tells no empty lists
			exports = maps.Clone(exports)
			maps.DeleteFunc(exports, func(_ string, v any) bool { return len(v.([]any)) == 0 })
			w["run_exports"] = exports
		}
		if d := cmp.Diff(w, r); d != "" {
			t.Errorf("%s: %s", key, d)
		}
	}
}

// rattlerSees: whichever way it reads, rattler has every record as it stands.
func rattlerSees(t *testing.T, channel string, v view) {
	t.Helper()
	srv := serve(t, channel)
	for name, s := range sources {
		ask := reading{Channel: srv.URL, Platforms: platforms, Source: s.options, Cache: filepath.Join(t.TempDir(), "cache")}
		form := map[string]map[string]fields{"shards": v.shards, "repodata.json.zst": v.zst, "repodata.json": v.json}[name]
		if len(form) == 0 {
			continue
		}
		sameRecords(t, srv.URL, decode[readingResult](t, script(t, "read_rattler.py", ask).want(t, 0)).Records, form)
	}
}

// TestReadersSeeWhatIsNew: a reader with a cache sees what is published later, and what it has cached it does not ask for again.
func TestReadersSeeWhatIsNew(t *testing.T) {
	t.Parallel()
	readers(t)
	p := newPlace(t)
	all := write(t, condatest.Samples(12, 62))
	run(t, programs.producer, p.publish(all[:8]...)...).want(t, 0)
	srv := serve(t, p.channel)
	caches := t.TempDir()
	names := func(source string) int {
		ask := reading{Channel: srv.URL, Platforms: platforms, Source: sources[source].options, Cache: filepath.Join(caches, source)}
		return len(decode[readingResult](t, script(t, "read_rattler.py", ask).want(t, 0)).Records)
	}
	for source := range sources {
		if n := names(source); n != 8 {
			t.Errorf("%s: %d records, want 8", source, n)
		}
	}
	run(t, programs.producer, p.publish(all[8:]...)...).want(t, 0)
	for source := range sources {
		if n := names(source); n != 12 {
			t.Errorf("%s: %d records, want 12", source, n)
		}
	}
	shards := map[string]int{}
	for _, r := range srv.asked("/shards/") {
		shards[r.path]++
	}
	for path, n := range shards {
		if n > 1 {
			t.Errorf("%s was asked for %d times", path, n)
		}
	}
	if len(shards) != 12 {
		t.Errorf("%d shards were read, want 12: each sample has a name of its own", len(shards))
	}
	before := len(srv.asked("repodata"))
	for source := range sources {
		if n := names(source); n != 12 {
			t.Errorf("%s: %d records, want 12", source, n)
		}
	}
	for _, r := range srv.asked("repodata")[before:] {
		if r.condition == "" || r.status != 304 {
			t.Errorf("%s was read again whole though nothing changed: %+v", r.path, r)
		}
	}
}
