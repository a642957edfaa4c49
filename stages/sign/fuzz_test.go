package sign

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	rekortiles "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"

	"github.com/hallmark-attest/hallmark/internal/attest"
)

// replies answers every request with the same.
type replies struct {
	status int
	body   string
}

func (r replies) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: r.status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(r.body))}, nil
}

// FuzzV2Entry: what a v2 log answers is an entry with a proof, or a fault of the log's that may pass.
func FuzzV2Entry(f *testing.F) {
	f.Add([]byte(`{"logIndex":"7","logId":{"keyId":"AAAA"},"kindVersion":{"kind":"hashedrekord","version":"0.0.2"},"inclusionProof":{"logIndex":"7","rootHash":"AA==","treeSize":"8","hashes":["AA=="],"checkpoint":{"envelope":"c"}},"canonicalizedBody":"e30="}`))
	f.Add([]byte(`{"logId":{},"inclusionProof":{"checkpoint":{"envelope":"c"}}}`))
	f.Add([]byte(`{"inclusionProof":null}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		log := &rekorV2{url: "http://log.test", client: &http.Client{Transport: replies{http.StatusCreated, string(data)}}}
		e, err := log.Add(t.Context(), &rekortiles.HashedRekordRequestV002{})
		if err != nil {
			if u, ok := errors.AsType[*UpstreamError](err); !ok || !u.Temporary() {
				t.Fatalf("error %v is no temporary *UpstreamError", err)
			}
			return
		}
		if e.GetInclusionProof().GetCheckpoint().GetEnvelope() == "" || e.GetLogId() == nil {
			t.Fatalf("%q is no entry", data)
		}
	})
}

// FuzzSigningConfig: a signing config names services that can be called, or is refused.
func FuzzSigningConfig(f *testing.F) {
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.signingconfig.v0.2+json","caUrls":[{"url":"https://ca.test","majorApiVersion":1,"validFor":{"start":"2024-01-01T00:00:00Z"},"operator":"o"}],"rekorTlogUrls":[{"url":"https://log.test","majorApiVersion":2,"validFor":{"start":"2024-01-01T00:00:00Z","end":"2027-01-01T00:00:00Z"},"operator":"o"}],"tsaUrls":[{"url":"https://tsa.test","majorApiVersion":1,"validFor":{"start":"2024-01-01T00:00:00Z"},"operator":"o"}],"rekorTlogConfig":{"selector":"ANY"},"tsaConfig":{"selector":"EXACT","count":1}}`))
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.signingconfig.v0.2+json","caUrls":[{}],"rekorTlogUrls":[{"url":"x","majorApiVersion":1}],"tsaUrls":[null]}`))
	f.Add([]byte(`{}`))
	f.Add([]byte(`null`))
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, data []byte) {
		config, err := attest.ParseSigningConfig(data)
		if err != nil {
			return
		}
		for version := range uint32(3) {
			s, err := selectServices(config, version, now)
			if err != nil {
				continue
			}
			if len(s.rekors) == 0 || s.rekorVersion == 0 || version != 0 && s.rekorVersion != version || s.rekorVersion >= 2 && len(s.tsas) == 0 {
				t.Fatalf("%q: %+v", data, s)
			}
		}
	})
}

// FuzzMessage: of what a service answers, an error shows a short line of printable text.
func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"code":400,"message":"There was an error"}`))
	f.Add([]byte(`{"message":""}`))
	f.Add([]byte("<html>\x1b[31m\r\n\xff\u202e</html>"))
	f.Add([]byte(strings.Repeat("é ", 400)))
	f.Fuzz(func(t *testing.T, data []byte) {
		m := message(data)
		if utf8.RuneCountInString(m) > maxMessage+1 || !utf8.ValidString(m) || strings.ContainsFunc(m, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Fatalf("%q is shown as %q", data, m)
		}
	})
}
