package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// faults are what may befall a request, each in so many cases of a hundred.
var faults = []struct {
	name  string
	often int
	befal func(p *proxy, w http.ResponseWriter, r *http.Request, body []byte)
}{
	{"delayed", 25, func(p *proxy, w http.ResponseWriter, r *http.Request, body []byte) {
		select {
		case <-time.After(p.wait(200*time.Millisecond, 3*time.Second)):
		case <-r.Context().Done():
			return
		}
		p.pass(w, r, body)
	}},
	{"503", 10, func(_ *proxy, w http.ResponseWriter, _ *http.Request, _ []byte) {
		http.Error(w, "chaos", http.StatusServiceUnavailable)
	}},
	{"503 with Retry-After", 5, func(_ *proxy, w http.ResponseWriter, _ *http.Request, _ []byte) {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "chaos", http.StatusServiceUnavailable)
	}},
	{"429 with Retry-After", 5, func(_ *proxy, w http.ResponseWriter, _ *http.Request, _ []byte) {
		w.Header().Set("Retry-After", "2")
		http.Error(w, "chaos", http.StatusTooManyRequests)
	}},
	{"connection reset before", 15, func(*proxy, http.ResponseWriter, *http.Request, []byte) { panic(http.ErrAbortHandler) }},
	{"connection reset after", 15, func(p *proxy, _ http.ResponseWriter, r *http.Request, body []byte) {
		p.carryOut(r, body)
		panic(http.ErrAbortHandler)
	}},
	{"500 after", 10, func(p *proxy, w http.ResponseWriter, r *http.Request, body []byte) {
		p.carryOut(r, body)
		http.Error(w, "chaos", http.StatusInternalServerError)
	}},
	{"answer cut short", 15, func(p *proxy, w http.ResponseWriter, r *http.Request, body []byte) {
		resp, answer, err := p.ask(r, body)
		if err == nil && resp.StatusCode < 300 {
			p.lost.Add(1)
			copyHeader(w, resp)
			w.WriteHeader(resp.StatusCode)
			_, _ = w.Write(answer[:len(answer)/2])
			_ = http.NewResponseController(w).Flush()
		}
		panic(http.ErrAbortHandler)
	}},
}

// proxy is in front of one HTTP server and is as unreliable as it is told to be. Safe for concurrent use.
type proxy struct {
	name, target string
	url          string
	server       *http.Server
	transport    *http.Transport
	rate         atomic.Uint64 // the bits of a float64: how many requests of one meet a fault
	out          atomic.Bool   // all requests do
	lost         atomic.Int64  // requests that were carried out and whose answer did not arrive

	mu     sync.Mutex
	rng    *rand.Rand
	counts map[string]int
	total  int
}

// newProxy listens on loopback for the server at target ("http://host:port").
func newProxy(name, target string, seed uint64) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{name: name, target: strings.TrimPrefix(target, "http://"), url: "http://" + l.Addr().String(),
		transport: &http.Transport{MaxIdleConnsPerHost: 512, DisableCompression: true},
		rng:       rand.New(rand.NewPCG(seed, uint64(len(name)))), counts: map[string]int{}}
	p.server = &http.Server{Handler: p, ErrorLog: quiet}
	go func() { _ = p.server.Serve(l) }() // ends with close
	return p, nil
}

func (p *proxy) close() {
	_ = p.server.Close()
	p.transport.CloseIdleConnections()
}

func (p *proxy) setRate(f float64) { p.rate.Store(math.Float64bits(f)) }

func (p *proxy) wait(from, to time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return from + time.Duration(p.rng.Int64N(int64(to-from)))
}

// ServeHTTP implements http.Handler.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 256<<20))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if f := p.draw(); f != nil {
		f(p, w, r, body)
		return
	}
	p.pass(w, r, body)
}

// draw says what befalls the next request; nil for nothing.
func (p *proxy) draw() func(*proxy, http.ResponseWriter, *http.Request, []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total++
	rate := math.Float64frombits(p.rate.Load())
	if p.out.Load() {
		// An outage is an outage: nothing is carried out.
		name := []string{"503", "connection reset before"}[p.rng.IntN(2)]
		for _, f := range faults {
			if f.name == name {
				p.counts["in an outage: "+name]++
				return f.befal
			}
		}
	}
	if p.rng.Float64() >= rate {
		return nil
	}
	n := p.rng.IntN(100)
	for _, f := range faults {
		if n -= f.often; n < 0 {
			p.counts[f.name]++
			return f.befal
		}
	}
	return nil
}

// carryOut has the request carried out; the answer is lost.
func (p *proxy) carryOut(r *http.Request, body []byte) {
	if resp, _, err := p.ask(r, body); err == nil && resp.StatusCode < 300 {
		p.lost.Add(1)
	}
}

// ask asks the server and reads its answer.
func (p *proxy) ask(r *http.Request, body []byte) (*http.Response, []byte, error) {
	out := r.Clone(context.WithoutCancel(r.Context())) // a server does not stop what a client gives up
	out.URL.Scheme, out.URL.Host = "http", p.target
	out.Body, out.RequestURI = io.NopCloser(bytes.NewReader(body)), ""
	out.ContentLength, out.TransferEncoding = int64(len(body)), nil
	resp, err := p.transport.RoundTrip(out)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return resp, answer, err
}

func (p *proxy) pass(w http.ResponseWriter, r *http.Request, body []byte) {
	resp, answer, err := p.ask(r, body)
	if err != nil {
		panic(http.ErrAbortHandler) // the server is away: so is the proxy
	}
	copyHeader(w, resp)
	w.WriteHeader(resp.StatusCode)
	if _, err := w.Write(answer); err != nil && resp.StatusCode < 300 {
		p.lost.Add(1)
	}
}

func copyHeader(w http.ResponseWriter, resp *http.Response) {
	maps.Copy(w.Header(), resp.Header)
	if resp.ContentLength >= 0 {
		w.Header().Set("Content-Length", fmt.Sprint(resp.ContentLength))
	}
}

// wire is a TCP connection's path that can be cut or made to swallow everything.
type wire struct {
	name, target string
	listener     net.Listener

	mu    sync.Mutex
	cut   bool
	hole  chan struct{} // not nil while the wire swallows; closed when it does no more
	conns map[net.Conn]bool
	wg    sync.WaitGroup
}

func newWire(name, target string) (*wire, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w := &wire{name: name, target: target, listener: l, conns: map[net.Conn]bool{}}
	w.wg.Go(w.accept)
	return w, nil
}

func (w *wire) addr() string { return w.listener.Addr().String() }

func (w *wire) close() {
	_ = w.listener.Close()
	w.set(true, false)
	w.wg.Wait()
}

// set cuts the wire, lets it swallow everything, or neither.
func (w *wire) set(cut, hole bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	if cut {
		for c := range w.conns {
			_ = c.Close()
		}
	}
	switch {
	case hole && w.hole == nil:
		w.hole = make(chan struct{})
	case !hole && w.hole != nil:
		close(w.hole)
		w.hole = nil
	}
}

func (w *wire) accept() {
	for {
		c, err := w.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			w.wg.Go(func() { w.carry(c) })
		}
	}
}

func (w *wire) carry(c net.Conn) {
	defer c.Close()
	w.mu.Lock()
	cut := w.cut
	w.mu.Unlock()
	if cut {
		return
	}
	d, err := net.DialTimeout("tcp", w.target, 2*time.Second)
	if err != nil {
		return
	}
	defer d.Close()
	w.mu.Lock()
	if w.cut {
		w.mu.Unlock()
		return
	}
	w.conns[c], w.conns[d] = true, true
	w.mu.Unlock()
	var pair sync.WaitGroup
	pair.Go(func() { w.pump(c, d) })
	pair.Go(func() { w.pump(d, c) })
	pair.Wait()
	w.mu.Lock()
	delete(w.conns, c)
	delete(w.conns, d)
	w.mu.Unlock()
}

func (w *wire) pump(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		w.mu.Lock()
		hole := w.hole
		w.mu.Unlock()
		if hole != nil {
			<-hole // TCP loses nothing: it arrives late
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
