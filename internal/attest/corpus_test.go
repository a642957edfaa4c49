package attest

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sigstore/sigstore-go/pkg/root"
)

const (
	actionlintFile     = "actionlint-1.7.12-h60d57d3_0.conda"
	actionlintSHA256   = "e3e0f35dec5b09b18baac8729d14115903b5adfd25065f8bbb90a2b3be5401e4"
	actionlintIdentity = "https://github.com/hunger/octoconda/.github/workflows/octoconda.yaml@refs/heads/main"
	githubIssuer       = "https://token.actions.githubusercontent.com"
	prefixChannel      = "https://prefix.dev/github-releases"
)

// corpus reads a file of the corpus of real bundles, and skips the test where there is none.
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

func publicGood(t testing.TB) *Verifier {
	t.Helper()
	return verifierOf(t, corpus(t, "public-good-trusted_root.json"))
}

func verifierOf(t testing.TB, trustedRoot []byte) *Verifier {
	t.Helper()
	tr, err := ParseTrustRoot(trustedRoot)
	if err != nil {
		t.Fatal(err)
	}
	v, err := NewVerifier(tr)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func allow(identity, issuer string) Policy {
	return Policy{Signers: []Signer{{Identity: identity, Issuer: issuer}}}
}

// wantCode fails the test unless err is an *Error with that code.
func wantCode(t testing.TB, err error, code Code) {
	t.Helper()
	if got := CodeOf(err); got != code {
		t.Errorf("code %q, want %q: %v", got, code, err)
	}
}

func TestCorpusSidecar(t *testing.T) {
	t.Parallel()
	v := publicGood(t)
	sidecar := corpus(t, actionlintFile+".v0.sigs")
	elements, err := Split(sidecar)
	if err != nil || len(elements) != 1 {
		t.Fatalf("Split: %d elements, %v", len(elements), err)
	}
	subject := Subject{actionlintFile, actionlintSHA256}
	policy := allow(actionlintIdentity, githubIssuer)
	policy.TargetChannel = prefixChannel

	got, r, err := Find(sidecar, v, subject, policy)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, elements[0]) {
		t.Error("Find gave other bytes than the element's")
	}
	channel, repository, commit := prefixChannel, "https://github.com/hunger/octoconda", "3486769623122fdddade1fb57e1b4728f162608a"
	want := &Result{
		Verified:  true,
		MediaType: BundleMediaType,
		Identity:  actionlintIdentity,
		Issuer:    githubIssuer,
		Claims: map[string]string{
			"buildSignerURI": actionlintIdentity, "buildSignerDigest": commit,
			"buildConfigURI": actionlintIdentity, "buildConfigDigest": commit,
			"buildTrigger":      "schedule",
			"runInvocationURI":  repository + "/actions/runs/23778256205/attempts/1",
			"runnerEnvironment": "github-hosted",
			"sourceRepository":  repository, "sourceRepositoryDigest": commit,
			"sourceRepositoryRef": "refs/heads/main", "sourceRepositoryIdentifier": "1092908474",
			"sourceRepositoryOwner": "https://github.com/hunger", "sourceRepositoryOwnerIdentifier": "73267",
			"sourceRepositoryVisibilityAtSigning": "public",
		},
		CertSHA256:        "a0cd42372bba4e747128b12927367fd1b8478e0aaf46cd8e834e6d7ca521c9fe",
		NotBefore:         time.Date(2026, 3, 31, 2, 58, 31, 0, time.UTC),
		NotAfter:          time.Date(2026, 3, 31, 3, 8, 31, 0, time.UTC),
		SignedAt:          time.Date(2026, 3, 31, 2, 58, 31, 0, time.UTC), // the log; the timestamp authority a second later
		SignedAtBy:        SignedAtIntegrated,
		DSSESig:           "MEQCIHyBClAKBoxYftBqs6JXP/HpWrFi5M9q5JZ/KiTDWhYZAiAVH1QNPad35ZiVwZyVHzOiO5rb9bTtQKqA+XE0q7DjEA==",
		BundleSHA256:      "4030ede0771aad829e396fec321e2ee79b0c83be29c23b1f4cbcb33b4d7f200a",
		StatementSHA256:   "ad55ff7f4b445dec69c608f4839a6f37f5d9680d2544a608015a71340f7b0d4b",
		TrustedRootSHA256: "6494e21ea73fa7ee769f85f57d5a3e6a08725eae1e38c755fc3517c9e6bc0b66",
		Log: []LogEntry{{
			Origin: "rekor.sigstore.dev - 1193050959916656506", LogID: "c0d23d6ad406973f9559f3ba2d1ca01f84147d8ffc5b8445c224f98b9591801d",
			Index: 1202156555, Kind: "dsse 0.0.1",
		}},
		PredicateType: PredicateType,
		Subject:       subject,
		TargetChannel: &channel,
	}
	want.Statement, err = Statement(actionlintFile, actionlintSHA256, prefixChannel) // byte for byte what another tool wrote
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Error(diff)
	}
}

func TestCorpusRefused(t *testing.T) {
	t.Parallel()
	v := publicGood(t)
	sidecar := corpus(t, actionlintFile+".v0.sigs")
	right := allow(actionlintIdentity, githubIssuer)
	for name, tt := range map[string]struct {
		file, sha256 string
		policy       Policy
		want         Code
	}{
		"other file":     {"actionlint-1.7.12-h60d57d3_1.conda", actionlintSHA256, right, CodeStatementSubjectName},
		"other digest":   {actionlintFile, testSHA256, right, CodeStatementDigestMismatch},
		"other identity": {actionlintFile, actionlintSHA256, allow(testIdentity, githubIssuer), CodeIdentityMismatch},
		"other issuer":   {actionlintFile, actionlintSHA256, allow(actionlintIdentity, testIssuer), CodeIssuerMismatch},
	} {
		_, _, err := Find(sidecar, v, Subject{tt.file, tt.sha256}, tt.policy)
		wantCode(t, err, CodeSidecarNoMatch)
		elements, err := Split(sidecar)
		if err != nil {
			t.Fatal(err)
		}
		_, err = v.Verify(elements[0], Subject{tt.file, tt.sha256}, tt.policy)
		if wantCode(t, err, tt.want); tt.want == CodeIdentityMismatch &&
			(!strings.Contains(err.Error(), actionlintIdentity) || !strings.Contains(err.Error(), testIdentity)) {
			t.Errorf("%s: the error does not name both: %v", name, err)
		}
	}
}

// TestCorpusConformance: cases of Sigstore's conformance suite. They attest other things than packages, so a good one
// passes all of Sigstore's checks and is then refused for its predicate type.
func TestCorpusConformance(t *testing.T) {
	t.Parallel()
	const beacon = "https://github.com/sigstore-conformance/extremely-dangerous-public-oidc-beacon/.github/workflows/extremely-dangerous-oidc-beacon.yml@refs/heads/main"
	for _, tt := range []struct {
		dir     string
		ownRoot bool
		want    Code
		kind    string
		by      string
	}{
		{"dsse-mismatch-envelope_fail", false, CodeLog, "", ""},
		{"happy-path-intoto-in-dsse-v3", false, CodeStatementPredicateType, "dsse 0.0.1", SignedAtIntegrated},
		{"intoto-with-custom-trust-root", true, CodeStatementPredicateType, "intoto 0.0.2", SignedAtIntegrated},
		{"rekor2-dsse-happy-path", true, CodeStatementPredicateType, "hashedrekord 0.0.2", SignedAtRFC3161},
	} {
		t.Run(tt.dir, func(t *testing.T) {
			t.Parallel()
			trustedRoot := "public-good-trusted_root.json"
			if tt.ownRoot {
				trustedRoot = "conformance/" + tt.dir + "/trusted_root.json"
			}
			v := verifierOf(t, corpus(t, trustedRoot))
			b := corpus(t, "conformance/"+tt.dir+"/bundle.sigstore.json")
			_, err := v.Verify(b, testSubject(), allow(beacon, githubIssuer))
			wantCode(t, err, tt.want)

			e, err := parseBundle(b)
			if err != nil {
				t.Fatal(err)
			}
			r, err := v.verifySigstore(e)
			if tt.kind == "" {
				wantCode(t, err, tt.want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Log) != 1 || r.Log[0].Kind != tt.kind || r.SignedAtBy != tt.by {
				t.Errorf("log %+v, signed at by %s", r.Log, r.SignedAtBy)
			}
			if tt.ownRoot { // nothing of it holds by public-good's trust root
				_, err := publicGood(t).Verify(b, testSubject(), allow(beacon, githubIssuer))
				wantCode(t, err, CodeLog)
			}
		})
	}
}

func TestCorpusSigningConfigs(t *testing.T) {
	t.Parallel()
	for name, rekor := range map[string]uint32{"public-good-signing_config.v0.2.json": 1, "public-good-signing_config_rekor_v2.v0.2.json": 2} {
		sc, err := ParseSigningConfig(corpus(t, name))
		if err != nil {
			t.Fatal(err)
		}
		s, err := root.SelectService(sc.RekorLogURLs(), []uint32{1, 2}, time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC))
		if err != nil || s.MajorAPIVersion != rekor {
			t.Errorf("%s: rekor v%d, %v", name, s.MajorAPIVersion, err)
		}
	}
}

// TestCorpusPolicies: a real certificate of GitHub's, by policies.
func TestCorpusPolicies(t *testing.T) {
	t.Parallel()
	v := publicGood(t)
	sidecar := corpus(t, actionlintFile+".v0.sigs")
	subject := Subject{actionlintFile, actionlintSHA256}
	for _, tt := range []struct {
		file string
		want Code // of the element
	}{
		{"signers: [github:hunger/octoconda]", ""},
		{"signers: [github:Hunger/Octoconda]", ""},
		{"signers: ['github:hunger/octoconda@refs/heads/main']", ""},
		{"signers: ['github:hunger/octoconda@refs/heads/mai']", CodeClaimMismatch},
		{"signers: [github:hunger/octo]", CodeIdentityMismatch},
		{"signers: [github:hunger/octoconda-2]", CodeIdentityMismatch},
		{"signers: [gitlab:hunger/octoconda]", CodeIdentityMismatch},
		{"signers: [github:hunger/octoconda]\nclaims: {runnerEnvironment: github-hosted, buildTrigger: {pattern: 'schedule|push'}, sourceRepositoryOwnerIdentifier: '73267'}", ""},
		{"signers: [github:hunger/octoconda]\nclaims: {buildTrigger: push}", CodeClaimMismatch},
		{"signers: [github:hunger/octoconda]\nchannel: {url: '" + prefixChannel + "'}", ""},
		{"signers: [github:hunger/octoconda]\nchannel: {url: '" + prefixChannel + "-2'}", CodeStatementTargetChannel},
		{"signers:\n- identityPrefix: https://github.com/hunger\n  issuer: " + githubIssuer, ""},
		{"signers:\n- identityPrefix: https://github.com/hunge\n  issuer: " + githubIssuer, CodeIdentityMismatch},
		{"signers:\n- identityPattern: https://github\\.com/hunger/.*@refs/heads/main\n  issuer: " + githubIssuer, ""},
		{"signers:\n- identityPattern: https://github\\.com/hunger/\n  issuer: " + githubIssuer, CodeIdentityMismatch},
	} {
		p, err := ParsePolicy("policy", []byte(tt.file))
		if err != nil {
			t.Fatal(err)
		}
		r, err := VerifySidecar(sidecar, v, subject, p)
		if len(r.Elements) != 1 || CodeOf(r.Elements[0].Err) != tt.want || (err == nil) != (tt.want == "") {
			t.Errorf("%s: %v", tt.file, err)
		}
	}
}

// TestCorpusProvenance: another predicate type, required of a real bundle.
func TestCorpusProvenance(t *testing.T) {
	t.Parallel()
	v := publicGood(t)
	b := corpus(t, "conformance/happy-path-intoto-in-dsse-v3/bundle.sigstore.json")
	e, err := parseBundle(b)
	if err != nil {
		t.Fatal(err)
	}
	st, err := parseInToto(e.statement)
	if err != nil {
		t.Fatal(err)
	}
	digest, _ := st.subjects[0].(map[string]any)["digest"].(map[string]any)["sha256"].(string)
	policy := func(signer string) Policy {
		p, err := ParsePolicy("policy", []byte("signers: ["+signer+"]\npredicates: {required: ['"+st.predicateType+"']}"))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	const beacon = "github:sigstore-conformance/extremely-dangerous-public-oidc-beacon"
	r, err := v.VerifyAny(b, Subject{testFile, digest}, policy(beacon))
	if err != nil {
		t.Fatal(err)
	}
	if r.PredicateType != st.predicateType || r.Subject.SHA256 != digest {
		t.Errorf("result %+v", r)
	}
	_, err = v.VerifyAny(b, testSubject(), policy(beacon))
	wantCode(t, err, CodeStatementDigestMismatch)
	_, err = v.VerifyAny(b, Subject{testFile, digest}, policy(strings.TrimSuffix(beacon, "-beacon")))
	wantCode(t, err, CodeIdentityMismatch)
	_, err = v.VerifyAny(b, Subject{testFile, digest}, Policy{Signers: repository(beacon)})
	wantCode(t, err, CodePredicateNotAllowed)
	_, err = v.Verify(b, Subject{testFile, digest}, policy(beacon))
	wantCode(t, err, CodePredicateNotAllowed)
}
