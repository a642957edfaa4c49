// Command index measures what bringing packages into the index of a channel of half a million records costs: Hallmark beside
// rattler's indexer and conda-index, each adding 1, 100 and 10,000 packages to the same channel.
//
//	go run ./deploy/bench/index [--python PATH] [--records 500000] [--names 31000] [--json]
//	go run ./deploy/bench/index --s3 [--records 50000]
//
// The peers come from PyPI into the Python that --python names; one that is not installed is left out, and the output says
// so. Bytes, CPU and memory are taken from outside and in the same way for all three (see Usage).
//
// With --s3 Hallmark alone works on an S3 server on this machine, and its requests are counted.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hallmark-attest/hallmark/internal/channel"
)

type options struct {
	records, names, batch           int
	seed                            uint64
	add, python, dir, profiles      string
	keep, json, s3                  bool
	child, report, location         string
	entries, cpuprofile, memprofile string
}

func main() {
	var o options
	flag.IntVar(&o.records, "records", 0, "records of the channel (default 500000, with --s3 50000)")
	flag.IntVar(&o.names, "names", 0, "package names of the channel (default one for 16 records, 31000 for 500000)")
	flag.Uint64Var(&o.seed, "seed", 1, "the same seed gives the same channel and packages")
	flag.StringVar(&o.add, "add", "1,100,10000", "how many packages are added, one after the other")
	flag.IntVar(&o.batch, "batch", 1000, "packages in one of Hallmark's updates")
	flag.StringVar(&o.python, "python", "python3", "Python that has the peers")
	flag.StringVar(&o.dir, "dir", "", "working folder (default: a temporary one)")
	flag.BoolVar(&o.keep, "keep", false, "keep the working folder; the next run with --dir and the same parameters starts from it")
	flag.BoolVar(&o.json, "json", false, "print JSON")
	flag.BoolVar(&o.s3, "s3", false, "Hallmark alone, on an S3 server")
	flag.StringVar(&o.profiles, "profiles", "", "folder for CPU and memory profiles of Hallmark's processes")
	flag.StringVar(&o.child, "child", "", "for the program's own use: measure, adopt, update or monolith")
	flag.StringVar(&o.report, "report", "", "for the program's own use: where measure writes")
	flag.StringVar(&o.location, "location", "", "for the program's own use: the channel's store")
	flag.StringVar(&o.entries, "entries", "", "for the program's own use: what is to be indexed")
	flag.StringVar(&o.cpuprofile, "cpuprofile", "", "for the program's own use")
	flag.StringVar(&o.memprofile, "memprofile", "", "for the program's own use")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch o.child {
	case "":
		err = bench(ctx, o)
	case "measure":
		err = runMeasured(ctx, o.report, flag.Args())
	default:
		err = work{what: o.child, location: o.location, entries: o.entries, batch: o.batch, cpu: o.cpuprofile, mem: o.memprofile}.do(ctx, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "index:", err)
		stop()
		os.Exit(1)
	}
}

// say reports progress.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

func bench(ctx context.Context, o options) (err error) {
	if o.records == 0 {
		o.records = 500_000
		if o.s3 {
			o.records = 50_000
		}
	}
	if o.names == 0 {
		o.names = max(1, o.records*31/500)
	}
	rounds, err := numbers(o.add)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "hallmark-index-"); err != nil {
			return err
		}
	} else if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return err
	}
	if o.dir, err = filepath.Abs(o.dir); err != nil {
		return err
	}
	if o.keep {
		say("working in %s, which is kept", o.dir)
	} else {
		defer func() {
			say("removing the working folder")
			err = cmpErr(err, clear(o.dir))
		}()
	}
	s, err := NewSynth(o.records, o.names, o.seed)
	if err != nil {
		return err
	}
	d := Directory{o.dir}
	say("making a channel of %d records of %d names", o.records, o.names)
	if err := d.Make(ctx, s, fmt.Sprintln("1", o.records, o.names, o.seed)); err != nil {
		return err
	}
	// The last round is that in which repodata.json and its .zst are brought up to date too.
	rounds = append(rounds, goalPackages)
	additions := make([][]channel.Entry, len(rounds))
	for i, n := range rounds {
		say("making %d packages", n)
		if additions[i], err = makeAdditions(ctx, o.dir, s, n, i); err != nil {
			return err
		}
	}
	fi, err := os.Stat(d.in("repodata.json"))
	if err != nil {
		return err
	}
	r := &Report{Records: o.records, Names: o.names, RepodataBytes: fi.Size()}
	if o.s3 {
		if err := measureS3(ctx, self, d, o, r, additions); err != nil {
			return err
		}
		return r.print(os.Stdout, o.json)
	}
	ours := hallmark(self, d.channel(), nil, d, o)
	p, err := newPython(self, o.python, d.in("scripts"))
	if err != nil {
		return err
	}
	others, missing, err := peers(ctx, p, d, s)
	if err != nil {
		return err
	}
	r.Missing = missing
	for _, t := range append([]*tool{ours}, others...) {
		r.Notes = append(r.Notes, t.notes...)
		if err := runTool(ctx, t, r, additions, o.names); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	r.compare(ours.name)
	return r.print(os.Stdout, o.json)
}

// runTool measures one tool in all rounds.
func runTool(ctx context.Context, t *tool, r *Report, additions [][]channel.Entry, names int) error {
	say("%s: indexing the channel", t.name)
	if err := t.reset(ctx); err != nil {
		return err
	}
	u, err := t.prepare(ctx)
	if err != nil {
		return err
	}
	if t.start.Wall > 0 {
		r.Rows = append(r.Rows, Row{Tool: t.name, What: rowStart, Usage: t.start})
	}
	r.add(t, rowPrepare, 0, u, nil)
	for i, entries := range additions {
		if err := t.place(ctx, i, entries); err != nil {
			return err
		}
		last := i == len(additions)-1
		say("%s: adding %d packages", t.name, len(entries))
		var u Usage
		var calls *Calls
		switch {
		case last && t.all != nil:
			if u, err = t.all(ctx); err != nil {
				return err
			}
			r.add(t, rowAll, len(entries), u, nil)
		case last:
			if u, calls, err = t.update(ctx, i); err != nil {
				return err
			}
			say("%s: bringing repodata.json and repodata.json.zst up to date", t.name)
			v, more, err := t.catchUp(ctx)
			if err != nil {
				return err
			}
			r.add(t, rowCatchUp, 0, v, more)
			r.add(t, rowAll, len(entries), u.plus(v), calls.plus(more))
		default:
			if u, calls, err = t.update(ctx, i); err != nil {
				return err
			}
			r.add(t, rowUpdate, len(entries), u, calls)
		}
		if err := t.result.verify(entries, names); err != nil {
			return fmt.Errorf("after adding %d packages: %w", len(entries), err)
		}
	}
	return nil
}

func numbers(list string) ([]int, error) {
	var ns []int
	for _, f := range strings.Split(list, ",") {
		n, err := strconv.Atoi(f)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%q is no number of packages", f)
		}
		ns = append(ns, n)
	}
	return ns, nil
}

// clear removes the folder with what this program has put there.
func clear(dir string) error {
	for _, name := range []string{"channel", "additions", "scripts", "made", "repodata.json", "s3", "s3-server", "part"} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	_ = os.Remove(dir) // unless there is anything else in it
	return nil
}
