// Package sources is the stage that looks where a package's sources came from. An item with a file's path flows in; the
// recipe inside is read, the attestations of its sources are verified, and what was found flows out in the item.
//
//	Item{Source, Filename, Package} ──▶ info/recipe ──▶ provenance.Checker ──▶ Item{…, Sources}, or a refusal
//
// It writes nothing outside, so it can be done again at any time.
package sources

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/hallmark-attest/hallmark/internal/conda"
	"github.com/hallmark-attest/hallmark/internal/provenance"
	"github.com/hallmark-attest/hallmark/internal/source"
	"github.com/hallmark-attest/hallmark/pipeline"
)

// Concurrency is how many items should be in the stage at once: it waits for upstreams, most of all for ones that others
// wait for too.
const Concurrency = 32

// Patience is how long an upstream may fail before a report does without it, where nothing else is said.
const Patience = 2 * time.Minute

// The stage's causes. A refused source has provenance's code behind CauseRefused: "sources.publisher.mismatch".
const (
	CauseRefused     = "sources."            // permanent, in mode require
	CauseUnavailable = "sources.unavailable" // transient: an upstream does not answer
	CauseMissing     = "source.missing"      // permanent: the file is gone
	CauseUnreadable  = "source.unreadable"   // transient: the file cannot be read
	CauseChanged     = "package.changed"     // permanent: the file has other bytes than those that were hashed
	CausePolicy      = "sources.policy"      // fatal: the policy cannot be used
)

// Checker checks the sources of packages: a *provenance.Checker.
type Checker interface {
	Check(ctx context.Context, files conda.Files, p provenance.Policy) (provenance.Report, error)
}

// Options are the stage's options.
type Options struct {
	// Policy says what is done about sources. Its zero value looks at nothing.
	Policy provenance.Policy
	// Patience is for ModeReport: once an upstream has failed for so long, its sources are reported as unverified and the
	// item goes on. 0 is Patience; ModeRequire waits as long as it takes.
	Patience time.Duration
}

// Stage is the stage "sources". It is safe for concurrent use.
type Stage struct {
	checker Checker
	o       Options
}

var _ pipeline.Stage = (*Stage)(nil)

// New makes the stage. The checker may be nil if the mode is off.
func New(c Checker, o Options) *Stage {
	if o.Patience == 0 {
		o.Patience = Patience
	}
	return &Stage{checker: c, o: o}
}

// String implements pipeline.Stage.
func (*Stage) String() string { return "sources" }

// Run implements pipeline.Stage. It needs the item's Source, Filename and Package (Size), and sets its Sources once there is
// something final to say, also of an item that it then refuses. Errors are *pipeline.Error, or the context's.
func (s *Stage) Run(ctx context.Context, it *pipeline.Item) error {
	switch s.o.Policy.Mode {
	case "", provenance.ModeOff:
		return nil
	case provenance.ModeReport, provenance.ModeRequire:
	default:
		return pipeline.Fatal(CausePolicy, "", fmt.Errorf("the mode %q for sources is not off, report or require", s.o.Policy.Mode))
	}
	it.Sources = nil // of an earlier attempt
	files, err := s.read(ctx, it)
	if err != nil {
		return err
	}
	report, err := s.checker.Check(ctx, files, s.o.Policy)
	if err != nil {
		return fmt.Errorf("checking the sources of %s: %w", it.Filename, err)
	}
	require := s.o.Policy.Mode == provenance.ModeRequire
	// What is refused already stays so, whatever an upstream that is down would say of the rest.
	refused, bad := report.Refused()
	if r := report.Retry; r != nil && !(require && bad) && (require || r.FailingFor() < s.o.Patience) {
		return pipeline.Alone(CauseUnavailable, r.RetryAfter, fmt.Errorf("checking the sources of %s: %w", it.Filename, r))
	}
	it.Sources = found(s.o.Policy.Mode, report.Outcomes, time.Now())
	if require && bad {
		return pipeline.Permanent(CauseRefused+refused.Cause, refused.Hint,
			fmt.Errorf("the source %s of %s: %s", refused.URL, it.Filename, refused.Message))
	}
	return nil
}

// read reads what there is of recipes in the package, whose bytes the stage hash has read.
func (s *Stage) read(ctx context.Context, it *pipeline.Item) (conda.Files, error) {
	f, err := os.OpenFile(it.Source, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if source.Away(err) {
		return nil, pipeline.Transient(source.Cause, 0, fmt.Errorf("opening the package: %w", err))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, pipeline.Permanent(CauseMissing, "the file was there when it was hashed: put it back, and retry", fmt.Errorf("opening the package: %w", err))
	}
	if err != nil {
		return nil, pipeline.Transient(CauseUnreadable, 0, fmt.Errorf("opening the package: %w", err))
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, pipeline.Transient(CauseUnreadable, 0, fmt.Errorf("looking at the package: %w", err))
	}
	if !st.Mode().IsRegular() || st.Size() != it.Package.Size {
		return nil, pipeline.Permanent(CauseChanged, "submit it again if the new one is meant", fmt.Errorf("%s has %d bytes now, not %d", it.Source, st.Size(), it.Package.Size))
	}
	files, err := conda.ReadInfo(ctx, f, st.Size(), it.Filename, provenance.Files()...)
	if e, ok := errors.AsType[*conda.Error](err); ok {
		return nil, pipeline.Permanent(e.Code, e.Hint, fmt.Errorf("reading the recipe of %s: %w", it.Filename, err))
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("reading the recipe of %s: %w", it.Filename, context.Cause(ctx))
	}
	if err != nil {
		return nil, pipeline.Transient(CauseUnreadable, 0, fmt.Errorf("reading the recipe of %s: %w", it.Filename, err))
	}
	return files, nil
}
