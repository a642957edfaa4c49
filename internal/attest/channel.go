package attest

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var (
	pathComponent = regexp.MustCompile(`^[a-z0-9_][a-z0-9_.-]*$`)                      // CEP 26, "Channel base URLs"
	labelName     = regexp.MustCompile(`^[a-zA-Z][0-9a-zA-Z_.-]*(/[0-9a-zA-Z_.-]+)*$`) // CEP 26, "Label names", without blanks and empty parts
	hostName      = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\.?$`)
)

// subdirs are the platforms that conda knows. CEP 26 allows any {os}-{arch}, but a channel may well be called
// "linux-tools".
var subdirs = []string{
	"noarch",
	"emscripten-wasm32", "wasi-wasm32", "freebsd-64", "freebsd-aarch64",
	"linux-32", "linux-64", "linux-aarch64", "linux-armv6l", "linux-armv7l", "linux-loong64", "linux-loongarch64",
	"linux-ppc64", "linux-ppc64le", "linux-riscv32", "linux-riscv64", "linux-s390x",
	"osx-64", "osx-arm64", "win-32", "win-64", "win-arm64", "zos-z",
}

// Subdirs gives the platforms that conda knows, noarch first. A channel that cannot be listed may have any of them.
func Subdirs() []string { return slices.Clone(subdirs) }

const (
	maxComponent = 128 // of a channel URL's path, and of a label (CEP 26)

	hintChannelURL = "name the channel's public URL with --channel-url, as users of the channel write it: https://host/path"
)

// CheckTargetChannel checks that u can stand as targetChannel in a statement (CEP 27) and says where users find the
// channel: a public http or https URL by CEP 26 ("Channel base URLs"), with or without /label/<label>, without trailing
// slash, subdir, credentials, token, query and fragment. Hosts on loopback are allowed, for private use.
//
// Errors are *Error with a hint; none of them repeats any part of u but its scheme, host and subdir, since a mistaken
// URL is where tokens are found.
func CheckTargetChannel(u string) error {
	if u == "" || len(u) > maxChannelURL {
		return refuse(CodeChannel, fmt.Errorf("the channel's URL has %d bytes; 1 to %d are allowed", len(u), maxChannelURL), hintChannelURL)
	}
	scheme, rest, ok := strings.Cut(u, "://")
	if !ok {
		return refuse(CodeChannel, errors.New("the channel's URL has no scheme"), hintChannelURL)
	}
	if scheme != "https" && scheme != "http" {
		return refuse(CodeChannelScheme, fmt.Errorf("the channel's URL has the scheme %.16q; http and https are public, others are not", scheme), hintChannelURL)
	}
	authority, path, _ := strings.Cut(rest, "/")
	if strings.Contains(authority, "@") {
		return refuse(CodeChannelCredentials, errors.New("the channel's URL has credentials in it"),
			"take the credentials out: the URL is published in a log that nobody can edit")
	}
	if strings.ContainsAny(u, "?#") {
		return refuse(CodeChannel, errors.New("the channel's URL has a query or a fragment"), hintChannelURL)
	}
	parsed, err := url.Parse(u)
	if err != nil || parsed.User != nil || parsed.RawQuery != "" || parsed.Fragment != "" || parsed.Host != authority {
		return refuse(CodeChannel, errors.New("the channel's URL is not a URL"), hintChannelURL) // err would repeat it
	}
	if err := checkHost(parsed); err != nil {
		return refuse(CodeChannel, err, hintChannelURL)
	}
	if strings.HasSuffix(u, "/") {
		return refuse(CodeChannel, errors.New("the channel's URL ends in a slash"), "write it without the trailing slash")
	}
	if path == "" {
		return nil
	}
	return checkChannelPath(strings.Split(path, "/"))
}

func checkHost(u *url.URL) error {
	host := u.Hostname()
	if host == "" {
		return errors.New("the channel's URL has no host")
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.Zone() != "" {
			return errors.New("the channel's URL has an address with a zone")
		}
	} else if !hostName.MatchString(host) || len(host) > 253 {
		return errors.New("the channel's URL has a host that is not a lower-case host name or an address")
	}
	if strings.HasSuffix(u.Host, ":") {
		return errors.New("the channel's URL has an empty port")
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return errors.New("the channel's URL has a port that is not 1 to 65535")
		}
	}
	return nil
}

func checkChannelPath(parts []string) error {
	// Before anything else, because what follows "t" is secret.
	for i, p := range parts[:len(parts)-1] {
		if p == "t" || p == "T" {
			return refuse(CodeChannelToken, fmt.Errorf("the channel's URL has an access token in its path (component %d)", i+2),
				"leave /t/<token> out: the URL is published in a log that nobody can edit. Treat the token as known and replace it if it was written anywhere else")
		}
	}
	base := parts
	if i := slices.Index(parts, "label"); i >= 0 && i < len(parts)-1 {
		label := strings.Join(parts[i+1:], "/")
		if len(label) > maxComponent || !labelName.MatchString(label) || slices.ContainsFunc(parts[i+1:], isDots) {
			return refuse(CodeChannel, errors.New("the channel's URL has a label that is none by CEP 26"), "")
		}
		base = parts[:i]
	}
	for i, p := range base {
		if len(p) > maxComponent || !pathComponent.MatchString(p) {
			return refuse(CodeChannel, fmt.Errorf("component %d of the path of the channel's URL is not of up to %d lower-case letters, digits, '_', '.', '-' (CEP 26)", i+1, maxComponent), hintChannelURL)
		}
	}
	if last := parts[len(parts)-1]; slices.Contains(subdirs, last) {
		return refuse(CodeChannelSubdir, fmt.Errorf("the channel's URL ends in the subdir %q", last), "name the channel, not one of its subdirs")
	}
	return nil
}

func isDots(part string) bool { return part == "." || part == ".." }

// sameChannel compares two channel URLs as clients do: scheme and host without regard to case, default ports left out,
// the path exactly.
func sameChannel(a, b string) bool {
	ca, ok := canonicalChannel(a)
	if !ok {
		return false
	}
	cb, ok := canonicalChannel(b)
	return ok && ca == cb
}

func canonicalChannel(s string) (string, bool) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(s, "#") {
		return "", false
	}
	host := strings.ToLower(u.Host)
	switch u.Scheme { // url.Parse has lowered it
	case "https":
		host = strings.TrimSuffix(host, ":443")
	case "http":
		host = strings.TrimSuffix(host, ":80")
	}
	return u.Scheme + "://" + host + u.EscapedPath(), true
}
