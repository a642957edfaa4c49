package main

import (
	"testing"

	"github.com/hallmark-attest/hallmark/internal/command"
	"github.com/hallmark-attest/hallmark/internal/docs"
)

// TestDocumentedCommands: every command line of the README and the pages in docs is one that the program takes.
func TestDocumentedCommands(t *testing.T) {
	docs.CheckCommands(t, "../..", "producer", func(args []string) error { return command.Check("producer", new(grammar), args) })
}
