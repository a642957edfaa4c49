package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/channel"
	"github.com/hallmark-attest/hallmark/internal/command"
)

// channelCmd looks after a channel, apart from any campaign.
type channelCmd struct {
	Adopt  adoptCmd  `cmd:"" help:"Take over a channel that others made: build shards from repodata.json, advertise the sidecars that are there."`
	Check  checkCmd  `cmd:"" help:"Compare packages, shards, repodata.json and sidecars, and report each disagreement; with an identity or a policy, verify every signature too."`
	Merge  mergeCmd  `cmd:"" help:"Bring repodata.json and the other documents up to date with the shards now."`
	Remove removeCmd `cmd:"" help:"Take packages out of the index and list them as removed."`
	GC     gcCmd     `cmd:"" name:"gc" help:"Delete shards that have been out of use for the grace period."`
}

// storeFlags say which channel.
type storeFlags struct {
	To string `required:"" placeholder:"DIR|s3://BUCKET/PREFIX" help:"The channel's directory or bucket."`
}

// subdirFlags say which of its subdirs.
type subdirFlags struct {
	storeFlags
	Subdir []string `placeholder:"SUBDIR" help:"Only these (default: all that there are)."`
}

func (f *storeFlags) open(ctx context.Context, writes bool) (_ *channel.Channel, err error) {
	if f.To, err = command.Absolute(f.To); err != nil {
		return nil, err
	}
	return command.OpenChannel(ctx, f.To, writes)
}

// openSubdirs opens the channel, and finds its subdirs unless they are given.
func (f *subdirFlags) openSubdirs(ctx context.Context, writes bool) (*channel.Channel, []string, error) {
	ch, err := f.open(ctx, writes)
	if err != nil {
		return nil, nil, err
	}
	there, err := ch.Subdirs(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("looking for the subdirs of %s: %w", f.To, err)
	}
	for _, s := range f.Subdir {
		if !slices.Contains(there, s) {
			return nil, nil, command.Usage("it has "+cmp.Or(strings.Join(there, ", "), "none"), fmt.Errorf("%s has no subdir %q", f.To, s))
		}
	}
	if len(f.Subdir) > 0 {
		return ch, f.Subdir, nil
	}
	if len(there) == 0 {
		return nil, nil, command.Usage("a channel has at least noarch/repodata.json (CEP 26)", fmt.Errorf("%s is no channel", f.To))
	}
	return ch, there, nil
}

type adoptCmd struct{ subdirFlags }

// Run adopts.
func (a *adoptCmd) Run(ctx context.Context, env *command.Env) error {
	ch, subdirs, err := a.openSubdirs(ctx, true)
	if err != nil {
		return err
	}
	type adopted struct {
		Subdir   string `json:"subdir"`
		Names    int    `json:"names"`
		Sharded  bool   `json:"sharded"`
		Sidecars int    `json:"sidecars"`
	}
	var out []adopted
	for _, s := range subdirs {
		r, err := ch.Adopt(ctx, s)
		if err != nil {
			return err
		}
		out = append(out, adopted{s, r.Names, r.Sharded, r.Sidecars})
	}
	if _, err := ch.ChannelData(ctx, subdirs); err != nil {
		return err
	}
	return env.Result(struct {
		Schema  string    `json:"schema"`
		Channel string    `json:"channel"`
		Subdirs []adopted `json:"subdirs"`
	}{"hallmark.channel-adopt/1", a.To, out}, func(w io.Writer) {
		for _, s := range out {
			made := "had shards"
			if s.Sharded {
				made = "shards made from repodata.json"
			}
			fmt.Fprintf(w, "%-14s %d names, %s, %d records advertise another sidecar now\n", s.Subdir, s.Names, made, s.Sidecars)
		}
	})
}

type checkCmd struct {
	subdirFlags
	identityFlags
	command.TrustFlags
	TargetChannel string `placeholder:"URL" help:"With a policy or an identity: the channel that attestations must name."`

	Quick bool          `help:"Do not read packages whose digest the store does not know: compare their sizes alone."`
	Grace time.Duration `default:"168h" help:"Report shards out of use that are older than this."`
}

// verify gives the check of signatures that the flags ask for; nil for none.
func (k *checkCmd) verify(ctx context.Context) (func(filename, sha256 string, sidecar []byte) error, error) {
	if !k.given() {
		return nil, nil
	}
	policy, err := k.policy(k.TargetChannel)
	if err != nil {
		return nil, err
	}
	v, err := k.Verifier(ctx)
	if err != nil {
		return nil, err
	}
	return func(filename, sha256 string, sidecar []byte) error {
		if sidecar == nil {
			return errors.New("it has no attestation")
		}
		_, err := verifyMaterial(sidecar, v, attest.Subject{Filename: filename, SHA256: sha256}, policy)
		return err
	}, nil
}

// Run checks.
func (k *checkCmd) Run(ctx context.Context, env *command.Env) error {
	verify, err := k.verify(ctx)
	if err != nil {
		return err
	}
	ch, subdirs, err := k.openSubdirs(ctx, false)
	if err != nil {
		return err
	}
	total := 0
	type checked struct {
		Subdir string `json:"subdir"`
		channel.Checked
		Disagreements []channel.Disagreement `json:"disagreements"`
	}
	out := []checked{}
	for _, s := range subdirs {
		c := checked{Subdir: s, Disagreements: []channel.Disagreement{}}
		for d, err := range ch.Check(ctx, s, channel.CheckOptions{Quick: k.Quick, Grace: k.Grace, Verify: verify}, &c.Checked) {
			if err != nil {
				return err
			}
			if total++; env.JSON {
				c.Disagreements = append(c.Disagreements, d)
			} else {
				fmt.Fprintln(env.Stdout, d)
			}
		}
		out = append(out, c)
	}
	if err := env.Result(struct {
		Schema  string    `json:"schema"`
		Channel string    `json:"channel"`
		Clean   bool      `json:"clean"`
		Subdirs []checked `json:"subdirs"`
	}{"hallmark.channel-check/1", k.To, total == 0, out}, func(w io.Writer) {
		for _, c := range out {
			fmt.Fprintf(w, "%-14s %d records, %d packages, %d sidecars, %d shards\n", c.Subdir, c.Records, c.Packages, c.Sidecars, c.Shards)
		}
	}); err != nil {
		return err
	}
	if total > 0 {
		return &command.Error{Code: command.ExitQuarantined, Item: k.To, Err: fmt.Errorf("%d disagreements", total),
			Hint: "producer channel adopt puts right what the index lacks; nothing is ever overwritten"}
	}
	return nil
}

type mergeCmd struct{ subdirFlags }

// Run merges.
func (m *mergeCmd) Run(ctx context.Context, env *command.Env) error {
	ch, subdirs, err := m.openSubdirs(ctx, true)
	if err != nil {
		return err
	}
	type merged struct {
		Subdir  string `json:"subdir"`
		Written bool   `json:"written"`
	}
	var out []merged
	for _, s := range subdirs {
		written, err := ch.Monolith(ctx, s)
		if err != nil {
			return err
		}
		out = append(out, merged{s, written})
	}
	if _, err := ch.ChannelData(ctx, subdirs); err != nil {
		return err
	}
	return env.Result(struct {
		Schema  string   `json:"schema"`
		Channel string   `json:"channel"`
		Subdirs []merged `json:"subdirs"`
	}{"hallmark.channel-merge/1", m.To, out}, func(w io.Writer) {
		for _, s := range out {
			fmt.Fprintf(w, "%-14s %s\n", s.Subdir, map[bool]string{true: "written", false: "was up to date"}[s.Written])
		}
	})
}

type removeCmd struct {
	storeFlags
	Packages []string `arg:"" name:"subdir/package" help:"Packages, as linux-64/name-version-build.conda."`
	Purge    bool     `help:"Delete the packages and their sidecars as well. Without it they stay reachable for whoever knows their URL (CEP 36)."`
}

// Run removes.
func (r *removeCmd) Run(ctx context.Context, env *command.Env) error {
	bySubdir := map[string][]string{}
	var subdirs []string
	for _, p := range r.Packages {
		subdir, file, ok := strings.Cut(p, "/")
		if !ok || subdir == "" || file == "" || strings.Contains(file, "/") {
			return command.Usage("name packages as they are in the channel: linux-64/name-version-build.conda", fmt.Errorf("%q is not SUBDIR/PACKAGE", p))
		}
		if bySubdir[subdir] == nil {
			subdirs = append(subdirs, subdir)
		}
		if !slices.Contains(bySubdir[subdir], file) {
			bySubdir[subdir] = append(bySubdir[subdir], file)
		}
	}
	ch, err := r.open(ctx, true)
	if err != nil {
		return err
	}
	there, err := ch.Subdirs(ctx)
	if err != nil {
		return fmt.Errorf("looking for the subdirs of %s: %w", r.To, err)
	}
	type removal struct {
		Subdir string `json:"subdir"`
		channel.Removal
	}
	var out []removal
	unknown := 0
	for _, s := range subdirs {
		if !slices.Contains(there, s) {
			return command.Usage("", fmt.Errorf("%s has no subdir %q", r.To, s))
		}
		list, err := ch.Remove(ctx, s, bySubdir[s], r.Purge)
		if _, ok := errors.AsType[*channel.Invalid](err); ok {
			return command.Usage("", err)
		}
		if err != nil {
			return err
		}
		for _, l := range list {
			if out = append(out, removal{s, l}); !l.Listed {
				unknown++
			}
		}
	}
	if err := env.Result(struct {
		Schema   string    `json:"schema"`
		Channel  string    `json:"channel"`
		Packages []removal `json:"packages"`
	}{"hallmark.channel-remove/1", r.To, out}, func(w io.Writer) {
		for _, p := range out {
			what := "removed"
			switch {
			case !p.Listed:
				what = "not in the channel"
			case !p.Removed:
				what = "had no record; listed as removed"
			}
			if n := len(p.Deleted); n > 0 {
				what += fmt.Sprintf(", %d objects deleted", n)
			}
			fmt.Fprintf(w, "%s/%s: %s\n", p.Subdir, p.Filename, what)
		}
	}); err != nil {
		return err
	}
	if unknown > 0 {
		return &command.Error{Code: command.ExitFailed, Item: r.To, Err: fmt.Errorf("%d of %d packages are not in the channel", unknown, len(out))}
	}
	return nil
}

type gcCmd struct {
	subdirFlags
	Grace time.Duration `default:"168h" help:"Keep shards for this long after they fell out of use, for clients with an older index (CEP 16)."`
}

// Run collects.
func (g *gcCmd) Run(ctx context.Context, env *command.Env) error {
	ch, subdirs, err := g.openSubdirs(ctx, true)
	if err != nil {
		return err
	}
	type collected struct {
		Subdir string `json:"subdir"`
		channel.Collected
	}
	var out []collected
	for _, s := range subdirs {
		c, err := ch.Collect(ctx, s, g.Grace)
		if err != nil {
			return err
		}
		out = append(out, collected{s, c})
	}
	return env.Result(struct {
		Schema  string      `json:"schema"`
		Channel string      `json:"channel"`
		Subdirs []collected `json:"subdirs"`
	}{"hallmark.channel-gc/1", g.To, out}, func(w io.Writer) {
		for _, c := range out {
			fmt.Fprintf(w, "%-14s %d shards in use, %d kept for now, %d deleted (%d bytes)\n", c.Subdir, c.Used, c.Waiting, c.Deleted, c.Bytes)
		}
	})
}
