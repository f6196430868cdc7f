package vaulttest

import (
	"context"
	"crypto/rand"
	"log/slog"
	"strings"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

// testLateCommitAfterConsent: a consent renews the connection while the provider answers the refresh of the grant before.
// Whose account the late refresh token is decides what becomes of it.
func testLateCommitAfterConsent(r *rig) {
	for _, test := range []struct {
		name        string
		before, now string // accounts; "": unknown
		want        error
		kept        bool
	}{
		{"same account", "acc-1", "acc-1", broker.ErrConflict, true},
		// Nothing is kept, and ErrNotFound makes the caller revoke it: that grant is nobody's any more.
		{"another account", "acc-1", "acc-2", broker.ErrNotFound, false},
		{"became known", "", "acc-1", broker.ErrConflict, false},
		{"became unknown", "acc-1", "", broker.ErrConflict, false},
		{"never known", "", "", broker.ErrConflict, false},
	} {
		s := r.store()
		conn := r.connect(s, tenant(r), test.name, "files", "1")
		conn.Account = broker.Account{ID: test.before}
		conn = r.renew(s, conn, "2")
		lease := renewLease(r, s, conn)
		renewed := conn
		renewed.Account = broker.Account{ID: test.now}
		renewed = r.renew(s, renewed, "3")
		_, err := s.CommitRefresh(r.ctx(), lease, conn, "", r.grant("late"), nil)
		is(r, err, test.want, test.name)
		alternates, err := s.Alternates(r.ctx(), broker.Lease{}, renewed)
		if err != nil || len(alternates) > 1 || (len(alternates) == 1) != test.kept {
			r.Fatalf("%s: %d alternates, %v", test.name, len(alternates), err)
		}
		r.release(s, renewed, "3")
	}
}

// testAlternateOfOneAccount: an alternate is offered to the account whose it is and to no other, and a consent ends it.
func testAlternateOfOneAccount(r *rig) {
	for _, account := range []string{"acc-1", ""} {
		s := r.store()
		conn := r.connect(s, tenant(r), "u"+account, "files", "1")
		conn.Account = broker.Account{ID: account}
		conn = r.renew(s, conn, "2")
		late := renewLease(r, s, conn)
		next, err := s.CommitRefresh(r.ctx(), late, conn, "", r.grant("3"), nil)
		if err != nil {
			r.Fatal(err)
		}
		// Without a consent in between it is the same account, even if nobody knows which.
		late.Owner += "x"
		_, err = s.CommitRefresh(r.ctx(), late, conn, "", r.grant("late"), nil)
		is(r, err, broker.ErrConflict, "a late commit")
		offered := func(account string) int {
			r.Helper()
			c := next
			c.Account.ID = account
			alternates, err := s.Alternates(r.ctx(), broker.Lease{}, c)
			if err != nil {
				r.Fatal(err)
			}
			return len(alternates)
		}
		if n := offered(account); n != 1 {
			r.Fatalf("account %q: %d alternates of its own", account, n)
		}
		if n := offered("acc-2"); n != 0 {
			r.Fatalf("account %q: %d alternates for another account", account, n)
		}
		key := tag(s.Shard(conn.Tenant, conn.Subject)) + "x:" + conn.ID
		if r.raw("EXISTS", key) != "1" {
			r.Fatal("no alternate is stored, so the end of it would prove nothing")
		}
		next = r.renew(s, next, "4")
		if r.raw("EXISTS", key) != "0" {
			r.Fatal("the alternates outlived a consent")
		}
		// A record that does not open names no account; what is known of its grant still counts.
		late = renewLease(r, s, next)
		late.Fence++
		r.raw("HSET", r.connKey(s, next), "p", "broken")
		_, err = s.CommitRefresh(r.ctx(), late, next, "", r.grant("late"), nil)
		is(r, err, broker.ErrConflict, "a late commit on a broken record")
		if n := offered(account); n != 1 {
			r.Fatalf("account %q: %d alternates beside a broken record", account, n)
		}
		r.raw("HSET", r.connKey(s, next), "t", "another")
		late.Owner += "y"
		_, err = s.CommitRefresh(r.ctx(), late, next, "", r.grant("late"), nil)
		is(r, err, broker.ErrNotFound, "a late commit on another's record")
	}
}

// interrupted is a backend before which something else happens when a key with that part is written first.
type interrupted struct {
	vault.Backend
	part   string
	before func()
}

func (i *interrupted) Apply(ctx context.Context, steps []vault.Step) []vault.Result {
	if do := i.before; do != nil && len(steps[0].Writes) > 0 && strings.Contains(steps[0].Writes[0].Key, i.part) {
		i.before = nil
		do()
	}
	return i.Backend.Apply(ctx, steps)
}

// testConsentDuringLateCommit: another account takes the connection between the look at it and the keeping of the alternate.
func testConsentDuringLateCommit(r *rig) {
	s := r.store()
	conn := r.connect(s, tenant(r), "u", "files", "1")
	late := renewLease(r, s, conn)
	next, err := s.CommitRefresh(r.ctx(), late, conn, "", r.grant("2"), nil)
	if err != nil {
		r.Fatal(err)
	}
	backend := &interrupted{Backend: r.backend(), part: ":x:", before: func() {
		next.Account = broker.Account{ID: "acc-2"}
		next = r.renew(s, next, "3")
	}}
	slow, err := vault.New(vault.Config{Backend: backend, Keyset: r.keyset, Now: time.Now, Random: rand.Reader, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(slow.Close)
	late.Owner += "x"
	_, err = slow.CommitRefresh(r.ctx(), late, conn, "", r.grant("late"), nil)
	is(r, err, broker.ErrNotFound, "a late commit that a consent overtook")
	if next.Account.ID != "acc-2" || r.raw("EXISTS", tag(s.Shard(conn.Tenant, conn.Subject))+"x:"+conn.ID) != "0" {
		r.Fatal("an alternate of the account before is kept")
	}
}
