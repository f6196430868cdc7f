package vaulttest

import (
	"time"

	"tokenbroker/broker"
)

// testRevive: a replica took over from one that seemed dead, used the old refresh token, and was told that it is over.
// What the first one brings late (from its spool, most of all) is the grant's living refresh token: it becomes the
// connection's again, and the user need not consent. Any other state of the record is left as it is.
func testRevive(r *rig) {
	s := r.store()
	conn := r.connect(s, tenant(r), "user", "files", "1")
	late := renewLease(r, s, conn)
	// The lease of the first one has run out; the second one finds the old refresh token dead.
	fail := func(lease broker.Lease, code string) broker.Connection {
		next := conn
		next.Status, next.Error = broker.ConnectionNeedsConsent, code
		failed, err := s.FailRefresh(r.ctx(), lease, next, nil)
		if err != nil {
			r.Fatal(err)
		}
		return failed
	}
	if dead := fail(late, broker.ErrorInvalidGrant); dead.Status != broker.ConnectionNeedsConsent {
		r.Fatalf("status %s", dead.Status)
	}
	next := conn
	next.LastRefreshed = time.Now()
	revived, err := s.CommitRefresh(r.ctx(), late, next, "", r.grant("late"), nil)
	if err != nil || revived.Status != broker.ConnectionActive || revived.Error != "" {
		r.Fatalf("late commit behind a dead verdict: %s %s, %v", revived.Status, revived.Error, err)
	}
	r.release(s, revived, "late")
	again := renewLease(r, s, revived)
	if _, err := s.CommitRefresh(r.ctx(), again, revived, "", r.grant("after"), nil); err != nil {
		r.Fatalf("the next refresh: %v", err)
	}

	// A connection that ended for want of a refresh token, or was revoked, does not come back so.
	other := r.connect(s, tenant(r), "other", "files", "1")
	conn, late = other, renewLease(r, s, other)
	fail(late, broker.ErrorExpired)
	_, err = s.CommitRefresh(r.ctx(), late, other, "", r.grant("late"), nil)
	is(r, err, broker.ErrConflict, "expired")
}
