package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// FuzzSums: every line of a list of digests is one of a file's name, or the list is refused.
func FuzzSums(f *testing.F) {
	sum := strings.Repeat("ab", 32)
	for _, s := range []string{"", sum + "  a.conda\n", sum + " *dir/a.conda\r\n" + sum + "  a.conda", sum + "  a\n" + strings.Repeat("cd", 32) + "  a", "\\" + sum + "  a", sum + "  ..", sum + "  /", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, list string) {
		got, err := (&inputFlags{SHA256Sums: "-"}).digests(strings.NewReader(list))
		if err != nil {
			return
		}
		for name, d := range got {
			if len(d) != 64 || name != filepath.Base(name) {
				t.Fatalf("%q: %q has %q", list, name, d)
			}
		}
		if n := len(strings.FieldsFunc(strings.ReplaceAll(list, "\r", ""), func(r rune) bool { return r == '\n' })); len(got) > n {
			t.Fatalf("%q: %d digests of %d lines", list, len(got), n)
		}
	})
}
