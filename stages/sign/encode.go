package sign

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

// encode gives the bundle's JSON. protojson adds blanks at will, and encoding/json would change what is not compact or
// not escaped when the item crosses a segment cut: the bytes that were verified must be the ones that are published.
func encode(b *bundlepb.Bundle) ([]byte, error) {
	data, err := protojson.Marshal(b)
	if err == nil && slices.ContainsFunc(b.GetVerificationMaterial().GetTlogEntries(), firstInLog) {
		data, err = spelledOut(data)
	}
	if err != nil {
		return nil, fmt.Errorf("encoding the bundle: %w", err)
	}
	var compact, escaped bytes.Buffer
	if err := json.Compact(&compact, data); err != nil {
		return nil, fmt.Errorf("encoding the bundle: %w", err)
	}
	json.HTMLEscape(&escaped, compact.Bytes())
	return escaped.Bytes(), nil
}

// firstInLog says whether an entry is the first of its log, or of its log's shard.
func firstInLog(e *rekorpb.TransparencyLogEntry) bool {
	return e.GetLogIndex() == 0 || e.GetInclusionProof() != nil && e.GetInclusionProof().GetLogIndex() == 0
}

// spelledOut writes out the log indexes that are 0 and the proofs that have no hashes. protojson leaves them out, as what is
// the default may be, and sigstore-python (4.5) refuses a bundle that does not have them: nobody who uses it could read the
// attestation that happens to be the first of a log, or of a shard of one.
func spelledOut(data []byte) ([]byte, error) {
	var bundle, material map[string]json.RawMessage
	var entries []map[string]json.RawMessage
	if err := json.Unmarshal(data, &bundle); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(bundle["verificationMaterial"], &material); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(material["tlogEntries"], &entries); err != nil {
		return nil, err
	}
	zero := json.RawMessage(`"0"`)
	for _, e := range entries {
		if e["logIndex"] == nil {
			e["logIndex"] = zero
		}
		if e["inclusionProof"] == nil {
			continue
		}
		var proof map[string]json.RawMessage
		if err := json.Unmarshal(e["inclusionProof"], &proof); err != nil {
			return nil, err
		}
		if proof["logIndex"] == nil {
			proof["logIndex"] = zero
		}
		if proof["hashes"] == nil {
			proof["hashes"] = json.RawMessage("[]") // of a log that has a single entry
		}
		var err error
		if e["inclusionProof"], err = json.Marshal(proof); err != nil {
			return nil, err
		}
	}
	var err error
	if material["tlogEntries"], err = json.Marshal(entries); err != nil {
		return nil, err
	}
	if bundle["verificationMaterial"], err = json.Marshal(material); err != nil {
		return nil, err
	}
	return json.Marshal(bundle)
}
