package provenance

import (
	"os"
	"strings"
	"testing"
)

// FuzzPolicy: whatever a file holds, it is a policy that can be used, or an error with a code; nobody is trusted by accident.
func FuzzPolicy(f *testing.F) {
	for _, s := range []string{
		"version: 1\nmode: require\nrequire_log: true\nhosts:\n- {host: pypi.org, project: Flask, publishers: ['github:pallets/flask'], predicate_type: x}\n",
		"version: 1\nhosts: [{host: github.com, path: /a, publishers: ['github:{owner}/{repo}', {identity: i, issuer: j}], bundles: ['{url}.json']}]",
		"version: 1\nhosts: [{host: pypi.org, publishers: [null, [], {}, &a x, *a]}]",
		"version: 1\nhosts: &a [*a]", "version: 2", "{}", "", "a: b: c", "version: 1\n---\nversion: 1",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParsePolicy(data)
		if err != nil {
			if CodeOf(err) == "" {
				t.Fatalf("no code: %v", err)
			}
			return
		}
		src := Source{URLs: []string{"https://github.com/a/b/releases/download/1/f.tgz", "https://pypi.org/f-1.zip"}, SHA256: digestOf(nil)}
		if a, err := p.block(src); err == nil && a != nil && len(a.Publishers) == 0 {
			t.Fatal("a block without publishers")
		}
		for _, h := range p.Hosts {
			if len(h.Publishers) == 0 {
				t.Fatal("a rule without publishers")
			}
		}
	})
}

// TestPageIsTrue: the examples that the page about sources shows can be used.
func TestPageIsTrue(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/sources.md")
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, part := range strings.Split(string(page), "```yaml\n")[1:] {
		block, _, _ := strings.Cut(part, "```")
		blocks = append(blocks, block)
	}
	if len(blocks) != 2 {
		t.Fatalf("%d examples", len(blocks))
	}
	list, rerr := parseRecipe([]byte(strings.ReplaceAll(blocks[0], "6489f1…", flaskSHA256)))
	if rerr != nil || len(list) != 1 || list[0].Err != nil || len(list[0].Attestation.Publishers) != 2 {
		t.Errorf("recipe: %+v, %v", list, rerr)
	}
	if p, err := ParsePolicy([]byte(blocks[1])); err != nil || len(p.Hosts) != 2 {
		t.Errorf("policy: %+v, %v", p, err)
	}
}
