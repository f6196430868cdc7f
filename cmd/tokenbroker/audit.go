package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
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
	Config       string   `placeholder:"FILE" help:"The configuration file: verify the trail in Redis."`
	Checkpoints  []string `placeholder:"FILE" help:"Files with checkpoints that were published outside of Redis. With --config beside those that it names; without it they are verified alone."`
	Key          []string `placeholder:"KEY" help:"Public keys that checkpoints are signed with, or files that hold them. Only these count then, not those in audit.signing_key."`
	Installation []string `placeholder:"NAME" help:"The name of the installation that may have signed (audit.installation); with --config beside its own. Without any: one, whichever it is."`
	Archive      []string `placeholder:"FILE" help:"Verify these archives or exports, offline; with --key the signatures too."`
	More         []string `arg:"" optional:"" name:"file" help:"With --archive: more of them."`
	Proof        string   `placeholder:"FILE" help:"Verify this proof of one event, offline."`
	Unsigned     bool     `help:"With --archive and --key: let entries pass that no checkpoint has."`
	Strict       bool     `help:"With --config: take entries that no checkpoint has, although later ones are signed, for tampered with."`
}

// Help is what verify --help says beside the flags.
func (auditVerifyCommand) Help() string {
	return `What is verified, and what that needs:

  --config FILE [--checkpoints FILE...] [--key KEY...] [--installation NAME...] [--strict]
      the trail in Redis, against checkpoints if there is a key; needs Redis and the KEK
  --checkpoints FILE... --key KEY... [--installation NAME...]
      published checkpoints alone: signed, and none missing; needs nothing else
  --archive FILE... [--key KEY... [--installation NAME...] [--unsigned]]
      archives and exports; needs nothing else
  --proof FILE --key KEY... [--installation NAME...]
      the proof of one event; needs nothing else`
}

// combined refuses what would not do what it looks like.
func (c *auditVerifyCommand) combined() error {
	offline := len(c.Archive) > 0 || c.Proof != ""
	for _, wrong := range []struct {
		is   bool
		text string
	}{
		{len(c.More) > 0 && len(c.Archive) == 0, "unexpected argument " + strings.Join(c.More[:min(1, len(c.More))], "")},
		{len(c.Archive) > 0 && c.Proof != "", "--archive and --proof are verified one at a time"},
		{offline && c.Config != "", "--archive and --proof are verified offline: leave out --config, and give --key"},
		{offline && len(c.Checkpoints) > 0, "--archive and --proof have their checkpoints in them: leave out --checkpoints"},
		{c.Strict && c.Config == "", "--strict is for --config"},
		{c.Unsigned && (len(c.Archive) == 0 || len(c.Key) == 0), "--unsigned is for --archive with --key"},
		{!offline && c.Config == "" && len(c.Checkpoints) == 0, "--config is needed"},
	} {
		if wrong.is {
			return &usageError{wrong.text + "; see tokenbroker audit verify --help"}
		}
	}
	return nil
}

// offline are the signers that were given.
func (c *auditVerifyCommand) offline() (vault.Signers, error) {
	keys, err := publicKeys(c.Key)
	return vault.Signers{Keys: keys, Installations: c.Installation}, err
}

// verifyTimeout bounds a walk over the whole trail; a long one has millions of entries.
const verifyTimeout = 12 * time.Hour

// Run reads only; brokers may run meanwhile.
func (c *auditVerifyCommand) Run(ctx context.Context, con *console) error {
	if err := c.combined(); err != nil {
		return err
	}
	switch {
	case c.Proof != "":
		return c.proof(con)
	case len(c.Archive) > 0:
		return c.archive(con)
	case c.Config == "":
		return c.published(con)
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
	by, err := trail.signers(c.Key, c.Installation)
	if err != nil {
		return err
	}
	var report vault.Report
	if len(by.Keys) == 0 {
		if len(c.Checkpoints) > 0 {
			return &usageError{"--checkpoints needs the public key that they are signed with: --key, or audit.signing_key in the configuration"}
		}
		report, err = trail.store.Verify(ctx)
	} else {
		var sources []vault.CheckpointSource
		if sources, err = trail.checkpoints(c.Checkpoints, con); err != nil {
			return err
		}
		report, err = trail.store.VerifySigned(ctx, by, sources)
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
	if s := report.Signed; s != nil {
		unnamed(con, s.SignedBy)
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
	return fmt.Sprintf("; %s as %s of %s, signed%s, have them", counted(s.Entries, "entry is", "entries are"), count(s.Checkpoints, "checkpoint"), count(s.Logs, "log"), byWhom(s.SignedBy))
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
