package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestInteropChannel: a published channel with one part wrong at a time, or checked for what it is not; each is told by its
// code, and everything else about the channel is right.
func TestInteropChannel(t *testing.T) {
	t.Parallel()
	packages := samples(t, 3, 601)
	p, strange := newPlace(t), newPlace(t)
	run(t, programs.producer, p.publish(packages[:2]...)...).want(t, 0)
	env := append(append([]string{}, stack.env...), "ACTIONS_ID_TOKEN_REQUEST_URL="+stack.URLs["token"]+"?repository=evil/twin")
	runEnv(t, env, programs.producer, strange.publish(packages[2])...).want(t, 0)
	beside, err := startSigstore(filepath.Join(t.TempDir(), "instance"), "v2")
	if err != nil {
		t.Fatal(err)
	}
	beside.stop() // its trust root is all that is needed

	// What the channel has of the first package.
	var file string
	for path := range tree(t, p.channel) {
		if filepath.Base(path) == filepath.Base(packages[0]) {
			file = path
		}
	}
	if file == "" {
		t.Fatal("the package is not there")
	}
	sidecar := read(t, filepath.Join(p.channel, file+".sigs"))
	digest := sha256.Sum256(sidecar)
	immutable := file + ".sigs." + hex.EncodeToString(digest[:])

	change := func(path string, f func(b []byte) []byte) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			at := filepath.Join(dir, path)
			if err := os.WriteFile(at, f(read(t, at)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(path string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, path)); err != nil {
				t.Fatal(err)
			}
		}
	}
	emptied := func([]byte) []byte { return []byte("[]") }
	subdir := filepath.Dir(file)
	for _, tt := range []struct {
		name    string
		channel string // p's without
		harm    func(t *testing.T, dir string)
		flags   []string
		codes   string // separated by blanks; those of sidecar.refused have the reason's behind a slash
	}{
		{name: "nothing"},
		{name: "package, a bit", harm: change(file, lastBit), codes: "package.digest"},
		{name: "package, a byte more", harm: change(file, func(b []byte) []byte { return append(b, 0) }), codes: "package.size"},
		{name: "no package", harm: remove(file), codes: "package.missing"},
		{name: "a package that no index has", harm: func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, subdir, "stray-1.0-0.conda"), []byte("x"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, codes: "package.unindexed"},
		{name: "no immutable sidecar", harm: remove(immutable), codes: "sidecar.missing"},
		{name: "immutable sidecar, other bytes", harm: change(immutable, emptied), codes: "sidecar.digest"},
		{name: "no mutable sidecar", harm: remove(file + ".sigs"), codes: "sidecar.missing"},
		{name: "mutable sidecar, other bytes", harm: change(file+".sigs", emptied), codes: "sidecar.stale"},
		{name: "no shard index", harm: remove(filepath.Join(subdir, "repodata_shards.msgpack.zst")), codes: "index.unreadable"},
		{name: "repodata.json, another digest", harm: change(filepath.Join(subdir, "repodata.json"), func(b []byte) []byte {
			return []byte(strings.ReplaceAll(string(b), hex.EncodeToString(digest[:]), strings.Repeat("0", 64)))
		}), codes: "record.differs zst.differs current.differs"},
		{name: "signed by a stranger", channel: strange.channel, codes: "sidecar.refused/policy.identity-mismatch"},
		{name: "asked for another channel", flags: []string{"--target-channel", channelURL + "-other"}, codes: "sidecar.refused/statement.target-channel"},
		{name: "asked for another issuer", flags: []string{"--certificate-oidc-issuer", "https://issuer.example"}, codes: "sidecar.refused/policy.issuer-mismatch"},
		{name: "by another trust root", flags: []string{"--trusted-root", beside.TrustedRoot}, codes: "sidecar.refused/log.not-verified"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			channel := p.channel
			if tt.channel != "" {
				channel = tt.channel
			}
			dir := filepath.Join(t.TempDir(), "channel")
			if err := os.CopyFS(dir, os.DirFS(channel)); err != nil {
				t.Fatal(err)
			}
			if tt.harm != nil {
				tt.harm(t, dir)
			}
			few <- struct{}{}
			defer func() { <-few }()
			args := append([]string{"channel", "check", "--json", "--to", dir, "--certificate-identity", stack.Identity, "--certificate-oidc-issuer", stack.Issuer, "--trusted-root", stack.TrustedRoot}, tt.flags...)
			code := 3
			if tt.codes == "" {
				code = 0
			}
			r := decode[struct {
				Subdirs []struct {
					Disagreements []struct{ Code, Filename, Detail string }
				}
			}](t, runEnv(t, nil, programs.producer, args...).want(t, code))
			want := map[string]bool{}
			for _, c := range strings.Fields(tt.codes) {
				want[c] = true
			}
			got := map[string]bool{}
			for _, s := range r.Subdirs {
				for _, d := range s.Disagreements {
					found := d.Code
					if reason, _, ok := strings.Cut(d.Detail, ": "); ok && d.Code == "sidecar.refused" {
						found += "/" + reason
					}
					got[found] = true
					if !want[found] {
						t.Errorf("%s %s: %s", d.Filename, d.Code, d.Detail)
					}
				}
			}
			if len(got) != len(want) {
				t.Errorf("%v, want %v", got, want)
			}
		})
	}
}
