package upload

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallmark-attest/hallmark/internal/channel"
	"github.com/hallmark-attest/hallmark/internal/store"
	"github.com/hallmark-attest/hallmark/pipeline"
)

func sum(b []byte) string { d := sha256.Sum256(b); return hex.EncodeToString(d[:]) }

// newItem is an item as it comes from the stage sign, and the folder of a channel.
func newItem(t *testing.T) (it *pipeline.Item, c *channel.Channel, dir string) {
	t.Helper()
	dir = t.TempDir()
	s, err := store.NewDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	body := []byte("the bytes of a package")
	source := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(source, body, 0o600); err != nil {
		t.Fatal(err)
	}
	bundle := []byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}`)
	return &pipeline.Item{
		Source: source, Filename: "a-1!2+x-0.conda",
		Package:   pipeline.Package{Subdir: "linux-64", Size: int64(len(body)), SHA256: sum(body)},
		Bundle:    bundle,
		Signature: pipeline.Signature{Identity: "me", CertSHA256: "c", BundleSHA256: sum(bundle)},
	}, channel.New(s, channel.Options{}), dir
}

func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	m := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil || strings.HasPrefix(filepath.ToSlash(rel), ".") { // the store's own
			return err
		}
		b, err := os.ReadFile(p)
		m[filepath.ToSlash(rel)] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestUpload(t *testing.T) {
	t.Parallel()
	it, c, dir := newItem(t)
	if err := New(c).Run(t.Context(), it); err != nil {
		t.Fatal(err)
	}
	sidecar := "[" + string(it.Bundle) + "]"
	want := map[string]string{
		"linux-64/a-1!2+x-0.conda":                              "the bytes of a package",
		"linux-64/a-1!2+x-0.conda.sigs":                         sidecar,
		"linux-64/a-1!2+x-0.conda.sigs." + sum([]byte(sidecar)): sidecar,
	}
	if d := cmp.Diff(want, files(t, dir)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(pipeline.Sidecar{SHA256: sum([]byte(sidecar)), Size: int64(len(sidecar)), Bundles: 1}, it.Sidecar); d != "" {
		t.Error(d)
	}
	it.Sidecar = pipeline.Sidecar{}
	if err := New(c).Run(t.Context(), it); err != nil || it.Sidecar.Bundles != 1 {
		t.Errorf("again: %v, %+v", err, it.Sidecar)
	}
	if d := cmp.Diff(want, files(t, dir)); d != "" {
		t.Errorf("again: %s", d)
	}
}

func TestWhatIsRefused(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(it *pipeline.Item)
		kind   pipeline.Kind
		cause  string
	}{
		"no bundle":        {func(it *pipeline.Item) { it.Bundle = nil }, pipeline.KindFatal, CauseUnsigned},
		"not verified":     {func(it *pipeline.Item) { it.Signature = pipeline.Signature{} }, pipeline.KindFatal, CauseUnsigned},
		"another bundle":   {func(it *pipeline.Item) { it.Bundle = []byte(`{"x":1}`) }, pipeline.KindPermanent, CauseBundle},
		"another rider":    {func(it *pipeline.Item) { it.Riders = []pipeline.Rider{{SHA256: sum(nil), Bundle: []byte(`{"x":1}`)}} }, pipeline.KindPermanent, CauseBundle},
		"unverified rider": {func(it *pipeline.Item) { it.Riders = []pipeline.Rider{{Bundle: []byte(`{"x":1}`)}} }, pipeline.KindPermanent, CauseBundle},
		"no file":          {func(it *pipeline.Item) { it.Source += "x" }, pipeline.KindPermanent, CauseMissing},
		"other size":       {func(it *pipeline.Item) { it.Package.Size++ }, pipeline.KindPermanent, CauseChanged},
		"other bytes":      {func(it *pipeline.Item) { it.Package.SHA256 = strings.Repeat("0", 64) }, pipeline.KindPermanent, CauseChanged},
		"a path":           {func(it *pipeline.Item) { it.Package.Subdir = ".." }, pipeline.KindPermanent, CauseInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			it, c, dir := newItem(t)
			tt.change(it)
			e := pipeline.Classify(New(c).Run(t.Context(), it))
			if e == nil || e.Kind != tt.kind || e.Cause != tt.cause {
				t.Errorf("got %v (%v)", e, it.Sidecar)
			}
			if got := files(t, dir); len(got) != 0 {
				t.Errorf("something was written: %v", got)
			}
		})
	}
}

func TestConflict(t *testing.T) {
	t.Parallel()
	it, c, dir := newItem(t)
	if err := New(c).Run(t.Context(), it); err != nil {
		t.Fatal(err)
	}
	before := files(t, dir)
	other := []byte("the other bytes of it.")
	if err := os.WriteFile(it.Source, other, 0o600); err != nil {
		t.Fatal(err)
	}
	it.Package.SHA256, it.Package.Size = sum(other), int64(len(other))
	if e := pipeline.Classify(New(c).Run(t.Context(), it)); e == nil || e.Kind != pipeline.KindPermanent || e.Cause != CauseConflict || e.Hint == "" {
		t.Errorf("got %v", e)
	}
	if d := cmp.Diff(before, files(t, dir)); d != "" {
		t.Error(d)
	}
}

// TestBundlesThatWentThroughJSON: what crossed a cut goes into the sidecar with every byte that it was brought with, and
// what is there already stays.
func TestBundlesThatWentThroughJSON(t *testing.T) {
	t.Parallel()
	it, c, dir := newItem(t)
	pretty := []byte("{\n  \"mediaType\": \"x\"\n}")
	if _, err := c.AddBundle(t.Context(), it.Package.Subdir, it.Filename, pretty); err != nil {
		t.Fatal(err)
	}
	rider := pipeline.Bundle("{\"of\" : \"<another> kind\"}")
	it.Bundle, it.Signature.BundleSHA256 = pretty, sum(pretty)
	it.Riders = []pipeline.Rider{{PredicateType: "https://slsa.dev/provenance/v1", SHA256: sum(rider), Bundle: rider}}
	b, err := json.Marshal(it)
	if err != nil {
		t.Fatal(err)
	}
	var crossed pipeline.Item
	if err := json.Unmarshal(b, &crossed); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := New(c).Run(t.Context(), &crossed); err != nil {
			t.Fatal(err)
		}
		if got, want := files(t, dir)["linux-64/"+it.Filename+".sigs"], "["+string(pretty)+","+string(rider)+"]"; got != want {
			t.Errorf("the sidecar is %q, want %q", got, want)
		}
		if crossed.Sidecar.Bundles != 2 {
			t.Errorf("%+v", crossed.Sidecar)
		}
	}
	crossed.Riders[0].Bundle = []byte(`{"of":"<another> kind"}`)
	if e := pipeline.Classify(New(c).Run(t.Context(), &crossed)); e == nil || e.Kind != pipeline.KindPermanent || e.Cause != CauseBundle {
		t.Errorf("a rider with other bytes: %v", e)
	}
}

func TestClassify(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err   error
		kind  pipeline.Kind
		cause string
	}{
		{store.ErrAuth, pipeline.KindFatal, CauseDenied},
		{store.ErrUnsupported, pipeline.KindFatal, CauseUnsupported},
		{store.ErrKey, pipeline.KindPermanent, CauseInvalid},
		{&channel.Malformed{Err: errors.New("x")}, pipeline.KindPermanent, CauseMalformed},
		{channel.ErrContended, pipeline.KindTransient, CauseContended},
		{errors.New("503"), pipeline.KindTransient, CauseUnavailable},
	} {
		e := pipeline.Classify(classify(fmt.Errorf("doing: %w", tt.err)))
		if e.Kind != tt.kind || e.Cause != tt.cause || !errors.Is(e, tt.err) {
			t.Errorf("%v: %v %s", tt.err, e.Kind, e.Cause)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	<-ctx.Done()
	it, c, _ := newItem(t)
	if e := pipeline.Classify(New(c).Run(ctx, it)); e == nil || e.Kind != pipeline.KindTransient {
		t.Errorf("at the end of the context: %v", e)
	}
}
