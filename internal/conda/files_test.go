package conda_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hallmark-attest/hallmark/internal/conda"
	"github.com/hallmark-attest/hallmark/internal/conda/condatest"
	"github.com/hallmark-attest/hallmark/internal/store"
)

func readInfo(t testing.TB, filename string, b []byte, want ...string) (conda.Files, error) {
	t.Helper()
	return conda.ReadInfo(t.Context(), bytes.NewReader(b), int64(len(b)), filename, want...)
}

func TestReadInfo(t *testing.T) {
	t.Parallel()
	for _, f := range []conda.Format{conda.Conda, conda.TarBz2} {
		s := plain(f)
		s.RunExports = []byte(`["a"]`)
		s.Info = map[string][]byte{
			"recipe/recipe.yaml": []byte("recipe"), "recipe/sub/patch": []byte("patch"), "recipes/x": []byte("x"), "empty": {}, "LICENSE.txt": []byte("MIT"),
		}
		b := build(t, s)
		for _, test := range []struct{ want, got []string }{
			{[]string{"about.json"}, []string{"about.json"}},
			{[]string{"recipe/"}, []string{"recipe/recipe.yaml", "recipe/sub/patch"}},
			{[]string{"recipe/sub/", "empty"}, []string{"empty", "recipe/sub/patch"}},
			{[]string{"recipe/recipe.yaml", "LICENSE.txt"}, []string{"LICENSE.txt", "recipe/recipe.yaml"}},
			{[]string{"recipe/recipe.yaml", "recipe/"}, []string{"recipe/recipe.yaml", "recipe/sub/patch"}},
			{[]string{"none", "run_exports.json"}, []string{"run_exports.json"}},
			{[]string{"none", "none/"}, nil},
		} {
			files, err := readInfo(t, s.Filename(), b, test.want...)
			if err != nil {
				t.Errorf("%q: %v", test.want, err)
			}
			if got := slices.Sorted(maps.Keys(files)); !slices.Equal(got, test.got) {
				t.Errorf("%s: %q gives %q, want %q", s.Filename(), test.want, got, test.got)
			}
			for k, v := range files {
				if want := s.Info[k]; want != nil && !bytes.Equal(v, want) {
					t.Errorf("%s is %q", k, v)
				}
			}
		}
		p, err := read(t, s.Filename(), b)
		if err != nil {
			t.Fatal(err)
		}
		files, err := readInfo(t, s.Filename(), b, "index.json", "run_exports.json")
		if err != nil || !bytes.Equal(files["index.json"], p.Index) || string(files["run_exports.json"]) != `["a"]` {
			t.Errorf("%v %q", err, files)
		}
		for _, want := range []string{"", "/", "/etc/passwd", "../x", "a/../b", ".", "a//", `a\b`} {
			if _, err := readInfo(t, s.Filename(), b, want); err == nil || code(err) != "" {
				t.Errorf("%q was taken: %v", want, err)
			}
		}
		if _, err := readInfo(t, s.Filename(), b); err == nil {
			t.Error("nothing was taken")
		}
	}
}

// What Read refuses in what ReadInfo reads, it refuses with the same code.
func TestReadInfoRefuses(t *testing.T) {
	t.Parallel()
	same := 0
	for _, b := range condatest.Bad() {
		_, err := readInfo(t, b.Filename, b.Bytes, "index.json", "run_exports.json", "none")
		switch code(err) {
		case b.Code:
			same++
		case "":
			if err != nil {
				t.Errorf("%s: %v is no *Error", b.Name, err)
			}
			switch b.Code { // what Read finds where ReadInfo does not look, or in what the record needs
			case conda.CodeIndexInvalid, conda.CodeIndexMismatch, conda.CodeNoIndex, conda.CodeNoSubdir, conda.CodeRunExportsInvalid,
				conda.CodeMissingMetadata, conda.CodeBadZip, conda.CodeCorrupt, conda.CodeSubdirInvalid:
			default:
				t.Errorf("%s was taken, Read says %s", b.Name, b.Code)
			}
		default:
			t.Logf("%s: %s, Read says %s", b.Name, code(err), b.Code)
		}
	}
	if same < 30 {
		t.Errorf("only %d cases are refused alike", same)
	}
	s := plain(conda.Conda)
	for what, c := range map[string]struct {
		info map[string][]byte
		want string
		code string
	}{
		"another case": {map[string][]byte{"About.json": []byte("{}"), "about.json": nil}, "about.json", conda.CodeDuplicateEntry},
	} {
		s.Info = c.info
		if _, err := readInfo(t, s.Filename(), build(t, s), c.want, "none"); code(err) != c.code {
			t.Errorf("%s: %v, want %s", what, err, c.code)
		}
	}
	// The entry's checksum, where the tarball is read to its end.
	b := build(t, plain(conda.Conda))
	i := bytes.LastIndex(b, []byte("PK\x01\x02"))
	b[i+16] ^= 1 // in the directory: the header differs
	if _, err := readInfo(t, s.Filename(), b, "none"); code(err) != conda.CodeBadZip {
		t.Errorf("%v", err)
	}
	j := bytes.LastIndex(b, []byte("PK\x03\x04"))
	b[j+14] ^= 1
	if _, err := readInfo(t, s.Filename(), b, "none"); code(err) != conda.CodeCorrupt {
		t.Errorf("another CRC-32: %v", err)
	}
}

// remote is a store with one object, that counts.
type remote struct {
	store.Store
	b        []byte
	requests int
	bytes    int
}

func (r *remote) GetRange(_ context.Context, key string, offset, length int64, etag string) (io.ReadCloser, store.Info, error) {
	size := int64(len(r.b))
	from, to := offset, min(offset+length, size)
	if offset < 0 {
		from, to = max(0, size+offset), size
	}
	if etag != "" && etag != "e" {
		return nil, store.Info{}, store.ErrPrecondition
	}
	r.requests++
	r.bytes += int(to - from)
	return io.NopCloser(bytes.NewReader(r.b[from:to])), store.Info{Key: key, Size: size, ETag: "e"}, nil
}

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// A file of a package of 100 MB in a bucket costs one to three requests.
func TestReadInfoRemotely(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what      string
		info      int // random bytes in info/
		infoFirst bool
		want      []string
		requests  int
		bytes     int
	}{
		{"small info", 0, false, []string{"about.json"}, 1, 64 << 10},
		{"small info to its end", 0, false, conda.AboutFiles(), 1, 64 << 10},
		{"info of 200 kB", 200 << 10, false, conda.AboutFiles(), 2, 300 << 10},
		{"info of 300 kB", 300 << 10, false, conda.AboutFiles(), 2, 400 << 10},
		{"small info first", 0, true, conda.AboutFiles(), 2, 128 << 10},
		{"info of 200 kB first", 200 << 10, true, conda.AboutFiles(), 2, 400 << 10},
		{"info of 600 kB first", 600 << 10, true, conda.AboutFiles(), 3, 1 << 20},
	} {
		s := plain(conda.Conda)
		if c.info > 0 {
			s.Info = map[string][]byte{"recipe/noise": noise(c.info)}
		}
		p := parts(t, build(t, s))
		meta, pkg, info := p[0], p[1], p[2]
		pkg.body = make([]byte, 100<<20)
		order := []stored{meta, pkg, info}
		if c.infoFirst {
			order = []stored{info, meta, pkg}
		}
		r := &remote{b: zip64(order, "")}
		at, err := store.OpenReaderAt(t.Context(), r, "linux-64/"+s.Filename(), conda.FetchFirst(s.Filename()))
		if err != nil {
			t.Fatal(err)
		}
		files, err := conda.ReadInfo(t.Context(), at, at.Size(), s.Filename(), c.want...)
		if err != nil || !strings.Contains(string(files["about.json"]), "MIT") {
			t.Errorf("%s: %v", c.what, err)
		}
		if r.requests > c.requests || r.bytes > c.bytes {
			t.Errorf("%s: %d requests, %d bytes; at most %d, %d", c.what, r.requests, r.bytes, c.requests, c.bytes)
		}
	}

	// A .tar.bz2 that begins with info/.
	s := plain(conda.TarBz2)
	s.Payload = 1 << 20
	b := build(t, s)
	r := &remote{b: b}
	at, err := store.OpenReaderAt(t.Context(), r, s.Filename(), conda.FetchFirst(s.Filename()))
	if err != nil {
		t.Fatal(err)
	}
	if files, err := conda.ReadInfo(t.Context(), at, at.Size(), s.Filename(), "about.json"); err != nil || len(files) != 1 || r.requests != 1 {
		t.Errorf("%d requests for %d files: %v", r.requests, len(files), err)
	}
}

// A failing read is no verdict on the package.
func TestReadInfoFails(t *testing.T) {
	t.Parallel()
	for _, f := range []conda.Format{conda.Conda, conda.TarBz2} {
		s := plain(f)
		s.Payload = 200 << 10
		b := build(t, s)
		broken := errors.New("broken")
		r := &failing{r: bytes.NewReader(b), at: 0, err: broken}
		if f == conda.Conda {
			r.at = int64(len(b)) - 100
		}
		if _, err := conda.ReadInfo(t.Context(), r, int64(len(b)), s.Filename(), "about.json"); !errors.Is(err, broken) || code(err) != "" {
			t.Errorf("%v", err)
		}
		if _, err := conda.ReadInfo(t.Context(), bytes.NewReader(b[:len(b)/2]), int64(len(b)), s.Filename(), "none"); !errors.Is(err, io.ErrUnexpectedEOF) || code(err) != "" {
			t.Errorf("a file that has shrunk: %v", err)
		}
	}
}

func FuzzReadInfo(f *testing.F) {
	for _, format := range []conda.Format{conda.Conda, conda.TarBz2} {
		s := plain(format)
		b := build(f, s)
		f.Add(b, format == conda.Conda)
	}
	for _, b := range condatest.Bad() {
		if len(b.Bytes) < 20_000 && b.Code != conda.CodeBomb { // bombs take their time
			f.Add(b.Bytes, strings.HasSuffix(b.Filename, ".conda"))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, isConda bool) {
		name := "plain-1.0-h0_3.tar.bz2"
		if isConda {
			name = "plain-1.0-h0_3.conda"
		}
		files, err := readInfo(t, name, b, conda.AboutFiles()...)
		if err != nil && code(err) == "" {
			t.Errorf("%v is no *Error", err)
		}
		if err == nil {
			_, _ = conda.Describe(files)
		}
		// What Read takes, ReadInfo takes, and finds the same index.json.
		if p, whole := read(t, name, b); whole == nil && (err != nil || !bytes.Equal(files["index.json"], p.Index)) {
			t.Errorf("Read takes it, ReadInfo: %v, %s", err, cmp.Diff(string(p.Index), string(files["index.json"])))
		}
	})
}
