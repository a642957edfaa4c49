package docs

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/hallmark-attest/hallmark/internal/attest"
)

func TestCommands(t *testing.T) {
	t.Parallel()
	const page = "text\n```sh\nA=1 tool one \"two words\" \\\n  --x=y 'z'   # a remark; tool not\ntool | tool b > file && (umask 1; tool c)\nother tool\n```\n" +
		"```yaml\njobs:\n  j:\n    steps:\n      - run: |\n          tool run \"$X\"\n    script: [tool d, \"x && tool e\"]\n```\n```\ntool not here\n```\n"
	got, err := Commands(Blocks("p", page), "tool")
	if err != nil {
		t.Fatal(err)
	}
	var args [][]string
	for _, c := range got {
		args = append(args, c.Args)
	}
	want := [][]string{{"one", "two words", "--x=y", "z"}, {}, {"b"}, {"c"}, {"run", "$X"}, {"d"}, {"e"}}
	if d := cmp.Diff(want, args); d != "" {
		t.Error(d)
	}
	if s := got[4].String(); s != "p:8" {
		t.Errorf("the block is at %s", s)
	}
	if _, err := Commands(Blocks("p", "```yaml\na: [\n```"), "tool"); err == nil {
		t.Error("YAML that is none was read")
	}
}

// TestYAML: every YAML block of the pages is YAML without doubled keys; a policy is one for the real parser.
func TestYAML(t *testing.T) {
	t.Parallel()
	policies := 0
	for _, b := range yamlBlocks(t, "") {
		var doc map[string]any
		d := yaml.NewDecoder(bytes.NewReader([]byte(b.Text)))
		if err := d.Decode(&doc); err != nil {
			t.Errorf("%s: %v", b, err)
			continue
		}
		if _, ok := doc["signers"]; !ok || b.File != "ci.md" && b.File != "policy.md" {
			continue
		}
		policies++
		if _, err := attest.ParsePolicy(b.String(), []byte(b.Text)); err != nil {
			t.Error(err)
		}
	}
	if policies < 3 {
		t.Errorf("%d policies: this test sees nothing", policies)
	}
}

// TestWorkflowPermissions: the workflows that people copy ask for nothing but what signing needs, and only the jobs that
// publish may sign.
func TestWorkflowPermissions(t *testing.T) {
	t.Parallel()
	type step struct {
		Uses, Run string
		With      map[string]any
	}
	type job struct {
		Permissions map[string]string
		Steps       []step
	}
	signing, building := 0, 0
	for _, b := range yamlBlocks(t, "ci.md") {
		var w struct {
			Permissions map[string]string
			Jobs        map[string]job
		}
		if err := yaml.Unmarshal([]byte(b.Text), &w); err != nil || w.Jobs == nil {
			continue
		}
		if w.Permissions == nil || len(w.Permissions) != 0 {
			t.Errorf("%s: the workflow gives all its jobs %v, want {}", b, w.Permissions)
		}
		for name, j := range w.Jobs {
			want := map[string]string{"contents": "read"}
			if slices.ContainsFunc(j.Steps, func(s step) bool { return strings.Contains(s.Run, "producer publish") }) {
				want["id-token"] = "write"
				signing++
			} else {
				building++
			}
			if d := cmp.Diff(want, j.Permissions); d != "" {
				t.Errorf("%s: job %s: %s", b, name, d)
			}
			for _, s := range j.Steps {
				if s.Uses != "" && !regexp.MustCompile(`^[a-z-]+/[a-z-]+@v[0-9]+$`).MatchString(s.Uses) {
					t.Errorf("%s: job %s uses %q, which is not pinned to a version", b, name, s.Uses)
				}
				if m := regexp.MustCompile(`go install \S+`).FindString(s.Run); m != "" && !regexp.MustCompile(`/cmd/producer@v[0-9]`).MatchString(m) {
					t.Errorf("%s: job %s: %q is not pinned to a version", b, name, m)
				}
				if strings.HasPrefix(s.Uses, "actions/checkout@") && want["id-token"] != "" && s.With["persist-credentials"] != false {
					t.Errorf("%s: job %s leaves the checkout's credentials where every step reads them", b, name)
				}
			}
		}
	}
	if signing < 3 || building < 1 {
		t.Errorf("%d jobs that sign and %d others: this test sees nothing", signing, building)
	}
}

// TestLinks: what the pages link to in the repository is there.
func TestLinks(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	for _, f := range append(files, "../../README.md") {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(data), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(f), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", filepath.Base(f), m[1], err)
			}
		}
	}
}

// yamlBlocks gives the YAML blocks of one page, or of all.
func yamlBlocks(t *testing.T, file string) []Block {
	t.Helper()
	all, err := Pages("../..")
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(b Block) bool { return b.Lang != "yaml" || file != "" && b.File != file })
}
