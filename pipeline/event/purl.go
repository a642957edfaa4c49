package event

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/hallmark-attest/hallmark/pipeline"
)

// purl labels an item's package, as the package URL specification's conda type does: build, channel, subdir and type are
// qualifiers. Where the package's name is not known, its file name is all there is to say.
func purl(it *pipeline.Item, channel string) string {
	p := it.Package
	if p.Name == "" || p.Version == "" {
		return "pkg:generic/" + purlEscape(it.Filename, "")
	}
	kind := "conda"
	if strings.HasSuffix(it.Filename, ".tar.bz2") {
		kind = "tar.bz2"
	}
	var b strings.Builder
	b.WriteString("pkg:conda/" + purlEscape(p.Name, "") + "@" + purlEscape(p.Version, ":"))
	sep := "?"
	for _, q := range [...][2]string{{"build", p.Build}, {"channel", channel}, {"subdir", p.Subdir}, {"type", kind}} { // in order
		if q[1] == "" {
			continue
		}
		b.WriteString(sep + q[0] + "=" + purlEscape(q[1], ":/"))
		sep = "&"
	}
	return b.String()
}

// purlEscape percent-encodes all but letters, digits, "-._~" and keep.
func purlEscape(s, keep string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~", c) >= 0, strings.IndexByte(keep, c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// publicURL returns the channel's URL if it is one that others can use, without credentials, query and closing slash,
// else "".
func publicURL(channel string) string {
	u, err := url.Parse(channel)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return ""
	}
	return strings.TrimRight((&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String(), "/")
}

// sidecarURL is the immutable sidecar's place below the channel (CEP 50). '+' and '!' are encoded, because servers
// disagree on what they mean where they are not.
func sidecarURL(channel, subdir, filename, sha256hex string) string {
	if channel == "" || subdir == "" || filename == "" || sha256hex == "" {
		return ""
	}
	return channel + "/" + purlEscape(subdir, "") + "/" + purlEscape(filename, "") + ".sigs." + purlEscape(sha256hex, "")
}
