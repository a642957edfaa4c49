package prefixtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hallmark-attest/hallmark/internal/conda"
	"github.com/hallmark-attest/hallmark/internal/identity"
	"github.com/hallmark-attest/hallmark/internal/strictjson"
)

// allowed are the headers that a request to the API may have, beside those that the connection takes.
func (s *Server) allowed(r *http.Request, names ...string) error {
	for name, values := range r.Header {
		if len(values) != 1 {
			return fmt.Errorf("the header %s occurs %d times", name, len(values))
		}
		if !slices.Contains(append(names, "User-Agent", "Accept-Encoding", "Accept", "Content-Length"), name) {
			return fmt.Errorf("the request has the header %s", name)
		}
	}
	switch {
	case r.Method != http.MethodPost:
		return fmt.Errorf("the method is %s", r.Method)
	case r.URL.RawQuery != "" || r.URL.ForceQuery:
		return fmt.Errorf("the query is %q", r.URL.RawQuery)
	case len(r.TransferEncoding) != 0 || r.ContentLength < 0:
		return errors.New("the body's size is not said before it")
	}
	return nil
}

// mint exchanges an identity token.
func (s *Server) mint(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if err := s.allowed(r, "Content-Type"); err != nil {
		s.violate(w, "minting: %v", err)
		return
	}
	if r.Header.Get("Content-Type") != "application/json" {
		s.violate(w, "minting: the type is %q", r.Header.Get("Content-Type"))
		return
	}
	m, err := strictjson.DecodeObject(body)
	raw, ok := m["token"].(string)
	if err != nil || !ok || len(m) != 1 {
		s.violate(w, "minting: the body is not {token}")
		return
	}
	id, err := identity.Parse(raw)
	if err != nil {
		http.Error(w, "malformed token "+raw, http.StatusUnprocessableEntity)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.identities[raw] && !s.issuers[id.Issuer] || !slices.Contains(id.Audience, s.Origin().Hostname()) || time.Now().After(id.Expiry) {
		http.Error(w, "no trusted publisher for "+raw, http.StatusUnauthorized)
		return
	}
	expiry := time.Now().Add(s.life)
	s.mints++
	token := fmt.Sprintf("minted-%d", s.mints)
	if s.shape != nil {
		token = s.shape(s.mints, expiry)
	}
	s.minted[token] = expiry
	_, _ = io.WriteString(w, token)
}

// upload takes a package and its bundle.
func (s *Server) upload(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(io.LimitReader(r.Body, 1<<30))
	if err != nil {
		panic(http.ErrAbortHandler) // the client went away in the middle: nothing is taken
	}
	if err := s.allowed(r, "Content-Type", "Authorization"); err != nil {
		s.violate(w, "uploading: %v", err)
		return
	}
	if !s.authorised(r, false) {
		http.Error(w, "bad credentials: "+r.Header.Get("Authorization"), http.StatusUnauthorized)
		return
	}
	if p := "/api/v1/upload/" + s.Channel; r.URL.EscapedPath() != p {
		http.Error(w, "no such channel", http.StatusNotFound)
		return
	}
	if len(raw) < longestProbe && empty(r.Header.Get("Content-Type"), raw) {
		http.Error(w, "there is no file", http.StatusUnprocessableEntity)
		return
	}
	f, err := parse(r.Header.Get("Content-Type"), raw)
	if err != nil {
		s.violate(w, "uploading: %v", err)
		return
	}
	subdir, err := subdirOf(f)
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	if err := checkStatement(f, s.ChannelURL()); err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := subdir + "/" + f.name
	if _, ok := s.files[key]; ok {
		http.Error(w, "the package exists", http.StatusConflict)
		return
	}
	s.files[key] = f.body
	s.sidecars[key] = slices.Concat([]byte("["), f.attestation, []byte("]"))
	w.WriteHeader(http.StatusCreated)
}

// sending is a form's content.
type sending struct {
	name              string
	body, attestation []byte
}

// empty tells a form without a part.
func empty(contentType string, raw []byte) bool {
	kind, params, err := mime.ParseMediaType(contentType)
	return err == nil && kind == "multipart/form-data" && len(params) == 1 && string(raw) == "--"+params["boundary"]+"--\r\n"
}

// parse takes a form apart as rattler's client writes it: two parts in this order, with these headers in this order.
func parse(contentType string, raw []byte) (f sending, err error) {
	kind, params, err := mime.ParseMediaType(contentType)
	if err != nil || kind != "multipart/form-data" || len(params) != 1 || params["boundary"] == "" {
		return f, fmt.Errorf("the type is %q", contentType)
	}
	mark := "--" + params["boundary"]
	rest, ok := bytes.CutPrefix(raw, []byte(mark+"\r\n"))
	if !ok {
		return f, errors.New("the body does not begin with its boundary")
	}
	file, rest, ok := bytes.Cut(rest, []byte("\r\n"+mark+"\r\n"))
	if !ok {
		return f, errors.New("there is no second part")
	}
	att, rest, ok := bytes.Cut(rest, []byte("\r\n"+mark))
	if !ok || string(rest) != "--\r\n" {
		return f, errors.New("the form does not end after its second part")
	}
	head, body, ok := bytes.Cut(file, []byte("\r\n\r\n"))
	if !ok {
		return f, errors.New("the first part has no end of its headers")
	}
	sum := sha256.Sum256(body)
	lines := strings.Split(string(head), "\r\n")
	name, _ := strings.CutPrefix(lines[0], `Content-Disposition: form-data; name="file"; filename="`)
	f.name = strings.TrimSuffix(name, `"`)
	want := []string{
		`content-disposition: form-data; name="file"; filename="` + f.name + `"`,
		"content-type: application/octet-stream",
		"content-length: " + strconv.Itoa(len(body)),
		"x-file-name: " + f.name,
		"x-file-sha256: " + hex.EncodeToString(sum[:]),
	}
	if err := sameHeaders(lines, want); err != nil {
		return f, fmt.Errorf("the part file: %w", err)
	}
	head, f.attestation, ok = bytes.Cut(att, []byte("\r\n\r\n"))
	if !ok {
		return f, errors.New("the second part has no end of its headers")
	}
	if err := sameHeaders(strings.Split(string(head), "\r\n"), []string{`content-disposition: form-data; name="attestation"`}); err != nil {
		return f, fmt.Errorf("the part attestation: %w", err)
	}
	if _, err := strictjson.DecodeObject(f.attestation); err != nil {
		return f, fmt.Errorf("the attestation %w", err)
	}
	f.body = body
	return f, nil
}

// sameHeaders compares without regard to the case of the headers' names.
func sameHeaders(got, want []string) error {
	if len(got) != len(want) {
		return fmt.Errorf("it has the headers %q, not %q", got, want)
	}
	for i, g := range got {
		name, value, _ := strings.Cut(g, ": ")
		if strings.ToLower(name)+": "+value != want[i] {
			return fmt.Errorf("it has the header %q where %q belongs", g, want[i])
		}
	}
	return nil
}

// subdirOf finds out where a package belongs. The real server reads index.json; the packages of tests are not always
// packages, and say it in their first line: "subdir linux-64".
func subdirOf(f sending) (string, error) {
	if _, err := conda.ParseFilename(f.name); err != nil || path.Base(f.name) != f.name {
		return "", fmt.Errorf("the name %q is no package's", f.name)
	}
	line, _, _ := bytes.Cut(f.body, []byte("\n"))
	subdir, ok := strings.CutPrefix(string(line), "subdir ")
	if !ok {
		p, err := conda.Read(context.Background(), bytes.NewReader(f.body), int64(len(f.body)), f.name)
		if err != nil {
			return "", err
		}
		subdir = p.Subdir
	}
	return subdir, conda.CheckSubdir(subdir)
}

// checkStatement does of CEP 27's checks what takes no trust root.
func checkStatement(f sending, channelURL string) error {
	var b struct {
		DSSE struct {
			Payload     string `json:"payload"`
			PayloadType string `json:"payloadType"`
		} `json:"dsseEnvelope"`
	}
	if err := json.Unmarshal(f.attestation, &b); err != nil || b.DSSE.PayloadType != "application/vnd.in-toto+json" {
		return errors.New("the attestation is no bundle with a statement")
	}
	payload, err := base64.StdEncoding.DecodeString(b.DSSE.Payload)
	if err != nil {
		return errors.New("the statement is not base64")
	}
	var st struct {
		Subject []struct {
			Name   string            `json:"name"`
			Digest map[string]string `json:"digest"`
		} `json:"subject"`
		PredicateType string `json:"predicateType"`
		Predicate     *struct {
			TargetChannel string `json:"targetChannel"`
		} `json:"predicate"`
	}
	if err := json.Unmarshal(payload, &st); err != nil {
		return errors.New("the statement is not JSON")
	}
	sum := sha256.Sum256(f.body)
	switch {
	case st.PredicateType != predicateType:
		return errors.New("the statement has another predicate type")
	case len(st.Subject) != 1 || st.Subject[0].Name != f.name:
		return errors.New("the statement has another subject")
	case len(st.Subject[0].Digest) != 1 || st.Subject[0].Digest["sha256"] != hex.EncodeToString(sum[:]):
		return errors.New("the statement has another digest")
	case st.Predicate != nil && st.Predicate.TargetChannel != channelURL:
		return errors.New("the statement is for another channel")
	}
	return nil
}
