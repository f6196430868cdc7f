package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"tokenbroker/vault"
)

type keysetTenantCommand struct {
	Create  keysetTenantCreateCommand  `cmd:"" help:"Make a keyset for a tenant; running brokers then seal its records anew with that."`
	List    keysetTenantListCommand    `cmd:"" help:"List the tenants that have a keyset, or had one."`
	Rotate  keysetTenantRotateCommand  `cmd:"" help:"Add a key to a tenant's keyset and make it primary."`
	Destroy keysetTenantDestroyCommand `cmd:"" help:"Destroy a tenant's keyset: all that the tenant has here, and in backups, can't be read any more."`
}

// tenantTarget is a tenant's keyset that is changed.
type tenantTarget struct {
	keysetTarget
	Tenant string `required:"" placeholder:"TENANT" help:"The tenant."`
}

type keysetTenantCreateCommand struct{ tenantTarget }

// Run makes the tenant's keyset, beside that of the installation.
func (c *keysetTenantCreateCommand) Run(ctx context.Context, con *console) error {
	change := keysetChange{KeysetEdit: vault.KeysetEdit{Do: vault.KeysetCreate, Tenant: c.Tenant}}
	return c.change(ctx, con, change, func(o *openedKeyset, key uint32, _ []byte) (string, error) {
		return fmt.Sprintf("%s: tenant %s has a keyset of its own, key %d. Running brokers take it up by themselves, and seal the tenant's records anew; copy the file to replicas that have their own, and keep a copy of it as of the one before.", o.File, c.Tenant, key), nil
	})
}

type keysetTenantRotateCommand struct {
	tenantTarget
	Audit bool `help:"Rotate the key for entries of the audit trail, not the one for records."`
}

// Run replaces the file at once.
func (c *keysetTenantRotateCommand) Run(ctx context.Context, con *console) error {
	rotate := keysetRotateCommand{keysetTarget: c.keysetTarget, Audit: c.Audit, Tenant: c.Tenant}
	return rotate.Run(ctx, con)
}

type keysetTenantListCommand struct{ keysetSource }

// Run prints names and keys.
func (c *keysetTenantListCommand) Run(con *console) error {
	o, err := c.read(con)
	if err != nil {
		return err
	}
	all, err := withKEK(o.File, o.Kek, o.kek, func(kek vault.KEK) ([]vault.TenantKeyset, error) { return vault.TenantKeysets(o.content, kek) })
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(con.out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "TENANT\tKEY\tFOR\tSTATUS\tPRIMARY\tCREATED")
	for _, one := range all {
		if !one.Destroyed.IsZero() {
			_, _ = fmt.Fprintf(table, "%s\t-\t-\tdestroyed at %s\t-\t-\n", one.Tenant, one.Destroyed.Format(time.RFC3339))
		}
		for i, key := range one.All() {
			use := "records"
			if i >= len(one.Records) {
				use = "audit"
			}
			_, _ = fmt.Fprintf(table, "%s\t%d\t%s\t%s\t%s\t%s\n", one.Tenant, key.ID, use, key.Status, yesNo(key.Primary), created(key))
		}
	}
	return table.Flush()
}

type keysetTenantDestroyCommand struct {
	tenantTarget
	Yes string `name:"confirm" placeholder:"TENANT" help:"The tenant's name once more: this can't be taken back."`
}

// Run destroys it.
func (c *keysetTenantDestroyCommand) Run(ctx context.Context, con *console) error {
	if c.Yes != c.Tenant {
		return &usageError{fmt.Sprintf("this makes all that the keys of tenant %s have sealed, here and in every backup, unreadable for good: give --confirm %s", c.Tenant, c.Tenant)}
	}
	change := keysetChange{KeysetEdit: vault.KeysetEdit{Do: vault.KeysetDestroy, Tenant: c.Tenant}}
	return c.change(ctx, con, change, func(o *openedKeyset, _ uint32, _ []byte) (string, error) {
		return fmt.Sprintf("%s: the keyset of tenant %s is destroyed. Running brokers refuse the tenant's requests within seconds; destroy every copy of the file from before, which could still read what it sealed, and replace it on replicas that have their own. "+
			"What was not sealed with it is not erased by this: records that had not been sealed anew since `keyset tenant create`, and events from before that, which stay readable until retention drops them.", o.File, c.Tenant), nil
	})
}
