package stages

import (
	"context"
	"errors"

	"github.com/hallmark-attest/hallmark/pipeline"
)

// sourced is the stage sign in a campaign that requires its sources' publishers: it takes no item that has come to it past
// the stage sources, whoever put it on the queue.
type sourced struct{ pipeline.Stage }

// Run implements pipeline.Stage.
func (s sourced) Run(ctx context.Context, it *pipeline.Item) error {
	if f := it.Sources; f == nil || f.Mode != "require" || f.Refused+f.Unverified > 0 {
		return pipeline.Permanent("sources.unchecked", "let it begin again with the campaign's first stage, in workers of one version",
			errors.New("the campaign requires that the package's sources are checked, and they were not"))
	}
	return s.Stage.Run(ctx, it)
}
