package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/hallmark-attest/hallmark/internal/command"
	"github.com/hallmark-attest/hallmark/internal/docs"
)

// TestDocumentedCommands: every command line of the README and the pages in docs is one that the program takes.
func TestDocumentedCommands(t *testing.T) {
	blocks, err := docs.Pages("../..")
	if err != nil {
		t.Fatal(err)
	}
	commands, err := docs.Commands(blocks, "producer")
	if err != nil {
		t.Fatal(err)
	}
	if len(commands) < 4 {
		t.Errorf("%d command lines: this test sees nothing", len(commands))
	}
	for _, c := range commands {
		err := command.Check("producer", new(grammar), c.Args)
		if err != nil && slices.Contains(c.Args, "…") && strings.HasPrefix(err.Error(), "missing flags") {
			continue // the page leaves them out
		}
		if err != nil {
			t.Errorf("%s: producer %q: %v", c, c.Args, err)
		}
	}
	if command.Check("producer", new(grammar), []string{"--no-such-flag"}) == nil {
		t.Error("anything passes")
	}
}
