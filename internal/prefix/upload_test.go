package prefix_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallmark-attest/hallmark/internal/prefix"
	"github.com/hallmark-attest/hallmark/internal/prefix/prefixtest"
)

func TestUpload(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	got, err := b.upload(t)
	if err != nil {
		t.Fatal(err)
	}
	body, sidecar := b.server.Served(subdir, filename)
	if !bytes.Equal(body, b.body) || !bytes.Equal(sidecar, []byte("["+string(b.bundle)+"]")) {
		t.Errorf("the server has %q, %q", body, sidecar)
	}
	want := uploaded{Match: prefix.SameBytes, SidecarSHA256: sum(sidecar), SidecarSize: int64(len(sidecar)), Bundles: 1}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if len(b.paused()) != 0 {
		t.Error("it paused for nothing")
	}
	want.Existed = true
	if got, err = b.upload(t); err != nil || got != want {
		t.Errorf("again: %+v, %v", got, err)
	}
	if n := len(b.server.Requests(prefixtest.Upload)); n != 2 {
		t.Errorf("%d uploads", n)
	}
}

// TestStream: a package is sent in pieces, with its size said before, and its reader is left alone afterwards.
func TestStream(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.body = append([]byte("subdir linux-64\n"), bytes.Repeat([]byte("0123456789abcdef"), 1<<18)...)
	b.bundle = prefixtest.Bundle(filename, b.body, b.server.ChannelURL())
	r := &watched{ReaderAt: bytes.NewReader(b.body)}
	p := b.pkg()
	p.Body = r
	if _, err := b.send(t, p); err != nil {
		t.Fatal(err)
	}
	if most := r.most.Load(); most > 1<<20 {
		t.Errorf("a read of %d bytes at once", most)
	}
	r.over.Store(true)
	if req := b.server.Requests(prefixtest.Upload)[0]; req.Size <= p.Size || req.Size > p.Size+10_000 {
		t.Errorf("the request said that it has %d bytes", req.Size)
	}
}

// watched is a reader that knows how it was read.
type watched struct {
	io.ReaderAt
	most     atomic.Int64
	over     atomic.Bool
	afterEnd atomic.Bool
}

func (w *watched) ReadAt(p []byte, off int64) (int, error) {
	w.most.Store(max(w.most.Load(), int64(len(p))))
	if w.over.Load() {
		w.afterEnd.Store(true)
	}
	return w.ReaderAt.ReadAt(p, off)
}

// TestEarlyAnswer: the server answers before it has read the package; nothing reads it after Upload has returned.
func TestEarlyAnswer(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.body = append([]byte("subdir linux-64\n"), make([]byte, 32<<20)...)
	b.server.Fail(prefixtest.Fault{On: prefixtest.Upload, Status: 413, Early: true, Body: "too big"})
	r := &watched{ReaderAt: bytes.NewReader(b.body)}
	p := b.pkg()
	p.Body = r
	_, err := b.send(t, p)
	r.over.Store(true)
	// A server that hangs up on HTTP/1 while it is sent to may not be heard; what the strict server has to say to the
	// second request about this bundle is heard.
	if !errors.Is(err, prefix.ErrRejected) {
		t.Errorf("got %v", err)
	}
	b.server.CloseClientConnections()
	if r.afterEnd.Load() {
		t.Error("the package was read after the end")
	}
}

// TestBodyIsLeft: a transport may read on after its answer; Upload returns when it has closed the body.
func TestBodyIsLeft(t *testing.T) {
	t.Parallel()
	var closed atomic.Bool
	late := make(chan struct{})
	b := newBench(t, func(c *prefix.Config) {
		c.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			go func() {
				<-r.Context().Done()
				<-late
				closed.Store(true)
				r.Body.Close()
			}()
			return &http.Response{StatusCode: 413, Body: http.NoBody, Header: http.Header{}}, nil
		})
	})
	time.AfterFunc(20*time.Millisecond, func() { close(late) })
	if _, err := b.upload(t); !errors.Is(err, prefix.ErrRejected) || !closed.Load() {
		t.Errorf("%v, closed: %v", err, closed.Load())
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestStatuses: what each answer to an upload means.
func TestStatuses(t *testing.T) {
	t.Parallel()
	for code, want := range map[int]error{
		400: prefix.ErrRejected, 413: prefix.ErrRejected, 422: prefix.ErrRejected, 403: prefix.ErrForbidden, 404: prefix.ErrChannel,
		301: prefix.ErrChannel, 302: prefix.ErrChannel, 307: prefix.ErrChannel, 308: prefix.ErrChannel,
		405: nil, 408: nil, 425: nil, 429: nil, 500: nil, 502: nil, 503: nil, 504: nil,
	} {
		t.Run(http.StatusText(code), func(t *testing.T) {
			t.Parallel()
			b := newBench(t, func(c *prefix.Config) { c.Attempts = 2 })
			// Locations on this very server: to follow would succeed.
			f := prefixtest.Fault{On: prefixtest.Upload, Status: code, Header: http.Header{"Location": {"/api/v1/upload/my-channel"}}, Body: "because\r\n\x1b[31m" + apiToken}
			b.server.Fail(f, f)
			_, err := b.upload(t)
			if err == nil || !strings.Contains(err.Error(), "because [31m[redacted]") {
				t.Fatalf("got %v", err)
			}
			_, transient := prefix.Transient(err)
			if want != nil && !errors.Is(err, want) || transient != (want == nil) {
				t.Errorf("got %v, transient %v", err, transient)
			}
			attempts := 1
			if want == nil {
				attempts = 2
			}
			if n := len(b.server.Requests("")); n != attempts {
				t.Errorf("%d requests", n)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	fault := func(after string) prefixtest.Fault {
		return prefixtest.Fault{On: prefixtest.Upload, Status: 429, Header: http.Header{"Retry-After": {after}}}
	}
	b := newBench(t, nil)
	b.server.Fail(fault("9"), fault("soon"), fault("-4"))
	if _, err := b.upload(t); err != nil {
		t.Fatal(err)
	}
	if p := b.paused(); len(p) != 3 || p[0] != 9*time.Second || p[1] > 9*time.Second {
		t.Errorf("paused %v", p)
	}
	for after, want := range map[string][2]time.Duration{
		"120": {2 * time.Minute, 2 * time.Minute}, "99999": {time.Hour, time.Hour},
		time.Now().Add(10 * time.Minute).UTC().Format(http.TimeFormat): {9 * time.Minute, 10 * time.Minute},
	} {
		b := newBench(t, nil)
		b.server.Fail(fault(after))
		_, err := b.upload(t)
		if got, ok := prefix.Transient(err); !ok || got < want[0] || got > want[1] || len(b.paused()) != 0 {
			t.Errorf("%s: %v, %v, %v", after, got, err, b.paused())
		}
	}
}

// TestLostAnswer: the effect is there, the answer is not; a 409 follows and is settled by what is served.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	for _, status := range []int{0, 500, 502, 409} {
		b := newBench(t, nil)
		b.server.Fail(prefixtest.Fault{On: prefixtest.Upload, Status: status, After: true})
		b.server.Fail(prefixtest.Fault{On: prefixtest.File, Status: 404}, prefixtest.Fault{On: prefixtest.File, Status: 503}, prefixtest.Fault{On: prefixtest.File})
		b.server.Fail(prefixtest.Fault{On: prefixtest.Sidecar, Status: 404}, prefixtest.Fault{On: prefixtest.Sidecar, Status: 200, Body: "<html>"})
		got, err := b.upload(t)
		if err != nil || !got.Existed || got.Match != prefix.SameBytes {
			t.Errorf("%d: %+v, %v", status, got, err)
		}
	}
}

func TestConflict(t *testing.T) {
	t.Parallel()
	for name, theirs := range map[string]string{"other bytes": "subdir linux-64\nthe bytes of A package\r\n--\r\n", "other size": "x"} {
		b := newBench(t, nil)
		b.server.Put(subdir, filename, []byte(theirs), array(b.bundle))
		_, err := b.upload(t)
		exists, compared := b.client.Compare(t.Context(), subdir, filename, int64(len(b.body)), sum(b.body))
		if !exists {
			t.Errorf("%s: not there", name)
		}
		for _, err := range []error{err, compared} {
			c, ok := errors.AsType[*prefix.Conflict](err)
			if !ok || c.Ours != sum(b.body) || c.TheirSize != int64(len(theirs)) || (c.Theirs == sum([]byte(theirs))) != (name == "other bytes") {
				t.Errorf("%s: %v", name, err)
			}
			if _, transient := prefix.Transient(err); transient {
				t.Errorf("%s: transient", name)
			}
		}
		if body, _ := b.server.Served(subdir, filename); string(body) != theirs {
			t.Errorf("%s: overwritten", name)
		}
	}
}

func TestCompare(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	for _, want := range []bool{false, true} {
		exists, err := b.client.Compare(t.Context(), subdir, filename, int64(len(b.body)), sum(b.body))
		if err != nil || exists != want {
			t.Errorf("%v, %v", exists, err)
		}
		b.server.Put(subdir, filename, b.body, nil)
	}
	if n := len(b.server.Requests(prefixtest.Upload)); n != 0 {
		t.Errorf("%d uploads", n)
	}
}

// TestNotServed: waiting ends, and says what for.
func TestNotServed(t *testing.T) {
	t.Parallel()
	other := []byte(`{"another":"bundle"}`)
	for name, tt := range map[string]struct {
		prepare func(*bench)
		want    error
	}{
		"409 and no file": {func(b *bench) {
			b.server.Fail(prefixtest.Fault{On: prefixtest.Upload, Status: 409})
		}, prefix.ErrUnsettled},
		"unsigned before":  {func(b *bench) { b.server.Put(subdir, filename, b.body, nil) }, prefix.ErrUnattested},
		"signed otherwise": {func(b *bench) { b.server.Put(subdir, filename, b.body, array(other)) }, prefix.ErrUnattested},
		"not in the sidecar": {func(b *bench) {
			b.server.Rewrite(func([]byte) []byte { return array(other) })
		}, prefix.ErrUnattested},
		"garbage": {func(b *bench) { b.server.Rewrite(func([]byte) []byte { return []byte("<html>") }) }, nil},
		"an object": {func(b *bench) {
			b.server.Rewrite(func(s []byte) []byte { return bytes.Trim(s, "[]") })
		}, nil},
		"too long": {func(b *bench) {
			b.server.Rewrite(func(s []byte) []byte { return append(s, bytes.Repeat([]byte(" "), 5<<20)...) })
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, nil)
			tt.prepare(b)
			_, err := b.upload(t)
			_, transient := prefix.Transient(err)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || transient != (tt.want == nil) {
				t.Errorf("got %v, transient %v", err, transient)
			}
			var waited time.Duration
			for _, p := range b.paused() {
				waited += p
			}
			if waited < prefix.DefaultPatience || waited > prefix.DefaultPatience+15*time.Second || len(b.paused()) > 30 {
				t.Errorf("waited %v in %d pauses", waited, len(b.paused()))
			}
		})
	}
}

// TestRewritten: a server that writes bundles anew is noticed.
func TestRewritten(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.server.Rewrite(func(s []byte) []byte {
		return append([]byte(`[{"first":1},`), bytes.ReplaceAll(s[1:], []byte(`", "`), []byte("\",\n\t\""))...)
	})
	got, err := b.upload(t)
	if err != nil || got.Match != prefix.SameJSON || got.Bundles != 2 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestChangedPackage(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*prefix.Package){
		"other bytes": func(p *prefix.Package) { p.SHA256 = strings.Repeat("0", 64) },
		"shorter":     func(p *prefix.Package) { p.Size++ },
		"longer":      func(p *prefix.Package) { p.Size-- },
		"unreadable":  func(p *prefix.Package) { p.Body = broken{} },
	} {
		b := newBench(t, nil)
		p := b.pkg()
		change(&p)
		_, err := b.send(t, p)
		if name == "unreadable" {
			if !errors.Is(err, errBroken) {
				t.Errorf("%s: %v", name, err)
			}
		} else if _, transient := prefix.Transient(err); !errors.Is(err, prefix.ErrDigest) || transient {
			t.Errorf("%s: %v", name, err)
		}
		if body, _ := b.server.Served(subdir, filename); body != nil {
			t.Errorf("%s: the server took it", name)
		}
	}
}

var errBroken = errors.New("the disk is broken")

type broken struct{}

func (broken) ReadAt([]byte, int64) (int, error) { return 0, errBroken }

func TestArguments(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*prefix.Package, *[]byte){
		"path":       func(p *prefix.Package, _ *[]byte) { p.Filename = "../" + filename },
		"quote":      func(p *prefix.Package, _ *[]byte) { p.Filename = "a\"-1-0.conda" },
		"subdir":     func(p *prefix.Package, _ *[]byte) { p.Subdir = ".." },
		"digest":     func(p *prefix.Package, _ *[]byte) { p.SHA256 = strings.ToUpper(p.SHA256) },
		"empty":      func(p *prefix.Package, _ *[]byte) { p.Size = 0 },
		"no body":    func(p *prefix.Package, _ *[]byte) { p.Body = nil },
		"no bundle":  func(_ *prefix.Package, b *[]byte) { *b = nil },
		"an array":   func(_ *prefix.Package, b *[]byte) { *b = array(*b) },
		"not JSON":   func(_ *prefix.Package, b *[]byte) { *b = []byte("{") },
		"too large":  func(_ *prefix.Package, b *[]byte) { *b = append(*b, append(make([]byte, 2<<20), '}')...) },
		"same names": func(_ *prefix.Package, b *[]byte) { *b = []byte(`{"a":1,"a":2}`) },
	} {
		b := newBench(t, nil)
		p := b.pkg()
		change(&p, &b.bundle)
		_, err := b.send(t, p)
		if _, transient := prefix.Transient(err); !errors.Is(err, prefix.ErrArgument) || transient || len(b.server.Requests("")) != 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSlow: a server that does not answer is left after a while; that may pass. The caller's end is the caller's.
func TestSlow(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(c *prefix.Config) { c.Timeout, c.Attempts = 50*time.Millisecond, 1 })
	b.server.Fail(prefixtest.Fault{On: prefixtest.Upload, Wait: make(chan struct{})})
	_, err := b.upload(t)
	if _, transient := prefix.Transient(err); !transient {
		t.Errorf("got %v", err)
	}
	b = newBench(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	b.server.Fail(prefixtest.Fault{On: prefixtest.Upload, Status: 503})
	prefix.OnPause(b.client, func(time.Duration) { cancel() })
	_, err = b.client.Upload(ctx, b.pkg(), b.bundle)
	if _, transient := prefix.Transient(err); !errors.Is(err, context.Canceled) || transient {
		t.Errorf("cancelled: %v", err)
	}
}

// TestUnreachable: nobody listens.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	b := newBench(t, func(c *prefix.Config) { c.Server = &url.URL{Scheme: "http", Host: l.Addr().String()} })
	_, err = b.upload(t)
	if _, transient := prefix.Transient(err); !transient || len(b.paused()) != prefix.DefaultAttempts-1 {
		t.Errorf("%v after %v", err, b.paused())
	}
}

// TestElsewhere: what is served by another host is read there, without the token; what the redirect's address has is not said.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	var asked atomic.Int32
	answer := http.StatusOK
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.Header.Get("Authorization") != "" {
			t.Error("the token went elsewhere")
		}
		body, sidecar := b.server.Served(subdir, filename)
		w.WriteHeader(answer)
		if strings.HasSuffix(r.URL.Path, ".v0.sigs") {
			body = sidecar
		}
		_, _ = w.Write(body)
	}))
	defer other.Close()
	u, err := url.Parse(other.URL)
	if err != nil {
		t.Fatal(err)
	}
	b.server.Elsewhere(u)
	for range 2 {
		if _, err := b.upload(t); err != nil {
			t.Error(err)
		}
	}
	if asked.Load() != 3 {
		t.Errorf("asked %d times", asked.Load())
	}
	other.Close()
	_, _, err = b.client.Sidecar(t.Context(), subdir, filename)
	if _, transient := prefix.Transient(err); !transient || strings.Contains(err.Error(), "signature") {
		t.Errorf("got %v", err)
	}
	b.server.Elsewhere(b.server.Origin()) // in a circle
	if _, _, err = b.client.Sidecar(t.Context(), subdir, filename); err == nil || strings.Contains(err.Error(), "signature") {
		t.Errorf("got %v", err)
	}
}
