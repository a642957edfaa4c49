package stages

import (
	"errors"
	"fmt"
	"slices"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/stages/sign"
)

// Policy is what an attestation must satisfy to count in a campaign: the policy that is frozen in it, for its channel, or,
// where there is none, that its signer made a publish attestation for its channel.
func Policy(c *pipeline.Campaign) (attest.Policy, error) {
	if c.Policy == nil {
		return sign.Policy(c.ChannelURL, c.Identity, c.Issuer), nil
	}
	if err := c.Policy.Check(); err != nil {
		return attest.Policy{}, err
	}
	p, err := attest.ParsePolicy("policy", []byte(c.Policy.Text))
	if err != nil {
		return p, fmt.Errorf("the campaign's policy: %w", err)
	}
	return p.For(c.ChannelURL)
}

// Freeze puts a policy into a campaign that has its other fields already, and refuses one with which the campaign could not
// do anything: *attest.Error CodePolicyChannel or CodePredicateNotAllowed, or one that a worker could not read.
func Freeze(c *pipeline.Campaign, p attest.Policy) error {
	c.Policy = pipeline.NewPolicy(p.Canonical())
	bound, err := Policy(c)
	if err != nil {
		return err
	}
	compares := bound.Channel != attest.ChannelIgnore && bound.Channel != attest.ChannelWarn
	switch {
	case bound.TargetChannel == "" && (bound.Channel == attest.ChannelRequire || bound.Channel == attest.ChannelWarn):
		return &attest.Error{Code: attest.CodePolicyChannel, Err: errors.New("the policy compares the target channel, and neither it nor the campaign names one"),
			Hint: "name the channel in the policy, or let it ignore the channel"}
	case !c.NoSign && c.ChannelURL == "" && bound.TargetChannel != "" && compares:
		return &attest.Error{Code: attest.CodePolicyChannel, Err: fmt.Errorf("the policy asks for the target channel %q, and this campaign attests none", bound.TargetChannel),
			Hint: "attest the channel, or let the policy ignore it"}
	}
	// A campaign's packages have a publish attestation, whatever else the policy asks for.
	if err := bound.CheckSigner("", "", nil); attest.CodeOf(err) == attest.CodePredicateNotAllowed {
		return err
	}
	required, _ := bound.PredicateTypes()
	if i := slices.IndexFunc(required, func(t string) bool { return t != attest.PredicateType }); i >= 0 && c.OnServer() {
		return &attest.Error{Code: attest.CodePredicateNotAllowed, Err: fmt.Errorf("the policy requires attestations of the type %s, and a channel on a server takes one for a package, the publish attestation", required[i]),
			Hint: "publish to a directory or a bucket, or make the type an extra one"}
	}
	return nil
}

// CheckSigner says whether a worker that signs as this may work on a campaign, by what its certificate says: it is the
// campaign's signer, if there is one, and the campaign's policy accepts it. In a campaign that signs nothing everybody may.
// Errors are *attest.Error.
func CheckSigner(c *pipeline.Campaign, identity, issuer string, claims map[string]string) error {
	if c.NoSign {
		return nil
	}
	if (c.Policy == nil || c.Identity != "" || c.Issuer != "") && (identity != c.Identity || issuer != c.Issuer) {
		return &attest.Error{Code: attest.CodeIdentityMismatch, Hint: "sign as the campaign's signer",
			Err: fmt.Errorf("signing would be as %s (%s); the campaign's signer is %s (%s)", identity, issuer, c.Identity, c.Issuer)}
	}
	if c.Policy == nil {
		return nil
	}
	p, err := Policy(c)
	if err != nil {
		return err
	}
	if err := p.CheckSigner(identity, issuer, claims); err != nil {
		return fmt.Errorf("the campaign's policy does not accept %s (%s): %w", identity, issuer, err)
	}
	return nil
}

// CheckIdentity is CheckSigner for what can be known of an identity without a certificate: claims are left out.
func CheckIdentity(c *pipeline.Campaign, identity, issuer string) error {
	err := CheckSigner(c, identity, issuer, nil)
	if code := attest.CodeOf(err); code == attest.CodeClaimMissing || code == attest.CodeClaimMismatch {
		return nil
	}
	return err
}
