package vaulttest

import (
	"errors"
	"slices"
	"strings"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

func testRevoke(r *rig) {
	s := r.store()
	conn := r.connect(s, tenant(r), "u", "files", "1")
	key := tag(s.Shard(tenant(r), "u")) + "c:" + conn.ID
	_, err := s.BeginRevoke(r.ctx(), tenant(r)+"x", conn.ID, nil)
	is(r, err, broker.ErrNotFound, "another tenant revokes")
	left, err := s.BeginRevoke(r.ctx(), tenant(r), conn.ID, []broker.Entry{entry(broker.EventConnectionRevoked, conn)})
	if err != nil || left.RefreshToken.Reveal() != "canary-rt-1" || left.AccessToken.Reveal() != "canary-at-1" || left.Connection.Status != broker.ConnectionRevoked {
		r.Fatalf("begin revocation: %+v, %v", left.Connection, err)
	}
	again, err := s.BeginRevoke(r.ctx(), tenant(r), conn.ID, []broker.Entry{entry(broker.EventConnectionRevoked, conn)})
	if err != nil || again.RefreshToken.Reveal() != "canary-rt-1" {
		r.Fatalf("second call: %v", err)
	}
	if n := len(r.allEvents(s, tenant(r), broker.EventFilter{Type: broker.EventConnectionRevoked}, 10)); n != 1 {
		r.Fatalf("%d events of one revocation", n)
	}
	_, _, err = s.BeginRefresh(r.ctx(), left.Connection, "x", time.Minute)
	is(r, err, broker.ErrConflict, "refresh of a revoked connection")
	due, err := s.DueRevocations(r.ctx(), time.Now().Add(time.Second), 1000)
	if err != nil || !slices.ContainsFunc(due, func(c broker.Connection) bool { return c.ID == conn.ID }) {
		r.Fatalf("due revocations: %d, %v", len(due), err)
	}
	if err := s.EndRevoke(r.ctx(), tenant(r), conn.ID, broker.RevokedDone, false); err != nil {
		r.Fatal(err)
	}
	fields := strings.Split(r.raw("HKEYS", key), "\n")
	for _, f := range fields {
		if f == "rt" || strings.HasPrefix(f, "at:") {
			r.Fatalf("secrets left after the end of a revocation: %v", fields)
		}
	}
	read, err := s.Connection(r.ctx(), tenant(r), conn.ID)
	if err != nil || read.Status != broker.ConnectionRevoked || read.Renewable || len(read.Tokens) != 0 || read.Account != conn.Account {
		r.Fatalf("revoked connection: %+v, %v", read, err)
	}
	due, err = s.DueRevocations(r.ctx(), time.Now().Add(time.Second), 1000)
	if err != nil || slices.ContainsFunc(due, func(c broker.Connection) bool { return c.ID == conn.ID }) {
		r.Fatalf("due revocations after the end: %v", err)
	}
	if err := s.EndRevoke(r.ctx(), tenant(r), conn.ID, broker.RevokedDone, true); err != nil {
		r.Fatal(err)
	}
	if n := r.raw("EXISTS", key); n != "0" {
		r.Fatal("the record is there after it was forgotten")
	}
	if all, err := s.OfSubject(r.ctx(), tenant(r), "u", ""); err != nil || len(all) != 0 {
		r.Fatalf("of subject after it was forgotten: %d, %v", len(all), err)
	}
	_, err = s.BeginRevoke(r.ctx(), tenant(r), conn.ID, nil)
	is(r, err, broker.ErrNotFound, "revoke what was forgotten")
	if err := s.EndRevoke(r.ctx(), tenant(r), conn.ID, broker.RevokedDone, true); err != nil {
		r.Fatal(err)
	}
	r.verified(s)
}

// testOutcome: what became of a grant upstream is known as long as the record of its revocation is there.
func testOutcome(r *rig) {
	s := r.store()
	conn := r.connect(s, tenant(r), "u", "files", "1")
	left := func() broker.Leftover {
		r.Helper()
		left, err := s.BeginRevoke(r.ctx(), tenant(r), conn.ID, nil)
		if err != nil {
			r.Fatal(err)
		}
		return left
	}
	end := func(outcome broker.RevokedUpstream) {
		r.Helper()
		if err := s.EndRevoke(r.ctx(), tenant(r), conn.ID, outcome, false); err != nil {
			r.Fatal(err)
		}
	}
	is := func(want broker.RevokedUpstream, what string) {
		r.Helper()
		if l := left(); l.Outcome != want || !l.RefreshToken.IsZero() || !l.AccessToken.IsZero() {
			r.Fatalf("%s: outcome %q, want %q; refresh token left: %v", what, l.Outcome, want, !l.RefreshToken.IsZero())
		}
	}
	if l := left(); l.Outcome != "" || l.RefreshToken.IsZero() {
		r.Fatalf("begun, not ended: outcome %q", l.Outcome)
	}
	end(broker.RevokedFailed)
	is(broker.RevokedFailed, "ended")
	end(broker.RevokedUnsupported)
	is(broker.RevokedFailed, "ended again by who found nothing left")
	end(broker.RevokedDone)
	is(broker.RevokedDone, "ended again by who revoked it at the same time")
	end(broker.RevokedFailed)
	is(broker.RevokedDone, "ended by who came late")
	// A consent begins anew.
	read, err := s.Connection(r.ctx(), tenant(r), conn.ID)
	if err != nil {
		r.Fatal(err)
	}
	read.Status = broker.ConnectionActive
	conn = r.renew(s, read, "2")
	if fields := lines(r.raw("HKEYS", r.connKey(s, conn))); slices.Contains(fields, "ru") {
		r.Fatal("the outcome of the revocation before is still there")
	}
	if l := left(); l.Outcome != "" || l.RefreshToken.Reveal() != "canary-rt-2" {
		r.Fatalf("revoked after a renewal: outcome %q", l.Outcome)
	}
	// A record that does not open keeps it too.
	r.raw("HSET", r.connKey(s, conn), "p", "broken")
	end(broker.RevokedFailed)
	l, err := s.BeginRevoke(r.ctx(), tenant(r), conn.ID, nil)
	if !errors.Is(err, broker.ErrIntegrity) || l.Outcome != broker.RevokedFailed {
		r.Fatalf("outcome of a record that does not open: %q, %v", l.Outcome, err)
	}
}

// renewal builds a consent that renews conn.
func renewal(s *vault.Store, conn broker.Connection) broker.Consent {
	now := time.Now().UTC()
	return broker.Consent{
		ID: recordID(s, conn.Tenant, conn.Subject), Tenant: conn.Tenant, Client: "chat", Subject: conn.Subject, Connector: conn.Connector, Connection: conn.ID,
		Status: broker.ConsentAwaitingCompletion, Binding: broker.BindingCode, Deadline: now.Add(time.Minute), CreatedAt: now,
	}
}

func testRenew(r *rig) {
	s := r.store()
	conn := r.connect(s, tenant(r), "u", "files", "1")
	renew := func(conn broker.Connection, grant broker.Grant) broker.Connection {
		r.Helper()
		consent, err := s.CreateConsent(r.ctx(), renewal(s, conn), "", nil)
		if err != nil {
			r.Fatal(err)
		}
		consent.Status = broker.ConsentCompleted
		conn.Status = broker.ConnectionActive
		next, err := s.CompleteConsent(r.ctx(), consent, conn, grant, []broker.Entry{entry(broker.EventConsentCompleted, conn)})
		if err != nil {
			r.Fatal(err)
		}
		_, err = s.CompleteConsent(r.ctx(), consent, conn, grant, []broker.Entry{entry(broker.EventConsentCompleted, conn)})
		is(r, err, broker.ErrConflict, "completing a second time")
		return next
	}
	refreshToken := func(conn broker.Connection) string {
		r.Helper()
		lease, token, err := s.BeginRefresh(r.ctx(), conn, "x", time.Minute)
		if err != nil {
			r.Fatal(err)
		}
		if err := s.EndRefresh(r.ctx(), lease); err != nil {
			r.Fatal(err)
		}
		return token.Reveal()
	}
	conn = renew(conn, r.grant("2"))
	r.release(s, conn, "2")
	if got := refreshToken(conn); got != "canary-rt-2" {
		r.Fatalf("refresh token after a renewal: %s", got)
	}
	// The same account, no new refresh token: the old one stays.
	bare := r.grant("3")
	bare.RefreshToken = broker.Secret{}
	conn = renew(conn, bare)
	if got := refreshToken(conn); got != "canary-rt-2" {
		r.Fatalf("refresh token after a renewal without one: %s", got)
	}
	// Another account without a refresh token never inherits the one before.
	conn.Account.ID = "acc-2"
	conn = renew(conn, bare)
	if conn.Renewable {
		r.Fatal("another account is renewable by the refresh token of the one before")
	}
	if fields := r.raw("HKEYS", tag(s.Shard(tenant(r), "u"))+"c:"+conn.ID); slices.Contains(strings.Split(fields, "\n"), "rt") {
		r.Fatal("the other account's refresh token is still there")
	}
	if lease, token, err := s.BeginRefresh(r.ctx(), conn, "x", time.Minute); err != nil || !token.IsZero() {
		r.Fatalf("begin a refresh without a refresh token: %v", err)
	} else if err := s.EndRefresh(r.ctx(), lease); err != nil {
		r.Fatal(err)
	}
	// A revoked connection is revived by a consent, and the end of its revocation does not touch what is new.
	if _, err := s.BeginRevoke(r.ctx(), tenant(r), conn.ID, nil); err != nil {
		r.Fatal(err)
	}
	read, err := s.Connection(r.ctx(), tenant(r), conn.ID)
	if err != nil {
		r.Fatal(err)
	}
	conn = renew(read, r.grant("5"))
	if err := s.EndRevoke(r.ctx(), tenant(r), conn.ID, broker.RevokedDone, true); err != nil {
		r.Fatal(err)
	}
	r.release(s, conn, "5")
	// A new connection on top of one that is there.
	twin := conn
	twin.Generation = 0
	consent, err := s.CreateConsent(r.ctx(), renewal(s, conn), "", nil)
	if err != nil {
		r.Fatal(err)
	}
	_, err = s.CompleteConsent(r.ctx(), consent, twin, r.grant("6"), nil)
	is(r, err, broker.ErrConflict, "a new connection of an id that is there")
	if still, err := s.Consent(r.ctx(), consent.ID); err != nil || still.Version != consent.Version {
		r.Fatalf("consent after a refused completion: %v", err)
	}
	r.verified(s)
}
