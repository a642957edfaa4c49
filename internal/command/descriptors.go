package command

import (
	"github.com/hallmark-attest/hallmark/stages/hash"
	"github.com/hallmark-attest/hallmark/stages/sign"
	"github.com/hallmark-attest/hallmark/stages/sources"
	"github.com/hallmark-attest/hallmark/stages/upload"
)

// otherDescriptors is what a process has open besides its items' files and connections: the embedded server's files above all.
const otherDescriptors = 128

// descriptors is about how many file descriptors one campaign takes with this concurrency.
func descriptors(concurrency map[string]int) int {
	n := otherDescriptors
	for _, s := range []struct {
		stage       string
		usual, each int
	}{
		{"hash", hash.Concurrency(), 1},
		{"sources", sources.Concurrency, 2}, // the package, a connection
		{"sign", sign.Concurrency, 2},       // connections to the timestamp authority and the log
		{"upload", upload.Concurrency, 4},   // the package, the new file, its lock, its folder
	} {
		at := s.usual
		if c, ok := concurrency[s.stage]; ok {
			at = c
		}
		n += at * s.each
	}
	return n
}

// WarnOfDescriptors says so if this process may have too few file descriptors open for its concurrency. It goes on all the same: what
// finds none is tried again. (The Go runtime has raised the soft limit to the hard one by now.)
func (f *StageFlags) WarnOfDescriptors(env *Env) {
	limit, ok := descriptorLimit()
	if need := descriptors(f.Concurrency); ok && limit < uint64(need) {
		env.Log.Warn("few file descriptors for this concurrency: work may wait for them", "limit", limit, "may_need", need,
			"hint", "raise the limit (ulimit -n), or lower --concurrency")
	}
}
