package writers_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"

	"github.com/klauspost/compress/zstd"
	"github.com/vmihailenco/msgpack/v5"
)

// getter reads an object by its key.
type getter func(key string) ([]byte, error)

// row is what clients need of a record.
type row struct {
	SHA256, Attestations string // hex
	Depends              []string
	RunExports           bool
}

// document is a repodata.json. A file that is there twice is an error of the parser's.
type document struct {
	rows    map[string]row
	removed []string
}

func parseDocument(raw []byte) (document, error) {
	d := document{rows: map[string]row{}}
	var top map[string]json.RawMessage
	if err := json.Unmarshal(raw, &top); err != nil {
		return d, err
	}
	for _, section := range []string{"packages", "packages.conda"} {
		err := members(top[section], func(file string, dec *json.Decoder) error {
			var r struct {
				SHA256       string          `json:"sha256"`
				Attestations string          `json:"attestations_sha256"`
				Depends      []string        `json:"depends"`
				RunExports   json.RawMessage `json:"run_exports"`
			}
			if err := dec.Decode(&r); err != nil {
				return err
			}
			if _, twice := d.rows[file]; twice {
				return errors.New("it is there twice")
			}
			d.rows[file] = row{r.SHA256, r.Attestations, r.Depends, r.RunExports != nil}
			return nil
		})
		if err != nil {
			return d, fmt.Errorf("%s: %w", section, err)
		}
	}
	if top["removed"] == nil {
		return d, nil
	}
	return d, json.Unmarshal(top["removed"], &d.removed)
}

// members calls f for each member of an object, also for those of the same key, with the decoder before the value.
func members(raw json.RawMessage, f func(key string, dec *json.Decoder) error) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return fmt.Errorf("%v %v, want an object", t, err)
	}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return err
		}
		key, _ := t.(string)
		if err := f(key, dec); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	return nil
}

// shardOf is one name's.
type shardOf struct {
	rows    map[string]row
	removed []string
}

func parseShard(name string, packed []byte) (shardOf, error) {
	s := shardOf{rows: map[string]row{}}
	raw, err := unzstd(packed)
	if err != nil {
		return s, err
	}
	dec := msgpack.NewDecoder(bytes.NewReader(raw))
	err = eachPacked(dec, func(section string) error {
		switch section {
		case "removed":
			return dec.Decode(&s.removed)
		case "packages", "packages.conda":
			return eachPacked(dec, func(file string) error {
				var r struct {
					Name         string         `msgpack:"name"`
					SHA256       []byte         `msgpack:"sha256"`
					Attestations []byte         `msgpack:"attestations_sha256"`
					Depends      []string       `msgpack:"depends"`
					RunExports   map[string]any `msgpack:"run_exports"`
				}
				if err := dec.Decode(&r); err != nil {
					return err
				}
				if _, twice := s.rows[file]; twice || r.Name != name {
					return fmt.Errorf("in the shard of %s there is a record of %s, twice: %v", name, r.Name, twice)
				}
				s.rows[file] = row{fmt.Sprintf("%x", r.SHA256), fmt.Sprintf("%x", r.Attestations), r.Depends, r.RunExports != nil}
				return nil
			})
		}
		return dec.Skip()
	})
	if _, more := dec.PeekCode(); err == nil && more != io.EOF {
		err = errors.New("something follows")
	}
	return s, err
}

func eachPacked(dec *msgpack.Decoder, f func(key string) error) error {
	n, err := dec.DecodeMapLen()
	for i := 0; i < n && err == nil; i++ {
		var key string
		if key, err = dec.DecodeString(); err == nil {
			if err = f(key); err != nil {
				err = fmt.Errorf("%s: %w", key, err)
			}
		}
	}
	return err
}

// parseIndex gives the key of each name's shard.
func parseIndex(packed []byte) (shards map[string]string, err error) {
	raw, err := unzstd(packed)
	if err != nil {
		return nil, err
	}
	var x struct {
		Info struct {
			Base string `msgpack:"shards_base_url"`
		} `msgpack:"info"`
		Shards map[string][]byte `msgpack:"shards"`
	}
	if err := msgpack.Unmarshal(raw, &x); err != nil {
		return nil, err
	}
	shards = map[string]string{}
	for name, h := range x.Shards {
		shards[name] = path.Join(subdir, x.Info.Base, fmt.Sprintf("%x.msgpack.zst", h))
	}
	return shards, nil
}

// loadShards reads the shard index and every shard that it names, and checks their digests.
func loadShards(get getter, known map[string]shardOf) (rows map[string]row, removed []string, err error) {
	b, err := get(subdir + "/repodata_shards.msgpack.zst")
	if err != nil {
		return nil, nil, err
	}
	index, err := parseIndex(b)
	if err != nil {
		return nil, nil, fmt.Errorf("the shard index: %w", err)
	}
	rows = map[string]row{}
	for _, name := range slices.Sorted(maps.Keys(index)) {
		key := index[name]
		b, err := get(key)
		if err != nil {
			return nil, nil, fmt.Errorf("the shard of %s: %w", name, err)
		}
		if want := path.Base(key); digest(b)+".msgpack.zst" != want {
			return nil, nil, fmt.Errorf("the shard of %s has digest %s and is called %s", name, digest(b), want)
		}
		s, ok := known[key]
		if !ok {
			if s, err = parseShard(name, b); err != nil {
				return nil, nil, fmt.Errorf("the shard of %s: %w", name, err)
			}
			known[key] = s
		}
		for file, r := range s.rows {
			if _, twice := rows[file]; twice {
				return nil, nil, fmt.Errorf("%s is in two shards", file)
			}
			rows[file] = r
		}
		removed = append(removed, s.removed...)
	}
	return rows, removed, nil
}

func loadDocument(get getter) (document, []byte, error) {
	raw, err := get(subdir + "/repodata.json")
	if err != nil {
		return document{}, nil, err
	}
	d, err := parseDocument(raw)
	if err != nil {
		err = fmt.Errorf("repodata.json: %w", err)
	}
	return d, raw, err
}

func unzstd(b []byte) ([]byte, error) {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.DecodeAll(b, nil)
}

// elements gives a sidecar's bundles as they stand there.
func elements(sidecar []byte) ([]string, error) {
	var raw []json.RawMessage
	if err := json.Unmarshal(sidecar, &raw); err != nil {
		return nil, err
	}
	out := make([]string, len(raw))
	for i, r := range raw {
		out[i] = string(r)
	}
	return out, nil
}
