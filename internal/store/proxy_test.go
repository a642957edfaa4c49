package store_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/hallmark-attest/hallmark/internal/store"
	"github.com/hallmark-attest/hallmark/internal/store/storetest"
)

// proxy is a bad network in front of a good server. Its hooks see every request; nil means: pass on.
type proxy struct {
	*httptest.Server
	target string

	mu       sync.Mutex
	requests []string // method and path, in order
	opened   func()
	// before may answer itself (true) or change the body.
	before func(w http.ResponseWriter, r *http.Request, body []byte) ([]byte, bool)
	// after may take the answer (true) or change its body.
	after func(w http.ResponseWriter, r *http.Request, resp *http.Response, body []byte) ([]byte, bool)
}

func newProxy(t *testing.T, s storetest.S3Server, tls bool) *proxy {
	t.Helper()
	p := &proxy{target: strings.TrimPrefix(s.Endpoint, "http://")}
	p.Server = httptest.NewUnstartedServer(p)
	p.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if state == http.StateNew && p.opened != nil {
			p.opened()
		}
	}
	if tls {
		p.StartTLS()
	} else {
		p.Start()
	}
	t.Cleanup(p.Close)
	return p
}

func prefixOf(t *testing.T) string { return strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")) }

// connections has f called for each connection that is opened from now on.
func (p *proxy) connections(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opened = f
}

// open opens a store through the proxy, below a prefix that is the test's own.
func (p *proxy) open(t *testing.T, s storetest.S3Server) *store.S3 {
	t.Helper()
	c := s.Config(prefixOf(t))
	c.Endpoint = p.URL
	c.MultipartAbove, c.PartSize = 5<<20, 5<<20
	if p.TLS != nil {
		tr := store.NewTransport()
		tr.TLSClientConfig = p.Client().Transport.(*http.Transport).TLSClientConfig
		c.Transport = tr
	}
	st, err := store.NewS3(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	p.mu.Lock()
	p.requests = append(p.requests, r.Method)
	before, after := p.before, p.after
	p.mu.Unlock()
	if before != nil {
		changed, done := before(w, r, body)
		if done {
			return
		}
		body = changed
	}
	out := r.Clone(r.Context())
	out.RequestURI = ""
	out.URL.Scheme, out.URL.Host = "http", p.target // Host stays, for it is signed
	out.Body, out.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	resp, err := http.DefaultTransport.RoundTrip(out)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if after != nil {
		changed, done := after(w, r, resp, answer)
		if done {
			return
		}
		answer = changed
	}
	for k, vs := range resp.Header {
		w.Header()[k] = vs
	}
	w.WriteHeader(resp.StatusCode)
	w.Write(answer)
}

func (p *proxy) count(method string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, r := range p.requests {
		if r == method {
			n++
		}
	}
	return n
}

// slowDown is how S3 says that there are too many requests.
func slowDown(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(http.StatusServiceUnavailable)
	io.WriteString(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>`)
}
