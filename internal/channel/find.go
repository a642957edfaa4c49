package channel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/hallmark-attest/hallmark/internal/store"
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
// that grew since still has the bundles that it had. The record is the shards'. In a subdir that has none, which is one that
// Update has never written to, nothing is Indexed.
func (c *Channel) Find(ctx context.Context, subdir, filename string) (Found, error) {
	if err := checkPlace(subdir, filename); err != nil {
		return Found{}, err
	}
	var f Found
	var err error
	var info store.Info
	if f.ObjectSHA256, info, f.Exists, err = c.objectDigest(ctx, packageKey(subdir, filename)); err != nil {
		return Found{}, err
	}
	f.Size = info.Size
	s := c.subdir(subdir)
	x, err := c.loadIndex(ctx, s, c.options.Revalidate)
	if err != nil {
		return Found{}, err
	}
	if x == nil {
		return f, nil
	}
	name, err := packageName(filename)
	if err != nil {
		return Found{}, err
	}
	sh, err := c.loadShard(ctx, x, name)
	if err != nil {
		return Found{}, err
	}
	raw, _, ok := sh.record(filename)
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

// Record is a package's entry in the index.
type Record struct {
	Filename string
	// Raw is the record as repodata.json has it (CEP 36). It MUST NOT be changed.
	Raw json.RawMessage
	Indexed
}

// Records yields the records of a subdir's index, name by name: the shards' where there are any, else those of
// repodata.json as they come. A subdir without either has none. An error is yielded last. Memory does not follow the number
// of records.
func (c *Channel) Records(ctx context.Context, subdir string) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		if err := checkSubdir(subdir); err != nil {
			yield(Record{}, &Invalid{Subdir: subdir, Err: err})
			return
		}
		x, err := c.loadIndex(ctx, c.subdir(subdir), 0)
		if err != nil {
			yield(Record{}, err)
			return
		}
		if x == nil {
			c.repodataRecords(ctx, subdir, yield)
			return
		}
		for _, name := range slices.Sorted(maps.Keys(x.shards)) {
			s, err := c.loadShard(ctx, x, name)
			if err != nil {
				yield(Record{}, err)
				return
			}
			for p, packed := range s.files() {
				raw, _, err := unpackRecord(packed)
				if err != nil {
					yield(Record{}, &Malformed{Key: x.key(x.shards[name]), Err: err})
					return
				}
				if r, err := newRecord(p, raw); !yield(r, err) || err != nil {
					return
				}
			}
		}
	}
}

func (c *Channel) repodataRecords(ctx context.Context, subdir string, yield func(Record, error) bool) {
	key := subdir + "/" + repodataName
	r, _, err := c.store.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return
	}
	if err != nil {
		yield(Record{}, fmt.Errorf("reading %s: %w", key, err))
		return
	}
	defer r.Close()
	for p, err := range walk(&reading{r: r, key: key}) {
		if err != nil && !isReading(err) {
			err = &Malformed{Key: key, Err: err}
		}
		if err == nil && p.kind != record {
			continue
		}
		var out Record
		if err == nil {
			out, err = newRecord(placed{p.section, p.key}, p.raw)
		}
		if !yield(out, err) || err != nil {
			return
		}
	}
}

func newRecord(p placed, raw []byte) (Record, error) {
	fields, err := splitObject(raw)
	return Record{Filename: p.filename(), Raw: raw, Indexed: Indexed{
		SHA256:             strings.ToLower(jsonString(fields, "sha256")),
		AttestationsSHA256: jsonString(fields, attestations),
	}}, err
}

func asMalformed(err error) (*Malformed, bool) { return errors.AsType[*Malformed](err) }
