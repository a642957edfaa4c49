package channel

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/hallmark-attest/hallmark/internal/store"
)

// Names of the documents of a subdir.
const (
	repodataName   = "repodata.json"
	zstName        = "repodata.json.zst"
	currentName    = "current_repodata.json"
	currentZstName = "current_repodata.json.zst"
	runExportsName = "run_exports.json"
	shardIndexName = "repodata_shards.msgpack.zst"
	shardSuffix    = ".msgpack.zst"
	channelDataKey = "channeldata.json" // of the channel's root
	sigsSuffix     = ".sigs"
	noarch         = "noarch"
)

// Cache-Control of what never changes under its name, of what may change at any time, and of indexes, which CEP 16 wants
// to be cached for a minute to an hour.
const (
	cacheForever = "public, max-age=31536000, immutable"
	cacheNever   = "no-cache"
	cacheMinute  = "public, max-age=60"
)

const (
	typeJSON  = "application/json"
	typeZstd  = "application/zstd"
	typeBytes = "application/octet-stream"
)

// Limits of what is read, in bytes after decompression.
const (
	maxShardIndex = 256 << 20
	maxShard      = 256 << 20
	maxFilename   = 211 // CEP 26, "Filenames"
)

func packageKey(subdir, filename string) string { return subdir + "/" + filename }
func sigsKey(subdir, filename string) string    { return subdir + "/" + filename + sigsSuffix }
func sigsOf(subdir, filename, sha256hex string) string {
	return sigsKey(subdir, filename) + "." + sha256hex
}

var (
	asPackage  = store.PutOptions{IfNoneMatch: true, ContentType: typeBytes, CacheControl: cacheForever}
	asSidecar  = store.PutOptions{IfNoneMatch: true, ContentType: typeJSON, CacheControl: cacheForever}
	asSigs     = store.PutOptions{ContentType: typeJSON, CacheControl: cacheNever}
	asRepodata = store.PutOptions{ContentType: typeJSON, CacheControl: cacheMinute}
	asZst      = store.PutOptions{ContentType: typeZstd, CacheControl: cacheMinute}
	asBase     = store.PutOptions{ContentType: typeZstd, CacheControl: cacheNever}
	asUnused   = store.PutOptions{ContentType: typeJSON, CacheControl: cacheNever}
	asIndex    = store.PutOptions{ContentType: typeZstd, CacheControl: cacheMinute}
	asShard    = store.PutOptions{IfNoneMatch: true, ContentType: typeZstd, CacheControl: cacheForever}
)

// over says that the object is to be written over the state with this ETag, or, where there is none, to be created.
func over(o store.PutOptions, etag string) store.PutOptions {
	o.IfNoneMatch, o.IfMatch = etag == "", etag
	return o
}

// errElsewhere says that a channel's shards are not in the channel, as far as their URL tells.
var errElsewhere = errors.New("its shards cannot be updated")

// shardFolder resolves shards_base_url, which is relative to the shard index (CEP 16). A folder outside of the channel
// or on another host cannot be written to.
func shardFolder(subdir, base string) (string, error) {
	if strings.Contains(base, ":") || strings.HasPrefix(base, "/") || strings.ContainsAny(base, "?#%\\") {
		return "", fmt.Errorf("shards_base_url %q is not a relative path: %w", base, errElsewhere)
	}
	if base != "" && !strings.HasSuffix(base, "/") {
		return "", fmt.Errorf("shards_base_url %q does not end in a slash", base)
	}
	p := path.Join(subdir, base)
	if p == "." || p == ".." || strings.HasPrefix(p, "../") {
		return "", fmt.Errorf("shards_base_url %q leads out of the channel: %w", base, errElsewhere)
	}
	return p, nil
}

// checkPlace refuses what cannot be a package's place in a channel (CEP 26), and with it every way out of the subdir.
func checkPlace(subdir, filename string) error {
	if err := checkSubdir(subdir); err != nil {
		return &Invalid{Subdir: subdir, Filename: filename, Err: err}
	}
	if _, err := packageName(filename); err != nil {
		return &Invalid{Subdir: subdir, Filename: filename, Err: err}
	}
	return nil
}

func checkSubdir(subdir string) error {
	if subdir == "" || len(subdir) > 64 || strings.Trim(subdir, "abcdefghijklmnopqrstuvwxyz0123456789_-") != "" {
		return fmt.Errorf("subdir %q: want noarch or <os>-<arch>", subdir)
	}
	return nil
}

// packageName gives the package's name out of <name>-<version>-<build>.conda or .tar.bz2: neither version nor build
// holds a dash (CEP 26).
func packageName(filename string) (string, error) {
	stem, ok := strings.CutSuffix(filename, ".conda")
	if !ok {
		stem, ok = strings.CutSuffix(filename, ".tar.bz2")
	}
	if !ok {
		return "", fmt.Errorf("file name %q does not end in .conda or .tar.bz2", filename)
	}
	if len(filename) > maxFilename {
		return "", fmt.Errorf("the file name has %d characters, more than %d", len(filename), maxFilename)
	}
	if strings.HasPrefix(filename, ".") {
		return "", fmt.Errorf("file name %q begins with a period", filename)
	}
	for _, r := range stem {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._+!-", r)) {
			return "", fmt.Errorf("file name %q contains %q", filename, r)
		}
	}
	rest, build, ok1 := cutLast(stem)
	name, version, ok2 := cutLast(rest)
	if !ok1 || !ok2 || name == "" || version == "" || build == "" {
		return "", errors.New("the file name is not <name>-<version>-<build>")
	}
	return name, nil
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '-')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

func isDigest(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}
