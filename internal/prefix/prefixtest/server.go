// Package prefixtest is a server for tests that speaks as prefix.dev does to rattler's upload: requests flow in, and what
// the channel then serves flows out. It is strict: what differs from rattler's client in a header, a part, their order or
// their types is refused and kept as a violation. It keeps everything in memory.
package prefixtest

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hallmark-attest/hallmark/internal/conda"
)

// The server's endpoints, for Fault.
const (
	Mint    = "mint"
	Upload  = "upload"
	Probe   = "probe"   // an upload's form without a part
	File    = "file"    // a package
	Sidecar = "sidecar" // FILE.v0.sigs
)

// Fault is what the server does instead of, or beside, its work.
type Fault struct {
	On     string // one of the endpoints
	Status int    // answered, with Header and Body; 0: the connection is cut without an answer
	Header http.Header
	Body   string
	// After has the server do its work first: the answer is lost, or a lie, and the effect stays.
	After bool
	// Early has the server answer without reading the request's body.
	Early bool
	// Wait has the server wait for the channel to be closed, or the client to be gone, and then go on as if there was
	// nothing else in the Fault, if Status is Through.
	Wait <-chan struct{}
}

// Through is a Fault's Status that changes nothing.
const Through = -1

// Request is one that the server got.
type Request struct {
	Endpoint      string
	Method, Path  string
	Authorization string
	Size          int64
}

// Server is a strict server with one channel.
type Server struct {
	*httptest.Server
	Channel string

	mu         sync.Mutex
	api        map[string]bool      // API tokens
	identities map[string]bool      // identity tokens that are trusted
	issuers    map[string]bool      // issuers all of whose identity tokens are trusted
	minted     map[string]time.Time // with their expiry
	life       time.Duration
	shape      func(n int, expiry time.Time) string
	private    bool
	publishers bool // minted tokens may not read
	faults     []Fault
	requests   []Request
	violations []string
	files      map[string][]byte // subdir/filename
	sidecars   map[string][]byte
	rewrite    func([]byte) []byte
	elsewhere  *url.URL
	mints      int
}

// New starts a server on loopback with a channel. It ends with the test, which fails if a request broke the rules; a test
// that breaks them on purpose calls Violations.
func New(t testing.TB, channel string) *Server {
	t.Helper()
	s := &Server{Channel: channel, api: map[string]bool{}, identities: map[string]bool{}, issuers: map[string]bool{}, minted: map[string]time.Time{},
		life: 10 * time.Minute, files: map[string][]byte{}, sidecars: map[string][]byte{}}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(func() {
		s.Close()
		for _, v := range s.Violations() {
			t.Errorf("the client does not speak as it has to: %s", v)
		}
	})
	return s
}

// Origin is the server's URL.
func (s *Server) Origin() *url.URL {
	u, err := url.Parse(s.URL)
	if err != nil {
		panic(err) // httptest made it
	}
	return u
}

// ChannelURL is the channel's public URL.
func (s *Server) ChannelURL() string { return s.URL + "/" + s.Channel }

func (s *Server) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// Accept makes the server take an API token.
func (s *Server) Accept(token string) { s.set(func() { s.api[token] = true }) }

// Trust makes the server mint tokens for an identity token. Its audience is looked at, too.
func (s *Server) Trust(identityToken string) { s.set(func() { s.identities[identityToken] = true }) }

// TrustIssuer makes the server mint tokens for every identity token that says that it is of an issuer.
func (s *Server) TrustIssuer(issuer string) { s.set(func() { s.issuers[issuer] = true }) }

// MintFor sets how long minted tokens live, and how they look: by default "minted-N".
func (s *Server) MintFor(life time.Duration, shape func(n int, expiry time.Time) string) {
	s.set(func() { s.life, s.shape = life, shape })
}

// Revoke ends all minted tokens.
func (s *Server) Revoke() { s.set(func() { clear(s.minted) }) }

// Private makes the server ask for a token before it serves anything; publishOnly, too, refuse minted ones for it, as well
// where it would serve everybody.
func (s *Server) Private(private, publishOnly bool) {
	s.set(func() { s.private, s.publishers = private, publishOnly })
}

// Rewrite changes sidecars as they are served.
func (s *Server) Rewrite(f func([]byte) []byte) { s.set(func() { s.rewrite = f }) }

// Elsewhere makes the server redirect those who read to the same path of another one.
func (s *Server) Elsewhere(u *url.URL) { s.set(func() { s.elsewhere = u }) }

// Fail queues faults. Each serves for one request of its endpoint.
func (s *Server) Fail(faults ...Fault) { s.set(func() { s.faults = append(s.faults, faults...) }) }

// Put places a package, and its sidecar unless that is nil, without an upload.
func (s *Server) Put(subdir, filename string, body, sidecar []byte) {
	s.set(func() {
		s.files[subdir+"/"+filename] = body
		if sidecar != nil {
			s.sidecars[subdir+"/"+filename] = sidecar
		}
	})
}

// Served gives what the channel has.
func (s *Server) Served(subdir, filename string) (body, sidecar []byte) {
	s.set(func() { body, sidecar = s.files[subdir+"/"+filename], s.sidecars[subdir+"/"+filename] })
	return body, sidecar
}

// Requests gives what was asked on an endpoint ("": on all), in order.
func (s *Server) Requests(endpoint string) (got []Request) {
	s.set(func() {
		for _, r := range s.requests {
			if endpoint == "" || r.Endpoint == endpoint {
				got = append(got, r)
			}
		}
	})
	return got
}

// Violations gives the rules that were broken since it was called last.
func (s *Server) Violations() (broken []string) {
	s.set(func() { broken, s.violations = s.violations, nil })
	return broken
}

func (s *Server) violate(w http.ResponseWriter, format string, args ...any) {
	v := fmt.Sprintf(format, args...)
	s.set(func() { s.violations = append(s.violations, v) })
	http.Error(w, v, http.StatusBadRequest)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	endpoint := s.endpoint(r)
	var fault Fault
	failing := false
	s.set(func() {
		s.requests = append(s.requests, Request{endpoint, r.Method, r.URL.EscapedPath(), r.Header.Get("Authorization"), r.ContentLength})
		for i, f := range s.faults {
			if f.On == endpoint {
				fault, failing = f, true
				s.faults = append(s.faults[:i:i], s.faults[i+1:]...)
				return
			}
		}
	})
	if !failing {
		s.work(endpoint, w, r)
		return
	}
	if fault.Wait != nil {
		// Read whole first: until then, the connection is not watched, and a client that is gone is not noticed.
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<30))
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		select {
		case <-fault.Wait:
		case <-r.Context().Done():
			return
		}
	}
	switch {
	case fault.Status == Through:
		s.work(endpoint, w, r)
		return
	case fault.After:
		s.work(endpoint, httptest.NewRecorder(), r)
	case !fault.Early:
		_, _ = io.Copy(io.Discard, r.Body)
	}
	if fault.Status == 0 {
		panic(http.ErrAbortHandler)
	}
	for k, v := range fault.Header {
		w.Header()[k] = v
	}
	w.WriteHeader(fault.Status)
	_, _ = io.WriteString(w, fault.Body)
}

// longestProbe bounds a form without a part: a boundary has at most 70 characters (RFC 2046).
const longestProbe = 80

func (s *Server) endpoint(r *http.Request) string {
	switch p := r.URL.Path; {
	case p == "/api/oidc/mint_token":
		return Mint
	case strings.HasPrefix(p, "/api/") && r.ContentLength >= 0 && r.ContentLength < longestProbe:
		return Probe
	case strings.HasPrefix(p, "/api/"):
		return Upload
	case strings.HasSuffix(p, ".v0.sigs"):
		return Sidecar
	default:
		return File
	}
}

func (s *Server) work(endpoint string, w http.ResponseWriter, r *http.Request) {
	switch endpoint {
	case Mint:
		s.mint(w, r)
	case Upload, Probe:
		s.upload(w, r)
	default:
		s.read(w, r)
	}
}

// authorised looks at the header Authorization.
func (s *Server) authorised(r *http.Request, reading bool) bool {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	s.mu.Lock()
	defer s.mu.Unlock()
	expiry, minted := s.minted[token]
	return ok && (s.api[token] || minted && time.Now().Before(expiry) && !(reading && s.publishers))
}

func (s *Server) read(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet || r.URL.RawQuery != "" && r.URL.RawQuery != redirectQuery {
		s.violate(w, "reading with %s and the query %q", r.Method, r.URL.RawQuery)
		return
	}
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if len(parts) != 3 || conda.CheckSubdir(parts[1]) != nil {
		s.violate(w, "reading %s, which is no file of a channel", r.URL.Path)
		return
	}
	if strings.ContainsAny(r.URL.EscapedPath(), "+!") {
		s.violate(w, "reading %s, with + or ! as they are", r.URL.EscapedPath())
		return
	}
	s.mu.Lock()
	private, publishers, elsewhere, rewrite := s.private, s.publishers, s.elsewhere, s.rewrite
	filename, isSidecar := strings.CutSuffix(parts[2], ".v0.sigs")
	body, ok := s.files[parts[1]+"/"+filename]
	if isSidecar {
		body, ok = s.sidecars[parts[1]+"/"+filename]
	}
	s.mu.Unlock()
	given := r.Header.Get("Authorization") != ""
	if (private || publishers && given) && !s.authorised(r, true) {
		http.Error(w, "not for you", http.StatusForbidden)
		return
	}
	if parts[0] != s.Channel || !ok {
		http.NotFound(w, r)
		return
	}
	if elsewhere != nil {
		u := *elsewhere
		u.Path, u.RawPath = r.URL.Path, r.URL.EscapedPath()
		u.RawQuery = redirectQuery
		http.Redirect(w, r, u.String(), http.StatusFound)
		return
	}
	if isSidecar && rewrite != nil {
		body = rewrite(body)
	}
	_, _ = w.Write(body)
}

// Bundle makes a bundle that has what the server looks at: the statement of CEP 27 about a file. It is not signed.
func Bundle(filename string, body []byte, channelURL string) []byte {
	sum := sha256.Sum256(body)
	statement := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":%q,"digest":{"sha256":%q}}],"predicateType":%q,"predicate":{"targetChannel":%q}}`,
		filename, hex.EncodeToString(sum[:]), predicateType, channelURL)
	return fmt.Appendf(nil, `{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json", "verificationMaterial":{},"dsseEnvelope":{"payload":%q,"payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"<unsigned>"}]}}`,
		base64.StdEncoding.EncodeToString([]byte(statement)))
}

// IdentityToken makes an identity token (JWT) without a signature, which expires in an hour.
func IdentityToken(subject, audience string) string {
	return JWT(map[string]any{"iss": "https://issuer.test", "sub": subject, "aud": audience, "exp": time.Now().Add(time.Hour).Unix()})
}

// JWT makes a JSON Web Token without a signature.
func JWT(claims map[string]any) string {
	payload, err := json.Marshal(claims)
	if err != nil {
		panic(err) // the test's own values
	}
	enc := base64.RawURLEncoding
	return enc.EncodeToString([]byte(`{"alg":"none"}`)) + "." + enc.EncodeToString(payload) + "." + enc.EncodeToString([]byte("not a signature"))
}

// redirectQuery is what redirects have in their address: as good as a credential.
const redirectQuery = "signature=of-the-redirect"

const predicateType = "https://schemas.conda.org/attestations-publish-1.schema.json"
