package event

import (
	"net/url"
	"path"
	"regexp"
	"strings"
	"unicode/utf8"
)

// maxText bounds an error's text in an event, in bytes.
const maxText = 4 << 10

var (
	urls    = regexp.MustCompile(`[A-Za-z][A-Za-z0-9+.-]*://[^\s"'<>\x60]+`)
	unixDir = regexp.MustCompile(`(^|[\s"'=(:\[,\x60])(/[^\s"':,;)\]\x60]+)`)
	winDir  = regexp.MustCompile(`[A-Za-z]:\\[^\s"':,;)\]\x60]+|\\\\[^\s"':,;)\]\x60]+`)
	secrets = regexp.MustCompile(`(?i)\bbearer\s+[A-Za-z0-9._~+/=-]+` +
		`|\b(basic|token)\s+[A-Za-z0-9._~+/=-]{16,}` +
		`|\b[a-z0-9_.-]*(token|secret|passw(or)?d|key|authorization|signature|credential)\s*=\s*["']?[^\s"'&,;]+` +
		`|\b[a-z0-9_.-]*(token|secret|passw(or)?d|key|authorization)["']?\s*:\s*["']?[A-Za-z0-9._~+/=-]{16,}` +
		`|\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]*)?` +
		`|\bgh[a-z]_[A-Za-z0-9]{16,}|\bgithub_pat_\w{16,}|\b(AKIA|ASIA)[A-Z0-9]{16}\b|\bpfx_\w{16,}`)
)

// scrub makes an error's text fit for strangers: no credentials, no queries of URLs (signed URLs), and of paths only the
// last element, if it looks like a file's. source and dirs are paths that are replaced wherever they stand, blanks and
// all. It errs on the side of taking too much.
func scrub(s, source string, dirs ...string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > 4*maxText { // the patterns need not see more than what can remain
		s = clip(s, 4*maxText)
	}
	for i, k := range append([]string{source}, dirs...) {
		switch {
		case len(k) <= 1 || !strings.ContainsAny(k, `/\`):
		case i == 0:
			s = strings.ReplaceAll(s, k, base(k))
		default:
			s = strings.ReplaceAll(s, k, "…")
		}
	}
	// URLs are set aside, so that their paths do not look like a machine's.
	var kept []string
	s = strings.ReplaceAll(s, "\x00", "")
	s = urls.ReplaceAllStringFunc(s, func(m string) string {
		tail := m[len(strings.TrimRight(m, ".,;:)]")):]
		kept = append(kept, cleanURL(strings.TrimSuffix(m, tail)))
		return "\x00" + tail
	})
	s = secrets.ReplaceAllString(s, "[redacted]")
	s = unixDir.ReplaceAllStringFunc(s, func(m string) string {
		i := strings.IndexByte(m, '/')
		return m[:i] + base(m[i:])
	})
	s = winDir.ReplaceAllStringFunc(s, base)
	for _, k := range kept {
		s = strings.Replace(s, "\x00", k, 1)
	}
	return clip(s, maxText)
}

func cleanURL(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "[redacted URL]"
	}
	if u.Scheme == "file" {
		return base(u.Path)
	}
	u.User, u.RawQuery, u.ForceQuery, u.Fragment, u.RawFragment = nil, "", false, "", ""
	return secrets.ReplaceAllString(u.String(), "[redacted]")
}

func base(p string) string {
	b := path.Base(strings.ReplaceAll(p, `\`, "/"))
	if !strings.Contains(strings.Trim(b, "."), ".") { // a folder's name may be a person's
		return "…"
	}
	return b
}

// clip cuts s to at most n bytes, between characters, and says that it did.
func clip(s string, n int) string {
	const mark = "… (cut)"
	if len(s) <= n {
		return s
	}
	s = s[:max(n-len(mark), 0)]
	for len(s) > 0 && !utf8.ValidString(s[max(0, len(s)-utf8.UTFMax):]) {
		if r, size := utf8.DecodeLastRuneInString(s); r != utf8.RuneError || size > 1 {
			break
		}
		s = s[:len(s)-1]
	}
	return s + mark
}
