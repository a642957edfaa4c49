package conda_test

import (
	"archive/zip"
	"bytes"
	"compress/bzip2"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hallmark-attest/hallmark/internal/conda"
	"github.com/hallmark-attest/hallmark/internal/conda/condatest"
)

func read(t testing.TB, filename string, b []byte, opts ...conda.Option) (*conda.Package, error) {
	t.Helper()
	return conda.Read(t.Context(), bytes.NewReader(b), int64(len(b)), filename, opts...)
}

func build(t testing.TB, s condatest.Spec) []byte {
	t.Helper()
	b, err := s.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func code(err error) string {
	if e, ok := errors.AsType[*conda.Error](err); ok {
		return e.Code
	}
	return ""
}

func plain(f conda.Format) condatest.Spec {
	return condatest.Spec{Name: "plain", Version: "1.0", Build: "h0_3", BuildNumber: 3, Subdir: "linux-64", Format: f, License: "MIT", Depends: []string{"python >=3.9,<4"}}
}

func TestReadRefusesBadPackages(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, b := range condatest.Bad() {
		if seen[b.Filename] {
			t.Errorf("two cases are named %s", b.Filename)
		}
		seen[b.Filename] = true
		t.Run(b.Name, func(t *testing.T) {
			p, err := read(t, b.Filename, b.Bytes)
			if code(err) != b.Code || p != nil {
				t.Errorf("code %q, want %q: %v", code(err), b.Code, err)
			}
			if e, ok := errors.AsType[*conda.Error](err); ok && (e.Hint == "" || e.Error() == "") {
				t.Error("no hint, or no message")
			}
			if len(b.Bytes) > 200_000 {
				t.Errorf("the case has %d bytes", len(b.Bytes))
			}
		})
	}
}

func TestReadSamples(t *testing.T) {
	t.Parallel()
	for _, s := range condatest.Samples(32, 7) {
		b := build(t, s)
		p, err := read(t, s.Filename(), b)
		if err != nil {
			t.Error(err)
			continue
		}
		sha, md := sha256.Sum256(b), md5.Sum(b)
		runExports, err := conda.RunExports(s.RunExports)
		if err != nil {
			t.Fatal(err)
		}
		want := conda.Package{
			Name: s.Name, Version: s.Version, Build: s.Build, BuildNumber: int64(s.BuildNumber), Subdir: s.Subdir, Format: s.Format,
			Size: int64(len(b)), SHA256: hex.EncodeToString(sha[:]), MD5: hex.EncodeToString(md[:]),
			Index: p.Index, Record: p.Record, RunExports: runExports,
		}
		if d := cmp.Diff(want, *p); d != "" {
			t.Errorf("%s: %s", s.Filename(), d)
		}
		index, record := object(t, p.Index), object(t, p.Record)
		for _, k := range []string{"sha256", "md5", "size"} {
			delete(record, k)
		}
		if d := cmp.Diff(index, record); d != "" {
			t.Errorf("%s: the record is not the index: %s", s.Filename(), d)
		}
	}
}

func object(t testing.TB, raw []byte) map[string]any {
	t.Helper()
	m := map[string]any{}
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// Everything that the package says about itself in the channel's stead MUST go: see channelFields.
func TestRecordTrustsNoForgedFields(t *testing.T) {
	t.Parallel()
	s := plain(conda.Conda)
	s.Index = map[string]any{
		"sha256": strings.Repeat("0", 64), "md5": "forged", "size": 1, "attestations_sha256": strings.Repeat("a", 64), "attestations": map[string]any{},
		"fn": "other.conda", "url": "http://example.com/other.conda", "channel": "x", "indexed_timestamp": 1, "run_exports": map[string]any{}, "signatures": 1,
		"schema_version": 2, "b": json.Number("1.50"), "a": []any{"<&>", json.Number("12345678901234567890123")}, "é": nil, "constrains": json.RawMessage("null"),
	}
	b := build(t, s)
	p, err := read(t, s.Filename(), b)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`{"a":["<&>",12345678901234567890123],"b":1.50,"build":"h0_3","build_number":3,"depends":["python >=3.9,<4"],"license":"MIT","md5":"%x",`+
		`"name":"plain","schema_version":2,"sha256":"%x","size":%d,"subdir":"linux-64","version":"1.0"}`, md5.Sum(b), sha256.Sum256(b), len(b))
	if d := cmp.Diff(want, string(p.Record)); d != "" {
		t.Error(d)
	}
}

func TestSubdir(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		index      map[string]any
		hint, want string
		code       string
	}{
		{nil, "", "linux-64", ""},
		{nil, "osx-64", "linux-64", ""}, // the package's own word counts
		{map[string]any{"subdir": nil}, "osx-64", "osx-64", ""},
		{map[string]any{"subdir": json.RawMessage("null")}, "osx-64", "osx-64", ""},
		{map[string]any{"subdir": nil, "noarch": "python"}, "", "noarch", ""},
		{map[string]any{"subdir": nil, "noarch": true}, "", "noarch", ""},
		{map[string]any{"subdir": nil, "noarch": false}, "", "", conda.CodeNoSubdir},
		{map[string]any{"subdir": nil}, "", "", conda.CodeNoSubdir},
		{map[string]any{"subdir": nil}, "../x", "", conda.CodeSubdirInvalid},
		{map[string]any{"subdir": "a/b"}, "osx-64", "", conda.CodeIndexInvalid},
	} {
		s := plain(conda.Conda)
		s.Index = c.index
		p, err := read(t, s.Filename(), build(t, s), conda.Subdir(c.hint))
		if code(err) != c.code {
			t.Errorf("%v with hint %q: %v", c.index, c.hint, err)
		} else if err == nil && (p.Subdir != c.want || object(t, p.Record)["subdir"] != c.want) {
			t.Errorf("%v with hint %q: %s", c.index, c.hint, p.Subdir)
		}
	}
}

// A cut anywhere is found, in both formats.
func TestReadFindsEveryTruncation(t *testing.T) {
	t.Parallel()
	for _, f := range []conda.Format{conda.Conda, conda.TarBz2} {
		s := plain(f)
		b := build(t, s)
		for n := range b {
			if _, err := read(t, s.Filename(), b[:n]); code(err) != conda.CodeTruncated && (n > 3 || code(err) == "") {
				t.Fatalf("%d of %d bytes of %s: code %q: %v", n, len(b), s.Filename(), code(err), err)
			}
		}
	}
}

// Damage to what is packed is found, in both formats. (Dates and attributes in a ZIP's headers are covered by no checksum.)
func TestReadFindsDamage(t *testing.T) {
	t.Parallel()
	s := plain(conda.TarBz2)
	b := build(t, s)
	for i := range b[:len(b)-1] { // the last byte has padding bits
		if i == 3 {
			continue // the block size, an upper limit
		}
		d := bytes.Clone(b)
		d[i] ^= 0x10
		if _, err := read(t, s.Filename(), d); code(err) == "" {
			// Nothing depends on the encoder's second table, which is never used: such damage harms nothing.
			was, _ := io.ReadAll(bzip2.NewReader(bytes.NewReader(b)))
			is, unpackErr := io.ReadAll(bzip2.NewReader(bytes.NewReader(d)))
			if err != nil || unpackErr != nil || !bytes.Equal(was, is) {
				t.Fatalf("byte %d of %s: %v", i, s.Filename(), err)
			}
		}
	}
	s = plain(conda.Conda)
	s.Payload = 3 << 20 // several blocks
	b = build(t, s)
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range z.File {
		start, err := e.DataOffset()
		if err != nil {
			t.Fatal(err)
		}
		size := int64(e.CompressedSize64)
		for _, off := range []int64{0, 1, size / 4, 512<<10 - start, size / 2, size - 1} {
			if off < 0 || off >= size {
				continue
			}
			d := bytes.Clone(b)
			d[start+off] ^= 0x10
			if _, err := read(t, s.Filename(), d); code(err) == "" {
				t.Errorf("byte %d of %s: %v", off, e.Name, err)
			}
		}
	}
}

// failing fails or ends at a byte; it counts what is read.
type failing struct {
	r    io.ReaderAt
	at   int64
	err  error
	read atomic.Int64
}

func (f *failing) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.at {
		n, _ := f.r.ReadAt(p[:max(0, min(int64(len(p)), f.at-off))], off)
		return n, f.err
	}
	n, err := f.r.ReadAt(p, off)
	f.read.Add(int64(n))
	return n, err
}

func TestReadErrorsAreNotThePackages(t *testing.T) {
	t.Parallel()
	eio := errors.New("input/output error")
	for _, f := range []conda.Format{conda.Conda, conda.TarBz2} {
		s := plain(f)
		b := build(t, s)
		for at := range int64(len(b)) {
			for _, want := range []error{eio, io.EOF} {
				_, err := conda.Read(t.Context(), &failing{r: bytes.NewReader(b), at: at, err: want}, int64(len(b)), s.Filename())
				if want == io.EOF {
					want = io.ErrUnexpectedEOF
				}
				if code(err) != "" || !errors.Is(err, want) {
					t.Fatalf("%s fails at byte %d with %v: %v", s.Filename(), at, want, err)
				}
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := conda.Read(ctx, bytes.NewReader(b), int64(len(b)), s.Filename()); !errors.Is(err, context.Canceled) || code(err) != "" {
			t.Errorf("cancelled: %v", err)
		}
	}
}

// A drain MUST NOT wait for the rest of a large package.
func TestReadEndsWithItsContext(t *testing.T) {
	t.Parallel()
	for f, payload := range map[conda.Format]int{conda.Conda: 3 << 20, conda.TarBz2: 1200 << 10} {
		s := plain(f)
		s.Payload = payload
		b := build(t, s)
		ctx, cancel := context.WithCancel(t.Context())
		r := &cancelling{failing: failing{r: bytes.NewReader(b), at: 1 << 40}, after: 64 << 10, cancel: cancel}
		_, err := conda.Read(ctx, r, int64(len(b)), s.Filename())
		if !errors.Is(err, context.Canceled) || code(err) != "" {
			t.Errorf("%s: %v", s.Filename(), err)
		}
		if n := r.read.Load(); n >= int64(len(b)) {
			t.Errorf("%s: %d bytes read, cancelled after %d", s.Filename(), n, r.after)
		}
	}
}

type cancelling struct {
	failing
	after  int64
	cancel context.CancelFunc
}

func (c *cancelling) ReadAt(p []byte, off int64) (int, error) {
	if c.read.Load() >= c.after {
		c.cancel()
	}
	return c.failing.ReadAt(p, off)
}

func TestReadReadsOnce(t *testing.T) {
	t.Parallel()
	for _, f := range []conda.Format{conda.Conda, conda.TarBz2} {
		s := plain(f)
		s.Payload = 200 << 10
		b := build(t, s)
		r := &failing{r: bytes.NewReader(b), at: 1 << 40}
		if _, err := conda.Read(t.Context(), r, int64(len(b)), s.Filename()); err != nil {
			t.Fatal(err)
		}
		if more := r.read.Load() - int64(len(b)); more < 0 || more > 8<<10 {
			t.Errorf("%s: %d bytes read for %d", s.Filename(), r.read.Load(), len(b))
		}
	}
}

// Packages that nobody here made. The one that is refused was packed again by hand: a folder with compressed entries.
func TestReadCorpus(t *testing.T) {
	t.Parallel()
	paths, _ := filepath.Glob("../../../shared/corpus/packages/*-*-*")
	if len(paths) == 0 {
		t.Skip("the corpus is not here")
	}
	refused := map[string]string{"ca-certificates-2024.7.4-hbcca054_0.conda": conda.CodeCompressedZipEntry}
	mock := map[string]map[string]any{}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(p)
		pkg, err := read(t, name, b)
		if code(err) != refused[name] || (err != nil) != (refused[name] != "") {
			t.Errorf("code %q, want %q: %v", code(err), refused[name], err)
		}
		if err == nil && pkg.Name == "mock" {
			mock[name] = object(t, pkg.Record)
			for _, k := range []string{"sha256", "md5", "size"} {
				if mock[name][k] == nil {
					t.Errorf("%s has no %s", name, k)
				}
				delete(mock[name], k)
			}
		}
	}
	a, b := mock["mock-2.0.0-py37_1000.conda"], mock["mock-2.0.0-py37_1000.tar.bz2"]
	if d := cmp.Diff(a, b); d != "" || len(a) == 0 {
		t.Errorf("the two formats of one package differ: %s", d)
	}
}

func fuzzRead(f *testing.F, format conda.Format) {
	for _, s := range condatest.Samples(16, 1) {
		if s.Payload == 0 && s.Format == format {
			f.Add(s.Filename(), build(f, s))
		}
	}
	for _, b := range condatest.Bad() {
		if strings.HasSuffix(b.Filename, format.String()) && len(b.Bytes) < 8<<10 {
			f.Add(b.Filename, b.Bytes)
		}
	}
	f.Fuzz(func(t *testing.T, filename string, b []byte) {
		p, err := read(t, filename, b)
		if err != nil {
			if code(err) == "" {
				t.Fatalf("untyped: %v", err)
			}
			return
		}
		sha := sha256.Sum256(b)
		record := object(t, p.Record)
		if p.SHA256 != hex.EncodeToString(sha[:]) || record["sha256"] != p.SHA256 || p.Size != int64(len(b)) {
			t.Fatal("wrong digest or size")
		}
		if filename != p.Name+"-"+p.Version+"-"+p.Build+p.Format.String() || record["name"] != p.Name || record["subdir"] != p.Subdir || record["attestations_sha256"] != nil {
			t.Fatalf("%s gives %s", filename, p.Record)
		}
		if err := conda.CheckSubdir(p.Subdir); err != nil {
			t.Fatal(err)
		}
		if format == conda.Conda && p.Format == format {
			if other, err := secondOpinion(b); err != nil || !bytes.Equal(other, p.Index) {
				t.Fatalf("archive/zip reads another index.json: %v\n%s\n%s", err, other, p.Index)
			}
		}
		if again, err := conda.RunExports(p.RunExports); err != nil || string(again) != string(p.RunExports) {
			t.Fatalf("run exports %s: %v", p.RunExports, err)
		}
	})
}

func FuzzReadConda(f *testing.F)  { fuzzRead(f, conda.Conda) }
func FuzzReadTarBz2(f *testing.F) { fuzzRead(f, conda.TarBz2) }

func BenchmarkRead(b *testing.B) {
	for _, c := range []struct {
		name    string
		format  conda.Format
		payload int
	}{{"small.conda", conda.Conda, 20 << 10}, {"50MB.conda", conda.Conda, 50 << 20}, {"small.tar.bz2", conda.TarBz2, 20 << 10}} {
		b.Run(c.name, func(b *testing.B) {
			s := plain(c.format)
			s.Payload = c.payload
			data := build(b, s)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := read(b, s.Filename(), data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
