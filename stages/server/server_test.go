package server_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hallmark-attest/hallmark/internal/prefix"
	"github.com/hallmark-attest/hallmark/internal/prefix/prefixtest"
	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/stages/server"
)

const (
	subdir   = "linux-64"
	filename = "a-1!2+x-Hab_0.conda"
	apiToken = "pfx_the-api-token-that-nobody-may-see"
)

var created = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func sum(b []byte) string { d := sha256.Sum256(b); return hex.EncodeToString(d[:]) }

// bench is a strict server, the stages for it, and a signed item.
type bench struct {
	*prefixtest.Server
	client  *prefix.Client
	upload  *server.Upload
	publish *server.Publish
	body    []byte
	signed  time.Time // when the attestation was made that accept finds
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{Server: prefixtest.New(t, "my-channel"), body: []byte("subdir linux-64\nthe bytes of a package"), signed: created.Add(time.Second)}
	b.Accept(apiToken)
	var err error
	b.client, err = prefix.New(prefix.Config{Server: b.Origin(), Channel: "my-channel", Backoff: time.Millisecond, Patience: 40 * time.Millisecond, Attempts: 2,
		Tokens: &prefix.Variable{Name: "KEY", Getenv: func(string) string { return apiToken }}, Transport: b.Client().Transport})
	if err != nil {
		t.Fatal(err)
	}
	b.upload, b.publish = server.NewUpload(b.client, b.accept), server.NewPublish(b.client, false)
	return b
}

// other is a bundle of the campaign's signer that is not the item's.
func (b *bench) other() []byte {
	return bytes.Replace(b.bundle(), []byte("<unsigned>"), []byte("<unsigned too>"), 1)
}

func (b *bench) bundle() []byte { return prefixtest.Bundle(filename, b.body, b.ChannelURL()) }

// accept takes what other makes, too, and nothing else: verification is tested elsewhere.
func (b *bench) accept(sidecar []byte, it *pipeline.Item) bool {
	for _, mine := range [][]byte{b.bundle(), b.other()} {
		if held, match := prefix.Held(sidecar, mine); match != "" {
			it.Bundle = pipeline.Bundle(held)
			it.Signature = pipeline.Signature{Identity: "me", CertSHA256: "c", BundleSHA256: sum(held), SignedAt: b.signed, Found: true}
			return true
		}
	}
	return false
}

func (b *bench) item(t *testing.T) *pipeline.Item {
	t.Helper()
	path := filepath.Join(t.TempDir(), filename)
	if err := os.WriteFile(path, b.body, 0o600); err != nil {
		t.Fatal(err)
	}
	return &pipeline.Item{Filename: filename, Source: path, Bundle: b.bundle(),
		Package:   pipeline.Package{Subdir: subdir, Size: int64(len(b.body)), SHA256: sum(b.body)},
		Signature: pipeline.Signature{Identity: "me", CertSHA256: "c", BundleSHA256: sum(b.bundle())}}
}

// fresh is an item that nothing is known of yet.
func (b *bench) fresh(t *testing.T) *pipeline.Item {
	it := b.item(t)
	it.Bundle, it.Signature = nil, pipeline.Signature{}
	return it
}

func array(elements ...[]byte) []byte {
	return append(append([]byte("["), bytes.Join(elements, []byte(","))...), ']')
}

// is fails unless err is of the kind and cause.
func is(t *testing.T, err error, kind pipeline.Kind, cause string) {
	t.Helper()
	if e := pipeline.Classify(err); e == nil || e.Kind != kind || e.Cause != cause {
		t.Errorf("got %v (%+v), want %s %s", err, e, kind, cause)
	}
}

func TestUploadAndPublish(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	it := b.item(t)
	for range 2 { // the second time changes nothing
		if err := b.upload.Run(t.Context(), it); err != nil {
			t.Fatal(err)
		}
		it.PublishedAt = time.Time{}
		if err := b.publish.Run(t.Context(), it); err != nil {
			t.Fatal(err)
		}
		body, sidecar := b.Served(subdir, filename)
		if !bytes.Equal(body, b.body) || !bytes.Equal(sidecar, array(b.bundle())) {
			t.Errorf("the server has %q, %q", body, sidecar)
		}
		want := pipeline.Sidecar{SHA256: sum(sidecar), Size: int64(len(sidecar)), Bundles: 1}
		if it.Sidecar != want || it.PublishedAt.IsZero() || !bytes.Equal(it.Bundle, b.bundle()) {
			t.Errorf("%+v", it)
		}
	}
}

// TestWhatIsThere: the package is in the channel already, in each way that it can be.
func TestWhatIsThere(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		put   func(*bench) (body, sidecar []byte)
		cause string // "" if the item is published, with the sidecar's bundle
	}{
		"ours":        {func(b *bench) (_, _ []byte) { return b.body, array(b.bundle()) }, ""},
		"ours, other": {func(b *bench) (_, _ []byte) { return b.body, array([]byte(`{"x":1}`), b.other()) }, ""},
		"unsigned":    {func(b *bench) (_, _ []byte) { return b.body, nil }, server.CauseUnattested},
		"somebody's":  {func(b *bench) (_, _ []byte) { return b.body, array([]byte(`{"x":1}`)) }, server.CauseUnattested},
		"other bytes": {func(b *bench) (_, _ []byte) { return []byte("x"), array(b.bundle()) }, server.CauseConflict},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			body, sidecar := tt.put(b)
			b.Put(subdir, filename, body, sidecar)
			it := b.item(t)
			err := b.upload.Run(t.Context(), it)
			if tt.cause != "" {
				is(t, err, pipeline.KindPermanent, tt.cause)
			} else if err != nil {
				t.Error(err)
			} else if err := b.publish.Run(t.Context(), it); err != nil || it.Sidecar.SHA256 != sum(sidecar) || !bytes.Contains(sidecar, it.Bundle) {
				t.Errorf("%v, %+v", err, it)
			}
			// What is found before it is signed: with a look at the package first, nothing is left to the upload.
			for _, first := range []bool{false, true} {
				it := b.fresh(t)
				err := server.NewPrior(b.client, b.accept, created, first).Find(t.Context(), it)
				switch {
				case tt.cause == "":
					if err != nil || !it.Signature.Found || !bytes.Contains(sidecar, it.Bundle) {
						t.Errorf("first %v: %v, %+v", first, err, it)
					}
				case first || tt.cause == server.CauseConflict:
					is(t, err, pipeline.KindPermanent, tt.cause)
				case err != nil || it.Bundle != nil:
					t.Errorf("%v, %+v", err, it)
				}
			}
			if got, side := b.Served(subdir, filename); !bytes.Equal(got, body) || !bytes.Equal(side, sidecar) {
				t.Error("the channel has changed")
			}
		})
	}
}

// TestPrior: what was signed before the campaign is skipped; what was signed by it goes on, and is not sent again.
func TestPrior(t *testing.T) {
	t.Parallel()
	for _, first := range []bool{false, true} {
		b := newBench(t)
		prior := server.NewPrior(b.client, b.accept, created, first)
		it := b.fresh(t)
		if err := prior.Find(t.Context(), it); err != nil || it.Bundle != nil {
			t.Errorf("nothing there: %v, %+v", err, it)
		}
		b.Put(subdir, filename, b.body, array(b.bundle()))
		if err := prior.Find(t.Context(), it); err != nil || it.Bundle == nil {
			t.Errorf("by this campaign: %v, %+v", err, it)
		}
		it.Signature.CertSHA256 = "c"
		if err := errors.Join(b.upload.Run(t.Context(), it), b.publish.Run(t.Context(), it)); err != nil || len(b.Requests(prefixtest.Upload)) != 0 {
			t.Errorf("%v, %d uploads", err, len(b.Requests(prefixtest.Upload)))
		}
		b.signed = created.Add(-time.Second)
		is(t, prior.Find(t.Context(), b.fresh(t)), pipeline.KindSkip, "channel.published")
	}
	// The sidecar is served before the package: what was signed is used.
	b := newBench(t)
	b.Put(subdir, filename, b.body, array(b.bundle()))
	b.Fail(prefixtest.Fault{On: prefixtest.File, Status: 404})
	it := b.fresh(t)
	if err := server.NewPrior(b.client, b.accept, created, false).Find(t.Context(), it); err != nil || it.Bundle == nil {
		t.Errorf("%v, %+v", err, it)
	}
}

// TestCrossed: a bundle that was found in the channel has lost its white space at a cut; the server has its bytes.
func TestCrossed(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.Put(subdir, filename, b.body, array(b.bundle()))
	it := b.fresh(t)
	if !b.accept(array(b.bundle()), it) {
		t.Fatal("not accepted")
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, it.Bundle); err != nil || compact.Len() == len(it.Bundle) {
		t.Fatal("nothing to lose", err)
	}
	it.Bundle = compact.Bytes()
	if err := b.upload.Run(t.Context(), it); err != nil || !bytes.Equal(it.Bundle, b.bundle()) {
		t.Errorf("%v, %s", err, it.Bundle)
	}
	it = b.item(t)
	it.Bundle = b.other()
	is(t, b.upload.Run(t.Context(), it), pipeline.KindPermanent, server.CauseBundle)
}

// TestReadBack: uploaded is not published.
func TestReadBack(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	it := b.item(t)
	err := b.publish.Run(t.Context(), it)
	is(t, err, pipeline.KindTransient, server.CauseUnserved)
	if !pipeline.Classify(err).Alone { // others may be served
		t.Error("it counts as an outage of all")
	}
	b.Put(subdir, filename, []byte("other bytes"), array(b.bundle()))
	is(t, b.publish.Run(t.Context(), it), pipeline.KindPermanent, server.CauseConflict)
	if err := server.NewPublish(b.client, true).Run(t.Context(), it); err != nil {
		t.Errorf("the sidecar alone: %v", err)
	}
	it = b.item(t)
	b.Put(subdir, filename, b.body, array([]byte(`{"x":1}`)))
	is(t, b.publish.Run(t.Context(), it), pipeline.KindPermanent, server.CauseUnattested)
	// Without the package, nothing is said about its attestation.
	none := newBench(t)
	is(t, server.NewPublish(none.client, true).Run(t.Context(), none.item(t)), pipeline.KindTransient, server.CauseUnserved)
	if !it.PublishedAt.IsZero() || it.Sidecar.SHA256 != "" {
		t.Errorf("%+v", it)
	}
	// A server that writes bundles anew: the item's is what is served.
	b.Put(subdir, filename, b.body, array(b.bundle()))
	var anew []byte
	b.Rewrite(func(sidecar []byte) []byte {
		var v any
		_ = json.Unmarshal(sidecar, &v)
		anew, _ = json.Marshal(v)
		return anew
	})
	if err := b.publish.Run(t.Context(), it); err != nil || !bytes.Equal(array(it.Bundle), anew) || it.Signature.BundleSHA256 != sum(it.Bundle) || it.Sidecar.SHA256 != sum(anew) {
		t.Errorf("%v, %s", err, it.Bundle)
	}
}

// TestAnswers: what the engine does about each answer to an upload.
func TestAnswers(t *testing.T) {
	t.Parallel()
	for code, want := range map[int]struct {
		kind  pipeline.Kind
		cause string
	}{
		400: {pipeline.KindPermanent, server.CauseRejected}, 413: {pipeline.KindPermanent, server.CauseRejected}, 422: {pipeline.KindPermanent, server.CauseRejected},
		401: {pipeline.KindFatal, server.CauseIdentity}, 403: {pipeline.KindFatal, server.CauseForbidden}, 404: {pipeline.KindFatal, server.CauseUnknown}, 302: {pipeline.KindFatal, server.CauseUnknown},
		409: {pipeline.KindPermanent, server.CauseUnsettled}, 429: {pipeline.KindTransient, server.CauseUnavailable}, 500: {pipeline.KindTransient, server.CauseUnavailable},
	} {
		b := newBench(t)
		f := prefixtest.Fault{On: prefixtest.Upload, Status: code, Header: http.Header{"Retry-After": {"100"}}}
		b.Fail(f, f)
		err := b.upload.Run(t.Context(), b.item(t))
		is(t, err, want.kind, want.cause)
		if e := pipeline.Classify(err); code == 429 && e.RetryAfter != 100*time.Second {
			t.Errorf("retry after %s", e.RetryAfter)
		}
	}
	// A server that takes other packages means this one.
	b := newBench(t)
	if err := b.upload.Run(t.Context(), b.item(t)); err != nil {
		t.Fatal(err)
	}
	b.Fail(prefixtest.Fault{On: prefixtest.Upload, Status: 403})
	is(t, b.upload.Run(t.Context(), b.item(t)), pipeline.KindPermanent, server.CauseForbidden)
	// Nobody's wait ends in quarantine.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.upload.Run(ctx, b.item(t)); !errors.Is(err, context.Canceled) || pipeline.Classify(err).Kind != pipeline.KindTransient {
		t.Errorf("cancelled: %v", err)
	}
}

// TestItems: what is wrong with an item, before anything is sent.
func TestItems(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(*pipeline.Item)
		kind   pipeline.Kind
		cause  string
	}{
		"unsigned": {func(it *pipeline.Item) { it.Bundle = nil }, pipeline.KindFatal, server.CauseUnsigned},
		"unproven": {func(it *pipeline.Item) { it.Signature = pipeline.Signature{} }, pipeline.KindFatal, server.CauseUnsigned},
		"missing":  {func(it *pipeline.Item) { it.Source += "x" }, pipeline.KindPermanent, server.CauseMissing},
		"longer":   {func(it *pipeline.Item) { it.Package.Size++ }, pipeline.KindPermanent, server.CauseChanged},
		"changed":  {func(it *pipeline.Item) { it.Package.SHA256 = sum(nil) }, pipeline.KindPermanent, server.CauseChanged},
		"subdir":   {func(it *pipeline.Item) { it.Package.Subdir = ".." }, pipeline.KindPermanent, server.CauseInvalid},
	} {
		b := newBench(t)
		it := b.item(t)
		tt.change(it)
		is(t, b.upload.Run(t.Context(), it), tt.kind, tt.cause)
		if body, _ := b.Served(subdir, filename); body != nil {
			t.Errorf("%s: the server took it", name)
		}
		if tt.cause == server.CauseUnsigned {
			b.Put(subdir, filename, b.body, array(b.bundle()))
			is(t, b.publish.Run(t.Context(), it), tt.kind, tt.cause)
		}
	}
}
