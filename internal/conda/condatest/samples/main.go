// Command samples writes packages for demonstrations: flags and a folder flow in, package files in DIR/<subdir>/ flow out, one path per line on stdout.
//
//	go run ./internal/conda/condatest/samples -n 12 -seed 1 DIR
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/hallmark-attest/hallmark/internal/conda/condatest"
)

func main() {
	n := flag.Int("n", 12, "how many good packages")
	seed := flag.Uint64("seed", 1, "the same seed gives the same packages")
	bad := flag.Bool("bad", false, "add packages that must be refused, in DIR/bad/")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: samples [-n N] [-seed N] [-bad] DIR")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 1 || *n < 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := write(os.Stdout, flag.Arg(0), *n, *seed, *bad); err != nil {
		fmt.Fprintln(os.Stderr, "samples:", err)
		os.Exit(1)
	}
}

func write(out io.Writer, dir string, n int, seed uint64, bad bool) error {
	for _, s := range condatest.Samples(n, seed) {
		p, err := condatest.Write(filepath.Join(dir, s.Subdir), s)
		if err != nil {
			return err
		}
		fmt.Fprintln(out, p)
	}
	if !bad {
		return nil
	}
	for _, b := range condatest.Bad() {
		p, err := b.Write(filepath.Join(dir, "bad"))
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s\t%s\n", p, b.Code)
	}
	return nil
}
