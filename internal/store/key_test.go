package store

import (
	"errors"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzKey: what passes for a key stays below its root, is in the one form that it has, and can be listed by each beginning of it.
func FuzzKey(f *testing.F) {
	for _, k := range []string{"", "a", "a/b", "/a", "a/", "a//b", "../a", "a/..", ".hallmark/tmp/x", "a\x00", "ü", "\xff", "a b+!%"} {
		f.Add(k)
	}
	f.Fuzz(func(t *testing.T, key string) {
		if err := checkKey(key); err != nil {
			if !errors.Is(err, ErrKey) {
				t.Errorf("%q: %v", key, err)
			}
			return
		}
		if path.Clean(key) != key || !filepath.IsLocal(filepath.FromSlash(key)) || path.Join("/root", key) != "/root/"+key {
			t.Errorf("%q passes for a key", key)
		}
		for i, r := range key {
			if err := checkPrefix(key[:i]); err != nil {
				t.Errorf("%q is a key, its beginning up to %q no prefix: %v", key, r, err)
			}
		}
		if dir, name, ok := cutLast(key); ok && dir+"/"+name != key || !ok && strings.Contains(key, "/") {
			t.Errorf("%q is cut into %q and %q", key, dir, name)
		}
	})
}
