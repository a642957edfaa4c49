// Package writers has no code, only tests. In flow many writer processes, a bad network, kills and foreign indexers; out flows
// whether a channel that they all write into at the same time is, and stays, one that a client can read.
//
// The tests use internal/channel by its public methods alone, and look at the result through readers of their own. As writers they
// run their own binary again. Environment variables ask for more of them:
//
//   - HALLMARK_WRITERS: how many packages TestWritersS3 publishes (default 1000; the full run is 10000).
//   - HALLMARK_KILLS: how many times TestKilledWriters kills in each of its two parts (default 15; the full run is 200).
//   - HALLMARK_FOREIGN: at every how manieth operation of a scene TestForeignWriter comes between (default 5, scenes take turns with
//     where they begin; the full run is 1).
//   - HALLMARK_SEED: the seed of all chance, as a failed run has printed it.
package writers
