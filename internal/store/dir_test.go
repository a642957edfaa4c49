package store_test

import (
	"testing"

	"github.com/hallmark-attest/hallmark/internal/store"
	"github.com/hallmark-attest/hallmark/internal/store/storetest"
)

func openDir(t *testing.T) store.Store {
	t.Helper()
	d, err := store.NewDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestDir(t *testing.T) {
	t.Parallel()
	storetest.Run(t, openDir)
}
