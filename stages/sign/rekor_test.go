package sign

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/sigstore/rekor/pkg/generated/client/entries"
)

// FuzzV1Entry: what a v1 log answers is read through pointers by the library; none of them may be nil.
func FuzzV1Entry(f *testing.F) {
	f.Add([]byte(`{"ab":{"body":"e30=","integratedTime":1,"logID":"ab","logIndex":1,"verification":{"inclusionProof":{"checkpoint":"c","hashes":[],"logIndex":1,"rootHash":"ab","treeSize":2}}}}`))
	f.Add([]byte(`{"ab":{}}`))
	f.Add([]byte(`{}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, e, err := v1Entry(data)
		if err != nil {
			if u, ok := errors.AsType[*UpstreamError](err); !ok || !u.Temporary() {
				t.Fatalf("error %v is no temporary *UpstreamError", err)
			}
			return
		}
		p := e.Verification.InclusionProof
		_, _, _, _ = *e.LogID, *e.LogIndex, *e.IntegratedTime, *p.LogIndex
		_, _, _ = *p.RootHash, *p.TreeSize, *p.Checkpoint
	})
}

// TestMalformedLogAnswers: whatever a log answers, signing ends with an error of the log's, and does not panic.
func TestMalformedLogAnswers(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		version uint32
		body    string
	}{
		"v1 null":            {1, `null`},
		"v1 none":            {1, `{}`},
		"v1 two":             {1, `{"a":{},"b":{}}`},
		"v1 empty":           {1, `{"ab":{}}`},
		"v1 no proof":        {1, `{"ab":{"body":"e30=","integratedTime":1,"logID":"ab","logIndex":1}}`},
		"v1 empty proof":     {1, `{"ab":{"body":"e30=","integratedTime":1,"logID":"ab","logIndex":1,"verification":{"inclusionProof":{}}}}`},
		"v1 array":           {1, `[]`},
		"v2 null":            {2, `null`},
		"v2 empty":           {2, `{}`},
		"v2 no checkpoint":   {2, `{"logId":{"keyId":"AAAA"},"inclusionProof":{}}`},
		"v2 array":           {2, `[1]`},
		"v2 a page":          {2, `<html>`},
		"v2 unknown numbers": {2, `{"logIndex":"x"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			f.fault = func(service string, _ int, _ *http.Request) (*http.Response, error) {
				if service == serviceRekor {
					return answer(201, tt.body), nil
				}
				return nil, nil
			}
			_, err := newSigner(t, f.config(t, tt.version)).Sign(t.Context(), testStatement(t))
			if e, ok := errors.AsType[*UpstreamError](err); !ok || e.Service != serviceRekor || !e.Temporary() {
				t.Errorf("error %v, want a temporary one of the log's", err)
			}
		})
	}
}

// TestV1ConflictWithoutPlace: a 409 whose Location leads nowhere safe is not followed.
func TestV1ConflictWithoutPlace(t *testing.T) {
	t.Parallel()
	for _, location := range []string{"", "/", "https://elsewhere.localhost/..%2f", "/api/v1/log/entries/ab?x=y"} {
		f := newFake(t)
		f.fault = func(service string, _ int, r *http.Request) (*http.Response, error) {
			if service == serviceRekor {
				if r.Method != http.MethodPost {
					t.Errorf("location %q was followed: %s", location, r.URL)
				}
				return answer(409, "", "Location", location), nil
			}
			return nil, nil
		}
		if _, err := newSigner(t, f.config(t, 1)).Sign(t.Context(), testStatement(t)); err == nil || !strings.Contains(err.Error(), "does not say where") {
			t.Errorf("location %q: error %v", location, err)
		}
	}
}

func TestV2WantsKnownEntry(t *testing.T) {
	t.Parallel()
	if _, err := (&rekorV2{}).Add(t.Context(), &entries.CreateLogEntryParams{}); err == nil {
		t.Error("an unknown kind of entry was taken")
	}
}
