// Command sigstore is a real private Sigstore in one program, for development and tests.
//
// In: a directory that holds all of its state, and the requests of Sigstore clients on loopback.
// Out: certificates, timestamps, log entries and identity tokens, and in the directory the trust root and the
// signing configuration that verifiers and signers read.
//
// Fulcio, the timestamp authority, a Certificate Transparency log and an OpenID Connect issuer run in this process;
// Rekor runs as a child, because it can only be started as a whole program. See README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

const usage = `A private Sigstore on loopback, for development only.

  sigstore up    [flags] DIR [-- CMD ARGS…]   start it; with CMD: run that in its environment, then stop
  sigstore token [flags] DIR                  print one identity token of a running one

Flags: sigstore up -h, sigstore token -h
`

// errUsage marks an error that the caller can mend on the command line.
var errUsage = errors.New("usage")

// exit is an error that is a child's exit code and needs no message of its own.
type exit int

func (e exit) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func main() {
	if len(os.Args) > 1 && os.Args[1] == rekorCommand {
		serveRekor(os.Args[2:]) // does not return until Rekor ends
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal does not wait
	err := run(ctx, os.Args[1:])
	stop()
	os.Exit(report(err))
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return errUsage
	}
	switch args[0] {
	case "up":
		return up(ctx, args[1:], os.Stdout)
	case "token":
		return token(ctx, args[1:], os.Stdout)
	case "help", "-h", "--help":
		fmt.Print(usage)
		return nil
	}
	fmt.Fprint(os.Stderr, usage)
	return fmt.Errorf("%w: no command %q", errUsage, args[0])
}

// report prints err and returns the exit code: 0 done, 1 failed, 2 usage, otherwise the code of the command that ran.
func report(err error) int {
	code, isExit := errors.AsType[exit](err)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case isExit:
		return int(code)
	case err == errUsage:
		return 2
	}
	fmt.Fprintln(os.Stderr, "sigstore:", err)
	if errors.Is(err, errUsage) {
		return 2
	}
	return 1
}

// parse reads flags and positional arguments in any order, and what follows "--" as a command.
func parse(fs *flag.FlagSet, args []string) (positional, command []string, err error) {
	fs.SetOutput(os.Stderr)
	for i, a := range args {
		if a == "--" {
			args, command = args[:i], args[i+1:]
			if len(command) == 0 {
				return nil, nil, fmt.Errorf("%w: no command after --", errUsage)
			}
			break
		}
	}
	for len(args) > 0 {
		if err := fs.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, nil, err
			}
			return nil, nil, errUsage // flag has printed it
		}
		if args = fs.Args(); len(args) > 0 {
			positional, args = append(positional, args[0]), args[1:]
		}
	}
	return positional, command, nil
}
