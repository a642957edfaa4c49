package e2e

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/hallmark-attest/hallmark/internal/store"
	"github.com/hallmark-attest/hallmark/internal/store/storetest"
)

// TestS3: the same to a real S3 server; what lies in the bucket is the same kind of channel.
func TestS3(t *testing.T) {
	t.Parallel()
	const n = 16
	srv := storetest.StartS3(t)
	packages := samples(t, n, 41)
	env := append(append([]string{}, stack.env...), srv.Env()...)
	p := newPlace(t)
	p.channel = "s3://" + srv.Bucket + "/forge"
	s := decode[campaign](t, runEnv(t, env, programs.producer, p.publish(packages...)...).want(t, 0))
	if s.Published != n {
		t.Fatalf("%+v", s)
	}
	if s := decode[campaign](t, runEnv(t, env, programs.producer, p.publish(packages...)...).want(t, 0)); s.Skipped != n {
		t.Errorf("again: %+v", s)
	}

	st, err := srv.Open(t.Context(), "forge")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	copyStore(t, st, dir)
	check(t, dir, n, subdirs(t, dir)...)

	// Wrong credentials are told before anything is enqueued.
	bad := newPlace(t)
	bad.channel = p.channel
	runEnv(t, append(env, "AWS_SECRET_ACCESS_KEY=wrong"), programs.producer, bad.publish(packages[0])...).want(t, 2)
}

func copyStore(t *testing.T, s store.Store, dir string) {
	t.Helper()
	ctx := context.Background()
	for info, err := range s.List(ctx, "") {
		if err != nil {
			t.Fatal(err)
		}
		r, _, err := s.Get(ctx, info.Key)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.FromSlash(info.Key))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRekorV1: the default log of public-good Sigstore is version 1; its bundles are what older verifiers read.
func TestRekorV1(t *testing.T) {
	t.Parallel()
	v1, err := startSigstore(filepath.Join(t.TempDir(), "sigstore"), "v1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v1.stop)
	packages := samples(t, 12, 42)
	p := newPlace(t)
	s := decode[campaign](t, runEnv(t, v1.env, programs.producer, p.publish(packages...)...).want(t, 0))
	if s.Published != len(packages) {
		t.Fatalf("%+v", s)
	}
	check(t, p.channel, len(packages), subdirs(t, p.channel)...)
	dir := t.TempDir()
	for _, path := range packages[:3] {
		found, _ := filepath.Glob(filepath.Join(p.channel, "*", filepath.Base(path)+".sigs"))
		runEnv(t, v1.env, programs.cosign, "verify-blob-attestation", "--bundle", firstBundle(t, dir, found[0]), "--trusted-root", v1.TrustedRoot,
			"--type", predicateType, "--certificate-identity", v1.Identity, "--certificate-oidc-issuer", v1.Issuer, path).want(t, 0)
	}
}

// TestCertificatePerPackage: the stricter choice.
func TestCertificatePerPackage(t *testing.T) {
	t.Parallel()
	packages := samples(t, 4, 43)
	p := newPlace(t)
	run(t, programs.producer, append(p.publish(packages...), "--certificate", "per-package")...).want(t, 0)
	certs := map[string]bool{}
	for _, path := range packages {
		found, _ := filepath.Glob(filepath.Join(p.channel, "*", filepath.Base(path)+".sigs"))
		r := run(t, programs.producer, "inspect", "--json", found[0]).want(t, 0)
		in := decode[struct {
			Files []struct {
				Attestations []struct{ CertificateSHA256 string }
			}
		}](t, r)
		certs[in.Files[0].Attestations[0].CertificateSHA256] = true
	}
	if len(certs) != len(packages) {
		t.Errorf("%d certificates for %d packages", len(certs), len(packages))
	}
	shared := newPlace(t)
	run(t, programs.producer, shared.publish(packages...)...).want(t, 0)
}
