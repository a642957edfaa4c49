package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	ct "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"
	"github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/ctonly"
	"github.com/transparency-dev/tessera/storage/posix"
)

const (
	ctlogPath   = "/ctlog"
	ctlogOrigin = "127.0.0.1/ctlog"
)

// ctLog is a Certificate Transparency log: it takes chains as RFC 6962 says and keeps them as a static-ct tree
// (https://c2sp.org/static-ct-api) in DIR/ctlog. For development: it takes any chain that parses, and its checkpoints are signed
// as plain notes and not as RFC 6962 tree heads.
type ctLog struct {
	add   func(context.Context, *ctonly.Entry) tessera.IndexFuture
	key   crypto.Signer
	logID []byte
	dir   string
	// Shutdown MUST be called before the context of newCTLog ends: what has an SCT is in the tree then.
	shutdown func(context.Context) error
}

func newCTLog(ctx context.Context, h home) (*ctLog, error) {
	key, err := h.signer(ctlogKey)
	if err != nil {
		return nil, err
	}
	id, err := spkiHash(key.Public())
	if err != nil {
		return nil, err
	}
	signer, err := signature.LoadSigner(key, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	noteSigner, err := note.NewNoteSigner(ctx, ctlogOrigin, signer)
	if err != nil {
		return nil, err
	}
	dir := h.path("ctlog")
	driver, err := posix.New(ctx, posix.Config{Path: dir})
	if err != nil {
		return nil, fmt.Errorf("opening the CT log: %w", err)
	}
	appender, shutdown, _, err := tessera.NewAppender(ctx, driver, tessera.NewAppendOptions().
		WithCTLayout().
		WithCheckpointSigner(noteSigner).
		WithCheckpointInterval(time.Second).
		WithBatching(256, 10*time.Millisecond))
	if err != nil {
		return nil, fmt.Errorf("opening the CT log: %w", err)
	}
	return &ctLog{add: tessera.NewCertificateTransparencyAppender(appender), key: key, logID: id, dir: dir, shutdown: shutdown}, nil
}

func (l *ctLog) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+ctlogPath+"/ct/v1/add-chain", l.addHandler(ct.X509LogEntryType))
	mux.HandleFunc("POST "+ctlogPath+"/ct/v1/add-pre-chain", l.addHandler(ct.PrecertLogEntryType))
	files := http.StripPrefix(ctlogPath, http.FileServer(http.Dir(l.dir)))
	mux.Handle("GET "+ctlogPath+"/checkpoint", files)
	mux.Handle("GET "+ctlogPath+"/tile/", files)
	return mux
}

func (l *ctLog) addHandler(kind ct.LogEntryType) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var req ct.AddChainRequest
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&req); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		now := uint64(time.Now().UnixMilli())
		leaf, entry, err := ctEntry(req.Chain, kind, now)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		index, err := l.add(r.Context(), entry)()
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		sct, err := l.sign(leaf, now, index.Index)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		answer(w, sct)
	}
}

// ctEntry makes the tree's entry of a chain, which is leaf first, and the form of it that an SCT signs.
func ctEntry(rawChain [][]byte, kind ct.LogEntryType, now uint64) (*ct.MerkleTreeLeaf, *ctonly.Entry, error) {
	if len(rawChain) < 2 || len(rawChain) > 10 {
		return nil, nil, fmt.Errorf("a chain of %d certificates", len(rawChain))
	}
	chain := make([]ct.ASN1Cert, len(rawChain))
	entry := &ctonly.Entry{Timestamp: now, IsPrecert: kind == ct.PrecertLogEntryType, Certificate: rawChain[0]}
	for i, der := range rawChain {
		if _, err := x509.ParseCertificate(der); err != nil {
			return nil, nil, fmt.Errorf("certificate %d: %w", i, err)
		}
		chain[i].Data = der
		if i > 0 {
			entry.FingerprintsChain = append(entry.FingerprintsChain, sha256.Sum256(der))
		}
	}
	leaf, err := ct.MerkleTreeLeafFromRawChain(chain, kind, now)
	if err != nil {
		return nil, nil, err
	}
	if pre := leaf.TimestampedEntry.PrecertEntry; pre != nil {
		entry.Precertificate, entry.Certificate, entry.IssuerKeyHash = rawChain[0], pre.TBSCertificate, pre.IssuerKeyHash[:]
	}
	return leaf, entry, nil
}

// sign makes the SCT. Its leaf_index extension is part of the leaf in the tree, so that the SCT and the tree agree.
func (l *ctLog) sign(leaf *ct.MerkleTreeLeaf, now, index uint64) (*ct.AddChainResponse, error) {
	var uint40 [8]byte
	binary.BigEndian.PutUint64(uint40[:], index)
	extensions := append([]byte{0 /* leaf_index */, 0, 5}, uint40[3:]...)

	sct := ct.SignedCertificateTimestamp{SCTVersion: ct.V1, Timestamp: now, Extensions: extensions}
	copy(sct.LogID.KeyID[:], l.logID)
	input, err := ct.SerializeSCTSignatureInput(sct, ct.LogEntry{Leaf: *leaf})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(input)
	sig, err := l.key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	signature, err := cttls.Marshal(ct.DigitallySigned{
		Algorithm: cttls.SignatureAndHashAlgorithm{Hash: cttls.SHA256, Signature: cttls.ECDSA}, Signature: sig,
	})
	if err != nil {
		return nil, err
	}
	return &ct.AddChainResponse{
		SCTVersion: ct.V1, ID: l.logID, Timestamp: now,
		Extensions: base64.StdEncoding.EncodeToString(extensions), Signature: signature,
	}, nil
}
