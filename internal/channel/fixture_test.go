package channel

import (
	"bytes"
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hallmark-attest/hallmark/internal/store"
	"github.com/klauspost/compress/zstd"
	"github.com/vmihailenco/msgpack/v5"
)

// pack is a made-up package: the channel never looks into the bytes.
type pack struct {
	filename string
	bytes    []byte
}

func newPack(name, version string, ext string) pack {
	f := name + "-" + version + "-h0_0" + ext
	return pack{f, []byte("bytes of " + f)}
}

func (p pack) sha256() string { return digest(p.bytes) }

// record is what the hash stage makes of a package.
func (p pack) record(subdir string) []byte {
	name, err := packageName(p.filename)
	if err != nil {
		panic(err)
	}
	stem := strings.TrimSuffix(strings.TrimSuffix(p.filename, ".conda"), ".tar.bz2")
	rest := strings.TrimPrefix(stem, name+"-")
	version, build, _ := strings.Cut(rest, "-")
	sum := md5.Sum(p.bytes)
	b, err := encodeJSON(map[string]any{
		"name": name, "version": version, "build": build, "build_number": 0, "depends": []string{"python >=3.9,<4", "a & b"},
		"license": "MIT", "timestamp": 1700000000123, "size": len(p.bytes), "subdir": subdir,
		"sha256": p.sha256(), "md5": hex.EncodeToString(sum[:]),
	})
	if err != nil {
		panic(err)
	}
	return b
}

// bundle looks like a Sigstore bundle of a publish attestation, n tells one from the other.
func (p pack) bundle(n int) []byte {
	statement := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":%q,"digest":{"sha256":%q}}],`+
		`"predicateType":"https://schemas.conda.org/attestations-publish-1.schema.json","predicate":{"targetChannel":"https://c.example/x"}}`,
		p.filename, p.sha256())
	return fmt.Appendf(nil, `{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"n":"%d"},`+
		`"dsseEnvelope":{"payload":%q,"payloadType":"application/vnd.in-toto+json","signatures":[{"sig":""}]}}`,
		n, base64.StdEncoding.EncodeToString([]byte(statement)))
}

// upload does what the upload stage does, and returns what the publish stage is to publish.
func (p pack) upload(t testing.TB, c *Channel, subdir string, n int) Entry {
	t.Helper()
	ctx := t.Context()
	if _, err := c.PutPackage(ctx, subdir, p.filename, bytes.NewReader(p.bytes), int64(len(p.bytes)), p.sha256()); err != nil {
		t.Fatal(err)
	}
	s, err := c.AddBundle(ctx, subdir, p.filename, p.bundle(n))
	if err != nil {
		t.Fatal(err)
	}
	return Entry{Filename: p.filename, Record: p.record(subdir), RunExports: json.RawMessage(`{"weak":["x >=1"]}`), AttestationsSHA256: s.SHA256}
}

// update is Update that has to succeed for every entry.
func update(t testing.TB, c *Channel, subdir string, entries ...Entry) int {
	t.Helper()
	n, refused, err := c.Update(t.Context(), subdir, entries)
	if err != nil {
		t.Fatal(err)
	}
	if refused != nil {
		t.Fatal(refused)
	}
	return n
}

// view is a subdir as a client sees it that shares no code with the package.
type view struct {
	json   map[string]map[string]any // by file name
	shards map[string]map[string]any // by file name; digests in hex
	index  map[string]any
}

func look(t testing.TB, get func(key string) []byte, subdir string) view {
	t.Helper()
	var doc struct {
		Packages map[string]map[string]any `json:"packages"`
		Conda    map[string]map[string]any `json:"packages.conda"`
	}
	raw := get(subdir + "/repodata.json")
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	if got := unzstd(t, get(subdir+"/repodata.json.zst")); !bytes.Equal(got, raw) {
		t.Errorf("%s: repodata.json.zst differs from repodata.json", subdir)
	}
	v := view{json: map[string]map[string]any{}, shards: map[string]map[string]any{}}
	maps.Copy(v.json, doc.Packages)
	maps.Copy(v.json, doc.Conda)
	if err := msgpack.Unmarshal(unzstd(t, get(subdir+"/repodata_shards.msgpack.zst")), &v.index); err != nil {
		t.Fatal(err)
	}
	base := v.index["info"].(map[string]any)["shards_base_url"].(string)
	for name, h := range v.index["shards"].(map[string]any) {
		var s struct {
			Packages map[string]map[string]any `msgpack:"packages"`
			Conda    map[string]map[string]any `msgpack:"packages.conda"`
		}
		b := get(strings.TrimPrefix(filepath.ToSlash(filepath.Join(subdir, base, fmt.Sprintf("%x.msgpack.zst", h))), "./"))
		if got := digest(b); got != fmt.Sprintf("%x", h) {
			t.Errorf("shard of %s hashes to %s, not %x", name, got, h)
		}
		if err := msgpack.Unmarshal(unzstd(t, b), &s); err != nil {
			t.Fatal(err)
		}
		for _, m := range []map[string]map[string]any{s.Packages, s.Conda} {
			for f, r := range m {
				if r["name"] != name {
					t.Errorf("%s is in the shard of %s", f, name)
				}
				v.shards[f] = r
			}
		}
	}
	return v
}

// agree reports every difference between a subdir's documents, and returns how many records they have.
func agree(t testing.TB, get func(key string) []byte, subdir string) int {
	t.Helper()
	v := look(t, get, subdir)
	if got, want := slices.Sorted(maps.Keys(v.shards)), slices.Sorted(maps.Keys(v.json)); !slices.Equal(got, want) {
		t.Errorf("%s: shards have %q, repodata.json has %q", subdir, got, want)
		return 0
	}
	for f, r := range v.json {
		for _, k := range []string{"sha256", "md5", "attestations_sha256"} {
			if got := fmt.Sprintf("%x", v.shards[f][k]); r[k] != nil && got != r[k] {
				t.Errorf("%s: %s is %s in the shard, %v in repodata.json", f, k, got, r[k])
			}
		}
		if got, want := fmt.Sprint(v.shards[f]["indexed_timestamp"]), fmt.Sprintf("%.0f", r["indexed_timestamp"]); r["indexed_timestamp"] != nil && got != want {
			t.Errorf("%s: indexed_timestamp is %s in the shard, %s in repodata.json", f, got, want)
		}
		if a, _ := r["attestations_sha256"].(string); a != "" {
			sigs := get(subdir + "/" + f + ".sigs")
			if digest(sigs) != a || !bytes.Equal(sigs, get(subdir+"/"+f+".sigs."+a)) {
				t.Errorf("%s advertises %s, its sidecar is %s", f, a, digest(sigs))
			}
		}
	}
	return len(v.json)
}

func unzstd(t testing.TB, b []byte) []byte {
	t.Helper()
	d, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	out, err := d.DecodeAll(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// export writes a store's objects into a folder, for programs that look at folders.
func (m *memory) export(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for k, v := range m.state() {
		p := filepath.Join(dir, filepath.FromSlash(k))
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(v), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// check runs the independent checker, where it is there.
func check(t *testing.T, dir string, packages int, subdirs ...string) {
	t.Helper()
	tool, err := filepath.Abs("../../../shared/tools/channelcheck")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(tool, "main.go")); errors.Is(err, os.ErrNotExist) {
		t.Log("the independent checker is not here")
		return
	}
	args := append([]string{"run", "-C", tool, ".", "-require-signed", "-expect", fmt.Sprint(packages), dir}, subdirs...)
	cmd := exec.CommandContext(t.Context(), "go", args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("channelcheck: %v\n%s", err, out)
	}
	t.Logf("%s", out)
}

var _ store.Store = (*memory)(nil)
