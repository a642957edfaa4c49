package github_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	api "github.com/hallmark-attest/hallmark/internal/github"
	"github.com/hallmark-attest/hallmark/internal/github/githubtest"
	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/stages/github"
)

const token = "ghs_the-token-that-nobody-may-see"

func newStage(t *testing.T) (*githubtest.Server, *github.Stage) {
	t.Helper()
	s := githubtest.New(t, "my-org", "my.repo", token)
	a, err := api.New(api.Config{API: s.API(), Token: func() string { return token }, Transport: s.Client().Transport,
		Attempts: 2, Backoff: time.Millisecond, Interval: time.Millisecond, Patience: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return s, github.New(a)
}

func item() *pipeline.Item {
	return &pipeline.Item{Filename: "a-1-0.conda", Bundle: githubtest.Bundle(strings.Repeat("ab", 32)),
		Signature: pipeline.Signature{Identity: "me", BundleSHA256: "b", Claims: map[string]string{"sourceRepository": "https://github.com/my-org/my.repo"}}}
}

func is(t *testing.T, err error, kind pipeline.Kind, cause string) {
	t.Helper()
	if e := pipeline.Classify(err); e == nil || e.Kind != kind || e.Cause != cause {
		t.Errorf("got %v (%+v), want %s %s", err, e, kind, cause)
	}
}

// TestRun: a bundle is stored once, however often.
func TestRun(t *testing.T) {
	t.Parallel()
	s, stage := newStage(t)
	for range 3 {
		if err := stage.Run(t.Context(), item()); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.Stored()); n != 1 {
		t.Errorf("stored %d times", n)
	}
}

// TestAnswers: what the engine does about each answer. An outage or a limit sets nothing aside.
func TestAnswers(t *testing.T) {
	t.Parallel()
	for code, want := range map[int]struct {
		kind  pipeline.Kind
		cause string
	}{
		422: {pipeline.KindPermanent, github.CauseRejected}, 401: {pipeline.KindFatal, github.CauseIdentity},
		403: {pipeline.KindFatal, github.CauseForbidden}, 404: {pipeline.KindFatal, github.CauseForbidden},
		429: {pipeline.KindTransient, github.CauseUnavailable}, 500: {pipeline.KindTransient, github.CauseUnavailable}, 0: {pipeline.KindTransient, github.CauseUnavailable},
	} {
		s, stage := newStage(t)
		f := githubtest.Fault{Method: "POST", Status: code}
		if code == 429 {
			f.Header = http.Header{"Retry-After": {"100"}}
		}
		s.Fail(f, f)
		err := stage.Run(t.Context(), item())
		is(t, err, want.kind, want.cause)
		if e := pipeline.Classify(err); code == 429 && e.RetryAfter != 100*time.Second {
			t.Errorf("retry after %s", e.RetryAfter)
		}
	}
	s, stage := newStage(t)
	s.Fail(githubtest.Fault{Method: "GET", Status: 500}) // the list, too
	is(t, stage.Run(t.Context(), item()), pipeline.KindTransient, github.CauseUnavailable)
}

func TestItems(t *testing.T) {
	t.Parallel()
	s, stage := newStage(t)
	unsigned := item()
	unsigned.Bundle = nil
	is(t, stage.Run(t.Context(), unsigned), pipeline.KindFatal, github.CauseUnsigned)
	for _, uri := range []string{"", "https://gitlab.example/x", "my-org/my.repo"} {
		it := item()
		it.Signature.Claims["sourceRepository"] = uri
		is(t, stage.Run(t.Context(), it), pipeline.KindPermanent, github.CauseRepository)
	}
	if len(s.Requests()) != 0 {
		t.Errorf("asked %v", s.Requests())
	}
	// Of a worker that stores in one repository, a package of another is set aside alone.
	if err := stage.Run(t.Context(), item()); err != nil {
		t.Fatal(err)
	}
	it := item()
	it.Signature.Claims["sourceRepository"] = "https://github.com/my-org/another"
	is(t, stage.Run(t.Context(), it), pipeline.KindPermanent, github.CauseForbidden)
}
