package main

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/command"
	"github.com/hallmark-attest/hallmark/internal/prefix/prefixtest"
)

const emery = "emery-k48-3.4.6-h24669d2_2.conda"

func sum(b []byte) string { d := sha256.Sum256(b); return hex.EncodeToString(d[:]) }

func recorded(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "recorded", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// host is a web server with a channel /ch that has the recorded package in noarch. Its answers can be replaced.
type host struct {
	*httptest.Server
	pkg, sigs []byte
	sidecar   string // path of the advertised one

	mu      sync.Mutex
	files   map[string][]byte
	answers map[string]http.HandlerFunc
	asked   []string
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{files: map[string][]byte{}, answers: map[string]http.HandlerFunc{}, pkg: recorded(t, emery), sigs: recorded(t, emery+".sigs")}
	h.Server = httptest.NewServer(h)
	t.Cleanup(h.Close)
	h.sidecar = "/ch/noarch/" + emery + ".sigs." + sum(h.sigs)
	h.files["/ch/noarch/"+emery] = h.pkg
	h.files["/ch/noarch/"+emery+".sigs"] = h.sigs
	h.files[h.sidecar] = h.sigs
	h.index(map[string]string{emery: fmt.Sprintf(`{"name":"emery-k48","version":"3.4.6","build":"h24669d2_2","build_number":2,"sha256":%q,"attestations_sha256":%q}`, sum(h.pkg), sum(h.sigs))})
	return h
}

// index sets the records of noarch.
func (h *host) index(records map[string]string) {
	var all []string
	for name, r := range records {
		all = append(all, fmt.Sprintf("%q:%s", name, r))
	}
	h.files["/ch/noarch/repodata.json"] = []byte(`{"packages":{},"packages.conda":{` + strings.Join(all, ",") + `}}`)
}

func (h *host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	h.asked = append(h.asked, r.URL.Path)
	f, b := h.answers[r.URL.Path], h.files[r.URL.Path]
	h.mu.Unlock()
	switch {
	case f != nil:
		f(w, r)
	case b != nil:
		_, _ = w.Write(b)
	default:
		http.NotFound(w, r)
	}
}

var emerySigner = []string{"--trusted-root", "testdata/recorded/trusted_root.json",
	"--certificate-identity", "https://github.com/acme/feedstock/.github/workflows/publish.yml@refs/heads/main", "--certificate-oidc-issuer", "http://127.0.0.1:30718"}

// verify runs the command in this process.
func verify(t *testing.T, args ...string) (code int, v verification, stderr string) {
	t.Helper()
	var out, errb bytes.Buffer
	code = run(append(append([]string{"verify", "--json"}, emerySigner...), args...), command.Streams{Stdin: os.Stdin, Stdout: &out, Stderr: &errb})
	if out.Len() > 0 {
		if err := json.Unmarshal(out.Bytes(), &v); err != nil {
			t.Fatalf("%v: %s", err, out.String())
		}
	}
	return code, v, errb.String()
}

// want is what a test expects of one package.
type want struct {
	exit                          int
	status, code, sidecar, digest string
}

func (x want) check(t *testing.T, code int, v verification, stderr string) {
	t.Helper()
	if len(v.Packages) != 1 {
		t.Fatalf("exit %d, %d packages: %s", code, len(v.Packages), stderr)
	}
	p := v.Packages[0]
	got := want{code, p.Status, p.Code, "", p.DigestFrom}
	if p.Sidecar != nil {
		got.sidecar = p.Sidecar.Kind
	}
	if got != x || p.Verified != (x.status == statusVerified) {
		t.Errorf("%+v, want %+v: %s", got, x, p.Message)
	}
}

// TestVerifyPublished: a package is found by each way of saying which, and the result says what was relied on.
func TestVerifyPublished(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	ch := h.URL + "/ch"
	for name, test := range map[string]struct {
		args []string
		want want
	}{
		"package URL":      {[]string{ch + "/noarch/" + emery}, want{0, statusVerified, "", sidecarAdvertised, digestOfDownload}},
		"sidecar URL":      {[]string{ch + "/noarch/" + emery + ".sigs"}, want{0, statusVerified, "", sidecarMutable, digestOfDownload}},
		"immutable URL":    {[]string{h.URL + h.sidecar}, want{0, statusVerified, "", sidecarImmutable, digestOfDownload}},
		"not downloaded":   {[]string{"--no-download", ch + "/noarch/" + emery}, want{0, statusVerified, "", sidecarAdvertised, digestOfIndex}},
		"sidecar, index":   {[]string{"--no-download", ch + "/noarch/" + emery + ".sigs"}, want{0, statusVerified, "", sidecarMutable, digestOfIndex}},
		"bundle":           {[]string{"--bundle", "testdata/recorded/" + emery + ".sigs", ch + "/noarch/" + emery}, want{0, statusVerified, "", sidecarFile, digestOfDownload}},
		"name":             {[]string{"--channel", ch, "emery-k48"}, want{0, statusVerified, "", sidecarAdvertised, digestOfDownload}},
		"name, slash":      {[]string{"--channel", ch + "/", "emery-k48"}, want{0, statusVerified, "", sidecarAdvertised, digestOfDownload}},
		"spec":             {[]string{"--channel", ch, "--subdir", "noarch", "emery-k48 >=3,<4 h24669d2_2"}, want{0, statusVerified, "", sidecarAdvertised, digestOfDownload}},
		"stem":             {[]string{"--channel", ch, "emery-k48-3.4.6-h24669d2_2"}, want{0, statusVerified, "", sidecarAdvertised, digestOfDownload}},
		"file name":        {[]string{"--channel", ch, emery}, want{0, statusVerified, "", sidecarAdvertised, digestOfDownload}},
		"subdir and file":  {[]string{"--channel", ch, "noarch/" + emery}, want{0, statusVerified, "", sidecarAdvertised, digestOfDownload}},
		"no such name":     {[]string{"--channel", ch, "numpy"}, want{1, statusRefused, causeUnindexed, "", ""}},
		"no such version":  {[]string{"--channel", ch, "emery-k48 >4"}, want{1, statusRefused, causeUnindexed, "", ""}},
		"no such file":     {[]string{"--channel", ch, "emery-k48-3.4.6-h24669d2_3.conda"}, want{1, statusRefused, causeUnindexed, "", ""}},
		"no such URL":      {[]string{ch + "/noarch/emery-k48-3.4.6-h24669d2_3.conda"}, want{1, statusRefused, causeUnindexed, "", ""}},
		"no such sidecar":  {[]string{ch + "/noarch/" + emery + ".v0.sigs"}, want{1, statusRefused, "sidecar.unavailable", sidecarV0, ""}},
		"no such subdir":   {[]string{"--channel", ch, "--subdir", "linux-64", "emery-k48"}, want{1, statusRefused, causeNoIndex, "", ""}},
		"no such channel":  {[]string{"--channel", h.URL + "/other", "emery-k48"}, want{1, statusRefused, causeNoIndex, "", ""}},
		"another channel":  {[]string{"--target-channel", "https://other.example", ch + "/noarch/" + emery}, want{1, statusRefused, "statement.target-channel", sidecarAdvertised, digestOfDownload}},
		"local, elsewhere": {[]string{"--channel", h.URL + "/other", "testdata/recorded/" + emery}, want{1, statusRefused, causeNoIndex, "", digestOfFile}},
		"no server":        {[]string{"http://127.0.0.1:1/ch/noarch/" + emery}, want{5, statusUnreachable, causeUnreachable, "", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, v, stderr := verify(t, test.args...)
			test.want.check(t, code, v, stderr)
			if p := v.Packages[0]; test.want.status == statusVerified && (p.SHA256 != sum(h.pkg) || p.Sidecar.SHA256 != sum(h.sigs) && p.Sidecar.Kind != sidecarFile) {
				t.Errorf("sha256 %s, sidecar %+v", p.SHA256, p.Sidecar)
			}
		})
	}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// TestVerifyLyingServers: whatever a server does, a package does not pass by it, and what is refused is told from what could not be read.
func TestVerifyLyingServers(t *testing.T) {
	t.Parallel()
	const pkg, repodata, shards = "/ch/noarch/" + emery, "/ch/noarch/repodata.json", "/ch/noarch/repodata_shards.msgpack.zst"
	cut := func(b []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
			_, _ = w.Write(b[:len(b)/2])
		}
	}
	for name, test := range map[string]struct {
		lie  func(h *host)
		want want
	}{
		"sidecar changed":    {func(h *host) { h.files[h.sidecar] = append(slices.Clone(h.sigs), '\n') }, want{1, statusRefused, "sidecar.digest", sidecarAdvertised, ""}},
		"sidecar missing":    {func(h *host) { delete(h.files, h.sidecar) }, want{1, statusRefused, "sidecar.unavailable", sidecarAdvertised, ""}},
		"sidecar oversize":   {func(h *host) { h.files[h.sidecar] = bytes.Repeat([]byte(" "), 4<<20+1) }, want{1, statusRefused, "sidecar.too-large", sidecarAdvertised, ""}},
		"sidecar endless":    {func(h *host) { h.answers[h.sidecar] = endless }, want{1, statusRefused, "sidecar.too-large", sidecarAdvertised, ""}},
		"sidecar cut":        {func(h *host) { h.answers[h.sidecar] = cut(h.sigs) }, want{5, statusUnreachable, causeUnreachable, sidecarAdvertised, ""}},
		"sidecar denied":     {func(h *host) { h.answers[h.sidecar] = status(403) }, want{5, statusUnreachable, causeDenied, sidecarAdvertised, ""}},
		"sidecar in trouble": {func(h *host) { h.answers[h.sidecar] = status(500) }, want{5, statusUnreachable, causeUnreachable, sidecarAdvertised, ""}},
		"sidecar gzip": {func(h *host) {
			h.answers[h.sidecar] = func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Encoding", "gzip")
				z := gzip.NewWriter(w)
				_, _ = z.Write(h.sigs)
				_ = z.Close()
			}
		}, want{5, statusUnreachable, causeUnusable, sidecarAdvertised, ""}},
		"sidecar bad answer":   {func(h *host) { h.answers[h.sidecar] = status(400) }, want{5, statusUnreachable, causeUnusable, sidecarAdvertised, ""}},
		"digest is a path":     {func(h *host) { h.advertise(`"../../` + sum(h.sigs)[6:] + `"`) }, want{1, statusRefused, "sidecar.digest", sidecarAdvertised, ""}},
		"digest in capitals":   {func(h *host) { h.advertise(`"` + strings.ToUpper(sum(h.sigs)) + `"`) }, want{1, statusRefused, "sidecar.digest", sidecarAdvertised, ""}},
		"digest is a number":   {func(h *host) { h.advertise(`7`) }, want{1, statusRefused, "sidecar.digest", sidecarAdvertised, ""}},
		"digest is empty":      {func(h *host) { h.advertise(`""`) }, want{1, statusRefused, "sidecar.digest", sidecarAdvertised, ""}},
		"no field":             {func(h *host) { h.index(map[string]string{emery: fmt.Sprintf(`{"sha256":%q}`, sum(h.pkg))}) }, want{1, statusRefused, causeUnattested, "", ""}},
		"sidecar of others":    {func(h *host) { h.files[h.sidecar] = []byte("[]"); h.moveSidecar("[]") }, want{1, statusRefused, "sidecar.no-match", sidecarAdvertised, digestOfDownload}},
		"package changed":      {func(h *host) { h.files[pkg] = append(slices.Clone(h.pkg), 'x') }, want{1, statusRefused, causeDigest, sidecarAdvertised, ""}},
		"package and record":   {func(h *host) { h.files[pkg] = []byte("other"); h.record(sum([]byte("other"))) }, want{1, statusRefused, "statement.digest-mismatch", sidecarAdvertised, digestOfDownload}},
		"package missing":      {func(h *host) { delete(h.files, pkg) }, want{1, statusRefused, causeMissing, sidecarAdvertised, ""}},
		"package cut":          {func(h *host) { h.answers[pkg] = cut(h.pkg) }, want{5, statusUnreachable, causeUnreachable, sidecarAdvertised, ""}},
		"record without sha":   {func(h *host) { h.record("") }, want{0, statusVerified, "", sidecarAdvertised, digestOfDownload}},
		"index cut":            {func(h *host) { h.answers[repodata] = cut(h.files[repodata]) }, want{5, statusUnreachable, causeUnreachable, "", ""}},
		"index ends":           {func(h *host) { h.files[repodata] = h.files[repodata][:50] }, want{1, statusRefused, causeIndex, "", ""}},
		"index in trouble":     {func(h *host) { h.answers[shards] = status(503) }, want{5, statusUnreachable, causeUnreachable, "", ""}},
		"index denied":         {func(h *host) { h.answers[repodata] = status(403) }, want{5, statusUnreachable, causeDenied, "", ""}},
		"shards denied":        {func(h *host) { h.answers[shards] = status(403) }, want{0, statusVerified, "", sidecarAdvertised, digestOfDownload}},
		"shards are no shards": {func(h *host) { h.files[shards] = []byte("<html>") }, want{1, statusRefused, causeIndex, "", ""}},
		"index is a page":      {func(h *host) { h.files[repodata] = []byte("<html>sign in</html>") }, want{1, statusRefused, causeIndex, "", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			test.lie(h)
			code, v, stderr := verify(t, h.URL+pkg)
			test.want.check(t, code, v, stderr)
			if test.want.status != statusVerified && test.want.digest == "" && strings.HasPrefix(test.want.code, "sidecar.") && slices.Contains(h.asked, pkg) {
				t.Error("the package was downloaded for nothing")
			}
			// What is advertised is used or nothing: a good mutable sidecar makes up for nothing.
			if slices.Contains(h.asked, pkg+".sigs") {
				t.Error("the mutable sidecar was asked for")
			}
		})
	}
}

// TestVerifyImmutableURL: the digest in a sidecar's URL is one that its bytes must have.
func TestVerifyImmutableURL(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.files[h.sidecar] = append(slices.Clone(h.sigs), '\n')
	code, v, stderr := verify(t, h.URL+h.sidecar)
	want{1, statusRefused, "sidecar.digest", sidecarImmutable, ""}.check(t, code, v, stderr)
}

func endless(w http.ResponseWriter, r *http.Request) {
	for b := make([]byte, 64<<10); ; {
		if _, err := w.Write(b); err != nil {
			return
		}
	}
}

func (h *host) advertise(att string) {
	h.index(map[string]string{emery: fmt.Sprintf(`{"sha256":%q,"attestations_sha256":%s}`, sum(h.pkg), att)})
}

func (h *host) record(sha string) {
	h.index(map[string]string{emery: fmt.Sprintf(`{"sha256":%q,"attestations_sha256":%q}`, sha, sum(h.sigs))})
}

func (h *host) moveSidecar(body string) {
	h.files["/ch/noarch/"+emery+".sigs."+sum([]byte(body))] = []byte(body)
	h.advertise(`"` + sum([]byte(body)) + `"`)
}

// TestVerifyRedirects: a channel's files may be on another host; its credentials are not taken there, nor into any message.
func TestVerifyRedirects(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	cdn := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(fmt.Sprint(r.Header), "hunter2") || r.Header.Get("Authorization") != "" {
			t.Errorf("told another host %v", r.Header)
		}
		_, _ = w.Write(h.files[r.URL.Path])
	}))
	t.Cleanup(cdn.Close)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, pw, _ := r.BasicAuth(); user != "me" || pw != "hunter2" {
			w.WriteHeader(401)
			return
		}
		path := strings.TrimPrefix(r.URL.Path, "/t/hunter2")
		if h.files[path] == nil {
			http.NotFound(w, r)
			return
		}
		http.Redirect(w, r, cdn.URL+path, http.StatusFound)
	}))
	t.Cleanup(front.Close)
	origin := strings.Replace(front.URL, "://", "://me:hunter2@", 1) + "/t/hunter2/ch"
	for _, args := range [][]string{{origin + "/noarch/" + emery}, {"--channel", origin, "emery-k48"}} {
		code, v, stderr := verify(t, args...)
		want{0, statusVerified, "", sidecarAdvertised, digestOfDownload}.check(t, code, v, stderr)
	}
	for _, args := range [][]string{
		{origin + "/noarch/missing-1-0.conda"}, {"--channel", origin, "missing"}, {"--channel", origin + "?hunter2", "x"}, {origin + "/noarch/x"}, {origin + "/noarch/" + emery + "?hunter2"},
		{"--channel", strings.Replace(origin, "hunter2@", "hunter2x@", 1), "emery-k48"}, {origin + "/../" + emery}, {"http://me:hunter2@%zz/ch/noarch/" + emery},
	} {
		for _, format := range []string{"--json", "--log-level=DEBUG"} {
			var out bytes.Buffer
			code := run(append(append([]string{"verify", format}, emerySigner...), args...), command.Streams{Stdin: os.Stdin, Stdout: &out, Stderr: &out})
			if code == 0 || strings.Contains(out.String(), "hunter2") {
				t.Errorf("exit %d: %s", code, out.String())
			}
		}
	}
}

// TestVerifyPrefix: where no record advertises a sidecar, the one that prefix.dev serves is taken, and the result says so. The server is
// strict about what it is asked.
func TestVerifyPrefix(t *testing.T) {
	t.Parallel()
	s := prefixtest.New(t, "ch")
	pkg, sigs := recorded(t, emery), recorded(t, emery+".sigs")
	s.Put("noarch", emery, pkg, sigs)
	s.Put("noarch", "b-1!2+x-0.conda", pkg, nil)
	s.Put("noarch", "repodata.json", fmt.Appendf(nil, `{"packages.conda":{%q:{"sha256":%q},"b-1!2+x-0.conda":{"sha256":%q}}}`, emery, sum(pkg), sum(pkg)), nil)
	code, v, stderr := verify(t, "--channel", s.ChannelURL(), "emery-k48")
	want{0, statusVerified, "", sidecarV0, digestOfDownload}.check(t, code, v, stderr)
	code, v, stderr = verify(t, s.ChannelURL()+"/noarch/"+emery+".v0.sigs")
	want{0, statusVerified, "", sidecarV0, digestOfDownload}.check(t, code, v, stderr)
	code, v, stderr = verify(t, s.ChannelURL()+"/noarch/b-1!2+x-0.conda")
	want{1, statusRefused, causeUnattested, "", ""}.check(t, code, v, stderr)
}

// TestVerifyMany: results come in the order of the arguments, each index is read once, and one that fails does not hide the others.
func TestVerifyMany(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	good := fmt.Sprintf(`{"build_number":2,"sha256":%q,"attestations_sha256":%q}`, sum(h.pkg), sum(h.sigs))
	records := map[string]string{emery: good, "emery-k48-3.4.6-0.conda": good, "emery-k48-3.4.0-0.conda": good, "emery-k48-3.4.0rc1-0.tar.bz2": good, "other-1-0.conda": good}
	h.index(records)
	h.answers["/ch/noarch/other-1-0.conda"] = status(500)
	h.files["/ch/noarch/other-1-0.conda.sigs."+sum(h.sigs)] = h.sigs
	for name := range records {
		h.files["/ch/noarch/"+name] = h.pkg
		h.files["/ch/noarch/"+name+".sigs."+sum(h.sigs)] = h.sigs
	}
	list := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(list, []byte("other\r\n\nemery-k48 3.4.0*\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	code, v, stderr := verify(t, "--channel", h.URL+"/ch", "--files-from", list, "--parallel", "2", "testdata/recorded/"+emery, "emery-k48", "nothing")
	var got []string
	for _, p := range v.Packages {
		got = append(got, p.Input+" "+filepath.Base(p.Package)+" "+p.Code)
	}
	if d := cmp.Diff([]string{
		"testdata/recorded/" + emery + " " + emery + " " + causeNoIndex, // it is for another subdir, which is not there
		"emery-k48 emery-k48-3.4.0-0.conda statement.subject-name",
		"emery-k48 emery-k48-3.4.0rc1-0.tar.bz2 statement.subject-name",
		"emery-k48 emery-k48-3.4.6-0.conda statement.subject-name",
		"emery-k48 " + emery + " ",
		"nothing nothing " + causeUnindexed,
		"other other-1-0.conda " + causeUnreachable,
		"emery-k48 3.4.0* emery-k48-3.4.0-0.conda statement.subject-name",
		"emery-k48 3.4.0* emery-k48-3.4.0rc1-0.tar.bz2 statement.subject-name",
	}, got); d != "" {
		t.Error(d)
	}
	if code != 1 || v.Verified != 1 || v.Refused != 7 || v.Unreachable != 1 || !strings.Contains(stderr, "7 of 9") {
		t.Errorf("exit %d, %d, %d, %d: %s", code, v.Verified, v.Refused, v.Unreachable, stderr)
	}
	if n := count(h.asked, "/ch/noarch/repodata.json"); n != 1 {
		t.Errorf("the index was read %d times", n)
	}

	_, v, _ = verify(t, "--channel", h.URL+"/ch", "--newest", "emery-k48")
	got = nil
	for _, p := range v.Packages {
		got = append(got, filepath.Base(p.Package))
	}
	if d := cmp.Diff([]string{"emery-k48-3.4.6-0.conda", emery}, got); d != "" {
		t.Error(d)
	}
}

func count(all []string, s string) (n int) {
	for _, a := range all {
		if a == s {
			n++
		}
	}
	return n
}

// TestVerifyText: what a person reads says what was relied on.
func TestVerifyText(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	var out, errb bytes.Buffer
	args := append([]string{"verify", "--no-download", "--channel", h.URL + "/ch"}, emerySigner...)
	if code := run(append(args, "emery-k48", h.URL+"/ch/noarch/"+emery+".sigs"), command.Streams{Stdin: os.Stdin, Stdout: &out, Stderr: &errb}); code != 0 {
		t.Fatal(code, out.String(), errb.String())
	}
	text := strings.ReplaceAll(out.String(), h.URL, "URL")
	for _, w := range []string{"emery-k48: 1 package in URL/ch\n", "verified  URL/ch/noarch/" + emery + "  signed by https://github.com/acme/", "  digest:   as the index has it", "  sidecar:  " + emery + ".sigs, as given: no record was asked for it\n"} {
		if !strings.Contains(text, w) {
			t.Errorf("%q is not in\n%s", w, text)
		}
	}
}

// TestVerifyArguments: what cannot be meant is said before anything is asked for.
func TestVerifyArguments(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for _, args := range [][]string{
		{}, {"numpy"}, {"--newest", emery}, {"--subdir", "noarch", emery}, {"--channel", h.URL + "/ch", "--subdir", "../x", "a"},
		{"--channel", "no-such-folder", "a"}, {"--channel", h.URL + "/ch?x", "a"}, {"--channel", h.URL + "/ch", "conda-forge::a"}, {"--channel", h.URL + "/ch", "a [x=1]"},
		{"--channel", h.URL + "/ch", "no-version.conda"}, {"--channel", "ftp://h/ch", "a"}, {"file:///ch/noarch/" + emery}, {h.URL + "/ch/noarch/x.zip"}, {h.URL + "/" + emery},
		{h.URL + "/ch/No-Arch/" + emery}, {h.URL + "/ch/noarch/" + emery + ".sigs.00"}, {h.URL + "/ch/noarch/" + emery + "#x"}, {"--files-from", "no-such-list"},
	} {
		if code, _, stderr := verify(t, args...); code != 2 || !strings.Contains(stderr, `"message"`) {
			t.Errorf("%q: exit %d: %s", args, code, stderr)
		}
	}
	if len(h.asked) > 0 {
		t.Errorf("asked for %q", h.asked)
	}
}

// TestVerifyPage: docs/verify.md has every cause that verify itself finds.
func TestVerifyPage(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/verify.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range []string{causeUnreachable, causeDenied, causeUnusable, causeNoIndex, causeIndex, causeUnindexed, causeMissing, causeDigest, causeUnattested,
		string(attest.CodeSidecarAbsent), string(attest.CodeSidecarDigest), string(attest.CodeSidecarTooLarge)} {
		if !bytes.Contains(doc, []byte("`"+code+"`")) {
			t.Errorf("%s is not there", code)
		}
	}
}
