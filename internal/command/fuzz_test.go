package command

import (
	"strings"
	"testing"

	"github.com/hallmark-attest/hallmark/pipeline/queue"
)

// FuzzRates: rates that are taken can be set, each for an upstream that there is.
func FuzzRates(f *testing.F) {
	for _, s := range []string{"rekor=600", "rekor=600 fulcio=none", "rekor=0", "rekor=1 rekor=2", "rekor", "=", "rekor=99999999999999999999", "rekor=-1", "REKOR=1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, args string) {
		rates, err := ParseRates(strings.Fields(args))
		if err != nil {
			return
		}
		for u, text := range rates {
			n, err := perMinute(text)
			if err != nil || queue.CheckRate(u, n) != nil {
				t.Fatalf("%q: %s=%q cannot be set", args, u, text)
			}
		}
	})
}
