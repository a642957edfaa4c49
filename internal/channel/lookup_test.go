package channel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/store"
)

// webMemory is a memory store that resolves URLs, as one that reads from a web server does.
type webMemory struct{ *memory }

func (webMemory) Key(_, reference string) (string, bool) {
	key, ok := strings.CutPrefix(strings.TrimSuffix(reference, "/"), "https://own.example/ch/")
	return key, ok
}

// document is a repodata.json with two records of a, one in each section, and others.
func document(sha256, att string) []byte {
	return fmt.Appendf(nil, `{"info":{"subdir":"noarch"},"packages":{"a-2-h_1.tar.bz2":{"name":"a","version":"2","build":"h_1","build_number":1,"sha256":%q}},`+
		`"packages.conda":{"a-1-h_0.conda":{"name":"a","version":"1","build":"h_0","build_number":0,"sha256":%q,"attestations_sha256":%s},"b-1-0.conda":{"name":"b"},"no-name.conda":{}}}`,
		strings.ToUpper(sha256), sha256, att)
}

// TestLookup: the same records come from each document that a channel may have, and of several the first counts.
func TestLookup(t *testing.T) {
	t.Parallel()
	sha, att := strings.Repeat("ab", 32), strings.Repeat("cd", 32)
	shard := packed(t, map[string]any{"packages": map[string]any{"a-2-h_1.tar.bz2": map[string]any{"build_number": 1, "sha256": sha}},
		"packages.conda": map[string]any{"a-1-h_0.conda": map[string]any{"sha256": parse(sha), "attestations_sha256": parse(att)}}})
	index := func(base string) []byte {
		return packed(t, map[string]any{"version": 1, "info": map[string]any{"shards_base_url": base}, "shards": map[string]any{"a": parse(digest(shard))}})
	}
	doc := document(sha, `"`+att+`"`)
	want := []Listed{
		{Filename: "a-2-h_1.tar.bz2", Name: "a", Version: "2", Build: "h_1", BuildNumber: 1, SHA256: sha},
		{Filename: "a-1-h_0.conda", Name: "a", Version: "1", Build: "h_0", SHA256: sha, Advertised: true, Attestations: att},
	}
	shards := "noarch/" + digest(shard) + ".msgpack.zst"
	for name, test := range map[string]struct {
		objects map[string][]byte
		denied  string // this document is
		want    string // document
		err     error
	}{
		"shards":            {map[string][]byte{shardIndexName: index("./x/"), "x/" + digest(shard) + ".msgpack.zst": shard, repodataName: nil}, "", shardIndexName, nil},
		"shards by URL":     {map[string][]byte{shardIndexName: index("https://own.example/ch/noarch/"), strings.TrimPrefix(shards, "noarch/"): shard}, "", shardIndexName, nil},
		"shards elsewhere":  {map[string][]byte{shardIndexName: index("https://other.example/"), repodataName: doc}, "", repodataName, nil},
		"shards away alone": {map[string][]byte{shardIndexName: index("https://other.example/")}, "", "", errElsewhere},
		"zst":               {map[string][]byte{zstName: compress(t, doc), repodataName: nil}, "", zstName, nil},
		"json":              {map[string][]byte{repodataName: doc}, "", repodataName, nil},
		"shards denied":     {map[string][]byte{repodataName: doc}, shardIndexName, repodataName, nil},
		"denied":            {nil, repodataName, "", store.ErrAuth},
		"nothing":           {nil, "", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMemory()
			for k, b := range test.objects {
				m.set("noarch/"+k, b)
			}
			m.before = func(_, key string) error {
				if test.denied != "" && strings.HasSuffix(key, test.denied) {
					return store.ErrAuth
				}
				return nil
			}
			l, err := New(webMemory{m}, Options{}).Lookup(t.Context(), "noarch", []string{"a", "c"})
			if !errors.Is(err, test.err) || l.Document != test.want {
				t.Fatalf("document %q, %v", l.Document, err)
			}
			if test.want != "" {
				if d := cmp.Diff(want, l.Records); d != "" {
					t.Error(d)
				}
			}
		})
	}
}

func parse(hex string) []byte { h := parseHash(hex); return h[:] }

// TestLookupInBrokenDocuments: what cannot be read is never taken for what says nothing of the package.
func TestLookupInBrokenDocuments(t *testing.T) {
	t.Parallel()
	doc := document(strings.Repeat("ab", 32), `"x"`)
	zst := compress(t, doc)
	for name, objects := range map[string]map[string][]byte{
		"json cut":      {repodataName: doc[:len(doc)-3]},
		"zst cut":       {zstName: zst[:len(zst)-3], repodataName: doc},
		"zst none":      {zstName: doc, repodataName: doc},
		"index none":    {shardIndexName: doc, repodataName: doc},
		"shard missing": {shardIndexName: packed(t, map[string]any{"version": 1, "shards": map[string]any{"a": strings.Repeat("ab", 32)}}), repodataName: doc},
		"shard changed": {shardIndexName: packed(t, map[string]any{"version": 1, "shards": map[string]any{"a": strings.Repeat("ab", 32)}}), strings.Repeat("ab", 32) + ".msgpack.zst": zst},
	} {
		m := newMemory()
		for k, b := range objects {
			m.set("noarch/"+k, b)
		}
		if l, err := New(m, Options{}).Lookup(t.Context(), "noarch", []string{"a"}); !isA[*Malformed](err) {
			t.Errorf("%s: %v, %v", name, l, err)
		}
	}
	// What the store's reader says is not the document's fault, also where a decompressor is between them.
	boom := errors.New("boom")
	for name, b := range map[string][]byte{zstName: zst, repodataName: doc} {
		m := newMemory()
		m.set("noarch/"+name, b)
		if _, err := New(breaking{m, boom}, Options{}).Lookup(t.Context(), "noarch", []string{"a"}); !errors.Is(err, boom) || isA[*Malformed](err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := io.ReadAll(&atMost{r: endless{}, left: 1000}); err == nil {
		t.Error("a document without an end")
	}
}

// breaking is a store whose bodies break off.
type breaking struct {
	*memory
	err error
}

func (b breaking) Get(ctx context.Context, key string) (io.ReadCloser, store.Info, error) {
	r, i, err := b.memory.Get(ctx, key)
	if err != nil {
		return nil, i, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(io.LimitReader(r, 10), failing{b.err}), r}, i, nil
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// TestLookupOfAdvertisedDigests: none, one, and what is none are told apart, in both forms of a record.
func TestLookupOfAdvertisedDigests(t *testing.T) {
	t.Parallel()
	att := strings.Repeat("cd", 32)
	for _, test := range []struct {
		json       string // "" for none
		packed     any
		advertised bool
		want       string
	}{
		{`null`, nil, false, ""},
		{`"` + att + `"`, att, true, att},
		{`"` + att + `"`, []byte(att), true, att},
		{`"` + strings.ToUpper(att) + `"`, strings.ToUpper(att), true, strings.ToUpper(att)},
		{`"../../x"`, "../../x", true, "../../x"},
		{`""`, "", true, ""},
		{`7`, 7, true, "7"},
	} {
		at := placed{inConda, "a-1-h_0.conda"}
		m := newMemory()
		m.set("noarch/repodata.json", document(att, test.json))
		l, err := New(m, Options{}).Lookup(t.Context(), "noarch", []string{"a"})
		if err != nil || len(l.Records) != 2 {
			t.Fatal(l, err)
		}
		p, err := listedPacked(at, unzstd(t, packed(t, map[string]any{"attestations_sha256": test.packed})))
		if err != nil {
			t.Fatal(err)
		}
		for form, r := range map[string]Listed{"repodata.json": l.Records[1], "shard": p} {
			if r.Advertised != test.advertised || r.Attestations != test.want {
				t.Errorf("%s of %s: %t %q", form, test.json, r.Advertised, r.Attestations)
			}
			if valid := attest.CheckAttestationsSHA256(r.Attestations) == nil; valid != (test.want == att) {
				t.Errorf("%s of %s: valid %t", form, test.json, valid)
			}
		}
	}
}

// TestServedSidecars: each way in which a sidecar cannot be had has its code.
func TestServedSidecars(t *testing.T) {
	t.Parallel()
	m := newMemory()
	c := New(m, Options{})
	good, large := []byte(`[{}]`), bytes.Repeat([]byte(" "), attest.MaxSidecar+1)
	m.set("noarch/a-1-0.conda.sigs."+digest(good), good)
	m.set("noarch/a-1-0.conda.sigs."+digest(large), large)
	m.set("noarch/a-1-0.conda.sigs."+digest([]byte("x")), good)
	m.set("noarch/a-1-0.conda.v0.sigs", good)
	m.set("noarch/b-1-0.conda.v0.sigs", large)
	for sha, want := range map[string]attest.Code{
		digest(good): "", digest(large): attest.CodeSidecarTooLarge, digest([]byte("x")): attest.CodeSidecarDigest,
		digest([]byte("y")): attest.CodeSidecarAbsent, "../x": attest.CodeSidecarDigest, "": attest.CodeSidecarDigest,
	} {
		b, err := c.AdvertisedSidecar(t.Context(), "noarch", "a-1-0.conda", sha)
		if attest.CodeOf(err) != want || (err == nil) != (want == "") || err == nil && !bytes.Equal(b, good) {
			t.Errorf("%s: %q, %v, want %s", sha, b, err, want)
		}
	}
	if b, found, err := c.ServedSidecar(t.Context(), "noarch", "a-1-0.conda", ".v0.sigs"); err != nil || !found || !bytes.Equal(b, good) {
		t.Errorf("%q %t %v", b, found, err)
	}
	if _, _, err := c.ServedSidecar(t.Context(), "noarch", "b-1-0.conda", ".v0.sigs"); attest.CodeOf(err) != attest.CodeSidecarTooLarge {
		t.Error(err)
	}
	if _, found, err := c.ServedSidecar(t.Context(), "noarch", "a-1-0.conda", ".sigs"); err != nil || found {
		t.Errorf("%t %v", found, err)
	}
	if sha, size, found, err := c.ServedDigest(t.Context(), "noarch", "a-1-0.conda"); err != nil || found {
		t.Errorf("%s %d %t %v", sha, size, found, err)
	}
	m.set("noarch/a-1-0.conda", good)
	if sha, size, found, err := c.ServedDigest(t.Context(), "noarch", "a-1-0.conda"); err != nil || !found || sha != digest(good) || size != 4 {
		t.Errorf("%s %d %t %v", sha, size, found, err)
	}
}
