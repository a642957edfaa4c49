// Command demo shows Hallmark's main job with the real parts, on this machine alone: it makes sample packages, starts a
// private Sigstore on loopback, publishes the packages into a channel on disk and verifies them there.
//
//	go run ./deploy/demo [-dir DIR] [-n PACKAGES]
//
// It needs Go and a module proxy, and leaves everything in DIR (default .demo) for a look around. Run it again: nothing
// is signed twice.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/hallmark-attest/hallmark/internal/conda/condatest"
)

const (
	channelURL = "https://conda.example.org/hallmark-demo"
	identity   = "https://github.com/acme/feedstock/.github/workflows/publish.yml@refs/heads/main"
)

func main() {
	dir := flag.String("dir", ".demo", "where everything goes")
	n := flag.Int("n", 24, "how many sample packages")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *dir, *n); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir string, n int) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	bin := filepath.Join(dir, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}

	say("building the producer, and a real private Sigstore (Fulcio, Rekor, timestamp authority, CT log); the first time takes some minutes")
	if err := command(ctx, "go", "build", "-o", bin+string(filepath.Separator), "./cmd/producer"); err != nil {
		return err
	}
	sigstore := filepath.Join(bin, "sigstore")
	if err := command(ctx, "go", "build", "-C", "deploy/sigstore", "-o", sigstore, "."); err != nil {
		return err
	}

	say("making %d sample packages", n)
	var packages []string
	for _, spec := range condatest.Samples(n, 1) {
		path, err := condatest.Write(filepath.Join(dir, "packages"), spec)
		if err != nil {
			return err
		}
		packages = append(packages, path)
	}

	say("publishing them: hash, sign, upload, publish")
	producer := filepath.Join(bin, "producer")
	channel := filepath.Join(dir, "channel")
	args := append([]string{"up", filepath.Join(dir, "sigstore"), "--", producer, "publish",
		"--to", channel, "--channel-url", channelURL, "--state", filepath.Join(dir, "state")}, packages...)
	if err := command(ctx, sigstore, args...); err != nil {
		return err
	}

	say("verifying them, as a user of the channel would: offline, against the instance's trust root")
	trustedRoot := filepath.Join(dir, "sigstore", "trusted_root.json")
	issuer, err := issuerOf(filepath.Join(dir, "sigstore", "env"))
	if err != nil {
		return err
	}
	verify := []string{"verify", "--trusted-root", trustedRoot, "--channel", channel, "--target-channel", channelURL,
		"--certificate-identity", identity, "--certificate-oidc-issuer", issuer}
	if err := command(ctx, producer, append(verify, packages...)...); err != nil {
		return err
	}
	say("done: the channel is in %s\nlook into an attestation with:\n  %s inspect %s", channel, producer, sidecarOf(channel))
	return nil
}

// issuerOf reads the OIDC issuer of the private Sigstore from the comments of its env file.
func issuerOf(env string) (string, error) {
	b, err := os.ReadFile(env)
	if err != nil {
		return "", err
	}
	for l := range strings.Lines(string(b)) {
		if issuer, ok := strings.CutPrefix(l, "# issuer:"); ok {
			return strings.TrimSpace(issuer), nil
		}
	}
	return "", fmt.Errorf("%s names no issuer", env)
}

// sidecarOf finds a sidecar to show.
func sidecarOf(channel string) string {
	found, _ := filepath.Glob(filepath.Join(channel, "*", "*.sigs"))
	if len(found) == 0 {
		return channel
	}
	return found[0]
}

func say(format string, args ...any) { fmt.Printf("\n== "+format+"\n", args...) }

func command(ctx context.Context, name string, args ...string) error {
	shown := strings.Join(append([]string{filepath.Base(name)}, args...), " ")
	if len(shown) > 240 {
		shown = shown[:240] + " …"
	}
	fmt.Println("$", shown)
	c := exec.CommandContext(ctx, name, args...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	if err := c.Run(); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(name), err)
	}
	return nil
}
