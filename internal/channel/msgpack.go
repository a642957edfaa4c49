package channel

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Shards are taken apart and put together as bytes, so that a record that is not concerned keeps every byte of it. So
// this file reads and writes msgpack itself: just enough of it, always in its smallest form, with sorted keys.

// maxDepth bounds how deep values are nested in what is read and written.
const maxDepth = 256

var (
	errShort = errors.New("the msgpack ends too early")
	errDepth = fmt.Errorf("values are nested more than %d deep", maxDepth)
)

// kind is what a msgpack value is.
type kind byte

const (
	kindNil kind = iota
	kindBool
	kindInt   // int64 in n
	kindUint  // uint64 in n
	kindFloat // bits in n
	kindStr   // n bytes follow
	kindBin   // n bytes follow
	kindExt   // n bytes follow
	kindArray // n values follow
	kindMap   // n pairs follow
)

// header reads the first bytes of a value: what it is and how long they are.
func header(b []byte) (k kind, n uint64, size int, err error) {
	if len(b) == 0 {
		return 0, 0, 0, errShort
	}
	big := func(k kind, width, extra int) (kind, uint64, int, error) {
		if len(b) < 1+width {
			return 0, 0, 0, errShort
		}
		var n uint64
		for _, x := range b[1 : 1+width] {
			n = n<<8 | uint64(x)
		}
		return k, n + uint64(extra), 1 + width, nil
	}
	signed := func(width int) (kind, uint64, int, error) {
		k, n, size, err := big(kindInt, width, 0)
		shift := 64 - 8*width
		return k, uint64(int64(n<<shift) >> shift), size, err
	}
	switch c := b[0]; {
	case c < 0x80:
		return kindUint, uint64(c), 1, nil
	case c < 0x90:
		return kindMap, uint64(c & 0x0f), 1, nil
	case c < 0xa0:
		return kindArray, uint64(c & 0x0f), 1, nil
	case c < 0xc0:
		return kindStr, uint64(c & 0x1f), 1, nil
	case c >= 0xe0:
		return kindInt, uint64(int64(int8(c))), 1, nil
	}
	switch b[0] {
	case 0xc0:
		return kindNil, 0, 1, nil
	case 0xc2, 0xc3:
		return kindBool, uint64(b[0] - 0xc2), 1, nil
	case 0xc4:
		return big(kindBin, 1, 0)
	case 0xc5:
		return big(kindBin, 2, 0)
	case 0xc6:
		return big(kindBin, 4, 0)
	case 0xc7:
		return big(kindExt, 1, 1) // one byte more: the type
	case 0xc8:
		return big(kindExt, 2, 1)
	case 0xc9:
		return big(kindExt, 4, 1)
	case 0xca:
		k, n, size, err := big(kindFloat, 4, 0)
		return k, math.Float64bits(float64(math.Float32frombits(uint32(n)))), size, err
	case 0xcb:
		return big(kindFloat, 8, 0)
	case 0xcc:
		return big(kindUint, 1, 0)
	case 0xcd:
		return big(kindUint, 2, 0)
	case 0xce:
		return big(kindUint, 4, 0)
	case 0xcf:
		return big(kindUint, 8, 0)
	case 0xd0:
		return signed(1)
	case 0xd1:
		return signed(2)
	case 0xd2:
		return signed(4)
	case 0xd3:
		return signed(8)
	case 0xd4, 0xd5, 0xd6, 0xd7, 0xd8:
		return kindExt, 1 + 1<<(b[0]-0xd4), 1, nil
	case 0xd9:
		return big(kindStr, 1, 0)
	case 0xda:
		return big(kindStr, 2, 0)
	case 0xdb:
		return big(kindStr, 4, 0)
	case 0xdc:
		return big(kindArray, 2, 0)
	case 0xdd:
		return big(kindArray, 4, 0)
	case 0xde:
		return big(kindMap, 2, 0)
	case 0xdf:
		return big(kindMap, 4, 0)
	}
	return 0, 0, 0, errors.New("a byte that begins no msgpack value")
}

// sizeOf gives the length of the value that b begins with.
func sizeOf(b []byte, depth int) (int, error) {
	if depth > maxDepth {
		return 0, errDepth
	}
	k, n, at, err := header(b)
	if err != nil {
		return 0, err
	}
	switch k {
	case kindStr, kindBin, kindExt:
		if n > uint64(len(b)-at) {
			return 0, errShort
		}
		return at + int(n), nil
	case kindArray, kindMap:
		if k == kindMap {
			n *= 2
		}
		for range n {
			size, err := sizeOf(b[at:], depth+1)
			if err != nil {
				return 0, err
			}
			at += size
		}
	}
	return at, nil
}

// text reads a string or, since some write names so, bytes.
func text(b []byte) (s []byte, size int, err error) {
	k, n, at, err := header(b)
	if err != nil {
		return nil, 0, err
	}
	if k != kindStr && k != kindBin {
		return nil, 0, errors.New("a key is not a string")
	}
	if n > uint64(len(b)-at) {
		return nil, 0, errShort
	}
	return b[at : at+int(n)], at + int(n), nil
}

// splitMap gives the members of the map that b is, in their order.
func splitMap(b []byte) ([]member, error) {
	k, n, at, err := header(b)
	if err != nil {
		return nil, err
	}
	if k != kindMap {
		return nil, errors.New("it is not a map")
	}
	var ms []member // not made for n at once: n is only a claim
	for range n {
		key, size, err := text(b[at:])
		if err != nil {
			return nil, err
		}
		m := member{key: string(key), rawKey: b[at : at+size : at+size]}
		at += size
		if size, err = sizeOf(b[at:], 1); err != nil {
			return nil, err
		}
		m.raw = b[at : at+size : at+size]
		at += size
		ms = append(ms, m)
	}
	if at != len(b) {
		return nil, errors.New("there is something behind the map")
	}
	return ms, nil
}

// joinMap is the opposite of splitMap.
func joinMap(b []byte, ms []member) []byte {
	size := 5
	for _, m := range ms {
		size += len(m.rawKey) + len(m.raw)
	}
	b = appendLen(slices.Grow(b, size), kindMap, len(ms))
	for _, m := range ms {
		b = append(append(b, m.rawKey...), m.raw...)
	}
	return b
}

func packMember(key string, raw []byte) member {
	return member{key: key, rawKey: appendString(nil, key), raw: raw}
}

// setMember puts a value into a map: over the one with its key, else before the first key that sorts behind it. No other
// byte changes.
func setMember(ms []member, key string, raw []byte) []member {
	m := packMember(key, raw)
	if i := slices.IndexFunc(ms, func(m member) bool { return m.key == key }); i >= 0 {
		m.rawKey = ms[i].rawKey
		out := slices.Clone(ms)
		out[i] = m
		return out
	}
	i := slices.IndexFunc(ms, func(m member) bool { return m.key > key })
	if i < 0 {
		i = len(ms)
	}
	return slices.Insert(slices.Clone(ms), i, m)
}

func appendLen(b []byte, k kind, n int) []byte {
	small, limit, codes := byte(0), 0, [3]byte{}
	switch k {
	case kindStr:
		small, limit, codes = 0xa0, 32, [3]byte{0xd9, 0xda, 0xdb}
	case kindBin:
		codes = [3]byte{0xc4, 0xc5, 0xc6}
	case kindArray:
		small, limit, codes = 0x90, 16, [3]byte{0, 0xdc, 0xdd}
	case kindMap:
		small, limit, codes = 0x80, 16, [3]byte{0, 0xde, 0xdf}
	}
	switch {
	case n < limit:
		return append(b, small|byte(n))
	case n <= math.MaxUint8 && codes[0] != 0:
		return append(b, codes[0], byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, codes[1]), uint16(n))
	default:
		return binary.BigEndian.AppendUint32(append(b, codes[2]), uint32(n))
	}
}

func appendString(b []byte, s string) []byte { return append(appendLen(b, kindStr, len(s)), s...) }
func appendBytes(b, s []byte) []byte         { return append(appendLen(b, kindBin, len(s)), s...) }

func appendUint(b []byte, n uint64) []byte {
	switch {
	case n < 0x80:
		return append(b, byte(n))
	case n <= math.MaxUint8:
		return append(b, 0xcc, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, 0xcd), uint16(n))
	case n <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(b, 0xce), uint32(n))
	default:
		return binary.BigEndian.AppendUint64(append(b, 0xcf), n)
	}
}

func appendInt(b []byte, n int64) []byte {
	switch {
	case n >= 0:
		return appendUint(b, uint64(n))
	case n >= -32:
		return append(b, byte(n))
	case n >= math.MinInt8:
		return append(b, 0xd0, byte(n))
	case n >= math.MinInt16:
		return binary.BigEndian.AppendUint16(append(b, 0xd1), uint16(n))
	case n >= math.MinInt32:
		return binary.BigEndian.AppendUint32(append(b, 0xd2), uint32(n))
	default:
		return binary.BigEndian.AppendUint64(append(b, 0xd3), uint64(n))
	}
}

// appendValue writes what encoding/json reads (with UseNumber), and []byte as bytes. A number that msgpack cannot hold as
// it is written is an error.
func appendValue(b []byte, v any, depth int) ([]byte, error) {
	if depth > maxDepth {
		return nil, errDepth
	}
	var err error
	switch v := v.(type) {
	case nil:
		return append(b, 0xc0), nil
	case bool:
		if v {
			return append(b, 0xc3), nil
		}
		return append(b, 0xc2), nil
	case string:
		return appendString(b, v), nil
	case []byte:
		return appendBytes(b, v), nil
	case json.Number:
		return appendNumber(b, string(v))
	case []any:
		b = appendLen(b, kindArray, len(v))
		for _, e := range v {
			if b, err = appendValue(b, e, depth+1); err != nil {
				return nil, err
			}
		}
		return b, nil
	case map[string]any:
		b = appendLen(b, kindMap, len(v))
		for _, k := range slices.Sorted(maps.Keys(v)) {
			if b, err = appendValue(appendString(b, k), v[k], depth+1); err != nil {
				return nil, fmt.Errorf("%.80s: %w", k, err)
			}
		}
		return b, nil
	}
	return nil, fmt.Errorf("a value of type %T", v)
}

func appendNumber(b []byte, s string) ([]byte, error) {
	if strings.ContainsAny(s, ".eE") || s == "-0" {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return nil, fmt.Errorf("the number %.40s does not fit 64 bits", s)
		}
		return binary.BigEndian.AppendUint64(append(b, 0xcb), math.Float64bits(f)), nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return appendInt(b, n), nil
	}
	if n, err := strconv.ParseUint(s, 10, 64); err == nil {
		return appendUint(b, n), nil
	}
	return nil, fmt.Errorf("the number %.40s does not fit 64 bits", s)
}

// decodeValue is the opposite of appendValue. It reads all of b.
func decodeValue(b []byte) (any, error) {
	v, size, err := decode(b, 0)
	if err == nil && size != len(b) {
		err = errors.New("there is something behind the value")
	}
	return v, err
}

func decode(b []byte, depth int) (v any, at int, err error) {
	if depth > maxDepth {
		return nil, 0, errDepth
	}
	k, n, at, err := header(b)
	if err != nil {
		return nil, 0, err
	}
	switch k {
	case kindNil:
		return nil, at, nil
	case kindBool:
		return n == 1, at, nil
	case kindInt:
		return json.Number(strconv.FormatInt(int64(n), 10)), at, nil
	case kindUint:
		return json.Number(strconv.FormatUint(n, 10)), at, nil
	case kindFloat:
		s, err := formatFloat(math.Float64frombits(n))
		return json.Number(s), at, err
	case kindStr, kindBin:
		if n > uint64(len(b)-at) {
			return nil, 0, errShort
		}
		s := b[at : at+int(n)]
		if k == kindBin {
			return slices.Clone(s), at + int(n), nil
		}
		return string(s), at + int(n), nil
	case kindArray:
		list := []any{}
		for range n {
			e, size, err := decode(b[at:], depth+1)
			if err != nil {
				return nil, 0, err
			}
			list = append(list, e)
			at += size
		}
		return list, at, nil
	case kindMap:
		m := map[string]any{}
		for range n {
			key, size, err := text(b[at:])
			if err != nil {
				return nil, 0, err
			}
			at += size
			e, size, err := decode(b[at:], depth+1)
			if err != nil {
				return nil, 0, err
			}
			m[string(key)] = e
			at += size
		}
		return m, at, nil
	}
	return nil, 0, errors.New("a msgpack extension")
}

func formatFloat(f float64) (string, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return "", errors.New("a float that JSON does not have")
	}
	s := strconv.FormatFloat(f, 'g', -1, 64)
	if !strings.ContainsAny(s, ".e") {
		s += ".0" // it stays a float when it is read again
	}
	return s, nil
}

// appendDigest writes a digest in lower-case hex as its bytes.
func appendDigest(b []byte, sha256hex string) []byte {
	d, err := hex.DecodeString(sha256hex)
	if err != nil {
		return appendString(b, sha256hex) // never: digests are checked where they come in
	}
	return appendBytes(b, d)
}
