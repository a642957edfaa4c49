// Package channel keeps a conda channel in a store. In flow packages, verified bundles and records; out flow the objects
// that clients read: packages, sidecars, shards, repodata.json, current_repodata.json, run_exports.json, channeldata.json,
// and what of them is there already.
//
// The standards behind it: CEP 12 (run_exports.json), 16 (shards), 21 (run_exports in shards), 26 (names), 36 (repodata),
// 38 (channeldata.json), 47 (indexed_timestamp), 50 (sidecars). The package verifies no signature and knows no pipeline.
//
// What it promises, whoever else writes into the channel by the same rules and wherever a writer is cut off:
//   - nothing immutable is ever overwritten (IfNoneMatch), nothing mutable is changed unseen (IfMatch);
//   - a record is written only after the sidecar that it advertises, and never goes back to an older sidecar;
//   - what it did not write itself (records that were hotfixed, unknown fields, removed) is kept byte for byte;
//   - doing the same again changes no byte.
package channel
