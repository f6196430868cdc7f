package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

type keysetStatusCommand struct {
	Config string `required:"" placeholder:"FILE" help:"The configuration file."`
	Count  bool   `help:"Count all records now, which takes a while, in place of what the brokers counted last."`
	Tenant string `placeholder:"TENANT" help:"The keyset of this tenant alone."`
}

// Run reads only; brokers may run meanwhile.
func (c *keysetStatusCommand) Run(ctx context.Context, con *console) error {
	o, err := keysetSource{Config: c.Config}.open(ctx, con)
	if err != nil {
		return err
	}
	defer o.close()
	keysets, err := withKEK(o.File, o.Kek, o.kek, func(kek vault.KEK) ([]vault.TenantKeyset, error) { return c.keysets(o.content, kek) })
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, keysetChecks)
	defer cancel()
	left, err := o.store.LeftReplicas(ctx)
	if err != nil {
		return err
	}
	replicas, now, err := o.store.AllReplicas(ctx)
	if err != nil {
		return err
	}
	resealing, err := o.store.Resealing(ctx)
	if err != nil {
		return err
	}
	last := resealing.Last
	if c.Count {
		counted, err := o.store.CountSeals(ctx)
		if err != nil {
			return err
		}
		last = broker.SealProgress{Began: time.UnixMilli(counted.Began), Ended: time.UnixMilli(counted.Ended).UTC(), Records: counted.Records, ByKey: counted.ByKey, Left: counted.Left, Erased: counted.Erased}
	}
	live := slices.DeleteFunc(slices.Clone(replicas), func(r broker.Replica) bool { return r.Silent(now) })
	if err := statusTable(con.out, keysets, live, o.cfg.Keys.Digest(), last); err != nil {
		return err
	}
	for _, one := range keysets {
		if !one.Destroyed.IsZero() {
			_, _ = fmt.Fprintf(con.out, "the keyset of tenant %s was destroyed at %s\n", one.Tenant, one.Destroyed.Format(time.RFC3339))
		}
	}
	for _, r := range replicas {
		c.replica(con.out, r, now, o)
	}
	for _, r := range left {
		n := 0
		for _, of := range r.OldSeals {
			n += of
		}
		_, _ = fmt.Fprintln(con.out, leftBehind(r, n, ""))
	}
	printProgress(con.out, resealing, last)
	return nil
}

// keysets are the tenant's, or the installation's, whose tenant is "", and all tenants'.
func (c *keysetStatusCommand) keysets(content []byte, kek vault.KEK) ([]vault.TenantKeyset, error) {
	list, err := vault.ListKeys(content, kek, c.Tenant)
	if err != nil || c.Tenant != "" {
		return []vault.TenantKeyset{{Tenant: c.Tenant, KeyList: list}}, err
	}
	tenants, err := vault.TenantKeysets(content, kek)
	return append([]vault.TenantKeyset{{KeyList: list}}, tenants...), err
}

// statusTable is a line for each key.
func statusTable(out io.Writer, keysets []vault.TenantKeyset, live []broker.Replica, digest string, last broker.SealProgress) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "KEY\tTENANT\tFOR\tSTATUS\tPRIMARY\tCREATED\tREPLICAS\tRECORDS")
	for _, one := range keysets {
		for i, key := range one.All() {
			use, records := "records", "not counted yet"
			if i >= len(one.Records) {
				use, records = "audit", "-"
			} else if !last.Ended.IsZero() {
				records = strconv.Itoa(last.ByKey[key.ID])
			}
			_, _ = fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", key.ID, cmp.Or(one.Tenant, "-"), use, key.Status, yesNo(key.Primary), created(key), loaded(live, key.ID, one.Tenant, digest), records)
		}
	}
	return table.Flush()
}

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}

// created is when the key was made, for people.
func created(key vault.KeyInfo) string {
	if key.Created.IsZero() {
		return "unknown" // made by a version that kept no dates
	}
	return key.Created.Format(time.RFC3339)
}

// loaded counts the replicas that have the key. Of tenants' keys they say no more than which file they have.
func loaded(live []broker.Replica, id uint32, tenant, digest string) string {
	n := 0
	for _, r := range live {
		if r.Keyset == digest || tenant == "" && slices.ContainsFunc(slices.Concat(r.Keys, r.AuditKeys), func(k broker.SealingKey) bool { return k.ID == id }) {
			n++
		}
	}
	return fmt.Sprintf("%d of %d", n, len(live))
}

// replica says of one what matters here.
func (c *keysetStatusCommand) replica(out io.Writer, r broker.Replica, now time.Time, o *openedKeyset) {
	state := "has loaded the keyset as it is in the file"
	switch {
	case r.Silent(now):
		state = "has said nothing since " + r.Beat.Format(time.RFC3339)
	case r.Unreadable:
		state = "says what can't be read here"
	case r.Keyset == "":
		state = "is of an earlier version, and has its primary key alone to tell"
	case r.Keyset != o.cfg.Keys.Digest():
		state = "has loaded another keyset than there is in the file"
	}
	if r.KEK != "" && !r.Silent(now) {
		state += ", and opened it with " + r.KEK
	}
	_, _ = fmt.Fprintf(out, "replica %s %s\n", r.Name(), state)
	for _, id := range sorted(r.OldSeals) {
		_, _ = fmt.Fprintf(out, "replica %s keeps %s sealed with key %d, in its memory or spool_dir\n", r.Name(), are(r.OldSeals[id], "thing", "things"), id)
	}
}

func printProgress(out io.Writer, r broker.Resealing, last broker.SealProgress) {
	if r.Running {
		_, _ = fmt.Fprintf(out, "sealing anew: under way since %s, %s looked at, %d sealed anew\n", r.Current.Began.Format(time.RFC3339), count(r.Current.Records, "record"), r.Current.Resealed)
	}
	if !last.Ended.IsZero() {
		_, _ = fmt.Fprintf(out, "counted at %s: %s\n", last.Ended.Format(time.RFC3339), count(last.Records, "record"))
		for _, id := range sorted(last.Left) {
			_, _ = fmt.Fprintf(out, "left: %s sealed with key %d\n", are(last.Left[id], "record is", "records are"), id)
		}
		for _, id := range sorted(last.Erased) {
			_, _ = fmt.Fprintf(out, "erased: %s of tenants whose keyset was destroyed, sealed with key %d, which need not be kept for that\n", are(last.Erased[id], "record is", "records are"), id)
		}
	}
	switch {
	case r.Needed && !r.Running:
		_, _ = fmt.Fprintln(out, "sealing anew: due, the brokers begin once all of them have loaded the same keyset")
	case !r.Needed && !r.Running && len(last.Left) == 0 && !last.Ended.IsZero():
		_, _ = fmt.Fprintln(out, "sealing anew: done, nothing is sealed with another key than the primary one")
		if r.Passes < keysetPasses {
			_, _ = fmt.Fprintln(out, "sealing anew: the brokers look through all records once more, to be sure")
		}
	}
}
