// Package writers has no code, only tests. In flow many writer processes, a bad network, kills and foreign indexers; out flows
// whether a channel that they all write into at the same time is, and stays, one that a client can read.
//
// The tests use internal/channel by its public methods alone, and look at the result through readers of their own. As writers they
// run their own binary again. Environment variables ask for more of them:
//
//   - HALLMARK_WRITERS: how many packages TestWritersS3 publishes (default 1000; the full run is 10000).
//   - HALLMARK_KILLS: how many times TestKilledWriters kills in each of its two parts (default 15; the full run is 200).
//   - HALLMARK_FOREIGN=1: TestForeignWriter comes between any two operations of every scene (default: every third, in turns).
//   - HALLMARK_SEED: the seed of all chance, as a failed run has printed it.
package writers
