package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

// What speaks against a change of a keyset: replicas and records that still need it as it is.

// keysetChecks bound how long the store may be asked; a long trail has millions of entries.
const keysetChecks = 6 * time.Hour

// replicasTimeout bounds the question what replicas there are.
const replicasTimeout = 10 * time.Second

// keysetChange is a change that is asked for.
type keysetChange struct {
	vault.KeysetEdit
	// after is how long the records must have had nothing under a key that is deleted, wait how long is waited for the replicas.
	after, wait time.Duration
}

// ends tells that the key opens nothing afterwards.
func (c keysetChange) ends() bool { return c.Do == vault.KeysetDisable || c.Do == vault.KeysetDelete }

// of is what the change is of.
func (c keysetChange) of() string {
	switch c.Do {
	case vault.KeysetAdd, vault.KeysetRotate:
		return "a key"
	case vault.KeysetCreate, vault.KeysetDestroy:
		return "the keyset of tenant " + c.Tenant
	}
	return fmt.Sprintf("key %d", c.Key)
}

// missing says what speaks against the change; none: nothing.
func (o *openedKeyset) missing(ctx context.Context, edit keysetChange) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, keysetChecks)
	defer cancel()
	switch edit.Do {
	case vault.KeysetAdd, vault.KeysetEnable:
		return nil, nil // nothing is sealed otherwise than before
	}
	why, err := o.replicasWithout(ctx, edit)
	if err == nil && edit.Do == vault.KeysetDestroy {
		return o.unsealed(ctx, why)
	}
	if err != nil || !edit.ends() {
		return why, err
	}
	count, err := o.store.CountSeals(ctx)
	if err != nil {
		return nil, fmt.Errorf("the records could not be looked through: %w", err)
	}
	if n := count.ByKey[edit.Key]; n > 0 {
		if err := o.store.AskReseal(ctx); err != nil {
			return nil, err
		}
		why = append(why, fmt.Sprintf("%s still sealed with it: running brokers seal them anew, `tokenbroker keyset status` shows how far they are", are(n, "record is", "records are")))
	}
	if edit.Do == vault.KeysetDelete && count.ByKey[edit.Key] == 0 && !o.cfg.Keys.IsAudit(edit.Key) {
		if why, err = o.unsettled(ctx, edit, why); err != nil {
			return nil, err
		}
	}
	entries, err := o.store.EntriesSealedBy(ctx, edit.Key)
	if err != nil {
		return nil, err
	}
	if entries.Entries > 0 {
		why = append(why, fmt.Sprintf("%s sealed with it, the last of %s, and can't be sealed anew: %s",
			are(entries.Entries, "entry of the audit trail is", "entries of the audit trail are"), entries.Newest.Format(time.RFC3339), o.keptUntil(entries.Newest)))
	}
	return why, nil
}

// unsettled adds what is to be waited for until nothing brings back records under a key that none has any more.
func (o *openedKeyset) unsettled(ctx context.Context, edit keysetChange, why []string) ([]string, error) {
	at, err := o.store.Resealing(ctx)
	if err != nil {
		return nil, err
	}
	switch until := at.Last.Ended.Add(edit.after); {
	case at.Passes < keysetPasses || at.Last.ByKey[edit.Key] > 0:
		why = append(why, fmt.Sprintf("the brokers have not yet gone through all records twice and found nothing of it, with the keys that seal now: they do by themselves (`tokenbroker keyset status`), and %s after that it can be deleted", edit.after))
	case time.Now().Before(until):
		why = append(why, fmt.Sprintf("a failover of Redis can still bring back records under it: the brokers last found none at %s, so wait until %s (or give --after)", at.Last.Ended.Format(time.RFC3339), until.Format(time.RFC3339)))
	}
	return why, nil
}

// keysetPasses are how many times in a row the records must have had nothing under a key.
const keysetPasses = 2

// unsealed adds that records of a tenant may still be under other keys than its own, which stay when those are destroyed.
func (o *openedKeyset) unsealed(ctx context.Context, why []string) ([]string, error) {
	at, err := o.store.Resealing(ctx)
	if err != nil {
		return nil, err
	}
	if at.Passes < keysetPasses {
		why = append(why, "the brokers have not yet gone through all records twice since the keys last changed: what of the tenant is not sealed with its own keys would stay readable; `tokenbroker keyset status` shows how far they are")
	}
	return why, nil
}

// keptUntil says until when the trail keeps what was written then.
func (o *openedKeyset) keptUntil(newest time.Time) string {
	if o.cfg.Retention.Age == 0 {
		return "the trail is kept for good, and so must the key be, unless audit.retention is set"
	}
	return "with audit.retention as it is, they are dropped by " + newest.Add(o.cfg.Retention.Age).AddDate(0, 0, 1).Format(time.RFC3339)
}

func are(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

// replicasWithout says which replicas do not have the keyset as it is in the file, or keep something that the key sealed.
func (o *openedKeyset) replicasWithout(ctx context.Context, edit keysetChange) ([]string, error) {
	trip, cancel := context.WithTimeout(ctx, replicasTimeout)
	defer cancel()
	// First those who left something: whoever takes it over says so before that is forgotten.
	left, err := o.store.LeftReplicas(trip)
	if err != nil {
		return nil, err
	}
	all, now, err := o.store.AllReplicas(trip)
	if err != nil {
		return nil, err
	}
	var why []string
	ends := edit.ends()
	for _, r := range left {
		if n := r.OldSeals[edit.Key]; ends && (n > 0 || !r.Spool.Writable) {
			why = append(why, leftBehind(r, n, " sealed with it")+": start it again on that spool_dir, once Redis can be used")
		}
	}
	for _, r := range all {
		silent := r.Silent(now)
		switch {
		case silent && !ends:
			// It reads the file when it meets a key that it lacks.
		case silent || r.Unreadable:
			why = append(why, fmt.Sprintf("replica %s has said nothing that can be read since %s: it may come back and seal with it; it is forgotten at %s",
				r.Name(), r.Beat.Format(time.RFC3339), r.Beat.Add(broker.ReplicaKept).Format(time.RFC3339)))
		case !o.has(r, edit):
			why = append(why, fmt.Sprintf("replica %s has not loaded the keyset as it is in %s yet", r.Name(), o.File))
		}
		if n := r.OldSeals[edit.Key]; ends && !silent && n > 0 {
			why = append(why, fmt.Sprintf("replica %s keeps %s sealed with it, in its memory or spool_dir", r.Name(), are(n, "thing", "things")))
		}
	}
	return why, nil
}

// leftBehind tells of a replica that ended and left n things, by some key or all.
func leftBehind(r broker.Replica, n int, by string) string {
	what := are(n, "thing", "things") + by
	if r.Unreadable || !r.Spool.Writable {
		what = "nobody knows what"
	}
	return fmt.Sprintf("replica %s ended at %s and left %s in its spool_dir", r.Name(), r.Beat.Format(time.RFC3339), what)
}

// has tells that the replica has loaded what the change is about.
func (o *openedKeyset) has(r broker.Replica, edit keysetChange) bool {
	if r.Keyset != "" {
		return r.Keyset == o.cfg.Keys.Digest()
	}
	if edit.Tenant != "" {
		return false // of a version that has no tenants' keysets
	}
	// Such a version tells its keys alone, and has no state for a single one of them but enabled.
	i := slices.IndexFunc(r.Keys, func(k broker.SealingKey) bool { return k.ID == edit.Key })
	if edit.Do == vault.KeysetPromote {
		return i >= 0
	}
	return i < 0 || !r.Keys[i].Primary
}

// refused is the error of a change against which something speaks.
func refused(edit keysetChange, why []string) error {
	return errors.New(fmt.Sprintf("%s is not to %s: ", edit.of(), edit.Do.Passive()) + joinReasons(why) + "; see to that, or give --force")
}

// joinReasons makes one text of what speaks against a change.
func joinReasons(why []string) string { return strings.Join(why, "; ") }

// unchecked says what was not looked at where only the file was named.
func unchecked(do vault.KeysetAction) string {
	switch do {
	case vault.KeysetPromote:
		return "Not checked, for want of --config: whether every replica has loaded the key."
	case vault.KeysetRotate, vault.KeysetCreate:
		return "Not checked, for want of --config: whether every replica has loaded the keyset as it was."
	case vault.KeysetDestroy:
		return "Not checked, for want of --config: whether every replica has loaded the keyset as it was, and whether all records of the tenant were sealed with it."
	case vault.KeysetDisable:
		return "Not checked, for want of --config: whether every replica has loaded the keyset, and whether records or audit entries are still sealed with the key."
	case vault.KeysetDelete:
		return "Not checked, for want of --config: whether every replica has loaded the keyset, whether records or audit entries are still sealed with the key, and since when none are."
	}
	return ""
}

// sorted are the keys of counts by key.
func sorted(counts map[uint32]int) []uint32 { return slices.Sorted(maps.Keys(counts)) }
