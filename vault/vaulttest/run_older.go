package vaulttest

import (
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

// testRolledBack: an older value put back into a newer record does not open, and a status that nobody wrote is noticed.
func testRolledBack(r *rig) {
	s := r.store()
	conn := r.connect(s, tenant(r), "u", "files", "1")
	key := r.connKey(s, conn)
	begin := func(s *vault.Store) (string, error) {
		lease, token, err := s.BeginRefresh(r.ctx(), conn, "x", time.Minute)
		if err == nil {
			err = s.EndRefresh(r.ctx(), lease)
		}
		return token.Reveal(), err
	}
	refresh := func(s *vault.Store, grant broker.Grant) {
		r.Helper()
		lease := renewLease(r, s, conn)
		var err error
		if conn, err = s.CommitRefresh(r.ctx(), lease, conn, "", grant, nil); err != nil {
			r.Fatal(err)
		}
	}
	old, oldHead := r.raw("HGET", key, "rt"), r.raw("HGET", key, "h")
	refresh(s, r.grant("2"))
	present := r.raw("HGET", key, "rt")
	swapped := func(what string) {
		r.Helper()
		r.raw("HSET", key, "rt", old)
		for _, each := range []*vault.Store{s, r.store()} {
			_, err := begin(each)
			is(r, err, broker.ErrIntegrity, "the older refresh token "+what)
		}
		r.raw("HSET", key, "rt", present)
		for _, each := range []*vault.Store{s, r.store()} {
			if token, err := begin(each); err != nil || token != "canary-rt-2" {
				r.Fatalf("the present refresh token %s: %q, %v", what, token, err)
			}
		}
	}
	swapped("behind a refresh")
	// Writes that leave the token alone keep it usable, and the older one not: by who took the lease, and by who did not.
	bare := r.grant("3")
	bare.RefreshToken = broker.Secret{}
	refresh(s, bare)
	swapped("behind a refresh without a new one")
	for _, by := range []*vault.Store{s, r.store()} {
		lease := renewLease(r, s, conn)
		var err error
		if conn, err = by.FailRefresh(r.ctx(), lease, conn, nil); err != nil {
			r.Fatal(err)
		}
		swapped("behind a failed refresh")
		lease = renewLease(r, s, conn)
		if conn, err = by.CommitRefresh(r.ctx(), lease, conn, "", bare, nil); err != nil {
			r.Fatal(err)
		}
		swapped("behind a commit")
	}
	consent, err := s.CreateConsent(r.ctx(), renewal(s, conn), "", nil)
	if err != nil {
		r.Fatal(err)
	}
	consent.Status = broker.ConsentCompleted
	if conn, err = s.CompleteConsent(r.ctx(), consent, conn, bare, nil); err != nil {
		r.Fatal(err)
	}
	swapped("behind a consent without a new one")
	// A commit by who finds the record broken does not make good what lies there as the token.
	lease := renewLease(r, s, conn)
	head, priv := r.raw("HGET", key, "h"), r.raw("HGET", key, "p")
	r.raw("HSET", key, "h", oldHead, "rt", old) // it says that another write put the token there
	if conn, err = r.store().FailRefresh(r.ctx(), lease, conn, nil); err != nil {
		r.Fatal(err)
	}
	_, err = begin(s)
	is(r, err, broker.ErrIntegrity, "the older refresh token behind a write over a broken record")
	r.raw("HSET", key, "h", head, "p", priv, "rt", present)
	if _, err := begin(s); err != nil {
		r.Fatal(err)
	}
	// The status.
	lease = renewLease(r, s, conn)
	conn.Status = broker.ConnectionNeedsConsent
	if conn, err = s.FailRefresh(r.ctx(), lease, conn, nil); err != nil {
		r.Fatal(err)
	}
	r.raw("HSET", key, "s", string(broker.ConnectionActive))
	_, err = s.Connection(r.ctx(), tenant(r), conn.ID)
	is(r, err, broker.ErrIntegrity, "made active by hand")
	_, err = begin(s)
	is(r, err, broker.ErrIntegrity, "refresh of what was made active by hand")
	r.raw("HSET", key, "s", string(broker.ConnectionNeedsConsent))
	left, err := s.BeginRevoke(r.ctx(), tenant(r), conn.ID, nil)
	if err != nil || left.RefreshToken.Reveal() != "canary-rt-2" {
		r.Fatalf("begin revocation: %v", err)
	}
	if err := s.EndRevoke(r.ctx(), tenant(r), conn.ID, broker.RevokedDone, false); err != nil {
		r.Fatal(err)
	}
	for _, status := range []broker.ConnectionStatus{broker.ConnectionActive, broker.ConnectionNeedsConsent, ""} {
		r.raw("HSET", key, "s", string(status))
		_, err = s.Connection(r.ctx(), tenant(r), conn.ID)
		is(r, err, broker.ErrIntegrity, "a revoked one made "+string(status)+" by hand")
	}
}
