package channel

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/hallmark-attest/hallmark/internal/conda"
	"github.com/hallmark-attest/hallmark/internal/conda/match"
	"github.com/hallmark-attest/hallmark/internal/store"
)

// told is what channeldata.json wants to know of a record.
type told struct {
	subdir, file    string
	version, sha256 string
	license         string
	parsed          match.Version // zero for one that is none
	number, seconds int64
	runExports      []byte // the CEP 12 object; nil if the record does not say
}

// tell reads what a shard says.
func tell(subdir string, s *shard) ([]told, error) {
	var out []told
	for p, raw := range s.files() {
		fields, err := splitMap(raw)
		if err != nil {
			return nil, fmt.Errorf("the record of %.80q: %w", p.key, err)
		}
		value := func(key string) any {
			m, ok := lookup(fields, key)
			if !ok {
				return nil
			}
			v, decodeErr := decodeValue(m.raw)
			if decodeErr != nil && err == nil {
				err = fmt.Errorf("the record of %.80q: %w", p.key, decodeErr)
			}
			return v
		}
		number := func(key string) int64 {
			n, _ := value(key).(json.Number)
			if n == "" {
				return 0
			}
			return integer([]byte(n))
		}
		t := told{subdir: subdir, file: p.filename(), number: number("build_number"), seconds: seconds(number("timestamp"))}
		t.version, _ = value("version").(string)
		t.license, _ = value("license").(string)
		t.sha256 = digestField(fields, "sha256")
		if exports, ok := value("run_exports").(map[string]any); ok && err == nil {
			t.runExports, err = encodeJSON(exports)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

// seconds gives a timestamp, which may be in milliseconds (CEP 34) or, in old packages, in seconds.
func seconds(timestamp int64) int64 {
	const endOf9999 = 253402300799
	if timestamp > endOf9999 {
		return timestamp / 1000
	}
	return max(timestamp, 0)
}

func (t told) same(o told) bool {
	return t.file == o.file && t.version == o.version && t.sha256 == o.sha256 && t.license == o.license &&
		t.number == o.number && t.seconds == o.seconds && bytes.Equal(t.runExports, o.runExports)
}

// compare puts the record last whose package an entry is made of: the newest version's last build. A .conda costs less to
// look into.
func (t told) compare(o told) int {
	versions := cmp.Compare(t.rank(), o.rank())
	if versions == 0 && !t.parsed.IsZero() {
		versions = t.parsed.Compare(o.parsed)
	} else if versions == 0 {
		versions = strings.Compare(t.version, o.version)
	}
	return cmp.Or(versions, cmp.Compare(extension(t.file), extension(o.file)), cmp.Compare(t.number, o.number),
		cmp.Compare(t.seconds, o.seconds), strings.Compare(o.subdir, t.subdir), strings.Compare(t.file, o.file))
}

// rank is 0 for what is no version.
func (t told) rank() int {
	if t.parsed.IsZero() {
		return 0
	}
	return 1
}

// later orders records of one version: the last one's run_exports stand for it.
func (t told) later(o told) int {
	return cmp.Or(cmp.Compare(t.seconds, o.seconds), cmp.Compare(t.number, o.number), strings.Compare(o.subdir, t.subdir), strings.Compare(t.file, o.file))
}

func extension(file string) int {
	if strings.HasSuffix(file, ".conda") {
		return 1
	}
	return 0
}

// patch is what becomes of a name's entry.
type patch struct {
	Version    string                     `json:"version"`
	Timestamp  int64                      `json:"timestamp"`
	License    string                     `json:"license"`
	Subdirs    []string                   `json:"subdirs"`     // those that have records; none: there are none any more
	Versions   map[string]bool            `json:"versions"`    // of the records: whether their run_exports are known
	RunExports map[string]json.RawMessage `json:"run_exports"` // those that are known and not empty
	About      json.RawMessage            `json:"about"`       // conda.About; nil if nothing is known
}

// patch makes the patch of a name; nil if there is nothing new to say of it.
func (d *channelData) patch(ctx context.Context, name string) (*patch, error) {
	var all []told
	changed := false
	for _, s := range d.subdirs {
		now, err := d.shard(ctx, s.name, s.index, name)
		if err == nil {
			all = append(all, now...)
			changed = changed || d.changed(ctx, s, name, now)
		}
		if err != nil {
			if _, ok := asMalformed(err); !ok {
				return nil, err
			}
			d.postpone(name, err) // Check reports it
			return nil, nil
		}
	}
	if !changed {
		return nil, nil
	}
	p := &patch{Versions: map[string]bool{}, RunExports: map[string]json.RawMessage{}}
	if len(all) == 0 {
		return p, nil
	}
	for i := range all {
		all[i].parsed, _ = match.ParseVersion(all[i].version)
		p.Timestamp = max(p.Timestamp, all[i].seconds)
		p.Subdirs = append(p.Subdirs, all[i].subdir)
	}
	slices.Sort(p.Subdirs)
	p.Subdirs = slices.Compact(p.Subdirs)
	slices.SortFunc(all, told.later)
	for _, t := range all {
		p.Versions[t.version] = p.Versions[t.version] || t.runExports != nil
		if t.runExports != nil {
			delete(p.RunExports, t.version)
			if string(t.runExports) != "{}" {
				p.RunExports[t.version] = t.runExports
			}
		}
	}
	best := slices.MaxFunc(all, told.compare)
	p.Version, p.License = best.version, best.license
	about, err := d.read.about(ctx, best)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		d.postpone(name, err)
		return nil, nil
	}
	p.About = about
	d.mu.Lock()
	d.fine++
	d.mu.Unlock()
	return p, nil
}

func (d *channelData) shard(ctx context.Context, subdir string, x *shardIndex, name string) ([]told, error) {
	s, err := d.c.loadShard(ctx, x, name)
	if err != nil {
		return nil, err
	}
	t, err := tell(subdir, s)
	if err != nil {
		return nil, &Malformed{Key: x.key(x.shards[name]), Err: err}
	}
	return t, nil
}

// changed tells whether the records say something else than those that were seen. A shard that was seen may be gone.
func (d *channelData) changed(ctx context.Context, s *seenSubdir, name string, now []told) bool {
	if s.seen == nil {
		return true
	}
	if s.seen.shards[name] == s.index.shards[name] {
		return false
	}
	old, err := d.shard(ctx, s.name, s.seen, name)
	return err != nil || !slices.EqualFunc(old, now, told.same)
}

// apply gives the entry that is to stand there, nil for none. indexed are the subdirs that the patch speaks for; what the
// entry has of others stays.
func (p *patch) apply(old []byte, indexed map[string]bool) (entry []byte, changed bool, err error) {
	fields := map[string]json.RawMessage{}
	if old != nil {
		if err := json.Unmarshal(old, &fields); err != nil {
			return nil, false, err
		}
	}
	var subdirs []string
	if raw, ok := fields["subdirs"]; ok && json.Unmarshal(raw, &subdirs) != nil {
		return nil, false, errors.New("its subdirs are not a list of names")
	}
	subdirs = slices.DeleteFunc(subdirs, func(s string) bool { return indexed[s] })
	elsewhere := len(subdirs) > 0
	subdirs = append(subdirs, p.Subdirs...)
	slices.Sort(subdirs)
	if subdirs = slices.Compact(subdirs); len(subdirs) == 0 {
		return nil, old != nil, nil
	}
	var failed error
	set := func(key string, v any) {
		raw, err := encodeJSON(v)
		failed = cmp.Or(failed, err)
		fields[key] = raw
	}
	set("subdirs", subdirs)
	if len(p.Subdirs) > 0 {
		if !elsewhere || !newer(unquoted(fields["version"]), p.Version) {
			if err := p.setAbout(fields, set); err != nil {
				return nil, false, err
			}
		}
		for _, key := range flags { // required
			if _, ok := fields[key]; !ok {
				set(key, false)
			}
		}
		timestamp := p.Timestamp
		if elsewhere {
			timestamp = max(timestamp, integer(fields["timestamp"]))
		}
		set("timestamp", timestamp)
		exports := map[string]json.RawMessage{}
		if raw, ok := fields["run_exports"]; ok && json.Unmarshal(raw, &exports) != nil {
			return nil, false, errors.New("its run_exports are not an object")
		}
		maps.DeleteFunc(exports, func(version string, _ json.RawMessage) bool {
			known, there := p.Versions[version]
			return known || !there && !elsewhere
		})
		if exports == nil { // null
			exports = map[string]json.RawMessage{}
		}
		maps.Copy(exports, p.RunExports)
		set("run_exports", exports)
	}
	if failed != nil {
		return nil, false, failed
	}
	if entry, err = encodeJSON(fields); err != nil {
		return nil, false, err
	}
	if old != nil {
		a, err1 := decodeObject(old)
		b, err2 := decodeObject(entry)
		if err1 == nil && err2 == nil && sameValue(a, b) {
			return old, false, nil
		}
	}
	return entry, true, nil
}

var flags = [...]string{"activate.d", "binary_prefix", "deactivate.d", "post_link", "pre_link", "pre_unlink", "text_prefix"}

// setAbout puts in what a package says of itself.
func (p *patch) setAbout(fields map[string]json.RawMessage, set func(key string, v any)) error {
	set("version", p.Version)
	if p.License != "" {
		set("license", p.License)
	}
	var about map[string]json.RawMessage
	if p.About != nil {
		if err := json.Unmarshal(p.About, &about); err != nil {
			return errOwnFile
		}
	}
	for _, key := range []string{"dev_url", "doc_url", "home", "license", "source_url", "summary"} {
		if raw, ok := about[key]; ok {
			fields[key] = raw
		}
	}
	for _, key := range flags {
		if raw, ok := about[key]; ok {
			fields[key] = raw
		}
	}
	return nil
}

func newer(version, than string) bool {
	v, err1 := match.ParseVersion(version)
	w, err2 := match.ParseVersion(than)
	return err1 == nil && (err2 != nil || v.Compare(w) > 0)
}

func unquoted(raw json.RawMessage) string {
	if len(raw) == 0 {
		return ""
	}
	return unquote(raw)
}

// abouts keeps what was read out of packages for as long as one call tries.
type abouts struct {
	c     *Channel
	mu    sync.Mutex
	known map[string]*aboutRead
}

type aboutRead struct{ about json.RawMessage }

// about reads what a package says of itself, a conda.About. nil means that it says nothing, and will not say more the next
// time: it is not in the store, or no package. An error is one of the store.
func (a *abouts) about(ctx context.Context, t told) (json.RawMessage, error) {
	key := packageKey(t.subdir, t.file)
	id := key + "\x00" + t.sha256
	a.mu.Lock()
	known := a.known[id]
	a.mu.Unlock()
	if known != nil {
		return known.about, nil
	}
	raw, err := a.read(ctx, key, t.file)
	if _, ok := errors.AsType[*conda.Error](err); ok || errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrKey) {
		raw, err = nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", key, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.known[id] = &aboutRead{raw}
	return raw, nil
}

func (a *abouts) read(ctx context.Context, key, file string) (json.RawMessage, error) {
	r, err := store.OpenReaderAt(ctx, a.c.store, key, conda.FetchFirst(file))
	if err != nil {
		return nil, err
	}
	files, err := conda.ReadInfo(ctx, r, r.Size(), file, aboutFiles(file, r.Size())...)
	if err != nil {
		return nil, err
	}
	about, err := conda.Describe(files)
	if _, ok := errors.AsType[*conda.Error](err); err != nil && !ok { // of one, what its other files say stands
		return nil, err
	}
	return encodeJSON(about)
}

// aboutFiles are the files to read. A file that is not there takes reading all of a .tar.bz2: of a large one only those are
// wanted that nearly every package has. run_exports are the shards' business.
func aboutFiles(file string, size int64) []string {
	const large = 32 << 20
	if strings.HasSuffix(file, ".tar.bz2") && size > large {
		return []string{"index.json", "about.json", "paths.json"}
	}
	return slices.DeleteFunc(conda.AboutFiles(), func(f string) bool { return f == "run_exports.json" })
}
