package vaulttest

import (
	"errors"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

// RunHealing loses acknowledged writes by a failover. What a living process wrote comes back, at whatever process one asks,
// and no old refresh token is handed out meanwhile.
func RunHealing(t *testing.T) {
	tests := []struct {
		name string
		run  func(*pair)
	}{
		{"refresh, asked at its writer", func(p *pair) { testLostRefresh(p, true) }},
		{"refresh, asked elsewhere", func(p *pair) { testLostRefresh(p, false) }},
		{"refreshes and a failure", testLostRefreshes},
		{"consent", testLostConsent},
		{"renewal", testLostRenewal},
		{"established connection", testLostEstablish},
		{"revocation", testLostRevocation},
		{"revocation and its end", testLostRevocationEnd},
		{"shared grant, asked at its writer", func(p *pair) { testLostShared(p, true) }},
		{"shared grant, its first tokens", testLostSpread},
		{"shared grant, asked elsewhere", func(p *pair) { testLostShared(p, false) }},
		{"erasure", testLostErasure},
		{"connector of a tenant", testLostConnector},
		{"connector of a tenant, deleted", testLostConnectorDeletion},
		{"jobs", testLostJob},
		{"switches", testLostSwitches},
		{"connector of a tenant, deleted elsewhere", testConnectorDeletedElsewhere},
		{"erased, and remembered elsewhere", testErasedElsewhere},
		{"commit behind a lost refresh", func(p *pair) { testCommitBehindLoss(p, true) }},
		{"commit behind a lost refresh of a dead process", func(p *pair) { testCommitBehindLoss(p, false) }},
		{"commit of a lost connection", testCommitOfLostConnection},
		{"a lost failure meets a lease", testLostFailureMeetsLease},
		{"went on with the old token", testBranchFailed},
		{"went on and called it dead", testBranchDead},
		{"went on and refreshed", testBranchRefreshed},
		{"went on and revoked", testBranchRevoked},
		{"went on and consented", testBranchConsented},
		{"went on with what was revoked", testBranchUnrevoked},
		{"nobody remembers", testNobodyRemembers},
		{"the spool remembers", func(p *pair) { testSpoolRemembers(p, 0) }},
		{"the spool remembers, went on", func(p *pair) { testSpoolRemembers(p, 1) }},
		{"the spool remembers, went on beyond", func(p *pair) { testSpoolRemembers(p, 3) }},
		{"the spool remembers a connection", testSpoolRemembersConnection},
		{"a dead token before the spool is read", testSettledBeforeReplay},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(newPair(t))
		})
	}
}

// is the record's state what it should be, for every process?
func (p *pair) holds(conn broker.Connection, status broker.ConnectionStatus, generation int64, stores ...*vault.Store) {
	p.Helper()
	for i, s := range stores {
		if now := p.now(s, conn); now.Status != status || now.Generation != generation {
			p.Fatalf("process %d reads %s at generation %d, want %s at %d", i, now.Status, now.Generation, status, generation)
		}
	}
}

// healed waits until the record is at the generation, without asking a process.
func (p *pair) healed(s *vault.Store, conn broker.Connection, generation string) {
	p.Helper()
	p.within(startPatience, "healed to generation "+generation, func() bool {
		have, err := Command(p.replica.Addr, "HGET", p.connKey(s, conn), "gen")
		return err == nil && have == generation
	})
}

func testLostRefresh(p *pair, atWriter bool) {
	writer, other := p.store(), p.process()
	asked := writer // which heals what it is asked for, though it does not watch
	if !atWriter {
		writer, asked = p.process(), other
	}
	conn := p.connect(writer, tenant(p.rig), "u", "files", "1")
	p.lose(func() { p.refresh(writer, conn, "2") })
	// Whoever read before the failover, or right behind it.
	if _, token := p.begin(asked, conn, "y"); token != "canary-rt-2" {
		p.Fatalf("refresh token %q was handed out, the provider has seen it", token)
	}
	p.holds(conn, broker.ConnectionActive, 2, writer, other)
	p.release(other, p.now(other, conn), "2")
	if n := p.events(other, broker.EventTokenRefreshed); n != 1 {
		p.Fatalf("%d events of the lost refresh", n)
	}
}

func testLostRefreshes(p *pair) {
	writer, other := p.process(), p.process()
	conn := p.connect(writer, tenant(p.rig), "u", "files", "1")
	p.lose(func() {
		now := p.refresh(writer, p.refresh(writer, conn, "2"), "3")
		lease, _ := p.begin(writer, now, "x")
		now.Failures = 1
		if _, err := writer.FailRefresh(p.ctx(), lease, now, []broker.Entry{entry(broker.EventTokenRefreshFailed, now)}); err != nil {
			p.Fatal(err)
		}
	})
	if _, token := p.begin(other, conn, "y"); token != "canary-rt-3" {
		p.Fatalf("refresh token %q", token)
	}
	p.holds(conn, broker.ConnectionActive, 4, writer, other)
	if p.now(other, conn).Failures != 1 || p.events(other, broker.EventTokenRefreshed) != 2 || p.events(other, broker.EventTokenRefreshFailed) != 1 {
		p.Fatal("events or the last failure are missing")
	}
}

func testLostConsent(p *pair) {
	writer, other := p.process(), p.process()
	var conn broker.Connection
	p.lose(func() { conn = p.connect(writer, tenant(p.rig), "u", "files", "1") })
	all, err := writer.OfSubject(p.ctx(), tenant(p.rig), "u", "") // at once: its index is empty
	if err != nil || len(all) != 1 || all[0].ID != conn.ID {
		p.Fatalf("connections of the subject: %d, %v", len(all), err)
	}
	p.within(startPatience, "elsewhere too", func() bool {
		all, err := other.OfSubject(p.ctx(), tenant(p.rig), "u", "files")
		return err == nil && len(all) == 1
	})
	p.release(other, p.now(other, conn), "1")
	listed, _, err := other.List(p.ctx(), tenant(p.rig), broker.ConnectionFilter{}, "", 10)
	if err != nil || len(listed) != 1 {
		p.Fatalf("listed: %d, %v", len(listed), err)
	}
	if n := p.events(other, broker.EventConsentCompleted); n != 1 {
		p.Fatalf("%d events of the completion", n)
	}
	// The consent is finished too: its code can't be redeemed once more.
	var consents []string
	p.within(startPatience, "the consent is back", func() bool { consents = p.keys("tb:{*}:o:*"); return len(consents) == 1 })
	if phase := p.raw("HGET", consents[0], "st"); phase != "done" {
		p.Fatalf("the consent is %q again", phase)
	}
}

func testLostRenewal(p *pair) {
	writer, other := p.process(), p.process()
	conn := p.connect(writer, tenant(p.rig), "u", "files", "1")
	p.lose(func() { p.renew(writer, conn, "2") })
	if _, token := p.begin(other, conn, "y"); token != "canary-rt-2" {
		p.Fatalf("refresh token %q", token)
	}
	p.holds(conn, broker.ConnectionActive, 2, writer, other)
}

func (p *pair) revoke(s *vault.Store, conn broker.Connection) {
	p.Helper()
	if _, err := s.BeginRevoke(p.ctx(), conn.Tenant, conn.ID, []broker.Entry{entry(broker.EventConnectionRevoked, conn)}); err != nil {
		p.Fatal(err)
	}
}

func (p *pair) endRevoke(s *vault.Store, conn broker.Connection, forget bool) {
	p.Helper()
	if err := s.EndRevoke(p.ctx(), conn.Tenant, conn.ID, broker.RevokedDone, forget); err != nil {
		p.Fatal(err)
	}
}

func (p *pair) unfinished(s *vault.Store) int {
	p.Helper()
	due, err := s.DueRevocations(p.ctx(), time.Now().Add(time.Second), 1000)
	if err != nil {
		p.Fatal(err)
	}
	return len(due)
}

func testLostRevocation(p *pair) {
	writer, other := p.process(), p.process()
	conn := p.connect(writer, tenant(p.rig), "u", "files", "1")
	p.lose(func() { p.revoke(writer, conn) })
	p.healed(other, conn, "2")
	p.holds(conn, broker.ConnectionRevoked, 2, other, writer)
	if p.unfinished(other) != 1 || p.events(other, broker.EventConnectionRevoked) != 1 {
		p.Fatal("the revocation is not as it was")
	}
}

func testLostRevocationEnd(p *pair) {
	writer, other := p.process(), p.process()
	conn := p.connect(writer, tenant(p.rig), "u", "files", "1")
	p.lose(func() {
		p.revoke(writer, conn)
		p.endRevoke(writer, conn, false)
	})
	p.holds(conn, broker.ConnectionRevoked, 3, writer)
	p.holds(conn, broker.ConnectionRevoked, 3, other)
	if p.unfinished(other) != 0 || p.events(other, broker.EventConnectionRevoked) != 1 || p.raw("HEXISTS", p.connKey(other, conn), "rt") != "0" {
		p.Fatal("the end of the revocation is not as it was")
	}
}

// testLostShared: what one holder's refresh gave is there for the others.
func testLostShared(p *pair, atWriter bool) {
	writer, other := p.store(), p.process()
	asked := writer
	if !atWriter {
		writer, asked = p.process(), other
	}
	_, conns := p.holders(writer, "alice", "bob")
	// Both are up to date with the grant: none takes anything over from it.
	alice, bob := conns[0], conns[1]
	p.lose(func() { alice = p.refresh(writer, alice, "2") })
	if _, token := p.begin(asked, bob, "y"); token != "canary-rt-2" {
		p.Fatalf("refresh token %q", token)
	}
	p.holds(alice, broker.ConnectionActive, alice.Generation, writer)
}

// testLostSpread: what a consent gave those who hold a grant is brought back also where its record had nothing but them.
func testLostSpread(p *pair) {
	writer, other := p.process(), p.process()
	name := "rig/client\x00canary-account-" + tenant(p.rig)
	conn := p.connect(writer, tenant(p.rig), "alice", "files", "first")
	conn.SharedGrant = name
	conn = p.renew(writer, conn, "first")
	if now, err := writer.Newest(p.ctx(), name); err != nil || now != 0 {
		p.Fatalf("generation %d before, %v", now, err)
	}
	p.lose(func() {
		if _, err := writer.Spread(p.ctx(), name, "consent", p.grant("2")); err != nil {
			p.Fatal(err)
		}
	})
	if _, token := p.begin(other, conn, "y"); token != "canary-rt-2" {
		p.Fatalf("refresh token %q", token)
	}
}

func testLostErasure(p *pair) {
	writer, other := p.process(), p.process()
	conn := p.connect(writer, tenant(p.rig), "u", "files", "1")
	p.lose(func() {
		p.revoke(writer, conn)
		p.endRevoke(writer, conn, true)
	})
	p.within(startPatience, "gone again", func() bool {
		_, err := other.Connection(p.ctx(), conn.Tenant, conn.ID)
		return errors.Is(err, broker.ErrNotFound)
	})
	for _, s := range []*vault.Store{writer, other} {
		if all, err := s.OfSubject(p.ctx(), conn.Tenant, "u", ""); err != nil || len(all) != 0 {
			p.Fatalf("of subject: %d, %v", len(all), err)
		}
	}
	if n := p.events(other, broker.EventConnectionRevoked); n != 1 {
		p.Fatalf("%d events of the revocation", n)
	}
}

// testErasedElsewhere: an erasure wins over who remembers the record.
func testErasedElsewhere(p *pair) {
	writer, other := p.process(), p.process()
	conn := p.connect(writer, tenant(p.rig), "u", "files", "1")
	p.revoke(other, conn)
	p.endRevoke(other, conn, true)
	p.lose(func() {})
	p.within(startPatience, "the store answers", func() bool { return writer.Heal(p.ctx()) == nil })
	for _, s := range []*vault.Store{writer, other} {
		_, err := s.Connection(p.ctx(), conn.Tenant, conn.ID)
		is(p.rig, err, broker.ErrNotFound, "after an erasure")
		if all, err := s.OfSubject(p.ctx(), conn.Tenant, "u", ""); err != nil || len(all) != 0 {
			p.Fatalf("of subject: %d, %v", len(all), err)
		}
	}
	key := p.connKey(other, conn)
	if n := p.raw("EXISTS", key); n != "0" {
		p.Fatal("the record is there")
	}
	for _, key := range p.keys("tb:{*}:z:*") {
		if ttl := p.raw("PTTL", key); ttl == "-1" {
			p.Fatal("the trace of an erasure stays for ever")
		}
	}
}

// testCommitBehindLoss: the provider answers when the write is lost from which the refresh began.
func testCommitBehindLoss(p *pair, writerLives bool) {
	holder := p.process()
	first := holder
	if !writerLives {
		first = p.store() // does not run, and is not asked again
	}
	conn := p.connect(first, tenant(p.rig), "u", "files", "1")
	var lease broker.Lease
	p.lose(func() {
		conn = p.refresh(first, conn, "2")
		lease, _ = p.begin(holder, conn, "x")
	})
	conn.LastRefreshed = time.Now().UTC()
	var next broker.Connection
	p.within(startPatience, "committed", func() bool {
		var err error
		next, err = holder.CommitRefresh(p.ctx(), lease, conn, "", p.grant("3"), []broker.Entry{entry(broker.EventTokenRefreshed, conn)})
		return err == nil
	})
	if next.Generation != 3 {
		p.Fatalf("committed at generation %d", next.Generation)
	}
	p.release(p.store(), p.now(p.store(), conn), "3")
	if _, token := p.begin(p.store(), next, "y"); token != "canary-rt-3" {
		p.Fatalf("refresh token %q", token)
	}
}

// testCommitOfLostConnection: as above, and nobody is left who wrote the connection.
func testCommitOfLostConnection(p *pair) {
	first, holder := p.store(), p.process()
	var conn broker.Connection
	var lease broker.Lease
	p.lose(func() {
		conn = p.connect(first, tenant(p.rig), "u", "files", "1")
		lease, _ = p.begin(holder, conn, "x")
	})
	conn.LastRefreshed = time.Now().UTC()
	p.within(startPatience, "committed", func() bool {
		_, err := holder.CommitRefresh(p.ctx(), lease, conn, "", p.grant("2"), nil)
		if errors.Is(err, broker.ErrNotFound) {
			p.Fatal("the connection passes for one that was erased: the grant would be revoked")
		}
		return err == nil
	})
	all, err := p.store().OfSubject(p.ctx(), conn.Tenant, "u", "")
	if err != nil || len(all) != 1 || all[0].Account != conn.Account {
		p.Fatalf("of subject: %+v, %v", all, err)
	}
	p.release(p.store(), all[0], "2")
	// Erased, it is another matter: then the grant is nobody's.
	p.revoke(holder, conn)
	p.endRevoke(holder, conn, true)
	_, err = holder.CommitRefresh(p.ctx(), lease, conn, "", p.grant("2"), nil)
	is(p.rig, err, broker.ErrNotFound, "commit of an erased connection")
}
