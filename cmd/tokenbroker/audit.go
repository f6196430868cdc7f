package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

type auditCommand struct {
	Verify auditVerifyCommand `cmd:"" help:"Walk the audit trail; name the first event that was changed, dropped or reordered."`
}

type auditVerifyCommand struct {
	Config string `required:"" placeholder:"FILE" help:"The configuration file."`
}

// verifyTimeout bounds a walk over the whole trail; a long one has millions of entries.
const verifyTimeout = 12 * time.Hour

// Run reads only; brokers may run meanwhile.
func (c *auditVerifyCommand) Run(ctx context.Context, con *console) error {
	cfg, err := LoadConfig(c.Config, con.env)
	if err != nil {
		return err
	}
	log := newLogger(con.err, cfg.LogLevel)
	adoptLibraryLogs(log)
	backend, err := redisstore.New(cfg.redisStore())
	if err != nil {
		return err
	}
	defer func() { _ = backend.Close() }()
	// Without a spool: that belongs to the broker that runs.
	store, err := vault.New(vault.Config{Backend: backend, Keyset: cfg.Keys, Now: time.Now, Random: rand.Reader, Log: log})
	if err != nil {
		return err
	}
	defer store.Close()
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	// A store that does not answer is an error at once, not after the patience that a long walk has.
	if err := firstAnswer(ctx, backend); err != nil {
		return err
	}
	report, err := store.Verify(ctx)
	if err != nil {
		return fmt.Errorf("the trail could not be read to its end: %w", err)
	}
	if len(report.Faults) == 0 {
		_, _ = fmt.Fprintf(con.out, "the audit trail is whole: %s in %s of %s%s\n",
			count(report.Events, "event"), counted(report.Entries, "entry", "entries"), count(report.Streams, "stream"), dropped(report.Dropped))
		return nil
	}
	// What nobody but a tamperer does comes first.
	slices.SortStableFunc(report.Faults, func(a, b vault.Fault) int {
		switch {
		case a.Lost == b.Lost:
			return 0
		case b.Lost:
			return -1
		}
		return 1
	})
	for _, f := range report.Faults[1:] {
		_, _ = fmt.Fprintf(con.out, "also bad: %s: %s\n", f.Place(), f.What)
	}
	first, all := report.Faults[0], counted(len(report.Faults), "bad place", "bad places")
	if first.Lost {
		return fmt.Errorf("the audit trail has gaps, and is otherwise as it was written: the first bad event is %s: %s, in a crash or failover or because somebody set it back: compare with when Redis last started or changed its master; %s in all",
			first.Place(), first.What, all)
	}
	return fmt.Errorf("the audit trail was tampered with: the first bad event is %s: %s; what lies behind it in that stream was not looked at; %s in all",
		first.Place(), first.What, all)
}

func firstAnswer(ctx context.Context, backend *redisstore.Store) error {
	ctx, cancel := context.WithTimeout(ctx, startCheckTimeout)
	defer cancel()
	return backend.Health(ctx)
}

// dropped tells of what is missing because events are not kept for good.
func dropped(entries int) string {
	if entries == 0 {
		return ""
	}
	return fmt.Sprintf("; %s before them were dropped, as audit.retention says", counted(entries, "entry", "entries"))
}

func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
