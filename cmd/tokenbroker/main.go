// Command tokenbroker hands short-lived, user-scoped access tokens of upstream services to chatbot backends. It is the
// only package that knows every other one: it reads the configuration, joins the parts and runs them.
//
// Read on in cli.go (commands), config.go (the file) and serve.go (how the parts are joined).
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Exit statuses of every command (contract.md).
const (
	exitFine  = 0 // it did what was asked
	exitFound = 1 // it ran and found something wrong
	exitUsage = 2 // the command line was wrong
)

func main() {
	// The first signal begins an orderly end. Further ones are ignored, because what is still running may be the storing
	// of a refresh token. The wait is bounded all the same: by shutdown_delay and shutdown_timeout, and then by the
	// deadlines of what is not cut off: a request that is on its way to a provider (35 s) and the storing of its answer.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	endProfiles := startProfiles(os.Stderr)
	status := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	endProfiles()
	stop()
	os.Exit(status)
}

// run is the program without its process.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return runCommand(ctx, args, &console{in: stdin, out: stdout, err: stderr, env: processEnvironment()})
}

// console is what commands print to and read from.
type console struct {
	in  io.Reader
	out io.Writer
	err io.Writer
	env environment
}
