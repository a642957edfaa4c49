package sign

import (
	"encoding/json"
	"testing"

	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// TestEncodeIndexes: log indexes are always written, also where they are 0, and nothing else changes for it.
func TestEncodeIndexes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ entry, proof int64 }{{7, 7}, {0, 0}, {7, 0}, {0, 7}} {
		b := &bundlepb.Bundle{MediaType: "<x>", VerificationMaterial: &bundlepb.VerificationMaterial{TlogEntries: []*rekorpb.TransparencyLogEntry{{
			LogIndex: tt.entry, InclusionProof: &rekorpb.InclusionProof{LogIndex: tt.proof, TreeSize: 8},
		}, {LogIndex: tt.entry}}}}
		data, err := encode(b)
		if err != nil {
			t.Fatal(err)
		}
		var read struct {
			VerificationMaterial struct {
				TlogEntries []struct {
					LogIndex       *string
					InclusionProof *struct {
						LogIndex *string
						Hashes   []string
					}
				}
			}
		}
		if err := json.Unmarshal(data, &read); err != nil {
			t.Fatal(err)
		}
		entries := read.VerificationMaterial.TlogEntries
		if len(entries) != 2 || entries[0].LogIndex == nil || entries[1].LogIndex == nil || entries[0].InclusionProof.LogIndex == nil || entries[1].InclusionProof != nil {
			t.Errorf("%+v: %s", tt, data)
		}
		if first := tt.entry == 0 || tt.proof == 0; first && entries[0].InclusionProof.Hashes == nil {
			t.Errorf("%+v: no hashes: %s", tt, data)
		}
		var again bundlepb.Bundle
		if err := protojson.Unmarshal(data, &again); err != nil || !proto.Equal(b, &again) {
			t.Errorf("%+v: %v, another bundle: %s", tt, err, data)
		}
	}
}
