package conda_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"path"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/hallmark-attest/hallmark/internal/conda"
	"github.com/hallmark-attest/hallmark/internal/conda/condatest"
)

type stored struct {
	name string
	body []byte
}

// parts takes a .conda apart.
func parts(t testing.TB, b []byte) []stored {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	var out []stored
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, stored{f.Name, body})
	}
	return out
}

// zip64 writes entries as writers do that do not know the sizes beforehand: everything in ZIP64 fields, whatever its size.
func zip64(entries []stored, comment string) []byte {
	le := binary.LittleEndian
	var out, dir []byte
	for _, e := range entries {
		offset, size, crc := uint64(len(out)), uint64(len(e.body)), crc32.ChecksumIEEE(e.body)
		common := func(b []byte) []byte { // flags, method, time, date, CRC-32, sizes, name length
			b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
			b = le.AppendUint32(b, crc)
			b = append(b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
			return le.AppendUint16(b, uint16(len(e.name)))
		}
		out = common(append(out, "PK\x03\x04\x2d\x00"...))
		out = append(le.AppendUint16(out, 20), e.name...)
		out = append(out, 1, 0, 16, 0)
		out = le.AppendUint64(le.AppendUint64(out, size), size)
		out = append(out, e.body...)

		dir = common(append(dir, "PK\x01\x02\x2d\x00\x2d\x00"...))
		dir = le.AppendUint16(dir, 28)
		dir = append(dir, make([]byte, 10)...)
		dir = append(dir, 0xff, 0xff, 0xff, 0xff)
		dir = append(dir, e.name...)
		dir = append(dir, 1, 0, 24, 0)
		dir = le.AppendUint64(le.AppendUint64(le.AppendUint64(dir, size), size), offset)
	}
	offset, n := uint64(len(out)), uint64(len(entries))
	out = append(out, dir...)
	end := uint64(len(out))
	out = le.AppendUint64(append(out, "PK\x06\x06"...), 44)
	out = append(out, 0x2d, 0, 0x2d, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	for _, v := range []uint64{n, n, uint64(len(dir)), offset} {
		out = le.AppendUint64(out, v)
	}
	out = le.AppendUint64(append(out, "PK\x06\x07\x00\x00\x00\x00"...), end)
	out = append(out, 1, 0, 0, 0)
	out = append(out, "PK\x05\x06\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"...)
	return append(le.AppendUint16(out, uint16(len(comment))), comment...)
}

// described writes entries with their sizes after their bytes.
func described(t *testing.T, entries []stored, comment string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range entries {
		f, err := w.CreateHeader(&zip.FileHeader{Name: e.name, Method: zip.Store})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.SetComment(comment), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Unusual ways to write the same ZIP, all of which have one meaning only.
func TestReadUnusualZips(t *testing.T) {
	t.Parallel()
	s := plain(conda.Conda)
	p := parts(t, build(t, s))
	for what, b := range map[string][]byte{
		"ZIP64":                   zip64(p, ""),
		"ZIP64 with a comment":    zip64(p, "hello"),
		"descriptors":             described(t, p, ""),
		"a comment":               described(t, p, "hello"),
		"a long comment":          described(t, p, strings.Repeat("x", 65535)),
		"another order":           zip64([]stored{p[2], p[0], p[1]}, ""),
		"one entry more":          zip64(append(p[:3:3], stored{"signature.json", []byte("{}")}), ""),
		"an end mark in an entry": zip64(append(p[:3:3], stored{"x", []byte("PK\x05\x06" + strings.Repeat("\x00", 18))}), ""),
	} {
		if _, err := read(t, s.Filename(), b); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		// It MUST be a true ZIP, or accepting it says nothing.
		if got := parts(t, b); len(got) < 3 {
			t.Errorf("%s: archive/zip sees %d entries", what, len(got))
		}
	}
}

// Each of the bytes that say where things are, changed in turn, is noticed: the reader knows every field twice.
func TestReadNoticesOtherZipFields(t *testing.T) {
	t.Parallel()
	s := plain(conda.Conda)
	p := parts(t, build(t, s))
	for what, b := range map[string][]byte{"plain": build(t, s), "ZIP64": zip64(p, ""), "descriptors": described(t, p, "")} {
		dir := bytes.Index(b, []byte("PK\x01\x02"))
		end := bytes.LastIndex(b, []byte("PK\x05\x06"))
		check := func(where string, at int, offsets ...int) {
			for _, off := range offsets {
				d := bytes.Clone(b)
				d[at+off] ^= 1
				if pkg, err := read(t, s.Filename(), d); code(err) == "" {
					t.Errorf("%s, %s, byte %d: %v, %v", what, where, off, pkg != nil, err)
				}
			}
		}
		local := []int{0, 1, 2, 3, 6, 8, 26, 27, 28, 29, 30}
		if what == "plain" {
			local = append(local, 14, 18, 22, 25)
		}
		check("first local header", 0, local...)
		check("first directory entry", dir, 0, 8, 10, 16, 20, 24, 28, 30, 32, 42, 46)
		check("end", end, 4, 8, 10, 12, 13, 16, 17, 20, 21)
		if what == "ZIP64" {
			check("ZIP64 end", end-20-56, 0, 4, 24, 32, 40, 48)
			check("ZIP64 locator", end-20, 8, 15)
			check("ZIP64 sizes of an entry", 0, 30+13+4, 30+13+12)
		}
		if what == "descriptors" {
			next := 4 + bytes.Index(b[4:], []byte("PK\x03\x04"))
			check("descriptor", next-16, 0, 4, 8, 12)
		}
	}
}

// What needs more than one byte changed to be consistent in itself.
func TestReadRefusesConsistentOddities(t *testing.T) {
	t.Parallel()
	s := plain(conda.Conda)
	p := parts(t, build(t, s))
	whole := build(t, s)
	dir, end := bytes.Index(whole, []byte("PK\x01\x02")), len(whole)-22
	late := described(t, p, "")
	lateDir := bytes.Index(late, []byte("PK\x01\x02"))
	for what, change := range map[string]func() []byte{
		"bytes between the directory and its end": func() []byte {
			return append(append(bytes.Clone(whole[:end]), "more"...), whole[end:]...)
		},
		"bytes between the entries and the directory": func() []byte {
			b := append(append(bytes.Clone(whole[:dir]), "more"...), whole[dir:]...)
			binary.LittleEndian.PutUint32(b[len(b)-6:], uint32(dir+4))
			return b
		},
		"encrypted by both headers": func() []byte {
			b := bytes.Clone(whole)
			b[6], b[dir+8] = 1, 1
			return b
		},
		"longer than the file by both sizes": func() []byte {
			b := bytes.Clone(late)
			b[lateDir+22], b[lateDir+26] = 1, 1 // 64 KiB more
			return b
		},
		"shorter by both sizes": func() []byte {
			b := bytes.Clone(late)
			b[lateDir+20]--
			b[lateDir+24]--
			return b
		},
		"extra field longer than the file": func() []byte {
			b := bytes.Clone(whole)
			b[28], b[29] = 0xff, 0xff
			return b
		},
		"half a ZIP64 field": func() []byte {
			b := zip64(p, "")
			b[30+13+2] = 12
			return b
		},
	} {
		if _, err := read(t, s.Filename(), change()); code(err) != conda.CodeBadZip {
			t.Errorf("%s: code %q: %v", what, code(err), err)
		}
	}
}

// secondOpinion reads info/index.json of a .conda with the standard library's ZIP reader.
func secondOpinion(b []byte) ([]byte, error) {
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, err
	}
	for _, f := range z.File {
		if !strings.HasPrefix(f.Name, "info-") {
			continue
		}
		r, err := f.Open()
		if err != nil {
			return nil, err
		}
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		defer d.Close()
		t := tar.NewReader(d)
		for {
			h, err := t.Next()
			if err != nil {
				return nil, err
			}
			if path.Clean(h.Name) == "info/index.json" {
				return io.ReadAll(t)
			}
		}
	}
	return nil, io.EOF
}

func TestSecondOpinion(t *testing.T) {
	t.Parallel()
	for _, s := range condatest.Samples(8, 5) {
		if s.Format != conda.Conda {
			continue
		}
		b := build(t, s)
		p, err := read(t, s.Filename(), b)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := secondOpinion(b); err != nil || !bytes.Equal(got, p.Index) {
			t.Errorf("%s: %v", s.Filename(), err)
		}
	}
}
