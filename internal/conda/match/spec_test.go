package match

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"
)

// specCase is a line of specs.jsonl.
type specCase struct {
	Spec    string
	Error   bool
	Name    string
	Yes, No []string // "version build number"
}

func specCases(t testing.TB) (cases []specCase) {
	t.Helper()
	for line := range strings.Lines(string(readTestdata(t, "specs.jsonl"))) {
		var c specCase
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			t.Fatal(err)
		}
		cases = append(cases, c)
	}
	return cases
}

func TestSpec(t *testing.T) {
	t.Parallel()
	cases := specCases(t)
	if len(cases) < 500 {
		t.Fatalf("only %d cases", len(cases))
	}
	for _, c := range cases {
		s, err := ParseSpec(c.Spec)
		if c.Error {
			var e *Error
			if !errors.As(err, &e) {
				t.Errorf("%q is read, error %v", c.Spec, err)
			}
			continue
		}
		if err != nil {
			t.Error(err)
			continue
		}
		if s.Name != c.Name || s.String() != c.Spec {
			t.Errorf("%q: the name is %q, want %q", c.Spec, s.Name, c.Name)
		}
		for want, records := range map[bool][]string{true: c.Yes, false: c.No} {
			for _, r := range records {
				v, build, n := splitRecord(t, r)
				if got := s.Match(v, build, n); got != want {
					t.Errorf("%q and %s: %t, want %t", c.Spec, r, got, want)
				}
			}
		}
	}
}

func splitRecord(t testing.TB, text string) (Version, string, int64) {
	t.Helper()
	f := strings.Fields(text)
	v, err := ParseVersion(f[0])
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseInt(f[2], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return v, f[1], n
}

// TestSpecOtherwise is about texts that conda cannot read or mangles, and that have one sensible meaning, or none.
func TestSpecOtherwise(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		spec, yes, no string
	}{
		// conda takes brackets and parentheses for its own before it looks at versions.
		{`foo ^1\.[0-9]+$`, "1.99 a 0", "1.x a 0"},
		{`foo ^1\.0(rc|a|b)?[0-9]*$`, "1.0rc1 a 0", "1.0c1 a 0"},
		{`foo ^(1|2)\..*$,!=1.0`, "2.0 a 0", "1.0 a 0"},
		{`foo 1.0 ^py3[789]_.*$`, "1.0 py37_0 0", "1.0 py36_0 0"},
		{`foo[version='^1\.[0-9]+$']`, "1.99 a 0", "1.x a 0"},
		{"foo (>=1.0,<2)|>3", "3.1 a 0", "2.0 a 0"},
		{"foo (>=1.0|<0.5),!=1.2 py*", "0.4 py37_0 0", "1.2 py37_0 0"},
		{"foo ===1.0", "1.0 a 0", "1.0.1 a 0"},
		{`foo[version="=1.0"]`, "1.0.1 a 0", "1.1 a 0"},
		// Fields of CEP 43, 44 and 45, which say nothing about the record.
		{`foo[when="python >=3.8"]`, "1.0 a 0", ""},
		{`foo >=1[when="cuda[version='>=12']"]`, "1.0 a 0", "0.9 a 0"},
		{"foo[extras=[bar,baz]]", "1.0 a 0", ""},
		{`foo[extras=["b]r", "baz"], version=">=1"]`, "1.0 a 0", "0.9 a 0"},
		{`foo >=1[flags=[cuda, "blas:*"], build_number=">1"]`, "1.0 a 2", "1.0 a 1"},
		{"foo[optional=true]", "1.0 a 0", ""},
		{"foo[version='>=1'] if unix", "1.0 a 0", "0.9 a 0"},
		{"foo[version='>=1'] # why", "1.0 a 0", "0.9 a 0"},
	} {
		s, err := ParseSpec(c.spec)
		if err != nil {
			t.Error(err)
			continue
		}
		if v, build, n := splitRecord(t, c.yes); !s.Match(v, build, n) {
			t.Errorf("%q does not match %s", c.spec, c.yes)
		}
		if c.no == "" {
			continue
		}
		if v, build, n := splitRecord(t, c.no); s.Match(v, build, n) {
			t.Errorf("%q matches %s", c.spec, c.no)
		}
	}
}

func TestSpecRefused(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", " ", " foo", "mkl@", "*", "foo* 1.0", "^foo$", "foo [0-9]", "foo[bar]", "foo[version=1.0", "foo[version='1.0]", "foo[version='1.0'x]",
		"foo[version=1,version=2]", "foo[md5=0123]", "foo[license=MIT]", "foo[track_features=mkl]", "foo[extras=[a]", "foo[version=1] 2",
		"foo[build_number=x]", "foo[build_number='>=']", "foo[build_number='-1']", "foo[build_number=+1]", "foo[build_number=99999999999999999999]",
		"foo (1.0)(2.0)", "foo (1.0", "foo 1.0)", "foo 1.0(2.0)", "foo ()", "foo ~=1", "foo ^($", "foo 1.0 ^[$", `foo ^(?=1)$`, "foo\n", "foo 1.0 \x00",
		"https://example.org/noarch/foo-1.0-0.conda", "foo-1.0-0.tar.bz2", "foo " + strings.Repeat("1|", maxSpec/2) + "1",
	} {
		s, err := ParseSpec(text)
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%q is read as %+v, error %v", text, s, err)
		}
	}
}

func TestSpecChannel(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"foo >=1": "", "conda-forge::foo >=1": "conda-forge", "conda-forge/linux-64::foo": "conda-forge/linux-64", "foo[channel=c]": "c",
		"foo[subdir=noarch]": "*/noarch",
	} {
		s, err := ParseSpec(text)
		if err != nil || s.Name != "foo" || s.Channel != want {
			t.Errorf("%q: name %q, channel %q, error %v", text, s.Name, s.Channel, err)
		}
	}
}

func TestMatchAllocatesNothing(t *testing.T) {
	s, err := ParseSpec("foo >=1.0,<2.0a0,!=1.4.*|3.* *_cpu[build_number='>=1']")
	if err != nil {
		t.Fatal(err)
	}
	v, _ := ParseVersion("1.5.0")
	if n := testing.AllocsPerRun(100, func() {
		if !s.Match(v, "py39_cpu", 1) {
			t.Error("no match")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzSpec(f *testing.F) {
	for _, c := range specCases(f) {
		f.Add(c.Spec, "1.0.1", "py37_0")
	}
	for _, s := range []string{`foo[when="a[b='c']", extras=[x, "y]"], flags=[z]]`, "a::b:c 1", "foo ^(1|2)$|(3,4)", "foo[^$"} {
		f.Add(s, "1", "0")
	}
	f.Fuzz(func(t *testing.T, text, version, build string) {
		s, err := ParseSpec(text)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) {
				t.Errorf("error %T", err)
			}
			return
		}
		if s.Name == "" {
			t.Errorf("%q: no name", text)
		}
		v, err := ParseVersion(version)
		if err != nil {
			return
		}
		if got := s.Match(v, build, 0); got != s.Match(v, build, 0) {
			t.Errorf("%q: two answers", text)
		}
	})
}

func TestGlob(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"*", "", true}, {"*", "abc", true}, {"a*c", "abbc", true}, {"a*c", "abbcd", false}, {"*a*b", "xaxab", true},
		{"a*", "ba", false}, {"a**b", "ab", true}, {"", "", true}, {"", "a", false}, {"*ab", "aab", true}, {"a.c", "abc", false},
	} {
		if got := globMatch(c.pattern, c.s); got != c.want {
			t.Errorf("globMatch(%q, %q) = %t", c.pattern, c.s, got)
		}
	}
}
