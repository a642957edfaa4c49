package condatest

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hallmark-attest/hallmark/internal/conda"
)

func TestSamplesAreTheSameForTheSameSeed(t *testing.T) {
	t.Parallel()
	a, b, other := Samples(16, 1), Samples(16, 1), Samples(16, 2)
	same := 0
	for i := range a {
		x, err := a[i].Bytes()
		if err != nil {
			t.Fatal(err)
		}
		y, _ := b[i].Bytes()
		z, _ := other[i].Bytes()
		if a[i].Filename() != b[i].Filename() || !bytes.Equal(x, y) {
			t.Errorf("%s differs from itself", a[i].Filename())
		}
		if bytes.Equal(x, z) {
			same++
		}
	}
	if same > 0 {
		t.Errorf("%d samples of 16 are the same for another seed", same)
	}
	if more := Samples(40, 1); more[7].Filename() != a[7].Filename() {
		t.Error("the number of samples changes the first ones")
	}
}

// The demonstrations and other packages' tests count on this variety in the first eight.
func TestSamplesHaveVariety(t *testing.T) {
	t.Parallel()
	specs := Samples(8, 9)
	names := map[string]bool{}
	some := func(what string, is func(Spec) bool) {
		if !slices.ContainsFunc(specs, is) {
			t.Errorf("no sample has %s", what)
		}
	}
	for _, s := range specs {
		if names[s.Filename()] {
			t.Errorf("%s twice", s.Filename())
		}
		names[s.Filename()] = true
		if _, err := conda.ParseFilename(s.Filename()); err != nil {
			t.Error(err)
		}
	}
	for _, subdir := range []string{"linux-64", "osx-arm64", "win-64", "noarch"} {
		some(subdir, func(s Spec) bool { return s.Subdir == subdir })
	}
	some(".conda", func(s Spec) bool { return s.Format == conda.Conda })
	some(".tar.bz2", func(s Spec) bool { return s.Format == conda.TarBz2 })
	some("noarch python", func(s Spec) bool { return s.Noarch == "python" })
	some("noarch generic", func(s Spec) bool { return s.Noarch == "generic" })
	some("a dot in the name", func(s Spec) bool { return strings.Contains(s.Name, ".") })
	some("an underscore in the name", func(s Spec) bool { return strings.Contains(s.Name, "_") })
	some("a capital in the build", func(s Spec) bool { return strings.ToLower(s.Build) != s.Build })
	some("'+'", func(s Spec) bool { return strings.Contains(s.Version, "+") })
	some("'!'", func(s Spec) bool { return strings.Contains(s.Version, "!") })
	some("a list of run exports", func(s Spec) bool { return bytes.HasPrefix(s.RunExports, []byte("[")) })
	some("a map of run exports", func(s Spec) bool { return bytes.HasPrefix(s.RunExports, []byte("{")) })
	some("no run exports", func(s Spec) bool { return s.RunExports == nil })
	some("constrains", func(s Spec) bool { return len(s.Constrains) > 0 })
	some("a payload", func(s Spec) bool { return s.Payload > 0 })
}

func TestWrite(t *testing.T) {
	t.Parallel()
	s := Samples(1, 1)[0]
	dir := filepath.Join(t.TempDir(), s.Subdir)
	p, err := Write(dir, s)
	if err != nil || p != filepath.Join(dir, s.Filename()) {
		t.Errorf("%s: %v", p, err)
	}
	if _, err := Write(p, s); err == nil {
		t.Error("a package was written below a file")
	}
}
