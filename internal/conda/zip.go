package conda

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/hallmark-attest/hallmark/internal/strictjson"
)

// A .conda's ZIP holds three entries. archive/zip would allocate a directory of any size, skips bytes before, between and after the
// entries, and never compares an entry's two headers; readers that stream (rattler's) see other files there than readers that
// start from the directory. So this reader accepts one layout only: stored entries from byte 0, one after the other, each with equal
// headers, then the directory, then its end, then at most a comment.
const (
	maxEntries   = 64
	maxDirectory = 64 << 10

	sigLocal     = "PK\x03\x04"
	sigDirectory = "PK\x01\x02"
	sigEnd       = "PK\x05\x06"
	sigEnd64     = "PK\x06\x06"
	sigLocator64 = "PK\x06\x07"
	sigDescr     = "PK\x07\x08"

	lenLocal, lenDirectory, lenEnd, lenEnd64, lenLocator64 = 30, 46, 22, 56, 20

	flagEncrypted, flagDescriptor = 1 << 0, 1 << 3
	full16, full32                = 1<<16 - 1, 1<<32 - 1
)

var le = binary.LittleEndian

type zipEntry struct {
	name   string
	flags  uint16
	crc    uint32
	size   int64
	header int64 // where its local header starts
	data   int64 // where its bytes start
}

// readZip returns the entries in the order of the file.
func readZip(src *source) ([]zipEntry, error) {
	if err := checkZipMagic(src); err != nil {
		return nil, err
	}
	entries, dir, err := readDirectory(src)
	if err != nil {
		return nil, err
	}
	at := int64(0)
	for i := range entries {
		next := dir.after(entries, i)
		if err := entries[i].locate(src, at, next); err != nil {
			return nil, err
		}
		at = next
	}
	if len(entries) == 0 && dir.offset != 0 {
		return nil, refuse(CodeBadZip, "bytes before the ZIP")
	}
	return entries, nil
}

func checkZipMagic(src *source) error {
	head, err := src.bytes(0, min(4, src.size))
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(magicZip, head) && string(head) != sigEnd {
		return refuse(CodeNotAPackage, "this is not a ZIP%s", looksLike(head))
	}
	return nil
}

// readDirectory returns the entries of the directory in the order of the file. Their headers have not been looked at.
func readDirectory(src *source) ([]zipEntry, directory, error) {
	dir, err := findDirectory(src)
	if err != nil {
		return nil, dir, err
	}
	raw, err := src.bytes(dir.offset, dir.size)
	if err != nil {
		return nil, dir, err
	}
	entries := make([]zipEntry, 0, dir.entries)
	for len(raw) > 0 {
		e, rest, err := directoryEntry(raw)
		if err != nil {
			return nil, dir, err
		}
		entries, raw = append(entries, e), rest
	}
	if uint64(len(entries)) != dir.entries {
		return nil, dir, refuse(CodeBadZip, "the directory has %d entries and says %d", len(entries), dir.entries)
	}
	slices.SortFunc(entries, func(a, b zipEntry) int { return cmp.Compare(a.header, b.header) })
	return entries, dir, nil
}

// after is where the i-th of the sorted entries MUST end.
func (d directory) after(entries []zipEntry, i int) int64 {
	if i+1 < len(entries) {
		return entries[i+1].header
	}
	return d.offset
}

type directory struct {
	offset, size int64
	entries      uint64
}

func findDirectory(src *source) (d directory, err error) {
	// The end is the last signature from which a whole end record fits; with no comment it is in the last 22 bytes.
	tail, at := []byte(nil), -1
	for _, most := range []int64{lenEnd, lenEnd + full16} {
		if tail, err = src.bytes(src.size-min(most, src.size), min(most, src.size)); err != nil {
			return d, err
		}
		if len(tail) >= lenEnd {
			at = bytes.LastIndex(tail[:len(tail)-lenEnd+len(sigEnd)], []byte(sigEnd))
		}
		if at >= 0 {
			break
		}
	}
	if at < 0 {
		return d, refuse(CodeTruncated, "the ZIP has no directory: its end is missing")
	}
	end := tail[at:]
	endOffset := src.size - int64(len(end))
	if n := int(le.Uint16(end[20:])); n > len(end)-lenEnd {
		return d, refuse(CodeTruncated, "the ZIP ends inside its comment")
	} else if n < len(end)-lenEnd {
		return d, refuse(CodeBadZip, "%d bytes after the ZIP", len(end)-lenEnd-n)
	}
	entries, size, offset := uint64(le.Uint16(end[10:])), uint64(le.Uint32(end[12:])), uint64(le.Uint32(end[16:]))
	if le.Uint16(end[4:]) != 0 && le.Uint16(end[4:]) != full16 || le.Uint16(end[8:]) != le.Uint16(end[10:]) {
		return d, refuse(CodeBadZip, "the ZIP is one part of several")
	}
	if endOffset >= lenLocator64 {
		loc, err := src.bytes(endOffset-lenLocator64, lenLocator64)
		if err != nil {
			return d, err
		}
		if string(loc[:4]) == sigLocator64 {
			// Some readers follow the locator whenever it is there, some only if a field is full: both MUST see the same.
			at := le.Uint64(loc[8:])
			if at > uint64(endOffset) || int64(at) != endOffset-lenLocator64-lenEnd64 {
				return d, refuse(CodeBadZip, "the ZIP64 end is not where it should be")
			}
			end64, err := src.bytes(int64(at), lenEnd64)
			if err != nil {
				return d, err
			}
			n, s, o := le.Uint64(end64[32:]), le.Uint64(end64[40:]), le.Uint64(end64[48:])
			if string(end64[:4]) != sigEnd64 || le.Uint64(end64[4:]) != lenEnd64-12 || le.Uint64(end64[24:]) != n ||
				entries != full16 && entries != n || size != full32 && size != s || offset != full32 && offset != o {
				return d, refuse(CodeBadZip, "the ZIP64 end does not fit the ZIP's end")
			}
			entries, size, offset, endOffset = n, s, o, int64(at)
		}
	}
	if entries > maxEntries || size > maxDirectory {
		return d, refuse(CodeBomb, "the ZIP has %d entries in a directory of %d bytes; a package has 3", entries, size)
	}
	if offset > uint64(endOffset) || int64(offset)+int64(size) != endOffset {
		return d, refuse(CodeBadZip, "the ZIP's directory is not right before its end")
	}
	return directory{offset: int64(offset), size: int64(size), entries: entries}, nil
}

// directoryEntry parses the first entry of the directory b, and returns the rest.
func directoryEntry(b []byte) (e zipEntry, rest []byte, err error) {
	if len(b) < lenDirectory || string(b[:4]) != sigDirectory {
		return e, nil, refuse(CodeBadZip, "an entry of the ZIP's directory is malformed")
	}
	nameLen, extraLen, commentLen := int(le.Uint16(b[28:])), int(le.Uint16(b[30:])), int(le.Uint16(b[32:]))
	if len(b) < lenDirectory+nameLen+extraLen+commentLen {
		return e, nil, refuse(CodeBadZip, "an entry of the ZIP's directory is cut off")
	}
	e.name = string(b[lenDirectory:][:nameLen])
	e.flags, e.crc = le.Uint16(b[8:]), le.Uint32(b[16:])
	packed, size, header := uint64(le.Uint32(b[20:])), uint64(le.Uint32(b[24:])), uint64(le.Uint32(b[42:]))
	if !zip64(b[lenDirectory+nameLen:][:extraLen], &size, &packed, &header) || size > 1<<62 || header > 1<<62 {
		return e, nil, refuse(CodeBadZip, "%q: malformed ZIP64 sizes", clip(e.name))
	}
	e.size, e.header = int64(size), int64(header)
	if why := unsafePath(e.name); why != "" {
		return e, nil, refuse(CodePathTraversal, "ZIP entry %q: %s", clip(e.name), why)
	}
	if e.flags&flagEncrypted != 0 {
		return e, nil, refuse(CodeBadZip, "%q is encrypted", clip(e.name))
	}
	if method := le.Uint16(b[10:]); method != 0 {
		return e, nil, refuse(CodeCompressedZipEntry, "%q is compressed in the ZIP (method %d)", clip(e.name), method)
	}
	if packed != size {
		return e, nil, refuse(CodeBadZip, "%q is stored and has two sizes", clip(e.name))
	}
	return e, b[lenDirectory+nameLen+extraLen+commentLen:], nil
}

// zip64 replaces those values that are full by the ones in the ZIP64 extra field, which has them in that order. It reports
// false if one is missing.
func zip64(extra []byte, values ...*uint64) bool {
	var field []byte
	for len(extra) >= 4 {
		id, n := le.Uint16(extra), int(le.Uint16(extra[2:]))
		if n > len(extra)-4 {
			return false
		}
		if id == 1 {
			if field != nil {
				return false
			}
			field = extra[4 : 4+n : 4+n]
		}
		extra = extra[4+n:]
	}
	for _, v := range values {
		if *v != full32 {
			continue
		}
		if len(field) < 8 {
			return false
		}
		*v, field = le.Uint64(field), field[8:]
	}
	return true
}

// locate checks that e's local header is at byte at, says what the directory says, and that its bytes end at next.
func (e *zipEntry) locate(src *source, at, next int64) error {
	if e.header != at {
		return refuse(CodeBadZip, "%q starts at byte %d and not at %d", clip(e.name), e.header, at)
	}
	if next-at < lenLocal+int64(len(e.name)) {
		return refuse(CodeBadZip, "%q overlaps with what follows", clip(e.name))
	}
	h, err := src.bytes(at, lenLocal+int64(len(e.name)))
	if err != nil {
		return err
	}
	nameLen, extraLen := int64(le.Uint16(h[26:])), int64(le.Uint16(h[28:]))
	if string(h[:4]) != sigLocal || nameLen != int64(len(e.name)) || string(h[lenLocal:]) != e.name {
		return refuse(CodeBadZip, "%q has another name, or no header, where it starts", clip(e.name))
	}
	e.data = at + lenLocal + nameLen + extraLen
	if e.data > next || e.size > next-e.data {
		return refuse(CodeBadZip, "%q overlaps with what follows", clip(e.name))
	}
	extra, err := src.bytes(at+lenLocal+nameLen, extraLen)
	if err != nil {
		return err
	}
	crc, packed, size := le.Uint32(h[14:]), uint64(le.Uint32(h[18:])), uint64(le.Uint32(h[22:]))
	if !zip64(extra, &size, &packed) {
		return refuse(CodeBadZip, "%q: malformed ZIP64 sizes", clip(e.name))
	}
	descriptor := e.flags&flagDescriptor != 0
	late := descriptor && crc == 0 && packed == 0 && size == 0
	if le.Uint16(h[6:]) != e.flags || le.Uint16(h[8:]) != 0 ||
		!late && (crc != e.crc || packed != uint64(e.size) || size != uint64(e.size)) {
		return refuse(CodeBadZip, "%q: its two headers differ", clip(e.name))
	}
	gap := next - e.data - e.size
	if !descriptor {
		if gap != 0 {
			return refuse(CodeBadZip, "%d bytes after %q that are in no entry", gap, clip(e.name))
		}
		return nil
	}
	if gap > 24 {
		return refuse(CodeBadZip, "%d bytes after %q that are in no entry", gap, clip(e.name))
	}
	d, err := src.bytes(next-gap, gap)
	if err != nil {
		return err
	}
	d = bytes.TrimPrefix(d, []byte(sigDescr))
	switch {
	case len(d) == 12 && le.Uint32(d) == e.crc && int64(le.Uint32(d[4:])) == e.size && int64(le.Uint32(d[8:])) == e.size:
	case len(d) == 20 && le.Uint32(d) == e.crc && le.Uint64(d[4:]) == uint64(e.size) && le.Uint64(d[12:]) == uint64(e.size):
	default:
		return refuse(CodeBadZip, "%q: its descriptor differs from its header", clip(e.name))
	}
	return nil
}

// members checks that the entries are CEP 35's three and returns two of them. Entries that CEP 35 does not name are let be.
func members(entries []zipEntry, name Name) (info, metadata zipEntry, err error) {
	wantInfo, wantPkg := "info-"+name.Stem()+".tar.zst", "pkg-"+name.Stem()+".tar.zst"
	seen := map[string]*zipEntry{}
	for i := range entries {
		e := &entries[i]
		folded := strings.ToLower(e.name) // Windows and macOS unpack both to one file
		if seen[folded] != nil {
			return info, metadata, refuse(CodeDuplicateEntry, "the ZIP has two entries %q", clip(e.name))
		}
		seen[folded] = e
		if strings.HasSuffix(folded, ".tar.zst") && (strings.HasPrefix(folded, "info-") && e.name != wantInfo || strings.HasPrefix(folded, "pkg-") && e.name != wantPkg) {
			return info, metadata, refuse(CodeInnerNameMismatch, "%q is in a package named %s", clip(e.name), name)
		}
	}
	meta := seen["metadata.json"]
	if meta == nil || meta.name != "metadata.json" {
		return info, metadata, refuse(CodeMissingMetadata, "the ZIP has no metadata.json")
	}
	for _, want := range []string{wantPkg, wantInfo} {
		e := seen[strings.ToLower(want)]
		if e == nil {
			return info, metadata, refuse(CodeInnerNameMismatch, "the ZIP has no %s", want)
		}
		info = *e
	}
	return info, *meta, nil
}

// checkMetadata checks metadata.json.
func checkMetadata(src *source, meta zipEntry) error {
	if meta.size > maxMetadata {
		return refuse(CodeBomb, "metadata.json has %d bytes", meta.size)
	}
	raw, err := src.bytes(meta.data, meta.size)
	if err != nil {
		return err
	}
	m, err := strictjson.DecodeObject(raw)
	if err != nil {
		return refuse(CodeMissingMetadata, "metadata.json: %w", err)
	}
	if v, ok := natural(m["conda_pkg_format_version"]); !ok || v != 2 {
		return refuse(CodeMissingMetadata, "metadata.json does not say conda_pkg_format_version 2")
	}
	return nil
}
