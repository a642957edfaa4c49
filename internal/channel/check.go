package channel

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/store"
	"github.com/klauspost/compress/zstd"
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

func (k *checking) report(code, filename, key, format string, args ...any) error {
	if !k.yield(Disagreement{Code: code, Subdir: k.subdir, Filename: filename, Key: key, Detail: fmt.Sprintf(format, args...)}, nil) {
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

// shards takes down what the shards say.
func (k *checking) shards(ctx context.Context, x *shardIndex) error {
	names := slices.Sorted(maps.Keys(x.shards))
	for chunk := range slices.Chunk(names, 256) {
		loaded, errs := make([]*shard, len(chunk)), make([]*Malformed, len(chunk))
		if err := k.c.each(ctx, len(chunk), func(ctx context.Context, i int) (err error) {
			loaded[i], err = k.c.loadShard(ctx, x, chunk[i])
			if m, ok := asMalformed(err); ok {
				errs[i] = m
				return nil
			}
			return err
		}); err != nil {
			return err
		}
		for i, s := range loaded {
			k.counts.Shards++
			err := error(errs[i])
			if errs[i] == nil {
				err = k.shard(s)
			}
			if errors.Is(err, errStopped) || isSpill(err) {
				return err
			}
			if err != nil {
				if k.unread == nil {
					k.unread = map[string]bool{}
				}
				k.unread[chunk[i]] = true
				if err := k.report(ShardUnreadable, "", x.key(x.shards[chunk[i]]), "the shard of %s: %v", chunk[i], err); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (k *checking) shard(s *shard) error {
	for p, raw := range s.files() {
		b, exports, err := unpackRecord(raw)
		if err != nil {
			return fmt.Errorf("the record of %.80q: %w", p.key, err)
		}
		k.counts.Records++
		if err := k.fact(p.filename(), factShard, b); err != nil {
			return spillError{err}
		}
		if exports != nil {
			if err := k.fact(p.filename(), factExports, exports); err != nil {
				return spillError{err}
			}
		}
	}
	removed, err := s.removed()
	if err != nil {
		return err
	}
	for _, f := range removed {
		if err := k.fact(f, factGone, nil); err != nil {
			return spillError{err}
		}
	}
	return nil
}

// spillError is a failure of this machine's disk, which is no disagreement.
type spillError struct{ error }

func (e spillError) Unwrap() error { return e.error }
func isSpill(err error) bool       { _, ok := errors.AsType[spillError](err); return ok }

// documents takes down what the documents say, and compares them with their .zst.
func (k *checking) documents(ctx context.Context) error {
	for _, doc := range []struct {
		name string
		kind byte
	}{{repodataName, factRepodata}, {currentName, factCurrent}, {runExportsName, factExported}} {
		key := k.subdir + "/" + doc.name
		r, _, err := k.c.store.Get(ctx, key)
		if errors.Is(err, store.ErrNotFound) {
			if doc.name == repodataName {
				if err := k.report(RepodataUnreadable, "", key, "it is not there"); err != nil {
					return err
				}
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", key, err)
		}
		err = k.document(ctx, r, key, doc.kind)
		_ = r.Close()
		if err != nil {
			return err
		}
	}
	if err := k.zst(ctx, repodataName, zstName, true); err != nil {
		return err
	}
	return k.zst(ctx, currentName, currentZstName, false)
}

func (k *checking) document(ctx context.Context, r io.Reader, key string, kind byte) error {
	for p, err := range walk(&reading{r: r, key: key}) {
		if err != nil {
			if isReading(err) || ctx.Err() != nil {
				return err
			}
			return k.report(RepodataUnreadable, "", key, "%v", err)
		}
		if p.kind == record {
			if err := k.fact(placed{p.section, p.key}.filename(), kind, p.raw); err != nil {
				return err
			}
		}
	}
	return nil
}

// zst compares a document with its .zst. Where that is not needed, it is not missed.
func (k *checking) zst(ctx context.Context, name, zstName string, needed bool) error {
	key := k.subdir + "/" + zstName
	z, _, err := k.c.store.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		if !needed {
			return nil
		}
		return k.report(ZstDiffers, "", key, "it is not there")
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", key, err)
	}
	defer z.Close()
	j, _, err := k.c.store.Get(ctx, k.subdir+"/"+name)
	if errors.Is(err, store.ErrNotFound) {
		return nil // reported, if it is needed
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", k.subdir+"/"+name, err)
	}
	defer j.Close()
	d, err := zstd.NewReader(&reading{r: z, key: key}, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	defer d.Close()
	same, err := equal(d, &reading{r: j, key: k.subdir + "/" + name})
	if isReading(err) {
		return err
	}
	if err != nil || !same {
		return k.report(ZstDiffers, "", key, "it does not hold what %s holds", name)
	}
	return nil
}

// equal tells whether two readers give the same bytes.
func equal(a, b io.Reader) (bool, error) {
	x, y := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, errA := io.ReadFull(a, x)
		m, errB := io.ReadFull(b, y)
		for _, err := range []error{errA, errB} {
			if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
				return false, err
			}
		}
		if n != m || !bytes.Equal(x[:n], y[:m]) {
			return false, nil
		}
		if errA != nil || errB != nil {
			return errA != nil && errB != nil, nil
		}
	}
}

// object is what is taken down of an object in the store.
type objectFact struct {
	Size   int64
	SHA256 string
}

// objects takes down what is in the store, and reports shards that nobody needs.
func (k *checking) objects(ctx context.Context, x *shardIndex) error {
	used := map[hash]bool{}
	if x != nil {
		for _, h := range x.shards {
			used[h] = true
		}
	}
	prefixes := []string{k.subdir + "/"}
	if x != nil && !strings.HasPrefix(x.folder+"/", prefixes[0]) {
		prefixes = append(prefixes, x.folder+"/")
	}
	for _, prefix := range prefixes {
		for info, err := range k.c.store.List(ctx, prefix) {
			if err != nil {
				return fmt.Errorf("listing %s: %w", prefix, err)
			}
			if x != nil {
				if h, ok := x.shardOf(info.Key); ok {
					if !used[h] && k.c.options.Now().Sub(info.Modified) > k.options.Grace {
						if err := k.report(ShardOrphan, "", info.Key, "no index names it: collect it"); err != nil {
							return err
						}
					}
					continue
				}
			}
			name, ok := strings.CutPrefix(info.Key, k.subdir+"/")
			if !ok || strings.Contains(name, "/") {
				continue
			}
			if err := k.object(name, info); err != nil {
				return err
			}
		}
	}
	return nil
}

func (k *checking) object(name string, info store.Info) error {
	kind := byte(factObject)
	file, sha, isSigs := strings.Cut(name, sigsSuffix)
	switch {
	case isSigs && sha == "":
		kind = factSigs
	case isSigs && strings.HasPrefix(sha, ".") && isDigest(sha[1:]):
		kind, info.SHA256 = factImmutable, sha[1:]
	default:
		file = name
	}
	if _, err := packageName(file); err != nil {
		return nil // nothing of a package's
	}
	switch kind {
	case factObject:
		k.counts.Packages++
	case factSigs:
		k.counts.Sidecars++
	}
	b, err := json.Marshal(objectFact{info.Size, info.SHA256})
	if err != nil {
		return err
	}
	return k.fact(file, kind, b)
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

// fileFacts is what is known of one file.
type fileFacts struct {
	k                 *checking
	name              string
	noShards          bool
	object, sigs      *objectFact
	immutable         []string
	shard, repodata   []byte
	current           []byte
	exports, exported []byte
	gone              bool
	out               []Disagreement
}

func (f *fileFacts) take(kind byte, value []byte) {
	var o objectFact
	switch kind {
	case factObject, factSigs, factImmutable:
		_ = json.Unmarshal(value, &o) // written a moment ago
	}
	switch kind {
	case factObject:
		f.object = &o
	case factSigs:
		f.sigs = &o
	case factImmutable:
		f.immutable = append(f.immutable, o.SHA256)
	case factShard:
		f.shard = value
	case factRepodata:
		f.repodata = value
	case factExports:
		f.exports = value
	case factExported:
		f.exported = value
	case factCurrent:
		f.current = value
	case factGone:
		f.gone = true
	}
}

func (f *fileFacts) report(code, key, format string, args ...any) {
	f.out = append(f.out, Disagreement{Code: code, Subdir: f.k.subdir, Filename: f.name, Key: key, Detail: fmt.Sprintf(format, args...)})
}

func (f *fileFacts) compare(ctx context.Context) error {
	key := packageKey(f.k.subdir, f.name)
	name, _ := packageName(f.name)
	unread := f.noShards || f.k.unread[name] // reported once for all
	shown := f.shard
	if shown == nil {
		shown = f.repodata
	}
	if f.current != nil && (f.repodata != nil || f.shard == nil) && !sameCurrent(f.current, f.repodata) {
		f.report(CurrentDiffers, f.k.subdir+"/"+currentName, "its record is not that of %s", repodataName)
	}
	switch {
	case shown == nil:
		if f.object != nil && !f.gone && !unread {
			f.report(PackageUnindexed, key, "no record shows it")
		}
		return nil
	case f.shard == nil && !unread:
		f.report(RecordMissing, f.k.subdir+"/"+repodataName, "it has a record that the shards lack")
	case f.repodata == nil:
		f.report(RecordMissing, f.k.subdir+"/"+repodataName, "it lacks a record that the shards have")
	case f.shard != nil:
		f.compareRecords()
	}
	r, err := newRecord(placed{key: f.name}, shown)
	if err != nil {
		f.report(RecordDiffers, key, "its record cannot be read: %v", err)
		return nil
	}
	if err := f.comparePackage(ctx, key, r); err != nil {
		return err
	}
	return f.compareSidecars(ctx, r)
}

// sameCurrent tells whether a record of current_repodata.json is repodata.json's. conda-index puts a field into those that
// it writes.
func sameCurrent(current, repodata []byte) bool {
	if bytes.Equal(current, repodata) {
		return true
	}
	a, err1 := decodeObject(current)
	b, err2 := decodeObject(repodata)
	if err1 != nil || err2 != nil {
		return false
	}
	delete(a, "legacy_bz2_md5")
	delete(b, "legacy_bz2_md5")
	return sameValue(a, b)
}

func (f *fileFacts) compareRecords() {
	a, err1 := decodeObject(f.shard)
	b, err2 := decodeObject(f.repodata)
	if err1 != nil || err2 != nil {
		f.report(RecordDiffers, f.k.subdir+"/"+repodataName, "a record cannot be read")
		return
	}
	var fields []string
	for _, key := range slices.Sorted(maps.Keys(a)) {
		if !sameValue(a[key], b[key]) {
			fields = append(fields, key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(b)) {
		if _, ok := a[key]; !ok {
			fields = append(fields, key)
		}
	}
	if len(fields) > 0 {
		f.report(RecordDiffers, f.k.subdir+"/"+repodataName, "shard and repodata.json differ in %s", strings.Join(fields, ", "))
	}
	if f.exports != nil && !f.noShards {
		x, err1 := decodeObject(f.exports)
		y, err2 := decodeObject(f.exported)
		if err1 != nil || err2 != nil || !sameValue(x["run_exports"], y["run_exports"]) {
			f.report(RunExportsDiffer, f.k.subdir+"/"+runExportsName, "it does not say what the shard says of it")
		}
	}
}

// sameValue compares what decodeObject reads: numbers by their value.
func sameValue(a, b any) bool {
	x, err1 := appendValue(nil, a, 1)
	y, err2 := appendValue(nil, b, 1)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}

func (f *fileFacts) comparePackage(ctx context.Context, key string, r Record) error {
	if f.object == nil {
		f.report(PackageMissing, key, "a record shows it")
		return nil
	}
	fields, _ := decodeObject(r.Raw)
	if n, ok := fields["size"].(json.Number); ok && string(n) != fmt.Sprint(f.object.Size) {
		f.report(PackageSize, key, "it has %d bytes, its record says %s", f.object.Size, n)
		return nil
	}
	have := f.object.SHA256
	if have == "" && !f.k.options.Quick {
		var err error
		var found bool
		if have, _, found, err = f.k.c.objectDigest(ctx, key); err != nil {
			return err
		} else if !found {
			f.report(PackageMissing, key, "it was deleted a moment ago")
			return nil
		}
	}
	if have != "" && r.SHA256 != "" && have != r.SHA256 {
		f.report(PackageDigest, key, "its SHA-256 is %s, its record says %s", have, r.SHA256)
	}
	return nil
}

func (f *fileFacts) compareSidecars(ctx context.Context, r Record) error {
	want := r.AttestationsSHA256
	if want == "" {
		if f.sigs != nil {
			f.report(SidecarUnadvertised, sigsKey(f.k.subdir, f.name), "its record has no %s", attestations)
		}
		f.verify(r, sigsKey(f.k.subdir, f.name), nil)
		return nil
	}
	for _, s := range []struct {
		key, code string
	}{{sigsOf(f.k.subdir, f.name, want), SidecarDigest}, {sigsKey(f.k.subdir, f.name), SidecarStale}} {
		b, _, found, err := f.k.c.read(ctx, s.key, attest.MaxSidecar)
		if m, ok := asMalformed(err); ok {
			f.report(SidecarMalformed, s.key, "%v", m.Err)
			continue
		}
		if err != nil {
			return err
		}
		if !found {
			f.report(SidecarMissing, s.key, "the record advertises %s", want)
			continue
		}
		if have := digest(b); have != want {
			f.report(s.code, s.key, "its SHA-256 is %s, the record advertises %s", have, want)
			continue
		}
		if elements, err := attest.Split(b); err != nil || len(elements) == 0 {
			f.report(SidecarMalformed, s.key, "it is not an array of bundles")
		} else if s.code == SidecarDigest {
			f.verify(r, s.key, b)
		}
	}
	return nil
}

func (f *fileFacts) verify(r Record, key string, sidecar []byte) {
	if f.k.options.Verify == nil {
		return
	}
	if err := f.k.options.Verify(f.name, r.SHA256, sidecar); err != nil {
		f.report(SidecarRefused, key, "%v", err)
	}
}
