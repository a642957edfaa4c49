package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/channel"
	"github.com/hallmark-attest/hallmark/internal/conda"
	"github.com/hallmark-attest/hallmark/internal/conda/match"
	"github.com/hallmark-attest/hallmark/internal/remote"
	"github.com/hallmark-attest/hallmark/internal/store"
)

// candidate is one package to verify.
type candidate struct {
	*target
	subdir   string
	filename string
	record   *channel.Listed // nil if no index was asked
	document string          // where the record is
	err      error           // why there is nothing to verify
}

// lookup is what one subdir's index says of all names that are wanted of it.
type lookup struct {
	names   map[string]bool
	listing channel.Listing
	err     error
}

type subdirOf struct {
	*place
	subdir string
}

// again does something that may pass once more.
func again(ctx context.Context, f func() error) error {
	err := f()
	if after, ok := store.Transient(err); ok && after <= 15*time.Second {
		if remote.Pause(ctx, max(after, 100*time.Millisecond)) == nil {
			err = f()
		}
	}
	return err
}

// candidates finds the packages that the targets mean, in the targets' order, each index read once. The error is ctx's.
func (v *verifyCmd) candidates(ctx context.Context, targets []*target) ([]candidate, error) {
	if err := v.each(ctx, len(targets), func(i int) { v.readFile(ctx, targets[i]) }); err != nil {
		return nil, err
	}
	listed := map[*place][]string{}
	broken := map[*place]error{}
	lookups := map[subdirOf]*lookup{}
	for _, t := range targets {
		if !v.needsRecord(t) {
			continue
		}
		if t.subdir == "" && len(v.Subdir) == 0 && listed[t.place] == nil && broken[t.place] == nil {
			listed[t.place], broken[t.place] = t.place.subdirs(ctx)
		}
		for _, s := range v.subdirsOf(t, listed) {
			at := subdirOf{t.place, s}
			if lookups[at] == nil {
				lookups[at] = &lookup{names: map[string]bool{}}
			}
			for _, n := range t.names() {
				lookups[at].names[n] = true
			}
		}
	}
	var all []subdirOf
	for at := range lookups {
		all = append(all, at)
	}
	if err := v.each(ctx, len(all), func(i int) {
		l := lookups[all[i]]
		var names []string
		for n := range l.names {
			names = append(names, n)
		}
		l.err = again(ctx, func() (err error) {
			l.listing, err = all[i].Lookup(ctx, all[i].subdir, names)
			return err
		})
	}); err != nil {
		return nil, err
	}
	var out []candidate
	for _, t := range targets {
		switch {
		case t.err != nil, !v.needsRecord(t):
			out = append(out, candidate{target: t, subdir: t.subdir, filename: t.filename, err: t.err})
		case t.subdir == "" && len(v.Subdir) == 0 && broken[t.place] != nil:
			out = append(out, candidate{target: t, err: fmt.Errorf("listing the subdirs of %s: %w", t.place.name, broken[t.place])})
		default:
			out = append(out, v.found(t, v.subdirsOf(t, listed), lookups)...)
		}
	}
	return out, nil
}

// each calls f for 0 to n-1, --parallel at once. The error is ctx's.
func (v *verifyCmd) each(ctx context.Context, n int, f func(i int)) error {
	var g errgroup.Group
	g.SetLimit(max(v.Parallel, 1))
	for i := range n {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error { f(i); return nil })
	}
	_ = g.Wait() // f has no error
	return ctx.Err()
}

// readFile fills in what a target's file says: its digest and, if it is to be in a channel, its subdir.
func (v *verifyCmd) readFile(ctx context.Context, t *target) {
	if t.path == "" {
		return
	}
	t.filename = filepath.Base(t.path)
	if t.sha256, t.err = fileDigest(ctx, t.path); t.err != nil || t.place == nil {
		return
	}
	if _, t.err = conda.ParseFilename(t.filename); t.err != nil {
		return
	}
	f, err := os.Open(t.path)
	if err != nil {
		t.err = err
		return
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.err = err
		return
	}
	pkg, err := conda.Read(ctx, f, st.Size(), t.filename)
	if err != nil {
		t.err = err
		return
	}
	t.subdir = pkg.Subdir
}

// needsRecord tells whether the target is looked up in an index. Who names a sidecar has found it already.
func (v *verifyCmd) needsRecord(t *target) bool {
	return t.err == nil && t.place != nil && (t.sidecar == "" && v.Bundle == "" || v.NoDownload)
}

func (v *verifyCmd) subdirsOf(t *target, listed map[*place][]string) []string {
	switch {
	case t.subdir != "":
		return []string{t.subdir}
	case len(v.Subdir) > 0:
		return v.Subdir
	}
	return listed[t.place]
}

// subdirs are those that a name may be in. A web server cannot be asked what it has: that is all that conda knows.
func (p *place) subdirs(ctx context.Context) ([]string, error) {
	if p.web {
		return attest.Subdirs(), nil
	}
	return p.Subdirs(ctx)
}

// found gives what the indexes have for a target: at least one candidate, if only to say what is wrong.
func (v *verifyCmd) found(t *target, subdirs []string, lookups map[subdirOf]*lookup) []candidate {
	var out, failed []candidate
	var looked []string
	for _, s := range subdirs {
		l := lookups[subdirOf{t.place, s}]
		switch {
		case l.err != nil:
			failed = append(failed, candidate{target: t, subdir: s, filename: t.filename, err: l.err})
			continue
		case l.listing.Document == "" && t.subdir == "" && len(v.Subdir) == 0:
			continue // one of those that a channel may have
		case l.listing.Document == "":
			failed = append(failed, candidate{target: t, subdir: s, filename: t.filename, err: &causeError{causeNoIndex, "check the channel's URL and the subdir",
				fmt.Errorf("%s has no index of %s: neither shards nor repodata.json", t.place.name, s)}})
			continue
		}
		looked = append(looked, s)
		for _, r := range l.listing.Records {
			if t.matches(r) {
				out = append(out, candidate{target: t, subdir: s, filename: r.Filename, record: &r, document: l.listing.Document})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b candidate) int {
		if n := slices.Index(subdirs, a.subdir) - slices.Index(subdirs, b.subdir); n != 0 {
			return n
		}
		return strings.Compare(a.filename, b.filename)
	})
	if v.Newest && t.isSpec {
		out = newest(out)
	}
	out = append(out, failed...)
	switch {
	case len(out) > 0:
	case len(looked) == 0:
		out = append(out, candidate{target: t, filename: t.filename, err: &causeError{causeNoIndex, "check the channel's URL",
			fmt.Errorf("%s is no channel: no subdir that is known has an index there", t.place.name)}})
	default:
		out = append(out, candidate{target: t, subdir: t.subdir, filename: t.filename, err: &causeError{causeUnindexed, "",
			fmt.Errorf("%s does not list %s (in %s)", t.place.name, t.wanted(), strings.Join(looked, ", "))}})
	}
	return out
}

func (t *target) wanted() string {
	if t.isSpec {
		return "any package for " + t.input
	}
	return t.filename
}

// newest keeps the candidates of each name's newest version: all of its builds.
func newest(all []candidate) []candidate {
	best := map[string]match.Version{}
	of := func(c candidate) match.Version {
		v, _ := match.ParseVersion(c.record.Version) // one that is none is below all others
		return v
	}
	for _, c := range all {
		if b, ok := best[c.record.Name]; !ok || b.IsZero() || !of(c).IsZero() && of(c).Compare(b) > 0 {
			best[c.record.Name] = of(c)
		}
	}
	return slices.DeleteFunc(all, func(c candidate) bool {
		v, b := of(c), best[c.record.Name]
		return v.IsZero() != b.IsZero() || !v.IsZero() && v.Compare(b) != 0
	})
}
