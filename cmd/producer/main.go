// Command producer is the operator's tool: it publishes and submits packages, and shows, watches, verifies and inspects
// what became of them.
package main

import (
	"os"

	"github.com/hallmark-attest/hallmark/internal/command"
)

func main() {
	os.Exit(run(os.Args[1:], command.Streams{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}))
}
