package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/alecthomas/kong"
	"golang.org/x/term"

	"github.com/hallmark-attest/hallmark/pipeline/telemetry"
)

// Streams are where a program reads and writes.
type Streams struct {
	Stdin  *os.File
	Stdout io.Writer
	Stderr io.Writer
}

// Globals are the flags of every command.
type Globals struct {
	JSON      bool             `name:"json" help:"Write the result to stdout as JSON, and errors to stderr as JSON."`
	LogLevel  slog.Level       `default:"WARN" help:"Log what is at least this severe: DEBUG, INFO, WARN, ERROR."`
	LogFormat string           `default:"text" enum:"text,json" help:"Format of the log on stderr: text or json."`
	Version   kong.VersionFlag `env:"-" help:"Print the version."`
}

// Env is what a command's Run method gets.
type Env struct {
	Streams
	*Globals
	Log *slog.Logger
}

// Terminal reports whether stderr is a terminal, where progress may be drawn.
func (e *Env) Terminal() bool {
	f, ok := e.Stderr.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Interactive reports whether a person can be asked something.
func (e *Env) Interactive() bool {
	return e.Terminal() && e.Stdin != nil && term.IsTerminal(int(e.Stdin.Fd()))
}

// Result writes a command's result: as one line of JSON with --json, else as text.
func (e *Env) Result(v any, text func(w io.Writer)) error {
	if e.JSON {
		enc := json.NewEncoder(e.Stdout)
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	}
	text(e.Stdout)
	return nil
}

// Main parses args into grammar (a pointer to a struct that embeds Globals), runs the chosen command and returns the
// exit code. The command's Run method takes a context.Context, which ends at the first SIGINT or SIGTERM, and an *Env.
// A second signal ends the process at once; that is safe too.
func Main(name, description, version string, grammar any, globals *Globals, args []string, s Streams) int {
	exited := -1
	parser, err := newParser(name, description, version, grammar, s, func(code int) { exited = code; panic(exitNow{}) })
	if err != nil {
		panic(err) // a defect in the grammar, found by any test
	}
	kctx, err := parse(parser, args)
	if exited >= 0 {
		return exited // --help, --version
	}
	if err != nil {
		hint := fmt.Sprintf("see %s --help", name)
		var pe *kong.ParseError
		if errors.As(err, &pe) && pe.Context != nil && pe.Context.Selected() != nil {
			hint = fmt.Sprintf("see %s %s --help", name, pe.Context.Selected().Name)
		}
		// What could not be parsed has not set the flag.
		return report(s.Stderr, globals.JSON || slices.Contains(args, "--json"), Usage(hint, err))
	}

	log := telemetry.Logger(s.Stderr, globals.LogLevel, globals.LogFormat == "json")
	slog.SetDefault(log)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the next signal is the system's own: at once
	shutdown, err := telemetry.Setup(ctx, name, version)
	if err != nil {
		return report(s.Stderr, globals.JSON, Usage("check the OTEL_ variables", fmt.Errorf("setting up telemetry: %w", err)))
	}
	kctx.BindTo(ctx, (*context.Context)(nil))
	err = kctx.Run(&Env{Streams: s, Globals: globals, Log: log})
	if serr := shutdown(context.WithoutCancel(ctx)); serr != nil {
		log.Warn("sending the last of the telemetry", "error", serr)
	}
	if err == nil {
		return ExitComplete
	}
	return report(s.Stderr, globals.JSON, err)
}

func newParser(name, description, version string, grammar any, s Streams, exit func(int)) (*kong.Kong, error) {
	return kong.New(grammar, kong.Name(name), kong.Description(description), kong.Writers(s.Stdout, s.Stderr),
		kong.Exit(exit), kong.DefaultEnvars("HALLMARK"),
		kong.Vars{"version": version}, kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 120}))
}

// Check says what Main would not take of a command line, and runs nothing. It is for tests of command lines in documents.
func Check(name string, grammar any, args []string) error {
	p, err := newParser(name, "", "", grammar, Streams{Stdout: io.Discard, Stderr: io.Discard}, func(int) { panic(exitNow{}) })
	if err != nil {
		return err
	}
	_, err = parse(p, args)
	return err
}

type exitNow struct{}

// parse turns kong's exit (after --help) into a return.
func parse(p *kong.Kong, args []string) (ctx *kong.Context, err error) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(exitNow); !ok {
				panic(r)
			}
		}
	}()
	return p.Parse(args)
}

// report writes an error where people and programs look for it, and returns its exit code.
func report(w io.Writer, asJSON bool, err error) int {
	d := describe(err)
	if asJSON {
		_ = json.NewEncoder(w).Encode(struct {
			Type    string `json:"type"`
			Code    int    `json:"code"`
			Message string `json:"message"`
			Item    string `json:"item,omitempty"`
			Hint    string `json:"hint,omitempty"`
		}{"error", d.Code, d.Err.Error(), d.Item, d.Hint})
		return d.Code
	}
	fmt.Fprintf(w, "error: %v\n", d.Err)
	if d.Item != "" {
		fmt.Fprintf(w, "  item: %s\n", d.Item)
	}
	if d.Hint != "" {
		fmt.Fprintf(w, "  hint: %s\n", d.Hint)
	}
	return d.Code
}
