package command

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

func TestWarnOfDescriptors(t *testing.T) {
	t.Parallel()
	if n := descriptors(nil); n > 1024 {
		t.Errorf("the usual concurrency may need %d: more than many systems allow", n)
	}
	limit, ok := descriptorLimit()
	if !ok || limit > 1<<40 {
		t.Skip("NOT TESTED: this system has no limit to warn of")
	}
	for _, tt := range []struct {
		sign int
		warn bool
	}{{1, limit < 500}, {int(limit), true}} {
		var log bytes.Buffer
		f := &StageFlags{Concurrency: map[string]int{"sign": tt.sign, "hash": 1}}
		f.WarnOfDescriptors(&Env{Log: slog.New(slog.NewTextHandler(&log, nil))})
		if got := strings.Contains(log.String(), "few file descriptors"); got != tt.warn {
			t.Errorf("sign=%d under a limit of %d: %s", tt.sign, limit, log.String())
		}
	}
}
