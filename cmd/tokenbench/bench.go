package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// runCommand measures.
type runCommand struct {
	Scenario     []string      `placeholder:"NAME" help:"What to measure; may be given more than once. Left out: all. tokenbench --list prints them."`
	List         bool          `help:"Print the scenarios and end."`
	Rounds       int           `default:"5" help:"How often each comparison is made; the report has the medians."`
	Span         time.Duration `default:"5s" help:"How long each load is counted."`
	Quick        bool          `help:"One short round of everything, in about a minute: shows that all works, not how fast it is."`
	Out          string        `placeholder:"FILE" help:"Where the report goes. Left out: deploy/bench/DATE-bench.md; -: standard output."`
	Broker       string        `placeholder:"FILE" help:"A tokenbroker that is built already. Left out: it is built from this repository."`
	Dir          string        `placeholder:"DIR" help:"Where Redis and the broker keep their files, in a directory of its own that is removed afterwards. It should be on a disk. Left out: the temporary directory."`
	FastBuild    bool          `hidden:"" help:"Build the broker with the cache of go test; the program is not quite that of make build."`
	AutoPipeline bool          `help:"In the scenario tokens, also load a reference whose concurrent requests share their writes to Redis. For information."`
	Profile      bool          `help:"In the scenarios tokens and refresh, also profile the broker, which is built with -tags profile then; the profiles go beside the report."`
}

// bench is one run. It owns everything that it starts.
type bench struct {
	options       runCommand
	con           *console
	self          string // this program
	dir           string // everything is in it
	redisProgram  string
	redisConf     string
	began         time.Time
	brokerProgram string

	mu       sync.Mutex
	children []*process
	kept     kept
}

// Run measures what is chosen and writes the report.
func (c *runCommand) Run(ctx context.Context, con *console) (err error) {
	if c.List {
		for _, s := range scenarios() {
			_, _ = fmt.Fprintf(con.out, "%-10s %s\n", s.name(), s.about())
		}
		return nil
	}
	chosen, err := chosenScenarios(c.Scenario)
	if err != nil {
		return err
	}
	if c.Quick {
		c.Rounds, c.Span = 1, min(c.Span, 500*time.Millisecond)
	}
	if c.Rounds < 1 || c.Span < 100*time.Millisecond {
		return errors.New("--rounds must be 1 or more, --span 100ms or more")
	}
	b, err := newBench(ctx, *c, con)
	if err != nil {
		return err
	}
	defer b.close()
	r := report{date: b.began, machine: lookAtMachine(b.redisProgram, b.dir), how: c.line(), quick: c.Quick}
	for _, s := range chosen {
		b.say("%s: %s", s.name(), s.about())
		found, err := s.run(ctx, b)
		b.endChildren()
		if err != nil {
			return fmt.Errorf("%s: %w", s.name(), errors.Join(ctx.Err(), err))
		}
		r.sections = append(r.sections, found)
	}
	r.took = time.Since(r.date)
	if err := c.write(&r, con); err != nil {
		return err
	}
	if failed := r.failed(); len(failed) > 0 && !c.Quick {
		for _, d := range failed {
			b.say("FAILS: %s is %s%s, must be %s%s", d.what, figure(d.have), d.unit, figure(d.want), d.unit)
		}
		return errNotHeld
	}
	return nil
}

// line is the command as somebody else would type it.
func (c *runCommand) line() string {
	line := "make bench"
	args := ""
	for _, s := range c.Scenario {
		args += " --scenario " + s
	}
	if c.Quick {
		args += " --quick"
	} else if c.Rounds != 5 || c.Span != 5*time.Second {
		args += fmt.Sprintf(" --rounds %d --span %s", c.Rounds, c.Span)
	}
	if c.AutoPipeline {
		args += " --auto-pipeline"
	}
	if c.Profile {
		args += " --profile"
	}
	if args != "" {
		line += ` BENCH="` + args[1:] + `"`
	}
	return line
}

// write puts the report where it belongs.
func (c *runCommand) write(r *report, con *console) error {
	text := r.markdown()
	if c.Out == "-" {
		_, err := fmt.Fprint(con.out, text)
		return err
	}
	file := c.reportFile(r.date)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	_, _ = fmt.Fprintln(con.err, "report:", file)
	return nil
}

func (c *runCommand) reportFile(date time.Time) string {
	if c.Out != "" {
		return c.Out
	}
	return filepath.Join("deploy", "bench", date.Format(time.DateOnly)+"-bench.md")
}

func newBench(ctx context.Context, options runCommand, con *console) (*bench, error) {
	b := &bench{options: options, con: con, began: time.Now().UTC()}
	var err error
	if b.redisProgram, err = findRedis(); err != nil {
		return nil, err
	}
	if b.self, err = os.Executable(); err != nil {
		return nil, err
	}
	if b.redisConf, err = findInRepository(filepath.Join("deploy", "redis", "redis.conf")); err != nil {
		return nil, err
	}
	if b.dir, err = os.MkdirTemp(options.Dir, "tokenbench-"); err != nil {
		return nil, err
	}
	if options.Broker != "" {
		b.brokerProgram, err = filepath.Abs(options.Broker)
	} else {
		b.say("building the broker")
		b.brokerProgram, err = b.buildBroker(ctx)
	}
	if err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

// findInRepository looks for a file from here upwards.
func findInRepository(name string) (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("%s is not found: run tokenbench in the repository", name)
		}
		dir = up
	}
}

// say tells whoever waits how far it is.
func (b *bench) say(format string, args ...any) {
	_, _ = fmt.Fprintf(b.con.err, format+"\n", args...)
}

// start starts a child that ends with the scenario, at the latest.
func (b *bench) start(name, dir string, env []string, program string, args ...string) (*process, error) {
	p, err := startProcess(name, dir, env, program, args...)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.kept.open {
		b.kept.children = append(b.kept.children, p)
		return p, nil
	}
	b.children = append(b.children, p)
	return p, nil
}

// endChildren stops what still runs, the last started first.
func (b *bench) endChildren() {
	b.mu.Lock()
	children := b.children
	b.children = nil
	b.mu.Unlock()
	for _, p := range slices.Backward(children) {
		p.stop()
	}
}

func (b *bench) close() {
	b.endChildren()
	b.kept.end()
	if err := os.RemoveAll(b.dir); err != nil {
		b.say("the files could not be removed: %v", err)
	}
}
