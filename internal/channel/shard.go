package channel

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"
)

// shard holds the records of one package name (CEP 16), as their bytes stand in the source. It is never changed.
type shard struct {
	packages []member // of .tar.bz2, sorted
	conda    []member // of .conda, sorted
	others   []member // the other top-level members, sorted, among them "removed"
	size     int      // bytes, unpacked
}

func parseShard(b []byte) (*shard, error) {
	top, err := splitMap(b)
	if err != nil {
		return nil, err
	}
	if err := sortMembers(top); err != nil {
		return nil, err
	}
	s := &shard{size: len(b)}
	for _, m := range top {
		switch m.key {
		case "packages":
			s.packages, err = parsePacked(m.raw)
		case "packages.conda":
			s.conda, err = parsePacked(m.raw)
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

func (s *shard) encode() []byte {
	top := overlay([]member{packMember("removed", []byte{0x90})}, s.others)
	top = overlay(top, []member{
		packMember("packages", joinMap(nil, s.packages)),
		packMember("packages.conda", joinMap(nil, s.conda)),
	})
	return joinMap(nil, top)
}

func (s *shard) record(filename string) ([]byte, bool) {
	list := s.packages
	if isConda(filename) {
		list = s.conda
	}
	i, ok := seek(list, filename)
	if !ok {
		return nil, false
	}
	return list[i].raw, true
}

// with gives the shard with records in it.
func (s *shard) with(records []member) *shard {
	n := *s
	var packages, conda []member
	for _, m := range records {
		if isConda(m.key) {
			conda = append(conda, m)
		} else {
			packages = append(packages, m)
		}
	}
	slices.SortFunc(packages, byKey)
	slices.SortFunc(conda, byKey)
	n.packages, n.conda = overlay(s.packages, packages), overlay(s.conda, conda)
	return &n
}

// hash is a shard's digest over its compressed bytes.
type hash [32]byte

func (h hash) String() string { return hex.EncodeToString(h[:]) }

// shardIndex is a repodata_shards.msgpack.zst. It is never changed.
type shardIndex struct {
	etag   string
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
	base := ""
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
				base = string(s)
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
	x.folder, err = shardFolder(subdir, base)
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
		var h hash
		if _, err := hex.Decode(h[:], []byte(d)); err != nil {
			return fmt.Errorf("%.80q: %w", m.key, err)
		}
		x.shards[m.key] = h
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
