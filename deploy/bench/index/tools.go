package main

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/hallmark-attest/hallmark/internal/channel"
)

// tool is an indexer that is measured. Those that are compared work on the same folder, one after the other.
type tool struct {
	name string
	// reset takes what others have done out of the channel, and place puts new packages into it. result is where verify looks.
	reset  func(ctx context.Context) error
	place  func(ctx context.Context, round int, entries []channel.Entry) error
	result Directory
	// notes are what one must know to compare it.
	notes []string
	// prepare brings the tool to where it has indexed the channel. What it costs is not compared.
	prepare func(ctx context.Context) (Usage, error)
	// update brings new packages to clients that read shards, with as little else as the tool can be told to do.
	update func(ctx context.Context, round int) (Usage, *Calls, error)
	// catchUp brings repodata.json and repodata.json.zst up to date after update, and all does both. A tool has one of the
	// two.
	catchUp func(ctx context.Context) (Usage, *Calls, error)
	all     func(ctx context.Context) (Usage, error)
	// idle starts it and does nothing; nil if that costs nothing. start is what it costs, which comparisons leave out.
	idle  func(ctx context.Context) (Usage, error)
	start Usage
}

// hallmark is this project's channel, by processes of this same program.
func hallmark(self, location string, env []string, d Directory, o options) *tool {
	run := func(ctx context.Context, what string, round int) (Usage, *Calls, error) {
		args := []string{self, "--child", what, "--location", location, "--batch", fmt.Sprint(o.batch)}
		if round >= 0 {
			args = append(args, "--entries", d.in("additions", fmt.Sprint(round)+".entries"))
		}
		if o.profiles != "" {
			file := filepath.Join(o.profiles, what)
			if round >= 0 {
				file += fmt.Sprint(round)
			}
			args = append(args, "--cpuprofile", file+".cpu", "--memprofile", file+".mem")
		}
		u, out, err := measure(ctx, self, env, args...)
		if err != nil {
			return u, nil, err
		}
		var c Calls
		if err := json.Unmarshal(out, &c); err != nil {
			return u, nil, fmt.Errorf("reading its calls: %w", err)
		}
		return u, &c, nil
	}
	t := &tool{
		name: "hallmark", reset: d.Reset, place: d.placeAdditions, result: d,
		notes: []string{
			"hallmark reads the new packages' records from a list, as they come from its hash stage; the peers read the packages, which are small here",
			"hallmark flushes each file and its folder to disk (fsync); rattler flushes nothing, conda-index its cache alone, package by package",
			"hallmark's catch up writes run_exports.json and current_repodata.json too, which the peers do not here; the files in which it puts documents together are in its bytes",
		},
		prepare: func(ctx context.Context) (Usage, error) {
			u, _, err := run(ctx, "adopt", -1)
			return u, err
		},
		update: func(ctx context.Context, round int) (Usage, *Calls, error) { return run(ctx, "update", round) },
	}
	t.catchUp = func(ctx context.Context) (Usage, *Calls, error) { return run(ctx, "monolith", -1) }
	return t
}

//go:embed all:peers
var scripts embed.FS

// python starts the peers' scripts.
type python struct {
	self, program, scripts string
	env                    []string
}

// newPython writes the scripts into a folder.
func newPython(self, program, dir string) (*python, error) {
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.CopyFS(dir, scripts); err != nil {
		return nil, err
	}
	return &python{self: self, program: program, scripts: filepath.Join(dir, "peers"), env: []string{"PYTHONDONTWRITEBYTECODE=1"}}, nil
}

// has tells whether a module can be imported.
func (p *python) has(ctx context.Context, module string) bool {
	c := exec.CommandContext(ctx, p.program, "-c", "import "+module)
	c.Env = append(os.Environ(), p.env...)
	return c.Run() == nil
}

func (p *python) version(ctx context.Context, distribution string) string {
	out, err := exec.CommandContext(ctx, p.program, "-c", "import importlib.metadata as m; print(m.version('"+distribution+"'))").Output()
	if err != nil {
		return "(version unknown)"
	}
	return strings.TrimSpace(string(out))
}

func (p *python) run(ctx context.Context, script string, args ...string) (Usage, error) {
	u, _, err := measure(ctx, p.self, p.env, append([]string{p.program, filepath.Join(p.scripts, script)}, args...)...)
	return u, err
}

// peers gives the peers that are installed, and says which are not.
func peers(ctx context.Context, p *python, d Directory, s *Synth) (list []*tool, missing []string, err error) {
	if _, err := exec.LookPath(p.program); err != nil {
		return nil, []string{fmt.Sprintf("no peers: %v", err)}, nil
	}
	if p.has(ctx, "rattler.index") {
		list = append(list, p.rattler(ctx, d, s))
	} else {
		missing = append(missing, "rattler: py-rattler is not installed")
	}
	switch t, err := p.condaIndex(ctx, d, s); {
	case errors.Is(err, fs.ErrNotExist):
		missing = append(missing, "conda-index: it is not installed")
	case err != nil:
		return nil, nil, err
	default:
		list = append(list, t)
	}
	for _, t := range list {
		for range 2 { // the second time everything is in the page cache
			if t.start, err = t.idle(ctx); err != nil {
				return nil, nil, err
			}
		}
	}
	return list, missing, nil
}

// rattler is rattler's indexer.
func (p *python) rattler(ctx context.Context, d Directory, s *Synth) *tool {
	index := func(ctx context.Context, zst string) (Usage, error) {
		return p.run(ctx, "index_rattler.py", d.channel(), subdir, zst)
	}
	return &tool{
		name: "rattler " + p.version(ctx, "py-rattler"), reset: d.Reset, place: d.placeAdditions, result: d,
		notes: []string{
			"rattler has no way to leave out repodata.json; update is without its .zst, which takes it longest",
			"rattler opens all shards of a new channel at once; where the machine does not allow so many files, they are made in parts, which \"index all\" does not count",
			"rattler's listing of the folder is in no byte count: it would be 1,000 keys a request on S3",
			"only the new packages have sidecars; rattler reads two files for each sidecar that the channel has, every time",
		},
		idle: func(ctx context.Context) (Usage, error) { return p.run(ctx, "index_rattler.py") },
		prepare: func(ctx context.Context) (Usage, error) {
			if err := p.shardInParts(ctx, d, s); err != nil {
				return Usage{}, err
			}
			return index(ctx, "nozst")
		},
		update: func(ctx context.Context, _ int) (Usage, *Calls, error) {
			u, err := index(ctx, "nozst")
			return u, nil, err
		},
		all: func(ctx context.Context) (Usage, error) { return index(ctx, "zst") },
	}
}

// shardInParts makes rattler's shards of a part of the names at a time, where the machine does not allow a file for each to be
// open at once. A shard is of one name, so these are the shards of the whole.
func (p *python) shardInParts(ctx context.Context, d Directory, s *Synth) error {
	most, err := openFiles()
	if err != nil {
		return err
	}
	const each = 3 // files for a shard, at most
	n := each * len(s.names) / most
	if n == 0 {
		return nil
	}
	part := Directory{d.in("part")}
	for half := range s.parts(n + 1) {
		if err := cmpErr(os.RemoveAll(part.root), part.Make(ctx, half, "")); err != nil {
			return err
		}
		if err := cmpErr(part.Reset(ctx), os.MkdirAll(d.sub("shards"), 0o755), os.Symlink(d.sub("shards"), part.sub("shards"))); err != nil {
			return err
		}
		say("rattler: making the shards of %d names", half.hi-half.lo)
		if _, err := p.run(ctx, "index_rattler.py", part.channel(), subdir, "nozst"); err != nil {
			return err
		}
	}
	return os.RemoveAll(part.root)
}

// condaIndex is conda-index, with the records in its cache already: it reads new packages only.
func (p *python) condaIndex(ctx context.Context, d Directory, s *Synth) (*tool, error) {
	own := *p
	const module = "conda_index.index"
	stub := !own.has(ctx, "conda.models.version")
	if stub {
		own.env = append(own.env, "PYTHONPATH="+filepath.Join(own.scripts, "stub"))
	}
	if !own.has(ctx, module) {
		return nil, fs.ErrNotExist
	}
	index := func(ctx context.Context, what string) (Usage, error) {
		return own.run(ctx, "index_conda.py", d.channel(), subdir, what)
	}
	t := &tool{
		name: "conda-index " + own.version(ctx, "conda-index"), reset: d.Reset, place: d.placeAdditions, result: d,
		notes: []string{
			"conda-index's cache is filled with the records beforehand (index.json alone; true caches hold recipes too, which it reads for channeldata.json only)",
			"conda-index's update is without repodata.json (--no-write-monolithic --write-shards), which the tool has but does not do by itself",
			"conda-index's peak is of the largest of its processes; it also writes index.html when it writes repodata.json",
		},
		idle: func(ctx context.Context) (Usage, error) { return own.run(ctx, "index_conda.py") },
		prepare: func(ctx context.Context) (Usage, error) {
			if err := own.fill(ctx, d, s); err != nil {
				return Usage{}, err
			}
			return index(ctx, "shards")
		},
		update: func(ctx context.Context, _ int) (Usage, *Calls, error) {
			u, err := index(ctx, "shards")
			return u, nil, err
		},
		all: func(ctx context.Context) (Usage, error) { return index(ctx, "all") },
	}
	if stub {
		t.notes = append(t.notes, "conda-index runs without conda, which is not on PyPI: the two names that it imports are stood in for, and not used here")
	}
	return t, nil
}

// fill puts the records into conda-index's cache.
func (p *python) fill(ctx context.Context, d Directory, s *Synth) error {
	c := exec.CommandContext(ctx, p.program, filepath.Join(p.scripts, "fill_conda.py"), d.channel(), subdir)
	c.Env = append(os.Environ(), p.env...)
	in, err := c.StdinPipe()
	if err != nil {
		return err
	}
	var said bytes.Buffer
	c.Stderr = &said
	if err := c.Start(); err != nil {
		return err
	}
	wrote := s.writeLines(in)
	if err := cmpErr(in.Close(), c.Wait(), wrote); err != nil {
		return fmt.Errorf("filling conda-index's cache: %w\n%s", err, tail(said.Bytes()))
	}
	return nil
}

// writeLines writes a file name, a tab and a record, a line each.
func (s *Synth) writeLines(w io.Writer) error {
	var line []byte
	for _, conda := range []bool{false, true} {
		for r := range s.Records(conda) {
			line = append(append(append(line[:0], r.Filename...), '\t'), r.JSON...)
			if _, err := w.Write(append(line, '\n')); err != nil {
				return err
			}
		}
	}
	return nil
}
