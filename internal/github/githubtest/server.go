// Package githubtest is a server for tests that speaks as GitHub's API does about attestations: requests flow in, and what
// a repository's store then lists flows out. It is strict: what GitHub's reference does not allow is refused and kept as a
// violation. It keeps everything in memory.
package githubtest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/snappy"

	"github.com/hallmark-attest/hallmark/internal/strictjson"
)

// Fault is what the server does instead of its work on the next request with this method.
type Fault struct {
	Method string
	Status int // 0: the connection is cut without an answer
	Header http.Header
	Body   string
	After  bool // the work is done first
}

// Server is a strict server with one repository.
type Server struct {
	*httptest.Server
	Owner, Repo, Token string

	mu         sync.Mutex
	stored     []json.RawMessage
	faults     []Fault
	requests   []string
	violations []string
	duplicates int  // what a bundle that is there is answered; 0: it is stored again
	byAddress  bool // the list has addresses instead of bundles
}

// New starts a server on loopback. It ends with the test, which fails if a request broke the rules.
func New(t testing.TB, owner, repo, token string) *Server {
	t.Helper()
	s := &Server{Owner: owner, Repo: repo, Token: token}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(func() {
		s.Close()
		for _, v := range s.Violations() {
			t.Errorf("the client does not speak as it has to: %s", v)
		}
	})
	return s
}

// API is the server's URL.
func (s *Server) API() *url.URL {
	u, err := url.Parse(s.URL)
	if err != nil {
		panic(err) // httptest made it
	}
	return u
}

func (s *Server) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// Fail queues faults. Each serves for one request with its method.
func (s *Server) Fail(faults ...Fault) { s.set(func() { s.faults = append(s.faults, faults...) }) }

// Duplicates sets what a bundle that is there already is answered: a status, or 0 to have it stored again. GitHub does not
// say which it is.
func (s *Server) Duplicates(status int) { s.set(func() { s.duplicates = status }) }

// ByAddress has the list give addresses of bundles, compressed there, instead of the bundles.
func (s *Server) ByAddress() { s.set(func() { s.byAddress = true }) }

// Stored gives the bundles in the store.
func (s *Server) Stored() (got []json.RawMessage) {
	s.set(func() { got = slices.Clone(s.stored) })
	return got
}

// Requests gives what was asked, in order: "POST /repos/…".
func (s *Server) Requests() (got []string) {
	s.set(func() { got = slices.Clone(s.requests) })
	return got
}

// Violations gives the rules that were broken since it was called last.
func (s *Server) Violations() (broken []string) {
	s.set(func() { broken, s.violations = s.violations, nil })
	return broken
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(io.LimitReader(r.Body, 8<<20))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	var fault *Fault
	s.set(func() {
		s.requests = append(s.requests, r.Method+" "+r.URL.Path)
		for i, f := range s.faults {
			if f.Method == r.Method {
				fault, s.faults = &f, slices.Delete(s.faults, i, i+1)
				return
			}
		}
	})
	if fault == nil {
		s.work(w, r, raw)
		return
	}
	if fault.After {
		s.work(httptest.NewRecorder(), r, raw)
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

func answer(w http.ResponseWriter, status int, format string, args ...any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprintf(w, format, args...)
}

func (s *Server) work(w http.ResponseWriter, r *http.Request, raw []byte) {
	if n, ok := strings.CutPrefix(r.URL.Path, "/storage/"); ok {
		s.address(w, r, n)
		return
	}
	base := "/repos/" + s.Owner + "/" + s.Repo + "/attestations"
	switch broken := s.broken(r); {
	case broken != "":
		s.set(func() { s.violations = append(s.violations, broken) })
		answer(w, http.StatusBadRequest, `{"message":%q}`, broken)
	case r.Header.Get("Authorization") != "Bearer "+s.Token:
		answer(w, http.StatusUnauthorized, `{"message":"Bad credentials"}`)
	case r.Method == http.MethodPost && r.URL.Path == base:
		s.create(w, raw)
	case r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, base+"/sha256:"):
		s.list(w, strings.TrimPrefix(r.URL.Path, base+"/sha256:"))
	default:
		answer(w, http.StatusNotFound, `{"message":"Not Found"}`)
	}
}

// broken says what GitHub's reference does not allow, or what it asks of every client.
func (s *Server) broken(r *http.Request) string {
	want := map[string]string{"Accept": "application/vnd.github+json", "X-Github-Api-Version": "2022-11-28"}
	query := "per_page=100"
	if r.Method == http.MethodPost {
		want["Content-Type"], query = "application/json", ""
	}
	for name, value := range want {
		if got := r.Header.Values(name); len(got) != 1 || got[0] != value {
			return fmt.Sprintf("the header %s is %q", name, got)
		}
	}
	switch {
	case r.Header.Get("User-Agent") == "":
		return "there is no User-Agent"
	case len(r.Header.Values("Authorization")) != 1:
		return "there is no Authorization, or more than one"
	case r.URL.RawQuery != query:
		return "the query is " + r.URL.RawQuery
	case r.ContentLength < 0:
		return "the body's size is not said before it"
	}
	return ""
}

func (s *Server) create(w http.ResponseWriter, raw []byte) {
	m, err := strictjson.DecodeObject(raw)
	if err != nil || len(m) != 1 {
		s.set(func() { s.violations = append(s.violations, "the body is not {bundle}") })
		answer(w, http.StatusUnprocessableEntity, `{"message":"Invalid request."}`)
		return
	}
	var body struct {
		Bundle json.RawMessage `json:"bundle"`
	}
	if err := json.Unmarshal(raw, &body); err != nil || digest(body.Bundle) == "" {
		answer(w, http.StatusUnprocessableEntity, `{"message":"Invalid Argument - invalid bundle"}`)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.duplicates != 0 && slices.ContainsFunc(s.stored, func(b json.RawMessage) bool { return string(b) == string(body.Bundle) }) {
		answer(w, s.duplicates, `{"message":"it is there"}`)
		return
	}
	s.stored = append(s.stored, body.Bundle)
	answer(w, http.StatusCreated, `{"id":%d}`, 1000+len(s.stored))
}

func (s *Server) list(w http.ResponseWriter, sha256 string) {
	type entry struct {
		Bundle json.RawMessage `json:"bundle"`
		Repo   int             `json:"repository_id"`
		URL    string          `json:"bundle_url,omitempty"`
	}
	list := []entry{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, b := range s.stored {
		switch {
		case digest(b) != sha256:
		case s.byAddress:
			list = append(list, entry{Repo: 1, URL: fmt.Sprintf("%s/storage/%d?signature=x", s.URL, i)})
		default:
			var v any // GitHub writes bundles anew
			_ = json.Unmarshal(b, &v)
			anew, _ := json.MarshalIndent(v, "", " ")
			list = append(list, entry{Bundle: anew, Repo: 1})
		}
	}
	if len(list) == 0 {
		answer(w, http.StatusNotFound, `{"message":"Not Found"}`)
		return
	}
	raw, _ := json.Marshal(map[string]any{"attestations": list})
	answer(w, http.StatusOK, "%s", raw)
}

func (s *Server) address(w http.ResponseWriter, r *http.Request, n string) {
	var i int
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := fmt.Sscan(n, &i); err != nil || i < 0 || i >= len(s.stored) || r.URL.RawQuery != "signature=x" {
		http.NotFound(w, r)
		return
	}
	if r.Header.Get("Authorization") != "" {
		s.violations = append(s.violations, "the token went to the storage")
	}
	w.Header().Set("Content-Type", "application/x-snappy")
	_, _ = w.Write(snappy.Encode(nil, s.stored[i]))
}

// digest gives the SHA-256 that a bundle's statement is about.
func digest(bundle []byte) string {
	var b struct {
		MediaType string `json:"mediaType"`
		DSSE      struct {
			Payload []byte `json:"payload"`
		} `json:"dsseEnvelope"`
	}
	var st struct {
		Subject []struct {
			Digest map[string]string `json:"digest"`
		} `json:"subject"`
	}
	if json.Unmarshal(bundle, &b) != nil || b.MediaType == "" || json.Unmarshal(b.DSSE.Payload, &st) != nil || len(st.Subject) != 1 {
		return ""
	}
	return st.Subject[0].Digest["sha256"]
}

// Bundle makes a bundle that has what the server looks at. It is not signed.
func Bundle(sha256 string) []byte {
	statement := fmt.Sprintf(`{"subject":[{"name":"a-1-0.conda","digest":{"sha256":%q}}]}`, sha256)
	return fmt.Appendf(nil, `{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json", "dsseEnvelope":{"payload":%q}}`,
		base64.StdEncoding.EncodeToString([]byte(statement)))
}
