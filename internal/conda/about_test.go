package conda_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hallmark-attest/hallmark/internal/conda"
	"github.com/hallmark-attest/hallmark/internal/conda/condatest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// aboutSpecs are packages as conda-build and rattler-build make them, with all that channeldata.json tells of.
func aboutSpecs() []condatest.Spec {
	paths := func(entries ...string) []byte {
		return []byte(`{"paths": [` + strings.Join(entries, ",") + `], "paths_version": 1}`)
	}
	built := plain(conda.TarBz2)
	built.Name, built.Timestamp, built.License = "conda-built", 1_600_000_000_123, "BSD-3-Clause"
	built.RunExports = []byte(`["conda-built >=1.0,<2.0a0"]`)
	built.Info = map[string][]byte{
		"about.json": []byte(`{"home": "https://home.example/", "dev_url": "https://dev.example", "doc_url": "https://doc.example",
			"license": "BSD 3-Clause", "summary": " Two\nlines \n", "tags": []}`),
		"recipe/meta.yaml": []byte("package:\n  name: conda-built\nsource:\n    url: https://src.example/a.tar.gz\n    sha256: aa\nabout:\n  home: x\n"),
		"paths.json": paths(`{"_path": "bin/tool", "file_mode": "binary", "prefix_placeholder": "/placehold", "path_type": "hardlink"}`,
			`{"_path": "etc/conda/activate.d/tool.sh"}`, `{"_path": "bin/.conda-built-post-link.sh"}`, `{"_path": "bin/.other-name.txt"}`),
	}
	mirrors := plain(conda.Conda)
	mirrors.Name, mirrors.License, mirrors.Timestamp = "mirrors", "", 1_500_000_000
	mirrors.Info = map[string][]byte{
		"about.json":       []byte(`{"license": "GPL-3.0-only", "summary": null}`),
		"recipe/meta.yaml": []byte("source:\n  url:\n  - https://src.example/a.tar.gz\n  - https://mirror.example/a.tar.gz\n"),
		"paths.json": paths(`{"_path": "etc/x.cfg", "file_mode": "text", "prefix_placeholder": "/p"}`, `{"_path": "etc/conda/deactivate.d/x.sh"}`,
			`{"_path": "Scripts/.mirrors-pre-unlink.bat"}`, `{"_path": "bin/.mirrors-pre-link.sh"}`, `{"_path": "a", "file_mode": "binary", "prefix_placeholder": ""}`),
	}
	rattler := plain(conda.Conda)
	rattler.Name, rattler.RunExports = "rattler-built", []byte(`{"weak": ["rattler-built"], "strong": []}`)
	rattler.Info = map[string][]byte{
		"about.json": []byte(`{"home": ["https://home.example/"], "dev_url": ["https://dev.example/a", "https://dev.example/b"], "license": "MIT", "summary": "é & <b>"}`),
		"recipe/rendered_recipe.yaml": []byte("recipe:\n  source: &s\n  - url: https://${{ not }}/rendered\nfinalized_sources:\n- url: https://src.example/a.tar.gz\n" +
			"  sha256: aa\n- git: https://git.example/r\n  rev: v1\n- url: [https://src.example/b.zip]\n- path: /local\n"),
		"paths.json": paths(`{"_path": "site-packages/x.py", "prefix_placeholder": null}`),
	}
	bare := plain(conda.Conda)
	bare.Name, bare.License = "bare", ""
	bare.Info = map[string][]byte{"about.json": []byte(`{}`), "recipe/meta.yaml": []byte("{% set version = \"1\" %}\nsource:\n  url: x\n"), "paths.json": []byte(`{}`)}
	return append(condatest.Samples(8, 38), built, mirrors, rattler, bare)
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	out := map[string]conda.About{}
	for _, s := range aboutSpecs() {
		files, err := readInfo(t, s.Filename(), build(t, s), conda.AboutFiles()...)
		if err != nil {
			t.Fatal(err)
		}
		about, err := conda.Describe(files)
		if err != nil {
			t.Errorf("%s: %v", s.Filename(), err)
		}
		out[s.Filename()] = about
	}
	var got bytes.Buffer
	e := json.NewEncoder(&got)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(out); err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "about.json")
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got.String()); d != "" {
		t.Error(d)
	}
}

// Each thing that a package can say, alone.
func TestDescribeOne(t *testing.T) {
	t.Parallel()
	index := []byte(`{"name": "n"}`)
	nothing := conda.About{RunExports: []byte("{}")}
	for _, c := range []struct {
		file, text string
		want       func(*conda.About)
	}{
		{"paths.json", `{"paths": [{"_path": "etc/conda/activate.d/x.sh"}]}`, func(a *conda.About) { a.ActivateD = true }},
		{"paths.json", `{"paths": [{"_path": "etc/conda/deactivate.d/x.sh"}]}`, func(a *conda.About) { a.DeactivateD = true }},
		{"paths.json", `{"paths": [{"_path": "etc/conda/activate.d"}, {"_path": "lib/etc/conda/activate.d/x"}]}`, nil},
		{"paths.json", `{"paths": [{"_path": "a", "prefix_placeholder": "/p", "file_mode": "binary"}]}`, func(a *conda.About) { a.BinaryPrefix = true }},
		{"paths.json", `{"paths": [{"_path": "a", "prefix_placeholder": "/p", "file_mode": "text"}]}`, func(a *conda.About) { a.TextPrefix = true }},
		{"paths.json", `{"paths": [{"_path": "a", "prefix_placeholder": "/p"}]}`, func(a *conda.About) { a.TextPrefix = true }},
		{"paths.json", `{"paths": [{"_path": "a", "file_mode": "binary"}, {"_path": "b", "prefix_placeholder": ""}]}`, nil},
		{"paths.json", `{"paths": [{"_path": "bin/.n-post-link.sh"}]}`, func(a *conda.About) { a.PostLink = true }},
		{"paths.json", `{"paths": [{"_path": "Scripts/.n-post-link.bat"}]}`, func(a *conda.About) { a.PostLink = true }},
		{"paths.json", `{"x": {"paths": []}, "paths": [{"_path": "bin/.n-pre-link.sh"}], "y": 1}`, func(a *conda.About) { a.PreLink = true }},
		{"paths.json", `{"paths": [{"_path": "Scripts/.n-pre-unlink.bat"}]}`, func(a *conda.About) { a.PreUnlink = true }},
		{"paths.json", `{"paths": [{"_path": "bin/.m-post-link.sh"}, {"_path": "bin/.n-post-link.bat"}, {"_path": "lib/bin/.n-post-link.sh"}, {"_path": "bin/.n-post-unlink.sh"}]}`, nil},
		{"about.json", `{"license": "A"}`, func(a *conda.About) { a.License = "A" }},
		{"about.json", `{"source_url": "https://s.example/x"}`, func(a *conda.About) { a.SourceURL = conda.URLs{"https://s.example/x"} }},
		{"about.json", `{"summary": ["a", "b"], "home": 7, "dev_url": {}, "doc_url": [null, "", "https://d"]}`, func(a *conda.About) { a.Summary, a.DocURL = "ab", "https://d" }},
		{"index.json", `{"name": "n", "license": "B", "timestamp": 253402300799}`, func(a *conda.About) { a.License, a.Timestamp = "B", 253402300799 }},
		{"index.json", `{"name": "n", "timestamp": 1700000000999}`, func(a *conda.About) { a.Timestamp = 1700000000 }},
		{"run_exports.json", `{"strong": ["x"], "z": 1}`, func(a *conda.About) { a.RunExports = []byte(`{"strong":["x"]}`) }},
		{"meta.yaml", "source: {url: https://s.example/x}", func(a *conda.About) { a.SourceURL = conda.URLs{"https://s.example/x"} }},
		{"meta.yaml", "u: &u [https://s.example/x]\nsource:\n- url: *u\n- url: ../local\n- url: https://s.example/{{ v }}\n", func(a *conda.About) { a.SourceURL = conda.URLs{"https://s.example/x"} }},
		{"meta.yaml", "a: &a [*a]\nsource: *a", nil},
		{"meta.yaml", strings.Repeat("#", 1<<20) + "\nsource: {url: https://s.example/x}", nil},
	} {
		files := conda.Files{"index.json": index}
		files[c.file] = []byte(c.text)
		want := nothing
		if c.want != nil {
			c.want(&want)
		}
		got, err := conda.Describe(files)
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("%s %.100s: %v %s", c.file, c.text, err, d)
		}
	}
}

// A file that is wrong is said to be, and the others are read all the same.
func TestDescribeWhatItCan(t *testing.T) {
	t.Parallel()
	good := conda.Files{
		"index.json": []byte(`{"name": "n", "license": "MIT"}`), "about.json": []byte(`{"home": "https://h"}`),
		"paths.json": []byte(`{"paths": [{"_path": "bin/.n-post-link.sh"}]}`), "run_exports.json": []byte(`["x"]`),
	}
	for file, bad := range map[string][]string{
		"index.json":       {"", "[]", "{", `{}`, `{"name": 1}`},
		"about.json":       {"", "[]", `{"a": 1, "a": 2}`},
		"paths.json":       {"", "[]", "{", `{"paths": 1}`, `{"paths": [1]}`, `{"paths": [{"_path": 1}]}`, `{"paths": []} x`, `{"paths": [}`, "\x00"},
		"run_exports.json": {"[1]", "1"},
	} {
		for _, text := range bad {
			files := conda.Files{}
			for k, v := range good {
				files[k] = v
			}
			files[file] = []byte(text)
			a, err := conda.Describe(files)
			if code(err) == "" || !strings.Contains(err.Error(), file) {
				t.Errorf("%s %q: %v", file, text, err)
			}
			if file != "index.json" && a.License != "MIT" || file != "about.json" && a.Home != "https://h" || file != "run_exports.json" && string(a.RunExports) != `{"weak":["x"]}` ||
				file != "index.json" && file != "paths.json" && !a.PostLink {
				t.Errorf("%s %q: the others are lost: %+v", file, text, a)
			}
		}
	}
}

// Packages that nobody here made: what conda-index says of these.
func TestDescribeCorpus(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]conda.About{
		"mock-2.0.0-py37_1000.conda": {
			Home: "https://github.com/testing-cabal/mock", License: "BSD 2-Clause", Summary: "A library for testing in Python", Timestamp: 1538654520,
			SourceURL: conda.URLs{"https://pypi.python.org/packages/source/m/mock/mock-2.0.0.tar.gz"}, RunExports: []byte("{}"),
		},
		"link-scripts-0.1.0-h4616a5c_0.conda": {PostLink: true, PreUnlink: true, Timestamp: 1715614119, RunExports: []byte("{}")},
	} {
		b, err := os.ReadFile("../../../shared/corpus/packages/" + name)
		if os.IsNotExist(err) {
			t.Skip("the corpus is not here")
		} else if err != nil {
			t.Fatal(err)
		}
		files, err := readInfo(t, name, b, conda.AboutFiles()...)
		if err != nil {
			t.Fatal(err)
		}
		got, err := conda.Describe(files)
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("%s: %v %s", name, err, d)
		}
	}
}

func FuzzDescribe(f *testing.F) {
	f.Add([]byte(`{"name": "n"}`), []byte(`{"home": []}`), []byte(`{"paths": [{"_path": "a"}]}`), []byte("source: [{url: &a https://x}, *a]"))
	f.Fuzz(func(t *testing.T, index, about, paths, recipe []byte) {
		a, _ := conda.Describe(conda.Files{"index.json": index, "about.json": about, "paths.json": paths, "recipe/meta.yaml": recipe})
		if b, err := json.Marshal(a); err != nil || !json.Valid(b) {
			t.Errorf("%v", err)
		}
	})
}
