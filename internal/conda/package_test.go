package conda_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/hallmark-attest/hallmark/internal/conda"
	"github.com/hallmark-attest/hallmark/internal/conda/condatest"
)

func read(t *testing.T, filename string, b []byte, opts ...conda.Option) (*conda.Package, error) {
	t.Helper()
	return conda.Read(t.Context(), bytes.NewReader(b), int64(len(b)), filename, opts...)
}

func code(err error) string {
	if e, ok := errors.AsType[*conda.Error](err); ok {
		return e.Code
	}
	return ""
}

func TestReadRefusesBadPackages(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, b := range condatest.Bad() {
		if seen[b.Filename] {
			t.Errorf("two cases are named %s", b.Filename)
		}
		seen[b.Filename] = true
		t.Run(b.Name, func(t *testing.T) {
			p, err := read(t, b.Filename, b.Bytes)
			if code(err) != b.Code || p != nil {
				t.Errorf("code %q, want %q: %v", code(err), b.Code, err)
			}
			if e, ok := errors.AsType[*conda.Error](err); ok && (e.Hint == "" || e.Error() == "") {
				t.Error("no hint, or no message")
			}
			if len(b.Bytes) > 200_000 {
				t.Errorf("the case has %d bytes", len(b.Bytes))
			}
			t.Log(err)
		})
	}
}
