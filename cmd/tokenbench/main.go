// Command tokenbench measures the broker against a bare reference server, on one machine and in one run: it starts
// redis-server, the reference (package reference), the sandbox provider and the broker as processes of their own, loads them
// in turn, and writes a report. Absolute figures change with the machine and the hour; the ratios of one run are what counts.
//
// Read on in scenario.go (what is measured), stage.go (the processes of one measurement), load.go and generator.go (the
// load), and report.go.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

// Exit statuses.
const (
	exitFine  = 0 // measured, and every must holds
	exitFound = 1 // a must does not hold, or it could not be measured
	exitUsage = 2 // the command line was wrong
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// console is what commands read from and print to.
type console struct {
	in  io.Reader
	out io.Writer
	err io.Writer
}

// cli is the grammar of the command line; the field tags are the help.
type cli struct {
	Run       runCommand       `cmd:"" default:"withargs" help:"Measure, and write a report."`
	Simulate  simulateCommand  `cmd:"" help:"Predict the load of refreshes that so many connections make, in virtual time."`
	Capacity  capacityCommand  `cmd:"" help:"Print what so many connections and requests need, from measured figures."`
	Load      loadCommand      `cmd:"" hidden:"" help:"The load generator; a plan on standard input, its result on standard output."`
	Reference referenceCommand `cmd:"" hidden:"" help:"The reference server."`
	Provider  providerCommand  `cmd:"" hidden:"" help:"The sandbox provider."`
}

// errNotHeld: it was measured, and something that must hold does not.
var errNotHeld = errors.New("something that must hold does not: see the report")

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	helped := false
	parser, err := kong.New(&cli{},
		kong.Name("tokenbench"),
		kong.Description("Measures tokenbroker against a bare reference server."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(int) { helped = true }),
		kong.Bind(&console{in: stdin, out: stdout, err: stderr}),
		kong.BindTo(ctx, (*context.Context)(nil)),
	)
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "tokenbench:", err)
		return exitFound
	}
	parsed, err := parser.Parse(args)
	if helped {
		return exitFine
	}
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "tokenbench: %v; see tokenbench --help\n", err)
		return exitUsage
	}
	if err := parsed.Run(); err != nil {
		_, _ = fmt.Fprintln(stderr, "tokenbench:", err)
		return exitFound
	}
	return exitFine
}
