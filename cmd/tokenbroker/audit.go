package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

type auditCommand struct {
	Verify auditVerifyCommand `cmd:"" help:"Walk the audit trail; name the first event that was changed, dropped or reordered."`
	Prove  auditProveCommand  `cmd:"" help:"Make a proof of one event, which needs nothing but a public key to be verified."`
	Export auditExportCommand `cmd:"" help:"Write events, or all of the trail, to a file that verifies on its own."`
	Key    auditKeyCommand    `cmd:"" help:"Make the keys that sign the audit trail, and print their public halves."`
}

type auditVerifyCommand struct {
	Config      string   `placeholder:"FILE" help:"The configuration file."`
	Checkpoints []string `placeholder:"FILE" help:"Files with checkpoints that were published outside of Redis, beside those that the configuration names."`
	Key         []string `placeholder:"KEY" help:"Public keys that checkpoints are signed with, or files that hold them, beside those in audit.signing_key."`
	Archive     []string `placeholder:"FILE" help:"Verify these archives or exports, offline; with --key the signatures too. No configuration is needed."`
	More        []string `arg:"" optional:"" name:"file" help:"With --archive: more of them."`
	Proof       string   `placeholder:"FILE" help:"Verify this proof of one event, offline; needs --key and no configuration."`
	Unsigned    bool     `help:"With --archive and --key: let entries pass that no checkpoint has."`
	Strict      bool     `help:"Take entries that no checkpoint has, although later ones are signed, for tampered with."`
}

// verifyTimeout bounds a walk over the whole trail; a long one has millions of entries.
const verifyTimeout = 12 * time.Hour

// Run reads only; brokers may run meanwhile.
func (c *auditVerifyCommand) Run(ctx context.Context, con *console) error {
	switch {
	case len(c.More) > 0 && len(c.Archive) == 0:
		return &usageError{"unexpected argument " + c.More[0] + "; see tokenbroker audit verify --help"}
	case c.Proof != "":
		return c.proof(con)
	case len(c.Archive) > 0:
		return c.archive(con)
	}
	if c.Config == "" {
		return &usageError{"--config is needed; see tokenbroker audit verify --help"}
	}
	trail, err := openTrail(c.Config, con)
	if err != nil {
		return err
	}
	defer trail.close()
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	// A store that does not answer is an error at once, not after the patience that a long walk has.
	if err := firstAnswer(ctx, trail.backend); err != nil {
		return err
	}
	keys, err := trail.keys(c.Key)
	if err != nil {
		return err
	}
	var report vault.Report
	if len(keys) == 0 {
		if len(c.Checkpoints) > 0 {
			return &usageError{"--checkpoints needs the public key that they are signed with: --key, or audit.signing_key in the configuration"}
		}
		report, err = trail.store.Verify(ctx)
	} else {
		var sources []vault.CheckpointSource
		if sources, err = trail.checkpoints(c.Checkpoints, con); err != nil {
			return err
		}
		report, err = trail.store.VerifySigned(ctx, keys, sources)
	}
	if err != nil {
		return fmt.Errorf("the trail could not be read to its end: %w", err)
	}
	if s := report.Signed; s != nil && s.Unsigned > 0 {
		what := fmt.Sprintf("%s no checkpoint, although later ones are signed, the first event is %s: a broker that was killed leaves what it wrote in its last seconds, and so does who writes with the keyset alone",
			counted(s.Unsigned, "entry has", "entries have"), s.FirstUnsigned.Place())
		if c.Strict {
			report.Faults = append(report.Faults, vault.Fault{Stream: s.FirstUnsigned.Stream, Entry: s.FirstUnsigned.Entry, Event: s.FirstUnsigned.Event, What: "forged: " + what})
		} else {
			_, _ = fmt.Fprintln(con.out, "note:", what)
		}
	}
	return told(con, report)
}

// told prints what verifying found.
func told(con *console, report vault.Report) error {
	if report.Alarms > 0 {
		_, _ = fmt.Fprintf(con.out, "note: %s that a record did not belong where it lay (integrity.failed), among them %s: somebody may have written to Redis, or the keyset is a wrong one\n",
			counted(report.Alarms, "entry says", "entries say"), report.FirstAlarm)
	}
	if len(report.Faults) == 0 {
		_, _ = fmt.Fprintf(con.out, "the audit trail is whole: %s in %s of %s%s%s\n",
			count(report.Events, "event"), counted(report.Entries, "entry", "entries"), count(report.Streams, "stream"), signedText(report.Signed), dropped(report.Dropped)+erased(report.Erased))
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

func signedText(s *vault.SignedReport) string {
	if s == nil {
		return ""
	}
	return fmt.Sprintf("; %s as %s of %s, signed, have them", counted(s.Entries, "entry is", "entries are"), count(s.Checkpoints, "checkpoint"), count(s.Logs, "log"))
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

// erased tells of what nobody can read any more.
func erased(entries int) string {
	if entries == 0 {
		return ""
	}
	return fmt.Sprintf("; %s of erased tenants can't be read, their keysets were destroyed, and are in their places in the chain", counted(entries, "entry", "entries"))
}

func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
