package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hallmark-attest/hallmark/internal/conda"
	"github.com/hallmark-attest/hallmark/internal/conda/condatest"
)

// readers tells the Python that has other projects' readers and indexers, or leaves the test out.
func readers(t testing.TB) string {
	t.Helper()
	python := os.Getenv("HALLMARK_READERS")
	if python == "" {
		t.Skip("HALLMARK_READERS names no Python with other projects' readers; install them with .ci/readers/install, then set it to .ci/readers/venv/bin/python, by its absolute path")
	}
	return python
}

// script runs a program of .ci/readers in a home of its own, with the request on its standard input as JSON.
func script(t testing.TB, name string, request any, args ...string) result {
	t.Helper()
	ask, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	home := t.TempDir()
	env := []string{
		"HOME=" + home, "XDG_CACHE_HOME=" + filepath.Join(home, "cache"), "RATTLER_CACHE_DIR=" + filepath.Join(home, "rattler"),
		"PYTHONDONTWRITEBYTECODE=1", "NO_PROXY=127.0.0.1",
		// conda: its classic solver, since its others are on no Python index; nothing of the machine's; no pip.
		"CONDA_SOLVER=classic", "CONDA_OVERRIDE_CUDA=", "CONDA_SUBDIR=linux-64", "CONDA_ALWAYS_YES=true",
		"CONDA_ADD_PIP_AS_PYTHON_DEPENDENCY=false",
		"CONDA_PKGS_DIRS=" + filepath.Join(home, "pkgs"), "CONDA_ENVS_DIRS=" + filepath.Join(home, "envs"),
	}
	c := command(ctx, env, readers(t), append([]string{filepath.Join("..", "..", ".ci", "readers", name)}, args...)...)
	var out, errb bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(ask), &out, &errb
	if err := c.Run(); err != nil && c.ProcessState == nil {
		t.Fatalf("%s: %v", name, err)
	}
	return result{c.ProcessState.ExitCode(), out.String(), errb.String()}
}

// static is a plain file server over a channel, as others would use for theirs: ranges, and both kinds of conditional
// requests. It remembers what was asked of it.
type static struct {
	*httptest.Server
	mu       sync.Mutex
	requests []request
}

type request struct {
	method, path, ranged, condition string
	status                          int
	bytes                           int64
}

func serve(t testing.TB, dir string) *static {
	t.Helper()
	s := &static{}
	files := http.FileServer(http.Dir(dir))
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(r.URL.Path))); err == nil {
			d := sha256.Sum256(b)
			w.Header().Set("ETag", `"`+hex.EncodeToString(d[:8])+`"`)
		}
		if strings.Contains(r.URL.Path, "/repodata") {
			w.Header().Set("Cache-Control", "no-cache")
		}
		c := &counting{ResponseWriter: w, status: 200}
		files.ServeHTTP(c, r)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.requests = append(s.requests, request{
			r.Method, r.URL.Path, r.Header.Get("Range"), r.Header.Get("If-None-Match") + r.Header.Get("If-Modified-Since"), c.status, c.bytes,
		})
	}))
	t.Cleanup(s.Close)
	return s
}

type counting struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (c *counting) WriteHeader(status int) { c.status = status; c.ResponseWriter.WriteHeader(status) }

func (c *counting) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.bytes += int64(n)
	return n, err
}

// asked are the GET requests for paths that contain part.
func (s *static) asked(part string) []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []request
	for _, r := range s.requests {
		if r.method == http.MethodGet && strings.Contains(r.path, part) {
			out = append(out, r)
		}
	}
	return out
}

// kit is a set of packages that depend on each other, for solvers and installers: what "kit-app" needs, and what a solver
// must not take. The files of each are told by name.
var kit = []condatest.Spec{
	{
		Name: "kit-app", Version: "1.0", Build: "h0_0", Subdir: "linux-64", License: "MIT", Depends: []string{"kit-lib >=1.2,<2.0a0", "kit-data", "kit-py"},
		Files: map[string][]byte{"bin/kit-app": []byte("#!/bin/sh\necho kit\n")}, Payload: 600_000, Timestamp: 1_700_000_000_000,
	},
	{
		Name: "kit-lib", Version: "1.2.3", Build: "h0_0", Subdir: "linux-64", License: "MIT", Format: conda.TarBz2,
		Files: map[string][]byte{"lib/kit.txt": []byte("1.2.3\n")}, RunExports: json.RawMessage(`{"weak": ["kit-lib >=1.2.3,<2.0a0"]}`), Timestamp: 1_700_000_000_000,
	},
	{
		Name: "kit-lib", Version: "1.2.4", Build: "h0_1", BuildNumber: 1, Subdir: "linux-64", License: "MIT",
		Files: map[string][]byte{"lib/kit.txt": []byte("1.2.4\n")}, RunExports: json.RawMessage(`{"weak": ["kit-lib >=1.2.4,<2.0a0"], "strong": ["kit-data"]}`), Timestamp: 1_700_000_001_000,
	},
	{
		Name: "kit-lib", Version: "2.0", Build: "h0_0", Subdir: "linux-64", License: "MIT",
		Files: map[string][]byte{"lib/kit.txt": []byte("2.0\n")}, Timestamp: 1_700_000_002_000,
	},
	{
		Name: "kit-data", Version: "1!2024.1", Build: "h0_0", Noarch: "generic", License: "CC0-1.0", Format: conda.TarBz2,
		Constrains: []string{"kit-lib <3"}, Files: map[string][]byte{"share/kit/data.txt": []byte("data\n")}, Timestamp: 1_700_000_000_000,
	},
	{
		Name: "kit-py", Version: "0.1+local", Build: "pyh0_0", Noarch: "python", License: "MIT", Depends: []string{"python >=3.12"},
		Files: map[string][]byte{"site-packages/kit/__init__.py": []byte("answer = 42\n")}, Timestamp: 1_700_000_000_000,
	},
	{
		Name: "python", Version: "3.12.1", Build: "h0_0", Subdir: "linux-64", License: "Python-2.0",
		Files: map[string][]byte{"lib/python3.12/os.py": []byte("# not Python\n")}, Timestamp: 1_700_000_000_000,
		Index: map[string]any{"python_site_packages_path": "lib/python3.12/site-packages", "track_features": "", "arch": "x86_64", "platform": "linux", "license_family": "PSF"},
	},
}

// kitSolution is what installing kit-app takes, and installed what is then in the prefix.
var kitSolution = []string{
	"kit-app-1.0-h0_0.conda", "kit-data-1!2024.1-h0_0.tar.bz2", "kit-lib-1.2.4-h0_1.conda", "kit-py-0.1+local-pyh0_0.conda", "python-3.12.1-h0_0.conda",
}

var kitInstalled = map[string]string{
	"bin/kit-app": "#!/bin/sh\necho kit\n", "lib/kit.txt": "1.2.4\n", "share/kit/data.txt": "data\n",
	"lib/python3.12/site-packages/kit/__init__.py": "answer = 42\n",
}

// write makes packages and tells their paths.
func write(t testing.TB, specs []condatest.Spec) []string {
	t.Helper()
	dir := t.TempDir()
	var paths []string
	for _, s := range specs {
		p, err := condatest.Write(dir, s)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, p)
	}
	return paths
}

// listless has run exports as maps: rattler reads no lists, neither in packages nor in records (TestReadersOfListedRunExports).
func listless(specs []condatest.Spec) []condatest.Spec {
	for i, s := range specs {
		if bytes.HasPrefix(s.RunExports, []byte("[")) {
			specs[i].RunExports = fmt.Appendf(nil, `{"weak": %s}`, s.RunExports)
		}
	}
	return specs
}

// installed compares files of a prefix.
func installed(t testing.TB, prefix string, want map[string]string) {
	t.Helper()
	for file, body := range want {
		if got := string(read(t, filepath.Join(prefix, filepath.FromSlash(file)))); got != body {
			t.Errorf("%s is %q, not %q", file, got, body)
		}
	}
}

// copied is a channel's copy, for those who write into it.
func copied(t testing.TB, channel string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "channel")
	if err := os.CopyFS(dir, os.DirFS(channel)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestReaders publishes once; the readers and indexers of others then look at that channel, or at copies of it.
func TestReaders(t *testing.T) {
	t.Parallel()
	readers(t)
	specs := append(listless(condatest.Samples(16, 61)), kit...)
	p := newPlace(t)
	sum := decode[campaign](t, run(t, programs.producer, p.publish(write(t, specs)...)...).want(t, 0))
	if sum.Published != len(specs) {
		t.Fatalf("%+v", sum)
	}
	ours := look(t, p.channel)
	ours.agree(t, len(specs))

	t.Run("rattler", func(t *testing.T) {
		t.Parallel()
		rattlerReads(t, p.channel, ours)
	})
	t.Run("conda-package-streaming", func(t *testing.T) {
		t.Parallel()
		streamingReads(t, p.channel, ours)
	})
	t.Run("conda", func(t *testing.T) {
		t.Parallel()
		condaReads(t, p.channel, ours)
	})
	for _, x := range indexers {
		t.Run("indexed by "+x.name, func(t *testing.T) {
			t.Parallel()
			x.indexes(t, p.channel, ours)
		})
	}
}
