package stages

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/channel"
	"github.com/hallmark-attest/hallmark/internal/store"
	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/stages/hash"
)

// recorded is a package with an attestation of a private Sigstore, which is not there any more.
const (
	recorded         = "../cmd/producer/testdata/recorded"
	recordedFile     = "emery-k48-3.4.6-h24669d2_2.conda"
	recordedIdentity = "https://github.com/acme/feedstock/.github/workflows/publish.yml@refs/heads/main"
	recordedIssuer   = "http://127.0.0.1:30718"
	recordedChannel  = "https://conda.example.org/demo"
)

// published is a channel that has the recorded package, with these bundles, and an item of it as the hash stage leaves it.
func published(t *testing.T, sidecar ...[]byte) (*channel.Channel, *pipeline.Item) {
	t.Helper()
	s, err := store.NewDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ch := channel.New(s, channel.Options{})
	it := &pipeline.Item{Source: filepath.Join(recorded, recordedFile), Filename: recordedFile}
	if err := hash.New(hash.Options{}).Run(t.Context(), it); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(it.Source)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := ch.PutPackage(t.Context(), it.Package.Subdir, it.Filename, f, it.Package.Size, it.Package.SHA256); err != nil {
		t.Fatal(err)
	}
	if len(sidecar) == 0 {
		return ch, it
	}
	side, err := ch.AddBundle(t.Context(), it.Package.Subdir, it.Filename, sidecar...)
	if err != nil {
		t.Fatal(err)
	}
	_, refused, err := ch.Update(t.Context(), it.Package.Subdir, []channel.Entry{{Filename: it.Filename, Record: it.Package.Record,
		RunExports: it.Package.RunExports, AttestationsSHA256: side.SHA256}})
	if err != nil || refused != nil {
		t.Fatal(refused, err)
	}
	return ch, it
}

// TestPrior: what the channel has counts as done only if the campaign's policy accepts it, and nothing that is brought is
// missing.
func TestPrior(t *testing.T) {
	t.Parallel()
	trust, err := attest.LoadTrustRoot(filepath.Join(recorded, "trusted_root.json"))
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := attest.NewVerifier(trust)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(recorded, recordedFile+".sigs"))
	if err != nil {
		t.Fatal(err)
	}
	elements, err := attest.Split(b)
	if err != nil {
		t.Fatal(err)
	}
	bundle := pipeline.Bundle(elements[0])
	spaced := pipeline.Bundle(bytes.Replace(bundle, []byte(":"), []byte(" : "), 1))
	signers := "signers: [{identity: '" + recordedIdentity + "', issuer: '" + recordedIssuer + "'}]\n"
	strangers := "signers: [{identity: https://somebody, issuer: '" + recordedIssuer + "'}]\n"
	slsa := "predicates: {required: [" + attest.PredicateType + ", https://slsa.dev/provenance/v1]}\n"
	for _, tt := range []struct {
		name    string
		sidecar [][]byte
		policy  string // "": the campaign's signer is the recorded one
		another bool   // it is somebody else
		since   time.Duration
		brought []pipeline.Bundle
		riders  []pipeline.Rider
		skip    bool
		found   bool // the item has the bundle
	}{
		{name: "no sidecar", since: time.Hour},
		{name: "the signer's", sidecar: [][]byte{bundle}, since: time.Hour, skip: true, found: true},
		{name: "the signer's, long before the campaign", sidecar: [][]byte{bundle}, since: -time.Hour, skip: true, found: true},
		{name: "another signer's", sidecar: [][]byte{bundle}, another: true, since: time.Hour},
		{name: "accepted by the policy", sidecar: [][]byte{bundle}, policy: signers, another: true, since: time.Hour, skip: true, found: true},
		{name: "not accepted by it", sidecar: [][]byte{bundle}, policy: strangers, since: time.Hour},
		{name: "a required type is not there", sidecar: [][]byte{bundle}, policy: signers + slsa, since: time.Hour, found: true},
		{name: "brought, and there", sidecar: [][]byte{bundle}, brought: []pipeline.Bundle{bundle}, since: time.Hour, skip: true, found: true},
		{name: "brought, and there since this campaign", sidecar: [][]byte{bundle}, brought: []pipeline.Bundle{bundle}, since: -time.Hour, found: true},
		{name: "brought, and one is not there", sidecar: [][]byte{bundle}, brought: []pipeline.Bundle{bundle, spaced}, since: time.Hour, found: true},
		{name: "a rider that is there", sidecar: [][]byte{bundle, spaced}, riders: []pipeline.Rider{{Bundle: spaced}}, since: time.Hour, skip: true, found: true},
		{name: "a rider that is not there", sidecar: [][]byte{bundle}, riders: []pipeline.Rider{{Bundle: spaced}}, since: time.Hour, found: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ch, it := published(t, tt.sidecar...)
			it.Brought, it.Riders = tt.brought, tt.riders
			c := &pipeline.Campaign{Name: "a", To: "/x", ChannelURL: recordedChannel, Created: time.Now().Add(tt.since),
				Identity: recordedIdentity, Issuer: recordedIssuer}
			if tt.another {
				c.Identity = "https://another"
			}
			if tt.policy != "" {
				p, err := attest.ParsePolicy("file", []byte(tt.policy))
				if err == nil {
					err = Freeze(c, p)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			policy, err := Policy(c)
			if err != nil {
				t.Fatal(err)
			}
			err = (&prior{channel: ch, campaign: c, counts: counting{verifier, policy}}).Find(t.Context(), it)
			if e := pipeline.Classify(err); (e != nil) != tt.skip || e != nil && e.Kind != pipeline.KindSkip {
				t.Errorf("%v, want a skip: %t", err, tt.skip)
			}
			if got := bytes.Equal(it.Bundle, bundle) && it.Signature.Found; got != tt.found || !tt.found && it.Bundle != nil {
				t.Errorf("the item has the bundle: %t, want %t", got, tt.found)
			}
		})
	}
}

// TestServersSidecar: a server takes one attestation with the package, so that what is brought must be the one that it has.
func TestServersSidecar(t *testing.T) {
	t.Parallel()
	trust, err := attest.LoadTrustRoot(filepath.Join(recorded, "trusted_root.json"))
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := attest.NewVerifier(trust)
	if err != nil {
		t.Fatal(err)
	}
	sidecar, err := os.ReadFile(filepath.Join(recorded, recordedFile+".sigs"))
	if err != nil {
		t.Fatal(err)
	}
	elements, _ := attest.Split(sidecar)
	bundle := pipeline.Bundle(elements[0])
	policy, err := Policy(&pipeline.Campaign{ChannelURL: recordedChannel, Identity: recordedIdentity, Issuer: recordedIssuer})
	if err != nil {
		t.Fatal(err)
	}
	counts := counting{verifier, policy}
	now := time.Now()
	for name, tt := range map[string]struct {
		accept func([]byte, *pipeline.Item) bool
		change func(*pipeline.Item)
		want   bool
	}{
		"nothing brought":      {counts.accept, func(*pipeline.Item) {}, true},
		"the same brought":     {counts.accept, func(it *pipeline.Item) { it.Brought = []pipeline.Bundle{bundle} }, true},
		"another brought":      {counts.accept, func(it *pipeline.Item) { it.Brought = []pipeline.Bundle{[]byte("{}")} }, false},
		"another package":      {counts.accept, func(it *pipeline.Item) { it.Package.SHA256 = otherDigest }, false},
		"signed here":          {counts.acceptSigned(now), func(it *pipeline.Item) { it.Signature.SignedAt = now }, true},
		"signed before":        {counts.acceptSigned(now), func(it *pipeline.Item) { it.Signature.SignedAt = now.Add(-1) }, false},
		"signed before, found": {counts.acceptSigned(now), func(it *pipeline.Item) { it.Signature.Found = true }, true},
	} {
		it := &pipeline.Item{Filename: recordedFile, Package: pipeline.Package{SHA256: recordedDigest}}
		tt.change(it)
		if got := tt.accept(sidecar, it); got != tt.want || got != bytes.Equal(it.Bundle, bundle) {
			t.Errorf("%s: %t, want %t", name, got, tt.want)
		}
	}
}

const (
	recordedDigest = "e545c5b52e91f932997d82495b4e862136cc214bbc758950d41a0657e49d3095"
	otherDigest    = "0000000000000000000000000000000000000000000000000000000000000000"
)
