package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// Usage is what a program cost, with its threads and the processes that it waited for. It is taken from outside and in one
// way for all: a process that does nothing else starts the program, waits for it, and asks the kernel.
//
// Bytes are those of read(2), write(2) and their kin, from the page cache or not. They hold neither listings of folders nor
// what is read through a memory map.
type Usage struct {
	Read    int64         `json:"readBytes"`
	Written int64         `json:"writtenBytes"`
	Reads   int64         `json:"readCalls"`
	Writes  int64         `json:"writeCalls"`
	CPU     time.Duration `json:"cpuNanoseconds"` // user and system
	Wall    time.Duration `json:"wallNanoseconds"`
	Peak    int64         `json:"peakBytes"` // resident; of the largest process, where there are several
}

// Bytes is what was read and written.
func (u Usage) Bytes() int64 { return u.Read + u.Written }

// less takes a start that did nothing off. The peak stays.
func (u Usage) less(start Usage) Usage {
	u.Read, u.Written = max(0, u.Read-start.Read), max(0, u.Written-start.Written)
	u.Reads, u.Writes = max(0, u.Reads-start.Reads), max(0, u.Writes-start.Writes)
	u.CPU, u.Wall = max(0, u.CPU-start.CPU), max(0, u.Wall-start.Wall)
	return u
}

// measure runs a program and gives its stdout.
func measure(ctx context.Context, self string, env []string, argv ...string) (u Usage, stdout []byte, err error) {
	report, err := os.CreateTemp("", "hallmark-usage-")
	if err != nil {
		return u, nil, err
	}
	defer os.Remove(report.Name())
	defer report.Close()
	c := exec.CommandContext(ctx, self, append([]string{"--child", "measure", "--report", report.Name(), "--"}, argv...)...)
	c.Env = append(os.Environ(), env...)
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = time.Minute
	var out, said bytes.Buffer
	c.Stdout, c.Stderr = &out, &said
	if err := c.Run(); err != nil {
		return u, nil, fmt.Errorf("%s: %w\n%s", argv[0], err, tail(said.Bytes()))
	}
	if err := json.NewDecoder(report).Decode(&u); err != nil {
		return u, nil, fmt.Errorf("reading what %s cost: %w", argv[0], err)
	}
	return u, out.Bytes(), nil
}

func tail(b []byte) []byte { return b[max(0, len(b)-4000):] }

// runMeasured is the process that measure starts.
func runMeasured(ctx context.Context, report string, argv []string) error {
	if len(argv) == 0 {
		return fmt.Errorf("nothing to measure")
	}
	if _, err := openFiles(); err != nil {
		return err
	}
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 10 * time.Second
	c.Stdin, c.Stdout, c.Stderr = nil, os.Stdout, os.Stderr
	before, err := spent()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := c.Run(); err != nil {
		return err
	}
	wall := time.Since(start)
	after, err := spent()
	if err != nil {
		return err
	}
	u := after.less(before)
	u.Wall = wall
	b, err := json.Marshal(u)
	if err != nil {
		return err
	}
	return os.WriteFile(report, b, 0o600)
}

// plus is one after the other.
func (u Usage) plus(v Usage) Usage {
	u.Read, u.Written, u.Reads, u.Writes = u.Read+v.Read, u.Written+v.Written, u.Reads+v.Reads, u.Writes+v.Writes
	u.CPU, u.Wall, u.Peak = u.CPU+v.CPU, u.Wall+v.Wall, max(u.Peak, v.Peak)
	return u
}
