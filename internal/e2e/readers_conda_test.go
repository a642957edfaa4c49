package e2e

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// streamingReads: conda-package-streaming reads the metadata of our packages over the network with a part of their bytes, and
// unpacks them.
func streamingReads(t *testing.T, channel string, ours view) {
	srv := serve(t, channel)
	ask := struct {
		URLs  []string `json:"urls"`
		Files []string `json:"files"`
		Into  string   `json:"into"`
	}{Into: t.TempDir()}
	for key := range ours.json {
		ask.URLs = append(ask.URLs, srv.URL+"/"+key)
		ask.Files = append(ask.Files, filepath.Join(channel, filepath.FromSlash(key)))
	}
	got := decode[map[string]fields](t, script(t, "read_streaming.py", ask).want(t, 0))
	for key, record := range ours.json {
		want := maps.Clone(record)
		for _, f := range []string{"sha256", "md5", "size", "attestations_sha256", "indexed_timestamp", "run_exports"} {
			delete(want, f)
		}
		if d := cmp.Diff(want, got[srv.URL+"/"+key]); d != "" {
			t.Errorf("%s: record and info/index.json differ: %s", key, d)
		}
	}
	const big = "linux-64/kit-app-1.0-h0_0.conda"
	var bytes int64
	for _, r := range srv.asked(big) {
		if r.ranged == "" || r.status != 206 {
			t.Errorf("not a range: %+v", r)
		}
		bytes += r.bytes
	}
	if size := int64(ours.json[big]["size"].(float64)); bytes == 0 || bytes > size/10 {
		t.Errorf("%d of %d bytes read for the metadata", bytes, size)
	}
	installed(t, ask.Into, map[string]string{
		"kit-app-1.0-h0_0.conda/bin/kit-app":                          "#!/bin/sh\necho kit\n",
		"kit-data-1!2024.1-h0_0.tar.bz2/share/kit/data.txt":           "data\n",
		"kit-py-0.1+local-pyh0_0.conda/site-packages/kit/__init__.py": "answer = 42\n",
	})
}

// condaReads: conda itself, the version that conda-lock brings along: searches, solves and installs. It knows neither shards nor
// attestations and must not mind them.
func condaReads(t *testing.T, channel string, ours view) {
	srv := serve(t, channel)
	from := []string{"--override-channels", "-c", srv.URL, "--json"}
	conda := func(t *testing.T, args ...string) string {
		t.Helper()
		return script(t, "run_conda.py", nil, slices.Concat(args[:1], from, args[1:])...).want(t, 0).stdout
	}
	t.Run("search", func(t *testing.T) {
		t.Parallel()
		found := map[string]fields{}
		for _, sub := range platforms {
			r := result{stdout: conda(t, "search", "--subdir", sub, "*")}
			for _, list := range decode[map[string][]fields](t, r) {
				for _, f := range list {
					found[f["subdir"].(string)+"/"+f["fn"].(string)] = f
				}
			}
		}
		if d := cmp.Diff(slices.Sorted(maps.Keys(ours.json)), slices.Sorted(maps.Keys(found))); d != "" {
			t.Error(d)
		}
		for key, record := range ours.json {
			if found[key]["url"] != srv.URL+"/"+key {
				t.Errorf("%s: %v", key, found[key]["url"])
			}
			for f, want := range record {
				switch f {
				case "attestations_sha256", "indexed_timestamp", "run_exports", "python_site_packages_path":
					continue // newer than this conda
				case "arch", "platform", "track_features":
					continue // conda computes these
				}
				if d := cmp.Diff(want, found[key][f]); d != "" {
					t.Errorf("%s: %s: %s", key, f, d)
				}
			}
		}
	})
	type plan struct {
		Success bool
		Actions struct {
			LINK []struct {
				DistName string `json:"dist_name"`
			}
		}
	}
	t.Run("solve", func(t *testing.T) {
		t.Parallel()
		prefix := filepath.Join(t.TempDir(), "env")
		p := decode[plan](t, result{stdout: conda(t, "create", "--dry-run", "-p", prefix, "kit-app")})
		var got, want []string
		for _, l := range p.Actions.LINK {
			got = append(got, l.DistName)
		}
		for _, file := range kitSolution {
			want = append(want, strings.TrimSuffix(strings.TrimSuffix(file, ".conda"), ".tar.bz2"))
		}
		slices.Sort(got)
		slices.Sort(want)
		if d := cmp.Diff(want, got); d != "" || !p.Success {
			t.Error(p, d)
		}
		if _, err := os.Stat(prefix); err == nil {
			t.Error("a dry run made something")
		}
	})
	t.Run("install", func(t *testing.T) {
		t.Parallel()
		// Without kit-py: conda would run the installed Python, and kit's is none.
		prefix := filepath.Join(t.TempDir(), "env")
		conda(t, "create", "-p", prefix, "kit-lib<2", "kit-data")
		installed(t, prefix, map[string]string{"lib/kit.txt": "1.2.4\n", "share/kit/data.txt": "data\n"})
	})
}
