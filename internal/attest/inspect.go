package attest

import (
	"fmt"
	"time"

	"github.com/digitorus/timestamp"
)

// Inspect says what a bundle claims, without verifying any of it: the result's Verified is false, and nothing in it may
// be relied on. It is for showing a bundle that does not verify, and for finding out which trust root it needs. SignedAt is
// the earliest time that a timestamp or a log entry claims; a timestamp that cannot be read is a warning.
//
// A statement that is no publish attestation leaves its fields empty, with the reason in Warnings.
func Inspect(bundle []byte) (r *Result, err error) {
	defer recovered(&r, &err)
	return inspect(bundle)
}

func inspect(bundle []byte) (*Result, error) {
	e, err := parseBundle(bundle)
	if err != nil {
		return nil, err
	}
	r := new(Result)
	if err := e.fill(r); err != nil {
		return nil, err
	}
	c, err := parseStatement(e.statement)
	if err != nil {
		r.Warnings = append(r.Warnings, err.Error())
	}
	r.Subject, r.TargetChannel = c.Subject, c.TargetChannel
	if st, err := parseInToto(e.statement); err == nil {
		r.PredicateType = st.predicateType
	}

	entries, err := e.bundle.TlogEntries()
	if err != nil {
		return nil, refuse(CodeBundleMalformed, fmt.Errorf("reading the bundle's log entries: %w", err), "")
	}
	for _, entry := range entries {
		le, err := logEntry(entry)
		if err != nil {
			r.Warnings = append(r.Warnings, err.Error())
			continue
		}
		r.Log = append(r.Log, le)
		if at := entry.IntegratedTime(); at.Unix() > 0 { // Rekor v2 has none
			r.claimTime(at, SignedAtIntegrated)
		}
	}
	stamps, err := e.bundle.Timestamps()
	if err != nil {
		return nil, refuse(CodeBundleMalformed, fmt.Errorf("reading the bundle's timestamps: %w", err), "")
	}
	for _, s := range stamps {
		ts, err := timestamp.ParseResponse(s)
		if err != nil {
			r.Warnings = append(r.Warnings, fmt.Sprintf("reading a timestamp: %v", err))
			continue
		}
		r.claimTime(ts.Time, SignedAtRFC3161)
	}
	return r, nil
}

// claimTime keeps the earliest time.
func (r *Result) claimTime(at time.Time, by string) {
	if r.SignedAt.IsZero() || at.Before(r.SignedAt) {
		r.SignedAt, r.SignedAtBy = at.UTC(), by
	}
}
