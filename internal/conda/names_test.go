package conda_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hallmark-attest/hallmark/internal/conda"
	"github.com/hallmark-attest/hallmark/internal/conda/condatest"
)

func TestParseFilename(t *testing.T) {
	t.Parallel()
	for filename, want := range map[string]conda.Name{
		"numpy-2.1.0-py312h_0.conda":                         {"numpy", "2.1.0", "py312h_0", conda.Conda},
		"mock-2.0.0-py37_1000.tar.bz2":                       {"mock", "2.0.0", "py37_1000", conda.TarBz2},
		"a-1-0.conda":                                        {"a", "1", "0", conda.Conda},
		"_libgcc_mutex-0.1-main.conda":                       {"_libgcc_mutex", "0.1", "main", conda.Conda},
		"_-1-0.conda":                                        {"_", "1", "0", conda.Conda}, // the regex and the text both allow it
		"scikit-learn.x_y-1!2.0+local.1_a-cuda_H0.1+x.conda": {"scikit-learn.x_y", "1!2.0+local.1_a", "cuda_H0.1+x", conda.Conda},
		"a.tar.bz2-1-0.conda":                                {"a.tar.bz2", "1", "0", conda.Conda},
		"trailing_-1-0.conda":                                {"trailing_", "1", "0", conda.Conda},
		"7zip-19-0.conda":                                    {"7zip", "19", "0", conda.Conda},
		strings.Repeat("n", 64) + "-1-0.conda":               {strings.Repeat("n", 64), "1", "0", conda.Conda},
		"n-" + strings.Repeat("1", 64) + "-0.conda":          {"n", strings.Repeat("1", 64), "0", conda.Conda},
		"n-1-" + strings.Repeat("B", 64) + ".tar.bz2":        {"n", "1", strings.Repeat("B", 64), conda.TarBz2},
		"a-b-c-d-1.0-0.conda":                                {"a-b-c-d", "1.0", "0", conda.Conda},
	} {
		got, err := conda.ParseFilename(filename)
		if err != nil {
			t.Errorf("%s: %v", filename, err)
			continue
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", filename, d)
		}
		if got.String() != filename {
			t.Errorf("%s comes back as %s", filename, got)
		}
	}
	for _, filename := range []string{
		"", ".conda", "-.conda", "--.conda", "a.conda", "a-1.conda", "a-1-.conda", "a--0.conda", "-1-0.conda",
		"a-1-0", "a-1-0.zip", "a-1-0.tar.gz", "a-1-0.CONDA", "a-1-0.conda ", "a-1-0.conda.tar",
		"A-1-0.conda", "a-1RC-0.conda", "a-1-0!1.conda", "a-1-é.conda", "ä-1-0.conda", "a b-1-0.conda", "a+b-1-0.conda", "a!b-1-0.conda",
		"a..b-1-0.conda", "a-_b-1-0.conda", "_.a-1-0.conda", "__glibc-2-0.conda", ".a-1-0.conda", "-a-1-0.conda",
		"a/b-1-0.conda", "linux-64/a-1-0.conda", `a\b-1-0.conda`, "a-1-0\x00.conda", "a-1/2-0.conda", "a\n-1-0.conda",
		strings.Repeat("n", 65) + "-1-0.conda", "n-" + strings.Repeat("1", 65) + "-0.conda", "n-1-" + strings.Repeat("b", 65) + ".conda",
		strings.Repeat("n", 10_000) + ".conda",
	} {
		if n, err := conda.ParseFilename(filename); code(err) != conda.CodeNameInvalid || n != (conda.Name{}) {
			t.Errorf("%.80q: %+v, %v", filename, n, err)
		} else if len(err.Error()) > 1000 {
			t.Errorf("%.80q: the message has %d bytes", filename, len(err.Error()))
		}
	}
}

func TestCheckSubdir(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"noarch", "linux-64", "osx-arm64", "win-64", "emscripten-wasm32", "linux-ppc64le", strings.Repeat("a", 16) + "-" + strings.Repeat("b", 15)} {
		if err := conda.CheckSubdir(s); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []string{"", "linux", "linux-", "-64", "Linux-64", "linux_64", "linux-64-x", "..", "a/b-c", "noarch-", "linux-64\n", strings.Repeat("a", 16) + "-" + strings.Repeat("b", 16)} {
		if err := conda.CheckSubdir(s); code(err) != conda.CodeSubdirInvalid {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func FuzzParseFilename(f *testing.F) {
	for _, s := range condatest.Samples(8, 1) {
		f.Add(s.Filename())
	}
	for _, b := range condatest.Bad() {
		f.Add(b.Filename)
	}
	f.Fuzz(func(t *testing.T, filename string) {
		n, err := conda.ParseFilename(filename)
		if err != nil {
			if code(err) != conda.CodeNameInvalid {
				t.Fatalf("untyped: %v", err)
			}
			return
		}
		if n.String() != filename {
			t.Fatalf("%q comes back as %q", filename, n)
		}
		if strings.ContainsAny(filename, "/\\\x00 %") || len(filename) > 211 || strings.ToLower(n.Name+n.Version) != n.Name+n.Version {
			t.Fatalf("%q passes", filename)
		}
	})
}
