package channel

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hallmark-attest/hallmark/internal/store"
)

func openDirectory(t *testing.T) (store.Store, func(string) []byte) {
	t.Helper()
	dir := t.TempDir()
	s, err := store.NewDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s, func(key string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(key)))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}
