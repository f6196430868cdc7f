package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"tokenbroker/vault"
)

type auditProveCommand struct {
	Config       string   `required:"" placeholder:"FILE" help:"The configuration file."`
	Event        string   `required:"" placeholder:"ID" help:"The event's id; write --event=ID, for some begin with a dash."`
	Out          string   `required:"" placeholder:"FILE" help:"The file to make; it must not exist. It has the event in clear."`
	Tenant       string   `placeholder:"TENANT" help:"The event's tenant, and"`
	Subject      string   `placeholder:"SUBJECT" help:"its subject: with them it is found quickly, else the whole trail is read."`
	Checkpoints  []string `placeholder:"FILE" help:"Files with published checkpoints, as for verify."`
	Key          []string `placeholder:"KEY" help:"Public keys, as for verify."`
	Installation []string `placeholder:"NAME" help:"More installations that may have signed, as for verify."`
}

// Run reads only; brokers may run meanwhile.
func (c *auditProveCommand) Run(ctx context.Context, con *console) error {
	if c.Subject != "" && c.Tenant == "" {
		return &usageError{"--subject needs --tenant: subjects belong to a tenant"}
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
	if len(by.Keys) == 0 {
		return &usageError{"a proof needs a trail that is signed: --key, or audit.signing_key in the configuration"}
	}
	sources, err := trail.checkpoints(c.Checkpoints, con)
	if err != nil {
		return err
	}
	proof, err := trail.store.Prove(ctx, vault.ProofQuery{Event: c.Event, Tenant: c.Tenant, Subject: c.Subject}, by, sources)
	if err != nil {
		return err
	}
	// What it makes must be good for somebody who has nothing else.
	if _, _, err := vault.VerifyProof(proof, by); err != nil {
		return err
	}
	if err := newFile(c.Out, proof); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(con.out, "%s proves event %s; verify it with: tokenbroker audit verify --proof %s --key KEY --installation NAME\n", c.Out, c.Event, c.Out)
	return nil
}

// newFile writes a file that must not be there, for its owner alone.
func newFile(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("%s can't be made: %s; choose another name", path, withoutPath(err))
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		_ = os.Remove(path)
		return fmt.Errorf("%s can't be written: %s", path, withoutPath(err))
	}
	return nil
}

// maxProof bounds a proof: some kilobytes, and an entry has a few hundred scopes at most.
const maxProof = 4 << 20

// proof verifies one offline.
func (c *auditVerifyCommand) proof(con *console) error {
	by, err := c.offline()
	if err != nil {
		return err
	}
	if len(by.Keys) == 0 {
		return &usageError{"--proof needs --key, the public key of the installation from a place that you trust: tokenbroker audit key prints it"}
	}
	content, err := readBounded(c.Proof, maxProof)
	if err != nil {
		return fmt.Errorf("the proof %s can't be read: %s", c.Proof, withoutPath(err))
	}
	event, checkpoint, err := vault.VerifyProof(content, by)
	if err != nil {
		return fmt.Errorf("%s proves nothing: %w", c.Proof, err)
	}
	line, err := event.Line()
	if err != nil {
		return err
	}
	of := "of " + checkpoint.Installation
	if checkpoint.Installation == "" {
		of = "of an installation that is not named, as the checkpoint is of an older form"
	}
	_, _ = fmt.Fprintf(con.out, "%s\nproven: this event is in the audit trail %s, as signed with key %s at %s (checkpoint %d of log %s)\n",
		line, of, checkpoint.KeyID, checkpoint.Time.Format(time.RFC3339), checkpoint.Seq, checkpoint.Log)
	return nil
}
