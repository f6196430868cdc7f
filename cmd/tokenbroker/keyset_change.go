package main

import (
	"context"
	"fmt"
	"time"

	"tokenbroker/vault"
)

// The commands that change a keyset in stages.

type keysetAddCommand struct {
	keysetTarget
	Audit  bool   `help:"The key is for entries of the audit trail, not for records."`
	Tenant string `placeholder:"TENANT" help:"The keyset of this tenant."`
}

// Run adds a key that seals nothing yet.
func (c *keysetAddCommand) Run(ctx context.Context, con *console) error {
	return c.change(ctx, con, vault.KeysetEdit{Do: vault.KeysetAdd, Audit: c.Audit, Tenant: c.Tenant})
}

// keysetKeyCommand is a change of one key.
type keysetKeyCommand struct {
	keysetTarget
	Key    uint32 `arg:"" name:"key" help:"The key's id, as keyset list shows it."`
	Tenant string `placeholder:"TENANT" help:"The keyset of this tenant."`
}

func (c *keysetKeyCommand) run(ctx context.Context, con *console, do vault.KeysetAction) error {
	return c.change(ctx, con, vault.KeysetEdit{Do: do, Key: c.Key, Tenant: c.Tenant})
}

type (
	keysetPromoteCommand struct{ keysetKeyCommand }
	keysetDisableCommand struct{ keysetKeyCommand }
	keysetEnableCommand  struct{ keysetKeyCommand }
	keysetDeleteCommand  struct{ keysetKeyCommand }
)

// Run makes the key the one that seals.
func (c *keysetPromoteCommand) Run(ctx context.Context, con *console) error {
	return c.run(ctx, con, vault.KeysetPromote)
}

// Run makes the key open nothing any more, which can be taken back.
func (c *keysetDisableCommand) Run(ctx context.Context, con *console) error {
	return c.run(ctx, con, vault.KeysetDisable)
}

// Run takes that back.
func (c *keysetEnableCommand) Run(ctx context.Context, con *console) error {
	return c.run(ctx, con, vault.KeysetEnable)
}

// Run removes a disabled key for good.
func (c *keysetDeleteCommand) Run(ctx context.Context, con *console) error {
	return c.run(ctx, con, vault.KeysetDelete)
}

// change makes the change of the file, after asking whoever has something to say against it. The file is replaced at once, so that a
// running broker reads the old or the new one.
func (t keysetTarget) change(ctx context.Context, con *console, edit vault.KeysetEdit) error {
	o, err := t.open(ctx, con)
	if err != nil {
		return err
	}
	defer o.close()
	type edited struct {
		content []byte
		key     uint32
	}
	after, err := withKEK(o.File, o.Kek, o.kek, func(kek vault.KEK) (edited, error) {
		content, key, err := vault.EditKeyset(o.content, kek, edit, time.Now())
		return edited{content, key}, err
	})
	if err != nil {
		return err
	}
	note := unchecked(edit.Do)
	if o.store != nil && edit.Do != vault.KeysetAdd && edit.Do != vault.KeysetEnable {
		why, err := o.missing(ctx, edit)
		switch {
		case err != nil && !t.Force:
			return err
		case err != nil:
			why = append(why, err.Error())
		}
		if len(why) > 0 && !t.Force {
			return refused(edit, why)
		}
		note = ""
		for _, w := range why {
			_, _ = fmt.Fprintln(con.out, "in spite of this:", w)
		}
	}
	if err := o.replace(con.env, after.content); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(con.out, "%s: key %d %s.%s\n", o.File, after.key, edit.Do.Past(), afterwards(edit.Do))
	if note != "" {
		_, _ = fmt.Fprintln(con.out, note)
	}
	return nil
}

// afterwards is what to do next.
func afterwards(do vault.KeysetAction) string {
	switch do {
	case vault.KeysetAdd:
		return " It seals nothing until it is promoted. Running brokers take it up by themselves; copy the file to replicas that have their own."
	case vault.KeysetPromote:
		return " Running brokers take it up by themselves, and seal all records anew; copy the file to replicas that have their own."
	case vault.KeysetDisable:
		return " `keyset enable` takes that back; once nothing misses it, `keyset delete` removes it."
	case vault.KeysetDelete:
		return " Destroy the copies of the file that still have it: then backups of Redis from before the records were sealed anew can't be read any more."
	}
	return ""
}
