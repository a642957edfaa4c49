package store_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hallmark-attest/hallmark/internal/store"
	"github.com/hallmark-attest/hallmark/internal/store/storetest"
)

func digestOf(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

func put(t *testing.T, s store.Store, key string, b []byte, o store.PutOptions) (store.Info, error) {
	t.Helper()
	return s.Put(t.Context(), key, bytes.NewReader(b), int64(len(b)), o)
}

// once answers true the first time for requests that match.
func once(match func(*http.Request) bool) func(*http.Request) bool {
	var done atomic.Bool
	return func(r *http.Request) bool { return match(r) && done.CompareAndSwap(false, true) }
}

func isPut(r *http.Request) bool { return r.Method == http.MethodPut }
func isComplete(r *http.Request) bool {
	return r.Method == http.MethodPost && r.URL.Query().Has("uploadId")
}

// lose drops the answers to matching requests after the server has done what they ask.
func (p *proxy) lose(match func(*http.Request) bool) {
	p.after = func(_ http.ResponseWriter, r *http.Request, _ *http.Response, b []byte) ([]byte, bool) {
		if match(r) {
			panic(http.ErrAbortHandler)
		}
		return b, false
	}
}

// TestFaults is what a network and a busy store do to the client.
func TestFaults(t *testing.T) {
	t.Parallel()
	server := storetest.StartS3(t)
	small, big := []byte("a package"), bytes.Repeat([]byte("0123456789abcdef"), 12<<20/16)

	// The store has written, the answer is lost, the SDK asks again and is told that the object exists: its own. The caller is told
	// that somebody was first, and finds its own bytes.
	t.Run("LostAnswer", func(t *testing.T) {
		t.Parallel()
		for _, body := range [][]byte{small, big} {
			// A completed upload in parts is known to the server by its id; it may answer the second time what it answered the first.
			echo := func(err error) bool {
				return errors.Is(err, store.ErrPrecondition) || err == nil && len(body) > 1<<20
			}
			p := newProxy(t, server, false)
			s := p.open(t, server)
			p.lose(once(func(r *http.Request) bool { return isPut(r) && len(body) < 1<<20 || isComplete(r) }))
			key := "inm-" + digestOf(body)
			_, err := put(t, s, key, body, store.PutOptions{SHA256: digestOf(body), IfNoneMatch: true})
			if !echo(err) {
				t.Fatalf("%d bytes: %v, want ErrPrecondition", len(body), err)
			}
			info, err := s.Head(t.Context(), key)
			if err != nil || info.SHA256 != digestOf(body) || info.Size != int64(len(body)) {
				t.Fatalf("%+v %v, want the digest to compare", info, err)
			}
			// The same with If-Match.
			p.lose(once(func(r *http.Request) bool { return isPut(r) && len(body) < 1<<20 || isComplete(r) }))
			changed := append([]byte("changed "), body...)
			_, err = put(t, s, key, changed, store.PutOptions{SHA256: digestOf(changed), IfMatch: info.ETag})
			if !echo(err) {
				t.Fatalf("%d bytes: %v, want ErrPrecondition", len(body), err)
			}
			if info, err := s.Head(t.Context(), key); err != nil || info.SHA256 != digestOf(changed) {
				t.Fatalf("%+v %v, want the digest to compare", info, err)
			}
		}
	})

	// Without a condition there is nobody to be first: writing again, or finding the completed object, is success.
	t.Run("LostAnswerUnconditional", func(t *testing.T) {
		t.Parallel()
		p := newProxy(t, server, false)
		s := p.open(t, server)
		p.lose(once(isPut))
		if _, err := put(t, s, "small", small, store.PutOptions{SHA256: digestOf(small)}); err != nil {
			t.Fatal(err)
		}
		p.lose(once(isComplete))
		info, err := put(t, s, "big", big, store.PutOptions{SHA256: digestOf(big)})
		if err != nil {
			t.Fatal(err)
		}
		if now, err := s.Head(t.Context(), "big"); err != nil || now.ETag != info.ETag || now.SHA256 != digestOf(big) {
			t.Fatalf("Put %+v, Head %+v %v", info, now, err)
		}
	})

	// A server that does not remember completed uploads: the second request finds nothing to complete.
	t.Run("UploadGone", func(t *testing.T) {
		t.Parallel()
		for _, arrived := range []bool{true, false} {
			p := newProxy(t, server, false)
			s := p.open(t, server)
			p.before = func(w http.ResponseWriter, r *http.Request, b []byte) ([]byte, bool) {
				if isComplete(r) && (!arrived || p.count(http.MethodPost)%2 == 1) {
					w.WriteHeader(http.StatusNotFound)
					io.WriteString(w, `<Error><Code>NoSuchUpload</Code><Message>The specified upload does not exist.</Message></Error>`)
					return nil, true
				}
				return b, false
			}
			p.lose(isComplete)
			_, err := put(t, s, fmt.Sprint("k", arrived), big, store.PutOptions{SHA256: digestOf(big)})
			switch _, again := store.Transient(err); {
			case arrived && err != nil:
				t.Errorf("the object is there: %v", err)
			case !arrived && !again:
				t.Errorf("the upload is gone and the object is not there: %v, want a transient error", err)
			}
			_, err = put(t, s, fmt.Sprint("inm", arrived), big, store.PutOptions{SHA256: digestOf(big), IfNoneMatch: true})
			if !errors.Is(err, store.ErrPrecondition) {
				t.Errorf("arrived %t: %v, want ErrPrecondition", arrived, err)
			}
		}
	})

	t.Run("SlowDown", func(t *testing.T) {
		t.Parallel()
		p := newProxy(t, server, false)
		s := p.open(t, server)
		var left atomic.Int64
		left.Store(3)
		p.before = func(w http.ResponseWriter, r *http.Request, b []byte) ([]byte, bool) {
			if left.Add(-1) >= 0 {
				slowDown(w)
				return nil, true
			}
			return b, false
		}
		if _, err := put(t, s, "k", small, store.PutOptions{SHA256: digestOf(small)}); err != nil {
			t.Fatal(err)
		}
		if n := p.count(http.MethodPut); n != 4 {
			t.Errorf("%d attempts, want 4", n)
		}
	})

	t.Run("DamagedUpload", func(t *testing.T) {
		t.Parallel()
		for _, tls := range []bool{false, true} {
			for _, body := range [][]byte{small, big} {
				p := newProxy(t, server, tls)
				s := p.open(t, server)
				p.before = func(_ http.ResponseWriter, r *http.Request, b []byte) ([]byte, bool) {
					if isPut(r) {
						b[len(b)/2] ^= 0x20
					}
					return b, false
				}
				_, err := put(t, s, "k", body, store.PutOptions{SHA256: digestOf(body), IfNoneMatch: true})
				if !errors.Is(err, store.ErrDigest) {
					t.Errorf("tls %t, %d bytes: %v, want ErrDigest", tls, len(body), err)
				}
				// Also when the caller knows no digest.
				if _, err := put(t, s, "k", body, store.PutOptions{}); !errors.Is(err, store.ErrDigest) {
					t.Errorf("tls %t, %d bytes, no digest: %v, want ErrDigest", tls, len(body), err)
				}
				if _, err := s.Head(t.Context(), "k"); !errors.Is(err, store.ErrNotFound) {
					t.Errorf("tls %t, %d bytes: stored: %v", tls, len(body), err)
				}
				if n, err := s.Uploads(t.Context()); n != 0 || err != nil {
					t.Errorf("%d uploads left open, %v", n, err)
				}
			}
		}
	})

	t.Run("DamagedDownload", func(t *testing.T) {
		t.Parallel()
		for what, change := range map[string]func([]byte) []byte{
			"flipped": func(b []byte) []byte { b[len(b)/2] ^= 0x20; return b },
			"cut":     func(b []byte) []byte { return b[:len(b)/2] },
		} {
			for _, body := range [][]byte{small, big} {
				p := newProxy(t, server, false)
				s := p.open(t, server)
				if _, err := put(t, s, "k", body, store.PutOptions{SHA256: digestOf(body)}); err != nil {
					t.Fatal(err)
				}
				p.after = func(_ http.ResponseWriter, r *http.Request, _ *http.Response, b []byte) ([]byte, bool) {
					return change(b), false
				}
				r, _, err := s.Get(t.Context(), "k")
				if err != nil {
					t.Fatal(err)
				}
				_, err = io.Copy(io.Discard, r)
				if _, again := store.Transient(err); err == nil || !again {
					t.Errorf("%s, %d bytes: %v, want a transient error", what, len(body), err)
				}
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			}
		}
	})

	t.Run("TLS", func(t *testing.T) {
		t.Parallel()
		p := newProxy(t, server, true)
		s := p.open(t, server)
		if err := store.Probe(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if _, err := put(t, s, "big", big, store.PutOptions{SHA256: digestOf(big), IfNoneMatch: true}); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("StoreWithoutCRC64NVME", func(t *testing.T) {
		t.Parallel()
		p := newProxy(t, server, false)
		s := p.open(t, server)
		refused := 0
		p.before = func(w http.ResponseWriter, r *http.Request, b []byte) ([]byte, bool) {
			if r.URL.Query().Has("uploads") && r.Header.Get("X-Amz-Checksum-Algorithm") != "" {
				refused++
				w.WriteHeader(http.StatusNotImplemented)
				io.WriteString(w, `<Error><Code>NotImplemented</Code><Message>x-amz-checksum-algorithm is not implemented</Message></Error>`)
				return nil, true
			}
			return b, false
		}
		if _, err := put(t, s, "k", big, store.PutOptions{SHA256: digestOf(big)}); err != nil || refused != 1 {
			t.Fatalf("refused %d times: %v", refused, err)
		}
		if now, err := s.Head(t.Context(), "k"); err != nil || now.SHA256 != digestOf(big) {
			t.Errorf("%+v %v", now, err)
		}
	})

	// A package that is already there is not sent again, whatever its size.
	t.Run("LookFirst", func(t *testing.T) {
		t.Parallel()
		p := newProxy(t, server, false)
		s := p.open(t, server)
		for _, body := range [][]byte{big[:4<<20+1], big} {
			key := digestOf(body)
			if _, err := put(t, s, key, body, store.PutOptions{SHA256: key}); err != nil {
				t.Fatal(err)
			}
			before := p.count(http.MethodPut)
			if _, err := put(t, s, key, body, store.PutOptions{SHA256: key, IfNoneMatch: true}); !errors.Is(err, store.ErrPrecondition) {
				t.Errorf("%v, want ErrPrecondition", err)
			}
			if n := p.count(http.MethodPut) - before; n != 0 {
				t.Errorf("%d bytes were sent %d times", len(body), n)
			}
		}
	})

	// Somebody changes a big object after the look at the condition and before the last request: the store itself decides.
	t.Run("LostRaceInParts", func(t *testing.T) {
		t.Parallel()
		p := newProxy(t, server, false)
		s := p.open(t, server)
		direct, err := server.Open(t.Context(), prefixOf(t))
		if err != nil {
			t.Fatal(err)
		}
		other := bytes.Repeat([]byte("other"), 2<<20)
		for key, o := range map[string]store.PutOptions{"inm": {IfNoneMatch: true}, "match": {}} {
			if !o.IfNoneMatch {
				first, err := put(t, s, key, big, store.PutOptions{})
				if err != nil {
					t.Fatal(err)
				}
				o.IfMatch = first.ETag
			}
			changes := once(isComplete)
			p.before = func(_ http.ResponseWriter, r *http.Request, b []byte) ([]byte, bool) {
				if changes(r) {
					if _, err := direct.Put(t.Context(), key, bytes.NewReader(other), int64(len(other)), store.PutOptions{SHA256: digestOf(other)}); err != nil {
						t.Error(err)
					}
				}
				return b, false
			}
			changed := append([]byte("changed "), big...)
			o.SHA256 = digestOf(changed)
			if _, err := put(t, s, key, changed, o); !errors.Is(err, store.ErrPrecondition) {
				t.Errorf("%s: %v, want ErrPrecondition", key, err)
			}
			now, err := direct.Head(t.Context(), key)
			if err != nil || now.SHA256 != digestOf(other) {
				t.Errorf("%s: %+v %v, want the other's bytes", key, now, err)
			}
			if n, err := s.Uploads(t.Context()); n != 0 || err != nil {
				t.Errorf("%s: %d uploads left open, %v", key, n, err)
			}
			p.before = nil
			o.IfNoneMatch, o.IfMatch = false, now.ETag
			if _, err := put(t, s, key, changed, o); err != nil {
				t.Errorf("%s, with the new ETag: %v", key, err)
			}
			r, _, err := direct.Get(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			r.Close()
			if err != nil || !bytes.Equal(got, changed) {
				t.Errorf("%s: %d bytes, %v", key, len(got), err)
			}
		}
	})

	// Whoever serves the bucket takes these from the object.
	t.Run("Properties", func(t *testing.T) {
		t.Parallel()
		p := newProxy(t, server, false)
		s := p.open(t, server)
		for _, body := range [][]byte{small, big} {
			for _, want := range [][2]string{
				{"application/octet-stream", "public, max-age=31536000, immutable"}, {"application/json", "no-cache"},
			} {
				if _, err := put(t, s, "a+b!c d%20ü.json", body, store.PutOptions{ContentType: want[0], CacheControl: want[1]}); err != nil {
					t.Fatal(err)
				}
				contentType, cacheControl, err := s.Properties(t.Context(), "a+b!c d%20ü.json")
				if err != nil || contentType != want[0] || cacheControl != want[1] {
					t.Errorf("%d bytes: %q %q %v, want %q", len(body), contentType, cacheControl, err, want)
				}
			}
		}
	})

	// Hundreds of callers at once keep their connections from one request to the next.
	t.Run("Connections", func(t *testing.T) {
		t.Parallel()
		const callers, rounds = 300, 4
		p := newProxy(t, server, false)
		var opened atomic.Int64
		var round sync.WaitGroup // all requests of a round are under way at once
		p.connections(func() { opened.Add(1) })
		p.before = func(w http.ResponseWriter, r *http.Request, b []byte) ([]byte, bool) {
			round.Done()
			round.Wait()
			w.Header().Set("ETag", `"e"`)
			w.WriteHeader(http.StatusOK)
			return nil, true
		}
		s := p.open(t, server)
		for range rounds {
			round.Add(callers)
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					if _, err := s.Head(t.Context(), "k"); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
		}
		if n := opened.Load(); n > callers*3/2 {
			t.Errorf("%d connections for %d callers", n, callers)
		}
	})

	t.Run("Refused", func(t *testing.T) {
		t.Parallel()
		for what, change := range map[string]func(*store.S3Config){
			"wrong secret": func(c *store.S3Config) { c.Credentials.SecretAccessKey = "wrong" },
			"unknown key":  func(c *store.S3Config) { c.Credentials.AccessKeyID = "unknown" },
		} {
			c := server.Config("refused")
			change(&c)
			s, err := store.NewS3(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			err = store.Probe(t.Context(), s)
			if !errors.Is(err, store.ErrAuth) || !strings.Contains(err.Error(), s.String()) {
				t.Errorf("%s: %v, want ErrAuth and the store's name", what, err)
			}
			if strings.Contains(err.Error(), server.Secret) {
				t.Error("the secret is in the message")
			}
		}
		c := server.Config("")
		c.Bucket = "no-such-bucket"
		s, err := store.NewS3(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Probe(t.Context(), s); err == nil || !strings.Contains(err.Error(), "NoSuchBucket") || errors.Is(err, store.ErrNotFound) {
			t.Errorf("missing bucket: %v", err)
		}
	})
}
