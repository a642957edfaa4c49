package command

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/stages"
)

// PolicyFlags say whose attestations count in a campaign.
type PolicyFlags struct {
	Policy string `placeholder:"FILE" help:"Policy file (docs/policy.md): whose attestations count. It is frozen in the campaign."`
	NoSign bool   `help:"Sign nothing, and need no identity: every package comes with its attestations, which the --policy accepts. One without is set aside."`
}

// Freeze puts the policy into a campaign whose channel and signer are there already. Everything that can be wrong with the
// file is told here, with its line, before anything else is done.
func (f *PolicyFlags) Freeze(env *Env, c *pipeline.Campaign) error {
	c.NoSign = f.NoSign
	if f.Policy == "" {
		if f.NoSign {
			return Usage("say in a --policy whose attestations count", errors.New("--no-sign without --policy"))
		}
		return nil
	}
	p, err := ReadPolicy(f.Policy)
	if err != nil {
		return err
	}
	if err := stages.Freeze(c, p); err != nil {
		hint := "docs/policy.md has every key"
		if e, ok := errors.AsType[*attest.Error](err); ok && e.Hint != "" {
			hint = e.Hint
		}
		return &Error{Code: ExitUsage, Item: f.Policy, Hint: hint, Err: fmt.Errorf("the policy: %w", err)}
	}
	for _, w := range p.Warnings() {
		env.Log.Warn("the policy", "file", f.Policy, "warning", w)
	}
	return nil
}

// ReadPolicy reads a policy file.
func ReadPolicy(file string) (attest.Policy, error) {
	f, err := os.Open(file)
	if err != nil {
		return attest.Policy{}, Usage("", fmt.Errorf("reading the policy: %w", err))
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, attest.MaxPolicy+1))
	if err != nil {
		return attest.Policy{}, Usage("", fmt.Errorf("reading the policy: %w", err))
	}
	p, err := attest.ParsePolicy(file, b)
	if err != nil {
		return p, Usage("docs/policy.md has every key", err)
	}
	return p, nil
}

// RefusedSigner is a refusal of stages.CheckSigner as a command's error; item is the campaign or the policy concerned.
func RefusedSigner(err error, item string) error {
	switch attest.CodeOf(err) {
	case attest.CodeIdentityMismatch, attest.CodeIssuerMismatch, attest.CodeClaimMissing, attest.CodeClaimMismatch:
	default:
		return err // the policy itself
	}
	hint := "sign as somebody whom the policy accepts, or add this signer to it"
	if e, ok := errors.AsType[*attest.Error](err); ok && e.Hint != "" {
		hint = e.Hint
	}
	return &Error{Code: ExitIdentity, Item: item, Hint: hint, Err: err}
}
