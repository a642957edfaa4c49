package provenance

import (
	"net/url"
	"strings"
	"testing"
)

// FuzzBundleURLs: where a source's attestations are fetched from is https, whatever the recipe says, and what is shown of a
// URL has no credentials.
func FuzzBundleURLs(f *testing.F) {
	for _, s := range []string{"https://pypi.org/packages/source/f/foo/foo-1.0.tar.gz", "https://files.pythonhosted.org/packages/ab/cd/foo_bar-1.0-py3-none-any.whl",
		"https://github.com/o/r/releases/download/v1/a.tar.gz", "http://x/%zz", "https://user:secret@host/a?b#c", "file:///etc/passwd", "://", "https://[::1", "https://PYPI.org./x-1.zip", ""} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, raw, bundle string) {
		s := Source{URLs: []string{raw}, Attestation: &Attestation{BundleURLs: []string{bundle}}}
		list, err := s.bundleURLs("https://pypi.org")
		if err == nil {
			for _, l := range list {
				if u, perr := url.Parse(l); perr != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
					t.Fatalf("%q, %q: fetched from %q", raw, bundle, l)
				}
			}
		}
		if u, err := url.Parse(raw); err == nil && u.User != nil && u.Host != "" {
			if p, ok := u.User.Password(); ok && len(p) > 8 && strings.Contains(safeURL(raw), p) && !strings.Contains(u.Host+u.Path, p) {
				t.Fatalf("%q is shown as %q", raw, safeURL(raw))
			}
		}
		_ = s.shown()
		_ = filename(raw)
		_, _ = IntegrityURL(raw)
	})
}
