package store_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hallmark-attest/hallmark/internal/store"
	"github.com/hallmark-attest/hallmark/internal/store/storetest"
)

// served is a directory that is written to as one and read through a web server, whose entity tags are in quotes.
type served struct {
	*store.Dir
	web *store.HTTP
}

func unquoted(i store.Info) store.Info { i.ETag = strings.Trim(i.ETag, `"`); return i }

func (s served) Get(ctx context.Context, key string) (io.ReadCloser, store.Info, error) {
	r, i, err := s.web.Get(ctx, key)
	return r, unquoted(i), err
}

func (s served) GetRange(ctx context.Context, key string, offset, length int64, etag string) (io.ReadCloser, store.Info, error) {
	if etag != "" {
		etag = strconv.Quote(etag)
	}
	r, i, err := s.web.GetRange(ctx, key, offset, length, etag)
	return r, unquoted(i), err
}

func (s served) Head(ctx context.Context, key string) (store.Info, error) {
	i, err := s.web.Head(ctx, key)
	return unquoted(i), err
}

// TestHTTPConformance: what is read through a web server is what any store gives.
func TestHTTPConformance(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) store.Store {
		d, _ := newDir(t)
		return served{d, web(t, func(w http.ResponseWriter, r *http.Request) {
			key, ok := strings.CutPrefix(r.URL.Path, "/ch/")
			body, info, err := d.Get(r.Context(), key)
			if !ok || err != nil {
				http.NotFound(w, r)
				return
			}
			defer body.Close()
			b, err := io.ReadAll(body)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			w.Header().Set("ETag", strconv.Quote(info.ETag))
			http.ServeContent(w, r, "", info.Modified, bytes.NewReader(b))
		})}
	})
}

// TestHTTPWithoutRanges: of a server that gives whole objects whatever is asked for, ranges are cut out. Others that answer
// something else than was asked are refused.
func TestHTTPWithoutRanges(t *testing.T) {
	t.Parallel()
	h := web(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"now"`)
		switch r.URL.Path {
		case "/ch/whole":
			w.Header().Set("Content-Length", "10")
		case "/ch/other":
			w.Header().Set("Content-Range", "bytes 1-9/10")
			w.WriteHeader(http.StatusPartialContent)
		case "/ch/none":
			w.WriteHeader(http.StatusPartialContent)
		case "/ch/unsized":
			w.(http.Flusher).Flush()
		}
		_, _ = io.WriteString(w, "0123456789")
	})
	read := func(key string, offset, length int64, etag string) (string, error) {
		r, _, err := h.GetRange(t.Context(), key, offset, length, etag)
		if err != nil {
			return "", err
		}
		defer r.Close()
		b, err := io.ReadAll(r)
		return string(b), err
	}
	for _, test := range []struct {
		offset, length int64
		want           string
	}{{0, 3, "012"}, {4, 100, "456789"}, {-2, 0, "89"}, {-100, 0, "0123456789"}} {
		if got, err := read("whole", test.offset, test.length, `"now"`); err != nil || got != test.want {
			t.Errorf("%d, %d: %q, %v", test.offset, test.length, got, err)
		}
	}
	if _, err := read("whole", 10, 1, ""); !errors.Is(err, store.ErrRange) {
		t.Error(err)
	}
	if _, err := read("whole", 0, 1, `"then"`); !errors.Is(err, store.ErrPrecondition) {
		t.Error(err)
	}
	for _, key := range []string{"other", "none", "unsized"} {
		if _, err := read(key, 0, 3, ""); !errors.Is(err, store.ErrUnsupported) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func open(t *testing.T, u string) *store.HTTP {
	t.Helper()
	h, err := store.NewHTTP(store.HTTPConfig{URL: u})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// web is a server that answers as f does, and a store that reads from it.
func web(t *testing.T, f http.HandlerFunc) *store.HTTP {
	t.Helper()
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	return open(t, srv.URL+"/ch")
}

func readAll(ctx context.Context, s store.Store, key string) ([]byte, error) {
	r, _, err := s.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// TestHTTPAnswers: what each answer means, and whether it is worth asking again.
func TestHTTPAnswers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		status int
		want   error // nil: none of the store's
		asked  int32
	}{
		{404, store.ErrNotFound, 1}, {410, store.ErrNotFound, 1}, {401, store.ErrAuth, 1}, {403, store.ErrAuth, 1}, {400, nil, 1}, {304, nil, 1}, {206, nil, 1},
		{500, nil, 3}, {502, nil, 3}, {503, nil, 3}, {429, nil, 3}, {408, nil, 3},
	} {
		t.Run(strconv.Itoa(test.status), func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int32
			h := web(t, func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				w.WriteHeader(test.status)
			})
			_, err := readAll(t.Context(), h, "noarch/x")
			if err == nil || test.want != nil && !errors.Is(err, test.want) || !strings.Contains(err.Error(), strconv.Itoa(test.status)) {
				t.Errorf("%v, want %v", err, test.want)
			}
			if _, again := store.Transient(err); again != (test.asked > 1) {
				t.Errorf("transient %t: %v", again, err)
			}
			if n := asked.Load(); n != test.asked {
				t.Errorf("asked %d times, want %d", n, test.asked)
			}
		})
	}
}

func TestHTTPTriesAgain(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	h := web(t, func(w http.ResponseWriter, r *http.Request) {
		switch asked.Add(1) {
		case 1:
			panic(http.ErrAbortHandler)
		case 2:
			w.WriteHeader(503)
		default:
			_, _ = io.WriteString(w, "bytes")
		}
	})
	if b, err := readAll(t.Context(), h, "x"); err != nil || string(b) != "bytes" {
		t.Errorf("%q, %v", b, err)
	}

	// A server that wants to be left alone for long is not asked again, nor waited for.
	asked.Store(0)
	h = web(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Header().Set("Retry-After", "120")
		w.WriteHeader(429)
	})
	_, err := readAll(t.Context(), h, "x")
	if after, again := store.Transient(err); !again || after != 2*time.Minute || asked.Load() != 1 {
		t.Errorf("%v: after %s, %t, asked %d times", err, after, again, asked.Load())
	}
}

// TestHTTPBytesAsTheyAre: nothing is decoded behind the caller's back, and a body that is cut is an error.
func TestHTTPBytesAsTheyAre(t *testing.T) {
	t.Parallel()
	h := web(t, func(w http.ResponseWriter, r *http.Request) {
		if e := r.Header.Get("Accept-Encoding"); e != "identity" {
			t.Errorf("Accept-Encoding %q", e)
		}
		switch r.URL.Path {
		case "/ch/gzip":
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(w, "not even gzip")
		case "/ch/cut":
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "ten bytes.")
		}
	})
	if b, err := readAll(t.Context(), h, "gzip"); !errors.Is(err, store.ErrUnsupported) {
		t.Errorf("%q, %v", b, err)
	}
	_, err := readAll(t.Context(), h, "cut")
	if _, again := store.Transient(err); !again || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("transient %t: %v", again, err)
	}
}

// TestHTTPSlow: a server that does not begin to answer is given up.
func TestHTTPSlow(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(srv.Close)
	h, err := store.NewHTTP(store.HTTPConfig{URL: srv.URL, Answer: time.Millisecond, Attempts: 2})
	if err != nil {
		t.Fatal(err)
	}
	_, err = readAll(t.Context(), h, "x")
	if _, again := store.Transient(err); !again {
		t.Errorf("%v", err)
	}
}

// TestHTTPKeepsCredentials: they go to their own host, and are in no message.
func TestHTTPKeepsCredentials(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for k, vs := range r.Header {
			if s := strings.Join(vs, " "); strings.Contains(s, "hunter2") || strings.Contains(s, "Basic") {
				t.Errorf("another host was told %s: %s", k, s)
			}
		}
		_, _ = io.WriteString(w, "bytes")
	}))
	t.Cleanup(elsewhere.Close)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "hunter2" || !strings.HasPrefix(r.URL.Path, "/t/hunter2/ch/") {
			t.Errorf("%s: %s %s", r.URL.Path, user, password)
		}
		switch strings.TrimPrefix(r.URL.Path, "/t/hunter2/ch/") {
		case "moved":
			http.Redirect(w, r, elsewhere.URL+"/x", http.StatusFound)
		case "round":
			http.Redirect(w, r, r.URL.Path, http.StatusFound)
		case "nowhere":
			w.Header().Set("Location", "http://%zz/hunter2")
			w.WriteHeader(http.StatusFound)
		case "cut":
			panic(http.ErrAbortHandler)
		default:
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	t.Cleanup(srv.Close)
	h := open(t, strings.Replace(srv.URL, "://", "://me:hunter2@", 1)+"/t/hunter2/ch/")
	if b, err := readAll(t.Context(), h, "moved"); err != nil || string(b) != "bytes" {
		t.Errorf("%q, %v", b, err)
	}
	messages := h.String()
	for _, key := range []string{"round", "nowhere", "cut", "denied"} {
		_, err := readAll(t.Context(), h, key)
		if err == nil {
			t.Fatal(key)
		}
		messages += " " + err.Error()
	}
	if strings.Contains(messages, "hunter2") || !strings.Contains(messages, "redirect refused") || !strings.Contains(messages, "/t/…/ch") {
		t.Error(messages)
	}
}

// TestHTTPStaysOnTLS: a redirect from https to http is not followed.
func TestHTTPStaysOnTLS(t *testing.T) {
	t.Parallel()
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("asked in clear") }))
	t.Cleanup(plain.Close)
	srv := httptest.NewTLSServer(http.RedirectHandler(plain.URL, http.StatusFound))
	t.Cleanup(srv.Close)
	h, err := store.NewHTTP(store.HTTPConfig{URL: srv.URL, Transport: srv.Client().Transport})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readAll(t.Context(), h, "x"); err == nil || !strings.Contains(err.Error(), "away from https") {
		t.Error(err)
	}
}

// TestHTTPReadsOnly: what would write or list says so.
func TestHTTPReadsOnly(t *testing.T) {
	t.Parallel()
	h := open(t, "http://127.0.0.1:1")
	_, err := h.Put(t.Context(), "x", strings.NewReader("x"), 1, store.PutOptions{})
	all := []error{err, h.Delete(t.Context(), "x")}
	for _, err := range h.List(t.Context(), "") {
		all = append(all, err)
	}
	for _, err := range h.Folders(t.Context()) {
		all = append(all, err)
	}
	for _, err := range all {
		if !errors.Is(err, store.ErrUnsupported) {
			t.Error(err)
		}
	}
}

func TestHTTPURLs(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "ftp://h/x", "http:///x", "http:x", "https://h/x?hunter2", "https://h/x#hunter2", "https://h/%zzhunter2", "https://h:hunter2/"} {
		if _, err := store.NewHTTP(store.HTTPConfig{URL: bad}); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	h := open(t, "http://h/a%20b/")
	for reference, want := range map[string]string{
		"./shards/": "noarch/shards", "": "noarch/index", "../s/": "s", "http://h/a%20b/x/": "x", "/a%20b/x/y/": "x/y",
		"../../up/": "", "https://h/a%20b/x/": "", "http://other/a%20b/x/": "", "//other/x/": "", "x/?q": "", "http://h/a%20b/": "",
	} {
		if got, ok := h.Key("noarch/index", reference); got != want || ok != (want != "") {
			t.Errorf("%s: %q, %t, want %q", reference, got, ok, want)
		}
	}
}

func TestRedacted(t *testing.T) {
	t.Parallel()
	for location, want := range map[string]string{
		"/some/t/path":                       "/some/t/path",
		"https://me:pw@h/ch":                 "https://h/ch",
		"https://h/t/tk-1/ch/noarch/x.conda": "https://h/t/…/ch/noarch/x.conda",
		"https://h/ch/x.conda?sig=1#f":       "https://h/ch/x.conda",
		"https://h/%zz/t/secret":             "https://…",
		"s3://bucket/a":                      "s3://bucket/a",
		"https://h/t":                        "https://h/t",
	} {
		if got := store.Redacted(location); got != want {
			t.Errorf("%s: %s, want %s", location, got, want)
		}
	}
}
