package docs

import (
	"slices"
	"strings"
	"testing"
)

// CheckCommands fails the test for every command line of the README and the pages in docs that the program does not take. root
// is the repository's folder, takes parses arguments without running them.
func CheckCommands(t *testing.T, root, program string, takes func(args []string) error) {
	t.Helper()
	blocks, err := Pages(root)
	if err != nil {
		t.Fatal(err)
	}
	commands, err := Commands(blocks, program)
	if err != nil {
		t.Fatal(err)
	}
	if len(commands) < 4 {
		t.Errorf("%d command lines: this test sees nothing", len(commands))
	}
	for _, c := range commands {
		err := takes(c.Args)
		if err != nil && slices.Contains(c.Args, "…") && strings.HasPrefix(err.Error(), "missing flags") {
			continue // the page leaves them out
		}
		if err != nil {
			t.Errorf("%s: %s %q: %v", c, program, c.Args, err)
		}
	}
	if takes([]string{"--no-such-flag"}) == nil {
		t.Error("anything passes")
	}
}
