package condatest

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/hallmark-attest/hallmark/internal/conda"
)

// BadCase is a file that must be refused.
type BadCase struct {
	Name     string // what is wrong, for people
	Filename string // every case has its own
	Bytes    []byte
	Code     string // of the *conda.Error
}

// Write writes the file into the folder dir, which it makes, and returns its path.
func (b BadCase) Write(dir string) (string, error) { return writeFile(dir, b.Filename, b.Bytes) }

// Bad returns files that no channel may ever have, each with one thing wrong and the code that it must be refused with.
// All are small, those that unpack to much among them.
func Bad() []BadCase {
	c := &badCases{}
	c.bytes()
	c.names()
	c.zips()
	c.metadata()
	c.indexes()
	c.tarballs()
	return c.all
}

type badCases struct{ all []BadCase }

// spec is a good package whose name is its own.
func (c *badCases) spec(f conda.Format) Spec {
	return Spec{
		Name: fmt.Sprintf("bad%02d", len(c.all)), Version: "1.0", Build: "h0_0", Subdir: "linux-64", Format: f, License: "MIT",
		Files: map[string][]byte{"lib/file.txt": []byte(strings.Repeat("some text\n", 300))},
	}
}

func (c *badCases) add(what, filename string, b []byte, code string) {
	c.all = append(c.all, BadCase{Name: what, Filename: filename, Bytes: b, Code: code})
}

// must is for what cannot fail: archives of this file's own making, in memory.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (c *badCases) bytes() {
	for _, f := range []conda.Format{conda.Conda, conda.TarBz2} {
		s := c.spec(f)
		c.add("empty "+f.String(), s.Filename(), nil, conda.CodeEmpty)
		s = c.spec(f)
		c.add("text as "+f.String(), s.Filename(), []byte("<html><body>404 Not Found</body></html>\n"), conda.CodeNotAPackage)
		s = c.spec(f)
		b := must(s.Bytes())
		c.add("second half missing, "+f.String(), s.Filename(), b[:len(b)/2], conda.CodeTruncated)
		s = c.spec(f)
		b = must(s.Bytes())
		c.add("last byte missing, "+f.String(), s.Filename(), b[:len(b)-1], conda.CodeTruncated)
		s = c.spec(f)
		other := s
		other.Format = conda.Conda + conda.TarBz2 - f
		c.add("other format as "+f.String(), s.Filename(), must(other.Bytes()), conda.CodeNotAPackage)
	}

	s := c.spec(conda.Conda)
	b := must(s.Bytes())
	b[bytes.Index(b, []byte("pkg-"))+60] ^= 1 // inside the pkg- tarball
	c.add("one bit flipped in the pkg tarball", s.Filename(), b, conda.CodeCorrupt)

	s = c.spec(conda.TarBz2)
	b = must(s.Bytes())
	b[len(b)/2] ^= 1
	c.add("one bit flipped in .tar.bz2", s.Filename(), b, conda.CodeCorrupt)

	// As a parallel bzip2 writes it: several streams, and the file cut between two of them, right after a file's end.
	s = c.spec(conda.TarBz2)
	t := must(tarball(must(s.info())))
	c.add(".tar.bz2 cut between streams", s.Filename(), append(bzip2Stream(t[:512]), bzip2Stream(t[512:len(t)-1024])...), conda.CodeTruncated)

	s = c.spec(conda.TarBz2)
	t = must(tarball(must(s.info())))
	c.add("second tarball after the first", s.Filename(), bzip2Stream(append(t, t...)), conda.CodeCorrupt)
}

func (c *badCases) names() {
	s := c.spec(conda.Conda)
	b := must(s.Bytes())
	for _, n := range []struct{ what, filename string }{
		{"capital letters in the name", "Bad-Name-1.0-h0_0.conda"},
		{"two separators in a row", "bad--name-1.0-h0_0.conda"},
		{"two underscores first", "__bad-1.0-h0_0.conda"},
		{"a blank in the name", "bad name-1.0-h0_0.conda"},
		{"capital letters in the version", "bad-1.0RC1-h0_0.conda"},
		{"'!' in the build", "bad-1.0-h0!0.conda"},
		{"no build", "bad-1.0.conda"},
		{"a name of 65 characters", strings.Repeat("n", 65) + "-1.0-h0_0.conda"},
		{"another extension", "bad-1.0-h0_0.zip"},
	} {
		c.add(n.what, n.filename, b, conda.CodeNameInvalid)
	}
}

func (c *badCases) zips() {
	zip := func(what, code string, change func(stem string, m []member) []member) {
		s := c.spec(conda.Conda)
		m := must(condaMembers(s.name().Stem(), must(s.info()), s.pkg()))
		c.add(what, s.Filename(), must(zipped(change(s.name().Stem(), m), "")), code)
	}
	zip("compressed ZIP entries", conda.CodeCompressedZipEntry, func(_ string, m []member) []member {
		m[2].deflate = true
		return m
	})
	zip("info tarball of another package", conda.CodeInnerNameMismatch, func(_ string, m []member) []member {
		m[2].name = "info-other-1.0-h0_0.tar.zst"
		return m
	})
	zip("pkg tarball of another package", conda.CodeInnerNameMismatch, func(_ string, m []member) []member {
		m[1].name = "pkg-other-1.0-h0_0.tar.zst"
		return m
	})
	zip("no pkg tarball", conda.CodeInnerNameMismatch, func(_ string, m []member) []member { return []member{m[0], m[2]} })
	zip("'..' in a ZIP entry", conda.CodePathTraversal, func(_ string, m []member) []member {
		return append(m, member{name: "../evil", body: []byte("x")})
	})
	zip("absolute ZIP entry", conda.CodePathTraversal, func(_ string, m []member) []member {
		return append(m, member{name: "/etc/evil", body: []byte("x")})
	})
	zip("backslash in a ZIP entry", conda.CodePathTraversal, func(_ string, m []member) []member {
		return append(m, member{name: `..\evil`, body: []byte("x")})
	})
	zip("info tarball twice", conda.CodeDuplicateEntry, func(_ string, m []member) []member { return append(m, m[2]) })
	zip("too many ZIP entries", conda.CodeBomb, func(_ string, m []member) []member {
		for i := range 100 {
			m = append(m, member{name: fmt.Sprint("extra", i)})
		}
		return m
	})
	patch := func(what, code string, change func(b []byte) []byte) {
		s := c.spec(conda.Conda)
		c.add(what, s.Filename(), change(must(s.Bytes())), code)
	}
	patch("bytes before the ZIP that look like one", conda.CodeBadZip, func(b []byte) []byte {
		return append([]byte("PK\x03\x04 and more"), b...)
	})
	patch("bytes after the ZIP", conda.CodeBadZip, func(b []byte) []byte { return append(b, "more"...) })
	patch("another name in the local header", conda.CodeBadZip, func(b []byte) []byte {
		b[bytes.Index(b, []byte("metadata.json"))] = 'M'
		return b
	})
	patch("another size in the local header", conda.CodeBadZip, func(b []byte) []byte {
		b[18]--
		b[22]--
		return b
	})
	patch("overlapping entries", conda.CodeBadZip, func(b []byte) []byte {
		at := bytes.LastIndex(b, []byte("PK\x01\x02"))
		copy(b[at+42:], []byte{0, 0, 0, 0}) // the info tarball starts where metadata.json does
		return b
	})
	patch("an entry that the directory hides", conda.CodeBadZip, func(b []byte) []byte {
		// The directory's second record and the end's counts no longer tell of pkg-.
		first := bytes.Index(b, []byte("PK\x01\x02"))
		second := first + 4 + bytes.Index(b[first+4:], []byte("PK\x01\x02"))
		third := bytes.LastIndex(b, []byte("PK\x01\x02"))
		cut := third - second
		b = append(b[:second], b[third:]...)
		end := b[len(b)-22:]
		end[8], end[10] = 2, 2
		size := int(end[12]) | int(end[13])<<8
		end[12], end[13] = byte(size-cut), byte((size-cut)>>8)
		return b
	})
}

func (c *badCases) metadata() {
	for _, m := range []struct{ what, body string }{
		{"no metadata.json", ""},
		{"metadata.json of another format version", `{"conda_pkg_format_version": 3}`},
		{"metadata.json that is not JSON", `conda_pkg_format_version: 2`},
		{"metadata.json with a key twice", `{"conda_pkg_format_version": 2, "conda_pkg_format_version": 2}`},
	} {
		s := c.spec(conda.Conda)
		members := must(condaMembers(s.name().Stem(), must(s.info()), s.pkg()))
		members[0].body = []byte(m.body)
		if m.body == "" {
			members = members[1:]
		}
		c.add(m.what, s.Filename(), must(zipped(members, "")), conda.CodeMissingMetadata)
	}
}

func (c *badCases) indexes() {
	index := func(what, code string, fields map[string]any) {
		s := c.spec(conda.Conda)
		s.Index = fields
		c.add(what, s.Filename(), must(s.Bytes()), code)
	}
	index("another name in index.json", conda.CodeIndexMismatch, map[string]any{"name": "other"})
	index("another version in index.json", conda.CodeIndexMismatch, map[string]any{"version": "2.0"})
	index("another build in index.json", conda.CodeIndexMismatch, map[string]any{"build": "h1_0"})
	index("name is a number", conda.CodeIndexInvalid, map[string]any{"name": 1})
	index("no build_number", conda.CodeIndexInvalid, map[string]any{"build_number": nil})
	index("negative build_number", conda.CodeIndexInvalid, map[string]any{"build_number": -1})
	index("depends is a string", conda.CodeIndexInvalid, map[string]any{"depends": "python"})
	index("impossible subdir", conda.CodeIndexInvalid, map[string]any{"subdir": "../linux-64"})
	index("no subdir", conda.CodeNoSubdir, map[string]any{"subdir": nil})

	raw := func(what, code string, change func(index string) string) {
		s := c.spec(conda.Conda)
		files := must(s.info())
		for i := range files {
			if files[i].name == "info/index.json" {
				files[i].body = []byte(change(string(files[i].body)))
			}
		}
		c.add(what, s.Filename(), must(zipped(must(condaMembers(s.name().Stem(), files, nil)), "")), code)
	}
	raw("index.json with a key twice", conda.CodeIndexInvalid, func(s string) string { return `{"depends": ["evil"],` + s[1:] })
	raw("index.json is not UTF-8", conda.CodeIndexInvalid, func(s string) string { return strings.Replace(s, "MIT", "M\xffT", 1) })
	raw("index.json has NaN", conda.CodeIndexInvalid, func(s string) string { return `{"x": NaN,` + s[1:] })
	raw("index.json is cut off", conda.CodeIndexInvalid, func(s string) string { return s[:len(s)-1] })
	raw("index.json nests without end", conda.CodeIndexInvalid, func(s string) string {
		return `{"x": ` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + "," + s[1:]
	})

	s := c.spec(conda.Conda)
	s.RunExports = json.RawMessage(`{"weak": "not a list"}`)
	c.add("run_exports is not a list", s.Filename(), must(s.Bytes()), conda.CodeRunExportsInvalid)
}

func (c *badCases) tarballs() {
	for _, f := range []conda.Format{conda.Conda, conda.TarBz2} {
		info := func(what, code string, change func([]file) []file) {
			s := c.spec(f)
			files := change(must(s.info()))
			var b []byte
			if f == conda.TarBz2 {
				b = bzip2Stream(must(tarball(append(files, s.pkg()...))))
			} else {
				b = must(zipped(must(condaMembers(s.name().Stem(), files, s.pkg())), ""))
			}
			c.add(what+", "+f.String(), s.Filename(), b, code)
		}
		more := func(extra file) func([]file) []file {
			return func(files []file) []file { return append(files, extra) }
		}
		info("no index.json", conda.CodeNoIndex, func(files []file) []file {
			return append(files[:2:2], files[3:]...)
		})
		info("index.json twice", conda.CodeDuplicateEntry, func(files []file) []file { return append(files, files[2]) })
		info("index.json twice, once in capitals", conda.CodeDuplicateEntry, more(file{name: "info/INDEX.json", body: []byte("{}")}))
		info("index.json twice, once by a detour", conda.CodeDuplicateEntry, more(file{name: "info/./index.json", body: []byte("{}")}))
		info("index.json is a link", conda.CodeIndexInvalid, func(files []file) []file {
			files[2].typ, files[2].link, files[2].body = tar.TypeSymlink, "paths.json", nil
			return files
		})
		info("'..' in a path", conda.CodePathTraversal, more(file{name: "info/../../evil", body: []byte("x")}))
		info("absolute path", conda.CodePathTraversal, more(file{name: "/etc/evil", body: []byte("x")}))
		info("backslash in a path", conda.CodePathTraversal, more(file{name: `info/..\..\evil`, body: []byte("x")}))
		info("symlink out of the package", conda.CodePathTraversal, more(file{name: "info/link", typ: tar.TypeSymlink, link: "../../etc/passwd"}))
		info("hard link out of the package", conda.CodePathTraversal, more(file{name: "info/link", typ: tar.TypeLink, link: "/etc/passwd"}))
		info("huge index.json", conda.CodeBomb, func(files []file) []file {
			files[2].body = bytes.Repeat([]byte(" "), 3<<20)
			return files
		})
	}

	c.bombs()
}

// bombs are packages of some kB that unpack to hundreds of MiB. Their zeros are one compressed MiB, repeated.
func (c *badCases) bombs() {
	const mebibytes = 300
	for _, where := range []string{"info/zeros", "zeros"} {
		for _, f := range []conda.Format{conda.Conda, conda.TarBz2} {
			if where == "zeros" && f == conda.TarBz2 {
				continue // outside info/, so much is no bomb in a .tar.bz2
			}
			s := c.spec(f)
			pack := func(b []byte) []byte { return must(zstandard(b)) }
			if f == conda.TarBz2 {
				pack = bzip2Stream
			}
			head := must(tarball(must(s.info())))
			head = head[:len(head)-1024] // without the end mark
			head = append(head, must(header(where, mebibytes<<20))...)
			b := pack(head)
			zeros := pack(make([]byte, 1<<20))
			for range mebibytes {
				b = append(b, zeros...)
			}
			b = append(b, pack(make([]byte, 1024))...)
			if f == conda.Conda {
				m := must(condaMembers(s.name().Stem(), nil, s.pkg()))
				m[2].body = b
				b = must(zipped(m, ""))
			}
			c.add("bomb: "+where+", "+f.String(), s.Filename(), b, conda.CodeBomb)
		}
	}
}
