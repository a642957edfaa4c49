package provenance

import (
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
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/hallmark-attest/hallmark/internal/attest"
)

const (
	githubIssuer = "https://token.actions.githubusercontent.com"
	flaskSAN     = "https://github.com/pallets/flask/.github/workflows/publish.yml@refs/tags/3.1.1"
	corsSAN      = "https://github.com/pallets/flask-cors/.github/workflows/publish.yml@refs/tags/1.0"
	publishType  = "https://docs.pypi.org/attestations/publish/v1"
	flaskFile    = "flask-3.1.1.tar.gz"
	flaskURL     = "https://files.pythonhosted.org/packages/ab/cd/" + flaskFile
	flaskPath    = "/integrity/flask/3.1.1/flask-3.1.1.tar.gz/provenance"
)

var flaskSHA256 = digestOf([]byte("flask"))

// forge is a Sigstore in memory, with Rekor v1's entries as the index keeps them.
type forge struct {
	virtual          *ca.VirtualSigstore
	rootCert, issuer *x509.Certificate
	issuerKey        *ecdsa.PrivateKey
}

var theForge = sync.OnceValues(func() (f *forge, err error) {
	f = new(forge)
	if f.virtual, err = ca.NewVirtualSigstore(); err != nil {
		return nil, err
	}
	rootCert, rootKey, err := ca.GenerateRootCa()
	if err != nil {
		return nil, err
	}
	f.rootCert = rootCert
	f.issuer, f.issuerKey, err = ca.GenerateFulcioIntermediate(rootCert, rootKey)
	return f, err
})

func forgeOf(t testing.TB) *forge {
	t.Helper()
	f, err := theForge()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

type material struct {
	root.BaseTrustedMaterial
	f *forge
}

func (m *material) FulcioCertificateAuthorities() []root.CertificateAuthority {
	return []root.CertificateAuthority{&root.FulcioCertificateAuthority{Root: m.f.rootCert,
		Intermediates: []*x509.Certificate{m.f.issuer}, ValidityPeriodStart: time.Now().Add(-24 * time.Hour)}}
}
func (m *material) RekorLogs() map[string]*root.TransparencyLog { return m.f.virtual.RekorLogs() }

func (f *forge) verifier(t testing.TB) *Verifier {
	t.Helper()
	v, err := NewVerifier(&attest.TrustRoot{Material: &material{f: f}})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// order is what a test wants signed; the zero value is flask by its publisher.
type order struct {
	san, issuer, predicateType string
	sha256                     string
	repository                 string // of the certificate's claims
	expired                    bool   // the certificate when it was logged
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// sign gives a bundle.
func (f *forge) sign(t testing.TB, o order) []byte {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	statement := fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":%q,"digest":{"sha256":%q}}],"predicateType":%q,"predicate":null}`,
		flaskFile, or(o.sha256, flaskSHA256), or(o.predicateType, publishType))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	issuer := or(o.issuer, githubIssuer)
	utf8, err := asn1.MarshalWithParams(issuer, "utf8")
	must(err)
	begin := time.Now().Add(-time.Minute)
	if o.expired {
		begin = begin.Add(-time.Hour)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: begin, NotAfter: begin.Add(10 * time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}, Value: utf8}}}
	if o.repository != "" {
		der, err := asn1.MarshalWithParams(o.repository, "utf8")
		must(err)
		template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 12}, Value: der})
	}
	if san := or(o.san, flaskSAN); strings.HasPrefix(san, "https://") {
		u, err := url.Parse(san)
		must(err)
		template.URIs = []*url.URL{u}
	} else {
		template.EmailAddresses = []string{san}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, f.issuer, key.Public(), f.issuerKey)
	must(err)
	cert, err := x509.ParseCertificate(der)
	must(err)
	pae := sha256.Sum256(dsse.PAE(attest.PayloadType, statement))
	sig, err := ecdsa.SignASN1(rand.Reader, key, pae[:])
	must(err)
	now := time.Now().Unix()
	entry, err := f.virtual.GenerateTlogEntry(cert, &dsse.Envelope{PayloadType: attest.PayloadType, Payload: base64.StdEncoding.EncodeToString(statement),
		Signatures: []dsse.Signature{{Sig: base64.StdEncoding.EncodeToString(sig)}}}, sig, now, true)
	must(err)
	pb := entry.TransparencyLogEntry()
	set, err := f.virtual.RekorSignPayload(tlog.RekorPayload{Body: entry.Body(), IntegratedTime: now, LogIndex: entry.LogIndex(), LogID: hex.EncodeToString(pb.LogId.KeyId)})
	must(err)
	pb.KindVersion = &protorekor.KindVersion{Kind: "dsse", Version: "0.0.1"}
	pb.InclusionPromise = &protorekor.InclusionPromise{SignedEntryTimestamp: set}
	data, err := protojson.Marshal(&protobundle.Bundle{
		MediaType: attest.BundleMediaType,
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content:     &protobundle.VerificationMaterial_Certificate{Certificate: &protocommon.X509Certificate{RawBytes: cert.Raw}},
			TlogEntries: []*protorekor.TransparencyLogEntry{pb},
		},
		Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{PayloadType: attest.PayloadType, Payload: statement, Signatures: []*protodsse.Signature{{Sig: sig}}}},
	})
	must(err)
	return data
}

type object = map[string]any

// provenance makes of bundles what the index answers. Change, if not nil, changes each attestation.
func provenance(t testing.TB, change func(object), bundles ...[]byte) []byte {
	t.Helper()
	list := []object{}
	for _, data := range bundles {
		var b struct {
			Material struct {
				Certificate struct {
					RawBytes string `json:"rawBytes"`
				} `json:"certificate"`
				Entries []object `json:"tlogEntries"`
			} `json:"verificationMaterial"`
			Envelope struct {
				Payload    string `json:"payload"`
				Signatures []struct {
					Sig string `json:"sig"`
				} `json:"signatures"`
			} `json:"dsseEnvelope"`
		}
		if err := json.Unmarshal(data, &b); err != nil {
			t.Fatal(err)
		}
		a := object{
			"version":               1,
			"envelope":              object{"statement": b.Envelope.Payload, "signature": b.Envelope.Signatures[0].Sig},
			"verification_material": object{"certificate": b.Material.Certificate.RawBytes, "transparency_entries": b.Material.Entries},
		}
		if change != nil {
			change(a)
		}
		list = append(list, a)
	}
	out, err := json.Marshal(object{"version": 1, "attestation_bundles": []object{{
		"publisher":    object{"kind": "GitHub", "claims": nil, "repository": "pallets/flask", "workflow": "publish.yml", "environment": "publish"},
		"attestations": list,
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// noBodies takes away what the log has signed.
func noBodies(a object) {
	for _, e := range a["verification_material"].(object)["transparency_entries"].([]object) {
		delete(e, "canonicalizedBody")
	}
}

// index is the Python package index's integrity endpoint, and any other host of bundles beside it.
type index struct {
	*httptest.Server
	provenance map[string][]byte       // by path
	other      map[string]http.Handler // by path
	requests   atomic.Int64
}

func newIndex(t testing.TB) *index {
	t.Helper()
	x := &index{provenance: map[string][]byte{}, other: map[string]http.Handler{}}
	x.Server = httptest.NewTLSServer(x)
	t.Cleanup(x.Close)
	return x
}

func (x *index) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x.requests.Add(1)
	if r.Header.Get("Authorization")+r.Header.Get("Cookie") != "" {
		http.Error(w, "credentials", http.StatusTeapot)
		return
	}
	if h := x.other[r.URL.EscapedPath()]; h != nil {
		h.ServeHTTP(w, r)
		return
	}
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
	case x.provenance[r.URL.EscapedPath()] == nil:
		say(http.StatusNotFound, "No provenance available for "+parts[3])
	default:
		w.Header().Set("Content-Type", "application/vnd.pypi.integrity.v1+json")
		w.Header().Set("Cache-Control", "max-age=600, public")
		_, _ = w.Write(x.provenance[r.URL.EscapedPath()])
	}
}

func (x *index) fetcher(change func(*FetchOptions)) *Fetcher {
	o := FetchOptions{Transport: x.Client().Transport, PyPI: x.URL, Rate: 1e6, Burst: 1000}
	if change != nil {
		change(&o)
	}
	return NewFetcher(o)
}

func corpus(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("../../../shared/corpus/bundles", name))
	if os.IsNotExist(err) {
		t.Skip("no corpus of bundles here")
	}
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func trusting(t testing.TB, trustedRoot []byte) *Verifier {
	t.Helper()
	tr, err := attest.ParseTrustRoot(trustedRoot)
	if err != nil {
		t.Fatal(err)
	}
	v, err := NewVerifier(tr)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
