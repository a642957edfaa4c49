package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/hallmark-attest/hallmark/internal/command"
	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/pipeline/event"
	"github.com/hallmark-attest/hallmark/pipeline/queue"
)

// quarantineCmd looks after what was set aside: items that can never pass as they are, each with its reason.
type quarantineCmd struct {
	List  quarantineListCmd  `cmd:"" help:"List what is in quarantine, an item on each line."`
	Show  quarantineShowCmd  `cmd:"" help:"Show items of the quarantine with all that is kept of them."`
	Retry quarantineRetryCmd `cmd:"" help:"Give items another chance: they leave quarantine and wait for a worker."`
	Drop  quarantineDropCmd  `cmd:"" help:"Give items up: their outcome is aborted, and they leave quarantine."`
}

// filterFlags choose items of the quarantine. An item is chosen if each kind of filter that is given has one that matches.
type filterFlags struct {
	Causes  []string `name:"cause" placeholder:"CAUSE" help:"Only with these causes; * and ? are wildcards: sources.*"`
	Stages  []string `name:"stage" placeholder:"STAGE" help:"Only set aside by these stages."`
	Subdirs []string `name:"subdir" placeholder:"SUBDIR" help:"Only of these subdirs."`
	Names   []string `name:"name" placeholder:"PATTERN" help:"Only with these file names; * and ? are wildcards: numpy-*"`
	IDs     []string `name:"id" placeholder:"ID" help:"Only these items, by their id or its first characters."`
}

// check refuses patterns that are none.
func (f *filterFlags) check() error {
	for _, p := range slices.Concat(f.Causes, f.Stages, f.Subdirs, f.Names) {
		if _, err := path.Match(p, ""); err != nil {
			return command.Usage("write *, ?, [a-z] or \\ before one of these", fmt.Errorf("pattern %q: %w", p, err))
		}
	}
	for _, id := range f.IDs {
		if id == "" {
			return command.Usage("", errors.New("--id is empty"))
		}
	}
	return nil
}

func (f *filterFlags) empty() bool {
	return len(f.Causes)+len(f.Stages)+len(f.Subdirs)+len(f.Names)+len(f.IDs) == 0
}

// match reports whether an entry is chosen.
func (f *filterFlags) match(e queue.Entry) bool {
	one := func(patterns []string, s string) bool {
		return len(patterns) == 0 || slices.ContainsFunc(patterns, func(p string) bool {
			ok, _ := path.Match(p, s) // patterns are checked
			return ok
		})
	}
	return one(f.Causes, e.Failure.Cause) && one(f.Stages, e.Failure.Stage) && one(f.Subdirs, e.Item.Package.Subdir) &&
		one(f.Names, e.Item.Filename) && (len(f.IDs) == 0 || slices.ContainsFunc(f.IDs, func(id string) bool { return strings.HasPrefix(e.Item.ID, id) }))
}

// causeUnreadable is what an entry of the quarantine has for a cause that cannot be read itself.
const causeUnreadable = "quarantine.unreadable"

// chosen yields the campaign's entries that match. What cannot be read is an entry too, with a cause of its own.
func (f *filterFlags) chosen(ctx context.Context, q *queue.Queue, campaign string) iter.Seq2[queue.Entry, error] {
	return func(yield func(queue.Entry, error) bool) {
		for e, err := range q.Quarantined(ctx, campaign) {
			if err != nil && e.Item == nil {
				yield(e, err)
				return
			}
			if err != nil {
				e.Failure = pipeline.Failure{Stage: "queue", Cause: causeUnreadable, Message: err.Error(), At: e.Stored}
			}
			if f.match(e) && !yield(e, nil) {
				return
			}
		}
	}
}

// set is an entry as list and show write it.
type set struct {
	Schema   string `json:"schema"`
	Campaign string `json:"campaign"`
	ID       string `json:"id"`
	Filename string `json:"filename,omitempty"`
	Subdir   string `json:"subdir,omitempty"`
	Source   string `json:"source,omitempty"`
	pipeline.Failure
	Retries   int  `json:"retries"`             // how often it has been retried before
	Malformed bool `json:"malformed,omitempty"` // it holds no item, and can only be dropped
	// Item is the item as it was, and Raw what came instead of one; of show only.
	Item *pipeline.Item `json:"item,omitempty"`
	Raw  []byte         `json:"raw,omitempty"`
}

func newSet(campaign string, e queue.Entry) set {
	return set{Schema: "hallmark.quarantine/1", Campaign: campaign, ID: e.Item.ID, Filename: e.Item.Filename, Subdir: e.Item.Package.Subdir,
		Source: e.Item.Source, Failure: e.Failure, Retries: e.Item.Retry, Malformed: e.Malformed()}
}

// what names an item in one line: its file, with the subdir where that is known.
func (s set) what() string {
	name := cmp.Or(s.Filename, "(not an item)")
	if s.Subdir != "" {
		name = s.Subdir + "/" + name
	}
	return plain(name)
}

// plain makes foreign text fit for one line of a terminal.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// stream writes entries to stdout as they come, each as a line of JSON or by text, and returns how many there were.
func stream(env *command.Env, campaign string, entries iter.Seq2[queue.Entry, error], full bool, text func(io.Writer, set)) (int, error) {
	enc := json.NewEncoder(env.Stdout)
	enc.SetEscapeHTML(false)
	n := 0
	for e, err := range entries {
		if err != nil {
			return n, err
		}
		s := newSet(campaign, e)
		if full {
			s.Item, s.Raw = e.Item, e.Raw
		}
		n++
		if env.JSON {
			err = enc.Encode(s)
		} else {
			text(env.Stdout, s)
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (s set) line(w io.Writer) {
	fmt.Fprintf(w, "%-32s  %-24s  %-8s  %3d  %s  %s\n", s.ID, plain(s.Cause), plain(s.Stage), s.Attempts, s.At.UTC().Format(time.RFC3339), s.what())
}

type quarantineListCmd struct {
	Campaign string `arg:"" optional:"" help:"Campaign (default: all)."`
	filterFlags
	whereFlags
}

// Run lists: id, cause, stage, attempts, time and file.
func (l *quarantineListCmd) Run(ctx context.Context, env *command.Env) error {
	return eachQuarantine(ctx, env, &l.filterFlags, &l.whereFlags, l.Campaign, func(q *queue.Queue, campaign string) (int, error) {
		return stream(env, campaign, l.chosen(ctx, q, campaign), false, func(w io.Writer, s set) {
			if l.Campaign == "" {
				fmt.Fprintf(w, "%s  ", campaign)
			}
			s.line(w)
		})
	}, func(n int) error {
		if !env.JSON {
			fmt.Fprintf(env.Stderr, "%d items\n", n)
		}
		return nil
	})
}

// eachQuarantine calls do for the campaign, or for all, and end with the sum of what it returned.
func eachQuarantine(ctx context.Context, env *command.Env, f *filterFlags, where *whereFlags, campaign string, do func(q *queue.Queue, campaign string) (int, error), end func(int) error) error {
	if err := f.check(); err != nil {
		return err
	}
	q, closeQueue, err := where.open(ctx, env)
	if err != nil {
		return err
	}
	defer closeQueue()
	names := []string{campaign}
	if campaign == "" {
		all, err := q.Campaigns().List(ctx)
		if err != nil {
			return err
		}
		names = names[:0]
		for _, c := range all {
			names = append(names, c.Name)
		}
	} else if _, _, err := q.Campaigns().Get(ctx, campaign); err != nil {
		return stateError(campaign, err)
	}
	total := 0
	for _, name := range names {
		n, err := do(q, name)
		if err != nil {
			return err
		}
		total += n
	}
	return end(total)
}

type quarantineShowCmd struct {
	IDs      []string `arg:"" name:"id" help:"Items to show, by their id or its first characters."`
	Campaign string   `placeholder:"NAME" help:"Only of this campaign (default: all)."`
	whereFlags
}

// Run shows.
func (s *quarantineShowCmd) Run(ctx context.Context, env *command.Env) error {
	f := filterFlags{IDs: s.IDs}
	return eachQuarantine(ctx, env, &f, &s.whereFlags, s.Campaign, func(q *queue.Queue, campaign string) (int, error) {
		return stream(env, campaign, f.chosen(ctx, q, campaign), true, func(w io.Writer, s set) { s.whole(w) })
	}, func(n int) error {
		if n == 0 {
			return &command.Error{Code: command.ExitFailed, Item: strings.Join(s.IDs, " "), Err: errors.New("no such item in quarantine"), Hint: "see producer quarantine list"}
		}
		return nil
	})
}

// whole writes an entry with all there is.
func (s set) whole(w io.Writer) {
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "  %-9s %s\n", name, plain(value))
		}
	}
	fmt.Fprintln(w, s.what())
	field("id", s.ID)
	field("campaign", s.Campaign)
	field("source", s.Source)
	field("cause", s.Cause)
	field("stage", s.Stage)
	field("message", s.Message)
	field("hint", s.Hint)
	field("attempts", fmt.Sprint(s.Attempts))
	if s.Retries > 0 {
		field("retries", fmt.Sprint(s.Retries))
	}
	field("at", s.At.UTC().Format(time.RFC3339))
	field("trace", s.TraceID)
	if s.Malformed {
		field("raw", fmt.Sprintf("%.500q", s.Raw))
		return
	}
	if item, err := json.Marshal(s.Item); err == nil {
		field("item", string(item))
	}
}

// selection are the flags of the commands that change something.
type selection struct {
	Campaign string `arg:"" help:"Campaign."`
	filterFlags
	All    bool `help:"All of the campaign's quarantine; without it, give a filter."`
	DryRun bool `help:"Change nothing; only say what would be."`
	whereFlags
}

// check refuses a selection that nobody has thought about.
func (s *selection) check() error {
	if err := s.filterFlags.check(); err != nil {
		return err
	}
	if s.All != s.empty() {
		return command.Usage("choose items with --cause, --stage, --subdir, --name or --id; or give --all, and no filter", errors.New("which items?"))
	}
	return nil
}

// moved is the result of retry and drop.
type moved struct {
	Schema   string `json:"schema"`
	Campaign string `json:"campaign"`
	Items    int    `json:"items"` // that were retried or dropped; or would be, with DryRun
	// Malformed were chosen and left where they are: they hold no item.
	Malformed int            `json:"malformed,omitempty"`
	DryRun    bool           `json:"dryRun,omitempty"`
	Causes    map[string]int `json:"causes,omitempty"`
}

// counted counts entries as they are used, and leaves malformed ones out where they are of no use.
func (m *moved) counted(entries iter.Seq2[queue.Entry, error], malformed bool) iter.Seq2[queue.Entry, error] {
	m.Causes = map[string]int{}
	return func(yield func(queue.Entry, error) bool) {
		for e, err := range entries {
			if err == nil && e.Malformed() && !malformed {
				m.Malformed++
				continue
			}
			if err == nil {
				m.Causes[e.Failure.Cause]++
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// move does something to the chosen items.
func (s *selection) move(ctx context.Context, env *command.Env, schema, done string, malformed bool, do func(q *queue.Queue, c *pipeline.Campaign, entries iter.Seq2[queue.Entry, error]) (int, error)) error {
	if err := s.check(); err != nil {
		return err
	}
	q, closeQueue, err := s.open(ctx, env)
	if err != nil {
		return err
	}
	defer closeQueue()
	c, _, err := q.Campaigns().Get(ctx, s.Campaign)
	if err != nil {
		return stateError(s.Campaign, err)
	}
	m := moved{Schema: schema, Campaign: c.Name, DryRun: s.DryRun}
	entries := m.counted(s.chosen(ctx, q, c.Name), malformed)
	if s.DryRun {
		for _, err := range entries {
			if err != nil {
				return err
			}
			m.Items++
		}
	} else if m.Items, err = do(q, c, entries); err != nil {
		err = stateError(c.Name, err)
		if _, ok := errors.AsType[*command.Error](err); ok {
			return err
		}
		return &command.Error{Code: command.ExitFailed, Item: c.Name, Err: fmt.Errorf("%d %s; then: %w", m.Items, done, err),
			Hint: "run the same command again: it goes on with the rest"}
	}
	return env.Result(m, func(w io.Writer) {
		if s.DryRun {
			done = "would be " + done
		}
		fmt.Fprintf(w, "campaign %s: %d items %s\n", c.Name, m.Items, done)
		for _, cause := range slices.SortedFunc(maps.Keys(m.Causes), func(a, b string) int { return cmp.Or(m.Causes[b]-m.Causes[a], cmp.Compare(a, b)) }) {
			fmt.Fprintf(w, "  %6d × %s\n", m.Causes[cause], plain(cause))
		}
		if m.Malformed > 0 {
			fmt.Fprintf(w, "%d messages that are no items were left out: they can only be dropped\n", m.Malformed)
		}
	})
}

type quarantineRetryCmd struct {
	selection
	Reopen bool `help:"If the campaign is closed, open it again for what is retried; it takes no new packages then."`
}

// Run retries.
func (r *quarantineRetryCmd) Run(ctx context.Context, env *command.Env) error {
	return r.move(ctx, env, "hallmark.retry/1", "retried", false, func(q *queue.Queue, c *pipeline.Campaign, entries iter.Seq2[queue.Entry, error]) (int, error) {
		if c.State == pipeline.StateClosed && !r.Reopen {
			return 0, &command.Error{Code: command.ExitUsage, Item: c.Name, Err: queue.ErrClosed,
				Hint: "give --reopen to open it again for these items; its ledger goes on"}
		}
		segments, err := heads(c)
		if err != nil {
			return 0, err
		}
		if c.State == pipeline.StateClosed && !r.any(ctx, q) {
			return 0, nil // reopened for nothing, it would stay open
		}
		if c, err = q.Campaigns().Reopen(ctx, c.Name); err != nil {
			return 0, err
		}
		return q.Retry(ctx, c, segments[0], entries)
	})
}

// any reports whether there is something to retry.
func (r *quarantineRetryCmd) any(ctx context.Context, q *queue.Queue) bool {
	for e, err := range r.chosen(ctx, q, r.Campaign) {
		if err != nil || !e.Malformed() {
			return true // an error will come again
		}
	}
	return false
}

type quarantineDropCmd struct{ selection }

// Run drops.
func (d *quarantineDropCmd) Run(ctx context.Context, env *command.Env) error {
	return d.move(ctx, env, "hallmark.drop/1", "dropped", true, func(q *queue.Queue, c *pipeline.Campaign, entries iter.Seq2[queue.Entry, error]) (int, error) {
		segments, err := heads(c)
		if err != nil {
			return 0, err
		}
		return q.Drop(ctx, c, segments[0], &event.Encoder{Version: command.Version()}, entries)
	})
}
