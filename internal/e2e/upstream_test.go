package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// upstream stands for the hosts that have sources' attestations, under their own names: programs reach it through a proxy
// that their environment names, as behind any company's, and trust a certificate authority of the test's.
type upstream struct {
	proxy, tls *httptest.Server
	env        []string

	mu         sync.Mutex
	provenance map[string][]byte // of the Python package index, by path
	assets     map[string][]byte // of GitHub releases, by path
	down       bool
	asked      map[string]int // requests by host and path
	strange    []string       // what no client should send
}

const (
	assetHost = "release-assets.githubusercontent.com"
	assetPath = "/github-production-release-asset/1"
)

var upstreamHosts = []string{"pypi.org", "github.com", assetHost}

func newUpstream(t testing.TB) *upstream {
	t.Helper()
	u := &upstream{provenance: map[string][]byte{}, assets: map[string][]byte{}, asked: map[string]int{}}
	authority, leaf := certificates(t, upstreamHosts)
	u.tls = httptest.NewUnstartedServer(u)
	u.tls.TLS = &tls.Config{Certificates: []tls.Certificate{leaf}}
	u.tls.StartTLS()
	t.Cleanup(u.tls.Close)
	u.proxy = httptest.NewServer(http.HandlerFunc(u.connect))
	t.Cleanup(u.proxy.Close)
	file := filepath.Join(t.TempDir(), "authority.pem")
	if err := os.WriteFile(file, authority, 0o644); err != nil {
		t.Fatal(err)
	}
	u.env = []string{"HTTPS_PROXY=" + u.proxy.URL, "SSL_CERT_FILE=" + file, "SSL_CERT_DIR=" + filepath.Dir(file)}
	return u
}

// certificates makes an authority, as PEM, and a server's certificate for the hosts.
func certificates(t testing.TB, hosts []string) ([]byte, tls.Certificate) {
	t.Helper()
	make := func(template, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if parent == nil {
			parent, parentKey = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c, key
	}
	begin, end := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	ca, caKey := make(&x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "e2e"}, NotBefore: begin, NotAfter: end,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	leaf, leafKey := make(&x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: begin, NotAfter: end, DNSNames: hosts,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, ca, caKey)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}), tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: leafKey}
}

// connect is the proxy: it leads to the hosts that there are, and nowhere else.
func (u *upstream) connect(w http.ResponseWriter, r *http.Request) {
	host, port, _ := net.SplitHostPort(r.Host)
	if r.Method != http.MethodConnect || port != "443" || !slices.Contains(upstreamHosts, host) {
		u.note("a request to " + r.Method + " " + r.Host)
		http.Error(w, "not from here", http.StatusForbidden)
		return
	}
	to, err := net.Dial("tcp", u.tls.Listener.Addr().String())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer to.Close()
	from, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer from.Close()
	_, _ = io.WriteString(from, "HTTP/1.1 200 Connection established\r\n\r\n")
	var wg sync.WaitGroup
	pipe := func(dst net.Conn, src io.Reader) {
		_, _ = io.Copy(dst, src)
		_ = dst.(*net.TCPConn).CloseWrite()
	}
	wg.Go(func() { pipe(to, buf) })
	wg.Go(func() { pipe(from, to) })
	wg.Wait()
}

func (u *upstream) note(what string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.strange = append(u.strange, what)
}

// ServeHTTP answers as the hosts do: their paths, headers and errors.
func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for _, h := range []string{"Authorization", "Cookie", "Referer"} {
		if r.Header.Get(h) != "" {
			u.note(h + " was sent to " + r.Host)
		}
	}
	path := r.URL.EscapedPath()
	u.mu.Lock()
	u.asked[r.Host+path]++
	down := u.down
	answer, asset := u.provenance[path], u.assets[path]
	u.mu.Unlock()
	if down {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "upstream connect error", http.StatusServiceUnavailable)
		return
	}
	switch r.Host {
	case "pypi.org":
		u.index(w, r, answer)
	case "github.com":
		if asset == nil {
			http.Error(w, "Not Found", http.StatusNotFound)
			return
		}
		http.Redirect(w, r, "https://"+assetHost+assetPath+"?for="+path+"&jwt=hunter2", http.StatusFound)
	case assetHost:
		u.mu.Lock()
		asset = u.assets[r.URL.Query().Get("for")]
		u.mu.Unlock()
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write(asset)
	default:
		u.note("a request to " + r.Host)
	}
}

// index is the integrity API of the Python package index.
func (u *upstream) index(w http.ResponseWriter, r *http.Request, answer []byte) {
	say := func(status int, message string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]string{"message": message})
	}
	w.Header().Set("Vary", "Accept")
	parts := strings.Split(strings.Trim(r.URL.EscapedPath(), "/"), "/")
	switch {
	case len(parts) != 5 || parts[0] != "integrity" || parts[4] != "provenance":
		say(http.StatusNotFound, "Not Found")
	case r.Method != http.MethodGet:
		say(http.StatusMethodNotAllowed, "Method Not Allowed")
	case r.Header.Get("Accept") != "application/vnd.pypi.integrity.v1+json":
		say(http.StatusNotAcceptable, "Request not acceptable")
	case answer == nil:
		say(http.StatusNotFound, "No provenance available for "+parts[3])
	default:
		w.Header().Set("Content-Type", "application/vnd.pypi.integrity.v1+json")
		w.Header().Set("Cache-Control", "max-age=600, public")
		_, _ = w.Write(answer)
	}
}

// requests is how often the hosts were asked for a path, "" for all.
func (u *upstream) requests(hostAndPath string) (n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for k, v := range u.asked {
		if hostAndPath == "" || k == hostAndPath {
			n += v
		}
	}
	return n
}

// set changes what the hosts have.
func (u *upstream) set(change func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	change()
}

// sound fails if a client has sent what it must not.
func (u *upstream) sound(t testing.TB) {
	t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.strange) > 0 {
		t.Errorf("upstreams saw %q", u.strange)
	}
}

type object = map[string]any

// indexProvenance makes of a Sigstore bundle what the index answers (PEP 740). bodies: with what the log has signed, as the
// index keeps it; a bundle that rests on a timestamp cannot be checked with them, since there is no place for that.
func indexProvenance(t testing.TB, bundle []byte, bodies bool) []byte {
	t.Helper()
	var b struct {
		Material struct {
			Certificate struct{ RawBytes string }
			TlogEntries []object
		} `json:"verificationMaterial"`
		Envelope struct {
			Payload    string
			Signatures []struct{ Sig string }
		} `json:"dsseEnvelope"`
	}
	if err := json.Unmarshal(bundle, &b); err != nil {
		t.Fatal(err)
	}
	if !bodies {
		for _, e := range b.Material.TlogEntries {
			delete(e, "canonicalizedBody")
		}
	}
	out, err := json.Marshal(object{"version": 1, "attestation_bundles": []object{{
		"publisher": object{"kind": "GitHub", "claims": nil, "repository": "pallets/flask", "workflow": "publish.yml", "environment": "publish"},
		"attestations": []object{{
			"version":               1,
			"envelope":              object{"statement": b.Envelope.Payload, "signature": b.Envelope.Signatures[0].Sig},
			"verification_material": object{"certificate": b.Material.Certificate.RawBytes, "transparency_entries": b.Material.TlogEntries},
		}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// attestSource signs a source archive as a repository's workflow, with cosign and the private Sigstore, and gives the bundle.
func attestSource(t testing.TB, archive []byte, repository string) []byte {
	t.Helper()
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	env := append(slices.Clone(stack.env), "ACTIONS_ID_TOKEN_REQUEST_URL="+stack.URLs["token"]+"?repository="+repository)
	bundle := filepath.Join(dir, "bundle.json")
	runEnv(t, env, programs.cosign, "attest-blob", "--yes", "--bundle", bundle, "--trusted-root", stack.TrustedRoot, "--signing-config", stack.SigningConfig,
		"--type", "https://docs.pypi.org/attestations/publish/v1", "--predicate", file("predicate.json", []byte("{}")), file("archive", archive)).want(t, 0)
	return read(t, bundle)
}

// broken is a bundle with another signature.
func broken(t testing.TB, bundle []byte) []byte {
	t.Helper()
	var b object
	if err := json.Unmarshal(bundle, &b); err != nil {
		t.Fatal(err)
	}
	b["dsseEnvelope"].(object)["signatures"] = []object{{"sig": base64.StdEncoding.EncodeToString([]byte("no signature"))}}
	out, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func sha256Of(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
