// Package github is the stage that puts bundles where GitHub's own tools look for them, for campaigns that ask for it: items
// whose bundle is verified and in the channel flow in; the same items flow out once the attestation store of the repository
// that they were signed for has the bundle. It comes before publish, so that what is published is there.
//
//	Item{Bundle, Signature.Claims["sourceRepository"]} ──▶ is it listed? ──▶ POST /repos/OWNER/REPO/attestations
package github

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/hallmark-attest/hallmark/internal/github"
	"github.com/hallmark-attest/hallmark/pipeline"
)

// Concurrency is how many items are in the stage at once, where nothing else is said. Bundles go one after the other, as
// GitHub asks for; the stage only looks for others meanwhile.
const Concurrency = 4

// The stage's causes.
const (
	CauseUnsigned    = "package.unsigned"   // fatal: an item without a verified bundle came this far
	CauseRepository  = "github.repository"  // permanent: the signing certificate names no repository of this GitHub
	CauseRejected    = "github.rejected"    // permanent: GitHub does not take this bundle
	CauseIdentity    = "identity.github"    // fatal: GitHub does not accept the token
	CauseForbidden   = "identity.forbidden" // fatal; permanent, if GitHub has taken other bundles of this worker
	CauseUnavailable = "github.unavailable" // transient
)

// Store is the repositories' attestation stores: a *github.Attestations.
type Store interface {
	Repository(uri string) (owner, repo string, err error)
	Has(ctx context.Context, owner, repo string, bundle []byte) (bool, error)
	Store(ctx context.Context, owner, repo string, bundle []byte) (id string, err error)
}

// Stage stores. It is safe for concurrent use.
type Stage struct {
	store Store
	took  atomic.Bool // GitHub has taken a bundle: the rights are there
}

var _ pipeline.Stage = (*Stage)(nil)

// New makes the stage.
func New(s Store) *Stage { return &Stage{store: s} }

// String implements pipeline.Stage.
func (*Stage) String() string { return "github" }

// Run implements pipeline.Stage. It needs the item's Bundle and Signature. Done again, it finds the bundle in the
// repository's list, and stores nothing.
func (s *Stage) Run(ctx context.Context, it *pipeline.Item) error {
	if len(bytes.TrimSpace(it.Bundle)) == 0 || it.Signature.BundleSHA256 == "" {
		return pipeline.Fatal(CauseUnsigned, "the stage sign has to come before this one", fmt.Errorf("%s has no verified bundle", it.Filename))
	}
	owner, repo, err := s.store.Repository(it.Signature.Claims["sourceRepository"])
	if err != nil {
		return pipeline.Permanent(CauseRepository, "sign in a GitHub Actions job of the repository, or leave out --store-github-attestation",
			fmt.Errorf("the attestation of %s was signed by %s: %w", it.Filename, it.Signature.Identity, err))
	}
	has, err := s.store.Has(ctx, owner, repo, it.Bundle)
	if err == nil && !has {
		if _, err = s.store.Store(ctx, owner, repo, it.Bundle); err == nil {
			s.took.Store(true)
		}
	}
	return s.classify(err)
}

// classify says what the engine does about an error of GitHub.
func (s *Stage) classify(err error) error {
	after, _ := github.Transient(err)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, github.ErrArgument), errors.Is(err, github.ErrRejected):
		return pipeline.Permanent(CauseRejected, "the package is in the channel; GitHub's own words are in the message", err)
	case errors.Is(err, github.ErrIdentity):
		return pipeline.Fatal(CauseIdentity, "give the job's token in GITHUB_TOKEN, or a file by --github-token-file", err)
	case errors.Is(err, github.ErrForbidden), errors.Is(err, github.ErrNotFound):
		if s.took.Load() { // one of another repository
			return pipeline.Permanent(CauseForbidden, "the token serves for other repositories, and not for the one that this package was signed for", err)
		}
		return pipeline.Fatal(CauseForbidden, `the job needs the permission "attestations: write", in the repository that the signing certificate names`, err)
	case errors.Is(err, context.Canceled):
		return err
	}
	return pipeline.Transient(CauseUnavailable, after, err)
}
