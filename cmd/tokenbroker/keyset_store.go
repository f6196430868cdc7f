package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// keysetFlags name an existing keyset.
type keysetFlags struct {
	File string `required:"" placeholder:"FILE" help:"The keyset file."`
	Kek  string `required:"" name:"kek" placeholder:"KEK" help:"The key that encrypts the keyset: ${kek_forms}."`
}

func (f keysetFlags) read(env environment) ([]byte, vault.KEK, error) {
	kek, err := parseKEK(f.Kek, env)
	if err != nil {
		return nil, nil, err
	}
	content, err := readKeysetFile(f.File, f.Kek, env)
	return content, kek, err
}

// keysetTarget names a keyset: by its file, or by the configuration of the brokers that use it, who are then asked.
type keysetTarget struct {
	File   string `placeholder:"FILE" help:"The keyset file; or give --config."`
	Kek    string `name:"kek" placeholder:"KEK" help:"The key that encrypts the keyset: ${kek_forms}."`
	Config string `placeholder:"FILE" help:"The configuration file: the keyset that it names, and its Redis is asked what replicas and records need."`
	Force  bool   `help:"Go on although a replica or a record still needs the key. What it sealed can't be read then."`
}

// opened is a keyset file, with the store that it belongs to where that was named.
type openedKeyset struct {
	keysetFlags
	content []byte
	kek     vault.KEK
	cfg     *Config      // nil: only the file was named
	store   *vault.Store // nil: likewise
	close   func()
}

func (t keysetTarget) open(ctx context.Context, con *console) (*openedKeyset, error) {
	switch {
	case t.Config != "" && t.File+t.Kek != "":
		return nil, &usageError{"--config names the keyset file and its KEK: leave --file and --kek out"}
	case t.Config == "" && (t.File == "" || t.Kek == ""):
		return nil, &usageError{"needs --config FILE, or --file FILE and --kek KEK"}
	}
	o := &openedKeyset{keysetFlags: keysetFlags{File: t.File, Kek: t.Kek}, close: func() {}}
	if t.Config != "" {
		cfg, err := LoadConfig(t.Config, con.env)
		if err != nil {
			return nil, err
		}
		o.cfg, o.File, o.Kek = cfg, cfg.Keyset.File, cfg.Keyset.KEK
	}
	var err error
	if o.content, o.kek, err = o.read(con.env); err != nil || o.cfg == nil {
		return o, err
	}
	log := newLogger(con.err, o.cfg.LogLevel)
	adoptLibraryLogs(log)
	backend, err := redisstore.New(o.cfg.redisStore())
	if err != nil {
		return nil, err
	}
	// Without a spool: that belongs to the broker that runs.
	if o.store, err = vault.New(vault.Config{Backend: backend, Keyset: o.cfg.Keys, Now: time.Now, Random: rand.Reader, Log: log}); err != nil {
		_ = backend.Close()
		return nil, err
	}
	o.close = func() { o.store.Close(); _ = backend.Close() }
	if err := firstAnswer(ctx, backend); err != nil {
		o.close()
		return nil, err
	}
	return o, nil
}

// replace writes the new content, unless somebody else changed the file meanwhile: one of both changes would be lost.
func (o *openedKeyset) replace(env environment, content []byte) error {
	now, err := readKeysetFile(o.File, o.Kek, env)
	if err != nil {
		return err
	}
	if string(now) != string(o.content) {
		return fmt.Errorf("%s was changed by somebody else meanwhile: try again", o.File)
	}
	return vault.ReplaceKeysetFile(o.File, content)
}

// keysetChecks bound how long the store may be asked; a long trail has millions of entries.
const keysetChecks = 6 * time.Hour

// missing says what speaks against the change; none: nothing.
func (o *openedKeyset) missing(ctx context.Context, edit vault.KeysetEdit) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, keysetChecks)
	defer cancel()
	why, err := o.replicasWithout(ctx, edit)
	if err != nil || edit.Do != vault.KeysetDisable && edit.Do != vault.KeysetDelete {
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
func (o *openedKeyset) replicasWithout(ctx context.Context, edit vault.KeysetEdit) ([]string, error) {
	trip, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	all, now, err := o.store.AllReplicas(trip)
	if err != nil {
		return nil, err
	}
	var why []string
	ends := edit.Do == vault.KeysetDisable || edit.Do == vault.KeysetDelete
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

// has tells that the replica has loaded what the change is about.
func (o *openedKeyset) has(r broker.Replica, edit vault.KeysetEdit) bool {
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
func refused(edit vault.KeysetEdit, why []string) error {
	return errors.New(fmt.Sprintf("key %d is not to %s: ", edit.Key, edit.Do.Passive()) + strings.Join(why, "; ") + "; see to that, or give --force")
}

// unchecked says what was not looked at where only the file was named.
func unchecked(do vault.KeysetAction) string {
	switch do {
	case vault.KeysetPromote:
		return "Not checked, for want of --config: whether every replica has loaded the key."
	case vault.KeysetDisable, vault.KeysetDelete:
		return "Not checked, for want of --config: whether every replica has loaded the keyset, and whether records or audit entries are still sealed with the key."
	}
	return ""
}

// sorted are the keys of counts by key.
func sorted(counts map[uint32]int) []uint32 { return slices.Sorted(maps.Keys(counts)) }
