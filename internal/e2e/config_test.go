package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWrongConfiguration: told before anything is enqueued, with the exit code and a hint.
func TestWrongConfiguration(t *testing.T) {
	t.Parallel()
	pkg := samples(t, 1, 21)[0]
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	var noToken []string
	for _, kv := range stack.env {
		if !strings.HasPrefix(kv, "ACTIONS_") {
			noToken = append(noToken, kv)
		}
	}
	for name, tt := range map[string]struct {
		env    []string
		args   []string // instead of --channel-url
		to     string
		nats   string
		code   int
		stderr string
	}{
		"no identity":        {env: noToken, code: 4, stderr: "identity"},
		"unreachable NATS":   {nats: "nats://127.0.0.1:1", code: 2, stderr: "NATS"},
		"store is a file":    {to: file, code: 2, stderr: "channel"},
		"unknown scheme":     {to: "ftp://x/y", code: 2, stderr: "ftp"},
		"trailing slash":     {args: []string{"--channel-url", channelURL + "/"}, code: 2, stderr: "slash"},
		"s3 URL":             {args: []string{"--channel-url", "s3://bucket/x"}, code: 2, stderr: "http"},
		"credentials":        {args: []string{"--channel-url", "https://me:hunter2@conda.example.org/x"}, code: 2, stderr: "credentials"},
		"token":              {args: []string{"--channel-url", "https://conda.example.org/t/hunter2/x"}, code: 2, stderr: "token"},
		"subdir":             {args: []string{"--channel-url", channelURL + "/linux-64"}, code: 2, stderr: "linux-64"},
		"no channel URL":     {args: []string{}, code: 2, stderr: "--no-target-channel"},
		"both":               {args: []string{"--channel-url", channelURL, "--no-target-channel"}, code: 2, stderr: "exclude"},
		"trusted root alone": {env: append(noToken, "HALLMARK_SIGNING_CONFIG="), code: 2, stderr: "go together"},
		"unknown stage":      {args: []string{"--channel-url", channelURL, "--concurrency", "paint=3"}, code: 2, stderr: "paint"},
		"unknown flag":       {args: []string{"--channel-url", channelURL, "--frobnicate"}, code: 2, stderr: "--help"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			if tt.to != "" {
				p.channel = tt.to
			}
			env := tt.env
			if env == nil {
				env = stack.env
			}
			args := []string{"publish", "--json", "--to", p.channel, "--state", p.state, pkg}
			if tt.args == nil {
				args = append(args, "--channel-url", channelURL)
			}
			args = append(args, tt.args...)
			if tt.nats != "" {
				args = append(args, "--nats", tt.nats)
			}
			r := runEnv(t, env, programs.producer, args...).want(t, tt.code)
			if !strings.Contains(r.stderr, tt.stderr) {
				t.Errorf("stderr does not say %q: %s", tt.stderr, r.stderr)
			}
			if strings.Contains(r.stderr+r.stdout, "hunter2") {
				t.Error("it repeats a secret")
			}
			var e struct {
				Type, Message, Hint string
				Code                int
			}
			if err := json.Unmarshal([]byte(r.stderr[max(strings.Index(r.stderr, "{"), 0):]), &e); err != nil || e.Type != "error" || e.Code != tt.code || e.Message == "" || e.Hint == "" {
				t.Errorf("not an error object with a hint (%v): %s", err, r.stderr)
			}
			if jobs, _ := filepath.Glob(filepath.Join(p.state, "*", "*", "*", "JOBS", "msgs", "*.blk")); len(jobs) > 0 {
				t.Error("something was enqueued")
			}
		})
	}
}
