package match

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// repodata is what these tests read of a repodata.json, and the golden keys beside it.
type repodata struct {
	Packages      map[string]repodataRecord
	PackagesConda map[string]repodataRecord `json:"packages.conda"`
	Once, Closed  []string
}

type repodataRecord struct {
	Name, Version, Build string
	BuildNumber          int64 `json:"build_number"`
	Timestamp            int64
	TrackFeatures        any `json:"track_features"`
	Features             any
	Depends              []string
}

func readRepodata(t testing.TB, path string) (rd repodata, records []Record) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &rd); err != nil {
		t.Fatal(err)
	}
	for _, m := range []map[string]repodataRecord{rd.Packages, rd.PackagesConda} {
		for key, r := range m {
			records = append(records, Record{
				Key: key, Name: r.Name, Version: r.Version, Build: r.Build, BuildNumber: r.BuildNumber, Timestamp: r.Timestamp,
				Features: filled(r.TrackFeatures) || filled(r.Features), Depends: r.Depends,
			})
		}
	}
	slices.SortFunc(records, func(a, b Record) int { return strings.Compare(a.Key, b.Key) })
	return rd, records
}

// filled says whether a list, as a text or an array, is not empty.
func filled(v any) bool {
	switch v := v.(type) {
	case string:
		return strings.TrimSpace(v) != ""
	case []any:
		return len(v) > 0
	}
	return false
}

// counted is a source over records that counts how often they are iterated over.
func counted(records []Record, iterations *int) func() iter.Seq2[Record, error] {
	return func() iter.Seq2[Record, error] {
		*iterations++
		return func(yield func(Record, error) bool) {
			for _, r := range records {
				// The slice is the iteration's own.
				r.Depends = slices.Clone(r.Depends)
				ok := yield(r, nil)
				clear(r.Depends)
				if !ok {
					return
				}
			}
		}
	}
}

func selectKeys(t testing.TB, s Source) []string {
	t.Helper()
	got, err := Newest(s)
	if err != nil {
		t.Fatal(err)
	}
	if got.Skipped != 0 {
		t.Errorf("%d skipped: %v", got.Skipped, got.Problems)
	}
	return slices.Sorted(maps.Keys(got.Keys))
}

func TestNewestGolden(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/newest/*.json")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d files, error %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			rd, records := readRepodata(t, file)
			slices.Sort(rd.Once)
			slices.Sort(rd.Closed)
			var n int
			if diff := cmp.Diff(rd.Once, selectKeys(t, Source{Records: counted(records, &n), Rounds: 1})); diff != "" {
				t.Errorf("once (-conda-index +ours):\n%s", diff)
			}
			// In any order of the records, with and without a way to ask for names.
			for seed := range uint64(5) {
				rand.New(rand.NewPCG(seed, 0)).Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
				all := counted(records, &n)
				for _, named := range []func([]string) iter.Seq2[Record, error]{nil, only(all)} {
					if diff := cmp.Diff(rd.Closed, selectKeys(t, Source{Records: all, Named: named})); diff != "" {
						t.Errorf("closed, order %d, by name %t (-want +got):\n%s", seed, named != nil, diff)
					}
				}
			}
		})
	}
}

// only gives nothing but the records of the names asked for.
func only(all func() iter.Seq2[Record, error]) func([]string) iter.Seq2[Record, error] {
	return func(names []string) iter.Seq2[Record, error] {
		return func(yield func(Record, error) bool) {
			for r, err := range all() {
				if slices.Contains(names, r.Name) && !yield(r, err) {
					return
				}
			}
		}
	}
}

// TestNewestPytorch compares with conda-index's selection from a real channel, when that is there.
func TestNewestPytorch(t *testing.T) {
	t.Parallel()
	path := filepath.Join("..", "..", "..", "..", "shared", "corpus", "repodata", "pytorch-linux-64.json")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		t.Skip("no corpus")
	}
	_, records := readRepodata(t, path)
	var once, closed []string
	for line := range strings.Lines(string(readTestdata(t, "newest-pytorch.txt"))) {
		how, key, _ := strings.Cut(strings.TrimSpace(line), " ")
		if how == "once" {
			once = append(once, key)
		}
		closed = append(closed, key)
	}
	slices.Sort(once)
	slices.Sort(closed)
	var n int
	if diff := cmp.Diff(once, selectKeys(t, Source{Records: counted(records, &n), Rounds: 1})); diff != "" {
		t.Errorf("once (-conda-index +ours):\n%s", diff)
	}
	n = 0
	if diff := cmp.Diff(closed, selectKeys(t, Source{Records: counted(records, &n)})); diff != "" {
		t.Errorf("closed (-want +got):\n%s", diff)
	}
	t.Logf("%d records, %d selected, %d iterations", len(records), len(closed), n)
}

// TestNewestIterations holds the documented cost.
func TestNewestIterations(t *testing.T) {
	t.Parallel()
	r := func(name, version string, depends ...string) Record {
		return Record{Key: name + "-" + version + "-0.conda", Name: name, Version: version, Build: "0", Depends: depends}
	}
	for _, c := range []struct {
		name    string
		records []Record
		all     int
		named   int
	}{
		{"nothing", nil, 2, 0},
		{"nothing missing", []Record{r("a", "1", "b"), r("b", "1")}, 2, 0},
		{"missing for good", []Record{r("a", "1", "b <1", "x"), r("b", "1")}, 2, 1},
		{"one round", []Record{r("a", "1", "b <1"), r("b", "1"), r("b", "0")}, 2, 2},
		{"two rounds", []Record{r("a", "1", "b <1"), r("b", "1"), r("b", "0", "a <1"), r("a", "0")}, 2, 4},
	} {
		var all, named int
		records := counted(c.records, &all)
		selectKeys(t, Source{Records: records, Named: func(names []string) iter.Seq2[Record, error] {
			named++
			return func(yield func(Record, error) bool) {
				for _, r := range c.records {
					if slices.Contains(names, r.Name) && !yield(r, nil) {
						return
					}
				}
			}
		}})
		if all != c.all || named != c.named {
			t.Errorf("%s: %d iterations over all and %d by name, want %d and %d", c.name, all, named, c.all, c.named)
		}
	}
}

func TestNewestSkips(t *testing.T) {
	t.Parallel()
	var records []Record
	for i := range 150 {
		records = append(records, Record{Key: fmt.Sprintf("a-1..%d-0.conda", i), Name: "a", Version: fmt.Sprintf("1..%d", i)})
	}
	records = append(records, Record{Key: "a-1-0.conda", Name: "a", Version: "1", Build: "0", Depends: []string{"b ((", "b <1", "b <1"}},
		Record{Key: "b-1-0.conda", Name: "b", Version: "1", Build: "0"}, Record{Key: "b-0-0.conda", Name: "b", Version: "0", Build: "0"})
	var n int
	got, err := Newest(Source{Records: counted(records, &n)})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"a-1-0.conda", "b-0-0.conda", "b-1-0.conda"}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(got.Keys))); diff != "" {
		t.Error(diff)
	}
	if got.Skipped != 151 || len(got.Problems) != maxProblems {
		t.Errorf("%d skipped, %d problems", got.Skipped, len(got.Problems))
	}
	var e *Error
	if !errors.As(got.Problems[0], &e) || e.Text != "1..0" || !strings.Contains(got.Problems[0].Error(), "a-1..0-0.conda") {
		t.Errorf("problem: %v", got.Problems[0])
	}
}

// TestNewestErrors ends every iteration with an error in turn: none may be lost.
func TestNewestErrors(t *testing.T) {
	t.Parallel()
	records := []Record{
		{Key: "a-1-0.conda", Name: "a", Version: "1", Depends: []string{"b <1"}},
		{Key: "b-1-0.conda", Name: "b", Version: "1"}, {Key: "b-0-0.conda", Name: "b", Version: "0"},
	}
	broken := errors.New("broken")
	for at := 1; at <= 5; at++ {
		n := 0
		_, err := Newest(Source{Records: func() iter.Seq2[Record, error] {
			n++
			fail := n == at
			return func(yield func(Record, error) bool) {
				for _, r := range records {
					if !yield(r, nil) {
						return
					}
				}
				if fail {
					yield(Record{}, broken)
				}
			}
		}})
		if want := at <= 4; errors.Is(err, broken) != want {
			t.Errorf("iteration %d: error %v, %d iterations", at, err, n)
		}
	}
}

// TestNewestArchives: what stands in for records with features is the .conda of a pair, whichever comes first.
func TestNewestArchives(t *testing.T) {
	t.Parallel()
	pair := []Record{
		{Key: "m-1-0.tar.bz2", Name: "m", Version: "1", Build: "0"}, {Key: "m-1-0.conda", Name: "m", Version: "1", Build: "0"},
		{Key: "m-2-0.conda", Name: "m", Version: "2", Build: "0", Features: true},
	}
	for range 2 {
		var n int
		want := []string{"m-1-0.conda", "m-2-0.conda"}
		if diff := cmp.Diff(want, selectKeys(t, Source{Records: counted(pair, &n)})); diff != "" {
			t.Error(diff)
		}
		pair[0], pair[1] = pair[1], pair[0]
	}
}
