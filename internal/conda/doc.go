// Package conda reads package files. A package's bytes and its file name flow in; its name, digests, repodata record and
// run exports flow out, or the reason why it can never be published.
//
//	file name ──▶ ParseFilename ─┐
//	.conda    ──▶ ZIP directory ─┼─▶ info/ ──▶ index.json, run_exports.json ──▶ record (CEP 36)
//	.tar.bz2  ──▶ bzip2 stream  ─┘        each byte once ──▶ SHA-256, MD5, size
//
// The sources are CEP 26 (names), CEP 34 (contents), CEP 35 (archives), CEP 36 (records) and CEP 12 (run exports). Where
// they are silent, the package refuses what two tools could read differently: what is attested MUST be what is installed.
// It is pure: no network, no files, nothing kept. All functions may be called concurrently.
package conda
