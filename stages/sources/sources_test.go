package sources

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/conda"
	"github.com/hallmark-attest/hallmark/internal/conda/condatest"
	"github.com/hallmark-attest/hallmark/internal/provenance"
	"github.com/hallmark-attest/hallmark/pipeline"
)

// newItem is an item as it comes from the stage hash, of a package with a recipe.
func newItem(t *testing.T, format conda.Format) *pipeline.Item {
	t.Helper()
	spec := condatest.Spec{Name: "flask", Version: "3.1.1", Build: "0", Format: format, Info: map[string][]byte{
		"recipe/rendered_recipe.yaml": []byte("finalized_sources:\n- url: https://files.pythonhosted.org/p/flask-3.1.1.tar.gz?token=secret\n" +
			"  sha256: b87aa5270772708aeaed24ad65681618c398f238e7b3bed393af852738243377\n  attestation: {publishers: ['github:pallets/flask']}\n"),
		"recipe/attestations/flask-3.1.1.tar.gz.0.sigstore.json": []byte("{}"),
	}}
	data, err := spec.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), spec.Filename())
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return &pipeline.Item{Source: path, Filename: spec.Filename(), Package: pipeline.Package{Size: int64(len(data))}}
}

// fixed answers the same each time, and notes what it was given.
type fixed struct {
	report provenance.Report
	err    error
	files  conda.Files
	calls  int
}

func (f *fixed) Check(_ context.Context, files conda.Files, _ provenance.Policy) (provenance.Report, error) {
	f.files = files
	f.calls++
	return f.report, f.err
}

func TestRun(t *testing.T) {
	t.Parallel()
	verified := provenance.Outcome{Status: provenance.StatusVerified}
	refused := provenance.Outcome{Status: provenance.StatusRefused, Cause: "publisher.mismatch", Hint: "look"}
	pending := provenance.Outcome{Status: provenance.StatusUnverified, Cause: "fetch.unavailable"}
	retry := func(since time.Duration) *provenance.Error {
		return &provenance.Error{Code: provenance.CodeUnavailable, Temporary: true, RetryAfter: 7 * time.Second, Since: time.Now().Add(-since), Err: errors.New("down")}
	}
	report := func(r *provenance.Error, o ...provenance.Outcome) provenance.Report {
		return provenance.Report{Outcomes: o, Retry: r}
	}
	for _, tt := range []struct {
		name     string
		mode     provenance.Mode
		report   provenance.Report
		kind     pipeline.Kind
		cause    string // "": it goes on
		calls    int
		recorded int
	}{
		{"no mode", "", report(nil, refused), 0, "", 0, -1},
		{"off", provenance.ModeOff, report(nil, refused), 0, "", 0, -1},
		{"a mode that is none", "strict", report(nil), pipeline.KindFatal, CausePolicy, 0, -1},
		{"report, verified", provenance.ModeReport, report(nil, verified), 0, "", 1, 1},
		{"report, refused", provenance.ModeReport, report(nil, verified, refused), 0, "", 1, 2},
		{"require, verified", provenance.ModeRequire, report(nil, verified), 0, "", 1, 1},
		{"require, nothing asked for", provenance.ModeRequire, report(nil), 0, "", 1, 0},
		{"require, refused", provenance.ModeRequire, report(nil, verified, refused), pipeline.KindPermanent, "sources.publisher.mismatch", 1, 2},
		{"report, an outage", provenance.ModeReport, report(retry(time.Minute), pending), pipeline.KindTransient, CauseUnavailable, 1, -1},
		{"report, a long outage", provenance.ModeReport, report(retry(time.Hour), pending), 0, "", 1, 1},
		{"require, a long outage", provenance.ModeRequire, report(retry(time.Hour), pending), pipeline.KindTransient, CauseUnavailable, 1, -1},
		{"require, an outage that cannot change it", provenance.ModeRequire, report(retry(0), pending, refused), pipeline.KindPermanent, "sources.publisher.mismatch", 1, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, recorded := &fixed{report: tt.report}, -1
			s := New(c, Options{Policy: provenance.Policy{Mode: tt.mode}})
			it := newItem(t, conda.Conda)
			err := s.Run(t.Context(), it)
			if it.Sources != nil {
				recorded = len(it.Sources.List)
			}
			if tt.cause == "" && err != nil || c.calls != tt.calls || recorded != tt.recorded {
				t.Fatalf("%v, %d calls, %d recorded", err, c.calls, recorded)
			}
			if tt.cause == "" {
				return
			}
			e := pipeline.Classify(err)
			if e == nil || e.Kind != tt.kind || e.Cause != tt.cause {
				t.Errorf("%+v", e)
			}
			if tt.kind == pipeline.KindTransient && e.RetryAfter != 7*time.Second {
				t.Errorf("again after %v", e.RetryAfter)
			}
		})
	}
}

// TestReads: the files of the recipe and no others, from both formats; what is gone or changed is said.
func TestReads(t *testing.T) {
	t.Parallel()
	for _, format := range []conda.Format{conda.Conda, conda.TarBz2} {
		c := new(fixed)
		s := New(c, Options{Policy: provenance.Policy{Mode: provenance.ModeRequire}})
		it := newItem(t, format)
		if err := s.Run(t.Context(), it); err != nil || len(c.files) != 2 {
			t.Errorf("%v: %d files, %v", format, len(c.files), err)
		}
		it.Package.Size++
		if e := pipeline.Classify(s.Run(t.Context(), it)); e == nil || e.Kind != pipeline.KindPermanent || e.Cause != CauseChanged {
			t.Errorf("%+v", e)
		}
		away := *it
		away.Source = filepath.Join(t.TempDir(), "unmounted", it.Filename)
		if e := pipeline.Classify(s.Run(t.Context(), &away)); e == nil || e.Kind != pipeline.KindTransient || e.Cause != "source.unavailable" {
			t.Errorf("%+v", e)
		}
		it.Source += "x"
		if e := pipeline.Classify(s.Run(t.Context(), it)); e == nil || e.Kind != pipeline.KindPermanent || e.Cause != CauseMissing {
			t.Errorf("%+v", e)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Run(ctx, newItem(t, format)); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}

type down struct{}

func (down) RoundTrip(*http.Request) (*http.Response, error) { return nil, errors.New("no route") }

// TestOutage: with the real checker: what is embedded and is no bundle is refused; without it, an outage is an outage.
func TestOutage(t *testing.T) {
	t.Parallel()
	tr, err := attest.LoadTrustRoot("../../internal/provenance/testdata/trusted_root.json")
	if err != nil {
		t.Fatal(err)
	}
	v, err := provenance.NewVerifier(tr)
	if err != nil {
		t.Fatal(err)
	}
	c := provenance.NewChecker(v, provenance.NewFetcher(provenance.FetchOptions{Transport: down{}}))
	s := New(c, Options{Policy: provenance.Policy{Mode: provenance.ModeRequire}})
	if e := pipeline.Classify(s.Run(t.Context(), newItem(t, conda.Conda))); e == nil || e.Kind != pipeline.KindPermanent || e.Cause != "sources.bundle.malformed" {
		t.Errorf("%+v", e)
	}
	s.checker = without{c}
	if e := pipeline.Classify(s.Run(t.Context(), newItem(t, conda.Conda))); e == nil || e.Kind != pipeline.KindTransient || e.Cause != CauseUnavailable || e.RetryAfter <= 0 {
		t.Errorf("%+v", e)
	}
}

// without takes the embedded bundles away.
type without struct{ Checker }

func (w without) Check(ctx context.Context, files conda.Files, p provenance.Policy) (provenance.Report, error) {
	delete(files, "recipe/attestations/flask-3.1.1.tar.gz.0.sigstore.json")
	return w.Checker.Check(ctx, files, p)
}
