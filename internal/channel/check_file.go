package channel

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hallmark-attest/hallmark/internal/attest"
)

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
	f.out = append(f.out, f.k.disagreement(code, f.name, key, format, args...))
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
