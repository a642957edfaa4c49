// Package queue is the pipeline's JetStream. Items flow in from a producer and out to workers; outcomes flow in from
// workers and become events, quarantine entries or jobs of the next segment.
//
//	Enqueue ──▶ JOBS ──▶ Source ──▶ (pipeline.Runner) ──▶ Ledger ──▶ EVENTS
//	              ▲                                          │
//	              ├──────── crossed to the next segment ◀────┤
//	              └── Retry ◀─── QUARANTINE ◀─── failed ─────┘
//
// Every stream takes one message per subject, so the subject is the key of what happened, for as long as the message is
// stored and across restarts: an item is enqueued once per segment, an event is recorded once. A second publish is
// refused by the server, and that refusal is read as "done already". Nothing depends on a deduplication window.
//
// Of the outcomes published, skipped and aborted, the first that is recorded for an item of a campaign stands, whatever
// a redelivery ends with. A failed item is in QUARANTINE instead, and leaves it when it ends otherwise later on.
//
// Beside them flow tokens: each request to an upstream that has a rate budget takes one (Budgets). A budget is one record in a
// bucket, from which workers take leases by compare-and-set, at times that the server stamps: budget_record.go says why no
// minute has more requests than the rate, whatever workers do and whatever their clocks say. It is a lease and not a number
// that is divided among the workers, since nobody then has to know who is alive: what a worker wants is in the record for as long
// as it asks, and what it took is lost after two seconds, not before.
//
// A job that came back from quarantine has a subject of its own (job.<segment>.<campaign>.<id>.retry.<n>), so that the number
// of items that were enqueued never changes but by enqueueing; see Counts for how the ledger adds up while items move.
//
// The server is either in this process (Embed) or somewhere else (Connect); the rest is the same.
package queue
