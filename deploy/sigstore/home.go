package main

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// home is the directory that holds everything: keys, ports, logs of the servers, log trees and trust files.
type home string

func (h home) path(elem ...string) string {
	return filepath.Join(append([]string{string(h)}, elem...)...)
}

func (h home) trustedRoot() string   { return h.path("trusted_root.json") }
func (h home) signingConfig() string { return h.path("signing_config.json") }
func (h home) env() string           { return h.path("env") }
func (h home) ready() string         { return h.path("ready") }
func (h home) key(name string) string {
	return h.path("keys", name)
}

// errBusy: another process runs on the same directory.
var errBusy = errors.New("already in use by a running sigstore")

// lock takes the directory for this process. The kernel gives it back when the process ends, however it ends.
func (h home) lock() (*os.File, error) {
	f, err := os.OpenFile(h.path("lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", h, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		pid, _ := io.ReadAll(io.LimitReader(f, 32))
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s is %w (process %s); stop that one or take another directory", h, errBusy, pid)
		}
		return nil, fmt.Errorf("locking %s: %w", h, err)
	}
	if err := f.Truncate(0); err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("writing the lock of %s: %w", h, err)
		}
	}
	return f, nil
}

// state is what must stay the same for as long as the directory lives, so that trust files given away stay valid.
type state struct {
	Created time.Time `json:"created"` // start of every key's validity
	Ports   ports     `json:"ports"`
}

// ports of every listener, all on 127.0.0.1.
type ports struct {
	OIDC         int `json:"oidc"`
	Fulcio       int `json:"fulcio"`
	TSA          int `json:"tsa"`
	CTLog        int `json:"ctlog"`
	Rekor        int `json:"rekor"`         // v2, writes
	RekorTiles   int `json:"rekor_tiles"`   // v2, reads
	RekorGRPC    int `json:"rekor_grpc"`    // v2, internal
	RekorMetrics int `json:"rekor_metrics"` // v2
	Rekor1       int `json:"rekor1"`
	Trillian     int `json:"trillian"` // v1, internal
}

func (p *ports) all() []*int {
	return []*int{&p.OIDC, &p.Fulcio, &p.TSA, &p.CTLog, &p.Rekor, &p.RekorTiles, &p.RekorGRPC, &p.RekorMetrics, &p.Rekor1, &p.Trillian}
}

// open reads the state of the directory, or makes a new one with its keys and trust root. The state is written last:
// a directory whose making was interrupted has none and is made anew.
func (h home) open(portBase int) (state, error) {
	b, err := os.ReadFile(h.path("state.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return h.create(portBase)
	}
	if err != nil {
		return state{}, fmt.Errorf("reading the state: %w", err)
	}
	var st state
	if err := json.Unmarshal(b, &st); err != nil {
		return state{}, fmt.Errorf("reading %s: %w", h.path("state.json"), err)
	}
	for i, p := range st.Ports.all() {
		if *p < 1 || *p > 65535 {
			return state{}, fmt.Errorf("reading %s: port %d is not one", h.path("state.json"), *p)
		}
		if portBase != 0 && *p != portBase+i {
			return state{}, fmt.Errorf("%w: --port-base %d, but %s has its ports already (first: %d)", errUsage, portBase, h, st.Ports.OIDC)
		}
	}
	return st, nil
}

func (h home) create(portBase int) (state, error) {
	for _, d := range []string{"keys", "logs"} {
		if err := os.MkdirAll(h.path(d), 0o700); err != nil {
			return state{}, err
		}
	}
	// Whole seconds, as certificates have them; one minute back, for clocks of containers.
	st := state{Created: time.Now().UTC().Add(-time.Minute).Truncate(time.Second)}
	if err := st.Ports.choose(portBase); err != nil {
		return state{}, err
	}
	if err := createKeys(h, st.Created); err != nil {
		return state{}, fmt.Errorf("making keys: %w", err)
	}
	if err := writeTrustedRoot(h, st); err != nil {
		return state{}, fmt.Errorf("writing the trust root: %w", err)
	}
	b, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return state{}, err
	}
	return st, writeFile(h.path("state.json"), append(b, '\n'), 0o600)
}

// choose takes base, base+1, …, or with base 0 free ports below the range from which the kernel gives ports to
// outgoing connections: the same ports are wanted again at the next start.
func (p *ports) choose(base int) error {
	if base < 0 || base > 65535-len(p.all()) {
		return fmt.Errorf("%w: --port-base %d is out of range", errUsage, base)
	}
	const low, high = 20000, 32000
	taken := map[int]bool{}
	for i, port := range p.all() {
		if base != 0 {
			*port = base + i
			continue
		}
		for try := 0; *port == 0; try++ {
			if try == 1000 {
				return fmt.Errorf("no free port between %d and %d", low, high)
			}
			n, err := rand.Int(rand.Reader, big.NewInt(high-low))
			if err != nil {
				return err
			}
			c := low + int(n.Int64())
			if taken[c] {
				continue
			}
			l, err := net.Listen("tcp4", loopback(c))
			if err != nil {
				continue
			}
			l.Close()
			taken[c], *port = true, c
		}
	}
	return nil
}

// loopback is the address of every listener and, after http://, of every URL: an address and not a name, so that
// neither a hosts file nor IPv6 has a say.
func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func baseURL(port int) string { return "http://" + loopback(port) }

// writeFile replaces a file in one step: readers see the old bytes or the new ones.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, data, mode); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
