package vaulttest

import (
	"slices"
	"strings"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

// holders connects subjects that hold one grant, named after the test.
func (r *rig) holders(s *vault.Store, subjects ...string) (name string, conns []broker.Connection) {
	r.Helper()
	name = "rig/client\x00canary-account-" + tenant(r)
	for i, subject := range subjects {
		consent := "consent-" + subject
		tokens := "first-" + subject
		generation, err := s.Spread(r.ctx(), name, consent, r.grant(tokens))
		if err != nil || i > 0 && generation <= conns[i-1].SharedGeneration {
			r.Fatalf("spread: generation %d, %v", generation, err)
		}
		_ = s.Unmark(r.ctx(), name, consent)
		conn := r.connect(s, tenant(r), subject, "files", tokens)
		conn.SharedGrant, conn.SharedGeneration = name, generation
		conns = append(conns, r.renew(s, conn, tokens))
	}
	return name, conns
}

// testShared: what one holder's refresh gave, the others take over; one lease for all of them.
func testShared(r *rig) {
	s, other := r.store(), r.store()
	_, conns := r.holders(s, "alice", "bob")
	alice, bob := conns[0], conns[1]

	lease, token, err := s.BeginRefresh(r.ctx(), alice, "a", time.Minute)
	if err != nil {
		r.Fatal(err)
	}
	if lease.Shared.Newer == nil || token.Reveal() != "canary-rt-first-bob" {
		r.Fatalf("the first holder is not told of what the second one's consent brought")
	}
	_, _, err = other.BeginRefresh(r.ctx(), bob, "b", time.Minute)
	is(r, err, broker.ErrBusy, "another holder's lease during this one")
	alice, err = s.CommitRefresh(r.ctx(), lease, alice, "", r.grant("second"), []broker.Entry{entry(broker.EventTokenRefreshed, alice)})
	if err != nil {
		r.Fatal(err)
	}
	r.release(s, alice, "second")

	lease, token, err = other.BeginRefresh(r.ctx(), bob, "b", time.Minute)
	if err != nil {
		r.Fatal(err)
	}
	if lease.Shared.Newer == nil || lease.Shared.Newer.AccessToken.Reveal() != "canary-at-second" || token.Reveal() != "canary-rt-second" {
		r.Fatal("the second holder is not given what the first one's refresh brought")
	}
	lease.Shared.Adopted = true
	bob, err = other.CommitRefresh(r.ctx(), lease, bob, "", *lease.Shared.Newer, []broker.Entry{entry(broker.EventTokenRefreshed, bob)})
	if err != nil {
		r.Fatal(err)
	}
	r.release(other, bob, "second")

	// Up to date: nothing newer, and the lease can be given back.
	for _, conn := range []broker.Connection{alice, bob} {
		lease, token, err = s.BeginRefresh(r.ctx(), conn, "a", time.Minute)
		if err != nil || lease.Shared.Newer != nil || token.Reveal() != "canary-rt-second" {
			r.Fatalf("up to date: newer %v, %v", lease.Shared.Newer != nil, err)
		}
		if err := s.EndRefresh(r.ctx(), lease); err != nil {
			r.Fatal(err)
		}
	}
	lease, _, err = s.BeginRefresh(r.ctx(), alice, "a", time.Minute)
	if err != nil {
		r.Fatal(err)
	}
	if _, err := s.FailRefresh(r.ctx(), lease, alice, []broker.Entry{entry(broker.EventTokenRefreshFailed, alice)}); err != nil {
		r.Fatal(err)
	}
	if _, _, err := s.BeginRefresh(r.ctx(), bob, "a", time.Minute); err != nil {
		r.Errorf("after a failed refresh of another holder: %v", err)
	}
	for _, key := range r.keys("*g:*") {
		if strings.Contains(key, "canary") || strings.Contains(r.snapshot(key), "canary") {
			r.Error("the name of the grant or a token stands in the store in clear")
		}
	}
}

// testSharedConsent: a consent in the middle of a refresh is what counts, and one that is told of twice counts once.
func testSharedConsent(r *rig) {
	s := r.store()
	name, conns := r.holders(s, "alice")
	alice := conns[0]
	lease, _, err := s.BeginRefresh(r.ctx(), alice, "a", time.Minute)
	if err != nil {
		r.Fatal(err)
	}
	refreshed := r.grant("refresh") // asked for before the consent's
	time.Sleep(time.Millisecond)
	first, err := s.Spread(r.ctx(), name, "late-consent", r.grant("consent"))
	if err != nil {
		r.Fatal(err)
	}
	alice, err = s.CommitRefresh(r.ctx(), lease, alice, "", refreshed, []broker.Entry{entry(broker.EventTokenRefreshed, alice)})
	if err != nil {
		r.Fatal(err)
	}
	again, err := s.Spread(r.ctx(), name, "late-consent", r.grant("consent"))
	if err != nil || again != first {
		r.Errorf("told again: generation %d, before %d, %v", again, first, err)
	}
	lease, token, err := s.BeginRefresh(r.ctx(), alice, "a", time.Minute)
	if err != nil || lease.Shared.Newer == nil || token.Reveal() != "canary-rt-consent" {
		r.Errorf("a refresh that ended behind a consent replaced what that brought: %v", err)
	}
}

// testSharedHolders: who holds it; it lives as long as somebody does; the last one gets the newest tokens to revoke.
func testSharedHolders(r *rig) {
	s := r.store()
	name, conns := r.holders(s, "alice", "bob")
	count := func(beside broker.Holder, want int) {
		r.Helper()
		if n, err := s.Holders(r.ctx(), name, beside); err != nil || n != want {
			r.Errorf("%d holders, want %d: %v", n, want, err)
		}
	}
	count(broker.Holder{}, 2)
	count(holderOf(conns[0]), 1)
	end := func(conn broker.Connection) broker.Leftover {
		r.Helper()
		left, err := s.BeginRevoke(r.ctx(), tenant(r), conn.ID, []broker.Entry{entry(broker.EventConnectionRevoked, conn)})
		if err != nil {
			r.Fatal(err)
		}
		if err := s.EndRevoke(r.ctx(), tenant(r), conn.ID, broker.RevokedDone, false); err != nil {
			r.Fatal(err)
		}
		return left
	}
	end(conns[1])
	count(broker.Holder{}, 1)
	if left := end(conns[0]); left.RefreshToken.Reveal() != "canary-rt-first-bob" {
		r.Error("the last holder is not given the newest refresh token to revoke")
	}
	count(broker.Holder{}, 0)

	unheld := name + "-unheld"
	before := len(r.keys("*g:*"))
	if _, err := s.Spread(r.ctx(), unheld, "abandoned", r.grant("1")); err != nil {
		r.Fatal(err)
	}
	ending, staying := 0, 0
	for _, key := range r.keys("*g:*") {
		if r.raw("PTTL", key) == "-1" {
			staying++
		} else {
			ending++
		}
	}
	if ending == 0 || len(r.keys("*g:*")) != before+1 {
		r.Errorf("a grant that nobody holds stays for ever: %d end, %d stay", ending, staying)
	}
}

// testSharedForeign: the tokens of one grant do not open as another's.
func testSharedForeign(r *rig) {
	s := r.store()
	before := r.keys("*g:*")
	_, conns := r.holders(s, "alice")
	var mine string
	for _, key := range r.keys("*g:*") {
		if !slices.Contains(before, key) {
			mine = key
		}
	}
	sealed, generation := r.raw("HGET", mine, "g"), r.raw("HGET", mine, "gen")
	r.raw("HSET", mine, "gen", generation+"0", "wid", "another")
	_, _, err := s.BeginRefresh(r.ctx(), conns[0], "a", time.Minute)
	is(r, err, broker.ErrIntegrity, "an older grant under a newer generation")
	end := len(sealed) - 1
	r.raw("HSET", mine, "gen", generation, "g", sealed[:end]+string([]byte{sealed[end] ^ 1}))
	_, _, err = s.BeginRefresh(r.ctx(), conns[0], "a", time.Minute)
	is(r, err, broker.ErrIntegrity, "a changed grant")
	r.raw("HSET", mine, "g", sealed)
	if _, _, err = s.BeginRefresh(r.ctx(), conns[0], "a", time.Minute); err != nil {
		r.Errorf("restored: %v", err)
	}
	r.raw("HSET", mine, "v", "2")
	_, err = s.Holders(r.ctx(), conns[0].SharedGrant, broker.Holder{})
	is(r, err, broker.ErrNewerFormat, "a newer format")
}
