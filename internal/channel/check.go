package channel

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"
)

// Codes of disagreements.
const (
	PackageMissing      = "package.missing"      // a record of a package that is not in the store
	PackageSize         = "package.size"         // it has another size than its record says
	PackageDigest       = "package.digest"       // it has another SHA-256 than its record says
	PackageUnindexed    = "package.unindexed"    // a package without a record that is not listed as removed either
	SidecarMissing      = "sidecar.missing"      // the record advertises a sidecar that is not there
	SidecarStale        = "sidecar.stale"        // the mutable sidecar is not the one that the record advertises
	SidecarDigest       = "sidecar.digest"       // an immutable sidecar's bytes are not those that its name says
	SidecarMalformed    = "sidecar.malformed"    // it is not an array of bundles
	SidecarUnadvertised = "sidecar.unadvertised" // there is a sidecar, and the record advertises none (CEP 50)
	SidecarRefused      = "sidecar.refused"      // CheckOptions.Verify does not accept it
	ShardUnreadable     = "shard.unreadable"     // the index names a shard that is missing or broken
	ShardOrphan         = "shard.orphan"         // a shard that no index names, and older than the grace period
	IndexUnreadable     = "index.unreadable"     // the shard index is missing or broken
	RecordMissing       = "record.missing"       // a record is in the shards and not in repodata.json, or the other way round
	RecordDiffers       = "record.differs"       // what they say differs
	RepodataUnreadable  = "repodata.unreadable"
	ZstDiffers          = "zst.differs"        // a .zst is not the document that it is to be
	RunExportsDiffer    = "run_exports.differ" // run_exports.json is not what the shards say
	CurrentDiffers      = "current.differs"    // a record of current_repodata.json is not repodata.json's
)

// Disagreement is one thing in which a channel's parts do not agree.
type Disagreement struct {
	Code     string `json:"code"`
	Subdir   string `json:"subdir"`
	Filename string `json:"filename,omitempty"` // of the package, if it is about one
	Key      string `json:"key"`                // of the object that is wrong or missing
	Detail   string `json:"detail,omitempty"`
}

func (d Disagreement) String() string {
	if d.Detail == "" {
		return d.Key + ": " + d.Code
	}
	return d.Key + ": " + d.Code + ": " + d.Detail
}

// CheckOptions say how Check looks.
type CheckOptions struct {
	// Quick leaves out reading packages whose digest the store does not know: their size is compared alone.
	Quick bool
	// Verify, unless nil, is asked about the advertised sidecar of every record (nil for a record that advertises none); its
	// error is a disagreement. It is called concurrently.
	Verify func(filename, sha256 string, sidecar []byte) error
	// Grace is from which age on a shard that no index names is reported. Default DefaultGrace.
	Grace time.Duration
}

// Checked counts what was looked at.
type Checked struct {
	Records  int `json:"records"`
	Packages int `json:"packages"`
	Sidecars int `json:"sidecars"`
	Shards   int `json:"shards"`
}

// Check compares everything that a subdir consists of: objects in the store, shards, repodata.json, its .zst,
// run_exports.json and sidecars. It yields each disagreement, ordered by package, and an error last if it could not go on.
// counts, unless nil, is what was looked at. It reads every shard, document and sidecar, and every package whose digest the
// store does not know; memory does not follow the channel's size. A channel that is written to meanwhile may seem to
// disagree with itself.
func (c *Channel) Check(ctx context.Context, subdir string, o CheckOptions, counts *Checked) iter.Seq2[Disagreement, error] {
	if counts == nil {
		counts = &Checked{}
	}
	if o.Grace == 0 {
		o.Grace = DefaultGrace
	}
	return func(yield func(Disagreement, error) bool) {
		k := &checking{c: c, subdir: subdir, options: o, counts: counts, yield: yield}
		if err := k.run(ctx); err != nil && !errors.Is(err, errStopped) {
			yield(Disagreement{}, fmt.Errorf("checking %s: %w", subdir, err))
		}
	}
}

type checking struct {
	c       *Channel
	subdir  string
	options CheckOptions
	counts  *Checked
	yield   func(Disagreement, error) bool
	facts   *spill // by file name
	unread  map[string]bool
}

// Kinds of facts about a file: the first byte of an entry.
const (
	factObject    = 'p'
	factSigs      = 's'
	factImmutable = 'i'
	factShard     = 'r' // a record in JSON, behind its section and a zero
	factRepodata  = 'j'
	factGone      = 'x' // the shard lists it as removed
	factExports   = 'e' // the shard's run_exports
	factExported  = 'f' // those of run_exports.json
	factCurrent   = 'c' // a record of current_repodata.json
)

func (k *checking) disagreement(code, filename, key, format string, args ...any) Disagreement {
	return Disagreement{Code: code, Subdir: k.subdir, Filename: filename, Key: key, Detail: fmt.Sprintf(format, args...)}
}

func (k *checking) report(code, filename, key, format string, args ...any) error {
	if !k.yield(k.disagreement(code, filename, key, format, args...), nil) {
		return errStopped
	}
	return nil
}

func (k *checking) fact(filename string, kind byte, value []byte) error {
	return k.facts.add(filename, append([]byte{kind}, value...))
}

func (k *checking) run(ctx context.Context) error {
	if err := checkSubdir(k.subdir); err != nil {
		return &Invalid{Subdir: k.subdir, Err: err}
	}
	d, err := k.c.scratch()
	if err != nil {
		return err
	}
	defer d.remove()
	k.facts = newSpill(d.dir, room)
	defer k.facts.close()
	x, err := k.index(ctx)
	if err != nil {
		return err
	}
	if x != nil {
		if err := k.shards(ctx, x); err != nil {
			return err
		}
	}
	if err := k.documents(ctx); err != nil {
		return err
	}
	if err := k.objects(ctx, x); err != nil {
		return err
	}
	return k.files(ctx, x)
}

func (k *checking) index(ctx context.Context) (*shardIndex, error) {
	key := k.subdir + "/" + shardIndexName
	x, err := k.c.loadIndex(ctx, k.c.subdir(k.subdir), 0)
	if m, ok := asMalformed(err); ok {
		return nil, k.report(IndexUnreadable, "", key, "%v", m.Err)
	}
	if err == nil && x == nil {
		return nil, k.report(IndexUnreadable, "", key, "there is none: adopt the subdir")
	}
	return x, err
}

// files compares what is known of each file.
func (k *checking) files(ctx context.Context, x *shardIndex) error {
	var batch []*fileFacts
	flush := func() error {
		if err := k.c.each(ctx, len(batch), func(ctx context.Context, i int) error { return batch[i].compare(ctx) }); err != nil {
			return err
		}
		for _, f := range batch {
			for _, d := range f.out {
				if !k.yield(d, nil) {
					return errStopped
				}
			}
		}
		batch = batch[:0]
		return nil
	}
	var f *fileFacts
	for e, err := range k.facts.all() {
		if err != nil {
			return err
		}
		if f == nil || f.name != e.key {
			if len(batch) == 256 {
				if err := flush(); err != nil {
					return err
				}
			}
			f = &fileFacts{k: k, name: e.key, noShards: x == nil}
			batch = append(batch, f)
		}
		f.take(e.value[0], e.value[1:])
	}
	return flush()
}
