package attest

import (
	"cmp"
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
	"maps"
	"math/big"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"
	ct "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	rekortiles "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	rekornote "github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"github.com/sigstore/sigstore/pkg/signature"
	formats "github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
	"google.golang.org/protobuf/encoding/protojson"
)

// forge is a Sigstore in memory: real keys, certificates, timestamps and log entries, made by whatever fault a test asks
// for. Timestamps and Rekor v1 entries are sigstore-go's own; certificates (with timestamps of a CT log) and Rekor v2
// entries are made here.
type forge struct {
	virtual           *ca.VirtualSigstore
	rootCert, issuer  *x509.Certificate
	issuerKey, ctKey  *ecdsa.PrivateKey
	rekor2Key         *ecdsa.PrivateKey
	rekor2ID, ctLogID []byte
}

const (
	rekor2Host   = "rekor2.localhost"
	testIdentity = "https://github.com/acme/feedstock/.github/workflows/publish.yml@refs/heads/main"
	testIssuer   = "https://issuer.localhost"
	testFile     = "foo-1.0-h0_0.conda"
	testChannel  = "https://conda.localhost/acme"
)

var testSHA256 = hexSHA256([]byte("foo"))

var theForge = sync.OnceValues(newForge)

func forgeOf(t testing.TB) *forge {
	t.Helper()
	f, err := theForge()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func newForge() (f *forge, err error) {
	f = new(forge)
	if f.virtual, err = ca.NewVirtualSigstore(); err != nil {
		return nil, err
	}
	var rootKey *ecdsa.PrivateKey
	if f.rootCert, rootKey, err = ca.GenerateRootCa(); err != nil {
		return nil, err
	}
	if f.issuer, f.issuerKey, err = ca.GenerateFulcioIntermediate(f.rootCert, rootKey); err != nil {
		return nil, err
	}
	for _, k := range []**ecdsa.PrivateKey{&f.ctKey, &f.rekor2Key} {
		if *k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return nil, err
		}
	}
	spki, err := x509.MarshalPKIXPublicKey(f.ctKey.Public())
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256(spki)
	f.ctLogID = id[:]
	_, hash, err := rekornote.KeyHash(rekor2Host, f.rekor2Key.Public())
	f.rekor2ID = hash
	return f, err
}

// material is the forge's trust root.
type material struct {
	root.BaseTrustedMaterial
	cas          []root.CertificateAuthority
	tsas         []root.TimestampingAuthority
	logs, ctlogs map[string]*root.TransparencyLog
}

func (m *material) FulcioCertificateAuthorities() []root.CertificateAuthority { return m.cas }
func (m *material) TimestampingAuthorities() []root.TimestampingAuthority     { return m.tsas }
func (m *material) RekorLogs() map[string]*root.TransparencyLog               { return m.logs }
func (m *material) CTLogs() map[string]*root.TransparencyLog                  { return m.ctlogs }

func (f *forge) material() *material {
	start := time.Now().Add(-24 * time.Hour)
	m := &material{
		cas: []root.CertificateAuthority{&root.FulcioCertificateAuthority{
			Root: f.rootCert, Intermediates: []*x509.Certificate{f.issuer}, ValidityPeriodStart: start,
		}},
		tsas: f.virtual.TimestampingAuthorities(),
		logs: f.virtual.RekorLogs(),
		ctlogs: map[string]*root.TransparencyLog{hex.EncodeToString(f.ctLogID): {
			ID: f.ctLogID, PublicKey: f.ctKey.Public(), HashFunc: crypto.SHA256, SignatureHashFunc: crypto.SHA256,
		}},
	}
	m.logs[hex.EncodeToString(f.rekor2ID)] = &root.TransparencyLog{
		BaseURL: "https://" + rekor2Host, ID: f.rekor2ID, ValidityPeriodStart: start,
		PublicKey: f.rekor2Key.Public(), HashFunc: crypto.SHA256, SignatureHashFunc: crypto.SHA256,
	}
	return m
}

func (f *forge) verifier(t testing.TB, change func(*material)) *Verifier {
	t.Helper()
	m := f.material()
	if change != nil {
		change(m)
	}
	v, err := NewVerifier(&TrustRoot{Material: m, SHA256: "forged"})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// order is what a test wants signed. The zero value is a faultless bundle in Rekor v2.
type order struct {
	statement   []byte // nil: a right one
	payloadType string // "": the right one
	identities  []string
	issuer      string         // "": the test's
	extensions  map[int]string // of the certificate, .9 to .22; nil: a repository and a trigger
	noIssuer    bool
	rekor1      bool
	noSCT       bool
	badSCT      bool
	noTimestamp bool
	noLog       bool
	expired     bool // the certificate, an hour before it is used
	selfSigned  bool // the certificate
	otherKey    bool // the signature is by a key that is not the certificate's
}

// sign fills an order. The result is a protobuf, so that tests can break it further.
func (f *forge) sign(t testing.TB, o order) *protobundle.Bundle {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	if o.statement == nil {
		var err error
		o.statement, err = Statement(testFile, testSHA256, testChannel)
		must(err)
	}
	if o.payloadType == "" {
		o.payloadType = PayloadType
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	cert, err := f.certify(key, o)
	must(err)
	if o.otherKey {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(err)
	}
	pae := sha256.Sum256(dsse.PAE(o.payloadType, o.statement))
	sig, err := ecdsa.SignASN1(rand.Reader, key, pae[:])
	must(err)

	vm := &protobundle.VerificationMaterial{
		Content: &protobundle.VerificationMaterial_Certificate{Certificate: &protocommon.X509Certificate{RawBytes: cert.Raw}},
	}
	if !o.noTimestamp {
		tsr, err := f.virtual.TimestampResponse(sig)
		must(err)
		vm.TimestampVerificationData = &protobundle.TimestampVerificationData{
			Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: tsr}},
		}
	}
	if !o.noLog {
		var entry *protorekor.TransparencyLogEntry
		if o.rekor1 {
			entry, err = f.logV1(cert, o, sig)
		} else {
			entry, err = f.logV2(cert, pae[:], sig)
		}
		must(err)
		vm.TlogEntries = []*protorekor.TransparencyLogEntry{entry}
	}
	return &protobundle.Bundle{
		MediaType:            BundleMediaType,
		VerificationMaterial: vm,
		Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
			PayloadType: o.payloadType, Payload: o.statement, Signatures: []*protodsse.Signature{{Sig: sig}},
		}},
	}
}

func (f *forge) certify(key *ecdsa.PrivateKey, o order) (*x509.Certificate, error) {
	extension := func(n int, value string) pkix.Extension {
		der, _ := asn1.MarshalWithParams(value, "utf8") // cannot fail for these
		return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, n}, Value: der}
	}
	begin := time.Now().Add(-time.Minute)
	if o.expired {
		begin = begin.Add(-time.Hour)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: begin, NotAfter: begin.Add(10 * time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	if o.extensions == nil {
		o.extensions = map[int]string{12: "https://github.com/acme/feedstock", 20: "push"}
	}
	for _, n := range slices.Sorted(maps.Keys(o.extensions)) {
		template.ExtraExtensions = append(template.ExtraExtensions, extension(n, o.extensions[n]))
	}
	if !o.noIssuer {
		issuer := cmp.Or(o.issuer, testIssuer)
		//lint:ignore SA1019 certificates carry the old extension beside the new one, and verifiers read both
		template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: certificate.OIDIssuer, Value: []byte(issuer)}, extension(8, issuer))
	}
	if o.identities == nil {
		o.identities = []string{testIdentity}
	}
	for _, id := range o.identities {
		u, err := url.Parse(id)
		if err != nil {
			return nil, err
		}
		template.URIs = append(template.URIs, u)
	}
	parent, parentKey := f.issuer, f.issuerKey
	if o.selfSigned {
		parent, parentKey = template, key
	}
	create := func() (*x509.Certificate, error) {
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
		if err != nil {
			return nil, err
		}
		return x509.ParseCertificate(der)
	}
	cert, err := create()
	if err != nil || o.noSCT {
		return cert, err
	}
	sct, err := f.sct(cert.RawTBSCertificate, o.badSCT)
	if err != nil {
		return nil, err
	}
	template.ExtraExtensions = append(template.ExtraExtensions, sct)
	return create()
}

// sct is the extension with the CT log's word on a certificate (RFC 6962, section 3.3).
func (f *forge) sct(tbs []byte, bad bool) (ext pkix.Extension, err error) {
	sct := ct.SignedCertificateTimestamp{LogID: ct.LogID{KeyID: [32]byte(f.ctLogID)}, Timestamp: uint64(time.Now().UnixMilli())}
	input, err := ct.SerializeSCTSignatureInput(sct, ct.LogEntry{Leaf: ct.MerkleTreeLeaf{TimestampedEntry: &ct.TimestampedEntry{
		Timestamp: sct.Timestamp, EntryType: ct.PrecertLogEntryType,
		PrecertEntry: &ct.PreCert{IssuerKeyHash: sha256.Sum256(f.issuer.RawSubjectPublicKeyInfo), TBSCertificate: tbs},
	}}})
	if err != nil {
		return ext, err
	}
	if bad {
		input = append(input, 0)
	}
	digest := sha256.Sum256(input)
	sig, err := ecdsa.SignASN1(rand.Reader, f.ctKey, digest[:])
	if err != nil {
		return ext, err
	}
	sct.Signature = ct.DigitallySigned{Algorithm: cttls.SignatureAndHashAlgorithm{Hash: cttls.SHA256, Signature: cttls.ECDSA}, Signature: sig}
	one, err := cttls.Marshal(sct)
	if err != nil {
		return ext, err
	}
	list, err := cttls.Marshal(ctx509.SignedCertificateTimestampList{SCTList: []ctx509.SerializedSCT{{Val: one}}})
	if err != nil {
		return ext, err
	}
	ext.Id = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}
	ext.Value, err = asn1.Marshal(list)
	return ext, err
}

func (f *forge) logV1(cert *x509.Certificate, o order, sig []byte) (*protorekor.TransparencyLogEntry, error) {
	now := time.Now().Unix()
	entry, err := f.virtual.GenerateTlogEntry(cert, &dsse.Envelope{
		PayloadType: o.payloadType, Payload: base64.StdEncoding.EncodeToString(o.statement),
		Signatures: []dsse.Signature{{Sig: base64.StdEncoding.EncodeToString(sig)}},
	}, sig, now, true)
	if err != nil {
		return nil, err
	}
	pb := entry.TransparencyLogEntry()
	set, err := f.virtual.RekorSignPayload(tlog.RekorPayload{
		Body: entry.Body(), IntegratedTime: now, LogIndex: entry.LogIndex(), LogID: hex.EncodeToString(pb.LogId.KeyId),
	})
	pb.KindVersion = &protorekor.KindVersion{Kind: "dsse", Version: "0.0.1"}
	pb.InclusionPromise = &protorekor.InclusionPromise{SignedEntryTimestamp: set}
	return pb, err
}

func (f *forge) logV2(cert *x509.Certificate, digest, sig []byte) (*protorekor.TransparencyLogEntry, error) {
	body, err := protojson.Marshal(&rekortiles.Entry{ApiVersion: "0.0.2", Kind: "hashedrekord", Spec: &rekortiles.Spec{
		Spec: &rekortiles.Spec_HashedRekordV002{HashedRekordV002: &rekortiles.HashedRekordLogEntryV002{
			Data: &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: digest},
			Signature: &rekortiles.Signature{Content: sig, Verifier: &rekortiles.Verifier{
				KeyDetails: protocommon.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256,
				Verifier:   &rekortiles.Verifier_X509Certificate{X509Certificate: &protocommon.X509Certificate{RawBytes: cert.Raw}},
			}},
		}},
	}})
	if err != nil {
		return nil, err
	}
	if body, err = jsoncanonicalizer.Transform(body); err != nil {
		return nil, err
	}
	leaf := rfc6962.DefaultHasher.HashLeaf(body)
	sv, err := signature.LoadECDSASignerVerifier(f.rekor2Key, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	signer, err := rekornote.NewNoteSigner(context.Background(), rekor2Host, sv)
	if err != nil {
		return nil, err
	}
	checkpoint, err := note.Sign(&note.Note{Text: string(formats.Checkpoint{Origin: rekor2Host, Size: 1, Hash: leaf}.Marshal())}, signer)
	return &protorekor.TransparencyLogEntry{
		LogId:       &protocommon.LogId{KeyId: f.rekor2ID},
		KindVersion: &protorekor.KindVersion{Kind: "hashedrekord", Version: "0.0.2"},
		InclusionProof: &protorekor.InclusionProof{
			TreeSize: 1, RootHash: leaf, Checkpoint: &protorekor.Checkpoint{Envelope: string(checkpoint)},
		},
		CanonicalizedBody: body,
	}, err
}

func encode(t testing.TB, b *protobundle.Bundle) []byte {
	t.Helper()
	data, err := protojson.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
