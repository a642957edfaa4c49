package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/hallmark-attest/hallmark/internal/command"
)

func TestMain(m *testing.M) {
	testscript.Main(unleaking{m}, map[string]func(){"producer": func() {
		os.Exit(run(os.Args[1:], command.Streams{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}))
	}})
}

// unleaking fails if a goroutine outlives the tests.
type unleaking struct{ m *testing.M }

func (u unleaking) Run() int {
	code := u.m.Run()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// TestScripts runs the commands as a user types them: testdata/*.txtar. What needs a Sigstore is in internal/e2e; here a
// recorded attestation stands for it.
func TestScripts(t *testing.T) {
	t.Parallel()
	recorded, err := filepath.Abs("testdata/recorded")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:           "testdata",
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir)
			return os.CopyFS(filepath.Join(env.WorkDir, "recorded"), os.DirFS(recorded))
		},
	})
}
