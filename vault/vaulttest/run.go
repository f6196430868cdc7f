package vaulttest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

// Run is what every store topology must pass. start is called once; the tests keep out of each other's way by tenant.
func Run(t *testing.T, start func(t testing.TB) Topology) {
	topology := start(t)
	type test struct {
		name string
		run  func(*rig)
	}
	tests := []test{
		{"connections", testConnections},
		{"unreadable connections", testUnreadable},
		{"release", testRelease},
		{"list", testList},
		{"refresh", testRefresh},
		{"late commit", testLateCommit},
		{"late commit after a consent", testLateCommitAfterConsent},
		{"consent during a late commit", testConsentDuringLateCommit},
		{"alternate of one account", testAlternateOfOneAccount},
		{"late commit behind a dead verdict", testRevive},
		{"late commit behind several failures", testLateBehindSeveral},
		{"alternate in the moment of a dead verdict", testVerdictMeetsAlternate},
		{"successor of another refresh token", testSuccessorElsewhere},
		{"alternate behind a lost verdict", testLostVerdict},
		{"alternate of a wrong clock", testAlternateOfWrongClock},
		{"alternate in the spool", testAlternateInSpool},
		{"alternates of the lease", testAlternatesOfTheLease},
		{"lost with who wrote behind", testLostWithWhoWroteBehind},
		{"a generation made twice", testGenerationMadeTwice},
		{"a spool without a store", testSpoolWithoutStore},
		{"lease with a lost one's fence", testSameFence},
		{"lease", testLease},
		{"revoke", testRevoke},
		{"outcome of a revocation", testOutcome},
		{"renew", testRenew},
		{"establish", testEstablish},
		{"consents", testConsents},
		{"asked once", testOnce},
		{"consents of a subject", testConsentsOfSubject},
		{"parallel updates", testParallelUpdates},
		{"due", testDue},
		{"polls", testPolls},
		{"schedule", testSchedule},
		{"shared grant", testShared},
		{"shared grant and a consent", testSharedConsent},
		{"holders of a shared grant", testSharedHolders},
		{"foreign shared grant", testSharedForeign},
		{"shared grant after a reconnect", testSharedReconnect},
		{"shared grant set back", testSharedSetBack},
		{"shared grant of a spool", testSharedSpool},
		{"shared grant taken over", testSharedTakenOver},
		{"holder of a shared grant lost", testSharedHolderLost},
		{"shared grant lost before it could be read again", testSharedLostUnread},
		{"shared grant that one holder alone has", testSharedHeldElsewhere},
		{"shared grant of a newer format", testSharedNewerFormat},
		{"shared lease of two runs", testSharedLeaseOfTwoRuns},
		{"leavers of a shared grant", testSharedLeavers},
		{"leaving a shared grant beside a consent", testSharedLeavingBesideConsent},
		{"leaving a shared grant beside a renewal", testSharedLeavingBesideRenewal},
		{"erased beside a shared lease", testSharedGhost},
		{"lost answer to a shared lease", testSharedLostAnswer},
		{"holders of grants that end together", testRevokedTogether},
		{"holders of before", testEnlist},
		{"held by", testHeldBy},
		{"shared grant and a clock ahead", testSharedClockAhead},
		{"schedule in pieces", testScheduleLimit},
		{"events", testEvents},
		{"event filters", testEventFilters},
		{"follower", testFollower},
		{"events delivered", testDeliver}, {"events delivered, a crash", testDeliverCrash}, {"events delivered, a newer key", testDeliverNewerKey}, {"events delivered, a late keyset file", testDeliverLateFile}, {"events delivered, made up keys", testDeliverMadeUpKey},
		{"events delivered beside tokens", testDeliverReleased},
		{"visits", testPortals},
		{"visits in parallel", testPortalsParallel},
		{"newest events", testRecent},
		{"newest events among many", testRecentBound},
		{"sessions", testSessions},
		{"jobs", testJobs},
		{"list of jobs", testJobsListed},
		{"switches", testSwitches}, {"switches that somebody spoils", testSwitchesTampered},
		{"guess", testGuess}, {"wrong guess", testWrongGuess}, {"guess after a loss", testGuessAfterLoss}, {"guess and tampering", testGuessTampered}, {"guess and a lost answer", testGuessAnswerLost},
		{"jobs in parallel", testJobsParallel},
		{"operators' sign-ins", testOperatorSignIns},
		{"operators' epochs", testOperatorEpochs},
		{"who is signed in", testOperatorSessions},
		{"counts", testCounts},
		{"places", testPlaces}, {"uses", testUses}, {"used assertions", testUsedAssertions},
		{"replicas", testReplicas},
		{"backlog", testBacklog},
		{"connectors of tenants", testTenantConnectors},
		{"connectors of tenants in parallel", testTenantConnectorsParallel},
		{"connectors of tenants, attacked", testTenantConnectorsAttacked},
		{"connectors of tenants and lost answers", testTenantConnectorsLostAnswer},
		{"swapped values", testSwaps},
		{"older values", testRolledBack},
		{"newer format", testNewerFormat},
		{"upgrade", testUpgrade},
		{"nothing in clear", testNothingInClear},
		{"group commit", testGroupCommit},
		{"a token in one step", testReleaseStep},
		{"a token in one step, refused", testReleaseRefused},
		{"a token in one step, among others", testReleaseMixed},
		{"script flush", testScriptFlush},
		{"lost chain", testLostChain},
		{"replaced entry", testReplacedEntry},
		{"spool", testSpool},
		{"not spooled", testNotSpooled},
		{"settled in the spool", testSettled},
		{"orphans in the spool", testOrphans},
		{"two settled files", testSettledTwice},
		{"settled file of a store that may have lost it", testSettledWhileUnhealed},
		{"answer from before a failover", testOvertakenAnswer},
		{"rotation", testRotation},
		{"sealing anew", testReseal}, {"sealing anew beside a write", testResealMeets}, {"sealing anew and crashes", testResealCrash},
		{"healing and an erased tenant", testHealErased}, {"healing and what was sealed anew", testHealSealedAnew}, {"healing and another record", testHealForeign}, {"healing on record", testHealedOnRecord}, {"a keyset that can not be read", testKeysetAway},
		{"a consent instead", testConsentInstead},
		{"sealing anew under writes", testResealUnderWrites}, {"sealing anew and a lost write", testResealLost}, {"sealing anew and a successor", testResealSuccessor},
		{"sealing anew and a late commit", testResealSuccessorMeets},
		{"keyset of a tenant", testTenantKeyset}, {"records of an erased tenant", testErasedRecords}, {"keyset of a tenant and a refresh", testTenantErasedMeanwhile},
		{"index", testIndex},
		{"tenants before the index", testTenants},
		{"index of what ends", testIndexEnds},
		{"index and crashes", testIndexCrash},
		{"index and several movers", testIndexRace},
		{"index and a mover that stood still", testIndexMeet},
		{"index marked while it is moved", testIndexRemark},
		{"index, checked", testIndexCheck}, {"index, and a check that is stopped", testIndexCheckStopped},
		{"index of replicas", testIndexReplicas},
		{"schedule of replicas", testScheduleShared}, // the last: it holds the parts of the schedule for a while
	}
	if !topology.Variant {
		tests = append([]test{{"audit tampering", testTampering}, {"hidden trails", testHiddenTrails}, {"dead writers", testDeadWriters}}, tests...)
		// Each change of the table writes to all shards.
		tests = append(tests, test{"switches in part", testSwitchesPartial}, test{"switches in parallel", testSwitchesParallel})
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(newRig(t, topology)) })
	}
}

// tenant names a tenant after the test; it has braces in it, as ids of subjects do.
func tenant(r *rig) string { return "t}{" + strings.ReplaceAll(r.Name(), "/", ".") }

// subjects are awkward ones: hash tags, separators, signs.
var subjects = []string{"a{b}c", "}{", "{}", "👩‍🚀", "a:b", "user@example.com", strings.Repeat("x", 256)}

func is(r *rig, err, want error, what string) {
	r.Helper()
	if !errors.Is(err, want) {
		r.Fatalf("%s: %v, want %v", what, err, want)
	}
}

func testConnections(r *rig) {
	s := r.store()
	for i, subject := range subjects {
		tokens := fmt.Sprint(i)
		made := r.connect(s, tenant(r), subject, "files", tokens)
		r.within(time.Second, "the clock goes on", func() bool { return time.Now().UnixMilli() > made.CreatedAt.UnixMilli() })
		second := r.connect(s, tenant(r), subject, "crm", tokens+"b")
		all, err := s.OfSubject(r.ctx(), tenant(r), subject, "")
		if err != nil || len(all) != 2 || all[0].ID != made.ID || all[1].ID != second.ID {
			r.Fatalf("of subject %q: %d, %v", subject, len(all), err)
		}
		files, err := s.OfSubject(r.ctx(), tenant(r), subject, "files")
		if err != nil || len(files) != 1 {
			r.Fatalf("of subject %q and connector: %d, %v", subject, len(files), err)
		}
		got, err := s.Connection(r.ctx(), tenant(r), made.ID)
		if err != nil {
			r.Fatal(err)
		}
		if got.Subject != subject || got.Account != made.Account || got.Extra["instance_url"] != made.Extra["instance_url"] || got.Generation != 1 || !got.Renewable ||
			got.Lifetime != time.Hour || !got.Scopes.Equal(made.Scopes) || len(got.Tokens) != 1 || !got.Tokens[0].ExpiresAt.Equal(made.Tokens[0].ExpiresAt) {
			r.Fatalf("stored and read back: %+v, made: %+v", got, made)
		}
		r.release(s, got, tokens)
		got, err = s.Connection(r.ctx(), tenant(r), made.ID)
		if err != nil || time.Since(got.LastIssued) > time.Minute || got.Generation != 1 {
			r.Fatalf("after a release: last issued %v, generation %d, %v", got.LastIssued, got.Generation, err)
		}
	}
	// A foreign id looks like none (threats.md, row 38).
	conns, err := s.OfSubject(r.ctx(), tenant(r), subjects[0], "")
	if err != nil {
		r.Fatal(err)
	}
	_, err = s.Connection(r.ctx(), tenant(r)+"x", conns[0].ID)
	is(r, err, broker.ErrNotFound, "another tenant's connection")
	_, err = s.Connection(r.ctx(), tenant(r), recordID(s, tenant(r), "nobody"))
	is(r, err, broker.ErrNotFound, "unknown id")
	_, err = s.Connection(r.ctx(), tenant(r), "not-an-id")
	is(r, err, broker.ErrNotFound, "no id")
	none, err := s.OfSubject(r.ctx(), tenant(r)+"x", subjects[0], "")
	if err != nil || len(none) != 0 {
		r.Fatalf("another tenant's subject: %d, %v", len(none), err)
	}
	r.verified(s)
}

func testRelease(r *rig) {
	s, other := r.store(), r.store()
	conn := r.connect(s, tenant(r), "u", "files", "1")
	r.release(s, conn, "1")
	r.release(other, conn, "1") // has not read the record before
	issued := func() int {
		return len(r.allEvents(s, tenant(r), broker.EventFilter{Type: broker.EventTokenIssued}, 100))
	}
	if n := issued(); n != 4 {
		r.Fatalf("%d events after two releases of two scopes", n)
	}
	stale := conn
	stale.Generation++
	_, err := s.Release(r.ctx(), stale, "", entry(broker.EventTokenIssued, conn, "files.read"))
	is(r, err, broker.ErrConflict, "another generation")
	_, err = s.Release(r.ctx(), conn, "no such token", entry(broker.EventTokenIssued, conn, "files.read"))
	is(r, err, broker.ErrConflict, "another token")
	foreign := conn
	foreign.Tenant += "x"
	_, err = s.Release(r.ctx(), foreign, "", entry(broker.EventTokenIssued, foreign, "files.read"))
	if err == nil {
		r.Fatal("another tenant got the token")
	}
	if _, err := s.BeginRevoke(r.ctx(), tenant(r), conn.ID, nil); err != nil {
		r.Fatal(err)
	}
	for _, each := range []*vault.Store{s, other} {
		_, err = each.Release(r.ctx(), conn, "", entry(broker.EventTokenIssued, conn, "files.read"))
		is(r, err, broker.ErrConflict, "after a revocation")
	}
	if n := issued(); n != 4 {
		r.Fatalf("%d events: a refused release left one", n)
	}
	r.verified(s)
}

func testList(r *rig) {
	s := r.store()
	want := make(map[string]bool)
	for i := range 60 {
		conn := r.connect(s, tenant(r), fmt.Sprintf("user-%d", i%50), []string{"files", "crm"}[i%2], "x")
		want[conn.ID] = true
	}
	for _, page := range []int{1, 7, 60, 200} {
		got := make(map[string]bool)
		position := ""
		for pages := 0; ; pages++ {
			conns, next, err := s.List(r.ctx(), tenant(r), broker.ConnectionFilter{}, position, page)
			if err != nil || len(conns) > page || pages > 61 {
				r.Fatalf("list by %d: %d, page %d, %v", page, len(conns), pages, err)
			}
			for _, c := range conns {
				if got[c.ID] || !want[c.ID] {
					r.Fatalf("list by %d: %s twice or not ours", page, c.ID)
				}
				got[c.ID] = true
			}
			if next == "" {
				break
			}
			position = next
		}
		if len(got) != len(want) {
			r.Fatalf("list by %d: %d of %d", page, len(got), len(want))
		}
	}
	crm, next, err := s.List(r.ctx(), tenant(r), broker.ConnectionFilter{Connector: "crm", Status: broker.ConnectionActive}, "", 100)
	if err != nil || len(crm) != 30 || next != "" {
		r.Fatalf("list of crm: %d, %q, %v", len(crm), next, err)
	}
	none, _, err := s.List(r.ctx(), tenant(r)+"x", broker.ConnectionFilter{}, "", 10)
	if err != nil || len(none) != 0 {
		r.Fatalf("list of another tenant: %d, %v", len(none), err)
	}
}

func testRefresh(r *rig) {
	s := r.store()
	conn := r.connect(s, tenant(r), "u", "files", "1")
	for i := 2; i < 5; i++ {
		lease, token, err := s.BeginRefresh(r.ctx(), conn, "replica-1", time.Minute)
		if err != nil {
			r.Fatal(err)
		}
		if want := fmt.Sprintf("canary-rt-%d", i-1); token.Reveal() != want {
			r.Fatalf("refresh token %q, want %q", token.Reveal(), want)
		}
		conn.Error, conn.LastRefreshed = "", time.Now()
		next, err := s.CommitRefresh(r.ctx(), lease, conn, "", r.grant(fmt.Sprint(i)), []broker.Entry{entry(broker.EventTokenRefreshed, conn)})
		if err != nil {
			r.Fatal(err)
		}
		if next.Generation != conn.Generation+1 {
			r.Fatalf("generation %d after %d", next.Generation, conn.Generation)
		}
		_, err = s.Release(r.ctx(), conn, "", entry(broker.EventTokenIssued, conn, "files.read"))
		is(r, err, broker.ErrConflict, "the generation before")
		conn = next
		r.release(s, conn, fmt.Sprint(i))
	}
	// No new refresh token: the old one stays (RFC 6749 section 6). A narrower token has its own place.
	lease, _, err := s.BeginRefresh(r.ctx(), conn, "replica-1", time.Minute)
	if err != nil {
		r.Fatal(err)
	}
	narrow := broker.Grant{AccessToken: broker.NewSecret("canary-at-narrow"), ExpiresAt: time.Now().Add(time.Hour), Scopes: broker.NewScopeSet("files.read"), ScopesReported: true}
	conn, err = s.CommitRefresh(r.ctx(), lease, conn, "k1", narrow, []broker.Entry{entry(broker.EventTokenRefreshed, conn)})
	if err != nil {
		r.Fatal(err)
	}
	info, ok := conn.Token("k1")
	if !ok || info.Scopes.String() != "files.read" || len(conn.Tokens) != 2 {
		r.Fatalf("tokens after a narrower refresh: %+v", conn.Tokens)
	}
	r.release(s, conn, "4")
	token, err := s.Release(r.ctx(), conn, "k1", entry(broker.EventTokenIssued, conn, "files.read"))
	if err != nil || token.Reveal() != "canary-at-narrow" {
		r.Fatalf("narrow token: %v", err)
	}
	// A failed refresh that changes no token makes a generation too.
	if lease, _, err = s.BeginRefresh(r.ctx(), conn, "replica-1", time.Minute); err != nil {
		r.Fatal(err)
	}
	failing := conn
	failing.Failures = 1
	if failing, err = s.FailRefresh(r.ctx(), lease, failing, nil); err != nil || failing.Generation != conn.Generation+1 {
		r.Fatalf("failed refresh: generation %d, %v", failing.Generation, err)
	}
	_, err = s.Release(r.ctx(), conn, "k1", entry(broker.EventTokenIssued, conn, "files.read"))
	is(r, err, broker.ErrConflict, "release at the generation before, of a token that stayed")
	conn = failing
	// A failed refresh keeps the refresh token, whatever the status.
	lease, token, err = s.BeginRefresh(r.ctx(), conn, "replica-1", time.Minute)
	if err != nil || token.Reveal() != "canary-rt-4" {
		r.Fatalf("after a refresh without a new refresh token: %v", err)
	}
	conn.Status, conn.Error, conn.Failures, conn.FailingSince = broker.ConnectionNeedsConsent, "invalid_grant", 3, time.Now()
	if conn, err = s.FailRefresh(r.ctx(), lease, conn, []broker.Entry{entry(broker.EventConnectionNeedsConsent, conn)}); err != nil {
		r.Fatal(err)
	}
	read, err := s.Connection(r.ctx(), tenant(r), conn.ID)
	if err != nil || read.Status != broker.ConnectionNeedsConsent || read.Error != "invalid_grant" || read.Failures != 3 || !read.Renewable || read.Generation != conn.Generation {
		r.Fatalf("after a failed refresh: %+v, %v", read, err)
	}
	_, _, err = s.BeginRefresh(r.ctx(), read, "replica-1", time.Minute)
	is(r, err, broker.ErrConflict, "begin on a record that is not active")
	r.verified(s)
}

func testLateCommit(r *rig) {
	a, b := r.store(), r.store()
	conn := r.connect(a, tenant(r), "u", "files", "1")
	late, _, err := a.BeginRefresh(r.ctx(), conn, "a", 20*time.Millisecond)
	if err != nil {
		r.Fatal(err)
	}
	var lease broker.Lease
	r.within(5*time.Second, "the lease ends", func() bool {
		lease, _, err = b.BeginRefresh(r.ctx(), conn, "b", time.Minute)
		return err == nil
	})
	if lease.Fence <= late.Fence {
		r.Fatalf("fence %d after %d", lease.Fence, late.Fence)
	}
	// The late holder ends nothing and overwrites nothing.
	if err := a.EndRefresh(r.ctx(), late); err != nil {
		r.Fatal(err)
	}
	_, _, err = a.BeginRefresh(r.ctx(), conn, "a", time.Minute)
	is(r, err, broker.ErrBusy, "the other holder's lease")
	_, err = a.CommitRefresh(r.ctx(), late, conn, "", r.grant("late1"), []broker.Entry{entry(broker.EventTokenRefreshed, conn)})
	is(r, err, broker.ErrConflict, "a late commit")
	next, err := b.CommitRefresh(r.ctx(), lease, conn, "", r.grant("2"), []broker.Entry{entry(broker.EventTokenRefreshed, conn)})
	if err != nil {
		r.Fatal(err)
	}
	// Alternates are in the order of their ms.
	passed := time.Now().UnixMilli()
	r.within(time.Second, "the clock goes on", func() bool { return time.Now().UnixMilli() > passed })
	_, err = a.CommitRefresh(r.ctx(), late, conn, "", r.grant("late2"), []broker.Entry{entry(broker.EventTokenRefreshed, conn)})
	is(r, err, broker.ErrConflict, "a later commit")
	r.release(a, next, "2")
	lease, _, err = b.BeginRefresh(r.ctx(), next, "b", time.Minute)
	if err != nil {
		r.Fatal(err)
	}
	alternates, err := b.Alternates(r.ctx(), broker.Lease{}, next)
	if err != nil || len(alternates) != 2 || alternates[0].Reveal() != "canary-rt-late2" {
		r.Fatalf("alternates: %d, %v", len(alternates), err)
	}
	if n := len(r.allEvents(a, tenant(r), broker.EventFilter{Type: broker.EventTokenRefreshed}, 10)); n != 1 {
		r.Fatalf("%d refreshes recorded, 1 happened", n)
	}
	// Revoked while the provider answers: the late token is kept nowhere (threats.md, row 48).
	if _, err := a.BeginRevoke(r.ctx(), tenant(r), conn.ID, nil); err != nil {
		r.Fatal(err)
	}
	_, err = b.CommitRefresh(r.ctx(), lease, next, "", r.grant("resurrected"), nil)
	is(r, err, broker.ErrNotFound, "commit after a revocation")
	_, err = b.FailRefresh(r.ctx(), lease, next, nil)
	is(r, err, broker.ErrNotFound, "fail after a revocation")
	r.verified(a)
}
