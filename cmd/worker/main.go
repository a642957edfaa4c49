// Command worker runs stages on the items of every open campaign of a NATS server.
package main

import (
	"os"

	"github.com/hallmark-attest/hallmark/internal/command"
)

func main() {
	os.Exit(run(os.Args[1:], command.Streams{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}))
}
