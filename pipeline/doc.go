// Package pipeline is the engine. Items flow in from a queue; outcomes flow out to a ledger.
//
//	Source ──▶ hash ──▶ sources ──▶ sign ──▶ upload ──▶ publish ──▶ Ledger ──▶ Ack
//	  ▲          │ each step: N goroutines behind a bounded channel │
//	  └──────────┴── Release (drain, transient errors) ◀────────────┘
//
// A campaign is a named set of items with one channel and one signer. One message in the queue is one item; a Runner
// takes it through the steps of a segment (all steps, unless the campaign is cut) and has its outcome recorded before
// the message is acknowledged. A crash anywhere means that the item is handed out again, and every stage finds what is
// there already.
//
// The package knows nothing of conda, Sigstore, object stores or NATS; those are in stages, internal and pipeline/queue.
package pipeline
