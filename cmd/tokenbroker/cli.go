package main

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"tokenbroker/vault"
)

// cli is the grammar of the command line; the field tags are the help.
type cli struct {
	Dev       devCommand       `cmd:"" help:"Run everything in one process on loopback: sandbox provider, demo chat, in-process Redis. Not for production."`
	Serve     serveCommand     `cmd:"" help:"Run the broker."`
	Config    configCommand    `cmd:"" help:"Check a configuration file."`
	Keyset    keysetCommand    `cmd:"" help:"Manage the encryption keyset."`
	Client    clientCommand    `cmd:"" help:"Make API keys for clients."`
	Connector connectorCommand `cmd:"" help:"List the connectors of the catalogue, and what is known of each."`
	Audit     auditCommand     `cmd:"" help:"Check the audit trail."`
	Version   versionCommand   `cmd:"" help:"Print version, commit and Go version."`
}

type configCommand struct {
	Check configCheckCommand `cmd:"" help:"Read the file as serve would and print every problem with its line."`
}

type configCheckCommand struct {
	Config string `required:"" placeholder:"FILE" help:"The configuration file."`
}

// Run reports problems as errors, and what is merely worth knowing as notes.
func (c *configCheckCommand) Run(con *console) error {
	env := con.env
	env.trySpool, env.tryPlaces = vault.CheckSpoolDir, true
	cfg, err := LoadConfig(c.Config, env)
	if err != nil {
		return err
	}
	for _, note := range cfg.Notes {
		_, _ = fmt.Fprintln(con.out, "note:", note)
	}
	_, _ = fmt.Fprintf(con.out, "%s is fine: %s, %s\n", c.Config, count(len(cfg.Clients), "client"), count(len(cfg.Connectors), "connector"))
	return nil
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// usageError is an error about the command line, found after it was parsed.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

// runCommand parses the command line, runs the command and turns its error into text and exit status.
func runCommand(ctx context.Context, args []string, con *console) int {
	helped := false
	parser, err := kong.New(&cli{},
		kong.Name("tokenbroker"),
		kong.Description("Keeps users' grants at upstream services and hands out short-lived tokens for them."),
		kong.Writers(con.out, con.err),
		kong.UsageOnError(),
		kong.Vars{"kek_forms": kekForms},
		kong.Exit(func(int) { helped = true }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}),
		kong.TypeMapper(reflect.TypeFor[string](), kong.MapperFunc(textFlag)),
		kong.TypeMapper(reflect.TypeFor[time.Duration](), kong.MapperFunc(durationFlag)),
		kong.Bind(con),
		kong.BindTo(ctx, (*context.Context)(nil)),
	)
	if err != nil {
		con.complain(err)
		return exitFound
	}
	parsed, err := parser.Parse(args)
	if helped {
		return exitFine
	}
	if err != nil {
		_, _ = fmt.Fprintf(con.err, "tokenbroker: %s; see %s\n", oneLineOf(err), helpFor(err))
		return exitUsage
	}
	if err := parsed.Run(); err != nil {
		con.complain(err)
		var usage *usageError
		if errors.As(err, &usage) {
			return exitUsage
		}
		return exitFound
	}
	return exitFine
}

// textFlag reads a flag's text; the library's own complaints are about its insides.
func textFlag(ctx *kong.DecodeContext, target reflect.Value) error {
	text, err := flagValue(ctx)
	if err != nil {
		return err
	}
	target.SetString(text)
	return nil
}

// durationFlag reads a flag's length of time.
func durationFlag(ctx *kong.DecodeContext, target reflect.Value) error {
	text, err := flagValue(ctx)
	if err != nil {
		return err
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return errors.New("must be a length of time, such as 90s or 2m")
	}
	target.SetInt(int64(d))
	return nil
}

// flagValue takes what stands behind a flag.
func flagValue(ctx *kong.DecodeContext) (string, error) {
	if next := ctx.Scan.Peek(); !next.IsValue() {
		return "", errors.New("needs a value")
	}
	return fmt.Sprint(ctx.Scan.Pop().Value), nil
}

// helpFor names the help of the command that the arguments had reached.
func helpFor(err error) string {
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context != nil {
		if node := parse.Context.Selected(); node != nil {
			return node.FullPath() + " --help"
		}
	}
	return "tokenbroker --help"
}

// complain prints an error: one line, or one line for each problem of a configuration.
func (c *console) complain(err error) {
	var config *configError
	if errors.As(err, &config) {
		_, _ = fmt.Fprintln(c.err, config.Error())
		return
	}
	_, _ = fmt.Fprintln(c.err, "tokenbroker:", oneLineOf(err))
}

// oneLineOf keeps an error on its line, whatever it quotes.
func oneLineOf(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' }), " ")
}
