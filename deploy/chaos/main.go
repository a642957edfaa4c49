// Command chaos runs campaigns while everything around them fails, and then looks from outside whether anything was lost.
//
//	go run ./deploy/chaos [-packages 2000] [-minutes 10] [-seed N] [-dir DIR] [-workers 3] [-intensity 1]
//
// What flows in: a seed. It starts a private Sigstore, an S3 server, a cluster of three NATS servers and several workers, each in
// a process of its own, with a proxy in front of each that delays, resets, cuts short and answers 5xx; and while campaigns
// run it kills, stops, cuts off and restarts them at random. What flows out: figures, and every invariant that did not hold.
//
// Everything listens on loopback. With the same seed the same mischief is planned in the same order; what it meets depends on
// the machine's timing.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// plan is what a run is asked for.
type plan struct {
	packages, workers int
	minutes           float64
	seed              uint64
	dir               string
	intensity         float64
	settle            time.Duration // how long a campaign may take to end once all faults are over
	cosigned          int           // how many packages of each campaign cosign looks at
}

func main() {
	p := plan{settle: 10 * time.Minute}
	flag.IntVar(&p.packages, "packages", 2000, "packages of each campaign")
	flag.IntVar(&p.workers, "workers", 3, "worker processes")
	flag.Float64Var(&p.minutes, "minutes", 0, "go on with further campaigns until so many minutes are over (default: one campaign)")
	flag.Uint64Var(&p.seed, "seed", 0, "seed of the mischief (default: taken from the clock, and printed)")
	flag.StringVar(&p.dir, "dir", "", "working folder, kept (default: a temporary one, kept if something is wrong)")
	flag.Float64Var(&p.intensity, "intensity", 1, "how much goes wrong: 0 nothing, 1 an action every 4 s and 2 % of all requests")
	flag.IntVar(&p.cosigned, "cosign", 25, "packages of each campaign that cosign verifies")
	flag.Parse()
	if p.seed == 0 {
		p.seed = uint64(time.Now().UnixNano())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, p); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

// errBroken says that invariants did not hold; they have been printed.
var errBroken = errors.New("invariants are broken")

func run(ctx context.Context, p plan) (err error) {
	if p.dir == "" {
		if p.dir, err = os.MkdirTemp("", "hallmark-chaos-"); err != nil {
			return err
		}
		defer func() {
			if err == nil {
				err = os.RemoveAll(p.dir)
			} else {
				fmt.Println("everything is kept in", p.dir)
			}
		}()
	}
	if p.dir, err = filepath.Abs(p.dir); err != nil {
		return err
	}
	fmt.Printf("seed %d\n", p.seed)
	h, err := open(ctx, p)
	if err != nil {
		return err
	}
	defer h.close()
	end := time.Now().Add(time.Duration(p.minutes * float64(time.Minute)))
	for n := 1; ; n++ {
		if err := h.campaign(ctx, n); err != nil {
			return err
		}
		if time.Now().After(end) {
			break
		}
	}
	return h.report()
}
