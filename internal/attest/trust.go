package attest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/hallmark-attest/hallmark/internal/strictjson"
)

// TrustRoot is what verification starts from: the certificate authorities, logs and timestamp authorities of a Sigstore.
// It is read-only and safe for concurrent use.
type TrustRoot struct {
	// Material is sigstore-go's form of it.
	Material root.TrustedMaterial
	// SHA256 is the digest of the trusted root's bytes, lower-case hex; "" if it came from elsewhere than a file.
	SHA256 string
}

// LoadTrustRoot reads a trusted root (media type application/vnd.dev.sigstore.trustedroot+json;version=0.1) from a file.
func LoadTrustRoot(path string) (*TrustRoot, error) {
	data, err := readTrustFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the trusted root: %w", err)
	}
	tr, err := ParseTrustRoot(data)
	if err != nil {
		return nil, fmt.Errorf("trusted root %s: %w", path, err)
	}
	return tr, nil
}

// ParseTrustRoot is LoadTrustRoot for bytes. Errors are *Error.
func ParseTrustRoot(data []byte) (*TrustRoot, error) {
	if err := checkTrustFile(data, root.TrustedRootMediaType01, "a trusted root"); err != nil {
		return nil, err
	}
	material, err := root.NewTrustedRootFromJSON(data)
	if err != nil {
		return nil, refuse(CodeTrustMalformed, err, "")
	}
	sum := sha256.Sum256(data)
	return &TrustRoot{Material: material, SHA256: hex.EncodeToString(sum[:])}, nil
}

// LoadSigningConfig reads a signing config (media type application/vnd.dev.sigstore.signingconfig.v0.2+json) from a file.
func LoadSigningConfig(path string) (*root.SigningConfig, error) {
	data, err := readTrustFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the signing config: %w", err)
	}
	sc, err := ParseSigningConfig(data)
	if err != nil {
		return nil, fmt.Errorf("signing config %s: %w", path, err)
	}
	return sc, nil
}

// ParseSigningConfig is LoadSigningConfig for bytes. Errors are *Error.
func ParseSigningConfig(data []byte) (*root.SigningConfig, error) {
	if err := checkTrustFile(data, root.SigningConfigMediaType02, "a signing config"); err != nil {
		return nil, err
	}
	sc, err := root.NewSigningConfigFromJSON(data)
	if err != nil {
		return nil, refuse(CodeTrustMalformed, err, "")
	}
	return sc, nil
}

// readTrustFile reads one byte more than is allowed, so that checkTrustFile can see it.
func readTrustFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, MaxTrustFile+1))
}

// checkTrustFile tells the usual mix-ups apart, which sigstore-go would all call a syntax error.
func checkTrustFile(data []byte, mediaType, what string) error {
	if len(data) > MaxTrustFile {
		return refuse(CodeTrustTooLarge, fmt.Errorf("larger than %d bytes", MaxTrustFile), "is it "+what+"?")
	}
	o, err := strictjson.DecodeObject(data)
	if err != nil {
		return refuse(CodeTrustMalformed, err, "is it "+what+"?")
	}
	got, ok := o["mediaType"].(string)
	if !ok {
		return refuse(CodeTrustMediaType, errors.New("it has no mediaType"), "is it "+what+"?")
	}
	if got != mediaType {
		return refuse(CodeTrustMediaType, fmt.Errorf("its mediaType is %.200q, not %q", got, mediaType), what+" is needed")
	}
	return nil
}

// SigningConfig names the services to sign with; sigstore-go's form of it.
type SigningConfig = root.SigningConfig
