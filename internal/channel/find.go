package channel

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"strings"
)

// Found is what the channel has of a package.
type Found struct {
	// Exists says that there is an object under the package's name; ObjectSHA256 and Size are of its bytes.
	Exists       bool
	ObjectSHA256 string // lower-case hex
	Size         int64
	// Indexed says that the index shows a record of it; Record is what the record says.
	Indexed bool
	Record  Indexed
}

// Indexed is what a record says of a package's bytes. Digests are lower-case hex.
type Indexed struct {
	SHA256             string
	AttestationsSHA256 string // "" if no sidecar is advertised
}

// Find looks for a package and its record. It is made to be called for every package of a large channel: the shard index
// is asked for at most once per Options.Revalidate, and shards are kept by their hash.
//
// An answer may be older than that. That does no harm: a record that came since is written again, to no effect; a sidecar
// that grew since still has the bundles that it had. The record is the shards', which Update writes last: what they show
// is in repodata.json too. A subdir without shards is answered from repodata.json.
func (c *Channel) Find(ctx context.Context, subdir, filename string) (Found, error) {
	if err := checkPlace(subdir, filename); err != nil {
		return Found{}, err
	}
	var f Found
	var err error
	if f.ObjectSHA256, f.Size, f.Exists, err = c.objectDigest(ctx, packageKey(subdir, filename)); err != nil {
		return Found{}, err
	}
	s := c.subdir(subdir)
	x, err := c.loadIndex(ctx, s, c.options.Revalidate)
	if err != nil {
		return Found{}, err
	}
	if x == nil {
		f.Record, f.Indexed, err = c.findInRepodata(ctx, s, filename)
		return f, err
	}
	name, err := packageName(filename)
	if err != nil {
		return Found{}, err
	}
	sh, err := c.loadShard(ctx, x, name)
	if err != nil {
		return Found{}, err
	}
	raw, ok := sh.record(filename)
	if !ok {
		return f, nil
	}
	fields, err := splitMap(raw)
	if err != nil {
		return Found{}, &Malformed{Key: x.key(x.shards[name]), Err: err}
	}
	f.Indexed = true
	f.Record = Indexed{SHA256: digestField(fields, "sha256"), AttestationsSHA256: digestField(fields, attestations)}
	return f, nil
}

func (c *Channel) findInRepodata(ctx context.Context, s *subdir, filename string) (Indexed, bool, error) {
	d, err := c.currentRepodata(ctx, s)
	if err != nil || d == nil {
		return Indexed{}, false, err
	}
	raw, ok := d.record(filename)
	if !ok {
		return Indexed{}, false, nil
	}
	fields, err := splitObject(raw)
	if err != nil {
		return Indexed{}, false, &Malformed{Key: s.name + "/" + repodataName, Err: err}
	}
	return Indexed{
		SHA256:             strings.ToLower(jsonString(fields, "sha256")),
		AttestationsSHA256: jsonString(fields, attestations),
	}, true, nil
}

// currentRepodata gives the subdir's repodata.json; nil if there is none.
func (c *Channel) currentRepodata(ctx context.Context, s *subdir) (*repodata, error) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	d, _, err := c.loadRepodata(ctx, s)
	return d, err
}

// Record is a package's entry in repodata.json.
type Record struct {
	Filename string
	// Raw is the record as its bytes stand there. It MUST NOT be changed.
	Raw json.RawMessage
	Indexed
}

// Records yields the records of a subdir's repodata.json, those of .tar.bz2 first, by file name. A subdir without one has
// none. An error is yielded last.
func (c *Channel) Records(ctx context.Context, subdir string) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		if err := checkSubdir(subdir); err != nil {
			yield(Record{}, &Invalid{Subdir: subdir, Err: err})
			return
		}
		d, err := c.currentRepodata(ctx, c.subdir(subdir))
		if err != nil {
			yield(Record{}, err)
			return
		}
		if d == nil {
			return
		}
		for _, list := range [][]member{d.packages, d.conda} {
			for _, m := range list {
				fields, err := splitObject(m.raw)
				if err != nil {
					yield(Record{}, &Malformed{Key: subdir + "/" + repodataName, Err: err})
					return
				}
				r := Record{Filename: m.key, Raw: m.raw, Indexed: Indexed{
					SHA256:             strings.ToLower(jsonString(fields, "sha256")),
					AttestationsSHA256: jsonString(fields, attestations),
				}}
				if !yield(r, nil) {
					return
				}
			}
		}
	}
}

func asMalformed(err error) (*Malformed, bool) { return errors.AsType[*Malformed](err) }
