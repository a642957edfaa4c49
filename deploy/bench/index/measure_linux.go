package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"
)

// spent is what this process's children have cost, and this process's own bytes, of which there are hardly any: the kernel
// adds a child's to its parent's when the parent has waited for it.
func spent() (u Usage, err error) {
	b, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return u, err
	}
	fields := map[string]*int64{"rchar": &u.Read, "wchar": &u.Written, "syscr": &u.Reads, "syscw": &u.Writes}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		key, value, _ := bytes.Cut(s.Bytes(), []byte(": "))
		if to := fields[string(key)]; to != nil {
			if *to, err = strconv.ParseInt(string(value), 10, 64); err != nil {
				return u, fmt.Errorf("reading /proc/self/io: %w", err)
			}
		}
	}
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &r); err != nil {
		return u, fmt.Errorf("getrusage: %w", err)
	}
	u.CPU = time.Duration(r.Utime.Nano() + r.Stime.Nano())
	u.Peak = r.Maxrss << 10
	return u, nil
}

// openFiles lets this process and its children open as many files at once as the machine allows, and says how many.
func openFiles() (int, error) {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0, fmt.Errorf("getrlimit: %w", err)
	}
	const plenty = 1 << 17
	more := syscall.Rlimit{Cur: max(l.Max, plenty), Max: max(l.Max, plenty)}
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &more) == nil { // as root
		return int(more.Cur), nil
	}
	l.Cur = l.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0, fmt.Errorf("setrlimit: %w", err)
	}
	return int(l.Cur), nil
}
