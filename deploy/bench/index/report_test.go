package main

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hallmark-attest/hallmark/internal/channel"
	"github.com/hallmark-attest/hallmark/internal/store"
)

func TestCompareTakesTheBetterPeerWithoutItsStart(t *testing.T) {
	t.Parallel()
	u := func(bytes int64, wall, cpu time.Duration, peak int64) Usage {
		return Usage{Read: bytes, Wall: wall * time.Second, CPU: cpu * time.Second, Peak: peak}
	}
	ours := &tool{name: "hallmark"}
	a, b := &tool{name: "a", start: u(100, 1, 1, 1)}, &tool{name: "b"}
	var r Report
	r.add(ours, rowPrepare, 0, u(1, 1, 1, 900<<20), nil)
	r.add(ours, rowUpdate, 100, u(10, 2, 1, 100<<20), nil)
	r.add(ours, rowCatchUp, 0, u(1, 1, 1, 200<<20), nil)
	r.add(a, rowUpdate, 100, u(600, 41, 11, 1), nil)
	r.add(b, rowUpdate, 100, u(700, 10, 20, 1), nil)
	r.add(b, rowUpdate, 1, u(1, 1, 1, 1), nil)
	r.compare("hallmark")
	want := []Ratio{{What: rowUpdate, Packages: 100, Bytes: 50, Wall: 5, CPU: 10, Of: []string{"bytes: a", "wall: b", "cpu: a"}}}
	if diff := cmp.Diff(want, r.Ratios); diff != "" {
		t.Error(diff)
	}
	if r.PeakBytes != 200<<20 {
		t.Errorf("peak of %d bytes, want that of the catch-up: indexing all is not compared", r.PeakBytes)
	}
	if got := strings.Join(r.goals(), "\n"); strings.Contains(got, "MISSED") || strings.Count(got, "reached") != 3 {
		t.Errorf("all three goals are reached, and it says:\n%s", got)
	}
	r.Ratios[0].Bytes, r.Ratios[0].Wall, r.PeakBytes = 49.9, 1, 257<<20
	if got := strings.Join(r.goals(), "\n"); strings.Count(got, "MISSED") != 3 {
		t.Errorf("all three goals are missed, and it says:\n%s", got)
	}
}

func TestVerifyMissesWhatIsNotIndexed(t *testing.T) {
	t.Parallel()
	d := Directory{t.TempDir()}
	s := synth(t, 60, 20, 1)
	if err := d.Make(t.Context(), s, ""); err != nil {
		t.Fatal(err)
	}
	if err := d.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	entries, err := makeAdditions(t.Context(), d.root, s, 5, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.placeAdditions(t.Context(), 0, entries); err != nil {
		t.Fatal(err)
	}
	dir, err := store.NewDir(d.channel())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	ch := channel.New(dir, channel.Options{})
	if _, err := ch.Adopt(t.Context(), subdir); err != nil {
		t.Fatal(err)
	}
	if err := (work{entries: filepath.Join(d.root, "additions", "0.entries"), batch: 2}).update(t.Context(), ch); err != nil {
		t.Fatal(err)
	}
	if err := d.verify(entries, 20); err != nil {
		t.Error(err)
	}
	if err := d.verify(entries, 100); err == nil {
		t.Error("names that are missing were not missed")
	}
	more, err := makeAdditions(t.Context(), d.root, s, 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.verify(more, 20); err == nil {
		t.Error("a package that was not indexed was not missed")
	}
	// Nothing of it is left for the next tool.
	if err := d.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(d.sub("*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 61 {
		t.Errorf("%d files in the channel's folder, want 60 empty ones and repodata.json", len(left))
	}
}
