package channel

import (
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"
)

// shard holds the records of one package name (CEP 16), as their bytes stand in the source. It is never changed.
type shard struct {
	records map[section][]member // sorted by key
	others  []member             // the other top-level members, sorted, among them "removed"
	size    int                  // bytes, unpacked
}

func parseShard(b []byte) (*shard, error) {
	top, err := splitMap(b)
	if err != nil {
		return nil, err
	}
	if err := sortMembers(top); err != nil {
		return nil, err
	}
	s := &shard{size: len(b), records: map[section][]member{}}
	for _, m := range top {
		switch m.key {
		case string(inPackages), string(inConda):
			s.records[section(m.key)], err = parsePacked(m.raw)
		case v3:
			var kinds []member
			if kinds, err = splitMap(m.raw); err == nil {
				err = sortMembers(kinds)
			}
			for _, k := range kinds {
				if err == nil {
					s.records[inV3(k.key)], err = parsePacked(k.raw)
				}
			}
		default:
			s.others = append(s.others, m)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.key, err)
		}
	}
	return s, nil
}

func parsePacked(raw []byte) ([]member, error) {
	if k, _, _, err := header(raw); err == nil && k == kindNil {
		return nil, nil
	}
	ms, err := splitMap(raw)
	if err != nil {
		return nil, err
	}
	for _, m := range ms {
		if k, _, _, _ := header(m.raw); k != kindMap {
			return nil, fmt.Errorf("the record of %.80q is not a map", m.key)
		}
	}
	return ms, sortMembers(ms)
}

// encode gives the shard's bytes. Sections are written straight into them: a shard may have megabytes.
func (s *shard) encode() []byte {
	top := overlay([]member{packMember("removed", []byte{0x90})}, s.others)
	top = overlay(top, []member{packMember(string(inPackages), nil), packMember(string(inConda), nil)})
	var kinds []section
	size := 64
	for in, ms := range s.records {
		if _, ok := in.v3(); ok {
			kinds = append(kinds, in)
		}
		for _, m := range ms {
			size += len(m.rawKey) + len(m.raw)
		}
	}
	if len(kinds) > 0 {
		slices.Sort(kinds)
		top = overlay(top, []member{packMember(v3, nil)})
	}
	for _, m := range top {
		size += len(m.rawKey) + len(m.raw) + 5
	}
	b := appendLen(make([]byte, 0, size), kindMap, len(top))
	for _, m := range top {
		b = append(b, m.rawKey...)
		switch m.key {
		case string(inPackages), string(inConda):
			b = joinMap(b, s.records[section(m.key)])
		case v3:
			b = appendLen(b, kindMap, len(kinds))
			for _, in := range kinds {
				kind, _ := in.v3()
				b = joinMap(appendString(b, kind), s.records[in])
			}
		default:
			b = append(b, m.raw...)
		}
	}
	return b
}

// record gives a file's record and where it is.
func (s *shard) record(filename string) (raw []byte, at placed, ok bool) {
	for _, p := range placesOf(filename) {
		if raw, ok := s.at(p); ok {
			return raw, p, true
		}
	}
	return nil, placed{}, false
}

// at gives the record at a place.
func (s *shard) at(p placed) (raw []byte, ok bool) {
	list := s.records[p.section]
	i, ok := seek(list, p.key)
	if !ok {
		return nil, false
	}
	return list[i].raw, true
}

// removed gives the files that the shard lists as removed.
func (s *shard) removed() ([]string, error) {
	r, ok := lookup(s.others, "removed")
	if !ok {
		return nil, nil
	}
	v, err := decodeValue(r.raw)
	if err != nil {
		return nil, fmt.Errorf("removed: %w", err)
	}
	list, _ := v.([]any)
	files := make([]string, 0, len(list))
	for _, e := range list {
		f, ok := e.(string)
		if !ok {
			return nil, errors.New("removed: it is not a list of file names")
		}
		files = append(files, f)
	}
	return files, nil
}

// files yields the records with their files' names, section by section.
func (s *shard) files() iter.Seq2[placed, []byte] {
	return func(yield func(placed, []byte) bool) {
		for _, in := range slices.Sorted(maps.Keys(s.records)) {
			for _, m := range s.records[in] {
				if !yield(placed{in, m.key}, m.raw) {
					return
				}
			}
		}
	}
}

// with gives the shard with records in it, each in its section.
func (s *shard) with(records map[section][]member) *shard {
	n := *s
	n.records = maps.Clone(s.records)
	if n.records == nil {
		n.records = map[section][]member{}
	}
	for in, ms := range records {
		ms = slices.SortedFunc(slices.Values(ms), byKey)
		n.records[in] = overlay(s.records[in], ms)
	}
	return &n
}

// without gives the shard with files taken out of it and listed as removed; the same shard if nothing changes.
func (s *shard) without(files []string) (*shard, error) {
	list, err := s.removed()
	if err != nil {
		return nil, err
	}
	n := *s
	n.records = maps.Clone(s.records)
	changed := false
	for _, f := range files {
		for _, p := range placesOf(f) {
			if i, ok := seek(n.records[p.section], p.key); ok {
				n.records[p.section] = slices.Concat(n.records[p.section][:i], n.records[p.section][i+1:])
				changed = true
			}
		}
		if !slices.Contains(list, f) {
			list = append(list, f)
			changed = true
		}
	}
	if !changed {
		return s, nil
	}
	slices.Sort(list)
	raw := appendLen(nil, kindArray, len(list))
	for _, f := range list {
		raw = appendString(raw, f)
	}
	n.others = overlay(s.others, []member{packMember("removed", raw)})
	return &n, nil
}

// hash is a shard's digest over its compressed bytes.
type hash [32]byte

func (h hash) String() string { return hex.EncodeToString(h[:]) }

// parseHash reads what isDigest says to be one.
func parseHash(s string) (h hash) {
	_, _ = hex.Decode(h[:], []byte(s))
	return h
}

// shardIndex is a repodata_shards.msgpack.zst. It is never changed.
type shardIndex struct {
	etag   string
	base   string          // shards_base_url
	folder string          // where its shards are, as a key
	names  []member        // of shards, sorted; their bytes as they stand in the source
	shards map[string]hash // the same, read
	info   []member        // sorted
	others []member        // the other top-level members, sorted, without info and shards
}

// newShardIndex is what a subdir begins with. base_url is there because pixi requires it; "" is the index's own folder, as
// rattler-index has it.
func newShardIndex(subdir string) *shardIndex {
	return &shardIndex{
		folder: subdir + "/shards",
		shards: map[string]hash{},
		info: []member{
			packMember("base_url", appendString(nil, "")),
			packMember("shards_base_url", appendString(nil, "./shards/")),
			packMember("subdir", appendString(nil, subdir)),
		},
		others: []member{packMember("version", appendInt(nil, 1))},
	}
}

func parseShardIndex(subdir string, b []byte) (*shardIndex, error) {
	top, err := splitMap(b)
	if err != nil {
		return nil, err
	}
	if err := sortMembers(top); err != nil {
		return nil, err
	}
	x := &shardIndex{shards: map[string]hash{}}
	for _, m := range top {
		switch m.key {
		case "info":
			if x.info, err = splitMap(m.raw); err != nil {
				return nil, fmt.Errorf("info: %w", err)
			}
			if err := sortMembers(x.info); err != nil {
				return nil, fmt.Errorf("info: %w", err)
			}
			if u, ok := lookup(x.info, "shards_base_url"); ok {
				s, _, err := text(u.raw)
				if err != nil {
					return nil, errors.New("shards_base_url is not a string")
				}
				x.base = string(s)
			}
		case "shards":
			if err := x.parseNames(m.raw); err != nil {
				return nil, fmt.Errorf("shards: %w", err)
			}
		case "version":
			if v, err := decodeValue(m.raw); err != nil || fmt.Sprint(v) != "1" {
				return nil, errors.New("its version is not 1")
			}
			fallthrough
		default:
			x.others = append(x.others, m)
		}
	}
	x.folder, err = shardFolder(subdir, x.base)
	return x, err
}

func (x *shardIndex) parseNames(raw []byte) (err error) {
	if x.names, err = splitMap(raw); err != nil {
		return err
	}
	if err := sortMembers(x.names); err != nil {
		return err
	}
	for _, m := range x.names {
		v, err := decodeValue(m.raw)
		if err != nil {
			return fmt.Errorf("%.80q: %w", m.key, err)
		}
		d, err := packedDigest(v)
		if err != nil || !isDigest(d) {
			return fmt.Errorf("%.80q: not a digest", m.key)
		}
		x.shards[m.key] = parseHash(d)
	}
	return nil
}

func (x *shardIndex) key(h hash) string { return x.folder + "/" + h.String() + shardSuffix }

// with gives the index with other shards for some names, and its encoding. What it does not know stays as it is; what
// readers need and it lacks is put in.
func (x *shardIndex) with(subdir string, shards map[string]hash, now time.Time) (*shardIndex, []byte) {
	n := *x
	n.etag = ""
	n.shards = make(map[string]hash, len(x.shards)+len(shards))
	for k, h := range x.shards {
		n.shards[k] = h
	}
	var changes []member
	for k, h := range shards {
		n.shards[k] = h
		changes = append(changes, packMember(k, appendBytes(nil, h[:])))
	}
	slices.SortFunc(changes, byKey)
	n.names = overlay(x.names, changes)

	first := newShardIndex(subdir)
	if _, ok := lookup(x.info, "shards_base_url"); !ok {
		first.info[1] = packMember("shards_base_url", appendString(nil, "")) // what leaving it out stood for
	}
	n.info = overlay(overlay(first.info, x.info), []member{
		packMember("created_at", appendString(nil, now.UTC().Format("2006-01-02T15:04:05.000Z"))),
	})
	n.others = overlay(first.others, x.others)
	top := overlay(n.others, []member{
		packMember("info", joinMap(nil, n.info)),
		packMember("shards", joinMap(nil, n.names)),
	})
	return &n, joinMap(nil, top)
}

// differing gives the names whose shards are other ones than they were, or are there only now or only then, sorted.
func (x *shardIndex) differing(was map[string]hash) []string {
	var names []string
	for name, h := range x.shards {
		if old, ok := was[name]; !ok || old != h {
			names = append(names, name)
		}
	}
	for name := range was {
		if _, ok := x.shards[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
