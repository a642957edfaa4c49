package store

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// hidden is the folder, below a store's root, that is Hallmark's own: temporary files, locks, the probe's objects.
const hidden = ".hallmark"

// maxKey is the longest key in bytes that S3 takes; a directory follows it, so that a channel can move from one to the other.
const maxKey = 1024

// checkKey returns ErrKey for a key that not every store can hold. Beside what the package comment lists these are keys
// with control characters (S3's listing is XML 1.0, which cannot carry them) and keys that are not UTF-8.
func checkKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("%w: empty", ErrKey)
	case len(key) > maxKey:
		return fmt.Errorf("%w: %d bytes, at most %d are possible", ErrKey, len(key), maxKey)
	case key[0] == '/':
		return fmt.Errorf("%w %q: absolute", ErrKey, key)
	}
	if err := checkText(key); err != nil {
		return err
	}
	for element := range strings.SplitSeq(key, "/") {
		if element == "" || element == "." || element == ".." {
			return fmt.Errorf("%w %q: element %q", ErrKey, key, element)
		}
	}
	return nil
}

// checkPrefix is checkKey for the beginning of a key: the last element may be cut anywhere, also to nothing.
func checkPrefix(prefix string) error {
	if err := checkText(prefix); err != nil {
		return err
	}
	if dir, _, ok := cutLast(prefix); ok {
		return checkKey(dir)
	}
	return nil
}

func checkText(s string) error {
	if !utf8.ValidString(s) {
		return fmt.Errorf("%w %q: not UTF-8", ErrKey, s)
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		return fmt.Errorf("%w %q: control character", ErrKey, s)
	}
	return nil
}

// cutLast splits a key at its last slash; without one the whole key is the name.
func cutLast(key string) (dir, name string, ok bool) {
	if i := strings.LastIndexByte(key, '/'); i >= 0 {
		return key[:i], key[i+1:], true
	}
	return "", key, false
}
