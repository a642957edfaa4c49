package sign

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/go-openapi/strfmt"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	rekortiles "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"github.com/sigstore/rekor/pkg/generated/client/entries"
	"github.com/sigstore/rekor/pkg/generated/models"
	sigstore "github.com/sigstore/sigstore-go/pkg/sign"
	"google.golang.org/protobuf/encoding/protojson"
)

// newRekor gives sigstore-go's client for one log. Its options are complete before it is shared: sigstore-go 1.3.0 fills in
// clients and a timeout that are missing on first use, without a lock, which is a data race between goroutines.
//
// Both clients are our own, over the upstream: the stock ones bring transports of their own, in which there is no place
// for retries (v2), Retry-After (both), spans (both) or a bound on answers (v1).
func newRekor(url string, version uint32, client *http.Client) *sigstore.Rekor {
	url = strings.TrimRight(url, "/")
	return sigstore.NewRekor(&sigstore.RekorOptions{
		BaseURL:  url,
		Version:  version,
		Timeout:  -1 * time.Second, // negative: none; the upstream bounds each attempt
		Client:   &rekorV1{url: url, client: client},
		ClientV2: &rekorV2{url: url, client: client},
	})
}

// rekorV2 implements sigstore-go's RekorV2Client. A log answers when the next checkpoint covers the entry.
type rekorV2 struct {
	url    string
	client *http.Client
}

// Add posts an entry. An entry that the log holds already is an *UpstreamError with status 409: the answer has no proof,
// so the caller signs again, which makes another entry, since ECDSA signatures are never the same twice.
func (r *rekorV2) Add(ctx context.Context, entry any) (*protorekor.TransparencyLogEntry, error) {
	record, ok := entry.(*rekortiles.HashedRekordRequestV002)
	if !ok {
		return nil, fmt.Errorf("unknown kind of log entry %T", entry)
	}
	body, err := protojson.Marshal(&rekortiles.CreateEntryRequest{
		Spec: &rekortiles.CreateEntryRequest_HashedRekordRequestV002{HashedRekordRequestV002: record}})
	if err != nil {
		return nil, fmt.Errorf("encoding a log entry: %w", err)
	}
	answer, _, err := call(ctx, r.client, http.MethodPost, r.url+"/api/v2/log/entries", body)
	if err != nil {
		return nil, err
	}
	var logged protorekor.TransparencyLogEntry
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(answer, &logged); err != nil {
		return nil, malformed(fmt.Errorf("it is no log entry: %w", err))
	}
	if logged.GetInclusionProof().GetCheckpoint().GetEnvelope() == "" || logged.GetLogId() == nil {
		return nil, malformed(errors.New("the log entry has no proof"))
	}
	return &logged, nil
}

// rekorV1 implements sigstore-go's RekorClient. After a 409 sigstore-go fetches the entry that is there: the answer to our
// own request was lost, and the retry of the same bytes met it.
type rekorV1 struct {
	url    string
	client *http.Client
}

// CreateLogEntry posts an entry; a 409 is an *entries.CreateLogEntryConflict that says where the entry is.
func (r *rekorV1) CreateLogEntry(params *entries.CreateLogEntryParams, _ ...entries.ClientOption) (*entries.CreateLogEntryCreated, error) {
	body, err := json.Marshal(params.ProposedEntry)
	if err != nil {
		return nil, fmt.Errorf("encoding a log entry: %w", err)
	}
	answer, resp, err := call(params.Context, r.client, http.MethodPost, r.url+"/api/v1/log/entries", body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusConflict {
		conflict := entries.NewCreateLogEntryConflict()
		conflict.Location = strfmt.URI(resp.Header.Get("Location"))
		return nil, conflict
	}
	id, entry, err := v1Entry(answer)
	if err != nil {
		return nil, err
	}
	created := entries.NewCreateLogEntryCreated()
	created.ETag = id
	created.Payload = models.LogEntry{id: *entry}
	return created, nil
}

// GetLogEntryByUUID fetches an entry.
func (r *rekorV1) GetLogEntryByUUID(params *entries.GetLogEntryByUUIDParams, _ ...entries.ClientOption) (*entries.GetLogEntryByUUIDOK, error) {
	if !isHex(params.EntryUUID) {
		return nil, malformed(errors.New("the log does not say where the entry is that it has"))
	}
	answer, resp, err := call(params.Context, r.client, http.MethodGet, r.url+"/api/v1/log/entries/"+params.EntryUUID, nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, &UpstreamError{Service: serviceRekor, Status: resp.StatusCode, Message: message(answer)}
	}
	id, entry, err := v1Entry(answer)
	if err != nil {
		return nil, err
	}
	ok := entries.NewGetLogEntryByUUIDOK()
	ok.Payload = models.LogEntry{id: *entry}
	return ok, nil
}

// v1Entry reads a v1 log's answer and makes sure that everything is there which sigstore-go reads through pointers.
func v1Entry(answer []byte) (string, *models.LogEntryAnon, error) {
	var log models.LogEntry
	if err := json.Unmarshal(answer, &log); err != nil {
		return "", nil, malformed(fmt.Errorf("it is no log entry: %w", err))
	}
	if len(log) != 1 {
		return "", nil, malformed(fmt.Errorf("it holds %d log entries, want 1", len(log)))
	}
	for id, e := range log {
		if e.LogID == nil || e.LogIndex == nil || e.IntegratedTime == nil || e.Body == nil ||
			e.Verification == nil || e.Verification.InclusionProof == nil {
			break
		}
		p := e.Verification.InclusionProof
		if p.LogIndex == nil || p.RootHash == nil || p.TreeSize == nil || p.Checkpoint == nil {
			break
		}
		return id, &e, nil
	}
	return "", nil, malformed(errors.New("the log entry has no proof"))
}

// call makes one request and returns the answer's body.
func call(ctx context.Context, client *http.Client, method, url string, body []byte) ([]byte, *http.Response, error) {
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a request: %w", err)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", userAgent)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body) // the upstream has bounded it
	return data, resp, err
}

const userAgent = "hallmark"

// malformed is a 200 that makes no sense: a proxy's page, a log in trouble. It may pass.
func malformed(err error) error {
	return &UpstreamError{Service: serviceRekor, Err: fmt.Errorf("its answer is unusable: %w", err)}
}

func isHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdefABCDEF") == ""
}
