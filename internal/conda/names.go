package conda

import (
	"strings"
)

// Format is a package's archive format (CEP 35).
type Format int

const (
	// Conda is a ZIP of two zstd tarballs, ".conda".
	Conda Format = iota + 1
	// TarBz2 is one bzip2 tarball, ".tar.bz2".
	TarBz2
)

// String returns the format's extension with its dot: ".conda", ".tar.bz2".
func (f Format) String() string {
	switch f {
	case Conda:
		return ".conda"
	case TarBz2:
		return ".tar.bz2"
	default:
		return ""
	}
}

// Lengths of CEP 26, in bytes (all of it is ASCII).
const (
	maxPart     = 64
	maxFilename = 211
	maxSubdir   = 32
)

// Name is what a package's file name says.
type Name struct {
	Name, Version, Build string
	Format               Format
}

// Stem is the distribution string, the file name without its extension.
func (n Name) Stem() string { return n.Name + "-" + n.Version + "-" + n.Build }

// String is the file name.
func (n Name) String() string { return n.Stem() + n.Format.String() }

// ParseFilename splits a package's file name, which MUST have no folder, by CEP 26. It splits from the right, since names
// hold hyphens and versions and builds do not. Names and versions MUST be in lower case: CEP 26's regex for names is
// case-insensitive, and its text is not; the text decides. An error is an *Error with CodeNameInvalid.
func ParseFilename(filename string) (Name, error) {
	n, why := parseFilename(filename)
	if why != "" {
		return Name{}, refuse(CodeNameInvalid, "file name %q: %s", clip(filename), why)
	}
	return n, nil
}

func parseFilename(filename string) (n Name, why string) {
	if len(filename) > maxFilename {
		return n, "longer than 211 characters"
	}
	stem, ok := strings.CutSuffix(filename, ".conda")
	if n.Format = Conda; !ok {
		if stem, ok = strings.CutSuffix(filename, ".tar.bz2"); !ok {
			return n, "the extension is neither .conda nor .tar.bz2"
		}
		n.Format = TarBz2
	}
	b := strings.LastIndexByte(stem, '-')
	v := -1
	if b >= 0 {
		v = strings.LastIndexByte(stem[:b], '-')
	}
	if v < 0 {
		return n, "want <name>-<version>-<build>"
	}
	n.Name, n.Version, n.Build = stem[:v], stem[v+1:b], stem[b+1:]
	for _, why := range []string{checkName(n.Name), checkVersion(n.Version), checkBuild(n.Build)} {
		if why != "" {
			return n, why
		}
	}
	return n, ""
}

// checkName returns what is wrong with the name of a distributable package. CEP 26's regex and its text together come to
// the text: the regex alone lets "_-a" pass, which has two separators in a row.
func checkName(s string) string {
	switch {
	case s == "":
		return "the name is empty"
	case len(s) > maxPart:
		return "the name is longer than 64 characters"
	case s[0] == '-' || s[0] == '.':
		return "the name must start with a letter, a digit or one underscore"
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case isLower(c) || isDigit(c):
		case c == '-' || c == '_' || c == '.':
			if i > 0 && (s[i-1] == '-' || s[i-1] == '_' || s[i-1] == '.') {
				return "the name has two separators in a row"
			}
		case isUpper(c):
			return "the name has capital letters"
		default:
			return "the name has other characters than a-z, 0-9, '-', '_' and '.'"
		}
	}
	return ""
}

func checkVersion(s string) string {
	switch {
	case s == "":
		return "the version is empty"
	case len(s) > maxPart:
		return "the version is longer than 64 characters"
	}
	for i := range len(s) {
		if c := s[i]; !isLower(c) && !isDigit(c) && c != '.' && c != '_' && c != '+' && c != '!' {
			return "the version has other characters than a-z, 0-9, '.', '_', '+' and '!'"
		}
	}
	return ""
}

func checkBuild(s string) string {
	switch {
	case s == "":
		return "the build is empty"
	case len(s) > maxPart:
		return "the build is longer than 64 characters"
	}
	for i := range len(s) {
		if c := s[i]; !isLower(c) && !isUpper(c) && !isDigit(c) && c != '.' && c != '_' && c != '+' {
			return "the build has other characters than letters, digits, '.', '_' and '+'"
		}
	}
	return ""
}

// CheckSubdir returns an *Error with CodeSubdirInvalid unless s is "noarch" or "<os>-<arch>" as CEP 26 says.
func CheckSubdir(s string) error {
	if len(s) > maxSubdir {
		return refuse(CodeSubdirInvalid, "subdir %q: longer than 32 characters", clip(s))
	}
	if s == "noarch" {
		return nil
	}
	os, arch, ok := strings.Cut(s, "-")
	if !ok || !isWord(os) || !isWord(arch) {
		return refuse(CodeSubdirInvalid, "subdir %q: want noarch or <os>-<arch> in a-z and 0-9", s)
	}
	return nil
}

func isWord(s string) bool {
	for i := range len(s) {
		if !isLower(s[i]) && !isDigit(s[i]) {
			return false
		}
	}
	return s != ""
}

func isLower(c byte) bool { return 'a' <= c && c <= 'z' }
func isUpper(c byte) bool { return 'A' <= c && c <= 'Z' }
func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// clip keeps foreign text in messages short.
func clip(s string) string {
	const most = 240
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "?") + "…"
	}
	return s
}
