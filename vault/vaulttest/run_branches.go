package vaulttest

import (
	"slices"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

// What happens when the store goes on from an older state before those who remember what was lost could heal it: their
// process was stopped for longer than the pause. Its own Heal stands for its waking up.

// wentOn loses do, which writer carries out, and returns another process's lease on what is left.
func (p *pair) wentOn(writer, other *vault.Store, conn broker.Connection, do func()) broker.Lease {
	p.Helper()
	p.lose(do)
	lease, token := p.begin(other, conn, "y")
	if token != "canary-rt-1" {
		p.Fatalf("refresh token %q", token)
	}
	return lease
}

func (p *pair) heal(s *vault.Store) {
	p.Helper()
	p.within(startPatience, "healed", func() bool { return s.Heal(p.ctx()) == nil })
}

func (p *pair) fail(s *vault.Store, lease broker.Lease, conn broker.Connection, change func(*broker.Connection)) {
	p.Helper()
	conn.Failures = 1
	change(&conn)
	if _, err := s.FailRefresh(p.ctx(), lease, conn, nil); err != nil {
		p.Fatal(err)
	}
}

func testBranchFailed(p *pair) {
	writer, other := p.store(), p.process()
	conn := p.connect(writer, tenant(p.rig), "u", "files", "1")
	lease := p.wentOn(writer, other, conn, func() { p.refresh(writer, conn, "2") })
	for range 3 {
		p.fail(other, lease, conn, func(c *broker.Connection) {})
		conn = p.now(other, conn)
		lease, _ = p.begin(other, conn, "y")
	}
	p.heal(writer)
	p.holds(conn, broker.ConnectionActive, 5, writer, other)
	if _, token := p.begin(other, conn, "y"); token != "canary-rt-2" {
		p.Fatalf("refresh token %q", token)
	}
	if p.events(other, broker.EventTokenRefreshed) != 1 {
		p.Fatal("the lost refresh has no event")
	}
}

func testBranchDead(p *pair) {
	writer, other := p.store(), p.process()
	conn := p.connect(writer, tenant(p.rig), "u", "files", "1")
	lease := p.wentOn(writer, other, conn, func() { p.refresh(writer, conn, "2") })
	p.fail(other, lease, conn, func(c *broker.Connection) {
		c.Status, c.Error = broker.ConnectionNeedsConsent, broker.ErrorInvalidGrant
	})
	p.heal(writer)
	p.holds(conn, broker.ConnectionActive, 3, writer, other)
	if _, token := p.begin(other, p.now(other, conn), "y"); token != "canary-rt-2" {
		p.Fatalf("refresh token %q", token)
	}
}

func testBranchRefreshed(p *pair) {
	writer, other := p.store(), p.process()
	conn := p.connect(writer, tenant(p.rig), "u", "files", "1")
	lease := p.wentOn(writer, other, conn, func() { p.refresh(writer, conn, "lost") })
	next, err := other.CommitRefresh(p.ctx(), lease, conn, "", p.grant("2"), nil)
	if err != nil {
		p.Fatal(err)
	}
	p.heal(writer)
	p.heal(writer)
	p.holds(conn, broker.ConnectionActive, 2, writer, other)
	alternates, err := other.Alternates(p.ctx(), broker.Lease{}, next)
	if err != nil || len(alternates) != 1 || alternates[0].Reveal() != "canary-rt-lost" {
		p.Fatalf("alternates: %d, %v", len(alternates), err)
	}
}

func testBranchRevoked(p *pair) {
	writer, other := p.store(), p.process()
	conn := p.connect(writer, tenant(p.rig), "u", "files", "1")
	p.lose(func() { p.refresh(writer, p.refresh(writer, conn, "2"), "3") })
	p.within(startPatience, "revoked", func() bool {
		_, err := other.BeginRevoke(p.ctx(), conn.Tenant, conn.ID, nil)
		return err == nil
	})
	p.heal(writer)
	p.holds(conn, broker.ConnectionRevoked, 2, writer, other)
}

func testBranchConsented(p *pair) {
	writer, other := p.store(), p.process()
	conn := p.connect(writer, tenant(p.rig), "u", "files", "1")
	p.lose(func() { p.refresh(writer, p.refresh(writer, conn, "2"), "3") })
	read := p.now(other, conn)
	read.Account = broker.Account{ID: "acc-2"}
	p.renew(other, read, "new")
	p.heal(writer)
	p.holds(conn, broker.ConnectionActive, 2, writer, other)
	if now := p.now(writer, conn); now.Account.ID != "acc-2" {
		p.Fatalf("account %q", now.Account.ID)
	}
	p.release(writer, p.now(writer, conn), "new")
	// What it writes from now on is remembered again.
	p.refresh(writer, p.now(writer, conn), "newer")
	p.heal(writer)
	p.release(other, p.now(other, conn), "newer")
}

func testBranchUnrevoked(p *pair) {
	writer, other := p.store(), p.process()
	conn := p.connect(writer, tenant(p.rig), "u", "files", "1")
	lease := p.wentOn(writer, other, conn, func() {
		p.revoke(writer, conn)
		p.endRevoke(writer, conn, false)
	})
	for i := range 3 {
		p.fail(other, lease, conn, func(c *broker.Connection) { c.Failures = i })
		conn = p.now(other, conn)
		lease, _ = p.begin(other, conn, "y")
	}
	p.heal(writer)
	p.holds(conn, broker.ConnectionRevoked, 5, writer, other)
	if p.unfinished(other) != 1 || p.events(other, broker.EventConnectionRevoked) != 1 {
		p.Fatal("the lost revocation was not made anew")
	}
}

// testNobodyRemembers: the process that wrote is gone. What is left is used, after the pause, and no sooner.
func testNobodyRemembers(p *pair) {
	writer, other := p.store(), p.process()
	conn := p.connect(writer, tenant(p.rig), "u", "files", "1")
	p.lose(func() { p.refresh(writer, conn, "2") })
	var busy []time.Time
	p.within(startPatience, "refused while the shard settles", func() bool {
		_, _, err := other.BeginRefresh(p.ctx(), conn, "y", time.Minute)
		if err == nil {
			p.Fatal("a lease before the shard had settled")
		}
		busy = append(busy, time.Now())
		until := p.raw("HGET", tag(other.Shard(conn.Tenant, "u"))+"e", "until")
		return until != ""
	})
	lease, token := p.begin(other, conn, "y")
	if token != "canary-rt-1" {
		p.Fatalf("refresh token %q", token)
	}
	if waited := time.Since(slices.MinFunc(busy, time.Time.Compare)); waited < 900*time.Millisecond {
		p.Fatalf("settled after %v", waited)
	}
	if err := other.EndRefresh(p.ctx(), lease); err != nil {
		p.Fatal(err)
	}
	// Once settled, it is so for everybody.
	if _, _, err := p.store().BeginRefresh(p.ctx(), conn, "z", time.Minute); err != nil {
		p.Fatalf("after the pause: %v", err)
	}
}
