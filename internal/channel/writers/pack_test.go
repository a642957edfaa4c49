package writers_test

import (
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
)

func digest(b []byte) string {
	d := sha256.Sum256(b)
	return hex.EncodeToString(d[:])
}

// pack is a made-up package: a channel never looks into the bytes.
type pack struct {
	Name, Version, File string
}

func newPack(name, version, ext string) pack {
	return pack{name, version, name + "-" + version + "-h0_0" + ext}
}

func (p pack) bytes() []byte { return []byte("bytes of " + p.File) }

// record is what the hash stage makes of a package.
func (p pack) record() []byte {
	b := p.bytes()
	sum := md5.Sum(b)
	r, err := json.Marshal(map[string]any{
		"name": p.Name, "version": p.Version, "build": "h0_0", "build_number": 0, "depends": []string{"python >=3.9,<4", "a & b"},
		"license": "MIT", "timestamp": 1700000000123, "size": len(b), "subdir": subdir,
		"sha256": digest(b), "md5": hex.EncodeToString(sum[:]),
	})
	if err != nil {
		panic(err)
	}
	return r
}

// bundle looks like a Sigstore bundle of a publish attestation; n tells one writer's from the other's.
func (p pack) bundle(n int) []byte {
	statement := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":%q,"digest":{"sha256":%q}}],`+
		`"predicateType":"https://schemas.conda.org/attestations-publish-1.schema.json","predicate":{"targetChannel":"https://c.example/x"}}`,
		p.File, digest(p.bytes()))
	return fmt.Appendf(nil, `{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"n":"%d"},`+
		`"dsseEnvelope":{"payload":%q,"payloadType":"application/vnd.in-toto+json","signatures":[{"sig":""}]}}`,
		n, base64.StdEncoding.EncodeToString([]byte(statement)))
}

// plan says which packages there are and who publishes them. Half of the names are every writer's, so that shards conflict; one
// package in twenty is published by two writers, so that sidecars do.
type plan struct {
	Writers, Packages int
	Least, Most       int // of a batch
	Generation        int // tells the packages of one plan from those of another
	Seed              uint64
}

// perName is how many packages a name has, about.
const perName = 20

// publishers gives the writers of a package.
func (p plan) publishers(i int) []int {
	w := i % p.Writers
	if i%20 == 7 {
		return []int{w, (w + 1) % p.Writers}
	}
	return []int{w}
}

func (p plan) pack(i int) pack {
	w, k := i%p.Writers, i/p.Writers
	shared := max(1, p.Packages/2/perName)
	name := fmt.Sprintf("common-%d", k/2%shared)
	if k%2 == 1 {
		name = fmt.Sprintf("own%d-%d", w, k/2%max(1, shared/p.Writers))
	}
	ext := ".conda"
	if i%7 == 3 {
		ext = ".tar.bz2"
	}
	return newPack(name, fmt.Sprintf("%d.%d", p.Generation, i), ext)
}

// batches is a writer's work list, always the same.
func (p plan) batches(w int) [][]pack {
	var all []pack
	for i := range p.Packages {
		for _, by := range p.publishers(i) {
			if by == w {
				all = append(all, p.pack(i))
			}
		}
	}
	rng := rand.New(rand.NewPCG(p.Seed, uint64(w)))
	var out [][]pack
	for len(all) > 0 {
		n := min(len(all), p.Least+rng.IntN(p.Most-p.Least+1))
		out = append(out, all[:n])
		all = all[n:]
	}
	return out
}

// sidecars gives, for each file of some plans, the bundles that its sidecar is to have, in any order.
func sidecars(plans ...plan) map[string][]string {
	out := map[string][]string{}
	for _, p := range plans {
		for i := range p.Packages {
			pk := p.pack(i)
			for _, w := range p.publishers(i) {
				out[pk.File] = append(out[pk.File], string(pk.bundle(w)))
			}
		}
	}
	return out
}

// packOf gives the package of a file name, and says whether it is one of ours.
func packOf(file string) (pack, bool) {
	for _, ext := range []string{".conda", ".tar.bz2"} {
		if stem, ok := strings.CutSuffix(file, "-h0_0"+ext); ok {
			if i := strings.LastIndexByte(stem, '-'); i > 0 {
				return newPack(stem[:i], stem[i+1:], ext), true
			}
		}
	}
	return pack{}, false
}

func hexBytes(s string) ([]byte, error) { return hex.DecodeString(s) }
