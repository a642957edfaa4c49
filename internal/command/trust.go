package command

import (
	"context"
	"sync"

	"github.com/hallmark-attest/hallmark/internal/attest"
)

// KeepTrust keeps a verifier's trust root up to date beside a command's work, which may take weeks. The returned function
// ends that and MUST be called.
func KeepTrust(ctx context.Context, env *Env, v *attest.Verifier) func() {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { v.Keep(ctx, env.Log) })
	return func() { cancel(); wg.Wait() }
}
