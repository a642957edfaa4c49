package channel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/hallmark-attest/hallmark/internal/store"
)

// documents are what Monolith writes, in that order.
var documents = []string{repodataName, zstName, currentName, currentZstName, runExportsName}

// Monolith brings a subdir's repodata.json, current_repodata.json, the .zst of both and run_exports.json up to date with its
// shards, which are what Update writes. written tells whether there was anything to do. It reads the shards of the names that changed since
// the last time, and reads and writes each document once; memory follows neither (Options.Scratch is where they are put
// together). It may be called at any time, also by several processes: they do the work of one, or lose a race and look again.
//
// Records in the documents stay as they are, byte for byte, but for their attestations_sha256; new ones come from the
// shards. Where somebody else has written repodata.json since, what it has and the shards do not (records, removed files)
// is put into the shards first, so that nothing is lost; that pass reads every shard.
//
// A *Malformed error says that a document cannot be read for what it has to be; nothing is written over it. Where a shard
// cannot be read, the records of that name stay as the documents have them; Check reports it.
func (c *Channel) Monolith(ctx context.Context, subdir string) (written bool, err error) {
	if err := checkSubdir(subdir); err != nil {
		return false, &Invalid{Subdir: subdir, Err: err}
	}
	s := c.subdir(subdir)
	select {
	case s.merging <- struct{}{}:
		defer func() { <-s.merging }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	sort := false
	for a := c.attempts(); ; {
		if !a.next(ctx) {
			return written, fmt.Errorf("merging the documents of %s: %w", subdir, a.err)
		}
		m := &monolith{c: c, s: s, attempt: a.n, sort: sort}
		done, err := m.run(ctx)
		written = written || m.written
		if errors.Is(err, errUnsorted) && !sort {
			sort = true
			continue
		}
		if err != nil && !errors.Is(err, errMoved) {
			return written, fmt.Errorf("merging the documents of %s: %w", subdir, err)
		}
		if done && err == nil {
			return written, nil
		}
	}
}

// patience is how many attempts whoever lost the race for a large document waits for the winner to finish: to go on at once
// would be to read every shard.
const patience = 8

// monolith is one attempt.
type monolith struct {
	c       *Channel
	s       *subdir
	attempt int  // from 1
	sort    bool // the documents' records are in no order
	written bool

	dir    string // of its files
	base   *base
	docs   map[string]store.Info // those that are there, of those that are to be
	want   int                   // how many are to be
	index  *shardIndex
	lines  *outline        // of the new repodata.json; nil if there is to be no current_repodata.json
	full   bool            // repodata.json is not the one that the base is of
	broken map[string]bool // names whose shards cannot be read
}

func (m *monolith) key(name string) string { return m.s.name + "/" + name }

// run does one attempt; done is false if somebody else was first with something.
//
// The order of reading matters: base, documents, index. So the index is never older than what the documents were merged
// from, and a merge never goes back.
func (m *monolith) run(ctx context.Context) (done bool, err error) {
	c := m.c
	if m.base, err = c.loadBase(ctx, m.s.name); err != nil {
		return false, err
	}
	if err := m.look(ctx); err != nil {
		return false, err
	}
	if m.index, err = c.loadIndex(ctx, m.s, 0); err != nil {
		return false, err
	}
	if m.index == nil { // nothing to merge from: whoever made repodata.json keeps it
		return true, nil
	}
	if len(m.docs) == m.want && m.base.covers(m.etags(), m.index) {
		return true, nil
	}
	m.full = m.base.index == nil
	for _, name := range []string{repodataName, runExportsName} {
		m.full = m.full || m.base.docs[name] != m.docs[name].ETag
	}
	if m.full && 1 < m.attempt && m.attempt < patience && m.docs[repodataName].Size > c.options.Small {
		return false, nil
	}
	d, err := c.scratch()
	if err != nil {
		return false, err
	}
	defer d.remove()
	m.dir = d.dir
	records, runExports := newDelta(m.dir), newDelta(m.dir)
	defer records.close()
	defer runExports.close()
	if err := m.collect(ctx, records, runExports); err != nil {
		return false, err
	}
	etags := map[string]string{}
	doc, zst, found, err := m.repodata(ctx, records)
	if err != nil {
		return false, err
	}
	defer doc.remove()
	defer zst.remove()
	defer m.lines.close()
	if found != nil {
		defer found.close()
		changed, err := m.adoptFound(ctx, found)
		if err != nil || changed {
			return false, err // once more, with them in the shards
		}
	}
	current, currentZst, err := m.current(doc)
	if err != nil {
		return false, err
	}
	defer current.remove()
	defer currentZst.remove()
	exports, err := m.runExports(ctx, runExports)
	if err != nil {
		return false, err
	}
	defer exports.remove()

	var won bool
	if etags[repodataName], won, err = m.put(ctx, repodataName, doc, asRepodata); err != nil || !won {
		return false, err
	}
	for _, made := range []struct {
		name  string
		draft *draft
		o     store.PutOptions
	}{{zstName, zst, asZst}, {currentName, current, asRepodata}, {currentZstName, currentZst, asZst}} {
		if made.draft == nil {
			continue
		}
		if etags[made.name], won, err = m.putMade(ctx, made.name, made.draft, made.o, etags[repodataName]); err != nil || !won {
			return false, err
		}
	}
	if etags[runExportsName], won, err = m.put(ctx, runExportsName, exports, asRepodata); err != nil || !won {
		return false, err
	}
	return true, c.saveBase(ctx, m.s.name, m.base, etags, m.index)
}

// look finds which documents are there.
func (m *monolith) look(ctx context.Context) error {
	infos, found := make([]store.Info, len(documents)), make([]bool, len(documents))
	if err := m.c.each(ctx, len(documents), func(ctx context.Context, i int) (err error) {
		infos[i], found[i], err = m.c.head(ctx, m.key(documents[i]))
		return err
	}); err != nil {
		return err
	}
	m.docs = map[string]store.Info{}
	for i, name := range documents {
		if found[i] {
			m.docs[name] = infos[i]
		}
	}
	m.want = len(documents)
	// What is there is kept up to date, however large it has become.
	_, there := m.docs[currentName]
	if limit := m.c.options.CurrentUpTo; limit < 0 || !there && m.docs[repodataName].Size > limit {
		delete(m.docs, currentName)
		delete(m.docs, currentZstName)
		m.want -= 2
	}
	return nil
}

func (m *monolith) etags() map[string]string {
	etags := map[string]string{}
	for name, info := range m.docs {
		etags[name] = info.ETag
	}
	return etags
}

// repodata makes repodata.json and its .zst. found is what the document has and the shards do not, where that may be.
func (m *monolith) repodata(ctx context.Context, d *delta) (doc, zst *draft, found *findings, err error) {
	if doc, err = newDraft(m.dir); err != nil {
		return nil, nil, nil, err
	}
	if zst, err = newDraft(m.dir); err != nil {
		doc.remove()
		return nil, nil, nil, err
	}
	defer func() {
		if err != nil {
			doc.remove()
			zst.remove()
			found.close()
			m.lines.close()
		}
	}()
	e, err := newZst(zst)
	if err != nil {
		return nil, nil, nil, err
	}
	defer e.Close()
	g := &merging{delta: d, listRemoved: true, settle: settleRecord}
	for in := range d.adds {
		if _, ok := in.v3(); ok {
			g.amend = announceV3
		}
	}
	if m.full {
		found = newFindings(m.dir)
		g.unchanged, g.listed = found.record, found.listed
	}
	if m.want == len(documents) {
		if m.lines, err = newOutline(m.dir); err != nil {
			return nil, nil, nil, err
		}
		g.wrote = func(p piece, buffered int) { m.lines.wrote(p, doc.size+int64(buffered)) }
	}
	if err := m.merge(ctx, g, repodataName, m.emptyRepodata(), io.MultiWriter(doc, e)); err != nil {
		return nil, nil, nil, err
	}
	return doc, zst, found, e.Close()
}

// runExports makes run_exports.json (CEP 12).
func (m *monolith) runExports(ctx context.Context, d *delta) (*draft, error) {
	f, err := newDraft(m.dir)
	if err != nil {
		return nil, err
	}
	info, err := encodeJSON(map[string]any{"subdir": m.s.name, "version": 0})
	if err != nil {
		return nil, err
	}
	empty := `{"info":` + string(info) + `,"packages":{},"packages.conda":{}}`
	if err := m.merge(ctx, &merging{delta: d, settle: settleRunExports}, runExportsName, empty, f); err != nil {
		f.remove()
		return nil, err
	}
	return f, nil
}

// merge reads a document from the store, or empty where there is none, and writes it with what changes.
func (m *monolith) merge(ctx context.Context, g *merging, name, empty string, out io.Writer) error {
	var in io.Reader = strings.NewReader(empty)
	if have, ok := m.docs[name]; ok && have.Size > 0 {
		r, info, err := m.c.store.Get(ctx, m.key(name))
		if err != nil {
			return fmt.Errorf("reading %s: %w", m.key(name), err)
		}
		defer r.Close()
		if info.ETag != have.ETag {
			return errMoved
		}
		in = &reading{r: r, key: m.key(name)}
	}
	pieces := walk(in)
	if m.sort {
		pieces = sorted(m.dir, pieces)
	}
	err := g.merge(pieces, out)
	if err == nil || errors.Is(err, errUnsorted) || isReading(err) || isDisk(err) || ctx.Err() != nil {
		return err
	}
	return &Malformed{Key: m.key(name), Err: err}
}

var errMoved = errors.New("somebody else wrote it meanwhile")

// emptyRepodata is what a subdir begins with (CEP 36). Where the shards' base_url says that packages are elsewhere, so does
// it (CEP 15).
func (m *monolith) emptyRepodata() string {
	info, version := map[string]any{"subdir": m.s.name}, 1
	if u, ok := lookup(m.index.info, "base_url"); ok {
		if t, _, err := text(u.raw); err == nil && len(t) > 0 {
			info["base_url"], version = string(t), 2
		}
	}
	raw, _ := encodeJSON(info) // strings always encode
	return fmt.Sprintf(`{"info":%s,"packages":{},"packages.conda":{},"removed":[],"repodata_version":%d}`, raw, version)
}

// put replaces a document, unless it is that already. won is false if somebody was first.
func (m *monolith) put(ctx context.Context, name string, d *draft, o store.PutOptions) (etag string, won bool, err error) {
	have, ok := m.docs[name]
	sum := d.sha256()
	if ok && have.Size == d.size {
		if now, _, found, err := m.c.objectDigest(ctx, m.key(name)); err != nil {
			return "", false, err
		} else if found && now == sum {
			info, found, err := m.c.head(ctx, m.key(name))
			return info.ETag, found && info.ETag == have.ETag, err
		}
	}
	o = over(o, have.ETag)
	o.SHA256 = sum
	info, err := m.c.store.Put(ctx, m.key(name), d.file, d.size, o)
	if errors.Is(err, store.ErrPrecondition) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("writing %s: %w", m.key(name), err)
	}
	m.written = true
	return info.ETag, true, nil
}

// putMade writes what was made from the repodata.json with this ETag and from nothing else: its .zst, for one.
//
// It reads the ETag of the .zst, then that of repodata.json, then writes the .zst over exactly the state that it saw. Let
// the last write of repodata.json be at t0, by A. A writes the .zst after t0, or leaves it because it is that already, at a
// t1. A write of the .zst by any B after t1 is over the state of t1 or a later one, so that B saw it after t0, read
// repodata.json's ETag later still, and writes only if that is the one that its .zst is of: the last. So from t1 on the
// .zst holds the last repodata.json.
func (m *monolith) putMade(ctx context.Context, name string, d *draft, o store.PutOptions, etag string) (_ string, won bool, err error) {
	for a := m.c.attempts(); ; {
		if !a.next(ctx) {
			return "", false, fmt.Errorf("writing %s: %w", m.key(name), a.err)
		}
		old, found, err := m.c.head(ctx, m.key(name))
		if err != nil {
			return "", false, err
		}
		delete(m.docs, name)
		if found {
			m.docs[name] = old
		}
		now, _, err := m.c.head(ctx, m.key(repodataName))
		if err != nil || now.ETag != etag {
			return "", false, err
		}
		if etag, won, err := m.put(ctx, name, d, o); won || err != nil {
			return etag, won, err
		}
	}
}
