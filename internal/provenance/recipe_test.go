package provenance

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hallmark-attest/hallmark/internal/conda"
)

func TestIntegrityURL(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		flaskURL: "flask/3.1.1/flask-3.1.1.tar.gz",
		"https://PYPI.org:443/x/Foo__Bar.-baz-1.0.zip?x#sha256=y":                "foo-bar-baz/1.0/Foo__Bar.-baz-1.0.zip",
		"http://pypi.io./packages/source/r/r/ruamel.yaml-0.18.6.tar.bz2":         "ruamel-yaml/0.18.6/ruamel.yaml-0.18.6.tar.bz2",
		"https://files.pythonhosted.org/p/a_b-1!2.0+l-1-py3-none-any.whl":        "a-b/1%212.0+l/a_b-1%212.0+l-1-py3-none-any.whl",
		"https://files.pythonhosted.org/p/back.ports-1.0.post1-py3-none-any.whl": "back-ports/1.0.post1/back.ports-1.0.post1-py3-none-any.whl",
		"https://files.pythonhosted.org/p/a%2Fb-1.tar.gz":                        "b/1/b-1.tar.gz",
		"https://files.pythonhosted.org/p/flask-3.1.1.exe":                       "",
		"https://files.pythonhosted.org/p/flask.tar.gz":                          "",
		"https://files.pythonhosted.org/p/-1.tar.gz":                             "",
		"https://files.pythonhosted.org/p/flask-3.whl":                           "",
		"https://files.pythonhosted.org/":                                        "",
		"https://pypi.org@example.org/flask-1.tar.gz":                            "",
		"https://xpypi.org/flask-1.tar.gz":                                       "",
		"https://example.org/pypi.org/flask-1.tar.gz":                            "",
		"ftp": "",
	} {
		if want != "" {
			want = "https://pypi.org/integrity/" + want + "/provenance"
		}
		got, err := IntegrityURL(in)
		if strings.ReplaceAll(got, "!", "%21") != want || (CodeOf(err) == CodeNoBundleURL) != (want == "") {
			t.Errorf("%s: %s, %v", in, got, err)
		}
	}
}

func TestParsePublisher(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]any{
		"github:pallets/flask":      Publisher{Identity: "https://github.com/pallets/flask", Issuer: githubIssuer},
		"gitlab:group/sub/project":  Publisher{Identity: "https://gitlab.com/group/sub/project", Issuer: "https://gitlab.com"},
		"github:pallets/flask@main": CodePublisherRef,
		"github:pallets/flask@":     CodePublisherRef,
		"gitlab:a/b/c@refs/tags/v1": CodePublisherRef,
		"github:pallets":            CodePublisher,
		"github:/flask":             CodePublisher,
		"github:pallets/":           CodePublisher,
		"github:pallets/..":         CodePublisher,
		"github:pallets//flask":     CodePublisher,
		"github:a@b/c":              CodePublisher,
		"github:pallets/fl ask":     CodePublisher,
		"github: pallets/flask":     CodePublisher,
		"pallets/flask":             CodePublisher,
		"":                          CodePublisher,
		"GitHub:pallets/flask":      CodePublisherUnknown,
		"https://github.com/a/b":    CodePublisherUnknown,
		"codeberg:a/b":              CodePublisherUnknown,
	} {
		got, err := ParsePublisher(in)
		if code, refused := want.(Code); refused {
			if CodeOf(err) != code {
				t.Errorf("%q: %+v, %v, want %s", in, got, err, code)
			}
			continue
		}
		if p := want.(Publisher); err != nil || got.Identity != p.Identity || got.Issuer != p.Issuer || got.String() != in {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
	p := Publisher{Identity: "https://github.com/pallets/flask"}
	for san, want := range map[string]bool{
		"https://github.com/pallets/flask": true, flaskSAN: true, "https://github.com/pallets/flask@refs/heads/main": true,
		"https://github.com/Pallets/Flask/x": true, corsSAN: false, "https://github.com/pallets/flask.git": false,
		"https://github.com/pallets": false, "http://github.com/pallets/flask": false, "": false,
		"https://github.com/pallets/flas\u212a/x": false, // a letter that folds into k
	} {
		if p.matchesIdentity(san) != want {
			t.Errorf("%q: not %v", san, want)
		}
	}
}

func TestRecipe(t *testing.T) {
	t.Parallel()
	sha := flaskSHA256
	flask := &Attestation{Publishers: []Publisher{{Identity: "https://github.com/pallets/flask", Issuer: githubIssuer}}}
	plain := func(u string) Source { return Source{URLs: []string{u}, SHA256: sha} }
	with := func(u string) Source { return Source{URLs: []string{u}, SHA256: sha, Attestation: flask} }
	bad := func(u string, c Code) Source { return Source{URLs: []string{u}, SHA256: sha, Err: &Error{Code: c}} }
	for _, tt := range []struct {
		name  string
		files conda.Files
		want  []Source
		code  Code
	}{
		{"nothing", conda.Files{}, nil, ""},
		{"told twice", conda.Files{renderedRecipe: recipe("https://h/f", sha, byFlask)}, []Source{with("https://h/f")}, ""},
		{"the finalized one lost it", conda.Files{renderedRecipe: []byte("recipe:\n  source:\n  - {url: 'https://h/f', sha256: " + sha + ", attestation: {publishers: ['github:pallets/flask']}}\nfinalized_sources:\n- {url: 'https://h/f', sha256: " + sha + "}")},
			[]Source{with("https://h/f")}, ""},
		{"the renderer lost it", conda.Files{renderedRecipe: recipe("https://h/f", sha, ""), writtenRecipe: []byte("source:\n- if: unix\n  then:\n    url: https://h/${{ name }}\n    sha256: " + sha + "\n    attestation:\n      publishers: ['github:pallets/flask']\n")},
			[]Source{with("https://h/f")}, ""},
		{"mirrors", conda.Files{renderedRecipe: []byte("source: {url: ['https://h/f', 'https://i/f'], sha256: " + strings.ToUpper(sha) + "}")}, []Source{{URLs: []string{"https://h/f", "https://i/f"}, SHA256: sha}}, ""},
		{"git", conda.Files{renderedRecipe: []byte("source:\n- {git: 'https://h/f', rev: main}\n- {path: ../x}\n- {url: 'https://h/f', sha256: " + sha + "}")}, []Source{plain("https://h/f")}, ""},
		{"git with a block", conda.Files{renderedRecipe: []byte("source: {git: 'https://h/f', attestation: {publishers: ['github:a/b']}}")}, []Source{{URLs: []string{"https://h/f"}, Err: &Error{Code: CodeRecipeNotURL}}}, ""},
		{"a block on nothing", conda.Files{renderedRecipe: []byte("source: {attestation: {publishers: ['github:a/b']}}")}, []Source{{Err: &Error{Code: CodeRecipeNotURL}}}, ""},
		{"md5 with a block", conda.Files{renderedRecipe: []byte("source: {url: 'https://h/f', md5: x, attestation: {publishers: ['github:a/b']}}")}, []Source{{URLs: []string{"https://h/f"}, Err: &Error{Code: CodeRecipeNoSHA256}}}, ""},
		{"no block", conda.Files{renderedRecipe: []byte("source: {url: 'https://h/f', sha256: " + sha + ", attestation: null}")}, []Source{plain("https://h/f")}, ""},
		{"a block that is a text", conda.Files{renderedRecipe: recipe("https://h/f", sha, "yes")}, []Source{bad("https://h/f", CodeRecipeMalformed)}, ""},
		{"a block with a key twice", conda.Files{renderedRecipe: recipe("https://h/f", sha, byFlask+"\npublishers: ['github:evil/x']")}, []Source{bad("https://h/f", CodeRecipeMalformed)}, ""},
		{"publishers as a text", conda.Files{renderedRecipe: recipe("https://h/f", sha, "publishers: github:a/b")}, []Source{bad("https://h/f", CodeRecipeMalformed)}, ""},
		{"a template that asks", conda.Files{writtenRecipe: []byte("source: {url: 'https://h/f', sha256: " + sha + ", attestation: {publishers: ['github:${{ o }}/b']}}")}, []Source{bad("https://h/f", CodeRecipeTemplate)}, ""},
		{"a template that does not", conda.Files{writtenRecipe: []byte("source: {url: 'https://h/${{ v }}'}\noutputs: [{source: {url: 'https://h/f', sha256: " + sha + "}}]")}, []Source{plain("https://h/f")}, ""},
		{"meta.yaml", conda.Files{metaRecipe: []byte("source:\n- url: https://h/f\n  sha256: " + sha + "\n  patches: [x]\n")}, []Source{plain("https://h/f")}, ""},
		{"meta.yaml, a template", conda.Files{metaRecipe: []byte("{% set x = 1 %}\nsource: {{ x }}\n")}, nil, ""},
		{"no YAML", conda.Files{renderedRecipe: []byte("a: [")}, nil, CodeRecipeMalformed},
		{"a list", conda.Files{renderedRecipe: []byte("[a]")}, nil, CodeRecipeMalformed},
		{"two documents", conda.Files{renderedRecipe: []byte("a: 1\n---\nb: 2")}, nil, CodeRecipeMalformed},
		{"source twice", conda.Files{renderedRecipe: []byte("source: []\nsource: []")}, nil, CodeRecipeMalformed},
		{"merge", conda.Files{renderedRecipe: []byte("x: &x {attestation: {publishers: []}}\nsource:\n- <<: *x\n  url: https://h/f")}, nil, CodeRecipeMalformed},
		{"large", conda.Files{renderedRecipe: make([]byte, maxRecipe+1)}, nil, ""}, // white space
		{"large indeed", conda.Files{renderedRecipe: []byte("a: " + strings.Repeat("b", maxRecipe))}, nil, CodeRecipeTooLarge},
		{"a bomb", conda.Files{renderedRecipe: []byte(bomb())}, nil, CodeRecipeTooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := Recipe(tt.files)
			if tt.name == "large" { // NULs are no YAML, and it is too large before that
				tt.code = CodeRecipeTooLarge
			}
			if CodeOf(err) != tt.code || (err == nil) != (tt.code == "") {
				t.Fatalf("%v, want %q", err, tt.code)
			}
			opts := []cmp.Option{cmpopts.IgnoreUnexported(Publisher{}), cmpopts.EquateEmpty(),
				cmp.Comparer(func(a, b *Error) bool { return (a == nil) == (b == nil) && (a == nil || a.Code == b.Code) })}
			if diff := cmp.Diff(tt.want, got, opts...); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// bomb is a recipe whose aliases, followed one by one, lead to 10^9 sources.
func bomb() string {
	var b strings.Builder
	b.WriteString("a0: &a0 {url: 'https://h/f'}\n")
	for i := range 9 {
		b.WriteString("a" + string(rune('1'+i)) + ": &a" + string(rune('1'+i)) + " [" + strings.TrimSuffix(strings.Repeat("*a"+string(rune('0'+i))+", ", 10), ", ") + "]\n")
	}
	return b.String() + "source: *a9\n"
}

func FuzzRecipe(f *testing.F) {
	for _, s := range []string{byFlask, "publishers: []", byFlask + "\nbundle_url: [https://h/b]\npredicate_type: x\nverified: [{path: attestations/f.0.sigstore.json, sha256: x}]"} {
		f.Add(recipe(flaskURL, flaskSHA256, s), []byte("source: {url: 'https://h/${{ x }}'}"), []byte("source: []"))
	}
	f.Add([]byte(bomb()), []byte("a: &a [*a]\nsource: *a"), []byte("? [a]\n: b"))
	c := NewChecker(forgeOf(f).verifier(f), NewFetcher(FetchOptions{Rate: 1e9, Burst: 1e6, Transport: tripper(func(*http.Request) (*http.Response, error) { return answer(404, ""), nil })}))
	p := Policy{Hosts: []HostRule{{Host: "pypi.org", Publishers: []HostPublisher{{Shorthand: "github:a/b"}}}}}
	f.Fuzz(func(t *testing.T, rendered, written, meta []byte) {
		for _, files := range []conda.Files{{renderedRecipe: rendered, writtenRecipe: written}, {writtenRecipe: written, metaRecipe: meta}, {metaRecipe: meta}} {
			list, err := Recipe(files)
			if e, ok := errors.AsType[*Error](err); err != nil && (!ok || e.Code == "") {
				t.Fatalf("%v has no code", err)
			}
			for _, s := range list {
				if s.Err == nil && s.Attestation != nil && (len(s.Attestation.Publishers) == 0 || !hexSHA256.MatchString(s.SHA256) || len(s.URLs) == 0) {
					t.Fatalf("a block that nobody has to sign: %+v", s)
				}
				if len(s.URLs) == 0 && s.Attestation != nil {
					t.Fatalf("a source without a URL: %+v", s)
				}
			}
			r, cerr := c.Check(t.Context(), files, p)
			if cerr != nil || len(r.Outcomes) != max(len(list), min(1, len(CodeOf(err)))) {
				t.Fatalf("%d outcomes of %d sources: %v", len(r.Outcomes), len(list), cerr)
			}
			for _, o := range r.Outcomes {
				if o.Status == StatusVerified || (o.Cause == "") != (o.Status == StatusNone) {
					t.Fatalf("%+v", o)
				}
			}
		}
	})
}

func FuzzParseResponse(f *testing.F) {
	forge := forgeOf(f)
	b := forge.sign(f, order{})
	f.Add(b)
	f.Add(provenance(f, nil, b))
	f.Add(provenance(f, noBodies, b, b))
	f.Add([]byte(`{"attestations":[{"bundle":` + someBundle + `}]}`))
	v := forge.verifier(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := ParseResponse(data)
		if (err == nil) != (len(list) > 0) || err != nil && CodeOf(err) == "" {
			t.Fatalf("%d bundles, %v", len(list), err)
		}
		for _, b := range list {
			if e, err := v.verify(b); err == nil && (e.identity == "" || e.issuer == "") {
				t.Fatalf("sound, and signed by nobody: %+v", e)
			}
		}
	})
}
