package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/command"
	"github.com/hallmark-attest/hallmark/pipeline"
)

// inputFlags say which packages.
type inputFlags struct {
	Packages   []string `arg:"" optional:"" name:"package" help:"Package files (.conda, .tar.bz2)."`
	FilesFrom  string   `placeholder:"FILE" help:"Read the package files' names from FILE, one on each line; - is stdin."`
	SHA256Sums string   `name:"sha256sums" placeholder:"FILE" help:"Digests that the packages must have, as sha256sum prints them."`
	broughtFlags
}

// read returns the items of a campaign, in the order given, and how many arguments named a package that was there
// already. A file that cannot be read is an item too: the hash stage will say what is wrong with it, and quarantine
// will keep that.
func (f *inputFlags) read(ctx context.Context, env *command.Env, c *pipeline.Campaign) (items []*pipeline.Item, duplicates int, err error) {
	paths := slices.Clone(f.Packages)
	bring, err := f.bringer()
	if err != nil {
		return nil, 0, err
	}
	if f.FilesFrom != "" {
		more, err := readLines(env.Stdin, f.FilesFrom)
		if err != nil {
			return nil, 0, command.Usage("", fmt.Errorf("--files-from: %w", err))
		}
		paths = append(paths, more...)
	}
	if len(paths) == 0 {
		return nil, 0, command.Usage("name package files, or give --files-from", errors.New("no packages"))
	}
	expected, err := f.digests(env.Stdin)
	if err != nil {
		return nil, 0, err
	}

	all := make([]*pipeline.Item, len(paths))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, path := range paths {
		g.Go(func() error {
			abs, err := filepath.Abs(path)
			if err != nil {
				return err
			}
			digest, err := fileDigest(ctx, abs)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				env.Log.Warn("cannot read a package; the campaign will set it aside", "package", path, "error", err)
			}
			name := filepath.Base(abs)
			want := digest
			if e, ok := expected[name]; ok {
				want = e
			}
			brought, err := bring(abs)
			if err != nil {
				return err
			}
			all[i] = &pipeline.Item{
				Brought:  brought,
				ID:       pipeline.ItemID(digest, abs, c.Channel(), "", name, attest.PredicateType, brought...),
				Campaign: c.Name, Source: abs, Filename: name, Expected: want,
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, 0, err
	}
	seen := map[string]bool{}
	items = slices.DeleteFunc(all, func(it *pipeline.Item) bool {
		dup := seen[it.ID]
		seen[it.ID] = true
		return dup
	})
	return items, len(paths) - len(items), nil
}

// inputsDigest stands for a set of items and where they go, so that an interrupted run of the same command is found.
func inputsDigest(c *pipeline.Campaign, items []*pipeline.Item) string {
	ids := make([]string, len(items))
	for i, it := range items {
		ids[i] = it.ID
	}
	slices.Sort(ids)
	h := sha256.New()
	fmt.Fprintf(h, "%s\x00%s\x00%s\x00%s\x00", c.To, c.ChannelURL, c.Identity, c.Issuer)
	if c.Sources.Mode != "" {
		fmt.Fprintf(h, "sources\x00%s\x00%s\x00", c.Sources.Mode, c.Sources.SHA256)
	}
	if c.SkipExisting || c.StoreGitHub {
		fmt.Fprintf(h, "%t\x00%t\x00", c.SkipExisting, c.StoreGitHub)
	}
	if c.Policy != nil {
		fmt.Fprintf(h, "policy\x00%s\x00%t\x00", c.Policy.SHA256, c.NoSign)
	}
	io.WriteString(h, strings.Join(ids, ","))
	return hex.EncodeToString(h.Sum(nil))
}

func fileDigest(ctx context.Context, path string) (string, error) {
	// Without O_NONBLOCK a named pipe would hold up the command until somebody writes to it.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil {
		return "", err
	} else if !st.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a regular file", path)
	}
	h := sha256.New()
	buf := make([]byte, 64<<10)
	for {
		n, err := f.Read(buf)
		h.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			return hex.EncodeToString(h.Sum(nil)), nil
		}
		if err != nil {
			return "", err
		}
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
	}
}

var sumLine = regexp.MustCompile(`^([0-9a-f]{64}) [ *](.+)$`)

// digests reads --sha256sums: the expected digest by file name.
func (f *inputFlags) digests(stdin io.Reader) (map[string]string, error) {
	if f.SHA256Sums == "" {
		return nil, nil
	}
	lines, err := readLines(stdin, f.SHA256Sums)
	if err != nil {
		return nil, command.Usage("", fmt.Errorf("--sha256sums: %w", err))
	}
	out := map[string]string{}
	for i, l := range lines {
		m := sumLine.FindStringSubmatch(l)
		if m == nil {
			return nil, command.Usage("write it with sha256sum", fmt.Errorf("--sha256sums: line %d is not <sha256>  <file>", i+1))
		}
		name := filepath.Base(m[2])
		if have, ok := out[name]; ok && have != m[1] {
			return nil, command.Usage("", fmt.Errorf("--sha256sums: two digests for %s", name))
		}
		out[name] = m[1]
	}
	return out, nil
}

func readLines(stdin io.Reader, path string) ([]string, error) {
	r := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	var out []string
	s := bufio.NewScanner(r)
	for s.Scan() {
		if l := strings.TrimRight(s.Text(), "\r"); l != "" {
			out = append(out, l)
		}
	}
	return out, s.Err()
}
