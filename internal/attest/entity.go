package attest

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/tlog"

	"github.com/hallmark-attest/hallmark/internal/strictjson"
)

// entity is a bundle's bytes taken apart: one DSSE envelope with one signature, and one certificate.
type entity struct {
	bundle    *bundle.Bundle
	cert      *x509.Certificate
	signature []byte
	statement []byte // the envelope's payload
	sha256    string // of the bundle's bytes
}

// parseBundle reads one bundle and checks the form that every attestation has, before any cryptography.
func parseBundle(data []byte) (*entity, error) {
	data = bytes.Trim(data, jsonSpace)
	if len(data) > MaxBundle {
		return nil, refuse(CodeBundleTooLarge, fmt.Errorf("the bundle has %d bytes, more than %d", len(data), MaxBundle), "")
	}
	if len(data) > 0 && data[0] == '[' {
		return nil, refuse(CodeBundleMalformed, errors.New("this is a JSON array, not a bundle"), "a sidecar is an array of bundles; give one of them")
	}
	// Bounded in depth, and no name twice anywhere, before sigstore-go reads it.
	if _, err := strictjson.DecodeObject(data); err != nil {
		return nil, refuse(CodeBundleMalformed, fmt.Errorf("the bundle %w", err), "")
	}
	b := new(bundle.Bundle)
	if err := b.UnmarshalJSON(data); err != nil {
		return nil, refuse(CodeBundleMalformed, fmt.Errorf("reading the bundle: %w", err), "")
	}
	e := &entity{bundle: b, sha256: hexSHA256(data)}
	envelope, ok := b.Content.(*protobundle.Bundle_DsseEnvelope)
	if !ok {
		return nil, refuse(CodeEnvelopeMissing, errors.New("the bundle holds a signature over a file, not an attestation"),
			"sign a statement (cosign attest-blob --statement), not the package itself")
	}
	if t := envelope.DsseEnvelope.GetPayloadType(); t != PayloadType {
		return nil, refuse(CodeEnvelopePayloadType, fmt.Errorf("the envelope's payload type is %.200q, not %q", t, PayloadType), "")
	}
	if n := len(envelope.DsseEnvelope.GetSignatures()); n != 1 {
		return nil, refuse(CodeEnvelopeSignatureCount, fmt.Errorf("the envelope has %d signatures, not one", n), "")
	}
	e.signature = envelope.DsseEnvelope.GetSignatures()[0].GetSig()
	e.statement = envelope.DsseEnvelope.GetPayload()

	content, err := b.VerificationContent()
	if err != nil {
		return nil, refuse(CodeCertificateMalformed, fmt.Errorf("reading the bundle's verification material: %w", err), "")
	}
	if e.cert = content.Certificate(); e.cert == nil {
		return nil, refuse(CodeNoCertificate, errors.New("the bundle was signed with a key that has no certificate, and so no identity"), "")
	}
	return e, nil
}

// fill gives a result everything but times, log entries and the statement's content.
func (e *entity) fill(r *Result) error {
	r.MediaType = e.bundle.GetMediaType()
	r.DSSESig = base64.StdEncoding.EncodeToString(e.signature)
	r.BundleSHA256 = e.sha256
	r.Statement = e.statement
	r.StatementSHA256 = hexSHA256(e.statement)
	return r.setCertificate(e.cert)
}

// logEntry says what an entry is. Its kind is read from the entry's body, which the log has signed; the kind that stands
// beside the body is not signed and has to be the same.
func logEntry(entry *tlog.Entry) (LogEntry, error) {
	pb := entry.TransparencyLogEntry()
	var body struct {
		Kind       string `json:"kind"`
		APIVersion string `json:"apiVersion"`
	}
	if err := json.Unmarshal(pb.GetCanonicalizedBody(), &body); err != nil {
		return LogEntry{}, fmt.Errorf("reading the log entry's body: %w", err)
	}
	if kv := pb.GetKindVersion(); kv.GetKind() != body.Kind || kv.GetVersion() != body.APIVersion {
		return LogEntry{}, fmt.Errorf("the log entry's body is a %.64s %.16s, and its kindVersion says %.64s %.16s",
			body.Kind, body.APIVersion, kv.GetKind(), kv.GetVersion())
	}
	origin, _, _ := strings.Cut(pb.GetInclusionProof().GetCheckpoint().GetEnvelope(), "\n")
	return LogEntry{
		Origin: origin,
		LogID:  hex.EncodeToString(pb.GetLogId().GetKeyId()),
		Index:  entry.LogIndex(),
		Kind:   body.Kind + " " + body.APIVersion,
	}, nil
}

// checkBodyV2 compares a Rekor v2 entry's body with the bundle. sigstore-go computes that body anew from the bundle and
// verifies that one; others (sigstore-js, sigstore-python) verify the body that is there.
func (e *entity) checkBodyV2(entry *tlog.Entry) error {
	if !entry.IsRekorV2() {
		return nil
	}
	cert, ok := entry.PublicKey().(*x509.Certificate)
	if !ok || !cert.Equal(e.cert) {
		return errors.New("the log entry's body has another certificate than the bundle")
	}
	if !bytes.Equal(entry.Signature(), e.signature) {
		return errors.New("the log entry's body has another signature than the bundle")
	}
	digest, algorithm, ok := entry.GetHashedRekordDigest()
	if !ok {
		return errors.New("the log entry's body has no digest")
	}
	// Which digest it is, sigstore-go has checked by the entry's hash; here only that the body is about this payload.
	if algorithm == "SHA2_256" {
		if want := hexSHA256(dsse.PAE(PayloadType, e.statement)); want != hex.EncodeToString(digest) {
			return errors.New("the log entry's body has another digest than the bundle")
		}
	}
	return nil
}

// checkProofV2 compares what a Rekor v2 entry's inclusion proof says of itself with the index and the checkpoint that were
// verified. sigstore-go reads none of it; sigstore-python does, and would refuse the bundle.
func checkProofV2(entry *tlog.Entry) error {
	if !entry.IsRekorV2() {
		return nil
	}
	proof := entry.TransparencyLogEntry().GetInclusionProof()
	lines := strings.SplitN(proof.GetCheckpoint().GetEnvelope(), "\n", 4) // origin, size, root
	switch {
	case len(lines) < 4:
		return errors.New("the log entry's checkpoint is none")
	case proof.GetLogIndex() != entry.LogIndex():
		return fmt.Errorf("the inclusion proof is for the index %d, and the log entry has %d", proof.GetLogIndex(), entry.LogIndex())
	case strconv.FormatInt(proof.GetTreeSize(), 10) != lines[1]:
		return fmt.Errorf("the inclusion proof is for a log of %d entries, and its checkpoint of %.32s", proof.GetTreeSize(), lines[1])
	case base64.StdEncoding.EncodeToString(proof.GetRootHash()) != lines[2]:
		return errors.New("the inclusion proof has another root than its checkpoint")
	}
	return nil
}
