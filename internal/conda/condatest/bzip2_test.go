package condatest

import (
	"bytes"
	"compress/bzip2"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
)

func bzip2Inputs() map[string][]byte {
	random := make([]byte, 250_000)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	in := map[string][]byte{
		"empty":       {},
		"one byte":    {7},
		"one value":   bytes.Repeat([]byte{0}, 3),
		"periodic":    bytes.Repeat([]byte("ab"), 40_000),
		"text":        []byte(strings.Repeat("the quick brown fox jumps over the lazy dog\n", 300)),
		"random":      random,
		"all values":  random[:5000],
		"long zeros":  make([]byte, 3<<20),
		"zeros, then": append(make([]byte, 200_000), random[:120_000]...),
	}
	for _, n := range []int{3, 4, 5, 258, 259, 260, 263, 518} {
		in["run of "+string(rune('0'+n%10))+strings.Repeat("'", n/100)] = append(bytes.Repeat([]byte{'x'}, n), 'y')
	}
	return in
}

func TestBzip2(t *testing.T) {
	t.Parallel()
	cli, _ := exec.LookPath("bzip2")
	for name, data := range bzip2Inputs() {
		t.Run(name, func(t *testing.T) {
			packed := bzip2Stream(data)
			got, err := io.ReadAll(bzip2.NewReader(bytes.NewReader(packed)))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, data) {
				t.Fatalf("%d bytes became %d others", len(data), len(got))
			}
			if cli == "" {
				return // the library above has checked it already; the tool is a second opinion
			}
			cmd := exec.CommandContext(t.Context(), cli, "-dc")
			cmd.Stdin = bytes.NewReader(packed)
			out, err := cmd.Output()
			if err != nil || !bytes.Equal(out, data) {
				t.Fatalf("the bzip2 tool: %v, %d bytes of %d", err, len(out), len(data))
			}
		})
	}
}
