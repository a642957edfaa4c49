package main

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"

	prototrustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/sigstore-go/pkg/root"
)

// rekorOrigin is the name in Rekor v2's checkpoints. Verifiers take it from the host of the log's URL in the trust
// root, so it MUST be the same as in loopback.
const rekorOrigin = "127.0.0.1"

// writeTrustedRoot writes the trust root: once, when the directory is made. It names both kinds of Rekor, so it is
// valid for whatever either of them logs.
func writeTrustedRoot(h home, st state) error {
	fulcio, err := h.chain(fulcioChain)
	if err != nil {
		return err
	}
	tsa, err := h.chain(tsaChain)
	if err != nil {
		return err
	}
	log := func(key, url string, id func(crypto.PublicKey) ([]byte, error)) (map[string]*root.TransparencyLog, error) {
		s, err := h.signer(key)
		if err != nil {
			return nil, err
		}
		logID, err := id(s.Public())
		if err != nil {
			return nil, err
		}
		return map[string]*root.TransparencyLog{hex.EncodeToString(logID): {
			BaseURL: url, ID: logID, ValidityPeriodStart: st.Created,
			HashFunc: crypto.SHA256, PublicKey: s.Public(), SignatureHashFunc: crypto.SHA256,
		}}, nil
	}
	ctlogs, err := log(ctlogKey, baseURL(st.Ports.CTLog)+ctlogPath, spkiHash)
	if err != nil {
		return err
	}
	rekors, err := log(rekor1Key, baseURL(st.Ports.Rekor1), spkiHash)
	if err != nil {
		return err
	}
	rekor2, err := log(rekorKey, baseURL(st.Ports.Rekor), func(k crypto.PublicKey) ([]byte, error) {
		_, id, err := note.KeyHash(rekorOrigin, k)
		return id, err
	})
	if err != nil {
		return err
	}
	for id, l := range rekor2 {
		rekors[id] = l
	}
	end := st.Created.Add(lifetime)
	tr, err := root.NewTrustedRoot(root.TrustedRootMediaType01,
		[]root.CertificateAuthority{&root.FulcioCertificateAuthority{
			Intermediates: fulcio[:1], Root: fulcio[1],
			ValidityPeriodStart: st.Created, ValidityPeriodEnd: end, URI: baseURL(st.Ports.Fulcio),
		}},
		ctlogs,
		[]root.TimestampingAuthority{&root.SigstoreTimestampingAuthority{
			Leaf: tsa[0], Root: tsa[1],
			ValidityPeriodStart: st.Created, ValidityPeriodEnd: end, URI: baseURL(st.Ports.TSA) + tsaPath,
		}},
		rekors)
	if err != nil {
		return err
	}
	b, err := tr.MarshalJSON()
	if err != nil {
		return err
	}
	return writeJSON(h.trustedRoot(), b)
}

// writeSigningConfig writes where signers go: at every start, since the Rekor may be another one.
func writeSigningConfig(h home, st state, rekor rekorVersion) error {
	service := func(url string, api uint32) []root.Service {
		return []root.Service{{URL: url, MajorAPIVersion: api, ValidityPeriodStart: st.Created, Operator: "localhost"}}
	}
	one := root.ServiceConfiguration{Selector: prototrustroot.ServiceSelector_ANY}
	rekorURL := baseURL(st.Ports.Rekor)
	if rekor == rekorV1 {
		rekorURL = baseURL(st.Ports.Rekor1)
	}
	sc, err := root.NewSigningConfig(root.SigningConfigMediaType02,
		service(baseURL(st.Ports.Fulcio), 1),
		service(baseURL(st.Ports.OIDC)+emailIssuerPath, 1), // for clients that open a browser; CI clients have their own
		service(rekorURL, uint32(rekor)), one,
		service(baseURL(st.Ports.TSA)+tsaPath, 1), one)
	if err != nil {
		return err
	}
	b, err := sc.MarshalJSON()
	if err != nil {
		return err
	}
	return writeJSON(h.signingConfig(), b)
}

func spkiHash(k crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		return nil, fmt.Errorf("encoding a log's key: %w", err)
	}
	sum := sha256.Sum256(der)
	return sum[:], nil
}

// writeJSON writes one line with a final newline: protojson's blanks are random by design, and gh reads one trust
// root per line and refuses a line that does not end.
func writeJSON(path string, b []byte) error {
	var line bytes.Buffer
	if err := json.Compact(&line, b); err != nil {
		return err
	}
	line.WriteByte('\n')
	return writeFile(path, line.Bytes(), 0o644)
}
