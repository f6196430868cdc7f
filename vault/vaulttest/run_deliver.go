package vaulttest

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// mailbox is a sink that keeps what it gets.
type mailbox struct {
	mu    sync.Mutex
	lines [][]byte
	fail  error
}

func (m *mailbox) Name() string { return "mailbox" }

func (m *mailbox) Append(_ context.Context, lines [][]byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	for _, line := range lines {
		m.lines = append(m.lines, bytes.Clone(line))
	}
	return nil
}

// ids are the events of the tenant that it got, in the order in which they came.
func (m *mailbox) ids(r *rig, tenant string) (ids []string) {
	r.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, line := range m.lines {
		var e struct{ ID, Tenant string }
		if err := json.Unmarshal(line, &e); err != nil {
			r.Fatal(err)
		}
		if e.Tenant == tenant {
			ids = append(ids, e.ID)
		}
	}
	return ids
}

// delivering is a store whose trail goes to m.
func (r *rig) delivering(m *mailbox, released bool, change ...func(*vault.Config, *redisstore.Config)) *vault.Store {
	r.Helper()
	return r.store(append(change, func(vc *vault.Config, _ *redisstore.Config) {
		vc.Sinks = []vault.Sink{{ID: "canary-place " + tenant(r), To: m, Released: released}}
	})...)
}

// leave ends what processes hold, as it ends by itself.
func (r *rig) leave() {
	r.Helper()
	for _, key := range r.keys("tb:*:sk:k:*") {
		r.raw("DEL", key)
	}
}

// deliver delivers all that there is; quiet streams are looked at in some of the rounds only.
func (r *rig) deliver(s *vault.Store) {
	r.Helper()
	for quiet := 0; quiet < 10; {
		more, err := s.DeliverEvents(r.ctx())
		if err != nil {
			r.Fatal(err)
		}
		if quiet++; more {
			quiet = 0
		}
	}
}

// testDeliver: a sink gets each event of the trail, those of a subject in their order; one that is away gets them later; another process
// goes on where the first one was, and nobody while it is there.
func testDeliver(r *rig) {
	m := &mailbox{}
	one := r.delivering(m, false)
	write := func(subject string, n int) (ids []string) {
		for range n {
			e := entry(broker.EventTokenRefused, broker.Connection{Tenant: tenant(r), Subject: subject}, "a", "b")
			if err := one.Append(r.ctx(), e); err != nil {
				r.Fatal(err)
			}
			ids = append(ids, e.Scopes[0].ID, e.Scopes[1].ID)
		}
		return ids
	}
	want := write("ann", 50) // more than one piece
	r.deliver(one)
	if got := m.ids(r, tenant(r)); !slices.Equal(got, want) {
		r.Fatalf("%d events, want %d in order", len(got), len(want))
	}
	lines := m.lines[len(m.lines)-1]
	events := r.allEvents(one, tenant(r), broker.EventFilter{}, 1000)
	if line, err := events[len(events)-1].Line(); err != nil || !bytes.Equal(line, lines) {
		r.Errorf("%s\nis not as the API has it:\n%s", lines, line)
	}

	m.fail = errors.New("nobody is there")
	want = append(want, write("ann", 3)...)
	r.within(10*time.Second, "it fails", func() bool { _, err := one.DeliverEvents(r.ctx()); return err != nil })
	if d := one.Delivered()[0]; !d.Mine || d.Behind.IsZero() || !errors.Is(d.Failure, m.fail) || d.To != "mailbox" {
		r.Errorf("%+v", d)
	}
	m.fail = nil
	r.deliver(one)
	if got := m.ids(r, tenant(r)); !slices.Equal(got, want) {
		r.Errorf("%d events, want %d, each once", len(got), len(want))
	}
	if d := one.Delivered()[0]; !d.Behind.IsZero() || d.Failure != nil {
		r.Errorf("%+v", d)
	}

	two := r.delivering(m, false)
	want = append(want, write("ann", 1)...)
	if _, err := two.DeliverEvents(r.ctx()); err != nil || two.Delivered()[0].Mine {
		r.Errorf("two at once: %v", err)
	}
	r.leave()
	r.deliver(two)
	if got := m.ids(r, tenant(r)); !slices.Equal(got, want) {
		r.Errorf("%d events, want %d: it does not go on where the first one was", len(got), len(want))
	}
	for _, key := range r.keys("tb:*:sk:*") {
		if strings.Contains(key, "canary-place") {
			r.Errorf("a key names the place: %s", key)
		}
	}
}

// testDeliverCrash: whoever ends between writing and saying so leaves events that the next one delivers again, and none that is missing.
func testDeliverCrash(r *rig) {
	m := &mailbox{}
	b := &later{Store: r.backend()}
	b.apply = func(ctx context.Context, steps []vault.Step, apply func(context.Context, []vault.Step) []vault.Result) []vault.Result {
		if !slices.ContainsFunc(steps, func(step vault.Step) bool {
			return len(step.Writes) > 0 && strings.Contains(step.Writes[0].Key, ":sk:m:") && strings.HasSuffix(step.Writes[0].Key, ":"+tenant(r))
		}) {
			return apply(ctx, steps)
		}
		return slices.Repeat([]vault.Result{{Err: errors.New("it ended before")}}, len(steps))
	}
	one := r.delivering(m, false, func(vc *vault.Config, _ *redisstore.Config) { vc.Backend = b })
	e := entry(broker.EventTokenRefused, broker.Connection{Tenant: tenant(r), Subject: "ann"}, "a")
	if err := one.Append(r.ctx(), e); err != nil {
		r.Fatal(err)
	}
	if _, err := one.DeliverEvents(r.ctx()); err == nil || len(m.ids(r, tenant(r))) != 1 {
		r.Fatalf("it did not crash: %v", err)
	}
	r.leave()
	two := r.delivering(m, false)
	r.deliver(two)
	if got := m.ids(r, tenant(r)); !slices.Equal(got, []string{e.Scopes[0].ID, e.Scopes[0].ID}) {
		r.Errorf("%v", got)
	}
}

// testDeliverReleased: a sink that gets tokens' events before the tokens gets all others in the background; one that is new begins with
// what is new.
func testDeliverReleased(r *rig) {
	m := &mailbox{}
	old, later := &mailbox{}, time.Now().Add(time.Hour)
	one := r.delivering(m, true)
	var want []string
	for _, kind := range []broker.EventType{broker.EventTokenIssued, broker.EventTokenRefused, broker.EventTokenIssued, broker.EventConsentCreated} {
		e := entry(kind, broker.Connection{Tenant: tenant(r), Subject: "ann"}, "a")
		if err := one.Append(r.ctx(), e); err != nil {
			r.Fatal(err)
		}
		if kind != broker.EventTokenIssued {
			want = append(want, e.Scopes[0].ID)
		}
	}
	r.deliver(one)
	if got := m.ids(r, tenant(r)); !slices.Equal(got, want) {
		r.Errorf("%v, want %v", got, want)
	}
	// One that has been there since an hour from now gets nothing of what is now.
	r.leave()
	for _, key := range r.keys("tb:*:sk:[ms]:*") {
		if strings.Contains(key, ":sk:m:") {
			r.raw("DEL", key)
		} else {
			r.raw("HSET", key, "since", strconv.FormatInt(later.UnixMilli(), 10))
		}
	}
	r.deliver(r.delivering(old, false))
	if got := old.ids(r, tenant(r)); len(got) != 0 {
		r.Errorf("it got what is older than it: %v", got)
	}
}

// testDeliverNewerKey (threat 37): whoever delivers lacks a key that another replica has already, and can't get it yet. It waits with what
// that key sealed, and passes nothing over.
func testDeliverNewerKey(r *rig) {
	m := &mailbox{}
	o := newRotation(r)
	r.Cleanup(func() { _, _ = r.rawTry("DEL", "tb:{00}:rs") })
	old, away, now := o.keyset, true, time.Now()
	behind := r.delivering(m, false, func(vc *vault.Config, _ *redisstore.Config) {
		vc.Keyset, vc.Now = old, func() time.Time { return now }
		vc.ReloadKeyset = func() error {
			if away {
				return errors.New("the key service is away")
			}
			return old.Reload(o.file)
		}
	})
	_, _ = behind.DeliverEvents(r.ctx()) // from now on there is such a sink
	before := r.store()
	r.keyset = o.open()
	o.edit(vault.KeysetEdit{Do: vault.KeysetRotate, Audit: true})
	append := func(s *vault.Store, subject, client string) string {
		e := entry(broker.EventTokenRefused, broker.Connection{Tenant: tenant(r), Subject: subject}, "a")
		e.Client = client
		if err := s.Append(r.ctx(), e); err != nil {
			r.Fatal(err)
		}
		return e.Scopes[0].ID
	}
	ann := append(r.store(), "ann", "newer")
	bob := append(before, "bob", "older")
	if before.Shard(tenant(r), "ann") == before.Shard(tenant(r), "bob") {
		r.Fatal("both are in one stream; name another")
	}
	follow := func() {
		for range 12 { // a quiet stream is left out of some rounds
			if _, err := behind.DeliverEvents(r.ctx()); err != nil {
				r.Fatal(err)
			}
			if _, err := behind.IndexTrail(r.ctx()); err != nil {
				r.Fatal(err)
			}
		}
	}
	r.leave()
	follow()
	if got := m.ids(r, tenant(r)); !slices.Equal(got, []string{bob}) {
		r.Fatalf("delivered without the key: %v, want the other stream's alone, %s", got, bob)
	}
	if d := behind.Delivered()[0]; d.Behind.IsZero() || d.Failure != nil {
		r.Errorf("what waits is not said: %+v", d)
	}
	search := func(client string) (ids []string, err error) {
		page, err := behind.SearchEvents(r.ctx(), tenant(r), broker.EventSearch{Filter: broker.EventFilter{Client: client}, Limit: 10})
		for _, e := range page.Events {
			ids = slices.Concat(ids, []string{e.ID})
		}
		return ids, err
	}
	_, err := search("newer")
	is(r, err, broker.ErrKeyNotYet, "a search that would lack an event")
	_, _, err = behind.Events(r.ctx(), tenant(r), broker.EventFilter{}, "", 10)
	is(r, err, broker.ErrKeyNotYet, "events without one")
	_, _, err = behind.Recent(r.ctx(), tenant(r), "ann", []broker.EventType{broker.EventTokenRefused}, "", 10)
	is(r, err, broker.ErrKeyNotYet, "the newest events of a subject")
	_, err = behind.VerifyTrail(r.ctx(), tenant(r), "", time.Minute)
	if err == nil {
		for position := hex.EncodeToString([]byte{0}); position != "" && err == nil; {
			var found broker.VerifiedTrail
			if found, err = behind.VerifyTrail(r.ctx(), tenant(r), position, time.Minute); len(found.Faults) > 0 {
				r.Errorf("an entry whose key is not here yet is called a fault: %+v", found.Faults)
			}
			position = found.Next
		}
	}
	is(r, err, broker.ErrKeyNotYet, "verified")
	away, now = false, now.Add(2*time.Second)
	follow()
	if got := m.ids(r, tenant(r)); !slices.Equal(got, []string{bob, ann}) {
		r.Fatalf("delivered with the key: %v, want %v", got, []string{bob, ann})
	}
	if got, err := search("newer"); err != nil || !slices.Equal(got, []string{ann}) {
		r.Errorf("found: %v, %v, want %s", got, err, ann)
	}
	r.sound(behind)
}
