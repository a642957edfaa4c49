package source

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestAway(t *testing.T) {
	t.Parallel()
	full, empty := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "other"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	open := func(elem ...string) error {
		f, err := os.Open(filepath.Join(elem...))
		if err == nil {
			f.Close()
		}
		return err
	}
	for name, tt := range map[string]struct {
		err  error
		want bool
	}{
		"missing among others": {open(full, "a.conda"), false},
		"empty folder":         {open(empty, "a.conda"), true},
		"no folder":            {fmt.Errorf("hashing: %w", open(full, "no", "a.conda")), true},
		"folder is a file":     {open(full, "other", "a.conda"), false},
		"another error":        {errors.New("no"), false},
		"no error":             {open(full, "other"), false},
	} {
		if got := Away(tt.err); got != tt.want {
			t.Errorf("%s (%v): %v", name, tt.err, got)
		}
	}
}
