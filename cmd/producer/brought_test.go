package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hallmark-attest/hallmark/pipeline"
)

// TestBring: which files are a package's attestations, and in which order they come.
func TestBring(t *testing.T) {
	t.Parallel()
	big := `{"a":"` + strings.Repeat("x", pipeline.MaxAttestations/2) + `"}`
	many := "[{}" + strings.Repeat(`,{"a":0}`, 0)
	for i := range pipeline.MaxRiders + 1 {
		many += fmt.Sprintf(`,{"a":%d}`, i)
	}
	many += "]"
	for name, tt := range map[string]struct {
		files map[string]string
		want  []string
		fault string
	}{
		"none":                  {},
		"a bundle":              {files: map[string]string{"a-1-0.conda.sigstore.json": "{ }\n"}, want: []string{"{ }"}},
		"an array":              {files: map[string]string{"a-1-0.conda.sigstore.json": `[{"a":1}, {"b":2}]`}, want: []string{`{"a":1}`, `{"b":2}`}},
		"attestation":           {files: map[string]string{"a-1-0.conda.attestation.json": `{}`}, want: []string{"{}"}},
		"a stem's":              {files: map[string]string{"a-1-0.attestation.json": `{}`}, want: []string{"{}"}},
		"a sidecar":             {files: map[string]string{"a-1-0.conda.sigs": `[{"a":1}]`}, want: []string{`{"a":1}`}},
		"lines":                 {files: map[string]string{"a-1-0.conda.intoto.jsonl": "{\"a\":1}\n\n{\"b\":2}\n"}, want: []string{`{"a":1}`, `{"b":2}`}},
		"of a kind":             {files: map[string]string{"a-1-0.conda.provenance.sigstore.json": `{"a":1}`, "a-1-0.conda.a.b.sigstore.json": `{"b":2}`}, want: []string{`{"b":2}`, `{"a":1}`}},
		"all, the usual first":  {files: map[string]string{"a-1-0.conda.sigstore.json": `{"p":1}`, "a-1-0.conda.build.sigstore.json": `{"b":1}`, "a-1-0.conda.sigs": `[{"s":1}]`, "a-1-0.conda.intoto.jsonl": `{"l":1}`}, want: []string{`{"s":1}`, `{"p":1}`, `{"b":1}`, `{"l":1}`}},
		"the stem's and a kind": {files: map[string]string{"a-1-0.attestation.json": `{"p":1}`, "a-1-0.conda.build.sigstore.json": `{"b":1}`}, want: []string{`{"p":1}`, `{"b":1}`}},
		"the stem is another's": {files: map[string]string{"a-1-0.attestation.json": `{"p":1}`, "a-1-0.conda.sigstore.json": `{"b":1}`}, want: []string{`{"b":1}`}},
		"the same twice":        {files: map[string]string{"a-1-0.conda.sigstore.json": `{"p":1}`, "a-1-0.conda.sigs": `[{"p":1}]`}, want: []string{`{"p":1}`}},
		"of others":             {files: map[string]string{"a-1-0.tar.bz2.sigstore.json": `{}`, "aa-1-0.conda.sigstore.json": "{}", "a-1-00.conda.sigs": "[{}]", "a-1-0.condax.sigstore.json": "{}", "a-1-0.sigstore.json": "{}", "a-1-0.conda.sigs.0123": "[{}]", "a-1-0.conda": "x", "a-1-0.conda.json": "{}"}},
		"not JSON":              {files: map[string]string{"a-1-0.conda.sigstore.json": `{`}, fault: "not a JSON object"},
		"a text":                {files: map[string]string{"a-1-0.conda.sigstore.json": `"x"`}, fault: "not a JSON object"},
		"empty":                 {files: map[string]string{"a-1-0.conda.sigstore.json": ""}, fault: "not a JSON object"},
		"no line":               {files: map[string]string{"a-1-0.conda.intoto.jsonl": "\n"}, fault: "empty"},
		"a bad line":            {files: map[string]string{"a-1-0.conda.intoto.jsonl": "{}\n{\n"}, fault: "line 2"},
		"an empty array":        {files: map[string]string{"a-1-0.conda.sigs": "[]"}, fault: "no attestation"},
		"an array of numbers":   {files: map[string]string{"a-1-0.conda.sigs": "[1]"}, fault: "not an object"},
		"a bundle as a sidecar": {files: map[string]string{"a-1-0.conda.sigs": "{}"}, fault: "array"},
		"too much":              {files: map[string]string{"a-1-0.conda.sigstore.json": big, "a-1-0.conda.x.sigstore.json": big[:len(big)-3] + `y"}`}, fault: "262"},
		"too many":              {files: map[string]string{"a-1-0.conda.sigs": many}, fault: "18 attestations"},
		"a folder":              {files: map[string]string{"a-1-0.conda.sigstore.json/x": "x"}, fault: "reading"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for file, content := range tt.files {
				path := filepath.Join(dir, file)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			for _, f := range []broughtFlags{{AttestationDir: dir}, {AttestationsBeside: true}} {
				bring, err := f.bringer()
				if err != nil {
					t.Fatal(err)
				}
				path := "/elsewhere/a-1-0.conda"
				if f.AttestationsBeside {
					path = filepath.Join(dir, "a-1-0.conda")
				}
				got, err := bring(path)
				if tt.fault != "" {
					if err == nil || !strings.Contains(err.Error(), tt.fault) {
						t.Errorf("%v, want %q", err, tt.fault)
					}
					continue
				}
				var texts []string
				for _, b := range got {
					texts = append(texts, string(b))
				}
				if d := cmp.Diff(tt.want, texts); d != "" || err != nil {
					t.Errorf("%v, -want +got: %s", err, d)
				}
			}
		})
	}
	if _, err := (&broughtFlags{AttestationDir: filepath.Join(t.TempDir(), "none")}).bringer(); err == nil {
		t.Error("a folder that is not there is taken for one without attestations")
	}
	bring, err := new(broughtFlags).bringer()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := bring("/x/a-1-0.conda"); b != nil || err != nil {
		t.Error(b, err)
	}
}

// FuzzParseBrought: whatever is in a file, what comes of it are objects that cross the queue unchanged.
func FuzzParseBrought(f *testing.F) {
	for _, name := range []string{"a.conda.sigstore.json", "a.conda.intoto.jsonl", "a.conda.sigs"} {
		for _, data := range []string{"{}", `[{"a":1},{}]`, "{}\n{\"a\":[1]}\n", "[", "\xff", " "} {
			f.Add(name, []byte(data))
		}
	}
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		bundles, err := parseBrought(name, data)
		if (len(bundles) == 0) != (err != nil) {
			t.Fatalf("%d bundles and error %v", len(bundles), err)
		}
		for _, b := range bundles {
			if b[0] != '{' || !json.Valid(b) || !bytes.Contains(data, b) {
				t.Fatalf("%q is no object of %q", b, data)
			}
		}
	})
}

// TestInputsDigest: another policy, or other attestations, are another campaign.
func TestInputsDigest(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for name, tt := range map[string]struct {
		policy  *pipeline.Policy
		noSign  bool
		brought []pipeline.Bundle
	}{
		"none":           {},
		"a policy":       {policy: pipeline.NewPolicy([]byte("a"))},
		"another":        {policy: pipeline.NewPolicy([]byte("b"))},
		"nothing signed": {policy: pipeline.NewPolicy([]byte("a")), noSign: true},
		"brought":        {brought: []pipeline.Bundle{[]byte("{}")}},
	} {
		c := &pipeline.Campaign{To: "/x", Policy: tt.policy, NoSign: tt.noSign}
		digest := func() string {
			it := &pipeline.Item{ID: pipeline.ItemID("s", "", "", "", "f", "p", tt.brought...), Brought: tt.brought}
			return inputsDigest(c, []*pipeline.Item{it})
		}
		d := digest()
		if d != digest() {
			t.Errorf("%s: not the same when it is run again", name)
		}
		if other, ok := seen[d]; ok {
			t.Errorf("%s and %s are one campaign", name, other)
		}
		seen[d] = name
	}
}
