package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
)

// Names below DIR/keys.
const (
	fulcioKey    = "fulcio.key.pem"
	fulcioChain  = "fulcio.chain.pem" // intermediate, root
	tsaKey       = "tsa.key.pem"
	tsaChain     = "tsa.chain.pem" // leaf, root
	ctlogKey     = "ctlog.key.pem"
	rekorKey     = "rekor.key.pem"
	rekor1Key    = "rekor1.key.pem"
	oidcKey      = "oidc.key.pem"
	requestToken = "request-token"
)

// organisation of both certificates of a chain: gh compares it with the issuer's.
const organisation = "Hallmark development Sigstore"

const lifetime = 10 * 365 * 24 * time.Hour

func createKeys(h home, created time.Time) error {
	p256 := func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }
	signers := map[string]crypto.Signer{}
	for name, generate := range map[string]func() (crypto.Signer, error){
		fulcioKey: p256,
		tsaKey:    p256,
		ctlogKey:  p256,
		rekor1Key: p256,
		// Like the public-good instance: its log ID then depends on the origin, which is where clients go wrong.
		rekorKey: func() (crypto.Signer, error) { _, k, err := ed25519.GenerateKey(rand.Reader); return k, err },
		// RS256, because cosign takes a token of any other algorithm for a file name.
		oidcKey: func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) },
	} {
		k, err := generate()
		if err != nil {
			return err
		}
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			return err
		}
		if err := writeFile(h.key(name), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
			return err
		}
		signers[name] = k
	}

	err := createChain(h.key(fulcioChain), "Fulcio", created, signers[fulcioKey], &x509.Certificate{
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage:    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	})
	if err != nil {
		return fmt.Errorf("certificates of Fulcio: %w", err)
	}
	// RFC 3161, 2.3: this extended key usage alone, and critical, which ExtKeyUsage would not make it.
	eku, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}})
	if err != nil {
		return err
	}
	err = createChain(h.key(tsaChain), "timestamp authority", created, signers[tsaKey], &x509.Certificate{
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtraExtensions:       []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: eku}},
	})
	if err != nil {
		return fmt.Errorf("certificates of the timestamp authority: %w", err)
	}
	secret := make([]byte, 24)
	if _, err := rand.Read(secret); err != nil {
		return err
	}
	return writeFile(h.key(requestToken), []byte(base64.RawURLEncoding.EncodeToString(secret)), 0o600)
}

// createChain writes the certificate made from template for key, and the root that signed it. The root's key is
// thrown away: nothing is ever signed with it again.
func createChain(path, name string, created time.Time, key crypto.Signer, template *x509.Certificate) error {
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	root := &x509.Certificate{
		Subject: pkix.Name{Organization: []string{organisation}, CommonName: name + " root"},
		IsCA:    true, BasicConstraintsValid: true, MaxPathLen: 1,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	template.Subject = pkix.Name{Organization: []string{organisation}, CommonName: name}
	var chain bytes.Buffer
	for _, c := range []struct {
		cert *x509.Certificate
		pub  crypto.PublicKey
	}{{template, key.Public()}, {root, rootKey.Public()}} {
		if c.cert.SerialNumber, err = cryptoutils.GenerateSerialNumber(); err != nil {
			return err
		}
		if c.cert.SubjectKeyId, err = cryptoutils.SKID(c.pub); err != nil {
			return err
		}
		c.cert.NotBefore, c.cert.NotAfter = created, created.Add(lifetime)
	}
	for _, c := range []struct {
		cert *x509.Certificate
		pub  crypto.PublicKey
	}{{template, key.Public()}, {root, rootKey.Public()}} {
		der, err := x509.CreateCertificate(rand.Reader, c.cert, root, c.pub, rootKey)
		if err != nil {
			return err
		}
		if err := pem.Encode(&chain, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
			return err
		}
	}
	return writeFile(path, chain.Bytes(), 0o644)
}

func (h home) signer(name string) (crypto.Signer, error) {
	b, err := os.ReadFile(h.key(name))
	if err != nil {
		return nil, fmt.Errorf("reading a key: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM", h.key(name))
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.key(name), err)
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: a %T does not sign", h.key(name), k)
	}
	return s, nil
}

func (h home) chain(name string) ([]*x509.Certificate, error) {
	b, err := os.ReadFile(h.key(name))
	if err != nil {
		return nil, fmt.Errorf("reading certificates: %w", err)
	}
	certs, err := cryptoutils.UnmarshalCertificatesFromPEM(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.key(name), err)
	}
	if len(certs) != 2 {
		return nil, fmt.Errorf("%s: %d certificates instead of 2", h.key(name), len(certs))
	}
	return certs, nil
}
