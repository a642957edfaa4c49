// Package match orders versions and decides which records a dependency means. The text of versions, dependencies and
// records flows in; an order, a yes or no, and the set of records that a current_repodata.json holds flow out.
//
//	version text ──▶ ParseVersion ──▶ Version ─── Compare, HasPrefix
//	dependency   ──▶ ParseSpec    ──▶ Spec ────── Match(version, build, build number)
//	records      ──▶ Newest       ──▶ Selection: file names
//
// No CEP defines the order of versions or the language of dependencies: conda's VersionOrder and MatchSpec (24.7 to 25) do,
// and where rattler reads a text differently this package follows conda. CEP 36 names current_repodata.json and leaves open
// what is in it: conda-index decides. Known differences between conda and rattler are listed in testdata/README.md.
//
// It is pure: no files, no network, nothing kept between calls. All functions and all methods may be called concurrently.
// Foreign text gives errors, never panics, and costs at most a fixed multiple of its length.
package match
