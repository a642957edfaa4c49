package conda

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"testing"
)

func tarOf(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, h.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func wantCode(t *testing.T, what string, err error, code string) {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if code == "" && err == nil || ok && e.Code == code {
		return
	}
	t.Errorf("%s: want %q, got %v", what, code, err)
}

func TestReadTarBoundsAndPaths(t *testing.T) {
	t.Parallel()
	reg := func(name string, size int64) tar.Header {
		return tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size}
	}
	link := func(typ byte, name, target string) tar.Header {
		return tar.Header{Typeflag: typ, Name: name, Linkname: target}
	}
	for _, c := range []struct {
		what  string
		limit int64
		code  string
		files []tar.Header
	}{
		{"plain", 2048, "", []tar.Header{reg("info/a", 100)}},
		{"above the limit", 2047, CodeBomb, []tar.Header{reg("info/a", 100)}},
		{"./ before names", 1 << 20, "", []tar.Header{{Typeflag: tar.TypeDir, Name: "./"}, {Typeflag: tar.TypeDir, Name: "./info/"}, {Typeflag: tar.TypeDir, Name: "./info/"}, reg("./info/a", 1)}},
		{"links inside", 1 << 20, "", []tar.Header{link(tar.TypeSymlink, "info/l/x", "../a"), link(tar.TypeLink, "info/h", "info/a"), link(tar.TypeSymlink, "info/up", "../lib/x")}},
		{"a backslash outside info", 1 << 20, "", []tar.Header{reg(`lib/systemd/dev-disk\x2d.mount`, 1)}},
		{"a licence twice", 1 << 20, "", []tar.Header{reg("info/licenses/MIT", 1), reg("info/licenses/MIT", 1)}},
		{"symlink out", 1 << 20, CodePathTraversal, []tar.Header{link(tar.TypeSymlink, "info/l", "../../x")}},
		{"absolute symlink", 1 << 20, CodePathTraversal, []tar.Header{link(tar.TypeSymlink, "info/l", "/x")}},
		{"symlink to a drive", 1 << 20, CodePathTraversal, []tar.Header{link(tar.TypeSymlink, "info/l", "c:x")}},
		{"hard link out", 1 << 20, CodePathTraversal, []tar.Header{link(tar.TypeLink, "info/l", "../x")}},
		{"info itself is a link", 1 << 20, CodePathTraversal, []tar.Header{link(tar.TypeSymlink, "info", "lib")}},
		{"a drive", 1 << 20, CodePathTraversal, []tar.Header{reg("C:info/x", 1), reg("info/C:x", 1), reg("info/../info/x", 1)}},
		{"a pipe", 1 << 20, CodePathTraversal, []tar.Header{{Typeflag: tar.TypeFifo, Name: "info/p"}}},
		{"'..' outside info", 1 << 20, CodePathTraversal, []tar.Header{reg("lib/../../x", 1)}},
		{"an empty index.json", 1 << 20, CodeIndexInvalid, []tar.Header{reg("info/index.json", 0)}},
		{"an empty run_exports.json", 1 << 20, CodeRunExportsInvalid, []tar.Header{reg("info/run_exports.json", 0)}},
		{"index.json in capitals alone", 1 << 20, CodeIndexInvalid, []tar.Header{reg("info/Index.json", 9)}},
		{"a huge run_exports.json", 1 << 30, CodeBomb, []tar.Header{reg("info/run_exports.json", maxRunExports+1)}},
	} {
		err := readTar(t.Context(), bytes.NewReader(tarOf(t, c.files...)), c.limit, want(false, fileIndex, fileRunExports))
		wantCode(t, c.what, err, c.code)
	}
}

func TestReadTarBoundsEntries(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := range maxInfoFiles + 1 {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprint("info/", i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	err := readTar(t.Context(), bytes.NewReader(b.Bytes()), 1<<30, want(false))
	wantCode(t, "too many", err, CodeBomb)
}

func TestWantedIsBounded(t *testing.T) {
	t.Parallel()
	reg := func(name string, size int64) tar.Header {
		return tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size}
	}
	for what, c := range map[string]struct {
		left  int64
		files []tar.Header
		code  string
	}{
		"fits":                 {100, []tar.Header{reg("info/x", 50), reg("info/r/1", 50)}, ""},
		"one too many":         {99, []tar.Header{reg("info/x", 50), reg("info/r/1", 50)}, CodeBomb},
		"what nobody wants":    {10, []tar.Header{reg("info/y", 50), reg("info/q/1", 50)}, ""},
		"a file too large":     {maxWanted, []tar.Header{reg("info/x", maxFile+1)}, CodeBomb},
		"a file in r/ as well": {maxWanted, []tar.Header{reg("info/r/1", maxFile+1)}, CodeBomb},
		"x is a link":          {100, []tar.Header{{Typeflag: tar.TypeSymlink, Name: "info/x", Linkname: "y"}}, CodeInfoInvalid},
		"a link in r/":         {100, []tar.Header{{Typeflag: tar.TypeSymlink, Name: "info/r/x", Linkname: "y"}}, ""},
		"X":                    {100, []tar.Header{reg("info/X", 1)}, CodeInfoInvalid},
	} {
		w, err := wants([]string{"x", "r/"})
		if err != nil {
			t.Fatal(err)
		}
		w.left = c.left
		wantCode(t, what, readTar(t.Context(), bytes.NewReader(tarOf(t, c.files...)), 1<<30, w), c.code)
	}
}

// frame is a zstd frame (RFC 8878, section 3.1.1) of b, raw, that asks for a window of 1<<log bytes.
func frame(b []byte, log int) []byte {
	out := binary.LittleEndian.AppendUint32(nil, 0xfd2fb528)
	out = append(out, 0, byte((log-10)<<3))
	block := uint32(len(b))<<3 | 1
	return append(append(out, byte(block), byte(block>>8), byte(block>>16)), b...)
}

func TestUnzstdBoundsItsWindow(t *testing.T) {
	index := tarOf(t, tar.Header{Typeflag: tar.TypeReg, Name: "info/x", Size: 2000})
	for _, c := range []struct {
		log  int
		code string
		most uint64 // bytes allocated
	}{{17, "", 4 << 20}, {27, "", 300 << 20}, {28, CodeBomb, 4 << 20}, {31, CodeBomb, 4 << 20}} {
		b := frame(index, c.log)
		src := &source{ctx: t.Context(), r: bytes.NewReader(b), size: int64(len(b))}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := unzstd(src, zipEntry{size: src.size}, io.Discard, want(false))
		runtime.ReadMemStats(&after)
		wantCode(t, fmt.Sprintf("a window of 2^%d", c.log), err, c.code)
		if n := after.TotalAlloc - before.TotalAlloc; n > c.most {
			t.Errorf("a window of 2^%d: %d bytes allocated", c.log, n)
		} else {
			t.Logf("a window of 2^%d: %d bytes allocated", c.log, n)
		}
	}
}
