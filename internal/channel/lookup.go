package channel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/hallmark-attest/hallmark/internal/store"
)

// Limits of what a client reads, in bytes.
const (
	maxRepodata = 16 << 30  // repodata.json, unpacked: the largest ones have some hundred MiB
	maxWindow   = 128 << 20 // of repodata.json.zst
)

// Listed is a package as the index shows it to a client.
type Listed struct {
	Filename             string
	Name, Version, Build string
	BuildNumber          int64
	SHA256               string // as the record has it; "" if it has none
	// Advertised says that the record has attestations_sha256, Attestations what it says there. That need not be a digest:
	// see attest.CheckAttestationsSHA256.
	Advertised   bool
	Attestations string
}

// Listing is what one document of a subdir says.
type Listing struct {
	// Document is the name of the document: repodata_shards.msgpack.zst, repodata.json.zst or repodata.json; "" if the
	// subdir has none of them.
	Document string
	Records  []Listed
}

// Lookup reads the records of some packages' names as a client does: from the shards where there are any (CEP 16), else from
// repodata.json.zst, else from repodata.json. A document that is refused (store.ErrAuth) is passed over like one that is not there, as long as
// there is another: some hosts answer so for what they do not have. So are shards on another host.
//
// Of a repodata.json nothing is kept but the records that were asked for, however large it is.
// Errors: *Invalid for the subdir; *Malformed for a document; else those of the store.
func (c *Channel) Lookup(ctx context.Context, subdir string, names []string) (Listing, error) {
	if err := checkSubdir(subdir); err != nil {
		return Listing{}, &Invalid{Subdir: subdir, Err: err}
	}
	wanted := make(map[string]bool, len(names))
	for _, n := range names {
		wanted[n] = true
	}
	var passed error
	for _, read := range []func(context.Context, string, map[string]bool) (Listing, error){c.lookInShards, c.lookInZst, c.lookInRepodata} {
		l, err := read(ctx, subdir, wanted)
		switch {
		case errors.Is(err, store.ErrAuth), errors.Is(err, errElsewhere):
			if passed == nil {
				passed = err
			}
		case err != nil:
			return Listing{}, fmt.Errorf("reading the index of %s in %s: %w", subdir, c, err)
		case l.Document != "":
			return l, nil
		}
	}
	if passed != nil {
		return Listing{}, fmt.Errorf("reading the index of %s in %s: %w", subdir, c, passed)
	}
	return Listing{}, nil
}

func (c *Channel) lookInShards(ctx context.Context, subdir string, wanted map[string]bool) (Listing, error) {
	key := subdir + "/" + shardIndexName
	b, _, found, err := c.read(ctx, key, maxShardIndex)
	if err != nil || !found {
		return Listing{}, err
	}
	if b, err = c.codec.decompress(b); err != nil {
		return Listing{}, &Malformed{Key: key, Err: err}
	}
	x, err := parseShardIndex(subdir, b)
	if errors.Is(err, errElsewhere) {
		web, ok := c.store.(interface {
			Key(from, reference string) (string, bool)
		})
		if ok {
			x.folder, ok = web.Key(key, x.base)
		}
		if ok {
			err = nil
		}
	}
	if errors.Is(err, errElsewhere) {
		return Listing{}, err
	}
	if err != nil {
		return Listing{}, &Malformed{Key: key, Err: err}
	}
	l := Listing{Document: shardIndexName}
	for name := range wanted {
		s, err := c.loadShard(ctx, x, name)
		if err != nil {
			return Listing{}, err
		}
		for p, packed := range s.files() {
			r, err := listedPacked(p, packed)
			if err != nil {
				return Listing{}, &Malformed{Key: x.key(x.shards[name]), Err: err}
			}
			l.add(r, wanted)
		}
	}
	return l, nil
}

func (c *Channel) lookInZst(ctx context.Context, subdir string, wanted map[string]bool) (Listing, error) {
	key := subdir + "/" + zstName
	r, _, err := c.store.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return Listing{}, nil
	}
	if err != nil {
		return Listing{}, fmt.Errorf("reading %s: %w", key, err)
	}
	defer r.Close()
	z, err := zstd.NewReader(&reading{r: r, key: key}, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return Listing{}, fmt.Errorf("reading %s: %w", key, err)
	}
	defer z.Close()
	return lookThrough(z, subdir, zstName, wanted)
}

func (c *Channel) lookInRepodata(ctx context.Context, subdir string, wanted map[string]bool) (Listing, error) {
	key := subdir + "/" + repodataName
	r, _, err := c.store.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return Listing{}, nil
	}
	if err != nil {
		return Listing{}, fmt.Errorf("reading %s: %w", key, err)
	}
	defer r.Close()
	return lookThrough(&reading{r: r, key: key}, subdir, repodataName, wanted)
}

// lookThrough reads a repodata.json to its end, which alone tells that it is whole.
func lookThrough(r io.Reader, subdir, document string, wanted map[string]bool) (Listing, error) {
	l := Listing{Document: document}
	for p, err := range walk(&atMost{r: r, left: maxRepodata}) {
		var rec Listed
		if err == nil {
			if p.kind != record {
				continue
			}
			at := placed{p.section, p.key}
			if name, nerr := packageName(at.filename()); nerr != nil || !wanted[name] {
				continue
			}
			rec, err = listedJSON(at, p.raw)
		}
		if err != nil && !isReading(err) {
			err = &Malformed{Key: subdir + "/" + document, Err: err}
		}
		if err != nil {
			return Listing{}, err
		}
		l.add(rec, wanted)
	}
	return l, nil
}

func (l *Listing) add(r Listed, wanted map[string]bool) {
	if wanted[r.Name] {
		l.Records = append(l.Records, r)
	}
}

// atMost ends a reader that goes on and on.
type atMost struct {
	r    io.Reader
	left int64
}

func (a *atMost) Read(p []byte) (int, error) {
	if a.left <= 0 {
		return 0, errors.New("it is too large")
	}
	n, err := a.r.Read(p[:min(int64(len(p)), a.left)])
	a.left -= int64(n)
	return n, err
}

// newListed takes what names the package from its file's name: the file is what is verified, and who asks for a version is not
// to get the file of another.
func newListed(at placed) (Listed, error) {
	r := Listed{Filename: at.filename()}
	name, err := packageName(r.Filename)
	if err != nil {
		return Listed{}, err
	}
	r.Name = name
	stem := strings.TrimSuffix(strings.TrimSuffix(r.Filename, ".conda"), ".tar.bz2")
	r.Version, r.Build, _ = cutLast(stem[len(name)+1:])
	return r, nil
}

// listedPacked reads a shard's record. Digests are bytes there, or text.
func listedPacked(at placed, packed []byte) (Listed, error) {
	r, err := newListed(at)
	if err != nil {
		return Listed{}, err
	}
	v, err := decodeValue(packed)
	if err != nil {
		return Listed{}, fmt.Errorf("the record of %s: %w", r.Filename, err)
	}
	fields, _ := v.(map[string]any) // parseShard has seen that it is
	if n, ok := fields["build_number"].(json.Number); ok {
		r.BuildNumber, _ = n.Int64()
	}
	if r.SHA256, err = packedDigest(fields["sha256"]); err != nil {
		return Listed{}, fmt.Errorf("the record of %s: sha256: %w", r.Filename, err)
	}
	switch v := fields[attestations].(type) {
	case nil:
	case []byte:
		r.Advertised, r.Attestations = true, hex.EncodeToString(v)
		if len(v) == 64 { // text that was packed as bytes
			r.Attestations = string(v)
		}
	case string:
		r.Advertised, r.Attestations = true, v
	default:
		r.Advertised, r.Attestations = true, fmt.Sprintf("%.100v", v)
	}
	return r, nil
}

// listedJSON reads a record of repodata.json.
func listedJSON(at placed, raw []byte) (Listed, error) {
	r, err := newListed(at)
	if err != nil {
		return Listed{}, err
	}
	fields, err := splitObject(raw)
	if err != nil {
		return Listed{}, fmt.Errorf("the record of %s: %w", r.Filename, err)
	}
	if n, ok := lookup(fields, "build_number"); ok {
		r.BuildNumber, _ = strconv.ParseInt(string(n.raw), 10, 64)
	}
	r.SHA256 = strings.ToLower(jsonString(fields, "sha256"))
	if a, ok := lookup(fields, attestations); ok && string(a.raw) != "null" {
		r.Advertised, r.Attestations = true, jsonString(fields, attestations)
		if a.raw[0] != '"' {
			r.Attestations = string(a.raw[:min(len(a.raw), 100)])
		}
	}
	return r, nil
}

// ServedDigest reads a package that the channel serves, to its end, and gives the SHA-256 of its bytes in lower-case hex. What anybody
// says of them is not asked. found is false if there is none.
func (c *Channel) ServedDigest(ctx context.Context, subdir, filename string) (sha256hex string, size int64, found bool, err error) {
	if err := checkPlace(subdir, filename); err != nil {
		return "", 0, false, err
	}
	key := packageKey(subdir, filename)
	r, _, err := c.store.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return "", 0, false, nil
	}
	if err != nil {
		return "", 0, false, fmt.Errorf("reading %s: %w", key, err)
	}
	defer r.Close()
	h := sha256.New()
	buffer := c.buffers.Get().(*[]byte)
	defer c.buffers.Put(buffer)
	if size, err = io.CopyBuffer(h, struct{ io.Reader }{r}, *buffer); err != nil {
		return "", 0, false, fmt.Errorf("reading %s: %w", key, err)
	}
	return hex.EncodeToString(h.Sum(nil)), size, true, nil
}
