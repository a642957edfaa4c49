package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore-go/pkg/verify"
)

// asProgram makes the test binary behave as the program: Rekor is this binary again, and a test of kill -9 needs a process to kill.
const asProgram = "SIGSTORE_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// self is the program with arguments; its children inherit that they are it.
func self(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	return cmd
}

// program is a running `sigstore up --json`.
type program struct {
	summary
	cmd *exec.Cmd
	out *bufio.Reader
	err *bytes.Buffer
}

// startUp starts the program and returns when it says that it is ready. It is killed at the end of the test if it still runs.
func startUp(t testing.TB, dir string, flags ...string) *program {
	t.Helper()
	p := &program{cmd: self(append([]string{"up", "--json", dir}, flags...)...), err: new(bytes.Buffer)}
	p.cmd.Stderr = p.err
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			p.cmd.Process.Kill()
			p.cmd.Wait()
		}
	})
	p.out = bufio.NewReader(out)
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		t.Fatalf("not ready: %v; %s", p.cmd.Wait(), p.err)
	}
	if err := json.Unmarshal(line, &p.summary); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	return p
}

// stop sends the signal and returns how the program ended.
func (p *program) stop(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(p.out); len(rest) > 0 {
		t.Errorf("more on stdout: %q", rest)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("after %v: %v; %s", sig, err, p.err)
	}
	if p.err.Len() > 0 {
		t.Errorf("on stderr: %s", p.err)
	}
}

func (p *program) token(t testing.TB, params ...string) string {
	t.Helper()
	var out bytes.Buffer
	if err := token(t.Context(), append(params, p.Dir), &out); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out.String())
}

const predicateType = "https://schemas.conda.org/attestations-publish-1.schema.json"

var artifact = []byte("the bytes of a package")

// signBundle signs as a product does: everything that it knows comes from the two files.
func (p *program) signBundle(t testing.TB, idToken string) (*bundle.Bundle, error) {
	t.Helper()
	sc, err := root.NewSigningConfigFromPath(p.SigningConfig)
	if err != nil {
		t.Fatal(err)
	}
	pick := func(all []root.Service, versions []uint32) string {
		s, err := root.SelectService(all, versions, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return s.URL
	}
	rekor, err := root.SelectService(sc.RekorLogURLs(), sign.RekorAPIVersions, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	key, err := sign.NewEphemeralKeypair(nil)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(artifact)
	statement := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"foo-1.0-h0.conda","digest":{"sha256":%q}}],"predicateType":%q,"predicate":{"targetChannel":"https://prefix.dev/acme"}}`,
		hex.EncodeToString(digest[:]), predicateType)
	pb, err := sign.Bundle(&sign.DSSEData{Data: []byte(statement), PayloadType: "application/vnd.in-toto+json"}, key, sign.BundleOptions{
		CertificateProvider:        sign.NewFulcio(&sign.FulcioOptions{BaseURL: pick(sc.FulcioCertificateAuthorityURLs(), sign.FulcioAPIVersions)}),
		CertificateProviderOptions: &sign.CertificateProviderOptions{IDToken: idToken},
		TimestampAuthorities:       []*sign.TimestampAuthority{sign.NewTimestampAuthority(&sign.TimestampAuthorityOptions{URL: pick(sc.TimestampAuthorityURLs(), sign.TimestampAuthorityAPIVersions)})},
		TransparencyLogs:           []sign.Transparency{sign.NewRekor(&sign.RekorOptions{BaseURL: rekor.URL, Version: rekor.MajorAPIVersion})},
		Context:                    t.Context(),
	})
	if err != nil {
		return nil, err
	}
	return bundle.NewBundle(pb)
}

// verifyBundle demands everything that a bundle can have: log entry, timestamp, SCT, identity and issuer.
func verifyBundle(t testing.TB, trustedRoot string, b *bundle.Bundle, identity, issuer string) error {
	t.Helper()
	tr, err := root.NewTrustedRootFromPath(trustedRoot)
	if err != nil {
		t.Fatal(err)
	}
	v, err := verify.NewVerifier(tr, verify.WithTransparencyLog(1), verify.WithSignedTimestamps(1), verify.WithSignedCertificateTimestamps(1))
	if err != nil {
		t.Fatal(err)
	}
	id, err := verify.NewShortCertificateIdentity(issuer, "", identity, "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = v.Verify(b, verify.NewPolicy(verify.WithArtifact(bytes.NewReader(artifact)), verify.WithCertificateIdentity(id)))
	return err
}

func (p *program) signAndVerify(t testing.TB) *bundle.Bundle {
	t.Helper()
	b, err := p.signBundle(t, p.token(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := verifyBundle(t, p.TrustedRoot, b, p.Identity, p.Issuer); err != nil {
		t.Fatal(err)
	}
	return b
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func buildRekor1(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds another program")
	}
	exe := filepath.Join(t.TempDir(), "rekor1")
	if out, err := exec.Command("go", "-C", "rekor1", "build", "-o", exe, ".").CombinedOutput(); err != nil {
		t.Fatalf("building rekor1: %v\n%s", err, out)
	}
	return exe
}
