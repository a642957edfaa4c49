package sources

import (
	"fmt"

	"github.com/hallmark-attest/hallmark/internal/provenance"
	"github.com/hallmark-attest/hallmark/pipeline"
)

// Policy reads the policy that a campaign was frozen with. The campaign's mode counts; a policy text that asks for another
// one is an error, since one of the two would be ignored. Errors are as provenance.ParsePolicy's.
func Policy(p pipeline.SourcePolicy) (provenance.Policy, error) {
	if err := p.Check(); err != nil {
		return provenance.Policy{}, err
	}
	out := provenance.Policy{}
	if p.Text != "" {
		var err error
		if out, err = provenance.ParsePolicy([]byte(p.Text)); err != nil {
			return provenance.Policy{}, err
		}
	}
	if out.Mode != "" && string(out.Mode) != p.Mode {
		return provenance.Policy{}, fmt.Errorf("the policy for sources says mode %s, and the campaign %s", out.Mode, p.Mode)
	}
	out.Mode = provenance.Mode(p.Mode)
	return out, out.Check()
}
