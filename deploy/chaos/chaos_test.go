package main

import (
	"os"
	"strconv"
	"testing"
	"time"
)

// TestChaos is a short run. HALLMARK_SEED repeats the mischief of another one.
func TestChaos(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a dozen servers")
	}
	p := plan{packages: 250, workers: 3, intensity: 1.5, cosigned: 10, settle: 6 * time.Minute, dir: t.TempDir(), seed: uint64(time.Now().UnixNano())}
	if s := os.Getenv("HALLMARK_SEED"); s != "" {
		var err error
		if p.seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	if err := run(t.Context(), p); err != nil {
		t.Error(err)
	}
}
