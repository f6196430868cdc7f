package main

import (
	"context"
	"fmt"
	"strings"
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
	return c.staged(ctx, con, keysetChange{KeysetEdit: vault.KeysetEdit{Do: vault.KeysetAdd, Audit: c.Audit, Tenant: c.Tenant}})
}

// keysetKeyCommand is a change of one key.
type keysetKeyCommand struct {
	keysetTarget
	Key    uint32 `arg:"" name:"key" help:"The key's id, as keyset list shows it."`
	Tenant string `placeholder:"TENANT" help:"The keyset of this tenant."`
}

// change is the change of the key.
func (c *keysetKeyCommand) change(do vault.KeysetAction) keysetChange {
	return keysetChange{KeysetEdit: vault.KeysetEdit{Do: do, Key: c.Key, Tenant: c.Tenant}}
}

type (
	keysetDisableCommand struct{ keysetKeyCommand }
	keysetEnableCommand  struct{ keysetKeyCommand }
)

type keysetPromoteCommand struct {
	keysetKeyCommand
	Wait time.Duration `placeholder:"DURATION" help:"Wait so long for the replicas that have not loaded the key yet; needs --config."`
}

// Run makes the key the one that seals.
func (c *keysetPromoteCommand) Run(ctx context.Context, con *console) error {
	switch {
	case c.Wait < 0:
		return &usageError{"--wait must not be negative"}
	case c.Wait > 0 && c.Config == "":
		return &usageError{"--wait needs --config: only Redis tells which replicas have loaded the key"}
	}
	change := c.change(vault.KeysetPromote)
	change.wait = c.Wait
	return c.staged(ctx, con, change)
}

// Run makes the key open nothing any more, which can be taken back.
func (c *keysetDisableCommand) Run(ctx context.Context, con *console) error {
	return c.staged(ctx, con, c.change(vault.KeysetDisable))
}

// Run takes that back.
func (c *keysetEnableCommand) Run(ctx context.Context, con *console) error {
	return c.staged(ctx, con, c.change(vault.KeysetEnable))
}

type keysetDeleteCommand struct {
	keysetKeyCommand
	After time.Duration `default:"24h" help:"How long no record must have been sealed with the key. Shorter is a risk: records that a failover of Redis or a restored backup brings back under the key are lost for good."`
}

// Run removes a disabled key for good.
func (c *keysetDeleteCommand) Run(ctx context.Context, con *console) error {
	if c.After < 0 {
		return &usageError{"--after must not be negative"}
	}
	change := c.change(vault.KeysetDelete)
	change.after = c.After
	return c.staged(ctx, con, change)
}

// staged makes the change, and says what to do next.
func (t keysetTarget) staged(ctx context.Context, con *console, change keysetChange) error {
	return t.change(ctx, con, change, func(o *openedKeyset, key uint32, _ []byte) (string, error) {
		return fmt.Sprintf("%s: key %d %s.%s", o.File, key, change.Do.Past(), afterwards(change.Do)), nil
	})
}

// change makes the change of the file, after asking whoever has something to say against it. The file is replaced at once, so that a
// running broker reads the old or the new one. done says what came of it, from the key and the file's new content.
func (t keysetTarget) change(ctx context.Context, con *console, change keysetChange, done func(o *openedKeyset, key uint32, content []byte) (string, error)) error {
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
		content, key, err := vault.EditKeyset(o.content, kek, change.KeysetEdit, time.Now())
		return edited{content, key}, err
	})
	if err != nil {
		return err
	}
	note := unchecked(change.Do)
	if o.store != nil {
		note = ""
		missing := func(ctx context.Context) ([]string, error) { return o.missing(ctx, change) }
		if err := t.agreed(ctx, con, change.wait, missing, func(why []string) error { return refused(change, why) }); err != nil {
			return err
		}
	}
	if err := o.replace(after.content); err != nil {
		return err
	}
	text, err := done(o, after.key, after.content)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintln(con.out, text)
	if note != "" {
		_, _ = fmt.Fprintln(con.out, note)
	}
	return nil
}

// agreed is the error of a change that something speaks against, unless it is to be made in spite of that.
func (t keysetTarget) agreed(ctx context.Context, con *console, wait time.Duration, missing func(context.Context) ([]string, error), refused func(why []string) error) error {
	why, err := await(ctx, con, wait, missing)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("interrupted, and nothing was changed: %w", ctx.Err())
	case err != nil && !t.Force:
		return err
	case err != nil:
		why = append(why, err.Error())
	}
	if len(why) > 0 && !t.Force {
		return refused(why)
	}
	for _, w := range why {
		_, _ = fmt.Fprintln(con.out, "in spite of this:", w)
	}
	return nil
}

// waitLook is the pause between two looks at what speaks against a change.
const waitLook = time.Second

// await is missing, asked until nothing speaks against the change or its time to wait is over. What is waited for is told as it changes.
func await(ctx context.Context, con *console, wait time.Duration, missing func(context.Context) ([]string, error)) ([]string, error) {
	end, told := time.Now().Add(wait), ""
	for {
		why, err := missing(ctx)
		if err != nil || len(why) == 0 || !time.Now().Before(end) {
			return why, err
		}
		if text := strings.Join(why, "; "); text != told {
			told = text
			_, _ = fmt.Fprintf(con.out, "waiting, until %s at most: %s\n", end.Format(time.RFC3339), text)
		}
		timer := time.NewTimer(min(waitLook, time.Until(end)))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		case <-timer.C:
		}
	}
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
