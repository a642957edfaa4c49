package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/channel"
	"github.com/hallmark-attest/hallmark/internal/conda"
	"github.com/hallmark-attest/hallmark/internal/conda/condatest"
)

// Additions gives n packages that the channel does not have, other ones for each round. Nine in ten are new versions of a name
// that it has, which comes up as often as it has records.
func (s *Synth) Additions(n, round int) []condatest.Spec {
	r := s.random(0x61646473, uint64(round))
	specs := make([]condatest.Spec, n)
	for i := range specs {
		name := s.Pick(r)
		if r.IntN(10) == 0 {
			name = fmt.Sprintf("%s_new%d_%d", name, round, i)
		}
		specs[i] = condatest.Spec{
			Name: name, Version: fmt.Sprintf("100.%d.%d", round, i), Build: fmt.Sprintf("h%07x_0", r.Uint32()&0xfffffff),
			Subdir: subdir, Format: conda.Conda, License: licences[r.IntN(len(licences))],
			Depends:   []string{"__glibc >=2.17,<3.0.a0", "libgcc >=14", "libstdcxx >=14", s.Pick(r) + " >=1.2.3,<2.0a0", s.Pick(r) + " >=3.1,<4.0a0"},
			Timestamp: 1_790_000_000_000 + int64(i)*1000,
			Files:     map[string][]byte{"lib/" + name + ".txt": fmt.Appendf(nil, "%x\n", r.Uint64())},
		}
		if i%10 == 0 {
			specs[i].RunExports = json.RawMessage(`{"weak":["` + name + ` >=100,<101.0a0"]}`)
		}
	}
	return specs
}

// makeAdditions writes packages with a sidecar each, and a list of what is to be indexed, a line each: additions/ROUND.
func makeAdditions(ctx context.Context, root string, s *Synth, n, round int) ([]channel.Entry, error) {
	dir := filepath.Join(root, "additions", fmt.Sprint(round))
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	list, err := os.Create(dir + ".entries")
	if err != nil {
		return nil, err
	}
	defer list.Close()
	w := bufio.NewWriter(list)
	encode := json.NewEncoder(w)
	entries := make([]channel.Entry, n)
	for i, spec := range s.Additions(n, round) {
		e, err := makeAddition(ctx, dir, spec)
		if err != nil {
			return nil, fmt.Errorf("making %s: %w", spec.Filename(), err)
		}
		if err := encode.Encode(e); err != nil {
			return nil, err
		}
		entries[i] = e
	}
	return entries, cmpErr(w.Flush(), list.Close())
}

func makeAddition(ctx context.Context, dir string, spec condatest.Spec) (e channel.Entry, err error) {
	b, err := spec.Bytes()
	if err != nil {
		return e, err
	}
	p, err := conda.Read(ctx, bytes.NewReader(b), int64(len(b)), spec.Filename())
	if err != nil {
		return e, err
	}
	sidecar, _, err := attest.Append(nil, bundle(spec.Filename(), p.SHA256))
	if err != nil {
		return e, err
	}
	sum := sha256.Sum256(sidecar)
	e = channel.Entry{Filename: spec.Filename(), Record: p.Record, RunExports: p.RunExports, AttestationsSHA256: hex.EncodeToString(sum[:])}
	file := filepath.Join(dir, e.Filename)
	return e, cmpErr(
		os.WriteFile(file, b, 0o644),
		os.WriteFile(file+".sigs", sidecar, 0o644),
		os.WriteFile(file+".sigs."+e.AttestationsSHA256, sidecar, 0o644),
	)
}

// bundle has the form and the size of a publish attestation's Sigstore bundle, about 11 kB. Its signature is none: no indexer looks.
func bundle(filename, sha string) []byte {
	statement, err := attest.Statement(filename, sha, "https://conda.example.org/bench")
	if err != nil {
		panic(err) // it was read as a package a moment ago
	}
	random := make([]byte, 7000)
	r := rand.NewChaCha8(sha256.Sum256([]byte(filename)))
	_, _ = r.Read(random)
	text := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"certificate":{"rawBytes":"%s"},`+
		`"tlogEntries":[{"logIndex":"1","logId":{"keyId":"%s"},"kindVersion":{"kind":"dsse","version":"0.0.1"},"integratedTime":"1790000000",`+
		`"inclusionPromise":{"signedEntryTimestamp":"%s"},"inclusionProof":{"logIndex":"1","rootHash":"%s","treeSize":"2","hashes":["%s"],`+
		`"checkpoint":{"envelope":"%s"}},"canonicalizedBody":"%s"}],"timestampVerificationData":{"rfc3161Timestamps":[{"signedTimestamp":"%s"}]}},`+
		`"dsseEnvelope":{"payload":"%s","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"%s"}]}}`,
		text(random[:1600]), text(random[1600:1632]), text(random[1640:1712]), text(random[1712:1744]), text(random[1744:1776]),
		text(random[1776:1976]), text(random[2000:5200]), text(random[5200:6600]), text(statement), text(random[6600:6672]))
}

// placeAdditions puts a round's packages and sidecars into a channel's folder.
func (d Directory) placeAdditions(ctx context.Context, round int, entries []channel.Entry) error {
	for _, e := range entries {
		for _, name := range []string{e.Filename, e.Filename + ".sigs", e.Filename + ".sigs." + e.AttestationsSHA256} {
			if err := cmpErr(place(d.sub(name), d.in("additions", fmt.Sprint(round), name)), ctx.Err()); err != nil {
				return err
			}
		}
	}
	return nil
}
