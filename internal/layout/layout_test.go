// Package layout holds the rules of the house that a compiler does not check: who may import whom.
package layout

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const module = "github.com/hallmark-attest/hallmark"

type pkg struct {
	ImportPath string
	Imports    []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", module+"/...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var ps []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
	if len(ps) < 10 {
		t.Fatalf("go list found only %d packages", len(ps))
	}
	return ps
}

func within(path string, dirs ...string) bool {
	rel := strings.TrimPrefix(strings.TrimPrefix(path, module), "/")
	for _, d := range dirs {
		if rel == d || strings.HasPrefix(rel, d+"/") {
			return true
		}
	}
	return false
}

// TestWhoMayImportWhat: an SDK is imported where it is at home; dependencies point one way.
func TestWhoMayImportWhat(t *testing.T) {
	t.Parallel()
	homes := map[string][]string{
		"github.com/sigstore/":               {"internal/attest", "internal/identity", "internal/provenance", "stages/sign", "stages/sources"},
		"github.com/aws/":                    {"internal/store"},
		"github.com/nats-io/":                {"pipeline/queue", "pipeline/event"},
		"github.com/alecthomas/kong":         {"cmd", "internal/command"},
		"github.com/vbauerster/mpb":          {"internal/command"},
		"go.opentelemetry.io/otel/sdk":       {"pipeline/telemetry"},
		"go.opentelemetry.io/contrib/":       {"pipeline/telemetry", "stages/sign", "internal/store"},
		"github.com/vmihailenco/msgpack":     {"internal/channel", "deploy/bench/index"},
		"github.com/google/go-cmp":           {}, // tests only
		"github.com/rogpeppe/go-internal":    {},
		module + "/internal/conda/condatest": {"internal/conda/condatest", "deploy"}, // tests, the demo and benchmarks
		module + "/internal/store/storetest": {"internal/store/storetest"},
		module + "/internal/smalldisk":       {},
		"go.uber.org/goleak":                 {},
		module + "/cmd/":                     {},
		module + "/stages":                   {"stages", "cmd", "internal/command"},
		module + "/internal/command":         {"cmd", "internal/command"},
	}
	for _, p := range packages(t) {
		for _, imp := range p.Imports {
			for prefix, dirs := range homes {
				if strings.HasPrefix(imp, prefix) && !within(p.ImportPath, dirs...) {
					t.Errorf("%s imports %s, which belongs to %v", p.ImportPath, imp, dirs)
				}
			}
			if within(p.ImportPath, "pipeline") && within(imp, "internal", "stages", "cmd") && strings.HasPrefix(imp, module) {
				t.Errorf("%s imports %s: the engine knows nothing of it", p.ImportPath, imp)
			}
			stage := regexp.MustCompile(`^` + module + `/stages/(\w+)$`)
			if m := stage.FindStringSubmatch(p.ImportPath); m != nil {
				if n := stage.FindStringSubmatch(imp); n != nil && n[1] != m[1] {
					t.Errorf("stage %s imports stage %s", m[1], n[1])
				}
			}
			if within(p.ImportPath, "internal") && !within(p.ImportPath, "internal/command") && within(imp, "pipeline") && strings.HasPrefix(imp, module) {
				t.Errorf("%s imports %s: materials do not know the engine", p.ImportPath, imp)
			}
		}
	}
}

// TestNamesSaySomething: no package or file whose name could hold anything; no path of somebody's machine.
func TestNamesSaySomething(t *testing.T) {
	t.Parallel()
	empty := regexp.MustCompile(`(^|/)(utils?|common|helpers?|managers?|misc)(\.go)?(/|$)`)
	out, err := exec.CommandContext(t.Context(), "git", "-C", "../..", "ls-files").Output()
	if err != nil {
		t.Skipf("not in a git checkout: %v", err) // a source archive has no list of files to go by
	}
	machine := regexp.MustCompile(`(^|[^A-Za-z0-9._-])/(home|root|Users)/[a-z]`)
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		name := s.Text()
		if empty.MatchString(name) {
			t.Errorf("%s: the name says nothing", name)
		}
		if strings.HasSuffix(name, ".sum") || strings.HasPrefix(name, "internal/layout/") {
			continue
		}
		b, err := os.ReadFile(filepath.Join("../..", filepath.FromSlash(name)))
		if err != nil {
			continue // deleted in the work tree, or a link
		}
		if loc := machine.FindIndex(b); loc != nil {
			t.Errorf("%s holds a path of one machine: %q", name, b[loc[0]:min(len(b), loc[1]+20)])
		}
	}
}
