package provenance

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/strictjson"
)

// Bundle is one attestation as a Sigstore bundle.
type Bundle struct {
	// Raw is the bundle's JSON: as it was fetched, or converted from PEP 740.
	Raw []byte
	// Unlogged is true for one converted from PEP 740 whose log entries lack what the log has signed, so that nothing of
	// the log can be verified ("Response Formats").
	Unlogged bool
}

func (b Bundle) digest() string { return digestOf(bytes.TrimSpace(b.Raw)) }

func digestOf(data []byte) string {
	d := sha256.Sum256(data)
	return hex.EncodeToString(d[:])
}

// ParseResponse gives the bundles of what a bundle URL answered (draft CEP, "Response Formats"): a Sigstore bundle,
// provenance of PEP 740, one of its attestations by itself, or GitHub's list of attestations. What a bundle says is not
// looked at. The error is an *Error with CodeResponse, CodeResponseTooLarge or CodeMissing (an answer without any).
func ParseResponse(data []byte) ([]Bundle, error) {
	if len(data) > maxResponse {
		return nil, refuse(CodeResponseTooLarge, "", "the answer has more than %d bytes", maxResponse)
	}
	// Strict first: of two members of one name, each reader could take another.
	o, err := strictjson.DecodeObject(data)
	if err != nil {
		return nil, refuse(CodeResponse, "", "the answer is not JSON of the expected form: %s", clip(err.Error(), 200))
	}
	var list []Bundle
	switch {
	case o["mediaType"] != nil:
		list = []Bundle{{Raw: data}}
	case o["attestation_bundles"] != nil:
		list, err = fromProvenance(data, o)
	case o["verification_material"] != nil:
		var b Bundle
		b, err = fromAttestation(data)
		list = []Bundle{b}
	case o["attestations"] != nil:
		list, err = fromGitHub(data)
	default:
		return nil, refuse(CodeResponse, "", "the answer is neither a Sigstore bundle nor provenance")
	}
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, refuse(CodeMissing, "", "the answer has no attestations")
	}
	if len(list) > maxBundles {
		return nil, refuse(CodeResponseTooLarge, "", "the answer has more than %d attestations", maxBundles)
	}
	return list, nil
}

// fromProvenance reads a provenance object (PEP 740). Its publisher objects are the index's word, not evidence.
func fromProvenance(data []byte, o strictjson.Object) ([]Bundle, error) {
	if v, ok := o["version"].(json.Number); !ok || v != "1" {
		return nil, refuse(CodeResponse, "", "the provenance is not of version 1")
	}
	var p struct {
		Bundles []struct {
			Attestations []json.RawMessage `json:"attestations"`
		} `json:"attestation_bundles"`
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, refuse(CodeResponse, "", "reading the provenance: %s", clip(err.Error(), 200))
	}
	var list []Bundle
	for _, pb := range p.Bundles {
		for _, raw := range pb.Attestations {
			b, err := fromAttestation(raw)
			if err != nil {
				return nil, err
			}
			list = append(list, b)
			if len(list) > maxBundles {
				return list, nil // the caller refuses
			}
		}
	}
	return list, nil
}

// fromAttestation converts an attestation object (PEP 740) to a bundle. Log entries stay as they are; those without the
// canonicalised body cannot be verified, and are left out.
func fromAttestation(data []byte) (Bundle, error) {
	var a struct {
		Version  json.Number `json:"version"`
		Envelope struct {
			Statement string `json:"statement"`
			Signature string `json:"signature"`
		} `json:"envelope"`
		Material struct {
			Certificate string            `json:"certificate"`
			Entries     []json.RawMessage `json:"transparency_entries"`
		} `json:"verification_material"`
	}
	if err := json.Unmarshal(data, &a); err != nil {
		return Bundle{}, refuse(CodeResponse, "", "reading an attestation: %s", clip(err.Error(), 200))
	}
	switch {
	case a.Version != "1":
		return Bundle{}, refuse(CodeResponse, "", "an attestation is not of version 1")
	case a.Envelope.Statement == "" || a.Envelope.Signature == "":
		return Bundle{}, refuse(CodeResponse, "", "an attestation has no statement or no signature")
	case a.Material.Certificate == "":
		return Bundle{}, refuse(CodeResponse, "", "an attestation has no certificate")
	}
	entries := []json.RawMessage{}
	for _, e := range a.Material.Entries {
		var entry struct {
			Camel string `json:"canonicalizedBody"`
			Snake string `json:"canonicalized_body"`
		}
		if err := json.Unmarshal(e, &entry); err != nil {
			return Bundle{}, refuse(CodeResponse, "", "reading an attestation's log entry: %s", clip(err.Error(), 200))
		}
		if entry.Camel != "" || entry.Snake != "" {
			entries = append(entries, e)
		}
	}
	type object = map[string]any
	material := object{"certificate": object{"rawBytes": a.Material.Certificate}}
	if len(entries) > 0 {
		material["tlogEntries"] = entries
	}
	raw, err := json.Marshal(object{ // sorted keys: the same bytes each time
		"mediaType":            attest.BundleMediaType,
		"verificationMaterial": material,
		"dsseEnvelope": object{
			"payload": a.Envelope.Statement, "payloadType": attest.PayloadType,
			"signatures": []object{{"sig": a.Envelope.Signature}},
		},
	})
	if err != nil {
		return Bundle{}, refuse(CodeResponse, "", "converting an attestation: %s", clip(err.Error(), 200))
	}
	return Bundle{Raw: raw, Unlogged: len(entries) == 0}, nil
}

// fromGitHub reads the answer of GitHub's attestations API.
func fromGitHub(data []byte) ([]Bundle, error) {
	var p struct {
		Attestations []struct {
			Bundle json.RawMessage `json:"bundle"`
		} `json:"attestations"`
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, refuse(CodeResponse, "", "reading the attestations: %s", clip(err.Error(), 200))
	}
	var list []Bundle
	for _, a := range p.Attestations[:min(len(p.Attestations), maxBundles+1)] {
		if len(a.Bundle) == 0 || a.Bundle[0] != '{' {
			return nil, refuse(CodeResponse, "", "an attestation of the list has no bundle")
		}
		list = append(list, Bundle{Raw: a.Bundle})
	}
	return list, nil
}
