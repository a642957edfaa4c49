package attest

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

const (
	emptyRoot    = `{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`
	signingRekor = `{"mediaType":"application/vnd.dev.sigstore.signingconfig.v0.2+json","rekorTlogUrls":[{"url":"https://rekor.localhost","majorApiVersion":2,"validFor":{"start":"2026-01-01T00:00:00Z"},"operator":"x"}],"rekorTlogConfig":{"selector":"ANY"}}`
)

func TestParseTrustFiles(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		data           string
		trust, signing Code
	}{
		{emptyRoot, "", CodeTrustMediaType},
		{signingRekor, CodeTrustMediaType, ""},
		{"", CodeTrustMalformed, CodeTrustMalformed},
		{"[]", CodeTrustMalformed, CodeTrustMalformed},
		{"-----BEGIN CERTIFICATE-----", CodeTrustMalformed, CodeTrustMalformed},
		{emptyRoot + emptyRoot, CodeTrustMalformed, CodeTrustMalformed},
		{`{"a":1,"a":2}`, CodeTrustMalformed, CodeTrustMalformed},
		{"{}", CodeTrustMediaType, CodeTrustMediaType},
		{`{"mediaType":1}`, CodeTrustMediaType, CodeTrustMediaType},
		{strings.Replace(emptyRoot, "0.1", "0.2", 1), CodeTrustMediaType, CodeTrustMediaType},
		{strings.Replace(emptyRoot, "{", `{"tlogs":[{}],`, 1), CodeTrustMalformed, CodeTrustMediaType},
		{strings.Replace(emptyRoot, "{", `{"x":1,`, 1), CodeTrustMalformed, CodeTrustMediaType},
		{strings.Replace(signingRekor, "{", `{"x":1,`, 1), CodeTrustMediaType, CodeTrustMalformed},
		{emptyRoot + strings.Repeat(" ", MaxTrustFile), CodeTrustTooLarge, CodeTrustTooLarge},
	} {
		path := filepath.Join(t.TempDir(), "file.json")
		if err := os.WriteFile(path, []byte(tt.data), 0o600); err != nil {
			t.Fatal(err)
		}
		tr, err := LoadTrustRoot(path)
		wantCode(t, err, tt.trust)
		if err == nil && tr.SHA256 != hexSHA256([]byte(tt.data)) {
			t.Errorf("SHA256 %s", tr.SHA256)
		}
		_, err = LoadSigningConfig(path)
		wantCode(t, err, tt.signing)
	}
	if _, err := LoadTrustRoot(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := LoadSigningConfig(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// tufRepository serves a TUF repository with the targets, and gives its URL and first root.
func tufRepository(t *testing.T, targets map[string]string, expires time.Time, requests *atomic.Int64) (string, []byte) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	public, private, err := ed25519.GenerateKey(nil)
	must(err)
	signer, err := signature.LoadED25519Signer(private)
	must(err)
	key, err := metadata.KeyFromPublicKey(public)
	must(err)

	files := map[string][]byte{}
	rootMeta := metadata.Root(expires)
	for _, role := range []string{metadata.ROOT, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP} {
		must(rootMeta.Signed.AddKey(key, role))
	}
	_, err = rootMeta.Sign(signer)
	must(err)
	first, err := rootMeta.ToBytes(false)
	must(err)
	files["/1.root.json"] = first

	targetsMeta := metadata.Targets(expires)
	for name, content := range targets {
		info, err := metadata.TargetFile().FromBytes(name, []byte(content), "sha256")
		must(err)
		targetsMeta.Signed.Targets[name] = info
		sum := sha256.Sum256([]byte(content))
		files["/targets/"+hex.EncodeToString(sum[:])+"."+name] = []byte(content)
	}
	_, err = targetsMeta.Sign(signer)
	must(err)
	files["/1.targets.json"], err = targetsMeta.ToBytes(false)
	must(err)
	snapshot := metadata.Snapshot(expires)
	_, err = snapshot.Sign(signer)
	must(err)
	files["/1.snapshot.json"], err = snapshot.ToBytes(false)
	must(err)
	timestamp := metadata.Timestamp(expires)
	_, err = timestamp.Sign(signer)
	must(err)
	files["/timestamp.json"], err = timestamp.ToBytes(false)
	must(err)

	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		data, ok := files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(data)
	}))
	t.Cleanup(server.Close)
	return server.URL, first
}

func TestPublicGood(t *testing.T) {
	t.Parallel()
	var requests atomic.Int64
	targets := map[string]string{
		TargetTrustedRoot:          emptyRoot,
		TargetSigningConfig:        strings.Replace(signingRekor, `"majorApiVersion":2`, `"majorApiVersion":1`, 1),
		TargetSigningConfigRekorV2: signingRekor,
	}
	url, first := tufRepository(t, targets, time.Now().Add(time.Hour), &requests)
	for target, version := range map[string]uint32{"": 1, TargetSigningConfigRekorV2: 2} {
		tr, sc, err := PublicGood(t.Context(), TUFOptions{RepositoryURL: url, Root: first, SigningConfig: target})
		if err != nil {
			t.Fatal(err)
		}
		if tr.SHA256 != hexSHA256([]byte(emptyRoot)) || sc.RekorLogURLs()[0].MajorAPIVersion != version {
			t.Errorf("target %q: root %s, signing config %v", target, tr.SHA256, sc)
		}
		left, err := os.ReadDir(".")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range left {
			if strings.Contains(e.Name(), "127.0.0.1") {
				t.Errorf("a cache that nobody asked for: %s", e.Name())
			}
		}
	}
	_, _, err := PublicGood(t.Context(), TUFOptions{RepositoryURL: url, Root: first, SigningConfig: "none.json"})
	if err == nil || !strings.Contains(err.Error(), "none.json") {
		t.Errorf("no such target: %v", err)
	}
}

func TestPublicGoodRefuses(t *testing.T) {
	t.Parallel()
	var requests atomic.Int64
	targets := map[string]string{TargetTrustedRoot: signingRekor, TargetSigningConfig: signingRekor}
	url, first := tufRepository(t, targets, time.Now().Add(time.Hour), &requests)
	_, _, err := PublicGood(t.Context(), TUFOptions{RepositoryURL: url, Root: first})
	wantCode(t, err, CodeTrustMediaType)

	_, other := tufRepository(t, targets, time.Now().Add(time.Hour), &requests)
	if _, _, err := PublicGood(t.Context(), TUFOptions{RepositoryURL: url, Root: other}); err == nil {
		t.Error("metadata by other keys than the root's was accepted")
	}
	url, first = tufRepository(t, targets, time.Now().Add(-time.Hour), &requests)
	if _, _, err := PublicGood(t.Context(), TUFOptions{RepositoryURL: url, Root: first}); err == nil {
		t.Error("expired metadata was accepted")
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	was := requests.Load()
	if _, _, err := PublicGood(ctx, TUFOptions{RepositoryURL: url, Root: first}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if requests.Load() != was {
		t.Error("a request after the context's end")
	}
}

func TestTUFFetcherBounds(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/none" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte("12345"))
	}))
	defer server.Close()
	f := &tufFetcher{ctx: t.Context(), client: server.Client()}
	if data, err := f.DownloadFile(server.URL+"/a", 5, 0); err != nil || string(data) != "12345" {
		t.Errorf("%s, %v", data, err)
	}
	_, err := f.DownloadFile(server.URL+"/a", 4, 0)
	if _, ok := errors.AsType[*metadata.ErrDownloadLengthMismatch](err); !ok {
		t.Errorf("too long: %v", err)
	}
	_, err = f.DownloadFile(server.URL+"/none", 4, 0)
	if e, ok := errors.AsType[*metadata.ErrDownloadHTTP](err); !ok || e.StatusCode != http.StatusNotFound {
		t.Errorf("not there: %v", err)
	}
}
