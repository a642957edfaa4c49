package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A program's bytes are counted with those of the processes that it starts, and so is its time.
func TestMeasuredIsTheProgramAndItsChildren(t *testing.T) {
	report := filepath.Join(t.TempDir(), "report")
	const n = 3_000_000
	if err := runMeasured(t.Context(), report, []string{"sh", "-c", "head -c 3000000 /dev/zero | cat >/dev/null; true"}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(report)
	if err != nil {
		t.Fatal(err)
	}
	var u Usage
	if err := json.Unmarshal(b, &u); err != nil {
		t.Fatal(err)
	}
	// head reads and writes all of it, and cat again.
	if u.Read < 2*n || u.Read > 3*n || u.Written < 2*n || u.Written > 3*n {
		t.Errorf("read %d and wrote %d, want a little more than %d", u.Read, u.Written, 2*n)
	}
	if u.Wall <= 0 || u.Wall > time.Minute || u.CPU <= 0 || u.Peak <= 0 || u.Reads <= 0 || u.Writes <= 0 {
		t.Errorf("%+v", u)
	}
	if err := runMeasured(t.Context(), report, []string{"false"}); err == nil {
		t.Error("a program that fails was measured")
	}
}
