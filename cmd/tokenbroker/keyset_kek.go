package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"text/tabwriter"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

// The commands that change the KEK in stages: add the new one, restart the replicas with it, drop the old one. The file of the keys that
// sign the audit trail goes the same way, as the same KEK encrypts it.

type keysetKEKCommand struct {
	Add   keysetKEKAddCommand   `cmd:"" help:"Encrypt the keyset for one more KEK: the first stage of a change. Replicas then start with either."`
	Drop  keysetKEKDropCommand  `cmd:"" help:"Encrypt it no longer for a KEK: the last stage of a change, or the way back."`
	Renew keysetKEKRenewCommand `cmd:"" help:"Wrap it by the same KEK once more: a key management service takes the newest version of its key."`
	List  keysetKEKListCommand  `cmd:"" help:"List the KEKs that it says it is encrypted for."`
}

// besideKeyset names the file of signing keys.
type besideKeyset struct {
	SigningKey string `name:"signing-key" placeholder:"FILE" help:"With --file: the file of audit.signing_key, which the same KEK encrypts. With --config that names it."`
}

type keysetKEKAddCommand struct {
	keysetTarget
	besideKeyset
	New string `arg:"" name:"new" help:"The KEK to add: ${kek_forms}."`
}

// Run adds it. A crash between both files leaves each of them to be opened with the KEK that it had: the command can be repeated.
func (c *keysetKEKAddCommand) Run(ctx context.Context, con *console) error {
	reference, err := kekReference(c.New)
	if err != nil {
		return fmt.Errorf("the new KEK %w", err)
	}
	gets, err := parseKEK(reference, con.env)
	if err != nil {
		return err
	}
	o, err := c.open(ctx, con)
	if err != nil {
		return err
	}
	defer o.close()
	if o.store != nil {
		refused := func(why []string) error {
			return fmt.Errorf("the KEK is not to be added: %s; see to that, or give --force", joinReasons(why))
		}
		if err := c.agreed(ctx, con, 0, o.replicasOfOldForms, refused); err != nil {
			return err
		}
	}
	now := time.Now()
	change := func(do func(content []byte, has, gets vault.KEK, now time.Time) ([]byte, error)) func(string, []byte) ([]byte, error) {
		return func(file string, content []byte) ([]byte, error) {
			return withKEK(file, o.Kek, o.kek, func(has vault.KEK) ([]byte, error) {
				return do(content, has, vault.NamedKEK{KEK: gets, Name: reference}, now)
			})
		}
	}
	changed, err := c.both(con, o, change(vault.AddSigningKEK), change(vault.AddKEK))
	if err != nil {
		return err
	}
	if !changed {
		_, _ = fmt.Fprintf(con.out, "%s is encrypted for %s already.\n", o.File, reference)
	} else {
		_, _ = fmt.Fprintf(con.out, "%s opens with either KEK now, %s or %s. Copy it to replicas that have their own, and keep a copy.\n", c.named(o), o.Kek, reference)
	}
	_, _ = fmt.Fprintf(con.out, "Next: keyset.kek: %s for one replica after the other, with a restart each; then `tokenbroker keyset kek drop %s` with that configuration. To go back: give all replicas %s again, and drop %s.\n", reference, o.Kek, o.Kek, reference)
	if o.store == nil {
		_, _ = fmt.Fprintln(con.out, "Not checked, for want of --config: whether every replica is of a version that reads such a file.")
	}
	return nil
}

type keysetKEKDropCommand struct {
	keysetTarget
	besideKeyset
	Old  string        `arg:"" name:"old" help:"The KEK to drop, as keyset kek list shows it. The configuration, or --kek, names the one that stays."`
	Wait time.Duration `placeholder:"DURATION" help:"Wait so long for the replicas that still open the keyset with it; needs --config."`
}

// Run drops it.
func (c *keysetKEKDropCommand) Run(ctx context.Context, con *console) error {
	switch {
	case c.Wait < 0:
		return &usageError{"--wait must not be negative"}
	case c.Wait > 0 && c.Config == "":
		return &usageError{"--wait needs --config: only Redis tells by which KEK the replicas opened the keyset"}
	}
	o, err := c.open(ctx, con)
	if err != nil {
		return err
	}
	defer o.close()
	change := func(do func(content []byte, stays vault.KEK, drop string) ([]byte, error)) func(string, []byte) ([]byte, error) {
		return func(file string, content []byte) ([]byte, error) {
			return withKEK(file, o.Kek, o.kek, func(stays vault.KEK) ([]byte, error) { return do(content, stays, c.Old) })
		}
	}
	signing, keyset := change(vault.DropSigningKEK), change(vault.DropKEK)
	if _, err := keyset(o.File, o.content); err != nil {
		return err // before anybody is waited for
	}
	if o.store != nil {
		missing := func(ctx context.Context) ([]string, error) { return o.replicasWithKEK(ctx, c.Old) }
		refused := func(why []string) error {
			return fmt.Errorf("the KEK %s is not to be dropped: %s; see to that, or give --force", c.Old, joinReasons(why))
		}
		if err := c.agreed(ctx, con, c.Wait, missing, refused); err != nil {
			return err
		}
	}
	changed, err := c.both(con, o, signing, keyset)
	if err != nil {
		return err
	}
	if !changed {
		_, _ = fmt.Fprintf(con.out, "%s is encrypted with %s alone; nothing was changed.\n", c.named(o), o.Kek)
		return nil
	}
	_, _ = fmt.Fprintf(con.out, "%s opens with %s alone now. Copy it to replicas that have their own, and keep a copy. Copies from before still open with %s: destroy them, or keep that KEK for as long as you may need them.\n", c.named(o), o.Kek, c.Old)
	if o.store == nil {
		_, _ = fmt.Fprintln(con.out, "Not checked, for want of --config: whether a replica would still start with that KEK.")
	}
	return nil
}

type keysetKEKRenewCommand struct {
	keysetSource
	besideKeyset
}

// Run wraps both files once more.
func (c *keysetKEKRenewCommand) Run(con *console) error {
	o, err := c.read(con)
	if err != nil {
		return err
	}
	change := func(do func(content []byte, key vault.KEK) ([]byte, error)) func(string, []byte) ([]byte, error) {
		return func(file string, content []byte) ([]byte, error) {
			return withKEK(file, o.Kek, o.kek, func(key vault.KEK) ([]byte, error) { return do(content, key) })
		}
	}
	if _, err := c.both(con, o, change(vault.RenewSigningKEK), change(vault.RenewKEK)); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(con.out, "%s was wrapped by %s once more. Copy it to replicas that have their own. Copies from before still need the versions of the key that wrapped them: keep those for as long as you may need the copies.\n", c.named(o), o.Kek)
	return nil
}

type keysetKEKListCommand struct{ keysetSource }

// Run prints what the file says, and which of them is the one that was given.
func (c *keysetKEKListCommand) Run(con *console) error {
	o, err := c.read(con)
	if err != nil {
		return err
	}
	keys, err := withKEK(o.File, o.Kek, o.kek, func(key vault.KEK) (*vault.Keyset, error) { return vault.OpenKeyset(o.content, key) })
	if err != nil {
		return err
	}
	all, err := vault.KeysetKEKs(o.content)
	if err != nil {
		return err
	}
	if len(all) < 2 { // what it says is for people: what opened it is better known
		all = []vault.KEKInfo{{Name: o.Kek}}
	}
	table := tabwriter.NewWriter(con.out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "KEK\tSINCE\tOPENED WITH IT")
	for _, one := range all {
		since := "unknown"
		if !one.Since.IsZero() {
			since = one.Since.Format(time.RFC3339)
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\n", one.Name, since, yesNo(one.Name == keys.KEK()))
	}
	return table.Flush()
}

// signingFile is the file of signing keys, "" if there is none.
func (t besideKeyset) signingFile(o *openedKeyset) string {
	if o.cfg != nil {
		return o.cfg.Audit.SigningFile
	}
	return t.SigningKey
}

// named are the files, for people.
func (t besideKeyset) named(o *openedKeyset) string {
	if file := t.signingFile(o); file != "" {
		return o.File + ", and " + file + ","
	}
	return o.File
}

// both changes the file of signing keys, where there is one, and then the keyset. Both contents are made before either is replaced.
func (t besideKeyset) both(con *console, o *openedKeyset, signing, keyset func(file string, content []byte) ([]byte, error)) (changed bool, err error) {
	if t.SigningKey != "" && o.cfg != nil {
		return false, &usageError{"--config names the file of signing keys: leave --signing-key out"}
	}
	var was, now []byte
	file := t.signingFile(o)
	if file != "" {
		if was, err = readSigningFile(file, con.env); err != nil {
			return false, err
		}
		if now, err = signing(file, was); err != nil {
			return false, err
		}
	}
	content, err := keyset(o.File, o.content)
	if err != nil {
		return false, err
	}
	if !bytes.Equal(was, now) {
		if err := vault.ReplaceKeysetFile(file, was, now); err != nil {
			return false, err
		}
	}
	if bytes.Equal(content, o.content) {
		return !bytes.Equal(was, now), nil
	}
	return true, o.replace(content)
}

// replicasOfOldForms says which replicas would not start with a file of two KEKs.
func (o *openedKeyset) replicasOfOldForms(ctx context.Context) (why []string, err error) {
	trip, cancel := context.WithTimeout(ctx, replicasTimeout)
	defer cancel()
	all, now, err := o.store.AllReplicas(trip)
	for _, r := range all {
		switch {
		case r.Unreadable && !r.Silent(now):
			why = append(why, fmt.Sprintf("replica %s says what can't be read here", r.Name()))
		case !r.Unreadable && r.KeysetForms < vault.KeysetForms:
			why = append(why, fmt.Sprintf("replica %s is of version %q, which does not start with a file for two KEKs: upgrade it first", r.Name(), r.Version))
		}
	}
	return why, err
}

// replicasWithKEK says which replicas opened the keyset with that KEK, or may come back with it.
func (o *openedKeyset) replicasWithKEK(ctx context.Context, name string) (why []string, err error) {
	trip, cancel := context.WithTimeout(ctx, replicasTimeout)
	defer cancel()
	all, now, err := o.store.AllReplicas(trip)
	for _, r := range all {
		switch {
		case r.Unreadable || r.Silent(now) && r.KEK == name:
			why = append(why, fmt.Sprintf("replica %s has said nothing that can be read since %s: it may come back with it; it is forgotten at %s",
				r.Name(), r.Beat.Format(time.RFC3339), r.Beat.Add(broker.ReplicaKept).Format(time.RFC3339)))
		case r.KEK == name || r.KEK == "":
			why = append(why, fmt.Sprintf("replica %s opens the keyset with it: give it the other one as keyset.kek, and restart it", r.Name()))
		}
	}
	return slices.Compact(why), err
}
