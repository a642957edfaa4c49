package sign

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	jsoncanonicalizer "github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"
	"github.com/digitorus/timestamp"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	trustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	rekortiles "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	rekornote "github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/identity"
)

const (
	testIdentity = "https://github.com/acme/feedstock/.github/workflows/publish.yml@refs/heads/main"
	testIssuer   = "https://issuer.localhost"
	testChannel  = "https://conda.localhost/acme"
	fulcioHost   = "fulcio.localhost"
	tsaHost      = "tsa.localhost"
	rekorHost    = "rekor.localhost"
	certLife     = 10 * time.Minute
)

// fake is a Sigstore whose services answer in the caller's goroutine, so that a test can own the clock: Fulcio, a timestamp
// authority and logs of both versions. What it signs with v2 verifies; its v1 entries have the right form only. Tests put faults
// before the services.
type fake struct {
	caKey, tsaKey, logKey *ecdsa.PrivateKey
	caCert, tsaCert       *x509.Certificate
	logID                 []byte
	life                  time.Duration
	skew                  time.Duration // of the timestamp authority's clock

	// fault answers instead of the service where it returns something. n counts the service's requests from 1.
	fault func(service string, n int, r *http.Request) (*http.Response, error)

	mu       sync.Mutex
	identity string
	requests map[string]int
	bodies   map[string][]string
	entries  map[string]string // v1: UUID by body
	subjects []string          // of the tokens that Fulcio saw
}

func newFake(t testing.TB) *fake {
	t.Helper()
	f := &fake{life: certLife, identity: testIdentity, requests: map[string]int{}, bodies: map[string][]string{}, entries: map[string]string{}}
	for _, k := range []**ecdsa.PrivateKey{&f.caKey, &f.tsaKey, &f.logKey} {
		*k = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	}
	begin, end := time.Now().Add(-24*time.Hour), time.Now().Add(20*365*24*time.Hour)
	f.caCert = selfSigned(t, &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: begin, NotAfter: end,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, f.caKey)
	// RFC 3161 wants the extension critical; with the CA it makes the whole chain.
	usage := must(asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}}))(t)
	tsa := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "tsa"}, NotBefore: begin, NotAfter: end,
		KeyUsage:        x509.KeyUsageDigitalSignature,
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: usage}}}
	der := must(x509.CreateCertificate(rand.Reader, tsa, f.caCert, f.tsaKey.Public(), f.caKey))(t)
	f.tsaCert = must(x509.ParseCertificate(der))(t)
	_, id, err := rekornote.KeyHash(rekorHost, f.logKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	f.logID = id
	return f
}

func selfSigned(t testing.TB, template *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))(t)))(t)
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// trust is the fake's trust root.
func (f *fake) trust() *attest.TrustRoot {
	return &attest.TrustRoot{SHA256: "fake", Material: &material{f: f}}
}

type material struct {
	root.BaseTrustedMaterial
	f *fake
}

func (m *material) FulcioCertificateAuthorities() []root.CertificateAuthority {
	return []root.CertificateAuthority{&root.FulcioCertificateAuthority{Root: m.f.caCert}}
}

func (m *material) TimestampingAuthorities() []root.TimestampingAuthority {
	return []root.TimestampingAuthority{&root.SigstoreTimestampingAuthority{Root: m.f.caCert, Leaf: m.f.tsaCert}}
}

func (m *material) RekorLogs() map[string]*root.TransparencyLog {
	return map[string]*root.TransparencyLog{hex.EncodeToString(m.f.logID): {BaseURL: "https://" + rekorHost, ID: m.f.logID,
		ValidityPeriodStart: time.Unix(1, 0), PublicKey: m.f.logKey.Public(), HashFunc: crypto.SHA256, SignatureHashFunc: crypto.SHA256}}
}

// config names the fake's services. Rekor version 0 leaves the logs of both versions in.
func (f *fake) config(t testing.TB, rekorVersion uint32) Config {
	t.Helper()
	service := func(host, path string, version uint32) root.Service {
		return root.Service{URL: "https://" + host + path, MajorAPIVersion: version, ValidityPeriodStart: time.Unix(1, 0), Operator: "fake"}
	}
	anyOf := root.ServiceConfiguration{Selector: trustroot.ServiceSelector_ANY}
	sc := must(root.NewSigningConfig(root.SigningConfigMediaType02,
		[]root.Service{service(fulcioHost, "/", 1)}, nil,
		[]root.Service{service(rekorHost, "", 1), service(rekorHost, "", 2)}, anyOf,
		[]root.Service{service(tsaHost, "/api/v1/timestamp", 1)}, anyOf))(t)
	return Config{Trust: must(attest.FixedTrust(f.trust(), sc))(t), RekorVersion: rekorVersion, Transport: f, Tokens: &tokens{}}
}

// RoundTrip implements http.RoundTripper.
func (f *fake) RoundTrip(r *http.Request) (*http.Response, error) {
	service, _, _ := strings.Cut(r.URL.Host, ".")
	var body []byte
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	f.mu.Lock()
	f.requests[service]++
	n := f.requests[service]
	f.bodies[service] = append(f.bodies[service], string(body))
	f.mu.Unlock()
	if f.fault != nil {
		if resp, err := f.fault(service, n, r); resp != nil || err != nil {
			return resp, err
		}
	}
	rec := httptest.NewRecorder()
	handler := map[string]func(http.ResponseWriter, []byte, *http.Request) error{
		serviceFulcio: f.certify, serviceTSA: f.stamp, serviceRekor: f.record,
	}[service]
	if err := handler(rec, body, r); err != nil {
		return answer(500, err.Error()), nil
	}
	return rec.Result(), nil
}

func (f *fake) count(service string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests[service]
}

// answer is a response of a status; header is name and value pairs.
func answer(code int, body string, header ...string) *http.Response {
	h := http.Header{}
	for i := 0; i+1 < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return &http.Response{StatusCode: code, Header: h, Body: io.NopCloser(strings.NewReader(body))}
}

func (f *fake) certify(w http.ResponseWriter, body []byte, r *http.Request) error {
	raw, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	token, err := identity.Parse(raw)
	if err != nil {
		return err
	}
	var req struct {
		PublicKeyRequest struct {
			PublicKey struct{ Content string }
		}
	}
	if err := json.Unmarshal(body, &req); err != nil {
		return err
	}
	block, _ := pem.Decode([]byte(req.PublicKeyRequest.PublicKey.Content))
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.subjects = append(f.subjects, token.Subject)
	san, err := url.Parse(f.identity)
	f.mu.Unlock()
	if err != nil {
		return err
	}
	issuer, _ := asn1.MarshalWithParams(testIssuer, "utf8")
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now(), NotAfter: time.Now().Add(f.life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, URIs: []*url.URL{san},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}, Value: issuer}},
	}, f.caCert, key, f.caKey)
	if err != nil {
		return err
	}
	return json.NewEncoder(w).Encode(map[string]any{"signedCertificateEmbeddedSct": map[string]any{"chain": map[string]any{
		"certificates": []string{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}}}})
}

func (f *fake) stamp(w http.ResponseWriter, body []byte, _ *http.Request) error {
	req, err := timestamp.ParseRequest(body)
	if err != nil {
		return err
	}
	resp, err := (&timestamp.Timestamp{HashAlgorithm: req.HashAlgorithm, HashedMessage: req.HashedMessage, Time: time.Now().Add(f.skew),
		Policy: asn1.ObjectIdentifier{1, 2, 3}, AddTSACertificate: true}).CreateResponseWithOpts(f.tsaCert, f.tsaKey, crypto.SHA256)
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusCreated)
	_, err = w.Write(resp)
	return err
}

func (f *fake) record(w http.ResponseWriter, body []byte, r *http.Request) error {
	if strings.HasPrefix(r.URL.Path, "/api/v1/") {
		return f.recordV1(w, body, r)
	}
	var req rekortiles.CreateEntryRequest
	if err := protojson.Unmarshal(body, &req); err != nil {
		return err
	}
	h := req.GetHashedRekordRequestV002()
	f.mu.Lock()
	_, known := f.entries[string(h.GetSignature().GetContent())]
	f.entries[string(h.GetSignature().GetContent())] = ""
	index := int64(len(f.entries) - 1)
	f.mu.Unlock()
	if known {
		w.WriteHeader(http.StatusConflict)
		return json.NewEncoder(w).Encode(map[string]any{"code": 6, "message": "an equivalent entry already exists"})
	}
	entry, err := f.entryV2(h, index)
	if err != nil {
		return err
	}
	data, err := protojson.Marshal(entry)
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusCreated)
	_, err = w.Write(data)
	return err
}

// entryV2 is an entry that is alone in its tree.
func (f *fake) entryV2(h *rekortiles.HashedRekordRequestV002, index int64) (*protorekor.TransparencyLogEntry, error) {
	body, err := protojson.Marshal(&rekortiles.Entry{ApiVersion: "0.0.2", Kind: "hashedrekord", Spec: &rekortiles.Spec{
		Spec: &rekortiles.Spec_HashedRekordV002{HashedRekordV002: &rekortiles.HashedRekordLogEntryV002{
			Data:      &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: h.GetDigest()},
			Signature: h.GetSignature(),
		}},
	}})
	if err != nil {
		return nil, err
	}
	if body, err = jsoncanonicalizer.Transform(body); err != nil {
		return nil, err
	}
	leaf := rfc6962.DefaultHasher.HashLeaf(body)
	sv, err := signature.LoadECDSASignerVerifier(f.logKey, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	signer, err := rekornote.NewNoteSigner(context.Background(), rekorHost, sv)
	if err != nil {
		return nil, err
	}
	checkpoint, err := note.Sign(&note.Note{Text: string(log.Checkpoint{Origin: rekorHost, Size: 1, Hash: leaf}.Marshal())}, signer)
	return &protorekor.TransparencyLogEntry{
		LogId:             &protocommon.LogId{KeyId: f.logID},
		KindVersion:       &protorekor.KindVersion{Kind: "hashedrekord", Version: "0.0.2"},
		InclusionProof:    &protorekor.InclusionProof{TreeSize: 1, RootHash: leaf, Checkpoint: &protorekor.Checkpoint{Envelope: string(checkpoint)}},
		CanonicalizedBody: body,
	}, err
}

func (f *fake) recordV1(w http.ResponseWriter, body []byte, r *http.Request) error {
	uuid, fetch := strings.CutPrefix(r.URL.Path, "/api/v1/log/entries/")
	f.mu.Lock()
	defer f.mu.Unlock()
	if fetch {
		for b, id := range f.entries {
			if id == uuid {
				return json.NewEncoder(w).Encode(entryV1(uuid, []byte(b)))
			}
		}
		w.WriteHeader(http.StatusNotFound)
		return nil
	}
	if id, ok := f.entries[string(body)]; ok {
		w.Header().Set("Location", "/api/v1/log/entries/"+id)
		w.WriteHeader(http.StatusConflict)
		return json.NewEncoder(w).Encode(map[string]any{"code": 409, "message": "an equivalent entry already exists"})
	}
	sum := sha256.Sum256(body)
	uuid = hex.EncodeToString(sum[:])
	f.entries[string(body)] = uuid
	w.WriteHeader(http.StatusCreated)
	return json.NewEncoder(w).Encode(entryV1(uuid, body))
}

// entryV1 is an answer with everything in it that a client reads. The body is the proposed entry with the fields that a log adds.
func entryV1(uuid string, proposed []byte) map[string]any {
	var p struct {
		Kind string
		Spec struct {
			ProposedContent struct {
				Envelope  string
				Verifiers []string
			}
		}
	}
	_ = json.Unmarshal(proposed, &p)
	hash := map[string]any{"algorithm": "sha256", "value": uuid}
	body, _ := json.Marshal(map[string]any{"apiVersion": "0.0.1", "kind": "dsse", "spec": map[string]any{
		"envelopeHash": hash, "payloadHash": hash,
		"signatures": []any{map[string]any{"signature": base64.StdEncoding.EncodeToString([]byte("sig")), "verifier": p.Spec.ProposedContent.Verifiers[0]}},
	}})
	return map[string]any{uuid: map[string]any{
		"body": base64.StdEncoding.EncodeToString(body), "integratedTime": time.Now().Unix(), "logID": strings.Repeat("ab", 32), "logIndex": 7,
		"verification": map[string]any{"signedEntryTimestamp": "c2V0", "inclusionProof": map[string]any{
			"checkpoint": "rekor.localhost\n1\nAA==\n", "hashes": []string{}, "logIndex": 7, "rootHash": uuid, "treeSize": 8}},
	}}
}

// tokens gives a fresh token each time, whose subject is its number.
type tokens struct {
	mu  sync.Mutex
	n   int
	raw []string
}

func (s *tokens) String() string { return "test" }

func (s *tokens) Token(context.Context) (identity.Token, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	claims := fmt.Sprintf(`{"iss":%q,"sub":"token-%d","exp":%d}`, testIssuer, s.n, time.Now().Add(time.Minute).Unix())
	b64 := base64.RawURLEncoding.EncodeToString
	raw := b64([]byte(`{"alg":"RS256"}`)) + "." + b64([]byte(claims)) + "." + b64([]byte("this-is-the-token's-signature"))
	s.raw = append(s.raw, raw)
	return identity.Parse(raw)
}
