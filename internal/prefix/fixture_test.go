package prefix_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/prefix"
	"github.com/hallmark-attest/hallmark/internal/prefix/prefixtest"
)

const (
	subdir   = "linux-64"
	filename = "a-1!2+x-Hab_0.conda"
	apiToken = "pfx_the-api-token-that-nobody-may-see"
)

func sum(b []byte) string { d := sha256.Sum256(b); return hex.EncodeToString(d[:]) }

// bench is a server, a client of it, and something to upload.
type bench struct {
	server *prefixtest.Server
	client *prefix.Client
	body   []byte
	bundle []byte

	mu     sync.Mutex
	pauses []time.Duration
}

func (b *bench) pkg() prefix.Package {
	return prefix.Package{Filename: filename, Subdir: subdir, Size: int64(len(b.body)), SHA256: sum(b.body), Body: bytes.NewReader(b.body)}
}

func (b *bench) paused() []time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.pauses)
}

func (b *bench) connect(t *testing.T, change func(*prefix.Config)) {
	t.Helper()
	conf := prefix.Config{Server: b.server.Origin(), Channel: "my-channel", Tokens: &prefix.Variable{Name: "KEY", Getenv: func(string) string { return apiToken }},
		Transport: b.server.Client().Transport}
	if change != nil {
		change(&conf)
	}
	c, err := prefix.New(conf)
	if err != nil {
		t.Fatal(err)
	}
	prefix.OnPause(c, func(d time.Duration) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.pauses = append(b.pauses, d)
	})
	b.client = c
}

func newBench(t *testing.T, change func(*prefix.Config)) *bench {
	t.Helper()
	b := &bench{server: prefixtest.New(t, "my-channel"), body: []byte("subdir linux-64\nthe bytes of a package\r\n--\r\n")}
	b.server.Accept(apiToken)
	b.bundle = prefixtest.Bundle(filename, b.body, b.server.ChannelURL())
	b.connect(t, change)
	return b
}

// uploaded is what the server serves of a package, once it does.
type uploaded struct {
	Existed       bool
	Match         prefix.Match
	SidecarSHA256 string
	SidecarSize   int64
	Bundles       int
}

func (b *bench) upload(t *testing.T) (uploaded, error) {
	t.Helper()
	return b.send(t, b.pkg())
}

// send uploads, and waits until the bundle is served.
func (b *bench) send(t *testing.T, p prefix.Package) (u uploaded, err error) {
	t.Helper()
	if u.Existed, err = b.client.Upload(t.Context(), p, b.bundle); err != nil {
		return u, err
	}
	sidecar, err := b.client.Await(t.Context(), p.Subdir, p.Filename, func(sidecar []byte) bool {
		bundles, _ := attest.Split(sidecar)
		u.Bundles = len(bundles)
		_, u.Match = prefix.Held(sidecar, b.bundle)
		return u.Match != ""
	})
	if err == nil {
		u.SidecarSHA256, u.SidecarSize = sum(sidecar), int64(len(sidecar))
	}
	return u, err
}

func array(elements ...[]byte) []byte {
	return slices.Concat([]byte("["), bytes.Join(elements, []byte(",")), []byte("]\n"))
}
