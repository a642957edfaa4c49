package github

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"

	"github.com/klauspost/compress/snappy"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/remote"
	"github.com/hallmark-attest/hallmark/internal/strictjson"
)

// maxList bounds an answer of the list: 100 bundles, which are about 11 kB each.
const maxList = 8 << 20

// has tells whether the store lists a bundle under its subject. It reads one page of 100: a package has few attestations.
func (a *Attestations) has(ctx context.Context, owner, repo, digest string, bundle []byte) (bool, error) {
	doing := fmt.Sprintf("looking for an attestation in the GitHub repository %s/%s", owner, repo)
	resp, err := a.ask(ctx, doing, http.MethodGet, "/repos/"+owner+"/"+repo+"/attestations/"+digest, url.Values{"per_page": {"100"}}, nil)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound: // nothing under this digest
		return false, nil
	default:
		return false, a.refusal(doing, resp)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxList))
	if err != nil {
		return false, remote.Unreached(ctx, doing, err)
	}
	var list struct {
		Attestations []struct {
			Bundle json.RawMessage `json:"bundle"`
			URL    string          `json:"bundle_url"`
		} `json:"attestations"`
	}
	if json.Unmarshal(raw, &list) != nil {
		return false, &remote.Outage{Err: fmt.Errorf("%s: the answer is no list", doing)}
	}
	want, err := strictjson.DecodeObject(bundle)
	if err != nil {
		return false, fmt.Errorf("%s: the bundle %w", doing, err)
	}
	for _, e := range list.Attestations {
		stored := []byte(e.Bundle)
		if (len(stored) == 0 || bytes.Equal(stored, []byte("null"))) && e.URL != "" {
			if stored, err = a.fetch(ctx, doing, e.URL); err != nil {
				return false, err
			}
		}
		if got, err := strictjson.DecodeObject(stored); err == nil && reflect.DeepEqual(got, want) {
			return true, nil
		}
	}
	return false, nil
}

// fetch reads a bundle from where the list says that it is: a storage address with its own signature, to which the token
// is not sent. It may be compressed with Snappy.
func (a *Attestations) fetch(ctx context.Context, doing, address string) ([]byte, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" && u.Scheme != a.api.Scheme {
		return nil, &remote.Outage{Err: fmt.Errorf("%s: a bundle has no address that can be used", doing)}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, &remote.Outage{Err: fmt.Errorf("%s: a bundle has no address that can be used", doing)}
	}
	req.Header.Set("User-Agent", "hallmark")
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, remote.Unreached(ctx, doing, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, a.refusal(doing, resp)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, attest.MaxBundle+1))
	if err != nil {
		return nil, remote.Unreached(ctx, doing, err)
	}
	return unpacked(raw), nil
}

// unpacked takes Snappy's block format off, where it is one, of at most attest.MaxBundle bytes.
func unpacked(raw []byte) []byte {
	if bytes.HasPrefix(bytes.TrimSpace(raw), []byte("{")) && json.Valid(raw) {
		return raw
	}
	if n, err := snappy.DecodedLen(raw); err != nil || n > attest.MaxBundle {
		return nil
	}
	plain, err := snappy.Decode(nil, raw)
	if err != nil {
		return nil
	}
	return plain
}
