package channel

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"strconv"

	"github.com/hallmark-attest/hallmark/internal/conda/match"
)

// line is what the outline has of a record: Key is its file's name.
type line struct {
	match.Record
	stretch // of the document: the record's bytes
}

// newLine reads out of a record, which MUST be valid JSON, what matters. What is of another type than it has to be is not
// there.
func newLine(file string, raw []byte) (line, error) {
	l := line{Record: match.Record{Key: file}}
	err := scanObject(raw, func(at, key, from, to int) error {
		name, value := raw[at+1:key-1], raw[from:to]
		if bytes.IndexByte(name, '\\') >= 0 {
			name = []byte(unquote(raw[at:key]))
		}
		switch string(name) {
		case "name":
			l.Name = unquote(value)
		case "version":
			l.Version = unquote(value)
		case "build":
			l.Build = unquote(value)
		case "build_number":
			l.BuildNumber = integer(value)
		case "timestamp":
			l.Timestamp = integer(value)
		case "track_features", "features":
			l.Features = l.Features || notEmpty(value)
		case "depends":
			l.Depends = stringsOf(value)
		}
		return nil
	})
	if l.Name == "" && err == nil {
		l.Name, _ = packageName(file)
	}
	return l, err
}

func (l *line) append(b []byte) []byte {
	features := uint64(0)
	if l.Features {
		features = 1
	}
	for _, n := range []uint64{uint64(l.from), uint64(l.to), features, uint64(l.BuildNumber), uint64(l.Timestamp)} {
		b = binary.AppendUvarint(b, n)
	}
	for _, s := range []string{l.Key, l.Name, l.Version, l.Build} {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	for _, s := range l.Depends {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	return b
}

var errOwnFile = errors.New("a file of its own was changed")

// read is the reverse of append. The strings are parts of s.
func (l *line) read(s string) error {
	ok := true
	number := func() (n uint64) {
		for shift := 0; shift < 64; shift += 7 {
			if len(s) == 0 {
				break
			}
			c := s[0]
			s = s[1:]
			n |= uint64(c&0x7f) << shift
			if c < 0x80 {
				return n
			}
		}
		ok = false
		return 0
	}
	text := func() (t string) {
		n := number()
		if n > uint64(len(s)) {
			ok = false
			return ""
		}
		t, s = s[:n], s[n:]
		return t
	}
	l.from, l.to = int64(number()), int64(number())
	l.Features = number() == 1
	l.BuildNumber, l.Timestamp = int64(number()), int64(number())
	l.Key, l.Name, l.Version, l.Build = text(), text(), text(), text()
	l.Depends = l.Depends[:0]
	for ok && len(s) > 0 {
		l.Depends = append(l.Depends, text())
	}
	if !ok {
		return errOwnFile
	}
	return nil
}

// unquote gives a string's text, "" for what is none.
func unquote(raw []byte) string {
	if raw[0] != '"' {
		return ""
	}
	if text := raw[1 : len(raw)-1]; bytes.IndexByte(text, '\\') < 0 {
		return string(text)
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// stringsOf gives the strings of a list, and leaves out what is none.
func stringsOf(raw []byte) (out []string) {
	if raw[0] != '[' {
		return nil
	}
	for i := skipSpace(raw, 1); raw[i] != ']'; i = skipSpace(raw, i) {
		if raw[i] == ',' {
			i = skipSpace(raw, i+1)
		}
		end := valueEnd(raw, i)
		if raw[i] == '"' {
			out = append(out, unquote(raw[i:end]))
		}
		i = end
	}
	return out
}

// notEmpty tells whether a string or a list has anything in it.
func notEmpty(raw []byte) bool {
	switch raw[0] {
	case '"':
		return len(bytes.TrimSpace(raw[1:len(raw)-1])) > 0
	case '[':
		return raw[skipSpace(raw, 1)] != ']'
	}
	return false
}

// integer gives a number without its fraction, 0 for what is none.
func integer(raw []byte) int64 {
	if n, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
		return n
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || math.Abs(f) > 1<<53 {
		return 0
	}
	return int64(f)
}
