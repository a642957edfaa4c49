package store

import (
	"net/url"
	"strings"
	"testing"
)

// FuzzHTTPKey: a reference that stands in a channel leads to a key of it, or nowhere.
func FuzzHTTPKey(f *testing.F) {
	for _, s := range [][2]string{{"noarch/repodata_shards.msgpack.zst", "./shards/"}, {"noarch/x", "../../etc/passwd"}, {"noarch/x", "https://host.test/channel/a"},
		{"noarch/x", "https://other.test/channel/a"}, {"noarch/x", "//host.test/channel/%2e%2e/a"}, {"noarch/x", "/channel/a%2Fb"}, {"a b/ü+", "?q"}, {"noarch/x", "c:/x"}, {"", ""}} {
		f.Add(s[0], s[1])
	}
	h, err := NewHTTP(HTTPConfig{URL: "https://user:secret@host.test/channel"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, from, reference string) {
		if checkKey(from) != nil {
			return
		}
		key, ok := h.Key(from, reference)
		if !ok {
			return
		}
		if err := checkKey(key); err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(h.url(key))
		if err != nil || u.Host != "host.test" || u.Path != "/channel/"+key {
			t.Fatalf("%q from %q: %q at %v (%v)", reference, from, key, u, err)
		}
	})
}

// FuzzLocation: what is shown of a place has no credentials.
func FuzzLocation(f *testing.F) {
	for _, s := range []string{"/srv/channel", "s3://bucket/prefix", "https://user:topsecret@host/x?token=topsecret", "s3://a:topsecret@b", "https://host/%zz:topsecret@", "//topsecret@", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, location string) {
		shown := Redacted(location)
		u, err := url.Parse(location)
		if err != nil || u.User == nil || u.Host == "" {
			return
		}
		if p, ok := u.User.Password(); ok && len(p) > 8 && strings.Contains(shown, p) && !strings.Contains(u.Scheme+u.Host+u.Path, p) {
			t.Fatalf("%q is shown as %q", location, shown)
		}
	})
}
