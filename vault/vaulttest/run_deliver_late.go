package vaulttest

import (
	"slices"
	"strings"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// late is a replica whose keyset file lies there and is read, and lacks a key that another replica's has already: nobody has copied it yet.
type late struct {
	*rotation
	*vault.Store
	mine *vault.Keyset
	now  time.Time
	to   *mailbox
}

func newLate(r *rig) *late {
	r.Helper()
	r.raw("DEL", "tb:{00}:rp") // nobody else is known
	l := &late{rotation: newRotation(r), now: time.Now(), to: &mailbox{}}
	l.mine = l.keyset
	l.Store = r.delivering(l.to, false, func(vc *vault.Config, _ *redisstore.Config) {
		vc.Keyset, vc.Now = l.mine, func() time.Time { return l.now }
		vc.ReloadKeyset = func() error { return nil }
	})
	_, _ = l.DeliverEvents(r.ctx()) // from now on there is such a sink
	r.keyset = l.open()
	return l
}

// follow lets it do its rounds.
func (l *late) follow() {
	l.Helper()
	for range 12 { // a quiet stream is left out of some
		if _, err := l.DeliverEvents(l.ctx()); err != nil {
			l.Fatal(err)
		}
		if _, err := l.IndexTrail(l.ctx()); err != nil {
			l.Fatal(err)
		}
	}
}

// beats tells that there is a replica with that keyset.
func (l *late) beats(id string, keys *vault.Keyset) {
	l.Helper()
	if err := l.rig.store().Beat(l.ctx(), broker.Replica{ID: tenant(l.rig) + id, Keyset: keys.Digest()}); err != nil {
		l.Fatal(err)
	}
}

func (l *late) copied() {
	l.Helper()
	if err := l.mine.Reload(l.file); err != nil {
		l.Fatal(err)
	}
	l.later(3 * time.Second)
}

// later lets time pass; what processes hold in the store ends with it.
func (l *late) later(d time.Duration) {
	l.now = l.now.Add(d)
	l.leave()
	for _, key := range l.keys("tb:*:ax:k") {
		l.raw("DEL", key)
	}
}

// by appends an event that this client caused, sealed with the newest keys.
func (l *late) by(client string) string {
	l.Helper()
	e := entry(broker.EventTokenRefused, broker.Connection{Tenant: tenant(l.rig), Subject: "ann"}, "a")
	e.Client = client
	if err := l.rig.store().Append(l.ctx(), e); err != nil {
		l.Fatal(err)
	}
	return e.Scopes[0].ID
}

// found are the events of the client that a search finds.
func (l *late) found(client string) (ids []string, err error) {
	page, err := l.SearchEvents(l.ctx(), tenant(l.rig), broker.EventSearch{Filter: broker.EventFilter{Client: client}, Limit: 10})
	for _, e := range page.Events {
		ids = append(ids, e.ID)
	}
	return ids, err
}

// testDeliverLateFile (threat 37): a replica whose keyset file was not copied yet waits with what others have sealed, and loses nothing to
// a sink or to the index, whether a key was exchanged or the tenant got its own.
func testDeliverLateFile(r *rig) {
	for _, edit := range []vault.KeysetEdit{{Do: vault.KeysetRotate, Audit: true}, {Do: vault.KeysetCreate, Tenant: tenant(r)}} {
		l := newLate(r)
		l.edit(edit)
		l.beats("newer", r.keyset)
		client := string(edit.Do) + "-client"
		want := l.by(client)
		l.follow()
		l.later(5 * time.Minute)
		l.follow()
		if got := l.to.ids(r, tenant(r)); len(got) > 0 || l.Delivered()[0].Behind.IsZero() {
			r.Errorf("%s: before the file is there: %v, %+v", edit.Do, got, l.Delivered()[0])
		}
		_, err := l.found(client)
		is(r, err, broker.ErrKeyNotYet, "a search that would lack an event")
		var verified broker.VerifiedTrail
		for verified, err = l.VerifyTrail(r.ctx(), tenant(r), "", time.Minute); err == nil && verified.Next != ""; {
			verified, err = l.VerifyTrail(r.ctx(), tenant(r), verified.Next, time.Minute)
		}
		is(r, err, broker.ErrKeyNotYet, "verified")
		l.copied()
		l.follow()
		if got := l.to.ids(r, tenant(r)); !slices.Equal(got, []string{want}) {
			r.Errorf("%s: delivered %v, want %s", edit.Do, got, want)
		}
		if got, err := l.found(client); err != nil || !slices.Equal(got, []string{want}) {
			r.Errorf("%s: found %v, %v, want %s", edit.Do, got, err, want)
		}
		said := slices.DeleteFunc(strings.Split(r.log.String(), "\n"), func(line string) bool {
			return !strings.Contains(line, "does not have; its stream waits") || !strings.Contains(line, tenant(r))
		})
		if n := len(said); n != 1 {
			r.Errorf("%s: said %d times", edit.Do, n)
		}
		r.leave()
		for _, key := range r.keys("tb:*:" + tenant(r)) {
			r.raw("DEL", key) // what one of them has left
		}
		r.log = &syncBuffer{}
	}
}

// testDeliverMadeUpKey (threat 37): an entry under a key that nobody has holds its stream up for as long as it takes to know that, ten
// minutes at most, and those behind it begin to wait with it.
func testDeliverMadeUpKey(r *rig) {
	for name, c := range map[string]struct {
		alike bool
		most  time.Duration
	}{"the replicas have one keyset": {true, 12 * time.Second}, "one has another": {false, 10 * time.Minute}} {
		l := newLate(r)
		other, err := vault.NewEphemeralKeyset()
		if err != nil {
			r.Fatal(err)
		}
		file := l.file
		for range 3 { // each under a key of its own, that was never in the file
			l.edit(vault.KeysetEdit{Do: vault.KeysetRotate, Audit: true})
			l.by("forger")
			l.file = file
			r.keyset = l.open()
		}
		good := l.by("good")
		l.beats("one", l.mine)
		if !c.alike {
			l.beats("two", other)
		}
		l.follow()
		l.later(c.most - 2*time.Second)
		l.follow()
		if got := l.to.ids(r, tenant(r)); len(got) > 0 {
			r.Errorf("%s: it does not wait: %v", name, got)
		}
		l.later(2 * time.Second)
		l.follow()
		l.later(2 * time.Second)
		l.follow()
		if got := l.to.ids(r, tenant(r)); !slices.Equal(got, []string{good}) || l.Delivered()[0].Unreadable < 3 {
			r.Errorf("%s: delivered %v, want %s: %+v", name, got, good, l.Delivered()[0])
		}
		r.leave()
		for _, key := range r.keys("tb:*:" + tenant(r)) {
			r.raw("DEL", key)
		}
	}
}
