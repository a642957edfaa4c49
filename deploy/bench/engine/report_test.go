package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"
)

func TestReport(t *testing.T) {
	t.Parallel()
	all := []Result{
		{Arm: "server", Segments: 1, Waiting: 100, Done: 100, Figures: Figures{EnqueueSeconds: 0.001, Seconds: 0.01, CPU: 0.004}, ServerCPU: 0.002, ServerRSS: 30 << 20, ServerWrote: 50_000},
		{Arm: "server", Segments: 3, Waiting: 100, Done: 100, Figures: Figures{EnqueueSeconds: 0.001, Seconds: 0.02, CPU: 0.008}, ServerCPU: 0.006, ServerRSS: 30 << 20},
		{Arm: "server", Segments: 1, Waiting: 1000, Done: 100, Figures: Figures{EnqueueSeconds: 0.02, Seconds: 0.015, CPU: 0.004}, ServerCPU: 0.002, ServerRSS: 90 << 20},
	}
	var b bytes.Buffer
	if err := report(&b, all); err != nil {
		t.Fatal(err)
	}
	if want := "server: a hop costs 50 µs wall, 40 µs CPU; per item at 1000 waiting over that at 100: CPU 1.00, wall 1.50, enqueueing 2.00"; !strings.Contains(b.String(), want) {
		t.Errorf("got\n%s\nwant in it\n%s", b.String(), want)
	}
}

// What the kernel says of this process is about what the process has done.
func TestLook(t *testing.T) {
	t.Parallel()
	before, err := look(os.Getpid())
	if err != nil {
		t.Skip(err) // not Linux
	}
	for began := time.Now(); time.Since(began) < 100*time.Millisecond; {
	}
	after, err := look(os.Getpid())
	if err != nil || after.rss < 1<<20 || after.cpu <= before.cpu {
		t.Errorf("%+v, then %+v, %v", before, after, err)
	}
}
