package sign

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/identity"
	"github.com/hallmark-attest/hallmark/pipeline"
)

// privateSigstore gives the trust root and a config for the private Sigstore that the environment names (deploy/sigstore
// sets it: "sigstore up DIR -- go test ./stages/sign"). Without one the test is skipped.
func privateSigstore(t *testing.T) (*attest.Verifier, Config) {
	t.Helper()
	rootPath, configPath := os.Getenv("HALLMARK_TRUSTED_ROOT"), os.Getenv("HALLMARK_SIGNING_CONFIG")
	if rootPath == "" || configPath == "" {
		t.Skip("no private Sigstore: HALLMARK_TRUSTED_ROOT and HALLMARK_SIGNING_CONFIG are not set")
	}
	trust, err := attest.LoadTrustRoot(rootPath)
	if err != nil {
		t.Fatal(err)
	}
	config, err := attest.LoadSigningConfig(configPath)
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := identity.Detect(identity.Options{})
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := attest.NewVerifier(trust)
	if err != nil {
		t.Fatal(err)
	}
	return verifier, Config{Trust: must(attest.FixedTrust(trust, config))(t), Tokens: tokens}
}

// TestSigstore signs with real services and verifies with a real verifier: whole items, through the stage.
func TestSigstore(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name       string
		perPackage bool
		items      int
	}{{"one certificate", false, 64}, {"one per package", true, 16}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			verifier, config := privateSigstore(t)
			config.PerPackage = tt.perPackage
			signer, err := NewSigner(config)
			if err != nil {
				t.Fatal(err)
			}
			id, issuer, err := signer.Identity(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			stage := New(signer, verifier, Options{ChannelURL: "https://conda.example.org/acme", Identity: id, Issuer: issuer})

			items := make([]*pipeline.Item, tt.items)
			var wg sync.WaitGroup
			for i := range items {
				sum := sha256.Sum256([]byte{byte(i)})
				it := &pipeline.Item{Filename: fmt.Sprintf("foo-1.%d-h0_0.conda", i), Package: pipeline.Package{SHA256: hex.EncodeToString(sum[:])}}
				items[i] = it
				wg.Go(func() {
					if err := stage.Run(t.Context(), it); err != nil {
						t.Errorf("%s: %v", it.Filename, err)
					}
				})
			}
			wg.Wait()
			if t.Failed() {
				return
			}

			certs, indexes := map[string]bool{}, map[int64]bool{}
			for _, it := range items {
				s := it.Signature
				if s.Identity != id || s.Issuer != issuer || s.SignedAt.IsZero() || s.TrustedRootSHA256 == "" || len(s.Log) != 1 || s.Found {
					t.Errorf("%s: incomplete signature %+v", it.Filename, s)
					continue
				}
				certs[s.CertSHA256] = true
				indexes[s.Log[0].Index] = true
				wantKind, wantTime := "hashedrekord 0.0.2", "rfc3161"
				if signer.RekorVersion() == 1 {
					wantKind = "dsse 0.0.1"
				}
				if s.Log[0].Kind != wantKind || (signer.RekorVersion() == 2 && s.SignedAtBy != wantTime) {
					t.Errorf("%s: log kind %q, time by %q", it.Filename, s.Log[0].Kind, s.SignedAtBy)
				}
			}
			wantCerts := 1
			if tt.perPackage {
				wantCerts = tt.items
			}
			if len(certs) != wantCerts || len(indexes) != tt.items {
				t.Errorf("%d certificates and %d log entries for %d items", len(certs), len(indexes), tt.items)
			}
			if got := signer.Stats(); got.Certificates != int64(wantCerts) || got.LogEntries != int64(tt.items) {
				t.Errorf("stats %+v, want %d certificates and %d log entries", got, wantCerts, tt.items)
			}

			// Across a segment cut, and again: the bundle stays as it is, byte by byte, and nothing more is logged.
			data, err := json.Marshal(items[0])
			if err != nil {
				t.Fatal(err)
			}
			var crossed pipeline.Item
			if err := json.Unmarshal(data, &crossed); err != nil {
				t.Fatal(err)
			}
			if err := stage.Run(t.Context(), &crossed); err != nil {
				t.Fatalf("second run: %v", err)
			}
			if string(crossed.Bundle) != string(items[0].Bundle) || crossed.Signature.Found || signer.Stats().LogEntries != int64(tt.items) {
				t.Errorf("the second run changed something: found %v, stats %+v", crossed.Signature.Found, signer.Stats())
			}
		})
	}
}

// TestSigstoreIsRefused: a token that the authority did not issue is the campaign's end, with a hint, before anything is logged.
func TestSigstoreIsRefused(t *testing.T) {
	t.Parallel()
	verifier, config := privateSigstore(t)
	good, err := config.Tokens.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	forged := good.Raw[:len(good.Raw)-8] + "AAAAAAAA"
	config.Tokens = identity.NewStatic(forged, "a forged token")
	signer, err := NewSigner(config)
	if err != nil {
		t.Fatal(err)
	}
	err = New(signer, verifier, Options{Identity: "x", Issuer: "y"}).Run(t.Context(),
		&pipeline.Item{Filename: "foo-1.0-h0_0.conda", Package: pipeline.Package{SHA256: hex.EncodeToString(make([]byte, 32))}})
	wantError(t, err, pipeline.KindFatal, "identity.refused")
	noSecret(t, err, forged)
}
