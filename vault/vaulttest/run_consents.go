package vaulttest

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

func newConsent(s *vault.Store, tenant, subject string) broker.Consent {
	now := time.Now().UTC().Truncate(time.Millisecond)
	return broker.Consent{
		ID: recordID(s, tenant, subject), Tenant: tenant, Client: "chat", Subject: subject, Connector: "files",
		Actor: broker.Actor{Agent: "a", Run: "r", Tool: "t"}, Scopes: broker.NewScopeSet("files.read"), Added: broker.NewScopeSet("files.read"),
		Binding: broker.BindingReturn, ReturnTo: "https://chat.example.com/done", State: "canary-client-state", Link: broker.NewSecret("canary-link"),
		Status: broker.ConsentPending, Deadline: now.Add(broker.LinkLife), CreatedAt: now, RequestID: "req", TraceID: "trace",
	}
}

func testConsents(r *rig) {
	s := r.store()
	c, err := s.CreateConsent(r.ctx(), newConsent(s, tenant(r), "u"), "", nil)
	if err != nil || c.Version != 1 {
		r.Fatalf("create: version %d, %v", c.Version, err)
	}
	read, err := s.Consent(r.ctx(), c.ID)
	if err != nil || fmt.Sprintf("%#v", read) != fmt.Sprintf("%#v", c) || read.Link.Reveal() != "canary-link" {
		r.Fatalf("read back: %+v, made: %+v, %v", read, c, err)
	}
	c.Status, c.Verifier, c.BrowserDigest, c.StateDigest = broker.ConsentStarted, broker.NewSecret("canary-verifier"), "bd", "sd"
	stale := c
	if c, err = s.UpdateConsent(r.ctx(), c, nil); err != nil || c.Version != 2 {
		r.Fatalf("update: %v", err)
	}
	if again, err := s.UpdateConsent(r.ctx(), stale, nil); err != nil || again.Version != 2 {
		r.Fatalf("the same update, repeated as it was: version %d, %v", again.Version, err)
	}
	stale.Attempts++
	_, err = s.UpdateConsent(r.ctx(), stale, nil)
	is(r, err, broker.ErrConflict, "update from an older version")
	grant := r.grant("p")
	c.Status, c.Provisional, c.CompletionCode = broker.ConsentAwaitingCompletion, &grant, broker.NewSecret("canary-code")
	c.CallbackParams = map[string]string{"realmId": "1"}
	if c, err = s.UpdateConsent(r.ctx(), c, nil); err != nil {
		r.Fatal(err)
	}
	read, err = s.Consent(r.ctx(), c.ID)
	if err != nil || read.Provisional == nil || read.Provisional.RefreshToken.Reveal() != "canary-rt-p" || read.CompletionCode.Reveal() != "canary-code" ||
		read.Verifier.Reveal() != "canary-verifier" || !read.Provisional.ExpiresAt.Equal(grant.ExpiresAt) {
		r.Fatalf("provisional grant read back: %+v, %v", read, err)
	}
	r.within(time.Second, "the clock goes on", func() bool { return time.Now().UnixMilli() > c.CreatedAt.UnixMilli() })
	second, err := s.CreateConsent(r.ctx(), newConsent(s, tenant(r), "u"), "", nil)
	if err != nil {
		r.Fatal(err)
	}
	open, err := s.ConsentsOfSubject(r.ctx(), tenant(r), "u", 100)
	if err != nil || len(open) != 2 || open[0].ID != c.ID || open[1].ID != second.ID {
		r.Fatalf("unfinished consents: %d, %v", len(open), err)
	}
	c.Status, c.Provisional = broker.ConsentDenied, nil
	if c, err = s.UpdateConsent(r.ctx(), c, []broker.Entry{entry(broker.EventConsentDenied, broker.Connection{Tenant: tenant(r), Subject: "u", Connector: "files"})}); err != nil {
		r.Fatal(err)
	}
	open, err = s.ConsentsOfSubject(r.ctx(), tenant(r), "u", 100)
	if err != nil || len(open) != 1 || open[0].ID != second.ID {
		r.Fatalf("unfinished consents after one ended: %d, %v", len(open), err)
	}
	if read, err = s.Consent(r.ctx(), c.ID); err != nil || read.Status != broker.ConsentDenied {
		r.Fatalf("finished consent: %v", err)
	}
	_, err = s.Consent(r.ctx(), recordID(s, tenant(r), "u"))
	is(r, err, broker.ErrNotFound, "unknown consent")
	_, err = s.Consent(r.ctx(), "../etc")
	is(r, err, broker.ErrNotFound, "no id of a consent")
	// Everything of a running consent has an end of life.
	prefix := tag(s.Shard(tenant(r), "u"))
	for _, key := range append(r.keys(prefix[:4]+"*}:o:"+c.ID), r.keys(prefix[:4]+"*}:o:"+second.ID)...) {
		if ttl := r.raw("PTTL", key); ttl == "-1" {
			r.Fatalf("consent without a TTL")
		}
	}
	for _, key := range r.keys(prefix + "u:*") {
		if ttl := r.raw("PTTL", key); ttl == "-1" {
			r.Fatalf("index of unfinished consents without a TTL")
		}
	}
}

// testOnce: of equal questions one is asked, until its deadline.
func testOnce(r *rig) {
	stores := []*vault.Store{r.store(), r.store()}
	prefix := tag(stores[0].Shard(tenant(r), "u"))
	var made, refused atomic.Int64
	var first atomic.Value
	var group sync.WaitGroup
	for i := range 20 {
		s := stores[i%len(stores)]
		group.Go(func() {
			var entries []broker.Entry
			if i%3 == 0 {
				entries = []broker.Entry{entry(broker.EventConsentCreated, broker.Connection{Tenant: tenant(r), Subject: "u"})}
			}
			switch c, err := s.CreateConsent(r.ctx(), newConsent(s, tenant(r), "u"), "canary-question", entries); {
			case err == nil:
				made.Add(1)
				first.Store(c)
			case errors.Is(err, broker.ErrConflict):
				refused.Add(1)
			default:
				r.Errorf("create: %v", err)
			}
		})
	}
	group.Wait()
	if made.Load() != 1 || refused.Load() != 19 {
		r.Fatalf("%d made, %d refused", made.Load(), refused.Load())
	}
	s, c := stores[0], first.Load().(broker.Consent)
	if open, err := s.ConsentsOfSubject(r.ctx(), tenant(r), "u", 100); err != nil || len(open) != 1 || open[0].ID != c.ID {
		r.Fatalf("unfinished consents: %d, %v", len(open), err)
	}
	// Other tests' questions may lie in the same shard.
	keys := slices.DeleteFunc(r.keys(prefix+"n:*"), func(key string) bool { return r.raw("HGET", key, "id") != c.ID })
	if len(keys) != 1 || strings.Contains(keys[0], "question") || r.raw("HGET", keys[0], "id") != c.ID {
		r.Fatalf("beside the consent: %q", keys)
	}
	if end := r.raw("PTTL", keys[0]); end == "-1" {
		r.Fatal("the question is never forgotten")
	} else if ms, err := strconv.ParseInt(end, 10, 64); err != nil || time.Duration(ms)*time.Millisecond > time.Until(c.Deadline)+time.Second {
		r.Fatalf("the question is kept for %s ms, its consent until %v", end, c.Deadline)
	}
	create := func(once string, deadline time.Time) error {
		c := newConsent(s, tenant(r), "u")
		c.Deadline = deadline
		_, err := s.CreateConsent(r.ctx(), c, once, nil)
		return err
	}
	later := time.Now().Add(time.Hour)
	is(r, create("canary-question", later), broker.ErrConflict, "the same question again")
	// The same words of another subject, another question, and none: all may be asked.
	if _, err := s.CreateConsent(r.ctx(), newConsent(s, tenant(r), "other"), "canary-question", nil); err != nil {
		r.Fatalf("another subject: %v", err)
	}
	for _, once := range []string{"another", "", ""} {
		if err := create(once, later); err != nil {
			r.Fatalf("question %q: %v", once, err)
		}
	}
	// Finished before its deadline, it still counts.
	c.Status = broker.ConsentDenied
	if _, err := s.UpdateConsent(r.ctx(), c, nil); err != nil {
		r.Fatal(err)
	}
	is(r, create("canary-question", later), broker.ErrConflict, "the same question after the consent ended")
	r.verified(s)
}

// testOnceOver: a question may be asked again when the deadline of the consent that it was asked with is over.
func testOnceOver(r *rig) {
	s := r.store()
	create := func(deadline time.Time) error {
		c := newConsent(s, tenant(r), "u")
		c.Deadline = deadline
		_, err := s.CreateConsent(r.ctx(), c, "once", nil)
		return err
	}
	end := time.Now().Add(300 * time.Millisecond)
	if err := create(end); err != nil {
		r.Fatal(err)
	}
	later := time.Now().Add(time.Hour)
	is(r, create(later), broker.ErrConflict, "before the deadline")
	r.within(5*time.Second, "the deadline is over", func() bool { return create(later) == nil })
	if time.Now().Before(end) {
		r.Fatal("asked again before the deadline")
	}
	is(r, create(later), broker.ErrConflict, "the one that was asked again")
}

// testConsentsOfSubject: no more than asked for, and none passed over because of what lies before it in the index.
func testConsentsOfSubject(r *rig) {
	s := r.store()
	prefix := tag(s.Shard(tenant(r), "u")) + "o:"
	var ids []string
	for range 9 {
		c, err := s.CreateConsent(r.ctx(), newConsent(s, tenant(r), "u"), "", nil)
		if err != nil {
			r.Fatal(err)
		}
		ids = append(ids, c.ID)
	}
	slices.Sort(ids)
	for _, limit := range []int{1, 4, 8, 9, 10} {
		found, err := s.ConsentsOfSubject(r.ctx(), tenant(r), "u", limit)
		if err != nil || len(found) != min(limit, 9) {
			r.Fatalf("at most %d: %d, %v", limit, len(found), err)
		}
	}
	// The first ones in the index are gone, one more does not open.
	for _, id := range ids[:5] {
		r.raw("DEL", prefix+id)
	}
	r.raw("HSET", prefix+ids[5], "b", "broken")
	for limit, want := range map[int]int{1: 1, 2: 2, 3: 3, 5: 3, 100: 3} {
		found, err := s.ConsentsOfSubject(r.ctx(), tenant(r), "u", limit)
		if err != nil || len(found) != want {
			r.Fatalf("at most %d of what is left: %d, want %d, %v", limit, len(found), want, err)
		}
		for i, c := range found {
			if i > 0 && c.CreatedAt.Before(found[i-1].CreatedAt) {
				r.Fatal("not the oldest first")
			}
		}
	}
}

// testParallelUpdates is dex's conformance test for refresh updates: as many successes as the counter says.
func testParallelUpdates(r *rig) {
	stores := []*vault.Store{r.store(), r.store(), r.store()}
	c, err := stores[0].CreateConsent(r.ctx(), newConsent(stores[0], tenant(r), "u"), "", nil)
	if err != nil {
		r.Fatal(err)
	}
	var successes atomic.Int64
	var group sync.WaitGroup
	for i := range 100 {
		s := stores[i%len(stores)]
		group.Go(func() {
			now, err := s.Consent(r.ctx(), c.ID)
			if err != nil {
				r.Errorf("read: %v", err)
				return
			}
			now.Attempts++
			now.Claim = fmt.Sprint(i) // else two of them would be one write, repeated
			var entries []broker.Entry
			if i%2 == 0 {
				entries = []broker.Entry{entry(broker.EventConsentFailed, broker.Connection{Tenant: tenant(r), Subject: "u"})}
			}
			switch _, err = s.UpdateConsent(r.ctx(), now, entries); {
			case err == nil:
				successes.Add(1)
			case !errors.Is(err, broker.ErrConflict):
				r.Errorf("update: %v", err)
			}
		})
	}
	group.Wait()
	end, err := stores[0].Consent(r.ctx(), c.ID)
	if err != nil || int64(end.Attempts) != successes.Load() || end.Version != successes.Load()+1 || successes.Load() == 0 {
		r.Fatalf("counter %d, version %d after %d successes: %v", end.Attempts, end.Version, successes.Load(), err)
	}
	r.verified(stores[0])
}

func testDue(r *rig) {
	s := r.store()
	var ids []string
	for i := range 5 {
		c := newConsent(s, tenant(r), fmt.Sprintf("u%d", i))
		c.Deadline = time.Now().Add(time.Duration(i-3) * time.Hour)
		c, err := s.CreateConsent(r.ctx(), c, "", nil)
		if err != nil {
			r.Fatal(err)
		}
		ids = append(ids, c.ID)
	}
	mine := func() (found []string) {
		due, err := s.DueConsents(r.ctx(), time.Now(), 1000)
		if err != nil {
			r.Fatal(err)
		}
		for _, c := range due {
			if c.Tenant == tenant(r) {
				found = append(found, c.ID)
			}
		}
		return found
	}
	if got := mine(); len(got) < 3 || got[0] != ids[0] || got[1] != ids[1] || got[2] != ids[2] {
		r.Fatalf("due: %v of %v", got, ids)
	}
	// One that is gone leaves the list, one that ended too. Who wrote it would bring it back.
	s = r.store()
	r.raw("DEL", tag(s.Shard(tenant(r), "u0"))+"o:"+ids[0])
	c, err := s.Consent(r.ctx(), ids[1])
	if err != nil {
		r.Fatal(err)
	}
	c.Status = broker.ConsentExpired
	if _, err := s.UpdateConsent(r.ctx(), c, nil); err != nil {
		r.Fatal(err)
	}
	mine()
	if got := mine(); len(got) == 0 || got[0] != ids[2] {
		r.Fatalf("due after one is gone and one ended: %v", got)
	}
	if score, err := r.rawTry("ZSCORE", tag(s.Shard(tenant(r), "u0"))+"d", ids[0]); err != nil || score != "" {
		r.Fatalf("the list still names a consent that is gone: %q, %v", score, err)
	}
}

// copyHash copies the fields of one hash to another, as who can write to the store could.
func copyHash(r *rig, from, to string) {
	r.Helper()
	for _, field := range lines(r.raw("HKEYS", from)) {
		r.raw("HSET", to, field, r.raw("HGET", from, field))
	}
}
