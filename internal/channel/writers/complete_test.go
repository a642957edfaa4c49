package writers_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hallmark-attest/hallmark/internal/channel"
	"github.com/hallmark-attest/hallmark/internal/store"
)

// complete reports everything that is missing from a channel, in it without right, or in disagreement, when all writers are done.
// want has the bundles of each file's sidecar, in any order.
func complete(t *testing.T, get getter, want map[string][]string) {
	t.Helper()
	rows, _, err := loadShards(get, map[string]shardOf{})
	if err != nil {
		t.Fatal(err)
	}
	doc, raw, err := loadDocument(get)
	if err != nil {
		t.Fatal(err)
	}
	if z, err := get(subdir + "/repodata.json.zst"); err != nil {
		t.Error(err)
	} else if z, err = unzstd(z); err != nil || !bytes.Equal(z, raw) {
		t.Errorf("repodata.json.zst is not that of repodata.json (%v)", err)
	}
	exports, err := runExports(get)
	if err != nil {
		t.Fatal(err)
	}
	if err := current(get, doc); err != nil {
		t.Errorf("current_repodata.json: %v", err)
	}
	same(t, "the shards", maps.Keys(rows), want)
	same(t, "repodata.json", maps.Keys(doc.rows), want)
	same(t, "run_exports.json", slices.Values(exports), want)
	if t.Failed() {
		return
	}
	for file, bundles := range want {
		if err := intact(get, file, bundles, rows[file], doc.rows[file]); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// current checks that current_repodata.json has each name's newest, at least, and nothing that repodata.json has not.
func current(get getter, doc document) error {
	b, err := get(subdir + "/current_repodata.json")
	if err != nil {
		return err
	}
	z, err := get(subdir + "/current_repodata.json.zst")
	if err == nil {
		z, err = unzstd(z)
	}
	if err != nil || !bytes.Equal(z, b) {
		return fmt.Errorf("its .zst is another's (%v)", err)
	}
	d, err := parseDocument(b)
	if err != nil {
		return err
	}
	names := map[string]bool{}
	for file := range doc.rows {
		p, _ := packOf(file)
		names[p.Name] = true
	}
	for file, r := range d.rows {
		if w, ok := doc.rows[file]; !ok || w.SHA256 != r.SHA256 || w.Attestations != r.Attestations {
			return fmt.Errorf("%s: %+v, repodata.json has %+v", file, r, w)
		}
		p, _ := packOf(file)
		delete(names, p.Name)
	}
	if len(names) > 0 {
		return fmt.Errorf("it has nothing of %d names", len(names))
	}
	return nil
}

func runExports(get getter) (files []string, err error) {
	b, err := get(subdir + "/run_exports.json")
	if err != nil {
		return nil, err
	}
	var top map[string]json.RawMessage
	if err := json.Unmarshal(b, &top); err != nil {
		return nil, fmt.Errorf("run_exports.json: %w", err)
	}
	for _, section := range []string{"packages", "packages.conda"} {
		err := members(top[section], func(file string, dec *json.Decoder) error {
			files = append(files, file)
			var any json.RawMessage
			return dec.Decode(&any)
		})
		if err != nil {
			return nil, fmt.Errorf("run_exports.json: %w", err)
		}
	}
	return files, nil
}

// same compares files, and names a few that differ.
func same(t *testing.T, what string, files func(func(string) bool), want map[string][]string) {
	t.Helper()
	have := map[string]int{}
	for f := range files {
		have[f]++
	}
	var missing, surplus []string
	for f := range want {
		if have[f] == 0 {
			missing = append(missing, f)
		}
	}
	for f, n := range have {
		if want[f] == nil || n > 1 {
			surplus = append(surplus, f)
		}
	}
	if len(missing)+len(surplus) > 0 {
		slices.Sort(missing)
		slices.Sort(surplus)
		t.Errorf("%s: %d files; of %d that are wanted %d are missing %.300q, %d are too many or there twice %.300q",
			what, len(have), len(want), len(missing), missing, len(surplus), surplus)
	}
}

// intact checks one package with all that is of it.
func intact(get getter, file string, bundles []string, rows ...row) error {
	p, ours := packOf(file)
	if !ours {
		return errors.New("nobody publishes that")
	}
	b, err := get(subdir + "/" + file)
	if err != nil {
		return err
	}
	if !bytes.Equal(b, p.bytes()) {
		return errors.New("its bytes are others")
	}
	sigs, err := get(subdir + "/" + file + ".sigs")
	if err != nil {
		return err
	}
	for i, r := range rows {
		if r.SHA256 != digest(b) || r.Attestations != digest(sigs) {
			return fmt.Errorf("record %d has sha256 %s and attestations_sha256 %s, the files have %s and %s", i, r.SHA256, r.Attestations, digest(b), digest(sigs))
		}
	}
	twin, err := get(subdir + "/" + file + ".sigs." + digest(sigs))
	if err != nil {
		return err
	}
	if !bytes.Equal(sigs, twin) {
		return errors.New("its immutable sidecar has other bytes")
	}
	have, err := elements(sigs)
	if err != nil {
		return fmt.Errorf("its sidecar: %w", err)
	}
	slices.Sort(have)
	if want := slices.Sorted(slices.Values(bundles)); !slices.Equal(have, want) {
		return fmt.Errorf("its sidecar has %d bundles, not the %d that were added", len(have), len(want))
	}
	return nil
}

// directory reads objects out of a folder.
func directory(dir string) getter {
	return func(key string) ([]byte, error) { return os.ReadFile(filepath.Join(dir, filepath.FromSlash(key))) }
}

// channelcheck has the channel's own Check look, and the independent checker, where it is there.
func channelcheck(t *testing.T, dir string, packages int) {
	t.Helper()
	s, err := store.NewDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range []string{subdir, "noarch"} {
		for d, err := range channel.New(s, channel.Options{}).Check(t.Context(), in, channel.CheckOptions{}, nil) {
			if err != nil {
				t.Fatal(err)
			}
			t.Error(d)
		}
	}
	tool, err := filepath.Abs("../../../../shared/tools/channelcheck")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(tool, "main.go")); errors.Is(err, os.ErrNotExist) {
		t.Log("the independent checker is not here")
		return
	}
	cmd := exec.CommandContext(t.Context(), "go", "run", "-C", tool, ".", "-require-signed", "-expect", fmt.Sprint(packages), dir, subdir, "noarch")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("channelcheck: %v\n%.4000s", err, out)
		return
	}
	t.Logf("channelcheck: %s", bytes.TrimSpace(out))
}
