package channel

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// emptyChannelData is what a channel begins with (CEP 38).
const emptyChannelData = `{"channeldata_version":1,"packages":{},"subdirs":[]}`

// merge writes the document with the patches in it, one entry a line: the entries are records of the section "packages". changed is false if
// it is what it was.
func (d *channelData) merge(patches *delta, out io.Writer) (changed bool, err error) {
	var in io.Reader = strings.NewReader(emptyChannelData)
	if d.etag != "" {
		if _, err := d.old.file.Seek(0, io.SeekStart); err != nil {
			return false, err
		}
		in = d.old.file
	}
	pieces := walk(in)
	if d.sort {
		pieces = sorted(d.dir, pieces)
	}
	indexed, subdirs := d.indexed(), d.allSubdirs()
	apply := func(old, value []byte) ([]byte, error) {
		var p patch
		if json.Unmarshal(value, &p) != nil {
			return nil, errOwnFile
		}
		raw, new, err := p.apply(old, indexed)
		changed = changed || new
		return raw, err
	}
	g := &merging{
		delta:    patches,
		sections: []section{inPackages},
		missing:  []member{jsonMember("channeldata_version", []byte("1")), jsonMember("subdirs", []byte("[]"))},
		amend: func(key string, raw []byte) ([]byte, error) {
			if key != "subdirs" || slices.Equal(d.listed, subdirs) {
				return raw, nil
			}
			changed = true
			return encodeJSON(subdirs)
		},
		settle: func(_ section, old member, _ byte, value []byte) ([]byte, error) {
			raw, err := apply(old.raw, value)
			if err != nil && !errors.Is(err, errOwnFile) {
				err = fmt.Errorf("the entry of %.80q: %w", old.key, err)
			}
			return raw, err
		},
		fresh: func(value []byte) ([]byte, error) { return apply(nil, value) },
	}
	if err := g.merge(pieces, out); errors.Is(err, errOwnFile) || isDisk(err) {
		return false, err
	} else if err != nil {
		return false, &Malformed{Key: channelDataKey, Err: err}
	}
	return changed || d.lacks, nil
}

// indexed are the subdirs whose shards say all that there is to say of them.
func (d *channelData) indexed() map[string]bool {
	m := map[string]bool{}
	for _, s := range d.subdirs {
		m[s.name] = true
	}
	return m
}

// allSubdirs is what the document lists, and those with shards, in order.
func (d *channelData) allSubdirs() []string {
	missing := false
	all := slices.Clone(d.listed)
	for _, s := range d.subdirs {
		if !slices.Contains(all, s.name) {
			missing = true
			all = append(all, s.name)
		}
	}
	if missing {
		slices.Sort(all)
	}
	if all == nil {
		all = []string{}
	}
	return all
}
