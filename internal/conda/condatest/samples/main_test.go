package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hallmark-attest/hallmark/internal/conda"
)

func TestWriteGoodAndBad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var out bytes.Buffer
	if err := write(&out, dir, 9, 4, true); err != nil {
		t.Fatal(err)
	}
	good, bad := 0, 0
	for line := range strings.Lines(out.String()) {
		p, code, isBad := strings.Cut(strings.TrimSpace(line), "\t")
		f, err := os.Open(p)
		if err != nil {
			t.Fatal(err)
		}
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		pkg, err := conda.Read(t.Context(), f, info.Size(), filepath.Base(p))
		_ = f.Close()
		if isBad {
			bad++
			if e, ok := errors.AsType[*conda.Error](err); !ok || e.Code != code {
				t.Errorf("%s: want %s: %v", p, code, err)
			}
			continue
		}
		good++
		if err != nil || pkg.Subdir != filepath.Base(filepath.Dir(p)) {
			t.Errorf("%s: %v", p, err)
		}
	}
	if good != 9 || bad < 50 {
		t.Errorf("%d good, %d bad", good, bad)
	}
}
