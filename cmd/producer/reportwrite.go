package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"path/filepath"
	"slices"
	"time"

	"github.com/hallmark-attest/hallmark/internal/command"
	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/pipeline/event"
	"github.com/hallmark-attest/hallmark/pipeline/queue"
)

// reportSchema is the version of a report. Within it fields are only added.
const reportSchema = "hallmark.report/1"

// report is what became of every item of a campaign. It is written as it is read, to any number of writers, and holds only
// the sums: so its items come before them. It says nothing that events do not say too: no path of a machine, no place that is
// written to.
type report struct {
	Schema    string
	Generated time.Time
	Version   string
	Campaign  reportCampaign
	Counts    reportCounts
	Causes    []cause
	// First and Last are when the first and the last outcome was.
	First, Last time.Time

	campaign *pipeline.Campaign
	json     []*bufio.Writer
	table    []*bufio.Writer
	byCause  map[cause]int
	firstRow bool
}

type reportCampaign struct {
	Name            string         `json:"name"`
	State           pipeline.State `json:"state"`
	Created         time.Time      `json:"created"`
	Changed         time.Time      `json:"changed,omitzero"`
	Reason          string         `json:"reason,omitempty"`
	ChannelURL      string         `json:"channelURL,omitempty"`
	NoTargetChannel bool           `json:"noTargetChannel,omitempty"`
	// Identity and Issuer are the campaign's signer, if it has one; PolicySHA256 is the digest of its frozen policy; with
	// NoSign it signed nothing itself.
	Identity     string   `json:"identity,omitempty"`
	Issuer       string   `json:"issuer,omitempty"`
	PolicySHA256 string   `json:"policySha256,omitempty"`
	NoSign       bool     `json:"noSign,omitempty"`
	Cuts         []string `json:"cuts,omitempty"`
}

// reportCounts are counted from the items that are listed, and compared with the server's own counts.
type reportCounts struct {
	Enqueued    uint64 `json:"enqueued"`
	Published   uint64 `json:"published"`
	Skipped     uint64 `json:"skipped"`
	Quarantined uint64 `json:"quarantined"`
	Aborted     uint64 `json:"aborted"`
	Waiting     uint64 `json:"waiting"`
}

// reportItem is an item's line. What is not known is absent.
type reportItem struct {
	ID       string    `json:"id"`
	Outcome  string    `json:"outcome"` // published, skipped, quarantined, aborted, waiting
	At       time.Time `json:"at"`      // of the outcome; of one that waits: when it was enqueued
	Filename string    `json:"filename,omitempty"`
	Subdir   string    `json:"subdir,omitempty"`
	Name     string    `json:"name,omitempty"`
	Version  string    `json:"version,omitempty"`
	Build    string    `json:"build,omitempty"`
	Size     int64     `json:"size,omitempty"`
	SHA256   string    `json:"sha256,omitempty"`
	// DigestSource is "declared" if SHA256 is only what the submitter said.
	DigestSource string `json:"digestSource,omitempty"`

	// Why: of skipped, quarantined and aborted.
	Stage    string `json:"stage,omitempty"`
	Cause    string `json:"cause,omitempty"`
	Message  string `json:"message,omitempty"`
	Hint     string `json:"hint,omitempty"`
	Attempts int    `json:"attempts,omitempty"`
	Retries  int    `json:"retries,omitempty"`
	TraceID  string `json:"traceId,omitempty"`

	// The attestation, of whatever has one.
	SignedAt      time.Time        `json:"signedAt,omitzero"`
	BundleSHA256  string           `json:"bundleSha256,omitempty"`
	SidecarSHA256 string           `json:"sidecarSha256,omitempty"`
	SidecarURL    string           `json:"sidecarUrl,omitempty"`
	Log           []event.LogEntry `json:"log,omitempty"`
	// Signer is who signed, if that is not the campaign's signer.
	Signer *event.Signer `json:"signer,omitempty"`

	// Unreadable says that the ledger's entry cannot be read; the outcome is certain even so.
	Unreadable string `json:"unreadable,omitempty"`
}

func newReport(c *pipeline.Campaign) *report {
	return &report{Schema: reportSchema, Generated: time.Now().UTC().Truncate(time.Second), Version: command.Version(), campaign: c, byCause: map[cause]int{}, firstRow: true,
		Campaign: reportCampaign{Name: c.Name, State: c.State, Created: c.Created, Changed: c.Changed, Reason: c.Reason, ChannelURL: c.ChannelURL,
			NoTargetChannel: c.NoTargetChannel, Identity: c.Identity, Issuer: c.Issuer, PolicySHA256: c.PolicySHA256(), NoSign: c.NoSign, Cuts: c.Cuts}}
}

// asJSON and asTable say where the report is to be written, before write.
func (r *report) asJSON(w io.Writer)  { r.json = append(r.json, bufio.NewWriterSize(w, 64<<10)) }
func (r *report) asTable(w io.Writer) { r.table = append(r.table, bufio.NewWriterSize(w, 64<<10)) }

// write writes the report of a campaign. It fails if the items that are listed are not those that the server counts, once
// nothing moves.
func (r *report) write(ctx context.Context, q *queue.Queue, c *pipeline.Campaign) error {
	segments, err := heads(c)
	if err != nil {
		return err
	}
	if _, err := q.Sweep(ctx, c.Name); err != nil {
		return err
	}
	if err := r.items(q.Standings(ctx, c, segments[0])); err != nil {
		return err
	}
	now, _, err := q.Campaigns().Get(ctx, c.Name)
	if err != nil {
		return err
	}
	if now.State != c.State && now.State == pipeline.StateClosed {
		return &command.Error{Code: command.ExitUpstream, Item: c.Name, Err: errors.New("the campaign was closed while it was being reported"), Hint: "run the same command again"}
	}
	n, err := q.Counts(ctx, c, segments)
	if err != nil {
		return err
	}
	if n.Waiting() == 0 && r.Counts.Waiting == 0 {
		server := reportCounts{n.Enqueued, n.Published, n.Skipped, n.Failed, n.Aborted, 0}
		if server != r.Counts {
			return &command.Error{Code: command.ExitFailed, Item: c.Name, Err: fmt.Errorf("the ledger does not add up: listed are %+v, the server counts %+v", r.Counts, server),
				Hint: "if something moves at the moment, run the same command again; otherwise this is a defect: please report it"}
		}
	}
	return r.end()
}

// items writes the beginning and a line for each item.
func (r *report) items(all iter.Seq2[queue.Standing, error]) error {
	head, err := compact(struct {
		Schema    string         `json:"schema"`
		Generated time.Time      `json:"generated"`
		Version   string         `json:"version"` // of Hallmark
		Campaign  reportCampaign `json:"campaign"`
	}{r.Schema, r.Generated, r.Version, r.Campaign})
	if err != nil {
		return err
	}
	for _, w := range r.json {
		fmt.Fprintf(w, "%s,\n\"items\":[", head[:len(head)-1]) // the object goes on
	}
	for _, w := range r.table {
		r.head(w)
	}
	for s, err := range all {
		if err != nil {
			return err
		}
		if err := r.item(s); err != nil {
			return err
		}
	}
	return nil
}

// compact is JSON without HTML's escapes and without a new line.
func compact(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

func (r *report) item(s queue.Standing) error {
	it := r.describe(s)
	r.Counts.Enqueued++
	switch s.Outcome {
	case pipeline.OutcomePublished:
		r.Counts.Published++
	case pipeline.OutcomeSkipped:
		r.Counts.Skipped++
	case queue.OutcomeAborted:
		r.Counts.Aborted++
	case pipeline.OutcomeFailed:
		r.Counts.Quarantined++
	default:
		r.Counts.Waiting++
	}
	if s.Outcome != queue.OutcomeWaiting {
		if r.First.IsZero() || it.At.Before(r.First) {
			r.First = it.At
		}
		if it.At.After(r.Last) {
			r.Last = it.At
		}
	}
	if it.Cause != "" {
		r.byCause[cause{Stage: it.Stage, Cause: it.Cause}]++
	}
	if len(r.json) > 0 {
		line, err := compact(it)
		if err != nil {
			return err
		}
		for _, w := range r.json {
			if !r.firstRow {
				w.WriteByte(',')
			}
			w.WriteByte('\n')
			if _, err := w.Write(line); err != nil { // a buffered writer keeps its error, so that one check does
				return err
			}
		}
		r.firstRow = false
	}
	for _, w := range r.table {
		if _, err := fmt.Fprintln(w, it.row()); err != nil {
			return err
		}
	}
	return nil
}

// describe says of an item what is known.
func (r *report) describe(s queue.Standing) reportItem {
	it := reportItem{ID: s.ID, Outcome: string(s.Outcome), At: s.At.UTC()}
	if s.Outcome == pipeline.OutcomeFailed {
		it.Outcome = "quarantined"
	}
	if s.Err != nil {
		it.Unreadable = event.Clean(s.Err.Error(), "", r.campaign.To)
	}
	if s.Event != nil {
		it.event(s.Event.Details, r.campaign)
	}
	item := s.Item
	if s.Entry != nil {
		item = s.Entry.Item
		f := s.Entry.Failure
		dirs := []string{filepath.Dir(item.Source), r.campaign.To}
		it.Stage, it.Cause, it.Attempts, it.TraceID = f.Stage, f.Cause, f.Attempts, f.TraceID
		it.Message, it.Hint = event.Clean(f.Message, item.Source, dirs...), event.Clean(f.Hint, item.Source, dirs...)
	}
	if item != nil {
		p := item.Package
		it.Filename, it.Subdir, it.Name, it.Version, it.Build, it.Size, it.SHA256 = item.Filename, p.Subdir, p.Name, p.Version, p.Build, p.Size, p.SHA256
		it.Retries = item.Retry
		if it.SHA256 == "" && item.Expected != "" {
			it.SHA256, it.DigestSource = item.Expected, "declared"
		}
		it.BundleSHA256, it.SignedAt = item.Signature.BundleSHA256, item.Signature.SignedAt
		for _, l := range item.Signature.Log {
			it.Log = append(it.Log, event.LogEntry(l))
		}
	}
	return it
}

// event takes what an event says.
func (it *reportItem) event(d event.Details, c *pipeline.Campaign) {
	p := d.Package
	it.Filename, it.Subdir, it.Name, it.Version, it.Build, it.Size, it.SHA256 = p.Filename, p.Subdir, p.Name, p.Version, p.Build, p.Size, p.SHA256
	if p.DigestSource == "declared" {
		it.DigestSource = p.DigestSource
	}
	it.Attempts = d.Campaign.Attempt
	if w := d.Reason; w != nil {
		it.Stage, it.Cause, it.Message, it.Hint, it.TraceID = w.Stage, w.Cause, w.Message, w.Hint, w.TraceID
		it.Attempts = cmp.Or(w.Attempts, it.Attempts)
	}
	if d.SignedAt != nil {
		it.SignedAt = d.SignedAt.Time
	}
	if d.Attestation != nil {
		it.BundleSHA256 = d.Attestation.Bundle.SHA256
	}
	if s := d.Channel.Sidecar; s != nil {
		it.SidecarSHA256, it.SidecarURL = s.SHA256, s.URL
	}
	it.Log = d.Log
	if s := d.Signer; s != nil && (s.Identity != c.Identity || s.Issuer != c.Issuer) {
		it.Signer = s
	}
}

// row is an item's line in the table.
func (it reportItem) row() string {
	what := cmp.Or(it.Filename, it.ID)
	if it.Subdir != "" {
		what = it.Subdir + "/" + what
	}
	line := fmt.Sprintf("%-11s  %s  %s", it.Outcome, it.At.Format(time.RFC3339), plain(what))
	if it.SHA256 != "" {
		line += "  sha256:" + it.SHA256
	}
	for _, l := range it.Log {
		line += fmt.Sprintf("  log %d", l.Index)
	}
	if it.Cause != "" {
		line += "  " + plain(it.Cause)
		if it.Stage != "" {
			line += " in " + plain(it.Stage)
		}
	}
	if it.Message != "" && it.Outcome == "quarantined" {
		line += ": " + plain(it.Message)
	}
	if it.Unreadable != "" {
		line += "  cannot be read: " + plain(it.Unreadable)
	}
	return line
}

// head opens the table.
func (r *report) head(w io.Writer) {
	c := r.Campaign
	fmt.Fprintf(w, "campaign %s, %s%s\n", c.Name, c.State, because(&pipeline.Campaign{State: c.State, Changed: c.Changed, Reason: c.Reason}))
	if c.ChannelURL != "" {
		fmt.Fprintf(w, "channel    %s\n", c.ChannelURL)
	}
	if c.Identity != "" {
		fmt.Fprintf(w, "signed by  %s\nissuer     %s\n", c.Identity, c.Issuer)
	}
	if c.PolicySHA256 != "" {
		fmt.Fprintf(w, "policy     sha256 %s\n", c.PolicySHA256)
	}
	fmt.Fprintf(w, "created    %s\n\n", c.Created.UTC().Format(time.RFC3339))
}

// sums closes the table.
func (r *report) sums(w io.Writer) {
	n := r.Counts
	fmt.Fprintf(w, "%d enqueued = %d published + %d skipped + %d quarantined + %d aborted + %d waiting\n",
		n.Enqueued, n.Published, n.Skipped, n.Quarantined, n.Aborted, n.Waiting)
	for _, k := range r.Causes {
		fmt.Fprintf(w, "  %6d × %s in %s\n", k.Count, plain(k.Cause), plain(k.Stage))
	}
	if !r.First.IsZero() {
		fmt.Fprintf(w, "first outcome %s, last %s\n", r.First.Format(time.RFC3339), r.Last.Format(time.RFC3339))
	}
}

// end writes the sums.
func (r *report) end() error {
	for k, n := range r.byCause {
		k.Count = n
		r.Causes = append(r.Causes, k)
	}
	slices.SortFunc(r.Causes, func(a, b cause) int {
		return cmp.Or(b.Count-a.Count, cmp.Compare(a.Cause, b.Cause), cmp.Compare(a.Stage, b.Stage))
	})
	tail, err := compact(struct {
		Counts reportCounts `json:"counts"`
		Causes []cause      `json:"causes,omitempty"`
		First  time.Time    `json:"firstOutcome,omitzero"`
		Last   time.Time    `json:"lastOutcome,omitzero"`
	}{r.Counts, r.Causes, r.First, r.Last})
	if err != nil {
		return err
	}
	for _, w := range r.json {
		fmt.Fprintf(w, "\n],\n%s\n", tail[1:]) // the object goes on
		if err := w.Flush(); err != nil {
			return err
		}
	}
	for _, w := range r.table {
		if r.Counts.Enqueued > 0 {
			fmt.Fprintln(w)
		}
		r.sums(w)
		if err := w.Flush(); err != nil {
			return err
		}
	}
	return nil
}
