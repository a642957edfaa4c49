package identity

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// script puts a program of this name in place of the CI system's.
func script(t *testing.T, name, text string) string {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("the stand-ins for the CI systems' programs are shell scripts")
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestPrograms has stand-ins that check every argument, as the real ones do.
func TestPrograms(t *testing.T) {
	t.Parallel()
	raw := validJWT(t)
	buildkite := script(t, "buildkite-agent", `
[ "$#" = 4 ] && [ "$1 $2 $3" = "oidc request-token --audience" ] || { echo "unknown command: $*" >&2; exit 1; }
[ "$4" = sigstore ] || { echo "fatal: 422 Unprocessable Entity: audience $4" >&2; exit 1; }
echo "2026-01-01 INFO   requesting" >&2
echo `+raw)
	circleci := script(t, "circleci", `
[ "$#" = 5 ] && [ "$1 $2 $3 $4" = "run oidc get --claims" ] || { echo "unknown command: $*" >&2; exit 1; }
[ "$5" = '{"aud":"sigstore"}' ] || { echo "Error: 400 $5" >&2; exit 1; }
printf %s `+raw)
	for _, p := range []*Program{NewBuildkite(buildkite, ""), NewCircleCI(circleci, "")} {
		tok, err := p.Token(t.Context())
		if err != nil || tok.Raw != raw || tok.Source != p.String() {
			t.Errorf("%s: %v, %v", p, tok, err)
		}
	}
	for _, p := range []*Program{NewBuildkite(buildkite, `"other`), NewCircleCI(circleci, `"other`)} {
		if _, err := p.Token(t.Context()); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), `"other`) {
			t.Errorf("%s, another audience: %v, want ErrRefused that says why", p, err)
		}
	}
}

func TestProgramFaults(t *testing.T) {
	raw := validJWT(t)
	const secret = "the-agent-s-access-token"
	t.Setenv("BUILDKITE_AGENT_ACCESS_TOKEN", secret)
	tests := []struct {
		name, text string
		want       error
		says       string
	}{
		{name: "refused", text: "echo 'first' >&2; echo 'fatal: POST https://agent.buildkite.com/v3/jobs/7/oidc/tokens: 403 Forbidden' >&2; exit 1",
			want: ErrRefused, says: "tokens: 403 Forbidden); make buildkite-agent"},
		{name: "out of reach", text: "echo 'dial tcp: i/o timeout' >&2; exit 1", want: ErrUnavailable, says: "i/o timeout"},
		{name: "server down", text: "echo 'POST: 503 Service Unavailable' >&2; exit 1", want: ErrUnavailable, says: "503"},
		{name: "silent", text: "exit 3", want: ErrUnavailable, says: "did not say why"},
		{name: "killed", text: "kill -9 $$", want: ErrUnavailable, says: "killed"},
		{name: "garbage", text: "echo Usage: buildkite-agent", want: ErrMalformed},
		{name: "nothing", text: "exit 0", want: ErrMalformed, says: "empty"},
		{name: "without end", text: "yes " + strings.Repeat("a", 1000), want: ErrMalformed, says: "more than a token"},
		{name: "complains without end", text: "i=0; while [ $i -lt 3000 ]; do echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa$i >&2; i=$((i+1)); done; exit 1",
			want: ErrUnavailable, says: "aaa2999"},
		{name: "tells secrets", text: "echo " + raw + "; printf '\\033[31m" + raw + " and " + secret + " and \\007end\\033[0m' >&2; exit 1",
			want: ErrUnavailable, says: "[redacted] and [redacted] and end"},
		{name: "tells its token", text: "echo 'got " + raw + "' >&2; exit 1", want: ErrUnavailable, says: "got [redacted]"},
		{name: "sleeps", text: "sleep 60", want: ErrUnavailable, says: "gave none in"},
		{name: "leaves a child", text: "sleep 60 & exit 1", want: ErrUnavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := NewBuildkite(script(t, "buildkite-agent", tt.text), "")
			p.timeout, p.grace = 10*time.Second, 100*time.Millisecond
			if tt.name == "sleeps" {
				p.timeout = 50 * time.Millisecond
			}
			start := time.Now()
			_, err := p.Token(t.Context())
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("Token = %v, want %v with %q", err, tt.want, tt.says)
			}
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("took %s", took)
			}
			if err != nil && (len(err.Error()) > 1000 || strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), raw) || strings.ContainsAny(err.Error(), "\x1b\x07\n")) {
				t.Errorf("error %q", err)
			}
		})
	}
	t.Run("not there", func(t *testing.T) {
		_, err := NewCircleCI(filepath.Join(t.TempDir(), "circleci"), "").Token(t.Context())
		if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "run in a CircleCI job") {
			t.Errorf("Token = %v", err)
		}
	})
	t.Run("not wanted any more", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		p := NewBuildkite(script(t, "buildkite-agent", "sleep 60"), "")
		p.grace = 100 * time.Millisecond
		time.AfterFunc(50*time.Millisecond, cancel)
		if _, err := p.Token(ctx); !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnavailable) {
			t.Errorf("Token = %v, want the context's error", err)
		}
	})
}
