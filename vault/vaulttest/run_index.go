package vaulttest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// ofTenant matches the test's own connections.
func ofTenant(r *rig, more ...func(broker.ConnectionClass) bool) func(broker.ConnectionClass) bool {
	return func(c broker.ConnectionClass) bool {
		for _, m := range more {
			if !m(c) {
				return false
			}
		}
		return c.Tenant == tenant(r)
	}
}

// counts are the tenant's classes in words, with how many there are. Other replicas' counts are a second old at most, so a store
// that has not counted yet is asked.
func (r *rig) counts() map[string]int {
	r.Helper()
	classes, err := r.store().Classes(r.ctx())
	if err != nil {
		r.Fatalf("classes: %v", err)
	}
	out := make(map[string]int)
	for _, c := range classes {
		if c.Tenant == tenant(r) {
			out[strings.Join([]string{c.Connector, string(c.Status), c.Error, c.Scopes.String()}, "|")] += c.Count
		}
	}
	return out
}

// walked are the ids that pages of so many give.
func (r *rig) walked(s *vault.Store, page int, match func(broker.ConnectionClass) bool, oldest bool) []string {
	r.Helper()
	var ids []string
	for position, pages := "", 0; ; pages++ {
		var conns []broker.Connection
		var err error
		if oldest {
			conns, position, err = s.OldestOf(r.ctx(), match, position, page)
		} else {
			conns, position, err = s.NewestOf(r.ctx(), match, time.Time{}, time.Time{}, position, page)
		}
		if err != nil || len(conns) > page || pages > 1000 {
			r.Fatalf("page %d of %d: %d connections, %v", pages, page, len(conns), err)
		}
		for _, c := range conns {
			ids = append(ids, c.ID)
		}
		if position == "" {
			return ids
		}
	}
}

func (r *rig) follow(s *vault.Store) {
	r.Helper()
	if err := s.FollowIndex(r.ctx()); err != nil {
		r.Fatalf("follow the index: %v", err)
	}
}

func (r *rig) fail(s *vault.Store, conn broker.Connection, code string) broker.Connection {
	r.Helper()
	lease, _, err := s.BeginRefresh(r.ctx(), conn, "x", time.Minute)
	if err != nil {
		r.Fatal(err)
	}
	conn.Status, conn.Error = broker.ConnectionNeedsConsent, code
	if conn, err = s.FailRefresh(r.ctx(), lease, conn, nil); err != nil {
		r.Fatal(err)
	}
	return conn
}

// indexed makes a connection as old as that, and of these scopes.
func (r *rig) indexed(s *vault.Store, subject, connector, scopes string, made time.Time) broker.Connection {
	r.Helper()
	conn := broker.Connection{
		ID: recordID(s, tenant(r), subject), Tenant: tenant(r), Subject: subject, Connector: connector, Client: "chat", Status: broker.ConnectionActive,
		Scopes: broker.ParseScopes(scopes), CreatedAt: made, Direct: true,
	}
	conn, err := s.Establish(r.ctx(), conn, conn.ID, time.Now().Add(time.Minute))
	if err != nil {
		r.Fatal(err)
	}
	return conn
}

// testIndex: what is counted and listed follows each write of a record.
// testTenants: a tenant is known from its first connection on, while the index of connections knows neither.
func testTenants(r *rig) {
	s := r.store()
	known := func() bool {
		r.Helper()
		all, err := r.store().Tenants(r.ctx())
		if err != nil || !slices.IsSorted(all) || slices.Contains(all, "") {
			r.Fatalf("tenants %q, %v", all, err)
		}
		return slices.Contains(all, tenant(r))
	}
	if known() {
		r.Fatal("a tenant of which nothing was recorded")
	}
	r.connect(s, tenant(r), "alice", "files", "1")
	if n := r.counts(); len(n) != 0 {
		r.Fatalf("the index has it already: %v", n)
	}
	if !known() {
		r.Error("a tenant with a connection is not among them")
	}
	r.follow(s)
	if !known() {
		r.Error("nor when it is indexed")
	}
}

func testIndex(r *rig) {
	s := r.store()
	began := time.Now().UTC().Truncate(time.Millisecond).Add(-time.Hour)
	var want []string // oldest first
	for i := range 30 {
		c := r.indexed(s, fmt.Sprint("user-", i), []string{"files", "crm"}[i%2], []string{"a", "a b", "b c"}[i%3], began.Add(time.Duration(i/2)*time.Minute))
		want = append(want, c.ID)
		if i%2 == 1 && want[i-1] > want[i] { // made in the same ms: by id
			want[i-1], want[i] = want[i], want[i-1]
		}
	}
	if n := len(r.walked(s, 10, ofTenant(r), false)); n != 0 {
		r.Fatalf("%d listed before anything was moved", n)
	}
	r.follow(s)
	if got := r.counts(); !maps.Equal(got, map[string]int{
		"files|active||a": 5, "files|active||a b": 5, "files|active||b c": 5, "crm|active||a": 5, "crm|active||a b": 5, "crm|active||b c": 5,
	}) {
		r.Fatalf("classes: %v", got)
	}
	s = r.store()
	for _, page := range []int{1, 7, 30, 100} {
		if got := r.walked(s, page, ofTenant(r), true); !slices.Equal(got, want) {
			r.Fatalf("oldest by %d: %d of %d, or in another order", page, len(got), len(want))
		}
		got := r.walked(s, page, ofTenant(r), false)
		slices.Reverse(got)
		if !slices.Equal(got, want) {
			r.Fatalf("newest by %d: %d of %d, or in another order", page, len(got), len(want))
		}
	}
	scope := func(c broker.ConnectionClass) bool { return c.Scopes.Has("c") && c.Connector == "crm" }
	if got := r.walked(s, 3, ofTenant(r, scope), false); len(got) != 5 {
		r.Fatalf("with a scope: %d", len(got))
	}
	between, next, err := s.NewestOf(r.ctx(), ofTenant(r), began.Add(2*time.Minute), began.Add(4*time.Minute), "", 50)
	if err != nil || next != "" || len(between) != 4 || !slices.Contains(want[4:8], between[0].ID) {
		r.Fatalf("between two times: %d, %q, %v", len(between), next, err)
	}
	if none := r.walked(s, 10, func(c broker.ConnectionClass) bool { return c.Tenant == tenant(r)+"x" }, false); len(none) != 0 {
		r.Fatalf("of another tenant: %d", len(none))
	}

	// One by one into other classes: revoked, erased, dead, and back by a consent.
	if _, err := s.BeginRevoke(r.ctx(), tenant(r), want[0], nil); err != nil {
		r.Fatal(err)
	}
	if listed := r.walked(s, 40, ofTenant(r, func(c broker.ConnectionClass) bool { return c.Status == broker.ConnectionActive }), false); slices.Contains(listed, want[0]) {
		r.Error("revoked a moment ago, and listed as active")
	}
	r.follow(s)
	if err := s.EndRevoke(r.ctx(), tenant(r), want[0], broker.RevokedDone, false); err != nil {
		r.Fatal(err)
	}
	if _, err := s.BeginRevoke(r.ctx(), tenant(r), want[1], nil); err != nil {
		r.Fatal(err)
	}
	if err := s.EndRevoke(r.ctx(), tenant(r), want[1], broker.RevokedDone, true); err != nil {
		r.Fatal(err)
	}
	dead := r.fail(s, r.connect(s, tenant(r), "dead", "mail", "1"), "invalid_grant")
	r.follow(s)
	got := r.counts()
	if got["mail|needs_consent|invalid_grant|files.read files.write"] != 1 || got["mail|active||files.read files.write"] != 0 {
		r.Fatalf("after a dead verdict: %v", got)
	}
	revoked := 0
	for class, n := range got {
		if strings.Contains(class, "|revoked|") {
			revoked += n
		}
	}
	if total(got) != 30 || revoked != 1 {
		r.Fatalf("after a revocation and an erasure: %d revoked of %v", revoked, got)
	}
	if listed := r.walked(r.store(), 7, ofTenant(r), true); !slices.Equal(listed, append(append([]string{want[0]}, want[2:]...), dead.ID)) {
		r.Fatalf("listed after an erasure: %d", len(listed))
	}
	for _, key := range r.keys(tag(s.Shard(tenant(r), "user-0")) + "i:" + want[1]) {
		r.Errorf("left of an erased connection: %s", key)
	}
	dead.Status, dead.Error = broker.ConnectionActive, ""
	r.renew(s, dead, "2")
	r.follow(s)
	if got := r.counts(); got["mail|active||files.read files.write"] != 1 || got["mail|needs_consent|invalid_grant|files.read files.write"] != 0 {
		r.Fatalf("after a consent: %v", got)
	}
	// A write that changes nothing of the class leaves nothing to do.
	shard := s.Shard(tenant(r), "dead")
	conns, err := s.OfSubject(r.ctx(), tenant(r), "dead", "")
	if err != nil {
		r.Fatal(err)
	}
	lease := renewLease(r, s, conns[0])
	if _, err := s.CommitRefresh(r.ctx(), lease, conns[0], "", r.grant("3"), nil); err != nil {
		r.Fatal(err)
	}
	if due := r.raw("ZRANGEBYSCORE", tag(shard)+"ci:d", "-inf", "+inf"); strings.Contains(due, conns[0].ID) {
		r.Errorf("due after a refresh that changed nothing: %s", due)
	}
}

func total(counts map[string]int) (n int) {
	for _, c := range counts {
		n += c
	}
	return n
}

// testIndexEnds: what ends is known before, and turns into what needs consent when it has.
func testIndexEnds(r *rig) {
	var ahead atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	later := func(vc *vault.Config, _ *redisstore.Config) { vc.Now = now }
	s := r.store(later)
	conn := func(subject string, life time.Duration) broker.Connection {
		r.Helper()
		c := r.indexed(s, subject, "files", "a", time.Now())
		c.Direct = false
		consent, err := s.CreateConsent(r.ctx(), renewal(s, c), "", nil)
		if err != nil {
			r.Fatal(err)
		}
		consent.Status = broker.ConsentCompleted
		grant := r.grant("1")
		grant.RefreshToken, grant.ExpiresAt, grant.Lifetime = broker.Secret{}, time.Now().Add(life).UTC().Truncate(time.Millisecond), life
		if c, err = s.CompleteConsent(r.ctx(), consent, c, grant, nil); err != nil {
			r.Fatal(err)
		}
		return c
	}
	soon, days := conn("soon", 10*time.Minute), conn("days", 72*time.Hour)
	r.connect(s, tenant(r), "renews", "files", "1")
	r.follow(s)
	mine := func(t string) bool { return t == tenant(r) }
	ending, n, err := s.Ending(r.ctx(), mine, now().Add(200*time.Hour), 10)
	if err != nil || n != 2 || len(ending) != 2 || ending[0].ID != soon.ID || ending[1].ID != days.ID {
		r.Fatalf("ending: %d of %d, %v", len(ending), n, err)
	}
	ending, n, err = s.Ending(r.ctx(), mine, now().Add(24*time.Hour), 10)
	if err != nil || n != 1 || len(ending) != 1 || ending[0].ID != soon.ID {
		r.Fatalf("ending within a day: %d of %d, %v", len(ending), n, err)
	}
	if ending, n, err = s.Ending(r.ctx(), mine, now().Add(200*time.Hour), 1); err != nil || n != 2 || len(ending) != 1 || ending[0].ID != soon.ID {
		r.Fatalf("the first that ends: %d of %d, %v", len(ending), n, err)
	}
	ahead.Store(int64(11 * time.Minute))
	needs := func(c broker.ConnectionClass) bool { return c.Status == broker.ConnectionNeedsConsent }
	r.follow(s)
	if got := r.walked(r.store(later), 10, ofTenant(r, needs), false); !slices.Equal(got, []string{soon.ID}) {
		r.Fatalf("ended: %v", got)
	}
	if ending, n, err := r.store(later).Ending(r.ctx(), mine, now().Add(200*time.Hour), 10); err != nil || n != 1 || len(ending) != 1 || ending[0].ID != days.ID {
		r.Fatalf("ending after one has ended: %d of %d, %v", len(ending), n, err)
	}
}

// testIndexCheck: what the index lost, or never had, comes back with a check, and what it should not have goes. Nothing of it is
// ever shown.
func testIndexCheck(r *rig) {
	s := r.store()
	active, dead := r.connect(s, tenant(r), "active", "files", "1"), r.connect(s, tenant(r), "dead", "files", "1")
	dead = r.fail(s, dead, "invalid_grant")
	r.follow(s)
	want := map[string]int{"files|active||files.read files.write": 1, "files|needs_consent|invalid_grant|files.read files.write": 1}
	if got := r.counts(); !maps.Equal(got, want) {
		r.Fatalf("before: %v", got)
	}
	setOf := func(c broker.Connection) (set, member string) {
		place := r.raw("HGET", tag(s.Shard(tenant(r), c.Subject))+"i:"+c.ID, "ix")
		for _, key := range r.keys("tb:*:y:" + place[:16]) {
			set = key
		}
		return set, place[16:27] + c.ID
	}
	activeSet, activeMember := setOf(active)
	deadSet, deadMember := setOf(dead)
	check := func(what string) {
		r.Helper()
		checker := r.store()
		r.raw("DEL", tag(0)+"ci:w") // processes of other tests began a check, and were cut off or killed in it
		if err := checker.CheckIndex(r.ctx()); err != nil {
			r.Fatalf("%s: check: %v", what, err)
		}
		r.follow(checker)
		if got := r.counts(); !maps.Equal(got, want) {
			r.Fatalf("%s: %v", what, got)
		}
		if r.raw("ZRANGE", activeSet, "0", "-1") != activeMember || r.raw("ZRANGE", deadSet, "0", "-1") != deadMember {
			r.Fatalf("%s: the sets have other members", what)
		}
	}
	r.raw("ZADD", activeSet, "0", deadMember)
	isActive := func(c broker.ConnectionClass) bool { return c.Status == broker.ConnectionActive }
	if got := r.walked(r.store(), 5, ofTenant(r, isActive), false); !slices.Equal(got, []string{active.ID}) {
		r.Fatalf("a row in the wrong place shows: %v", got)
	}
	r.follow(s)
	if r.raw("ZRANGE", activeSet, "0", "-1") != activeMember {
		r.Error("a reader saw a row in the wrong place, and it stays there")
	}
	r.raw("ZADD", activeSet, "0", deadMember)
	check("a member too many")
	r.raw("DEL", activeSet)
	check("a lost set")
	gone := recordID(s, tenant(r), "gone")
	r.raw("ZADD", activeSet, "0", activeMember[:11]+gone)
	check("a member without a record")
	r.raw("DEL", activeSet)
	r.raw("DEL", deadSet)
	for _, c := range []broker.Connection{active, dead} {
		r.raw("HDEL", tag(s.Shard(tenant(r), c.Subject))+"i:"+c.ID, "ix")
	}
	for _, key := range r.keys("tb:*:ci:c") {
		r.raw("DEL", key)
	}
	check("data of an older version")
	seals, err := s.SealedBy(r.ctx())
	if err != nil || seals.Records < 2 || seals.At.IsZero() || seals.Primary == 0 || seals.ByKey[seals.Primary] < 2 {
		r.Fatalf("sealed by: %+v, %v", seals, err)
	}
}
