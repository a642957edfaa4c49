package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
)

// WriteRepodata writes the channel as one repodata.json (CEP 36): compact, sorted, a record at a time.
func (s *Synth) WriteRepodata(w io.Writer) error {
	b := bufio.NewWriterSize(w, 1<<20)
	fmt.Fprintf(b, `{"info":{"subdir":"%s"}`, subdir)
	for _, conda := range []bool{false, true} {
		b.WriteString(map[bool]string{false: `,"packages":{`, true: `,"packages.conda":{`}[conda])
		sep := ""
		for r := range s.Records(conda) {
			b.WriteString(sep)
			sep = ","
			b.WriteByte('"')
			b.WriteString(r.Filename)
			b.WriteString(`":`)
			b.Write(r.JSON)
		}
		b.WriteByte('}')
	}
	b.WriteString(`,"removed":[],"repodata_version":1}`)
	return b.Flush() // the first error of all of them
}

// Directory is the channel that every tool begins with: repodata.json, and an empty file for each record, because the
// peers list the folder. Beside it are a copy of that repodata.json and what cannot be in a channel.
type Directory struct {
	root string
}

func (d Directory) channel() string { return filepath.Join(d.root, "channel") }
func (d Directory) in(elem ...string) string {
	return filepath.Join(append([]string{d.root}, elem...)...)
}
func (d Directory) sub(elem ...string) string {
	return d.in(append([]string{"channel", subdir}, elem...)...)
}

// Make writes the channel. One that an earlier run has made with the same parameters is kept.
func (d Directory) Make(ctx context.Context, s *Synth, parameters string) error {
	made := d.in("made")
	if was, err := os.ReadFile(made); err == nil && string(was) == parameters {
		return nil
	}
	for _, p := range []string{d.channel(), d.in("additions"), made, d.in("conda-index.db")} {
		if err := os.RemoveAll(p); err != nil {
			return err
		}
	}
	for _, p := range []string{d.sub(), d.in("channel", "noarch")} {
		if err := os.MkdirAll(p, 0o755); err != nil {
			return err
		}
	}
	f, err := os.Create(d.in("repodata.json"))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := s.WriteRepodata(f); err != nil {
		return fmt.Errorf("writing the channel: %w", err)
	}
	if err := f.Close(); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, conda := range []bool{false, true} {
		g.Go(func() error {
			for r := range s.Records(conda) {
				f, err := os.OpenFile(d.sub(r.Filename), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
				if err != nil {
					return err
				}
				if err := cmpErr(f.Close(), ctx.Err()); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("making a file for each record: %w", err)
	}
	return os.WriteFile(made, []byte(parameters), 0o644)
}

// Reset takes everything out of the channel that a tool has put there, or that was put there for it: all but the empty files
// and the first repodata.json.
func (d Directory) Reset(ctx context.Context) error {
	if err := os.RemoveAll(d.in("channel", "noarch")); err != nil {
		return err
	}
	top, err := os.ReadDir(d.channel())
	if err != nil {
		return err
	}
	for _, e := range top {
		if e.Name() != subdir {
			if err := os.RemoveAll(d.in("channel", e.Name())); err != nil {
				return err
			}
		}
	}
	entries, err := os.ReadDir(d.sub())
	if err != nil {
		return err
	}
	for _, e := range entries {
		if isPackage(e.Name()) {
			fi, err := e.Info()
			if err != nil {
				return err
			}
			if fi.Size() == 0 {
				continue
			}
		}
		if err := cmpErr(os.RemoveAll(d.sub(e.Name())), ctx.Err()); err != nil {
			return err
		}
	}
	if err := os.Mkdir(d.in("channel", "noarch"), 0o755); err != nil {
		return err
	}
	return copyFile(d.sub("repodata.json"), d.in("repodata.json"))
}

func isPackage(name string) bool {
	return strings.HasSuffix(name, ".conda") || strings.HasSuffix(name, ".tar.bz2")
}

// place puts a file into the channel as a link: nobody writes packages or sidecars in place.
func place(to, from string) error {
	err := os.Link(from, to)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	return copyFile(to, from)
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return fmt.Errorf("copying %s: %w", from, err)
	}
	return out.Close()
}

func cmpErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
