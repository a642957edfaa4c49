package pipeline

import "context"

// Stage does one step to one item.
//
// Run MUST be idempotent: run twice, the second time changes nothing outside. It MUST return promptly when ctx ends.
// It is called concurrently for different items. Its error says what the engine does next (see Error); nil means the
// step is done. Batching, if any, is inside the stage and invisible to the engine. A stage that is an io.Closer is closed
// when the Runner ends: Close MUST wait for whatever the stage has started.
type Stage interface {
	// String names the stage: "hash", "sign". The name is the stage's in --stages, traces and the ledger.
	String() string
	Run(ctx context.Context, it *Item) error
}

// Step is a stage's place in the list, with what the engine needs to know of it.
type Step struct {
	Stage
	// Concurrency is how many items are in the stage at once. At least 1.
	Concurrency int
	// Commits says that the step leaves something behind that cannot be taken back (a log entry): from then on a drain
	// carries the item to the end of the segment instead of releasing it.
	Commits bool
	// Completes names the event that is due once the step is done ("signed", "published"), or "".
	Completes string
}
