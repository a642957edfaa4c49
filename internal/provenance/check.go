package provenance

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/conda"
)

// Status is what became of one source.
type Status string

// The statuses.
const (
	StatusVerified   Status = "verified"   // every publisher that was asked for has signed it
	StatusRefused    Status = "refused"    // it was looked at, and is not what was asked for
	StatusUnverified Status = "unverified" // it could not be looked at: an upstream does not answer
	StatusNone       Status = "none"       // nobody asks for an attestation
)

// Whether the transparency log was checked.
const (
	LogChecked   = "checked"
	LogUnchecked = "unchecked" // the material has nothing of it that could be
)

// Outcome is what was found about one source, as plain data: for the ledger, events and reports. It has no credentials, and
// of URLs no query.
type Outcome struct {
	URL    string `json:"url,omitempty"` // the download URL, of mirrors the first; "" if the recipe cannot be read
	SHA256 string `json:"sha256,omitempty"`
	Status Status `json:"status"`
	// AskedBy is who asks for an attestation: "recipe", "policy", or "" if nobody does.
	AskedBy string `json:"askedBy,omitempty"`
	// Publishers are those asked for, as they were written.
	Publishers []string `json:"publishers,omitempty"`
	// Signers are who has signed, one for each publisher; of a verified source only.
	Signers []Signer `json:"signers,omitempty"`
	// Log is LogChecked only if it was for all signers; "" if nothing was verified.
	Log string `json:"log,omitempty"`
	// From is where the bundles that decided came from: "package", "upstream" or "given".
	From string `json:"from,omitempty"`
	// Cause is the stable code of why it is not verified; Message and Hint are for people.
	Cause    string   `json:"cause,omitempty"`
	Message  string   `json:"message,omitempty"`
	Hint     string   `json:"hint,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

// Signer is who signed an attestation of a source, and what kind it is.
type Signer struct {
	Identity      string `json:"identity"`
	Issuer        string `json:"issuer"`
	PredicateType string `json:"predicateType"`
	Log           string `json:"log"`
}

// Report is what was found about a package's sources.
type Report struct {
	Outcomes []Outcome
	// Retry is set if trying again may change something: of the temporary errors the one with the longest wait.
	Retry *Error
}

// Refused gives the first refused source, and whether there is one.
func (r Report) Refused() (Outcome, bool) {
	i := slices.IndexFunc(r.Outcomes, func(o Outcome) bool { return o.Status == StatusRefused })
	if i < 0 {
		return Outcome{}, false
	}
	return r.Outcomes[i], true
}

// Checker checks the sources of packages. Keep one for the whole process, for what it keeps: it
// knows no campaign.
type Checker struct {
	verifier *Verifier
	fetcher  *Fetcher
}

// NewChecker makes a checker. Neither may be nil.
func NewChecker(v *Verifier, f *Fetcher) *Checker { return &Checker{v, f} }

// Check checks the sources that a package's recipe names. Files are those that Files asks for. The error is the context's;
// everything else is in the report.
func (c *Checker) Check(ctx context.Context, files conda.Files, p Policy) (Report, error) {
	var report Report
	list, err := Recipe(files)
	if e, ok := errors.AsType[*Error](err); ok {
		return Report{Outcomes: []Outcome{Outcome{Status: StatusRefused, AskedBy: "recipe"}.because(e)}}, nil
	}
	for _, s := range list {
		o, retry, err := c.source(ctx, s, p, files)
		if err != nil {
			return Report{}, err
		}
		report.Outcomes = append(report.Outcomes, o)
		if retry != nil && (report.Retry == nil || retry.RetryAfter > report.Retry.RetryAfter) {
			report.Retry = retry
		}
	}
	return report, nil
}

func (c *Checker) source(ctx context.Context, s Source, p Policy, files conda.Files) (Outcome, *Error, error) {
	o := Outcome{URL: s.shown(), SHA256: s.SHA256, Status: StatusNone}
	asked := "recipe"
	if s.Err == nil && s.Attestation == nil {
		if s.Attestation, s.Err = p.block(s); s.Attestation == nil && s.Err == nil {
			return o, nil, nil
		}
		asked = "policy"
		if s.SHA256 == "" && s.Err == nil {
			s.Err = refuse(CodeRecipeNoSHA256, "", "the policy asks for an attestation of a source without a sha256")
		}
	}
	o.AskedBy = asked
	if s.Err != nil {
		o.Status = StatusRefused
		return o.because(s.Err), nil, nil
	}
	embedded, err := s.embedded(files)
	if err != nil {
		o.Status = StatusRefused
		return o.because(err), nil, nil
	}
	if len(embedded) > 0 {
		got, cause := c.decide(s, p, embedded)
		got.AskedBy, got.From = asked, "package"
		// Bundles that do not verify were tampered with. Sound ones that are not enough prove nothing: the upstream may
		// have the others.
		if got.Status == StatusVerified || cause != nil && CodeOf(cause) == "" {
			return got, nil, nil
		}
	}
	got, retry, ferr := c.fetchAndDecide(ctx, s, p, nil)
	got.AskedBy = asked
	return got, retry, ferr
}

// CheckSource checks one source by its block, which MUST NOT be nil, without a package. Given bundles, as ParseResponse reads
// them, join those of the block's bundle URLs; if there are any, none is derived. The last *Error is as Report.Retry.
func (c *Checker) CheckSource(ctx context.Context, s Source, p Policy, given []Bundle) (Outcome, *Error, error) {
	if s.Err == nil {
		switch {
		case s.Attestation == nil || len(s.Attestation.Publishers) == 0:
			s.Err = refuse(CodePublishersEmpty, "name who must have published the source", "no publishers are named, and so nobody is trusted")
		case !hexSHA256.MatchString(s.SHA256):
			s.Err = refuse(CodeRecipeNoSHA256, "", "there is no sha256 to compare with")
		}
	}
	if s.Err != nil {
		o := Outcome{URL: s.shown(), SHA256: s.SHA256, Status: StatusRefused}
		return o.because(s.Err), nil, nil
	}
	return c.fetchAndDecide(ctx, s, p, given)
}

func (c *Checker) fetchAndDecide(ctx context.Context, s Source, p Policy, pool []Bundle) (Outcome, *Error, error) {
	o := s.outcome()
	o.From = "upstream"
	if len(pool) > 0 {
		o.From = "given"
	}
	var urls []string
	if len(pool) == 0 || len(s.Attestation.BundleURLs) > 0 {
		var err *Error
		if urls, err = s.bundleURLs(c.fetcher.o.PyPI); err != nil {
			o.Status = StatusRefused
			return o.because(err), nil, nil
		}
	}
	for _, u := range urls {
		bundles, err := c.fetcher.Bundles(ctx, u)
		if e, ok := errors.AsType[*Error](err); ok {
			if e.Temporary {
				o.Status = StatusUnverified
				return o.because(e), e, nil
			}
			o.Status = StatusRefused // every listed URL has to answer
			return o.because(e), nil, nil
		}
		if err != nil {
			return Outcome{}, nil, err
		}
		pool = append(slices.Clip(pool), bundles...)
	}
	got, _ := c.decide(s, p, pool)
	got.From = o.From
	return got, nil, nil
}

func (s Source) outcome() Outcome {
	o := Outcome{URL: s.shown(), SHA256: s.SHA256}
	for _, p := range s.Attestation.Publishers {
		o.Publishers = append(o.Publishers, p.String())
		if p.broad() {
			o.Warnings = append(o.Warnings, fmt.Sprintf("the publisher %s is wider than a repository", clip(p.String(), 200)))
		}
	}
	return o
}

// embedded gives the bundles that the package itself has for the source: those that the recipe lists, and those of its
// file name.
func (s Source) embedded(files conda.Files) ([]Bundle, *Error) {
	var list []Bundle
	seen := map[string]bool{}
	add := func(name string) {
		if data, ok := files[name]; ok && !seen[name] {
			seen[name] = true
			list = append(list, Bundle{Raw: data})
		}
	}
	for _, e := range s.Attestation.Verified {
		name := path.Clean("recipe/" + e.Path)
		data, ok := files[name]
		if !ok || !strings.HasPrefix(name, attestations) {
			continue // nothing is there, which proves nothing: the upstream decides
		}
		if sum := digestOf(data); sum != e.SHA256 {
			return nil, refuse(CodeEmbedded, "", "%s has the SHA-256 %s, and the recipe says %s", clip(name, 200), sum, clip(e.SHA256, 64))
		}
		add(name)
	}
	for _, u := range s.URLs {
		if base := filename(u); base != "" {
			for i := range maxBundles {
				name := attestations + base + "." + strconv.Itoa(i) + ".sigstore.json"
				if _, ok := files[name]; !ok {
					break
				}
				add(name)
			}
		}
	}
	// A builder stores what it converted from PEP 740 in that form, and no entry at all is what is left where the index
	// kept nothing of the log.
	for i, b := range list {
		if r, err := attest.Inspect(b.Raw); err == nil && len(r.Log) == 0 && s.fromIndex() {
			list[i].Unlogged = true
		}
	}
	return list, nil
}

// fromIndex says whether the source's bundles come from the index, in PEP 740's form.
func (s Source) fromIndex() bool {
	urls, err := s.bundleURLs(defaultPyPI)
	return err == nil && !slices.ContainsFunc(urls, func(u string) bool { return !strings.HasPrefix(u, defaultPyPI+"/integrity/") })
}

// decide verifies a set of bundles for a source (draft CEP, "Minimum Verification" 3 to 6). The error is why it is not
// verified: an *attest.Error for what is wrong with a bundle itself, else an *Error.
func (c *Checker) decide(s Source, p Policy, pool []Bundle) (Outcome, error) {
	o := s.outcome()
	o.Status = StatusRefused
	if len(pool) > maxBundles {
		err := refuse(CodeResponseTooLarge, "", "there are more than %d attestations", maxBundles)
		return o.because(err), err
	}
	var sound []evidence
	for _, b := range pool {
		e, err := c.verifier.verify(b)
		if err != nil {
			return o.because(err), err
		}
		sound = append(sound, e)
	}
	err := s.filter(&sound, p)
	if err == nil {
		err = o.match(s.Attestation.Publishers, sound)
	}
	if err != nil {
		return o.because(err), err
	}
	o.Status = StatusVerified
	return o, nil
}

// filter leaves those that count.
func (s Source) filter(list *[]evidence, p Policy) *Error {
	had := *list
	keep := func(which func(evidence) bool) bool {
		*list = slices.DeleteFunc(slices.Clone(*list), func(e evidence) bool { return !which(e) })
		return len(*list) > 0
	}
	if !keep(func(e evidence) bool { return slices.Contains(e.digests, s.SHA256) }) {
		return refuse(CodeOtherArtifact, "is the recipe's sha256 the upstream's?", "none of %d attestations is about a file with the sha256 %s", len(had), s.SHA256)
	}
	if want := s.Attestation.PredicateType; want != "" && !keep(func(e evidence) bool { return e.predicateType == want }) {
		return refuse(CodePredicateType, "", "none of the attestations has the predicate type %s", clip(want, 200))
	}
	if p.RequireLog && !keep(func(e evidence) bool { return e.logged }) {
		return refuse(CodeLogAbsent, "", "the attestations come without what is needed to check the transparency log, and the policy asks for that")
	}
	return nil
}

// match finds a signer for every publisher, rather one whom the log confirms, and notes it.
func (o *Outcome) match(publishers []Publisher, list []evidence) *Error {
	if len(publishers) == 0 { // the readers refuse it; nothing may ever get here and pass
		return refuse(CodePublishersEmpty, "", "no publishers are named, and so nobody is trusted")
	}
	o.Log = LogChecked
	for _, p := range publishers {
		best, code, seen := -1, CodeMismatch, ""
		for i, e := range list {
			if seen == "" {
				seen = fmt.Sprintf("%q by %q", clip(e.identity, 200), clip(e.issuer, 100))
			}
			switch {
			case !p.matchesIdentity(e.identity):
			case e.issuer != p.Issuer:
				code = CodeIssuer
				seen = fmt.Sprintf("%q by %q", clip(e.identity, 200), clip(e.issuer, 100))
			case best < 0 || e.logged && !list[best].logged:
				best = i
			}
		}
		if best < 0 {
			o.Signers, o.Log = nil, ""
			return refuse(code, "if that is the new publisher, change the recipe", "no attestation is by %s; the first is by %s", clip(p.String(), 200), seen)
		}
		e := list[best]
		sig := Signer{Identity: e.identity, Issuer: e.issuer, PredicateType: e.predicateType, Log: LogChecked}
		if !e.logged {
			sig.Log, o.Log = LogUnchecked, LogUnchecked
			o.Warnings = append(o.Warnings, "the transparency log was not checked, and so neither was the time: the material has no entry that could be")
		}
		// The identity is the workflow's. One that other repositories call signs for them as well.
		if e.repository != "" && !p.matchesIdentity(e.repository) && strings.HasPrefix(p.Identity, "https://") {
			o.Warnings = append(o.Warnings, fmt.Sprintf("signed by a workflow of %s on behalf of %s", clip(p.String(), 200), clip(e.repository, 200)))
		}
		o.Signers = append(o.Signers, sig)
	}
	return nil
}

// because notes why a source is not verified.
func (o Outcome) because(err error) Outcome {
	o.Message = clip(err.Error(), maxMessage)
	if e, ok := errors.AsType[*Error](err); ok {
		o.Cause, o.Hint = string(e.Code), e.Hint
	} else if e, ok := errors.AsType[*attest.Error](err); ok {
		o.Cause, o.Hint = string(e.Code), e.Hint
	}
	return o
}

// FailingFor is how long what e is about has been failing.
func (e *Error) FailingFor() time.Duration {
	if e == nil || e.Since.IsZero() {
		return 0
	}
	return time.Since(e.Since)
}
