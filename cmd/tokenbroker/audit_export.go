package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/sinks"
)

type auditExportCommand struct {
	Config       string   `required:"" placeholder:"FILE" help:"The configuration file."`
	Out          string   `required:"" placeholder:"FILE" help:"The file to make, JSON Lines compressed with zstd; it must not exist. It has events in clear."`
	Tenant       string   `placeholder:"TENANT" help:"Only of this tenant."`
	Subject      string   `placeholder:"SUBJECT" help:"Only about this subject."`
	Connector    string   `placeholder:"ID" help:"Only about this connector."`
	Type         string   `placeholder:"TYPE" help:"Only of this type, such as token.issued."`
	Since        string   `placeholder:"TIME" help:"Only from this time on: a day such as 2026-11-30, or RFC 3339."`
	Until        string   `placeholder:"TIME" help:"Only before this time."`
	Checkpoints  []string `placeholder:"FILE" help:"Files with published checkpoints, as for verify."`
	Key          []string `placeholder:"KEY" help:"Public keys, as for verify."`
	Installation []string `placeholder:"NAME" help:"More installations that may have signed, as for verify."`
}

// Run reads only; brokers may run meanwhile.
func (c *auditExportCommand) Run(ctx context.Context, con *console) error {
	if kind := broker.EventType(c.Type); kind != "" && !kind.Known() {
		return &usageError{"--type must be a type of events: " + broker.EventTypeList()}
	}
	q := vault.ExportQuery{Tenant: c.Tenant, Subject: c.Subject, Connector: c.Connector, Type: broker.EventType(c.Type)}
	for _, t := range []struct {
		flag, text string
		to         *time.Time
	}{{"--since", c.Since, &q.Since}, {"--until", c.Until, &q.Until}} {
		if t.text == "" {
			continue
		}
		at, err := time.Parse(time.RFC3339, t.text)
		if err != nil {
			at, err = time.Parse(time.DateOnly, t.text)
		}
		if err != nil {
			return &usageError{t.flag + " must be a day such as 2026-11-30, or a time such as 2026-11-30T08:00:00Z"}
		}
		*t.to = at
	}
	if _, err := os.Lstat(c.Out); err == nil {
		return fmt.Errorf("%s exists already: choose another name", c.Out)
	}
	trail, err := openTrail(c.Config, con)
	if err != nil {
		return err
	}
	defer trail.close()
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	if err := firstAnswer(ctx, trail.backend); err != nil {
		return err
	}
	by, err := trail.signers(c.Key, c.Installation)
	if err != nil {
		return err
	}
	sources, err := trail.checkpoints(c.Checkpoints, con)
	if err != nil {
		return err
	}
	var report vault.Report
	var entries int
	if err := sinks.WriteArchive(c.Out, func(w io.Writer) (err error) {
		entries, report.Events, report.Faults, err = trail.store.Export(ctx, w, q, by, sources)
		return err
	}); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(con.out, "%s has %s in %s; verify it with: tokenbroker audit verify --archive %s --key KEY --installation NAME\n", c.Out, count(report.Events, "event"), counted(entries, "entry", "entries"), c.Out)
	if len(report.Faults) > 0 {
		return told(con, report)
	}
	return nil
}

// archive verifies files offline.
func (c *auditVerifyCommand) archive(con *console) error {
	by, err := c.offline()
	if err != nil {
		return err
	}
	var files []vault.ArchiveFile
	for _, name := range append(slices.Clone(c.Archive), c.More...) {
		f, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("the archive %s can't be read: %s", name, withoutPath(err))
		}
		defer func() { _ = f.Close() }()
		unpacked, err := sinks.ReadArchive(f)
		if err != nil {
			return fmt.Errorf("the archive %s: %w", name, err)
		}
		defer func() { _ = unpacked.Close() }()
		files = append(files, vault.ArchiveFile{Name: filepath.Base(name), From: unpacked})
	}
	r := vault.VerifyArchive(files, by)
	if len(r.Faults) > 0 {
		for _, f := range r.Faults[1:] {
			_, _ = fmt.Fprintf(con.out, "also bad: %s: %s\n", f.Place(), f.What)
		}
		first := r.Faults[0]
		return fmt.Errorf("the archive is not as it was written: the first bad event is %s: %s; %s in all. Take another copy of the file; where there is none, what is before that place is good, and other files are",
			first.Place(), first.What, counted(len(r.Faults), "bad place", "bad places"))
	}
	if len(by.Keys) > 0 && r.Signed < r.Entries && !c.Unsigned {
		f := r.FirstUnsigned
		return fmt.Errorf("the archive is not as it was signed: %s of %d in it have no checkpoint, and such a chain anybody can write; the first of them is %s. If they are from before the trail was signed, or the last of a broker "+
			"that was killed, say so with --unsigned; if a checkpoint is in the file before this one, give both", counted(r.Entries-r.Signed, "entry", "entries"), r.Entries, f.Place())
	}
	what := "whole"
	if r.Selection {
		what = "a selection, and as it was written"
	}
	signed := fmt.Sprintf("%s in %s%s", counted(r.Signed, "is signed", "are signed"), count(r.Checkpoints, "checkpoint"), byWhom(r.SignedBy))
	if len(by.Keys) == 0 {
		signed = "signatures were not looked at, for want of --key"
	}
	_, _ = fmt.Fprintf(con.out, "the archive is %s: %s in %s; %s\n", what, count(r.Events, "event"), counted(r.Entries, "entry", "entries"), signed)
	unnamed(con, r.SignedBy)
	if r.Erased > 0 {
		_, _ = fmt.Fprintf(con.out, "note: %s of tenants whose keyset was destroyed; that they were there is all that can be told of them\n", counted(r.Erased, "entry is", "entries are"))
	}
	return nil
}
