package stages

import (
	"cmp"
	"testing"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/pipeline"
)

const here = "https://conda.localhost/main"

func TestFreeze(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		policy string
		url    string
		to     string // "": a folder
		noSign bool
		want   attest.Code
	}{
		"plain":                            {policy: "signers: [github:a/b]", url: here},
		"for this channel":                 {policy: "signers: [github:a/b]\nchannel: {url: " + here + "}", url: here},
		"for another":                      {policy: "signers: [github:a/b]\nchannel: {url: https://other}", url: here, want: attest.CodePolicyChannel},
		"for another, which is ignored":    {policy: "signers: [github:a/b]\nchannel: {check: ignore, url: https://other}", url: here},
		"no channel":                       {policy: "signers: [github:a/b]"},
		"no channel, and one is asked for": {policy: "signers: [github:a/b]\nchannel: {check: require}", noSign: true, want: attest.CodePolicyChannel},
		"no channel, and one is warned of": {policy: "signers: [github:a/b]\nchannel: {check: warn}", noSign: true, want: attest.CodePolicyChannel},
		"none attested, one required":      {policy: "signers: [github:a/b]\nchannel: {url: https://other}", want: attest.CodePolicyChannel},
		"none attested, one brought":       {policy: "signers: [github:a/b]\nchannel: {url: https://other}", noSign: true},
		"no publish attestation":           {policy: "signers: [github:a/b]\npredicates: {required: [https://slsa.dev/provenance/v1]}", url: here, want: attest.CodePredicateNotAllowed},
		"more on a server":                 {policy: "signers: [github:a/b]\npredicates: {required: [" + attest.PredicateType + ", https://slsa.dev/provenance/v1]}", url: here, to: here, want: attest.CodePredicateNotAllowed},
		"more in a folder":                 {policy: "signers: [github:a/b]\npredicates: {required: [" + attest.PredicateType + ", https://slsa.dev/provenance/v1]}", url: here},
		"extra on a server":                {policy: "signers: [github:a/b]\npredicates: {extra: [{type: https://slsa.dev/provenance/v1, signers: [github:a/c]}]}", url: here, to: here},
	} {
		p, err := attest.ParsePolicy("file", []byte(tt.policy))
		if err != nil {
			t.Fatal(name, err)
		}
		c := &pipeline.Campaign{Name: "a", To: cmp.Or(tt.to, "/x"), ChannelURL: tt.url, NoTargetChannel: tt.url == "", NoSign: tt.noSign}
		err = Freeze(c, p)
		if attest.CodeOf(err) != tt.want || (err == nil) != (tt.want == "") {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
		if err != nil {
			continue
		}
		if err := c.Validate(); err != nil || c.Policy.SHA256 != p.Digest() {
			t.Errorf("%s: %v, %+v", name, err, c.Policy)
		}
		// A worker reads the same.
		if got, err := Policy(c); err != nil || got.Signers[0].Repository != "github:a/b" || got.TargetChannel == "" && tt.url != "" && got.Channel != attest.ChannelIgnore {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		c.Policy.Text += "\n"
		if _, err := Policy(c); err == nil {
			t.Errorf("%s: a policy that was changed is read", name)
		}
	}
}

func TestCheckSigner(t *testing.T) {
	t.Parallel()
	const id, issuer = "https://github.com/a/b/.github/workflows/w.yml@refs/heads/main", "https://token.actions.githubusercontent.com"
	claims := map[string]string{"sourceRepository": "https://github.com/a/b"}
	frozen := func(c pipeline.Campaign, policy string) *pipeline.Campaign {
		p, err := attest.ParsePolicy("file", []byte(policy))
		if err == nil {
			c.NoTargetChannel = true
			err = Freeze(&c, p)
		}
		if err != nil {
			t.Fatal(err)
		}
		return &c
	}
	me := pipeline.Campaign{Identity: id, Issuer: issuer}
	for name, tt := range map[string]struct {
		c       *pipeline.Campaign
		id, iss string
		claims  map[string]string
		want    attest.Code
		alone   attest.Code // without claims, where that is another
	}{
		"no policy":                       {c: &me, id: id, iss: issuer},
		"no policy, another":              {c: &me, id: "x", iss: issuer, want: attest.CodeIdentityMismatch, alone: attest.CodeIdentityMismatch},
		"no policy, another issuer":       {c: &me, id: id, iss: "x", want: attest.CodeIdentityMismatch, alone: attest.CodeIdentityMismatch},
		"both":                            {c: frozen(me, "signers: [github:a/b]"), id: id, iss: issuer, claims: claims},
		"both, without claims":            {c: frozen(me, "signers: [github:a/b]"), id: id, iss: issuer, want: attest.CodeClaimMissing},
		"both, and it is another":         {c: frozen(me, "signers: [github:a/b]"), id: id + "x", iss: issuer, claims: claims, want: attest.CodeIdentityMismatch, alone: attest.CodeIdentityMismatch},
		"both, and the policy does not":   {c: frozen(me, "signers: [github:a/c]"), id: id, iss: issuer, claims: claims, want: attest.CodeIdentityMismatch, alone: attest.CodeIdentityMismatch},
		"policy alone":                    {c: frozen(pipeline.Campaign{}, "signers: [github:a/b]"), id: id, iss: issuer, claims: claims},
		"policy alone, another":           {c: frozen(pipeline.Campaign{}, "signers: [github:a/b]"), id: "x", iss: issuer, claims: claims, want: attest.CodeIdentityMismatch, alone: attest.CodeIdentityMismatch},
		"policy alone, another issuer":    {c: frozen(pipeline.Campaign{}, "signers: [github:a/b]"), id: id, iss: "x", claims: claims, want: attest.CodeIssuerMismatch, alone: attest.CodeIssuerMismatch},
		"nothing is signed":               {c: frozen(pipeline.Campaign{NoSign: true}, "signers: [github:a/b]"), id: "x", iss: "y"},
		"no signer and no policy at all?": {c: &pipeline.Campaign{}, id: "x", iss: "y", want: attest.CodeIdentityMismatch, alone: attest.CodeIdentityMismatch},
	} {
		if err := CheckSigner(tt.c, tt.id, tt.iss, tt.claims); attest.CodeOf(err) != tt.want || (err == nil) != (tt.want == "") {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
		if err := CheckIdentity(tt.c, tt.id, tt.iss); attest.CodeOf(err) != tt.alone || (err == nil) != (tt.alone == "") {
			t.Errorf("%s, the identity alone: %v, want %s", name, err, tt.alone)
		}
	}
}
