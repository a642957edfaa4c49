package e2e

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestInteropGitHub: gh cannot be built here, so this asks of a published sidecar what `gh attestation verify --bundle` asks
// of a bundle besides Sigstore's own checks, as gh's source has it (pkg/cmd/attestation/verify and …/verification): JSON
// lines, the certificate's issuer, its source repository and owner, its name, and the predicate type. The certificate is read
// by the standard library.
func TestInteropGitHub(t *testing.T) {
	t.Parallel()
	pkg := samples(t, 1, 501)[0]
	p := newPlace(t)
	run(t, programs.producer, p.publish(pkg)...).want(t, 0)
	sidecars, _ := filepath.Glob(filepath.Join(p.channel, "*", "*.sigs"))
	if len(sidecars) != 1 {
		t.Fatal(sidecars)
	}

	// What jq -c '.[]' makes of the sidecar: one line for each bundle. The project writes them so already.
	elements := bundles(t, read(t, sidecars[0]))
	for _, e := range elements {
		var compact bytes.Buffer
		if err := json.Compact(&compact, e); err != nil || bytes.ContainsAny(e, "\n\r") || compact.String() != string(e) {
			t.Errorf("a bundle is not one line: %v %s", err, e)
		}
	}
	bundle := parse(t, elements[0])
	if bundle["mediaType"] != "application/vnd.dev.sigstore.bundle.v0.3+json" { // 0.2 at least
		t.Error(bundle["mediaType"])
	}
	if got := bundle.get(in(envelope, "payloadType")); got != "application/vnd.in-toto+json" {
		t.Error(got)
	}
	var statement document
	if err := json.Unmarshal(must(base64.StdEncoding.DecodeString(bundle.get(in(envelope, "payload")).(string))), &statement); err != nil {
		t.Fatal(err)
	}
	cert := must(x509.ParseCertificate(must(base64.StdEncoding.DecodeString(bundle.get(certificate).(string)))))

	for _, tt := range []struct {
		name, owner, repo, issuer, predicateType string
		hosted                                   bool // --deny-self-hosted-runners
		want                                     string
	}{
		{name: "owner", owner: "acme", issuer: stack.Issuer, predicateType: predicateType},
		{name: "owner in another case", owner: "Acme", issuer: stack.Issuer, predicateType: predicateType},
		{name: "repository", owner: "acme", repo: "acme/feedstock", issuer: stack.Issuer, predicateType: predicateType},
		{name: "a hosted runner", owner: "acme", issuer: stack.Issuer, predicateType: predicateType, hosted: true},
		{name: "other owner", owner: "evil", issuer: stack.Issuer, predicateType: predicateType, want: "name"},
		{name: "shorter owner", owner: "acm", issuer: stack.Issuer, predicateType: predicateType, want: "name"},
		{name: "other repository", owner: "acme", repo: "acme/feed", issuer: stack.Issuer, predicateType: predicateType, want: "name"},
		{name: "without --cert-oidc-issuer", owner: "acme", issuer: "https://token.actions.githubusercontent.com", predicateType: predicateType, want: "issuer"},
		{name: "without --predicate-type", owner: "acme", issuer: stack.Issuer, predicateType: "https://slsa.dev/provenance/v1", want: "predicate type"},
	} {
		if got := ghRefuses(cert, statement, tt.owner, tt.repo, tt.issuer, tt.predicateType, tt.hosted); got != tt.want {
			t.Errorf("%s: refused for %q, want %q", tt.name, got, tt.want)
		}
	}

	// --custom-trusted-root: a line that ends, of an authority with the organisation of the certificate's issuer.
	var line bytes.Buffer
	if err := json.Compact(&line, must(os.ReadFile(stack.TrustedRoot))); err != nil || bytes.ContainsAny(line.Bytes(), "\n") {
		t.Error(err)
	}
	var root document
	if err := json.Unmarshal(line.Bytes(), &root); err != nil {
		t.Fatal(err)
	}
	ca := root.get([]any{"certificateAuthorities", 0, "certChain", "certificates", 0, "rawBytes"}).(string)
	lowest := must(x509.ParseCertificate(must(base64.StdEncoding.DecodeString(ca))))
	if o := cert.Issuer.Organization; len(o) != 1 || len(lowest.Issuer.Organization) == 0 || lowest.Issuer.Organization[0] != o[0] {
		t.Errorf("the organisations are %q and %q", o, lowest.Issuer.Organization)
	}
}

// ghRefuses tells what of gh's demands a certificate and a statement do not meet.
func ghRefuses(cert *x509.Certificate, statement document, owner, repo, issuer, predicateType string, hosted bool) string {
	claim := func(n int) string { // Fulcio's extensions from 8 on are DER texts
		for _, e := range cert.Extensions {
			if e.Id.Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, n}) {
				var s string
				if rest, err := asn1.Unmarshal(e.Value, &s); err == nil && len(rest) == 0 {
					return s
				}
			}
		}
		return ""
	}
	const github = "https://github.com/"
	below := owner
	if repo != "" {
		below = repo
	}
	switch {
	case statement["predicateType"] != predicateType:
		return "predicate type"
	case len(cert.URIs) != 1 || !regexp.MustCompile("(?i)^"+github+below+"/").MatchString(cert.URIs[0].String()):
		return "name"
	case hosted && claim(11) != "github-hosted":
		return "runner"
	case !strings.EqualFold(claim(16), github+owner):
		return "owner"
	case repo != "" && !strings.EqualFold(claim(12), github+repo):
		return "repository"
	case !strings.EqualFold(claim(8), issuer):
		return "issuer"
	}
	return ""
}
