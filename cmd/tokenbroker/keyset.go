package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"tokenbroker/vault"
	"tokenbroker/vault/kek"
)

type keysetCommand struct {
	Create keysetCreateCommand `cmd:"" help:"Make a new keyset file."`
	Rotate keysetRotateCommand `cmd:"" help:"Add a key and make it primary; old keys still decrypt."`
	List   keysetListCommand   `cmd:"" help:"List the keys, without their material."`

	Add     keysetAddCommand     `cmd:"" help:"Add a key that seals nothing yet: the first stage of a rotation."`
	Promote keysetPromoteCommand `cmd:"" help:"Make a key the one that seals; running brokers then seal all records anew."`
	Disable keysetDisableCommand `cmd:"" help:"Make a key open nothing any more; it can be enabled again."`
	Enable  keysetEnableCommand  `cmd:"" help:"Make a disabled key open again."`
	Delete  keysetDeleteCommand  `cmd:"" help:"Remove a disabled key for good."`
	Tenant  keysetTenantCommand  `cmd:"" help:"Manage keysets of single tenants, in the same file."`
	Kek     keysetKEKCommand     `cmd:"" help:"Change the key that encrypts the file, in stages."`
	Status  keysetStatusCommand  `cmd:"" help:"Show the keys, who has loaded them, and how many records each has sealed."`
}

type keysetCreateCommand struct {
	Out string `required:"" placeholder:"FILE" help:"The file to make; it must not exist."`
	Kek string `required:"" name:"kek" placeholder:"KEK" help:"The key that encrypts the keyset: ${kek_forms}."`
}

// Run makes the file, readable for its owner alone.
func (c *keysetCreateCommand) Run(con *console) error {
	key, err := parseKEK(c.Kek, con.env)
	if err != nil {
		return err
	}
	content, err := withKEK(c.Out, c.Kek, key, func(key vault.KEK) ([]byte, error) { return vault.CreateKeyset(key, time.Now()) })
	if err != nil {
		return err
	}
	if err := vault.CreateKeysetFile(c.Out, content); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(con.out, "%s holds a new keyset. Keep a copy of it, and of the KEK in another place: without both, nothing that they sealed can be read.\n", c.Out)
	return nil
}

type keysetRotateCommand struct {
	keysetTarget
	Audit  bool   `help:"Rotate the key for entries of the audit trail, not the one for records."`
	Tenant string `placeholder:"TENANT" help:"The keyset of this tenant."`
}

// Run replaces the file at once, so that a running broker reads the old or the new one.
func (c *keysetRotateCommand) Run(ctx context.Context, con *console) error {
	change := keysetChange{KeysetEdit: vault.KeysetEdit{Do: vault.KeysetRotate, Audit: c.Audit, Tenant: c.Tenant}}
	return c.change(ctx, con, change, func(o *openedKeyset, key uint32, content []byte) (string, error) {
		list, err := vault.ListKeys(content, o.kek, c.Tenant)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%s: key %d is primary now; %s in all. Running brokers take it up by themselves; copy the file to replicas that have their own.", o.File, key, count(len(keysFor(list, c.Audit)), "key")), nil
	})
}

type keysetListCommand struct {
	keysetSource
	Audit  bool   `help:"The keys for entries of the audit trail, not those for records."`
	Tenant string `placeholder:"TENANT" help:"The keyset of this tenant."`
}

// Run prints ids and states.
func (c *keysetListCommand) Run(con *console) error {
	o, err := c.read(con)
	if err != nil {
		return err
	}
	list, err := withKEK(o.File, o.Kek, o.kek, func(kek vault.KEK) (vault.KeyList, error) { return vault.ListKeys(o.content, kek, c.Tenant) })
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(con.out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "KEY\tSTATUS\tPRIMARY\tCREATED")
	for _, key := range keysFor(list, c.Audit) {
		_, _ = fmt.Fprintf(table, "%d\t%s\t%s\t%s\n", key.ID, key.Status, yesNo(key.Primary), created(key))
	}
	return table.Flush()
}

// keysFor are the keys for the audit trail, or for records.
func keysFor(list vault.KeyList, audit bool) []vault.KeyInfo {
	if audit {
		return list.Audit
	}
	return list.Records
}

// readKeysetFile says what to do where there is none.
func readKeysetFile(path, reference string, env environment) ([]byte, error) {
	content, err := env.readKeyset(path)
	if errors.Is(err, os.ErrNotExist) {
		if reference == "" {
			reference = "env:NAME"
		}
		return nil, fmt.Errorf("there is no keyset file %s; make one: tokenbroker keyset create --out %s --kek %s", path, path, reference)
	}
	return content, err
}

// errOtherKEK: the keyset is encrypted with another KEK.
var errOtherKEK = errors.New("it is another one than the keyset is encrypted with")

// watchedKEK has a name, and keeps what the KEK said when it did not do as it was asked. The library above passes that on as text
// alone, or not at all.
type watchedKEK struct {
	vault.NamedKEK
	refusal atomic.Pointer[error]
}

func (w *watchedKEK) Encrypt(plaintext, associatedData []byte) ([]byte, error) {
	return w.watch(w.KEK.Encrypt(plaintext, associatedData))
}

func (w *watchedKEK) Decrypt(ciphertext, associatedData []byte) ([]byte, error) {
	return w.watch(w.KEK.Decrypt(ciphertext, associatedData))
}

func (w *watchedKEK) watch(out []byte, err error) ([]byte, error) {
	// A service that is away is to be asked again, whatever it said of something else.
	if before := w.refusal.Load(); err != nil && (before == nil || !errors.Is(*before, kek.ErrUnavailable)) {
		w.refusal.Store(&err)
	}
	return out, err
}

// withKEK does something with the keyset file, and tells what the KEK is to blame for (kekFailure) from everything else.
func withKEK[T any](file, reference string, key vault.KEK, do func(vault.KEK) (T, error)) (T, error) {
	watched := &watchedKEK{NamedKEK: vault.NamedKEK{KEK: key, Name: reference}}
	result, err := do(watched)
	if err == nil {
		return result, nil
	}
	refusal := watched.refusal.Load()
	if refusal == nil {
		return result, fmt.Errorf("%s: %w", file, err)
	}
	failure := kekFailure(file, reference, *refusal)
	var other *vault.OtherKEKError
	if errors.As(err, &other) && !errors.Is(*refusal, kek.ErrUnavailable) {
		failure = fmt.Errorf("%w; %s", failure, sinceChanged(other))
	}
	return result, failure
}

// sinceChanged says what to do where the file names other KEKs than the one that there is.
func sinceChanged(other *vault.OtherKEKError) string {
	return fmt.Sprintf("the file says that it is encrypted with %s: if the KEK was changed (tokenbroker keyset kek), name that one in keyset.kek, or --kek", other.Names())
}
