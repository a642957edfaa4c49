package match

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func readTestdata(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// versionGroups reads versions.txt: ascending lines of versions that are equal.
func versionGroups(t testing.TB) (groups [][]Version) {
	t.Helper()
	for line := range strings.Lines(string(readTestdata(t, "versions.txt"))) {
		var group []Version
		for _, text := range strings.Fields(line) {
			v, err := ParseVersion(text)
			if err != nil {
				t.Fatal(err)
			}
			group = append(group, v)
		}
		groups = append(groups, group)
	}
	return groups
}

func TestVersionOrder(t *testing.T) {
	t.Parallel()
	groups := versionGroups(t)
	if len(groups) < 500 {
		t.Fatalf("only %d groups", len(groups))
	}
	for i, g := range groups {
		for j, h := range groups {
			want := 0
			switch {
			case i < j:
				want = -1
			case i > j:
				want = 1
			}
			for _, v := range g {
				for _, w := range h {
					if got := v.Compare(w); got != want {
						t.Errorf("%s compared with %s: %d, want %d", v, w, got, want)
					}
				}
			}
		}
	}
}

func TestVersionInvalid(t *testing.T) {
	t.Parallel()
	var invalid []string
	if err := json.Unmarshal(readTestdata(t, "versions_invalid.json"), &invalid); err != nil {
		t.Fatal(err)
	}
	invalid = append(invalid, strings.Repeat("1", maxVersion+1), "1.0\x00", "\u212a")
	for _, text := range invalid {
		v, err := ParseVersion(text)
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%q is read as %v, error %v", text, v.main, err)
		}
		if !v.IsZero() {
			t.Errorf("%q: a version beside an error", text)
		}
	}
}

func TestVersionBlanksAndCase(t *testing.T) {
	t.Parallel()
	a, err := ParseVersion(" 1.0RC1\t")
	if err != nil {
		t.Fatal(err)
	}
	b, err := ParseVersion("1.0rc1")
	if err != nil {
		t.Fatal(err)
	}
	if a.Compare(b) != 0 || a.String() != " 1.0RC1\t" {
		t.Errorf("%q: compared %d", a, a.Compare(b))
	}
}

func TestCompareAllocatesNothing(t *testing.T) {
	a, _ := ParseVersion("1!2.15.1_ALPHA.dev3+cu118.1")
	b, _ := ParseVersion("1!2.15.1_ALPHA.dev3+cu118.2")
	p, _ := ParseVersion("1!2.15.1_AL")
	if n := testing.AllocsPerRun(100, func() {
		if a.Compare(b) != -1 || !a.HasPrefix(p) {
			t.Error("wrong order")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzVersion(f *testing.F) {
	for _, g := range versionGroups(f) {
		f.Add(g[0].text, "1.0")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		v, err := ParseVersion(a)
		if err != nil {
			return
		}
		if v.Compare(v) != 0 || !v.HasPrefix(v) {
			t.Errorf("%q does not equal itself", a)
		}
		w, err := ParseVersion(b)
		if err != nil {
			return
		}
		if v.Compare(w) != -w.Compare(v) {
			t.Errorf("%q and %q: the order depends on the side", a, b)
		}
		if v.Compare(w) == 0 && !(v.HasPrefix(w) && w.HasPrefix(v)) {
			t.Errorf("%q and %q are equal and not each other's prefix", a, b)
		}
	})
}
