package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// up starts a stack and keeps it until ctx ends, a server fails, or the command that was given has ended.
func up(ctx context.Context, args []string, stdout io.Writer) error {
	o := options{rekor: rekorV2}
	fs := flag.NewFlagSet("sigstore up [flags] DIR [-- CMD ARGS…]", flag.ContinueOnError)
	fs.Func("rekor", "`version` of the transparency log: v2 (default) or v1", func(v string) error {
		switch v {
		case "v1":
			o.rekor = rekorV1
		case "v2":
			o.rekor = rekorV2
		default:
			return errors.New("v1 or v2")
		}
		return nil
	})
	fs.StringVar(&o.rekor1, "rekor1-binary", os.Getenv("SIGSTORE_REKOR1_BINARY"), "the `program` of the module rekor1 (default: rekor1 beside this program, or in PATH)")
	fs.DurationVar(&o.checkpointInterval, "checkpoint-interval", 100*time.Millisecond, "how often Rekor v2 publishes, at least 100ms; production: 10s")
	fs.DurationVar(&o.batchMaxAge, "batch-max-age", 10*time.Millisecond, "how long Rekor v2 collects entries for a batch; production: 250ms")
	fs.DurationVar(&o.certificateLifetime, "certificate-lifetime", stockLifetime, "life of Fulcio's certificates")
	fs.IntVar(&o.portBase, "port-base", 0, "first of ten consecutive `ports`, for a new DIR (default: free ports, then always the same)")
	asJSON := fs.Bool("json", false, "describe what runs in one line of JSON")
	dirs, command, err := parse(fs, args)
	switch {
	case err != nil:
		return err
	case len(dirs) != 1:
		return fmt.Errorf("%w: one DIR, not %d", errUsage, len(dirs))
	case o.checkpointInterval < 100*time.Millisecond || o.batchMaxAge <= 0:
		return fmt.Errorf("%w: --checkpoint-interval is at least 100ms, --batch-max-age above 0", errUsage)
	case o.certificateLifetime < time.Second || o.certificateLifetime > maxLifetime:
		return fmt.Errorf("%w: --certificate-lifetime is from 1s to %v", errUsage, maxLifetime)
	}
	dir, err := filepath.Abs(dirs[0])
	if err != nil {
		return err
	}

	s, err := start(ctx, home(dir), o)
	if err != nil {
		return err
	}
	if command != nil {
		stdout = os.Stderr // the command's output is the result
	}
	sum := s.summary()
	if *asJSON {
		_, err = stdout.Write(sum.json())
	} else {
		_, err = io.WriteString(stdout, sum.text())
	}
	if err == nil && command != nil {
		err = s.exec(ctx, command)
	} else if err == nil {
		select {
		case <-ctx.Done():
		case err = <-s.failed:
		}
	}
	if stopErr := s.stop(); stopErr != nil {
		if _, isExit := errors.AsType[exit](err); isExit {
			fmt.Fprintln(os.Stderr, "sigstore:", stopErr) // the command's code is the one that counts
			return err
		}
		return errors.Join(err, stopErr)
	}
	return err
}

// exec runs a command in the stack's environment; its exit code comes back as an exit.
func (s *stack) exec(ctx context.Context, command []string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), s.environ()...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopTimeout
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the command: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case failure := <-s.failed:
		cancel()
		<-ended
		return failure
	case err := <-ended:
		if cmd.ProcessState == nil {
			return fmt.Errorf("waiting for the command: %w", err)
		}
	}
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return exit(128 + int(ws.Signal())) // as shells do
	}
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		return exit(code)
	}
	return nil
}

// summary is what a user or a script needs to know of a running stack. No secret is in it.
type summary struct {
	Dir           string            `json:"dir"`
	TrustedRoot   string            `json:"trusted_root"`
	SigningConfig string            `json:"signing_config"`
	Env           string            `json:"env"` // shell file that sets the environment; has a secret
	Rekor         string            `json:"rekor"`
	URLs          map[string]string `json:"urls"`
	Identity      string            `json:"identity"` // of a default token's certificate
	Issuer        string            `json:"issuer"`
	PID           int               `json:"pid"`
}

func (s *stack) summary() summary {
	p := s.state.Ports
	def, _ := askOf(nil) // the defaults are valid
	urls := map[string]string{
		"fulcio": baseURL(p.Fulcio), "tsa": baseURL(p.TSA) + tsaPath, "ctlog": baseURL(p.CTLog) + ctlogPath,
		"oidc": baseURL(p.OIDC), "oidc_email": baseURL(p.OIDC) + emailIssuerPath, "token": tokenURL(s.state),
	}
	if s.rekor == rekorV1 {
		urls["rekor"] = baseURL(p.Rekor1)
	} else {
		urls["rekor"], urls["rekor_tiles"] = baseURL(p.Rekor), baseURL(p.RekorTiles)
	}
	return summary{
		Dir: string(s.home), TrustedRoot: s.home.trustedRoot(), SigningConfig: s.home.signingConfig(), Env: s.home.env(),
		Rekor: fmt.Sprintf("v%d", s.rekor), URLs: urls,
		Identity: "https://github.com/" + def.workflowPath(), Issuer: baseURL(p.OIDC), PID: os.Getpid(),
	}
}

func (s summary) json() []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings only
	}
	return append(b, '\n')
}

func (s summary) text() string {
	return fmt.Sprintf(`A private Sigstore is ready (Rekor %s). For development only: its keys lie in %s.

  trust root       %s
  signing config   %s
  identity         %s
  issuer           %s
  Fulcio           %s
  TSA              %s
  Rekor            %s

  . %s          makes your shell sign here
`, s.Rekor, s.Dir, s.TrustedRoot, s.SigningConfig, s.Identity, s.Issuer, s.URLs["fulcio"], s.URLs["tsa"], s.URLs["rekor"], s.Env)
}
