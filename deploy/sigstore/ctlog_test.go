package main

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"
	"github.com/google/go-cmp/cmp"
	"github.com/sigstore/fulcio/pkg/ca/baseca"
	"github.com/transparency-dev/merkle/rfc6962"
)

// precertificate is one that Fulcio could have sent to the log, with its chain.
func precertificate(t testing.TB, h home) [][]byte {
	t.Helper()
	chain, err := h.chain(fulcioChain)
	if err != nil {
		t.Fatal(err)
	}
	key, err := h.signer(fulcioKey)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Minute), EmailAddresses: []string{"a@b.c"},
		ExtraExtensions: []pkix.Extension{{Id: baseca.OIDExtensionCTPoison, Critical: true, Value: asn1.NullBytes}},
	}, chain[0], key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return [][]byte{der, chain[0].Raw, chain[1].Raw}
}

func newHome(t testing.TB) home {
	t.Helper()
	h := home(t.TempDir())
	if _, err := h.create(0); err != nil {
		t.Fatal(err)
	}
	return h
}

// TestSCTAgreesWithTree: an auditor who builds the leaf from certificate and SCT finds it in the tree, at the index that the SCT names.
func TestSCTAgreesWithTree(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	l, err := newCTLog(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(l.handler())
	defer srv.Close()
	chain := precertificate(t, h)
	for index, c := range []struct {
		path string
		kind ct.LogEntryType
	}{{"add-pre-chain", ct.PrecertLogEntryType}, {"add-chain", ct.X509LogEntryType}} {
		body, err := json.Marshal(ct.AddChainRequest{Chain: chain})
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.Post(srv.URL+ctlogPath+"/ct/v1/"+c.path, "application/json", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		var sct ct.AddChainResponse
		err = json.NewDecoder(res.Body).Decode(&sct)
		res.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		leaf, _, err := ctEntry(chain, c.kind, sct.Timestamp)
		if err != nil {
			t.Fatal(err)
		}
		leaf.TimestampedEntry.Extensions, err = base64.StdEncoding.DecodeString(sct.Extensions)
		if err != nil {
			t.Fatal(err)
		}
		encoded, err := cttls.Marshal(*leaf)
		if err != nil {
			t.Fatal(err)
		}
		want := rfc6962.DefaultHasher.HashLeaf(encoded)
		tile := read(t, h.path("ctlog", "tile", "0", []string{"000.p/1", "000.p/2"}[index]))
		if diff := cmp.Diff(want, tile[32*index:32*index+32]); diff != "" {
			t.Errorf("%s: the SCT's leaf is not the tree's: %s", c.path, diff)
		}
	}
	if err := l.shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestCTLogRefuses(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	good := precertificate(t, h)
	for name, chain := range map[string][][]byte{
		"no chain": nil, "no issuer": good[:1], "not a certificate": {[]byte("x"), good[1]},
		"no issuer's certificate": {good[0], []byte("x")}, "no poison": {good[1], good[2]},
		"too long": {good[0], good[1], good[1], good[1], good[1], good[1], good[1], good[1], good[1], good[1], good[1]},
	} {
		if _, _, err := ctEntry(chain, ct.PrecertLogEntryType, 1); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzCTEntry(f *testing.F) {
	good := precertificate(f, newHome(f))
	f.Add(good[0], good[1])
	f.Add(good[1], good[2])
	f.Fuzz(func(t *testing.T, leaf, issuer []byte) {
		for _, kind := range []ct.LogEntryType{ct.X509LogEntryType, ct.PrecertLogEntryType} {
			_, entry, err := ctEntry([][]byte{leaf, issuer}, kind, 1)
			if err == nil && len(entry.LeafData(0)) == 0 {
				t.Error("an entry without data")
			}
		}
	})
}
