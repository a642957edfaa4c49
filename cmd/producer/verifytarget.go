package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/hallmark-attest/hallmark/internal/channel"
	"github.com/hallmark-attest/hallmark/internal/command"
	"github.com/hallmark-attest/hallmark/internal/conda"
	"github.com/hallmark-attest/hallmark/internal/conda/match"
	"github.com/hallmark-attest/hallmark/internal/store"
)

// target is one argument of verify: a file, a URL, or what names packages of a channel.
type target struct {
	input string // as given, without credentials
	place *place // the channel that it is looked up in; nil for a file with its sidecar
	path  string // of a file

	subdir   string // "" if it may be in any
	filename string // "" for a spec
	sidecar  string // the suffix of the sidecar that was named: "", ".sigs", ".sigs.<sha256>" or ".v0.sigs"

	spec    match.Spec
	isSpec  bool
	stem    string // the spec, if it may as well be name-version-build
	specFor string // the name in stem

	sha256 string // of a file
	err    error  // why there is nothing to verify
}

// place is a channel.
type place struct {
	*channel.Channel
	name string // without credentials
	web  bool   // it cannot be listed
}

// places opens each channel once.
type places struct {
	transport http.RoundTripper
	open      map[string]*place
}

func (p *places) get(ctx context.Context, location string) (*place, error) {
	if pl := p.open[location]; pl != nil {
		return pl, nil
	}
	ch, err := command.ReadChannel(ctx, location, p.transport)
	if err != nil {
		return nil, err
	}
	pl := &place{Channel: ch, name: store.Redacted(location), web: isURL(location)}
	p.open[location] = pl
	return pl, nil
}

// serving is a file's name in a URL: of a package, or of its sidecar.
var serving = regexp.MustCompile(`^(.+\.(?:conda|tar\.bz2))(\.sigs(?:\.[0-9a-f]{64})?|\.v0\.sigs)?$`)

// target reads an argument. in is the channel of --channel, or nil.
func (p *places) target(ctx context.Context, arg string, in *place) (*target, error) {
	if scheme, _, ok := strings.Cut(arg, "://"); ok {
		t, err := p.fromURL(ctx, scheme, arg)
		if err != nil {
			return nil, command.Usage("give https://host/channel/subdir/package.conda, or its sidecar's URL", fmt.Errorf("%s: %w", store.Redacted(arg), err))
		}
		return t, nil
	}
	t := &target{input: arg, place: in}
	isPackage := strings.HasSuffix(arg, ".conda") || strings.HasSuffix(arg, ".tar.bz2")
	if in == nil {
		if _, err := os.Stat(arg); errors.Is(err, fs.ErrNotExist) && !isPackage && !strings.ContainsRune(arg, filepath.Separator) {
			return nil, command.Usage("give --channel for a package's name, or name a file", fmt.Errorf("%s is no file, and in which channel is it to be looked for?", arg))
		}
		t.path = arg
		return t, nil
	}
	subdir, name, hasSubdir := strings.Cut(arg, "/")
	if _, err := os.Stat(arg); err == nil && (isPackage || hasSubdir) {
		t.path = arg
		return t, nil
	}
	if !hasSubdir {
		subdir, name = "", arg
	} else if conda.CheckSubdir(subdir) != nil || strings.Contains(name, "/") || !isPackage {
		t.path = arg // which is not there
		return t, nil
	}
	if isPackage {
		if _, err := conda.ParseFilename(name); err != nil {
			return nil, command.Usage("", err)
		}
		t.subdir, t.filename = subdir, name
		return t, nil
	}
	spec, err := match.ParseSpec(arg)
	if err != nil {
		return nil, command.Usage(`give a name, a file's name, or a match spec such as "numpy >=2"`, err)
	}
	if spec.Channel != "" {
		return nil, command.Usage("say it with --channel and --subdir", fmt.Errorf("%q names a channel or subdir", arg))
	}
	t.spec, t.isSpec = spec, true
	if n, err := conda.ParseFilename(arg + ".conda"); err == nil {
		t.stem, t.specFor = arg, n.Name
	}
	return t, nil
}

// fromURL splits channel/subdir/file. Its errors do not repeat the URL.
func (p *places) fromURL(ctx context.Context, scheme, arg string) (*target, error) {
	if scheme != "http" && scheme != "https" && scheme != "s3" {
		return nil, errors.New("want a URL with http, https or s3")
	}
	u, err := url.Parse(arg)
	switch {
	case err != nil:
		return nil, errors.New("it is not a URL")
	case u.RawQuery != "" || u.ForceQuery || strings.Contains(arg, "#"):
		return nil, errors.New("it has a query or a fragment")
	}
	rest, file, ok1 := cutLast(u.EscapedPath())
	base, subdir, ok2 := cutLast(rest)
	name, err := url.PathUnescape(file)
	m := serving.FindStringSubmatch(name)
	switch {
	case !ok1 || !ok2 || err != nil:
		return nil, errors.New("it is not a channel's URL, a subdir and a file")
	case m == nil:
		return nil, errors.New("it does not end in a package's file name, nor in one with .sigs, .sigs.<sha256> or .v0.sigs")
	}
	if err := conda.CheckSubdir(subdir); err != nil {
		return nil, err
	}
	if _, err := conda.ParseFilename(m[1]); err != nil {
		return nil, err
	}
	location := *u
	location.RawPath = base
	if location.Path, err = url.PathUnescape(base); err != nil {
		return nil, errors.New("it is not a URL")
	}
	pl, err := p.get(ctx, location.String())
	if err != nil {
		return nil, err
	}
	return &target{input: store.Redacted(arg), place: pl, subdir: subdir, filename: m[1], sidecar: m[2]}, nil
}

func cutLast(path string) (before, last string, ok bool) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", path, false
	}
	return path[:i], path[i+1:], true
}

// names are the package names to look up for the target.
func (t *target) names() []string {
	if !t.isSpec {
		n, err := conda.ParseFilename(t.filename)
		if err != nil {
			return nil // checked where it came in
		}
		return []string{n.Name}
	}
	if t.specFor != "" {
		return []string{t.spec.Name, t.specFor}
	}
	return []string{t.spec.Name}
}

// matches tells whether the target means a record.
func (t *target) matches(r channel.Listed) bool {
	if !t.isSpec {
		return r.Filename == t.filename
	}
	if r.Name != t.spec.Name {
		return t.stem != "" && r.Name+"-"+r.Version+"-"+r.Build == t.stem
	}
	version, err := match.ParseVersion(r.Version)
	return err == nil && t.spec.Match(version, r.Build, r.BuildNumber) || err != nil && t.spec.String() == r.Name
}
