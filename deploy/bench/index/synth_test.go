package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/hallmark-attest/hallmark/internal/conda"
)

func synth(t *testing.T, records, names int, seed uint64) *Synth {
	t.Helper()
	s, err := NewSynth(records, names, seed)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSynthIsTheSameForTheSameSeed(t *testing.T) {
	t.Parallel()
	digest := func(seed uint64) string {
		h := sha256.New()
		if err := synth(t, 3000, 200, seed).WriteRepodata(h); err != nil {
			t.Fatal(err)
		}
		return hex.EncodeToString(h.Sum(nil))
	}
	if a, b := digest(1), digest(1); a != b {
		t.Errorf("seed 1 gives %s and %s", a, b)
	}
	if digest(1) == digest(2) {
		t.Error("seeds 1 and 2 give the same channel")
	}
}

func TestSynthHasTheShapeOfCondaForge(t *testing.T) {
	t.Parallel()
	const records, names = 50_000, 3_100
	s := synth(t, records, names, 7)
	total, size := map[bool]int{}, 0
	perName := map[string]int{}
	for _, format := range []bool{false, true} {
		before := ""
		for r := range s.Records(format) {
			if r.Filename <= before {
				t.Fatalf("%s comes after %s", r.Filename, before)
			}
			before = r.Filename
			total[format]++
			size += len(r.Filename) + len(r.JSON)
			n, err := conda.ParseFilename(r.Filename)
			if err != nil {
				t.Fatal(err)
			}
			perName[n.Name]++
			if total[format]%50 != 0 {
				continue
			}
			var got struct {
				Name, Version, Build, Subdir, SHA256, MD5 string
				Depends                                   []string
				Timestamp, Size                           int64
			}
			d := json.NewDecoder(bytes.NewReader(r.JSON))
			if err := d.Decode(&got); err != nil {
				t.Fatalf("%s: %v", r.Filename, err)
			}
			if got.Name != n.Name || got.Version != n.Version || got.Build != n.Build || got.Subdir != subdir {
				t.Fatalf("%s has the record %s", r.Filename, r.JSON)
			}
			if len(got.SHA256) != 64 || len(got.MD5) != 32 || len(got.Depends) < 2 || got.Timestamp < 1e12 || got.Size <= 0 {
				t.Fatalf("%s has the record %s", r.Filename, r.JSON)
			}
			if !slices.IsSorted(keys(t, r.JSON)) {
				t.Fatalf("%s: keys not sorted: %s", r.Filename, r.JSON)
			}
		}
	}
	if n := total[true] + total[false]; n != records {
		t.Errorf("%d records, want %d", n, records)
	}
	if len(perName) != names {
		t.Errorf("%d names, want %d", len(perName), names)
	}
	if share := float64(total[true]) / records; share < .6 || share > .73 {
		t.Errorf("%.2f are .conda, want two thirds", share)
	}
	if mean := size / records; mean < 460 || mean > 560 {
		t.Errorf("%d bytes a record on average, want about 500", mean)
	}
	counts := make([]int, 0, names)
	for _, n := range perName {
		counts = append(counts, n)
	}
	slices.Sort(counts)
	if half, most := counts[names/2], counts[names-1]; half > 12 || most < 20*half {
		t.Errorf("the middle name has %d records and the largest %d: not long-tailed", half, most)
	}
}

// keys gives an object's own keys in their order.
func keys(t *testing.T, object []byte) (keys []string) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(object))
	depth, key := 0, true
	for {
		tok, err := d.Token()
		if err == io.EOF {
			return keys
		}
		if err != nil {
			t.Fatal(err)
		}
		switch v := tok.(type) {
		case json.Delim:
			if strings.ContainsRune("{[", rune(v)) {
				depth++
			} else {
				depth--
				key = true
			}
		case string:
			if depth == 1 && key {
				keys = append(keys, v)
			}
			key = depth == 1 && !key || depth > 1
		default:
			key = true
		}
	}
}

func TestSynthIsSortedCompactJSON(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := synth(t, 500, 40, 3).WriteRepodata(&b); err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(b.Bytes(), &v); err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	e := json.NewEncoder(&want)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil { // sorts keys
		t.Fatal(err)
	}
	if !bytes.Equal(bytes.TrimSpace(want.Bytes()), bytes.TrimSpace(b.Bytes())) {
		t.Error("it is not compact, or not sorted")
	}
}

func TestPickFollowsTheRecords(t *testing.T) {
	t.Parallel()
	s := synth(t, 2000, 50, 5)
	most := slices.Index(s.counts, slices.Max(s.counts))
	r, hits := rand.New(rand.NewPCG(1, 1)), map[string]int{}
	for range 20_000 {
		hits[s.Pick(r)]++
	}
	if len(hits) != 50 {
		t.Errorf("%d of 50 names came", len(hits))
	}
	want := 10 * s.counts[most] // 20,000 draws of 2,000 records
	if got := hits[s.names[most]]; got < want*8/10 || got > want*12/10 {
		t.Errorf("the name with the most records came %d times, want about %d", got, want)
	}
}

func TestAdditionsAreRealAndNew(t *testing.T) {
	t.Parallel()
	s := synth(t, 2000, 50, 5)
	known := map[string]bool{}
	for _, n := range s.names {
		known[n] = true
	}
	seen, fresh := map[string]bool{}, 0
	for round := range 2 {
		for _, spec := range s.Additions(200, round) {
			if seen[spec.Filename()] {
				t.Errorf("%s comes twice", spec.Filename())
			}
			seen[spec.Filename()] = true
			if !known[spec.Name] {
				fresh++
			}
		}
	}
	for r := range s.Records(true) {
		if seen[r.Filename] {
			t.Errorf("%s is in the channel already", r.Filename)
		}
	}
	if fresh < 20 || fresh > 60 {
		t.Errorf("%d of 400 have a name that is new, want about a tenth", fresh)
	}
	dir := t.TempDir()
	got, err := makeAdditions(t.Context(), dir, s, 3, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range got {
		if len(a.Record) == 0 || a.AttestationsSHA256 == "" {
			t.Errorf("%s: record %s, sidecar %s", a.Filename, a.Record, a.AttestationsSHA256)
		}
	}
}
